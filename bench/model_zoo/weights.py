"""Random weights under which an untrained network still behaves like a trained one.

The libraries' own initial values hide mistakes: normalisation layers that do nothing, biases of zero,
attention that is uniform. Here every parameter matters to the result, and activations stay in range.
"""

from __future__ import annotations

import math
from typing import TypeVar

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

SEED = 20
Module = TypeVar("Module", bound=nn.Module)


def randomise(module: Module) -> Module:
    """Gives every trainable parameter a new value, the same on each call; returns the module in eval mode."""
    generator = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for layer in module.modules():
            _randomise_layer(layer, generator)
    module.eval()
    return module


def calibrate_batch_norms(module: Module, example: torch.Tensor) -> Module:
    """Sets the running statistics of every BatchNorm2d from one pass over `example`, then disturbs them.

    Measured statistics keep the activations of a deep network in range; the disturbance makes sure that mean,
    variance, scale and shift each change the result, as they do after training.
    """
    layers = [layer for layer in module.modules() if isinstance(layer, nn.BatchNorm2d)]
    for layer in layers:
        layer.momentum = 1.0
        layer.train()
    generator = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        module(example)
        for layer in layers:
            layer.eval()
            assert layer.running_mean is not None
            assert layer.running_var is not None
            deviation = layer.running_var.sqrt()
            layer.running_mean += 0.1 * deviation * torch.randn(deviation.shape, generator=generator)
            layer.running_var *= torch.empty_like(deviation).uniform_(0.8, 1.25, generator=generator)
    return module


def _randomise_layer(layer: nn.Module, generator: torch.Generator) -> None:
    match layer:
        case nn.Conv1d() | nn.Conv2d():
            fan_in = layer.weight[0].numel()
            layer.weight.normal_(0.0, math.sqrt(2.0 / fan_in), generator=generator)
        case nn.Linear():
            layer.weight.normal_(0.0, layer.in_features**-0.5, generator=generator)
        case Conv1D():
            layer.weight.normal_(0.0, layer.nx**-0.5, generator=generator)
        case nn.Embedding() if layer.weight.requires_grad:
            layer.weight.normal_(0.0, 0.1, generator=generator)
        case nn.LayerNorm() | nn.BatchNorm2d():
            layer.weight.uniform_(0.7, 1.3, generator=generator)
        case nn.LSTM():
            for parameter in layer.parameters():
                parameter.uniform_(-(layer.hidden_size**-0.5), layer.hidden_size**-0.5, generator=generator)
            return
    bias = getattr(layer, "bias", None)
    if isinstance(bias, nn.Parameter):
        bias.normal_(0.0, 0.1, generator=generator)
    for name, parameter in layer.named_parameters(recurse=False):
        match name:
            case "cls_token" | "position_embeddings":
                parameter.normal_(0.0, 0.1, generator=generator)
            case "layer_scale_parameter":
                parameter.uniform_(0.1, 0.5, generator=generator)
