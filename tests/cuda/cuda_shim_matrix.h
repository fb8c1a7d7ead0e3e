// What onnxplan's functions for tensor cores do, for one lane of a warp: it computes its elements from the fragments of
// all lanes. Layouts as in the PTX ISA, "Matrix Fragments"; asynchronous copies land when they are waited for.
#pragma once

extern "C" {
void cuda_shim_gather(const unsigned* words, unsigned count, unsigned* all);
void cuda_shim_copy(void* shared, const void* global, int live);
void cuda_shim_copy_commit();
void cuda_shim_copy_wait(unsigned later);
void cuda_shim_fault(int kind);
}

static inline void onnxplan_copy_16(void* shared, const void* global, bool live) {
    cuda_shim_copy(shared, global, live);
}
static inline void onnxplan_copy_commit() { cuda_shim_copy_commit(); }
template <int LATER> static inline void onnxplan_copy_wait() { cuda_shim_copy_wait(LATER); }

// Lane l names row l % 8 of matrix l / 8, 16 bytes.
static void cuda_shim_matrices(unsigned (&words)[4], const void* row, bool transposed) {
    if ((uintptr_t)row % 16) cuda_shim_fault(4);
    unsigned mine[2], all[32][2];
    memcpy(mine, &row, 8);
    cuda_shim_gather(mine, 2, &all[0][0]);
    const int lane = cuda_shim_lane();
    for (int matrix = 0; matrix < 4; ++matrix) {
        unsigned short halves[2];
        for (int i = 0; i < 2; ++i) {
            const int line = transposed ? 2 * (lane % 4) + i : lane / 4;
            const int place = transposed ? lane / 4 : 2 * (lane % 4) + i;
            const unsigned short* start;
            memcpy(&start, all[8 * matrix + line], 8);
            halves[i] = start[place];
        }
        words[matrix] = halves[0] | (unsigned)halves[1] << 16;
    }
    __syncwarp();
}
static inline void onnxplan_warp_load_matrices(unsigned (&words)[4], const void* row) {
    cuda_shim_matrices(words, row, false);
}
static inline void onnxplan_warp_load_transposed(unsigned (&words)[4], const void* row) {
    cuda_shim_matrices(words, row, true);
}

// D += A B of 16 by K and K by 8; each word holds EACH elements along K.
template <int EACH, class Decode>
static void cuda_shim_multiply(float (&sums)[4], const unsigned (&a)[4], unsigned b0, unsigned b1, Decode decode) {
    const unsigned mine[6] = {a[0], a[1], a[2], a[3], b0, b1};
    unsigned all[32][6];
    cuda_shim_gather(mine, 6, &all[0][0]);
    const int lane = cuda_shim_lane();
    for (int i = 0; i < 4; ++i) {
        const int row = lane / 4 + i / 2 * 8, column = 2 * (lane % 4) + i % 2;
        double total = sums[i];
        for (int half = 0; half < 2; ++half)
            for (int pair = 0; pair < 4; ++pair) {
                const unsigned left = all[row % 8 * 4 + pair][row / 8 + 2 * half];
                const unsigned right = all[column * 4 + pair][4 + half];
                for (int part = 0; part < EACH; ++part)
                    total += (double)decode(left, part) * (double)decode(right, part);
            }
        sums[i] = (float)total;
    }
}
static inline void onnxplan_warp_multiply_float16(
    float (&sums)[4], const unsigned (&a)[4], unsigned b0, unsigned b1
) {
    cuda_shim_multiply<2>(sums, a, b0, b1, [](unsigned word, int part) {
        return onnxplan_decode_float16(word >> 16 * part & 0xffffu);
    });
}
static inline void onnxplan_warp_multiply_bfloat16(
    float (&sums)[4], const unsigned (&a)[4], unsigned b0, unsigned b1
) {
    cuda_shim_multiply<2>(sums, a, b0, b1, [](unsigned word, int part) {
        return onnxplan_decode_bfloat16(word >> 16 * part & 0xffffu);
    });
}
static inline void onnxplan_warp_multiply_float32(
    float (&sums)[4], const unsigned (&a)[4], unsigned b0, unsigned b1
) {
    // The instruction reads the first 19 bits of a float.
    cuda_shim_multiply<1>(sums, a, b0, b1, [](unsigned word, int) { return __uint_as_float(word & ~0x1fffu); });
}
static inline unsigned onnxplan_pack_float16(float low, float high) {
    return onnxplan_encode_float16(low) | onnxplan_encode_float16(high) << 16;
}
static inline unsigned onnxplan_pack_bfloat16(float low, float high) {
    return onnxplan_encode_bfloat16(low) | onnxplan_encode_bfloat16(high) << 16;
}
static inline unsigned onnxplan_round_tf32(float a) {
    const unsigned bits = __float_as_uint(a);
    return (bits & 0x7fffffffu) < 0x7f800000u ? (bits + 0x1000u) & ~0x1fffu : bits;
}
static inline float onnxplan_power_of_two(float a) { return exp2f(a); }
