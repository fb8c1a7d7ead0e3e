"""Attention, rotary embeddings and recurrent attention in NumPy, one head and one row at a time."""

import numpy as np


def softmax(scores, smooth=False, sink=None):
    """Over a vector; of -inf alone (or of nothing) zeros. ``sink`` is the score of one more element."""
    if sink is not None:
        return softmax(np.append(scores, sink))[:-1]
    top = scores.max(initial=-np.inf)
    if top == -np.inf and not smooth:
        return np.zeros_like(scores)
    top = max(top, 0.0) if smooth else top
    powers = np.exp(scores - top)
    return powers / (powers.sum() + (np.exp(-top) if smooth else 0.0))


def attention(query, key, value, scale, allowed, bias=0.0, softcap=0.0, smooth=False, sinks=None):
    """``query (B, H, S, D)``, ``key (B, G, T, D)``; ``allowed(b, i, j)`` says which key a query sees.

    Returns the result and the stages of the scores: raw, capped, biased, weights.
    """
    batch, heads, rows, _ = query.shape
    keys = key.shape[2]
    each = heads // key.shape[1]
    added = np.broadcast_to(bias, (batch, heads, rows, keys))
    stages = np.zeros((4, batch, heads, rows, keys))
    result = np.zeros((batch, heads, rows, value.shape[3]))
    for b, h, i in np.ndindex(batch, heads, rows):
        raw = key[b, h // each] @ query[b, h, i] * scale
        capped = softcap * np.tanh(raw / softcap) if softcap else raw
        visible = np.array([allowed(b, i, j) for j in range(keys)], bool)
        biased = np.where(visible, capped + added[b, h, i], -np.inf)
        weights = softmax(biased, smooth, None if sinks is None else sinks[h])
        stages[:, b, h, i] = raw, capped, biased, weights
        result[b, h, i] = weights @ value[b, h // each]
    return result, stages


def split(x, heads):
    """``(B, S, heads * D)`` as ``(B, heads, S, D)``."""
    return x.reshape(*x.shape[:2], heads, -1).transpose(0, 2, 1, 3)


def join(x):
    """``(B, H, S, D)`` as ``(B, S, H * D)``."""
    return x.transpose(0, 2, 1, 3).reshape(x.shape[0], x.shape[2], -1)


def rotate(x, cosines, sines, interleaved):
    """``x (B, H, S, D)`` times ``cosines + i sines (B, S, R / 2)``, pairs read as complex numbers."""
    half = cosines.shape[-1]
    first, second = (
        (slice(0, 2 * half, 2), slice(1, 2 * half, 2))
        if interleaved
        else (
            slice(0, half),
            slice(half, 2 * half),
        )
    )
    turned = (x[..., first] + 1j * x[..., second]) * (cosines + 1j * sines)[:, None]
    result = x.copy()
    result[..., first], result[..., second] = turned.real, turned.imag
    return result


def write_rows(cache, update, starts, axis, circular=False):
    """``cache`` with ``update`` written along ``axis``, from ``starts`` of each batch on."""
    result = np.moveaxis(cache.copy(), axis, 1)
    moved = np.moveaxis(update, axis, 1)
    for b, start in enumerate(starts):
        for row in range(moved.shape[1]):
            place = start + row
            result[b, place % result.shape[1] if circular else place] = moved[b, row]
    return np.moveaxis(result, 1, axis)
