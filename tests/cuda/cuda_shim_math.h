// CUDA's mathematical functions on the CPU: the C library's, with the overloads for float that CUDA has.
// libstdc++ has these overloads too, in headers that would take longer to load than most kernels to compile.
#pragma once
#include <math.h>
#undef isfinite
#undef isinf
#undef isnan
#undef signbit

#define CUDA_SHIM_UNARY(name) static inline float name(float a) { return name##f(a); }
CUDA_SHIM_UNARY(fabs) CUDA_SHIM_UNARY(sqrt) CUDA_SHIM_UNARY(cbrt) CUDA_SHIM_UNARY(exp) CUDA_SHIM_UNARY(exp2)
CUDA_SHIM_UNARY(expm1) CUDA_SHIM_UNARY(log) CUDA_SHIM_UNARY(log2) CUDA_SHIM_UNARY(log10)
CUDA_SHIM_UNARY(log1p) CUDA_SHIM_UNARY(sin) CUDA_SHIM_UNARY(cos) CUDA_SHIM_UNARY(tan) CUDA_SHIM_UNARY(asin)
CUDA_SHIM_UNARY(acos) CUDA_SHIM_UNARY(atan) CUDA_SHIM_UNARY(sinh) CUDA_SHIM_UNARY(cosh) CUDA_SHIM_UNARY(tanh)
CUDA_SHIM_UNARY(asinh) CUDA_SHIM_UNARY(acosh) CUDA_SHIM_UNARY(atanh) CUDA_SHIM_UNARY(erf)
CUDA_SHIM_UNARY(erfc) CUDA_SHIM_UNARY(floor) CUDA_SHIM_UNARY(ceil) CUDA_SHIM_UNARY(trunc)
CUDA_SHIM_UNARY(round) CUDA_SHIM_UNARY(rint) CUDA_SHIM_UNARY(nearbyint)
#define CUDA_SHIM_BINARY(name) static inline float name(float a, float b) { return name##f(a, b); }
CUDA_SHIM_BINARY(fmin) CUDA_SHIM_BINARY(fmax) CUDA_SHIM_BINARY(fmod) CUDA_SHIM_BINARY(pow)
CUDA_SHIM_BINARY(atan2) CUDA_SHIM_BINARY(copysign) CUDA_SHIM_BINARY(hypot) CUDA_SHIM_BINARY(remainder)
static inline float abs(float a) { return fabsf(a); }
static inline double abs(double a) { return fabs(a); }
static inline int abs(int a) { return __builtin_abs(a); }
static inline long long abs(long long a) { return __builtin_llabs(a); }
static inline float fma(float a, float b, float c) { return fmaf(a, b, c); }
template <class A> static inline bool isfinite(A a) { return __builtin_isfinite(a); }
template <class A> static inline bool isinf(A a) { return __builtin_isinf(a); }
template <class A> static inline bool isnan(A a) { return __builtin_isnan(a); }
template <class A> static inline bool signbit(A a) { return __builtin_signbit(a); }

static inline float __double2float_rn(double a) { return (float)a; }
static inline float __fadd_rn(float a, float b) { volatile float c = a + b; return c; }
static inline float __fmul_rn(float a, float b) { volatile float c = a * b; return c; }
static inline float __fdiv_rn(float a, float b) { return a / b; }
static inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
static inline double __dadd_rn(double a, double b) { volatile double c = a + b; return c; }
static inline double __dmul_rn(double a, double b) { volatile double c = a * b; return c; }
static inline float rsqrtf(float a) { return (float)(1.0 / sqrt((double)a)); }
static inline double rsqrt(double a) { return 1.0 / sqrt(a); }
template <class A> static inline A min(A a, A b) { return b < a ? b : a; }
template <class A> static inline A max(A a, A b) { return a < b ? b : a; }
