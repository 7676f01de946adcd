// A row shared by WARPS_PER_ROW warps of a block: which row and lane a thread has, and sums over the row.
// A block works on THREADS / THREADS_PER_ROW rows side by side; narrow rows take one warp and need no barrier.
#pragma once
#include "common.cuh"

#define THREADS_PER_ROW (WARPS_PER_ROW * WARP)

__device__ inline int lane_in_row() { return threadIdx.x % THREADS_PER_ROW; }
__device__ inline int row_in_block() { return threadIdx.x / THREADS_PER_ROW; }

// The sum or maximum over the threads of a row, given to each of them, always in the same order. `per_warp` is shared
// memory for one float per warp of the block. Every thread of the block calls, also those whose row does not exist.
__device__ inline float row_sum(float x, float *per_warp) {
    x = warp_sum(x);
    if (WARPS_PER_ROW == 1) return x;
    __syncthreads(); // what the last call left has been read
    if (threadIdx.x % WARP == 0) per_warp[threadIdx.x / WARP] = x;
    __syncthreads();
    const float *of_row = per_warp + row_in_block() * WARPS_PER_ROW;
    x = of_row[0];
    for (int i = 1; i < WARPS_PER_ROW; i++) x += of_row[i];
    return x;
}

__device__ inline float row_max(float x, float *per_warp) {
    x = warp_max(x);
    if (WARPS_PER_ROW == 1) return x;
    __syncthreads();
    if (threadIdx.x % WARP == 0) per_warp[threadIdx.x / WARP] = x;
    __syncthreads();
    const float *of_row = per_warp + row_in_block() * WARPS_PER_ROW;
    x = of_row[0];
    for (int i = 1; i < WARPS_PER_ROW; i++) x = fmaxf(x, of_row[i]);
    return x;
}
