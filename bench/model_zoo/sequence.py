"""Transformers for text and audio, a recurrent network and a small multilayer perceptron."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from bench.model_zoo.recipe import Exporter, Input, Recipe, constant, normal, positions, token_ids

if TYPE_CHECKING:
    import torch

BERT_VOCABULARY = 30522
GPT2_VOCABULARY = 50257
GPT2_LAYERS, GPT2_HEADS, GPT2_HEAD_WIDTH = 12, 12, 64
LSTM_LAYERS, LSTM_INPUT, LSTM_HIDDEN = 2, 128, 256
MLP_LAYERS, MLP_WIDTH = 8, 64

BERT_INPUTS = (
    Input("input_ids", ("batch", "sequence"), token_ids(BERT_VOCABULARY)),
    Input("attention_mask", ("batch", "sequence"), constant(1)),
    Input("token_type_ids", ("batch", "sequence"), constant(0)),
)


def _bert_base() -> torch.nn.Module:
    from transformers import BertConfig, BertModel

    from bench.model_zoo.modules import Positional, encode
    from bench.model_zoo.weights import randomise

    model = BertModel(BertConfig())
    model.set_attn_implementation("eager")
    return randomise(Positional(model, encode))


def _minilm_l6() -> torch.nn.Module:
    from transformers import BertConfig, BertModel

    from bench.model_zoo.modules import Positional, embed
    from bench.model_zoo.weights import randomise

    config = BertConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536)
    return randomise(Positional(BertModel(config, add_pooling_layer=False), embed))


def _gpt2() -> torch.nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    from bench.model_zoo.modules import Positional, generate
    from bench.model_zoo.weights import randomise

    return randomise(Positional(GPT2LMHeadModel(GPT2Config()), generate))


def _whisper_tiny_encoder() -> torch.nn.Module:
    from transformers import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    from bench.model_zoo.modules import Positional
    from bench.model_zoo.weights import randomise

    config = WhisperConfig(d_model=384, encoder_layers=4, encoder_attention_heads=6, encoder_ffn_dim=1536)
    encoder = WhisperEncoder(config)
    return randomise(Positional(encoder, lambda model, features: model(features).last_hidden_state))


def _lstm2() -> torch.nn.Module:
    import torch

    from bench.model_zoo.modules import Positional
    from bench.model_zoo.weights import randomise

    def step(
        model: torch.nn.Module, sequence: torch.Tensor, hidden: torch.Tensor, cell: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        output, (hidden, cell) = model(sequence, (hidden, cell))
        return output, hidden, cell

    return randomise(Positional(torch.nn.LSTM(LSTM_INPUT, LSTM_HIDDEN, LSTM_LAYERS, batch_first=True), step))


def _tiny_mlp() -> torch.nn.Module:
    from torch import nn

    from bench.model_zoo.modules import Positional
    from bench.model_zoo.weights import randomise

    layers = [layer for _ in range(MLP_LAYERS) for layer in (nn.Linear(MLP_WIDTH, MLP_WIDTH), nn.ReLU())]
    return randomise(Positional(nn.Sequential(*layers[:-1]), lambda model, features: model(features)))


def _cache_names(prefix: str) -> tuple[str, ...]:
    return tuple(f"{prefix}.{layer}.{part}" for layer in range(GPT2_LAYERS) for part in ("key", "value"))


def _bert_recipe(
    name: str,
    summary: str,
    build: Callable[[], torch.nn.Module],
    outputs: tuple[str, ...],
    exporter: Exporter,
    opset: int,
) -> Recipe:
    return Recipe(
        name=name,
        summary=summary,
        build=build,
        inputs=BERT_INPUTS,
        outputs=outputs,
        dims={"batch": 1, "sequence": 128},
        trace_dims={"batch": 2, "sequence": 24},
        check_dims=({"batch": 3, "sequence": 17}, {"batch": 2, "sequence": 200}),
        exporter=exporter,
        opset=opset,
    )


GPT2_PREFILL = Recipe(
    name="gpt2_prefill",
    summary="GPT-2 small over a prompt, with the cache it leaves",
    build=_gpt2,
    inputs=(
        Input("input_ids", ("batch", "sequence"), token_ids(GPT2_VOCABULARY)),
        Input("attention_mask", ("batch", "sequence"), constant(1)),
        Input("position_ids", ("batch", "sequence"), positions()),
    ),
    outputs=("logits", *_cache_names("present")),
    dims={"batch": 1, "sequence": 128},
    trace_dims={"batch": 2, "sequence": 24},
    check_dims=({"batch": 3, "sequence": 17}, {"batch": 2, "sequence": 75}),
)

GPT2_DECODE = Recipe(
    name="gpt2_decode",
    summary="GPT-2 small, one token after a cache of 128",
    build=_gpt2,
    inputs=(
        Input("input_ids", ("batch", 1), token_ids(GPT2_VOCABULARY)),
        Input("attention_mask", ("batch", "total_sequence"), constant(1)),
        Input("position_ids", ("batch", 1), positions(start="past_sequence")),
        *(
            Input(name, ("batch", GPT2_HEADS, "past_sequence", GPT2_HEAD_WIDTH), normal(0.5))
            for name in _cache_names("past_key_values")
        ),
    ),
    outputs=("logits", *_cache_names("present")),
    dims={"batch": 1, "past_sequence": 128, "total_sequence": lambda dims: dims["past_sequence"] + 1},
    trace_dims={"batch": 2, "past_sequence": 24},
    check_dims=({"batch": 3, "past_sequence": 17}, {"batch": 2, "past_sequence": 300}),
)

WHISPER_TINY_ENCODER = Recipe(
    name="whisper_tiny_encoder",
    summary="Whisper tiny encoder, 30 s of mel spectrogram",
    build=_whisper_tiny_encoder,
    inputs=(Input("input_features", ("batch", 80, 3000), normal(0.5)),),
    outputs=("last_hidden_state",),
    dims={"batch": 1},
    trace_dims={"batch": 2},
    check_dims=({"batch": 2}, {"batch": 3}),
)

LSTM2 = Recipe(
    name="lstm2",
    summary="two LSTM layers, state in and out",
    build=_lstm2,
    inputs=(
        Input("sequence", ("batch", "length", LSTM_INPUT), normal()),
        Input("hidden", (LSTM_LAYERS, "batch", LSTM_HIDDEN), normal(0.5)),
        Input("cell", (LSTM_LAYERS, "batch", LSTM_HIDDEN), normal(0.5)),
    ),
    outputs=("output", "hidden_out", "cell_out"),
    dims={"batch": 1, "length": 32},
    trace_dims={"batch": 2, "length": 8},
    check_dims=({"batch": 3, "length": 7}, {"batch": 1, "length": 100}),
    # torch.export takes the traced length for a constant: the file would declare a wrong output shape.
    exporter=Exporter.TORCHSCRIPT,
    opset=17,
)

TINY_MLP = Recipe(
    name="tiny_mlp",
    summary="eight linear layers of width 64, for the cost of a step",
    build=_tiny_mlp,
    inputs=(Input("features", ("batch", MLP_WIDTH), normal()),),
    outputs=("logits",),
    dims={"batch": 1},
    trace_dims={"batch": 2},
    check_dims=({"batch": 7}, {"batch": 64}),
)

RECIPES = (
    _bert_recipe(
        "bert_base",
        "BERT base, eager attention, 128 tokens",
        _bert_base,
        ("last_hidden_state", "pooler_output"),
        Exporter.TORCHSCRIPT,
        opset=17,
    ),
    _bert_recipe(
        "minilm_l6",
        "MiniLM-L6 with pooling and normalisation, 128 tokens",
        _minilm_l6,
        ("sentence_embedding",),
        Exporter.DYNAMO,
        opset=20,
    ),
    GPT2_PREFILL,
    GPT2_DECODE,
    WHISPER_TINY_ENCODER,
    LSTM2,
    TINY_MLP,
)
