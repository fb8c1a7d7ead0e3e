"""Torch modules that give every model the one calling convention the exporters are handed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn


class Positional(nn.Module):
    """Wraps `model` so that `forward` takes tensors only, by position, and returns tensors only.

    `call(model, *inputs)` makes the call and returns a tensor or a tuple of tensors.
    """

    def __init__(self, model: nn.Module, call: Callable[..., Any]) -> None:
        super().__init__()
        self.model = model
        self.call = call

    def forward(self, *inputs: torch.Tensor) -> Any:
        return self.call(self.model, *inputs)


def mean_pool(hidden: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """The L2-normalised mean over the unmasked tokens.

    Shapes: hidden float32 (batch, sequence, width), attention_mask int64 (batch, sequence); returns float32
    (batch, width).
    """
    mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
    mean = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1e-9)
    return nn.functional.normalize(mean, p=2.0, dim=1)


def encode(model: nn.Module, *inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Runs a BERT encoder on input_ids, attention_mask and token_type_ids, int64 (batch, sequence) each."""
    input_ids, attention_mask, token_type_ids = inputs
    output = model(input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids)
    return output.last_hidden_state, output.pooler_output


def embed(model: nn.Module, *inputs: torch.Tensor) -> torch.Tensor:
    """Runs a BERT encoder as `encode` does and pools its hidden states into float32 (batch, width)."""
    input_ids, attention_mask, token_type_ids = inputs
    output = model(input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids)
    return mean_pool(output.last_hidden_state, attention_mask)


def generate(
    model: Any,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    position_ids: torch.Tensor,
    *past: torch.Tensor,
) -> tuple[torch.Tensor, ...]:
    """Runs a causal language model, with the key/value cache as plain tensors.

    Shapes: `past` is key and value of each layer in turn, float32 (batch, heads, past_sequence, head_width),
    or empty. Returns logits float32 (batch, sequence, vocabulary), then the cache grown by `sequence`.
    """
    from transformers import DynamicCache

    cache = DynamicCache(config=model.config)
    for layer in range(len(past) // 2):
        cache.update(past[2 * layer], past[2 * layer + 1], layer)
    output = model(
        input_ids=input_ids,
        attention_mask=attention_mask,
        position_ids=position_ids,
        past_key_values=cache,
        use_cache=True,
    )
    present = [tensor for layer in output.past_key_values.layers for tensor in (layer.keys, layer.values)]
    return output.logits, *present
