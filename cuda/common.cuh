// What every kernel shares: the activation type, wide loads and stores, and sums over a warp or a block.
#pragma once
#include <cuda_bf16.h>

// Activations and gradients of activations are stored as act_t and computed with as float.
#if ACT_BF16
typedef __nv_bfloat16 act_t;
#else
typedef float act_t;
#endif

#ifndef INFINITY  // NVRTC has no math.h
#define INFINITY __int_as_float(0x7f800000)
#endif

#define WARP 32
#define FULL_MASK 0xffffffffu

__device__ inline float to_float(float x) { return x; }
__device__ inline float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ inline void store(float &target, float x) { target = x; }
__device__ inline void store(__nv_bfloat16 &target, float x) { target = __float2bfloat16_rn(x); }

// N values of one row side by side, read or written by one instruction of up to 16 bytes.
// N divides the row's length, so a row needs no special case at its end.
template <typename T, int N> struct alignas(N * sizeof(T)) Pack {
    T at[N];
};

template <int N, typename T> __device__ inline Pack<T, N> load_pack(const T *source) {
    return *reinterpret_cast<const Pack<T, N> *>(source);
}

template <int N, typename T> __device__ inline void store_pack(T *target, const Pack<T, N> &values) {
    *reinterpret_cast<Pack<T, N> *>(target) = values;
}

// The sum or maximum of one value per lane, given to every lane. Order is fixed: the same values give the same bits.
__device__ inline float warp_sum(float x) {
    for (int offset = WARP / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(FULL_MASK, x, offset);
    return x;
}

__device__ inline float warp_max(float x) {
    for (int offset = WARP / 2; offset > 0; offset /= 2) x = fmaxf(x, __shfl_xor_sync(FULL_MASK, x, offset));
    return x;
}

// The sum or maximum over the block, given to every thread. `per_warp` is shared memory for WARP floats; the block is
// a whole number of warps, and every thread of it calls. Safe to call again with the same memory.
__device__ inline float block_sum(float x, float *per_warp) {
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, n_warps = blockDim.x / WARP;
    x = warp_sum(x);
    __syncthreads();
    if (lane == 0) per_warp[warp] = x;
    __syncthreads();
    return warp_sum(lane < n_warps ? per_warp[lane] : 0.0f);
}

__device__ inline float block_max(float x, float *per_warp) {
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, n_warps = blockDim.x / WARP;
    x = warp_max(x);
    __syncthreads();
    if (lane == 0) per_warp[warp] = x;
    __syncthreads();
    return warp_max(lane < n_warps ? per_warp[lane] : -INFINITY);
}
