// Included before every .cu file that g++ compiles: the part of CUDA C++ that the kernels use, for a CPU.
//
// A thread of a block is a fiber (fibers.cpp). With HOST_FLOAT64 the word `float` means double, so that derivatives can
// be checked by finite differences. With HOST_CHECKED the file is compiled with -fsanitize=thread, whose calls at every
// memory access memory_checks.cpp answers; ours must not be instrumented themselves (HOST_UNCHECKED).
#pragma once
#include <cfloat>
#include <climits>
#include <cstdio>
#include <cstring>
// No kernel uses C++17's special functions; parsing them would take half of what a small kernel takes to compile.
#include <bits/c++config.h>
#undef _GLIBCXX_USE_STD_SPEC_FUNCS
#include <math.h>
#include <type_traits>
#include <utility>

#include "runtime.h"

#define __global__ __attribute__((used))
#define __device__
#define __host__
#define __constant__ static const
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
// One section, so that all of it can be poisoned before each block.
#define __shared__ static __attribute__((section("host_shared")))
#define HOST_UNCHECKED __attribute__((no_sanitize("thread")))

#define threadIdx host_position.thread
#define blockIdx host_position.block
#define blockDim host_position.block_dim
#define gridDim host_position.grid_dim
#define warpSize 32

typedef float host_float32;

// Barriers, shuffles and votes. The place they stand at is the caller's.
#define HOST_SITE(what) HostSite{what, file, line}
#define HOST_CALLER const char *file = __builtin_FILE(), int line = __builtin_LINE()

inline void __syncthreads(HOST_CALLER) { host_barrier(HOST_SITE("__syncthreads")); }
inline void __threadfence() {}
inline void __syncwarp(unsigned mask = 0xffffffffu, HOST_CALLER) { host_ballot(mask, false, HOST_SITE("__syncwarp")); }

inline unsigned __ballot_sync(unsigned mask, int vote, HOST_CALLER) {
    return host_ballot(mask, vote, HOST_SITE("__ballot_sync"));
}
inline int __any_sync(unsigned mask, int vote, HOST_CALLER) {
    return host_ballot(mask, vote, HOST_SITE("__any_sync")) != 0;
}
inline int __all_sync(unsigned mask, int vote, HOST_CALLER) {
    return host_ballot(mask, !vote, HOST_SITE("__all_sync")) == 0;
}

inline unsigned host_lane() {
    const unsigned x = threadIdx.x, y = threadIdx.y, z = threadIdx.z;
    return (x + blockDim.x * (y + blockDim.y * z)) % 32;
}

template <typename T> HOST_UNCHECKED inline T host_shuffle(unsigned mask, T value, unsigned source, HostSite site) {
    static_assert(sizeof(T) <= 8 && std::is_trivially_copyable<T>::value, "a shuffle moves up to 8 bytes");
    uint64_t bits = 0;
    __builtin_memcpy(&bits, &value, sizeof value);
    bits = host_exchange(mask, bits, source, site);
    __builtin_memcpy(&value, &bits, sizeof value);
    return value;
}

// Outside its group of `width` lanes a lane keeps its own value (CUDA C++ Programming Guide, Warp Shuffle Functions).
template <typename T> inline T __shfl_sync(unsigned mask, T value, int source, int width = 32, HOST_CALLER) {
    const unsigned lane = host_lane(), first = lane & ~(width - 1u);
    return host_shuffle(mask, value, first | (source & (width - 1u)), HOST_SITE("__shfl_sync"));
}
template <typename T> inline T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32, HOST_CALLER) {
    const unsigned lane = host_lane(), last = lane | (width - 1u), source = lane ^ lane_mask;
    return host_shuffle(mask, value, source > last ? lane : source, HOST_SITE("__shfl_xor_sync"));
}
template <typename T> inline T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, HOST_CALLER) {
    const unsigned lane = host_lane(), last = lane | (width - 1u);
    return host_shuffle(mask, value, lane + delta > last ? lane : lane + delta, HOST_SITE("__shfl_down_sync"));
}
template <typename T> inline T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, HOST_CALLER) {
    const unsigned lane = host_lane(), first = lane & ~(width - 1u);
    return host_shuffle(mask, value, lane < first + delta ? lane : lane - delta, HOST_SITE("__shfl_up_sync"));
}

// Atomics on whole numbers only: those on floating point would make the bits depend on the order.
#ifdef HOST_CHECKED
#define HOST_ATOMIC(address) host_atomic(address, sizeof *(address))
#else
#define HOST_ATOMIC(address) ((void)0)
#endif
#define HOST_ATOMICS(T)                                                                                                \
    HOST_UNCHECKED inline T atomicAdd(T *address, T value) {                                                           \
        HOST_ATOMIC(address);                                                                                          \
        const T old = *address;                                                                                        \
        *address = old + value;                                                                                        \
        return old;                                                                                                    \
    }                                                                                                                  \
    HOST_UNCHECKED inline T atomicMax(T *address, T value) {                                                           \
        HOST_ATOMIC(address);                                                                                          \
        const T old = *address;                                                                                        \
        if (value > old) *address = value;                                                                             \
        return old;                                                                                                    \
    }
HOST_ATOMICS(int)
HOST_ATOMICS(unsigned)
HOST_ATOMICS(unsigned long long)

template <typename T> inline T __ldg(const T *address) { return *address; }
inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline int __clz(int bits) { return bits ? __builtin_clz(bits) : 32; }
inline int __ffs(int bits) { return __builtin_ffs(bits); }

#define HOST_MIN_MAX(T)                                                                                                \
    inline T min(T a, T b) { return b < a ? b : a; }                                                                   \
    inline T max(T a, T b) { return a < b ? b : a; }
HOST_MIN_MAX(int)
HOST_MIN_MAX(unsigned)
HOST_MIN_MAX(long)
HOST_MIN_MAX(unsigned long)
HOST_MIN_MAX(long long)
HOST_MIN_MAX(unsigned long long)
inline host_float32 min(host_float32 a, host_float32 b) { return fminf(a, b); }
inline host_float32 max(host_float32 a, host_float32 b) { return fmaxf(a, b); }
inline double min(double a, double b) { return fmin(a, b); }
inline double max(double a, double b) { return fmax(a, b); }
inline double min(double a, host_float32 b) { return fmin(a, b); }  // with HOST_FLOAT64, 0.0f is a host_float32
inline double max(double a, host_float32 b) { return fmax(a, b); }
inline double min(host_float32 a, double b) { return fmin(a, b); }
inline double max(host_float32 a, double b) { return fmax(a, b); }

inline double rsqrt(double x) { return 1 / sqrt(x); }

// Calls a kernel with arguments found behind pointers; Python appends HOST_KERNEL for each kernel of a file.
template <typename... A, size_t... I>
HOST_UNCHECKED inline void host_call(void (*kernel)(A...), void **arguments, std::index_sequence<I...>) {
    kernel(*static_cast<std::remove_const_t<A> *>(arguments[I])...);
}
template <typename... A> HOST_UNCHECKED inline void host_call(void (*kernel)(A...), void **arguments) {
    host_call(kernel, arguments, std::index_sequence_for<A...>());
}
#define HOST_KERNEL(name, max_threads)                                                                                 \
    extern "C" HOST_UNCHECKED void host_call_##name(void **arguments) { host_call(name, arguments); }                  \
    extern "C" const int host_max_threads_##name = max_threads;

// The file's shared memory and its whole image; weak, since a file may have no shared memory.
extern "C" {
extern char __start_host_shared[] __attribute__((weak, visibility("hidden")));
extern char __stop_host_shared[] __attribute__((weak, visibility("hidden")));
extern char __ehdr_start[] __attribute__((visibility("hidden")));
extern char _end[] __attribute__((visibility("hidden")));
extern char *const host_image[4];
char *const host_image[4] = {__start_host_shared, __stop_host_shared, __ehdr_start, _end};
}

#ifdef HOST_FLOAT64
#define float double
#define rsqrtf rsqrt
#define expf exp
#define exp2f exp2
#define expm1f expm1
#define logf log
#define log2f log2
#define log1pf log1p
#define sqrtf sqrt
#define tanhf tanh
#define erff erf
#define powf pow
#define fmaf fma
#define fmaxf fmax
#define fminf fmin
#define fabsf fabs
#define floorf floor
#define ceilf ceil
#define rintf rint
#define sinf sin
#define cosf cos
#define __expf exp
#define __logf log
#define __fdividef(a, b) ((a) / (b))
#else
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
#define __expf expf
#define __logf logf
#define __fdividef(a, b) ((a) / (b))
#endif
