"""Sliding windows: attributes shared by convolutions and pooling, and the channels-last layout of both."""

from __future__ import annotations

from onnxplan.compiler.ir import Node
from onnxplan.compiler.records import dataclass
from onnxplan.compiler.view import Shape, View


@dataclass(frozen=True, slots=True)
class Window:
    """How a window moves over the spatial axes; one entry for each axis.

    ``pads`` are those at the beginnings, ``ends`` those at the ends, ``outputs`` the extents of the result.
    """

    kernel: Shape
    strides: Shape
    dilations: Shape
    pads: Shape
    ends: Shape
    outputs: Shape


def window_of(node: Node, extents: Shape, kernel: Shape) -> Window:
    """The window that the attributes of ``node`` describe, on an input of the spatial extents ``extents``.

    Reads ``strides``, ``dilations``, ``pads``, ``auto_pad`` and ``ceil_mode``. With ``ceil_mode``, windows
    that would start in the padding at the end are left out. Raises ``ValueError`` where a window does not
    fit.
    """
    rank = len(extents)
    strides = spatial_attribute(node, "strides", rank, 1)
    dilations = spatial_attribute(node, "dilations", rank, 1)
    given = spatial_attribute(node, "pads", 2 * rank, 0)
    auto_pad = node.string("auto_pad", "NOTSET")
    ceil_mode = bool(node.integer("ceil_mode", 0))
    if len(kernel) != rank:
        raise ValueError(f"a kernel of rank {len(kernel)} on {rank} spatial axes")
    pads, ends, outputs = [], [], []
    for axis, extent in enumerate(extents):
        stride, reach = strides[axis], (kernel[axis] - 1) * dilations[axis] + 1
        if stride < 1 or dilations[axis] < 1 or kernel[axis] < 1:
            raise ValueError("strides, dilations and extents of the kernel must be positive")
        begin, end = (given[axis], given[rank + axis]) if auto_pad == "NOTSET" else (0, 0)
        if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
            output = -(-extent // stride)
            begin, end = split_padding(max((output - 1) * stride + reach - extent, 0), auto_pad)
        else:
            room = extent + begin + end - reach
            output = (-(-room // stride) if ceil_mode else room // stride) + 1
            if ceil_mode and (output - 1) * stride >= extent + begin:
                output -= 1
        if output < 0:
            raise ValueError(f"a window of {reach} does not fit into {extent} with padding {begin} and {end}")
        pads.append(begin)
        ends.append(end)
        outputs.append(output)
    return Window(tuple(kernel), strides, dilations, tuple(pads), tuple(ends), tuple(outputs))


def spatial_attribute(node: Node, name: str, count: int, default: int) -> Shape:
    """The attribute ``name`` of ``count`` integers, all ``default`` where it is missing."""
    values = node.integers(name, ()) or (default,) * count
    if len(values) != count:
        raise ValueError(f"{name} has {len(values)} entries, not {count}")
    return values


def split_padding(total: int, auto_pad: str) -> tuple[int, int]:
    """Padding at the beginning and the end; what is odd goes to the end with ``SAME_UPPER``."""
    half = total // 2
    return (half, total - half) if auto_pad == "SAME_UPPER" else (total - half, half)


def channels_last(view: View) -> View:
    """``(N, C, *spatial)`` as ``(N, *spatial, C)``."""
    return view.transpose((0, *range(2, view.rank), 1))


def channels_first(view: View) -> View:
    """``(N, *spatial, C)`` as ``(N, C, *spatial)``."""
    return view.transpose((0, view.rank - 1, *range(1, view.rank - 1)))
