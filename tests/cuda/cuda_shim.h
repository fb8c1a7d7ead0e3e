// CUDA C on the CPU: what generated kernels use of CUDA, for one thread of a block at a time.
// Threads of a block are fibers that change at barriers; kernels without barriers run them as a loop.
#pragma once
#include <stdint.h>
#include <string.h>

#define ONNXPLAN_EMULATED 1
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __restrict__ __restrict
#define __shared__ static
#define __constant__ static
#define __align__(n) __attribute__((aligned(n)))

struct uint3 { unsigned x, y, z; };
struct __align__(8) float2 { float x, y; };
struct __align__(16) float4 { float x, y, z, w; };
struct __align__(8) int2 { int x, y; };
struct __align__(16) int4 { int x, y, z, w; };
struct __align__(8) uint2 { unsigned x, y; };
struct __align__(16) uint4 { unsigned x, y, z, w; };

extern "C" {
extern uint3 cuda_shim_thread, cuda_shim_block, cuda_shim_threads, cuda_shim_blocks;
extern void* cuda_shim_dynamic_shared;
void cuda_shim_block_barrier();
void cuda_shim_warp_barrier(unsigned mask);
unsigned long long cuda_shim_exchange(unsigned mask, unsigned long long value, int source);
unsigned cuda_shim_ballot(unsigned mask, int predicate);
int cuda_shim_vote(int predicate, int kind);
int cuda_shim_launch(
    unsigned blocks, unsigned threads, unsigned shared, int barriers, void (*kernel)(const void*), const void* arguments
);
}

#define ONNXPLAN_DYNAMIC_SHARED(name) unsigned char* const name = (unsigned char*)cuda_shim_dynamic_shared
#define threadIdx cuda_shim_thread
#define blockIdx cuda_shim_block
#define blockDim cuda_shim_threads
#define gridDim cuda_shim_blocks
static const int warpSize = 32;

static inline void __syncthreads() { cuda_shim_block_barrier(); }
static inline int __syncthreads_or(int p) { return cuda_shim_vote(p, 0); }
static inline int __syncthreads_and(int p) { return cuda_shim_vote(p, 1); }
static inline int __syncthreads_count(int p) { return cuda_shim_vote(p, 2); }
static inline void __syncwarp(unsigned mask = 0xffffffffu) { cuda_shim_warp_barrier(mask); }
static inline void __threadfence() {}
static inline void __threadfence_block() {}
static inline int cuda_shim_lane() { return (int)(cuda_shim_thread.x & 31u); }
template <class T> static inline T cuda_shim_shuffle(unsigned mask, T value, int source) {
    static_assert(sizeof(T) <= 8, "a shuffle moves 4 or 8 bytes");
    unsigned long long bits = 0;
    memcpy(&bits, &value, sizeof value);
    bits = cuda_shim_exchange(mask, bits, source);
    memcpy(&value, &bits, sizeof value);
    return value;
}
template <class T> static inline T __shfl_sync(unsigned mask, T v, int source, int width = 32) {
    int lane = cuda_shim_lane();
    return cuda_shim_shuffle(mask, v, (lane & ~(width - 1)) | (source & (width - 1)));
}
template <class T> static inline T __shfl_xor_sync(unsigned mask, T v, int bits, int width = 32) {
    int lane = cuda_shim_lane(), source = lane ^ bits;
    return cuda_shim_shuffle(mask, v, source / width > lane / width ? lane : source);
}
template <class T> static inline T __shfl_down_sync(unsigned mask, T v, unsigned delta, int width = 32) {
    int lane = cuda_shim_lane();
    return cuda_shim_shuffle(mask, v, (lane & (width - 1)) + (int)delta < width ? lane + (int)delta : lane);
}
template <class T> static inline T __shfl_up_sync(unsigned mask, T v, unsigned delta, int width = 32) {
    int lane = cuda_shim_lane();
    return cuda_shim_shuffle(mask, v, (lane & (width - 1)) - (int)delta >= 0 ? lane - (int)delta : lane);
}
static inline unsigned __ballot_sync(unsigned mask, int p) { return cuda_shim_ballot(mask, p); }
static inline int __any_sync(unsigned mask, int p) { return cuda_shim_ballot(mask, p) != 0; }
static inline int __all_sync(unsigned mask, int p) { return cuda_shim_ballot(mask, !p) == 0; }

template <class T, class V> static inline T atomicAdd(T* p, V v) { T old = *p; *p = (T)(old + (T)v); return old; }
template <class T, class V> static inline T atomicMax(T* p, V v) { T old = *p; if ((T)v > old) *p = (T)v; return old; }
template <class T, class V> static inline T atomicMin(T* p, V v) { T old = *p; if ((T)v < old) *p = (T)v; return old; }
template <class T, class V> static inline T atomicOr(T* p, V v) { T old = *p; *p = old | (T)v; return old; }
template <class T, class V> static inline T atomicExch(T* p, V v) { T old = *p; *p = (T)v; return old; }
template <class T, class V> static inline T atomicCAS(T* p, V compare, V v) {
    T old = *p;
    if (old == (T)compare) *p = (T)v;
    return old;
}
static inline unsigned __umulhi(unsigned a, unsigned b) { return (unsigned)(((unsigned long long)a * b) >> 32); }
template <class T> static inline T __ldg(const T* p) { return *p; }

template <class To, class From> static inline To cuda_shim_bits(From a) {
    static_assert(sizeof(To) == sizeof(From), "a bit cast keeps the size");
    To b;
    memcpy(&b, &a, sizeof b);
    return b;
}
static inline unsigned __float_as_uint(float a) { return cuda_shim_bits<unsigned>(a); }
static inline int __float_as_int(float a) { return cuda_shim_bits<int>(a); }
static inline float __uint_as_float(unsigned a) { return cuda_shim_bits<float>(a); }
static inline float __int_as_float(int a) { return cuda_shim_bits<float>(a); }
static inline long long __double_as_longlong(double a) { return cuda_shim_bits<long long>(a); }
static inline double __longlong_as_double(long long a) { return cuda_shim_bits<double>(a); }
static inline int __popc(unsigned a) { return __builtin_popcount(a); }
static inline int __popcll(unsigned long long a) { return __builtin_popcountll(a); }
static inline int __clz(int a) { return a ? __builtin_clz((unsigned)a) : 32; }
static inline int __clzll(long long a) { return a ? __builtin_clzll((unsigned long long)a) : 64; }
static inline int __ffs(int a) { return __builtin_ffs(a); }
