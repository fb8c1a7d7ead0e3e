"""Image classifiers: pixel_values float32 (batch, 3, 224, 224) to logits float32 (batch, 1000)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from bench.model_zoo.recipe import Exporter, Input, Recipe, normal

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig

Config = TypeVar("Config", bound="PreTrainedConfig")
CLASSES = 1000
CALIBRATION_BATCH = 4


def _with_classes(config: Config) -> Config:
    config.num_labels = CLASSES
    return config


def _classifier(model: torch.nn.Module, *, batch_norms: bool) -> torch.nn.Module:
    import torch

    from bench.model_zoo.modules import Positional
    from bench.model_zoo.weights import SEED, calibrate_batch_norms, randomise

    module = randomise(Positional(model, lambda model, pixel_values: model(pixel_values).logits))
    if batch_norms:
        generator = torch.Generator().manual_seed(SEED)
        calibrate_batch_norms(module, torch.randn(CALIBRATION_BATCH, 3, 224, 224, generator=generator))
    return module


def _resnet50() -> torch.nn.Module:
    from transformers import ResNetConfig, ResNetForImageClassification

    return _classifier(ResNetForImageClassification(_with_classes(ResNetConfig())), batch_norms=True)


def _mobilenetv2() -> torch.nn.Module:
    from transformers import MobileNetV2Config, MobileNetV2ForImageClassification

    config = _with_classes(MobileNetV2Config(tf_padding=False))
    return _classifier(MobileNetV2ForImageClassification(config), batch_norms=True)


def _efficientnet_b0() -> torch.nn.Module:
    import torch
    from transformers import EfficientNetConfig, EfficientNetForImageClassification

    config = EfficientNetConfig(image_size=224, width_coefficient=1.0, depth_coefficient=1.0, hidden_dim=1280)
    model = EfficientNetForImageClassification(_with_classes(config))
    # transformers pools with a 1280x1280 window in ceil mode, which only it does; the result is the same.
    model.efficientnet.add_module("pooler", torch.nn.AdaptiveAvgPool2d(1))
    return _classifier(model, batch_norms=True)


def _convnext_tiny() -> torch.nn.Module:
    from transformers import ConvNextConfig, ConvNextForImageClassification

    return _classifier(ConvNextForImageClassification(_with_classes(ConvNextConfig())), batch_norms=False)


def _vit_base() -> torch.nn.Module:
    from transformers import ViTConfig, ViTForImageClassification

    return _classifier(ViTForImageClassification(_with_classes(ViTConfig())), batch_norms=False)


def _recipe(
    name: str, summary: str, build: Callable[[], torch.nn.Module], exporter: Exporter, opset: int = 20
) -> Recipe:
    return Recipe(
        name=name,
        summary=summary,
        build=build,
        inputs=(Input("pixel_values", ("batch", 3, 224, 224), normal()),),
        outputs=("logits",),
        dims={"batch": 1},
        trace_dims={"batch": 2},
        check_dims=({"batch": 3}, {"batch": 5}),
        exporter=exporter,
        opset=opset,
    )


RECIPES = (
    _recipe("resnet50", "ResNet-50, batch norms as nodes", _resnet50, Exporter.TORCHSCRIPT, opset=17),
    _recipe("mobilenetv2", "MobileNetV2 1.0, batch norms as nodes", _mobilenetv2, Exporter.DYNAMO_UNFUSED),
    _recipe(
        "efficientnet_b0",
        "EfficientNet-B0, batch norms and pads as nodes",
        _efficientnet_b0,
        Exporter.DYNAMO_UNFUSED,
    ),
    _recipe("convnext_tiny", "ConvNeXt-T", _convnext_tiny, Exporter.DYNAMO),
    _recipe("vit_base", "ViT-B/16", _vit_base, Exporter.DYNAMO),
)
