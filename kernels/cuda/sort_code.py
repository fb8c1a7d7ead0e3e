"""CUDA C of sorting; see :mod:`onnxplan.kernels.cuda.sort`.

An element becomes an entry: a key that compares as the element does, then its position. So equal entries do
not exist, any way to sort is stable, and positions come along for free; values are read again in the end.
Chunks are sorted in shared memory by a bitonic network (Batcher, Sorting networks and their applications,
1968), runs are merged along merge paths (Odeh, Green, Mwassi, Shmueli, Birk, 2012).
"""

from __future__ import annotations

from typing import Any

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.target import Target
from onnxplan.kernels.cuda.indexing import declare_axes, offsets
from onnxplan.kernels.cuda.source import KernelSource, KernelText
from onnxplan.kernels.scalar_cuda import compute_type, loaded

# Entries that a block sorts or merges in shared memory: 16 or 32 KiB.
CHUNK = 2048


def entry_words(dtype: DType) -> int:
    """64-bit words of an entry: keys of up to 32 bits share one with their position."""
    return 2 if dtype.itemsize == 8 else 1


def build_sort(variant: Any, target: Target) -> KernelSource:
    """``variant`` is ``(threads, stage, label, largest, of entries, is last, rank, index type)``.

    Operands: x, unless entries are read and written; the entries to read, if any; values and positions if
    this is the last step, else the entries to write. Parameters of stage ``chunks``: chunks of all lines,
    chunks of a line, elements of a line, the binary logarithm of a chunk's length, entries of a block,
    entries that each chunk gives, entries of a line to write; of stage ``merge``: tiles of a line, entries
    of a line, of a run, of a line that matter. Then the distances along lines of x, values and positions,
    and the axes of lines. Shared memory holds the entries of a block.
    """
    threads, stage, label, largest, of_entries, is_last, rank, index = variant
    dtype = DType.from_label(label)
    kernel = KernelText(threads)
    kernel.function(_entry_functions(dtype, largest))
    if is_last or not of_entries:
        kernel.operand("x", dtype)
    if of_entries:
        kernel.operand("source_words", DType.UINT64)
    if is_last:
        kernel.operand("values", dtype, written=True)
        kernel.operand("positions", DType.INT64, written=True)
    else:
        kernel.operand("result_words", DType.UINT64, written=True)
    for name in _CHUNK_PARAMETERS if stage == "chunks" else _MERGE_PARAMETERS:
        kernel.parameter(name, index)
    for name in ("x_step", "value_step", "position_step"):
        kernel.parameter(name, index)
    declare_axes(kernel, "line", rank, 3, index)
    if of_entries:
        kernel.line("const onnxplan_entry* const source = (const onnxplan_entry*)source_words;")
    if not is_last:
        kernel.line("onnxplan_entry* const result = (onnxplan_entry*)result_words;")
    kernel.line(
        "ONNXPLAN_DYNAMIC_SHARED(memory);", "onnxplan_entry* const entries = (onnxplan_entry*)memory;"
    )
    if stage == "chunks":
        _sort_chunks(kernel, dtype, of_entries, is_last, rank, index)
    else:
        _merge(kernel, is_last, rank, index)
    return kernel.source("sort")


_CHUNK_PARAMETERS = ("units", "chunks", "length", "logarithm", "total", "kept", "result_length")
_MERGE_PARAMETERS = ("tiles", "length", "run", "kept")


def _entry_functions(dtype: DType, largest: bool) -> str:
    """The type of entries, how to make and to compare them."""
    wide = entry_words(dtype) == 2
    key, value = f"unsigned {'long long' if wide else 'int'}", compute_type(dtype)
    if dtype.is_float:
        bits = "(unsigned long long)__double_as_longlong" if wide else "__float_as_uint"
        sign = 63 if wide else 31
        body = f"""
    {key} bits = {bits}(a == ({value})0 ? ({value})0 : a);
    bits = bits >> {sign} ? ~bits : bits | ({key})1 << {sign};
    if (a != a) bits = ~({key})0;"""
    elif dtype.kind == "i":
        body = f"\n    {key} bits = ({key})a ^ ({key})1 << {63 if wide else 31};"
    else:
        body = f"\n    {key} bits = ({key})a;"
    inverted = "~bits" if largest else "bits"
    text = f"""
ONNXPLAN_INLINE {key} onnxplan_key({value} a) {{{body}
    return {inverted};
}}
"""
    if not wide:
        return (
            text
            + """
typedef unsigned long long onnxplan_entry;
ONNXPLAN_INLINE onnxplan_entry onnxplan_make_entry(unsigned key, unsigned long long position) {
    return (unsigned long long)key << 32 | (position & 0xffffffffull);
}
ONNXPLAN_INLINE onnxplan_entry onnxplan_sentinel() { return ~0ull; }
ONNXPLAN_INLINE bool onnxplan_precedes(onnxplan_entry a, onnxplan_entry b) { return a < b; }
ONNXPLAN_INLINE unsigned long long onnxplan_position(onnxplan_entry a) { return a & 0xffffffffull; }
"""
        )
    return (
        text
        + """
struct __align__(16) onnxplan_entry { unsigned long long key, position; };
ONNXPLAN_INLINE onnxplan_entry onnxplan_make_entry(unsigned long long key, unsigned long long position) {
    onnxplan_entry entry;
    entry.key = key;
    entry.position = position;
    return entry;
}
ONNXPLAN_INLINE onnxplan_entry onnxplan_sentinel() { return onnxplan_make_entry(~0ull, ~0ull); }
ONNXPLAN_INLINE bool onnxplan_precedes(onnxplan_entry a, onnxplan_entry b) {
    return a.key < b.key || (a.key == b.key && a.position < b.position);
}
ONNXPLAN_INLINE unsigned long long onnxplan_position(onnxplan_entry a) { return a.position; }
"""
    )


def _write_last(rank: int, index: str, line: str, rank_in_line: str, entry: str) -> list[str]:
    """Statements that write one entry of ``line`` to the outputs."""
    return [
        f"const {index} position = ({index})onnxplan_position({entry});",
        *offsets("line", rank, range(3), index, line, "to"),
        f"values[to1 + {rank_in_line} * value_step] = x[to0 + position * x_step];",
        f"positions[to2 + {rank_in_line} * position_step] = (long long)position;",
    ]


def _sort_chunks(
    kernel: KernelText, dtype: DType, of_entries: bool, is_last: bool, rank: int, index: str
) -> None:
    """A block sorts one or several chunks of ``1 << logarithm`` entries in shared memory."""
    threads = kernel.threads
    if of_entries:
        read = ["entry = source[line * length + place];"]
    else:
        element = loaded(dtype, "x[at0 + place * x_step]")
        read = [
            *offsets("line", rank, [0], index, "line", "at"),
            f"entry = onnxplan_make_entry(onnxplan_key({element}), (unsigned long long)place);",
        ]
    where = [
        f"const {index} unit = first + (slot >> logarithm);",
        f"const {index} line = unit / chunks, chunk = unit - line * chunks;",
    ]
    kernel.line(
        f"const {index} mask = (({index})1 << logarithm) - 1;",
        f"const {index} first = ({index})blockIdx.x * (total >> logarithm);",
        f"for ({index} slot = ({index})threadIdx.x; slot < total; slot += {threads}) {{",
        *where,
        f"const {index} place = (chunk << logarithm) + (slot & mask);",
        "onnxplan_entry entry = onnxplan_sentinel();",
        "if (unit < units && place < length) {",
        *read,
        "}",
        "entries[slot] = entry;",
        "}",
        "__syncthreads();",
        f"for ({index} size = 2; size <= mask + 1; size <<= 1) {{",
        f"for ({index} distance = size >> 1; distance; distance >>= 1) {{",
        f"for ({index} pair = ({index})threadIdx.x; pair < total >> 1; pair += {threads}) {{",
        f"const {index} low = 2 * pair - (pair & (distance - 1)), high = low + distance;",
        "const bool falling = (low & mask & size) != 0;",
        "const onnxplan_entry a = entries[low], b = entries[high];",
        "if (onnxplan_precedes(b, a) != falling) {",
        "entries[low] = b;",
        "entries[high] = a;",
        "}",
        "}",
        "__syncthreads();",
        "}",
        "}",
        f"for ({index} slot = ({index})threadIdx.x; slot < total; slot += {threads}) {{",
        *where,
        f"const {index} place = slot & mask;",
    )
    if is_last:
        kernel.line("if (unit >= units || place >= kept) continue;")
        kernel.line(*_write_last(rank, index, "line", "place", "entries[slot]"))
    else:
        kernel.line(
            f"const {index} to = chunk * kept + place;",
            "if (unit >= units || place >= kept || to >= result_length) continue;",
            "result[line * result_length + to] = entries[slot];",
        )
    kernel.line("}")


def _merge(kernel: KernelText, is_last: bool, rank: int, index: str) -> None:
    """A block writes up to ``CHUNK`` neighbouring entries of the merger of two runs of its line."""
    threads = kernel.threads
    items = CHUNK // threads
    kernel.function(
        f"""
ONNXPLAN_INLINE {index} onnxplan_merge_path(
    const onnxplan_entry* a, {index} a_length, const onnxplan_entry* b, {index} b_length, {index} diagonal
) {{
    {index} low = diagonal > b_length ? diagonal - b_length : 0;
    {index} high = diagonal < a_length ? diagonal : a_length;
    while (low < high) {{
        const {index} middle = low + (high - low) / 2;
        if (onnxplan_precedes(a[middle], b[diagonal - 1 - middle])) low = middle + 1;
        else high = middle;
    }}
    return low;
}}
"""
    )
    kernel.line(
        f"const {index} line = ({index})blockIdx.x / tiles, tile = ({index})blockIdx.x - line * tiles;",
        f"const {index} begin = tile * {CHUNK} / (2 * run) * (2 * run), middle = begin + run;",
        f"const {index} rest = length - begin, a_rest = rest < run ? rest : run;",
        f"const {index} b_rest = rest - a_rest < run ? rest - a_rest : run;",
        f"const {index} a_length = a_rest < kept ? a_rest : kept, b_length = b_rest < kept ? b_rest : kept;",
        f"const {index} whole = a_length + b_length < kept ? a_length + b_length : kept;",
        f"const {index} start = tile * {CHUNK} - begin;",
        "if (start >= whole) return;",
        f"const {index} stop = whole - start < {CHUNK} ? whole : start + {CHUNK};",
        "const onnxplan_entry* const a = source + line * length + begin;",
        "const onnxplan_entry* const b = source + line * length + middle;",
        f"__shared__ {index} cuts[2];",
        "if (threadIdx.x % 32u == 0u && threadIdx.x < 64u)",
        "    cuts[threadIdx.x / 32u] = onnxplan_merge_path("
        "a, a_length, b, b_length, threadIdx.x ? stop : start);",
        "__syncthreads();",
        f"const {index} a_first = cuts[0], a_count = cuts[1] - a_first;",
        f"const {index} b_first = start - a_first, b_count = stop - start - a_count;",
        f"for ({index} slot = ({index})threadIdx.x; slot < a_count + b_count; slot += {threads})",
        "    entries[slot] = slot < a_count ? a[a_first + slot] : b[b_first + slot - a_count];",
        "__syncthreads();",
        f"const {index} own = ({index})threadIdx.x * {items};",
        f"const {index} from = own < a_count + b_count ? own : a_count + b_count;",
        f"{index} i = onnxplan_merge_path(entries, a_count, entries + a_count, b_count, from);",
        f"{index} j = from - i;",
        f"for (int item = 0; item < {items} && i + j < a_count + b_count; ++item) {{",
        "const bool takes_a = j >= b_count || "
        "(i < a_count && onnxplan_precedes(entries[i], entries[a_count + j]));",
        "const onnxplan_entry entry = takes_a ? entries[i] : entries[a_count + j];",
        f"const {index} place = begin + start + i + j;",
    )
    if is_last:
        kernel.line(*_write_last(rank, index, "line", "place", "entry"))
    else:
        kernel.line("result[line * length + place] = entry;")
    kernel.line("if (takes_a) ++i;", "else ++j;", "}")
