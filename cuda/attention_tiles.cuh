// Tiles of the rows of one head in shared memory, as float, and products of two of them in registers.
//
// Thread (y, x) of 8 x 8 has rows y, y + 8, ... of the tile that stays, and columns x, x + 8, ... (rows of the tile
// that passes) or channels 4x .. 4x + 3, 32 + 4x ... The eight threads of a row are of one warp: rows of weights (P or
// dS) are written and read by that warp alone, and summed by shuffles.
#pragma once
#include "common.cuh"

#define SIDE 8
#define THREADS (SIDE * SIDE)

typedef Pack<float, 4> Quad;

#define QUADS ((HEAD_SIZE + 3) / 4)                  // of a row of channels, the last one filled up with zeros
#define QUADS_PER_THREAD ((QUADS + SIDE - 1) / SIDE) // of the thread's share of it
#define ROW_QUADS (QUADS | 1)                        // of a row in shared memory: odd, so 8 rows lie in different banks
#define VALUES (VEC < 4 ? VEC : 4)                   // read or written together, as all of one quad

// A tile of weights has SIDE * N columns. Its rows are an odd number of times 8 long: 4 rows lie in different banks.
#define WEIGHT_QUADS(N) (2 * ((N) | 1))

// tile[i] = factor * row first + i of one head, zero after the last row; rows are `stride` apart.
template <int ROWS>
__device__ inline void load_tile(Quad *tile, const act_t *__restrict__ head, int stride, int first, int T,
                                 float factor) {
    const int packs = 4 * QUADS / VEC;
#pragma unroll 8
    for (int i = threadIdx.x; i < ROWS * packs; i += THREADS) {
        const int row = i / packs, c = i % packs * VEC;
        Pack<act_t, VEC> stored = {};
        if (first + row < T && c < HEAD_SIZE) stored = load_pack<VEC>(head + (long long)(first + row) * stride + c);
        float *target = (tile + row * ROW_QUADS)->at + c;
#pragma unroll
        for (int start = 0; start < VEC; start += VALUES) {
            Pack<float, VALUES> values;
#pragma unroll
            for (int e = 0; e < VALUES; e++) values.at[e] = factor * to_float(stored.at[start + e]);
            store_pack<VALUES>(target + start, values);
        }
    }
}

// dots[i][j] = a[y + 8i] . b[x + 8j], for the thread's rows and columns of two tiles.
template <int R, int N> __device__ inline void dot_rows(float (&dots)[R][N], const Quad *a, const Quad *b) {
    const int x = threadIdx.x % SIDE, y = threadIdx.x / SIDE;
#pragma unroll
    for (int i = 0; i < R; i++)
#pragma unroll
        for (int j = 0; j < N; j++) dots[i][j] = 0.0f;
#pragma unroll 2
    for (int c = 0; c < QUADS; c++) {
        Quad row[R], column[N];
#pragma unroll
        for (int i = 0; i < R; i++) row[i] = a[(y + SIDE * i) * ROW_QUADS + c];
#pragma unroll
        for (int j = 0; j < N; j++) column[j] = b[(x + SIDE * j) * ROW_QUADS + c];
#pragma unroll
        for (int e = 0; e < 4; e++)
#pragma unroll
            for (int i = 0; i < R; i++)
#pragma unroll
                for (int j = 0; j < N; j++) dots[i][j] = fmaf(row[i].at[e], column[j].at[e], dots[i][j]);
    }
}

// sums[i] += sum_j weights[y + 8i][j] * b[j], over the SIDE * N rows j of tile b; the thread's rows and channels.
template <int N, int R>
__device__ inline void add_weighted(Quad (&sums)[R][QUADS_PER_THREAD], const Quad *weights, const Quad *b) {
    const int x = threadIdx.x % SIDE, y = threadIdx.x / SIDE;
#pragma unroll 1
    for (int j = 0; j < SIDE * N; j += 4) {
        Quad weight[R];
#pragma unroll
        for (int i = 0; i < R; i++) weight[i] = weights[(y + SIDE * i) * WEIGHT_QUADS(N) + j / 4];
#pragma unroll
        for (int e = 0; e < 4; e++)
#pragma unroll
            for (int n = 0; n < QUADS_PER_THREAD; n++) {
                if (x + SIDE * n >= QUADS) continue;
                const Quad channels = b[(j + e) * ROW_QUADS + x + SIDE * n];
#pragma unroll
                for (int i = 0; i < R; i++)
#pragma unroll
                    for (int c = 0; c < 4; c++)
                        sums[i][n].at[c] = fmaf(weight[i].at[e], channels.at[c], sums[i][n].at[c]);
            }
    }
}

// weights[y + 8i][x + 8j] = values[i][j], in time for the warp's add_weighted.
template <int R, int N> __device__ inline void share_weights(Quad *weights, const float (&values)[R][N]) {
    const int x = threadIdx.x % SIDE, y = threadIdx.x / SIDE;
#pragma unroll
    for (int i = 0; i < R; i++)
#pragma unroll
        for (int j = 0; j < N; j++)
            weights[(y + SIDE * i) * WEIGHT_QUADS(N) + 2 * j + x / 4].at[x % 4] = values[i][j];
    __syncwarp();
}

// Row `row` of a head = factor * sums, the thread's channels of it.
__device__ inline void write_row(act_t *head, int stride, int row, const Quad (&sums)[QUADS_PER_THREAD], float factor) {
    const int x = threadIdx.x % SIDE;
#pragma unroll
    for (int n = 0; n < QUADS_PER_THREAD; n++)
#pragma unroll
        for (int start = 0; start < 4; start += VALUES) {
            const int c = 4 * (x + SIDE * n) + start;
            if (c >= HEAD_SIZE) continue;
            Pack<act_t, VALUES> values;
#pragma unroll
            for (int e = 0; e < VALUES; e++) store(values.at[e], factor * sums[n].at[start + e]);
            store_pack<VALUES>(head + (long long)row * stride + c, values);
        }
}

// Sum or maximum over the eight threads of a row, given to each.
__device__ inline float row_sum(float x) {
    for (int offset = SIDE / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(FULL_MASK, x, offset);
    return x;
}

__device__ inline float row_max(float x) {
    for (int offset = SIDE / 2; offset > 0; offset /= 2) x = fmaxf(x, __shfl_xor_sync(FULL_MASK, x, offset));
    return x;
}
