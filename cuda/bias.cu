// x (rows, N) += bias (N), and backward the sum over rows: dbias[i] += sum over r of dy[r, i].
// Rows of x and dy begin `stride` values apart, so that N columns of a wider matrix can be meant; VEC divides both.
// build: VEC=4:8
#include "common.cuh"

// A block of bias_forward and of bias_backward_partial is `lanes` packs wide and blockDim.x / lanes rows high; blocks
// that follow each other lie side by side in a row of blocks. `lanes` is a power of two.
#define THREADS 256
#define ROWS_PER_THREAD 4

// x[r, i] += bias[i], rounded to act_t.
// A thread adds one pack of bias to ROWS_PER_THREAD rows, all of them loaded before any is stored. Every value of x is
// read and written once; bias is read again by every block below (from cache).
extern "C" __global__ void __launch_bounds__(THREADS)
    bias_forward(act_t *x, const float *__restrict__ bias, int rows, int n, int stride, int lanes) {
    const int thread = threadIdx.x, block = blockIdx.x, height = blockDim.x / lanes;
    const int packs = n / VEC, blocks_per_row = (packs + lanes - 1) / lanes;
    const int pack = block % blocks_per_row * lanes + thread % lanes;
    const int first = block / blocks_per_row * height * ROWS_PER_THREAD + thread / lanes;
    if (pack >= packs) return;

    const Pack<float, VEC> b = load_pack<VEC>(bias + pack * VEC);
    Pack<act_t, VEC> values[ROWS_PER_THREAD];
#pragma unroll
    for (int i = 0; i < ROWS_PER_THREAD; i++) {
        const int row = first + i * height;
        if (row < rows) values[i] = load_pack<VEC>(x + (long long)row * stride + pack * VEC);
    }
#pragma unroll
    for (int i = 0; i < ROWS_PER_THREAD; i++) {
        const int row = first + i * height;
        if (row >= rows) return;
        for (int j = 0; j < VEC; j++) store(values[i].at[j], to_float(values[i].at[j]) + b.at[j]);
        store_pack(x + (long long)row * stride + pack * VEC, values[i]);
    }
}

// First stage of dbias: partials[chunk, i] = sum of dy[r, i] over the rows of that chunk.
// A thread sums one pack of columns over every height-th row of its chunk, UNROLL rows in flight; then one thread per
// column adds what the rows of threads found, in order. Every value of dy is read once.
#define UNROLL 4
extern "C" __global__ void __launch_bounds__(THREADS)
    bias_backward_partial(float *__restrict__ partials, const act_t *__restrict__ dy, int rows, int n, int stride,
                          int lanes, int rows_per_chunk) {
    __shared__ float sums[THREADS * VEC];
    const int thread = threadIdx.x, block = blockIdx.x, height = blockDim.x / lanes;
    const int packs = n / VEC, blocks_per_row = (packs + lanes - 1) / lanes;
    const int lane = thread % lanes, pack = block % blocks_per_row * lanes + lane;
    const int chunk = block / blocks_per_row, begin = chunk * rows_per_chunk;
    const int end = rows - begin < rows_per_chunk ? rows : begin + rows_per_chunk;

    float sum[VEC] = {};
    if (pack < packs) {
        for (int row = begin + thread / lanes; row < end; row += UNROLL * height) {
            Pack<act_t, VEC> values[UNROLL];
#pragma unroll
            for (int i = 0; i < UNROLL; i++) {
                if (row + i * height < end) {
                    values[i] = load_pack<VEC>(dy + (long long)(row + i * height) * stride + pack * VEC);
                }
            }
#pragma unroll
            for (int i = 0; i < UNROLL; i++) {
                if (row + i * height < end) {
                    for (int j = 0; j < VEC; j++) sum[j] += to_float(values[i].at[j]);
                }
            }
        }
    }
    // Value j of every thread lies in plane j, so that neighbouring threads use neighbouring banks.
    for (int j = 0; j < VEC; j++) sums[j * THREADS + thread] = sum[j];
    __syncthreads();
    if (thread < lanes && pack < packs) {
        for (int j = 0; j < VEC; j++) {
            float total = 0.0f;
            for (int i = 0; i < height; i++) total += sums[j * THREADS + i * lanes + lane];
            partials[(long long)chunk * n + pack * VEC + j] = total;
        }
    }
}

// Second stage: dbias[i] += sum over chunks of partials[chunk, i].
// A block takes WARP columns: its warps sum every blockDim.x / WARP-th chunk, its first warp adds what they found.
extern "C" __global__ void __launch_bounds__(THREADS)
    bias_backward_sum(float *__restrict__ dbias, const float *__restrict__ partials, int chunks, int n) {
    __shared__ float sums[THREADS];
    const int thread = threadIdx.x, lane = thread % WARP, n_warps = blockDim.x / WARP;
    const int column = blockIdx.x * WARP + lane;
    float sum = 0.0f;
    if (column < n) {
#pragma unroll 4
        for (int chunk = thread / WARP; chunk < chunks; chunk += n_warps) {
            sum += partials[(long long)chunk * n + column];
        }
    }
    sums[thread] = sum;
    __syncthreads();
    if (thread < WARP && column < n) {
        float total = 0.0f;
        for (int i = 0; i < n_warps; i++) total += sums[i * WARP + lane];
        dbias[column] += total;
    }
}
