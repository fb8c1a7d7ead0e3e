"""CUDA C functions for matrix instructions, and for copies to shared memory that need no registers.

A warp multiplies fragments: matrices of which each lane holds a few elements. Where they lie is in the PTX
ISA, "Matrix Fragments" of ``mma.m16n8k16`` and ``mma.m16n8k8``,
https://docs.nvidia.com/cuda/parallel-thread-execution/#warp-level-matrix-instructions-mma. With
``group = lane / 4`` and ``pair = lane % 4``, words of 32 bits hold two neighbours of 16 bits, or one float:

* A, 16 by ``2 c`` (``c`` elements in 16 bytes): rows ``group`` and ``group + 8`` (words 0 and 1) of the
  columns of word ``pair``, then the same of the second half of the columns (words 2 and 3);
* B, ``2 c`` by 8: column ``group``, the rows of word ``pair`` of the first half and of the second;
* sums, 16 by 8: row ``group``, columns ``2 pair`` and ``2 pair + 1``, then row ``group + 8``.

Devices below sm_80 have no asynchronous copies and multiply float16 alone.
"""

from __future__ import annotations

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.target import Target
from onnxplan.compiler.view import View

COPY_BYTES = 16
"""Bytes that one asynchronous copy moves; both of its ends are aligned to that."""


RESERVED_SHARED_BYTES = 1 << 10
"""What the driver takes of a block's shared memory."""

# Per clock and multiprocessor: products of matrix instructions by bytes of an element, those of floats, bytes
# of shared memory. Source: NVIDIA A100 Tensor Core GPU Architecture white paper; later devices multiply more
# by instructions that are not used here.
MATRIX_PRODUCTS = {2: 1024, 4: 512}
SCALAR_PRODUCTS = 128
SHARED_BYTES = 128
FETCHED_BYTES = 40
"""From the second cache, about."""
CLOCK = 1.5e9
"""Hertz, as :mod:`onnxplan.runtime.cuda.target` takes it where the driver does not tell."""
EXPOSED = 0.1
"""Of what other warps' work hides, about."""


def capability(target: Target) -> int:
    """``90`` for ``sm_90``."""
    return int(target.isa.removeprefix("sm_"))


def multiplies(target: Target, dtype: DType) -> bool:
    """Do the device's matrix instructions take factors of this type? Those of float32 lose 13 bits."""
    if dtype is DType.FLOAT32:
        return target.math == "fast" and capability(target) >= 80
    return dtype is DType.FLOAT16 or (dtype is DType.BFLOAT16 and capability(target) >= 80)


def copies_wide(view: View) -> bool:
    """Can the elements of rows, along the last axis, be copied 16 bytes at a time?"""
    each = COPY_BYTES // view.dtype.itemsize
    outer = [stride for extent, stride in zip(view.shape[:-1], view.strides[:-1], strict=True) if extent > 1]
    distances = (view.offset, view.shape[-1], *outer)
    return view.strides[-1] == 1 and all(distance % each == 0 for distance in distances)


TENSOR_CORE = r"""
#ifndef ONNXPLAN_EMULATED
ONNXPLAN_INLINE unsigned onnxplan_shared_address(const void* place) {
    return (unsigned)__cvta_generic_to_shared(place);
}
ONNXPLAN_INLINE void onnxplan_copy_16(void* shared, const void* global, bool live) {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                 :: "r"(onnxplan_shared_address(shared)), "l"(global), "r"(live ? 16 : 0) : "memory");
#else
    *(uint4*)shared = live ? *(const uint4*)global : make_uint4(0, 0, 0, 0);
#endif
}
ONNXPLAN_INLINE void onnxplan_copy_commit() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
template <int LATER> ONNXPLAN_INLINE void onnxplan_copy_wait() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_group %0;" :: "n"(LATER) : "memory");
#endif
}
ONNXPLAN_INLINE void onnxplan_warp_load_matrices(unsigned (&words)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
                 : "r"(onnxplan_shared_address(row)) : "memory");
}
ONNXPLAN_INLINE void onnxplan_warp_load_transposed(unsigned (&words)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
                 : "r"(onnxplan_shared_address(row)) : "memory");
}
ONNXPLAN_INLINE void onnxplan_warp_multiply_float16(
    float (&sums)[4], const unsigned (&a)[4], unsigned b0, unsigned b1
) {
#if __CUDA_ARCH__ >= 800
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
    asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 "
        "{%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3]) : "r"(a[0]), "r"(a[1]), "r"(b0));
    asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 "
        "{%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3]) : "r"(a[2]), "r"(a[3]), "r"(b1));
#endif
}
ONNXPLAN_INLINE unsigned onnxplan_pack_float16(float low, float high) {
    unsigned packed;
#if __CUDA_ARCH__ >= 800
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
#else
    asm("{ .reg .b16 l, h; cvt.rn.f16.f32 l, %1; cvt.rn.f16.f32 h, %2; mov.b32 %0, {l, h}; }"
        : "=r"(packed) : "f"(low), "f"(high));
#endif
    return packed;
}
#if __CUDA_ARCH__ >= 800
ONNXPLAN_INLINE void onnxplan_warp_multiply_bfloat16(
    float (&sums)[4], const unsigned (&a)[4], unsigned b0, unsigned b1
) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
ONNXPLAN_INLINE unsigned onnxplan_pack_bfloat16(float low, float high) {
    unsigned packed;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
    return packed;
}
ONNXPLAN_INLINE void onnxplan_warp_multiply_float32(
    float (&sums)[4], const unsigned (&a)[4], unsigned b0, unsigned b1
) {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
ONNXPLAN_INLINE unsigned onnxplan_round_tf32(float a) {
    unsigned rounded;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(rounded) : "f"(a));
    return rounded;
}
#endif
ONNXPLAN_INLINE float onnxplan_power_of_two(float a) {
    float power;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(a));
    return power;
}
#endif
// Copies a tile to shared memory, zeros where it lies outside of rows and columns. For 16 bytes at a time
// elements of a row are neighbours, and rows begin at multiples of 16 bytes.
template <int ROWS, int COLUMNS, int PITCH, int THREADS, typename T, typename I>
ONNXPLAN_INLINE void onnxplan_load_wide(T* tile, const T* source, I stride, I rows, int columns, int thread) {
    constexpr int EACH = 16 / (int)sizeof(T), CHUNKS = COLUMNS / EACH;
    // Addresses of many copies would be kept in registers from one tile to the next.
    constexpr int TURNS = (ROWS * CHUNKS + THREADS - 1) / THREADS;
#pragma unroll (TURNS > 8 ? 4 : TURNS)
    for (int first = 0; first < ROWS * CHUNKS; first += THREADS) {
        const int chunk = first + thread, row = chunk / CHUNKS, column = chunk % CHUNKS * EACH;
        if (ROWS * CHUNKS % THREADS && chunk >= ROWS * CHUNKS) break;
        const bool live = (I)row < rows && column < columns;
        const T* const place = live ? source + (I)row * stride + column : source;
        onnxplan_copy_16(tile + row * PITCH + column, place, live);
    }
}
template <int ROWS, int COLUMNS, int PITCH, int THREADS, typename T, typename I>
ONNXPLAN_INLINE void onnxplan_load_any(
    T* tile, const T* source, I stride, I column_stride, I rows, int columns, int thread
) {
    const bool along = column_stride <= stride;
    for (int item = thread; item < ROWS * COLUMNS; item += THREADS) {
        const int row = along ? item / COLUMNS : item % ROWS, column = along ? item % COLUMNS : item / ROWS;
        const bool live = (I)row < rows && column < columns;
        tile[row * PITCH + column] = live ? source[(I)row * stride + (I)column * column_stride] : (T)0;
    }
}
"""
