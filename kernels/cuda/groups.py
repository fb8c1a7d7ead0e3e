"""Groups of neighbouring points that a thread takes at once: how it accesses them, and the code for it."""

from __future__ import annotations

from collections.abc import Sequence

from onnxplan.kernels.cuda.source import KernelText
from onnxplan.kernels.cuda.words import WIDEST_WORD
from onnxplan.kernels.geometry import Axis


def grouping(
    axes: Sequence[Axis], others: Sequence[Axis], sizes: Sequence[int], wanted: Sequence[int]
) -> tuple[int, str]:
    """How many neighbouring points along the last of ``axes`` threads take, and how they access each operand.

    ``v`` as vectors of up to 16 bytes, ``b`` the same element for all, ``s`` one by one. ``others`` are axes
    that are the same for all points of a group, ``sizes`` the bytes of elements. 0 and "" where none of the
    operands ``wanted`` would be accessed as vectors.
    """
    if not axes:
        return 0, ""
    adjoining = [size for number, size in enumerate(sizes) if axes[-1].strides[number] == 1]
    widest = max(WIDEST_WORD // max(adjoining, default=4), 2)
    for group in (widest, 4) if widest > 4 else (widest,):
        if len(axes) > 1 and axes[-1].extent % group:
            continue
        kinds = ""
        for operand in range(len(sizes)):
            inner = axes[-1].strides[operand]
            outer = [axis for axis in (*axes[:-1], *others) if axis.extent > 1]
            aligned = all(axis.strides[operand] % group == 0 for axis in outer)
            kinds += "b" if inner == 0 else "v" if inner == 1 and aligned else "s"
        if any(kinds[operand] == "v" for operand in wanted):
            return group, kinds
    return 0, ""


def declare_groups(kernel: KernelText, group: int) -> None:
    """Declares ``onnxplan_read`` and ``onnxplan_write`` for groups of so many points, and
    ``onnxplan_is_aligned``, which says of an operand whether its groups may be accessed as vectors."""
    kernel.function(_FUNCTIONS.format(GROUP=group))


_FUNCTIONS = """
template <typename T> struct alignas(sizeof(T) * {GROUP} > 16 ? 16 : sizeof(T) * {GROUP}) onnxplan_group {{
    T items[{GROUP}];
}};
template <typename T> ONNXPLAN_INLINE bool onnxplan_is_aligned(const T* start) {{
    return (unsigned long long)start % alignof(onnxplan_group<T>) == 0;
}}
template <typename T> ONNXPLAN_INLINE void onnxplan_read(T* items, const T* from, bool aligned, int count) {{
    if (aligned && count == {GROUP}) {{
        const onnxplan_group<T> group = *(const onnxplan_group<T>*)from;
        #pragma unroll
        for (int item = 0; item < {GROUP}; ++item) items[item] = group.items[item];
    }} else {{
        #pragma unroll
        for (int item = 0; item < {GROUP}; ++item)
            if (item < count) items[item] = from[item];
    }}
}}
template <typename T> ONNXPLAN_INLINE void onnxplan_write(T* to, const T* items, bool aligned, int count) {{
    if (aligned && count == {GROUP}) {{
        onnxplan_group<T> group;
        #pragma unroll
        for (int item = 0; item < {GROUP}; ++item) group.items[item] = items[item];
        *(onnxplan_group<T>*)to = group;
    }} else {{
        #pragma unroll
        for (int item = 0; item < {GROUP}; ++item)
            if (item < count) to[item] = items[item];
    }}
}}
"""
