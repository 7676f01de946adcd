// Layer norm over the channels of each row, alone or with the residual addition before it.
//   mean = sum(x) / C,  rstd = 1 / sqrt(sum((x - mean)^2) / C + 1e-5),  n = (x - mean) * rstd
//   forward   out = n * weight + bias;  residual: x = residual + branch, as stored, is written too
//   backward  g = dout * weight;  dres += rstd * (g - sum(g) / C - n * sum(g * n) / C)
//             dweight += sum over rows of dout * n;  dbias += sum over rows of dout
// Shapes: x, residual, branch, out, dout, dres (rows,C); mean, rstd (rows); weight, bias (C). VEC divides C.
// WARPS_PER_ROW warps share a row and each thread keeps its PACKS packs of it in registers, so that everything is read
// from memory once: PACKS = ceil(C / (WARPS_PER_ROW * 32 * VEC)).
// build: VEC=4:8; WARPS_PER_ROW=1,4; PACKS=6:3
#define THREADS 128 // and __launch_bounds__(THREADS, 1): without the 1 ptxas spills to fit more blocks
#include "rows.cuh"

#define ROWS_PER_BLOCK (THREADS / THREADS_PER_ROW)

// The first channel of a thread's pack p.
__device__ inline int channel_of(int p) { return (p * THREADS_PER_ROW + lane_in_row()) * VEC; }

// Norm of the row whose packs its threads hold in x. width is C, or 0 for a row that does not exist.
__device__ inline void normalise(act_t *out, float *mean_out, float *rstd_out, const Pack<act_t, VEC> (&x)[PACKS],
                                 const float *weight, const float *bias, int width, int C, float *per_warp) {
    float sum = 0;
#pragma unroll
    for (int p = 0; p < PACKS; p++)
        if (channel_of(p) < width)
            for (int k = 0; k < VEC; k++) sum += to_float(x[p].at[k]);
    const float mean = row_sum(sum, per_warp) / C;

    float squares = 0;
#pragma unroll
    for (int p = 0; p < PACKS; p++)
        if (channel_of(p) < width)
            for (int k = 0; k < VEC; k++) {
                const float centred = to_float(x[p].at[k]) - mean;
                squares += centred * centred;
            }
    const float eps = 1e-5;
    const float rstd = 1 / sqrtf(row_sum(squares, per_warp) / C + eps);

    if (width && lane_in_row() == 0) {
        *mean_out = mean;
        *rstd_out = rstd;
    }
#pragma unroll
    for (int p = 0; p < PACKS; p++) {
        const int c = channel_of(p);
        if (c >= width) continue;
        const Pack<float, VEC> w = load_pack<VEC>(weight + c), b = load_pack<VEC>(bias + c);
        Pack<act_t, VEC> normed;
        for (int k = 0; k < VEC; k++)
            store(normed.at[k], (to_float(x[p].at[k]) - mean) * rstd * w.at[k] + b.at[k]);
        store_pack(out + c, normed);
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, 1)
layer_norm_forward(act_t *__restrict__ out, float *__restrict__ mean, float *__restrict__ rstd,
                   const act_t *__restrict__ x, const float *__restrict__ weight, const float *__restrict__ bias,
                   int rows, int C) {
    __shared__ float per_warp[THREADS / WARP];
    const int row = blockIdx.x * ROWS_PER_BLOCK + row_in_block();
    const int width = row < rows ? C : 0;
    Pack<act_t, VEC> own[PACKS];
#pragma unroll
    for (int p = 0; p < PACKS; p++)
        if (channel_of(p) < width) own[p] = load_pack<VEC>(x + (long long)row * C + channel_of(p));
    normalise(out + (long long)row * C, mean + row, rstd + row, own, weight, bias, width, C, per_warp);
}

extern "C" __global__ void __launch_bounds__(THREADS, 1)
residual_layer_norm_forward(act_t *__restrict__ sum, act_t *__restrict__ out, float *__restrict__ mean,
                            float *__restrict__ rstd, const act_t *__restrict__ residual,
                            const act_t *__restrict__ branch, const float *__restrict__ weight,
                            const float *__restrict__ bias, int rows, int C) {
    __shared__ float per_warp[THREADS / WARP];
    const int row = blockIdx.x * ROWS_PER_BLOCK + row_in_block();
    const int width = row < rows ? C : 0;
    Pack<act_t, VEC> own[PACKS];
#pragma unroll
    for (int p = 0; p < PACKS; p++) {
        const int c = channel_of(p);
        if (c >= width) continue;
        own[p] = load_pack<VEC>(residual + (long long)row * C + c);
        const Pack<act_t, VEC> added = load_pack<VEC>(branch + (long long)row * C + c);
        for (int k = 0; k < VEC; k++) store(own[p].at[k], to_float(own[p].at[k]) + to_float(added.at[k]));
        store_pack(sum + (long long)row * C + c, own[p]);
    }
    normalise(out + (long long)row * C, mean + row, rstd + row, own, weight, bias, width, C, per_warp);
}

// partials (blocks,2,C): each block's sums over its rows for dweight and dbias, added up by the kernel below.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
layer_norm_backward(act_t *__restrict__ dres, float *__restrict__ partials, const act_t *__restrict__ dout,
                    const act_t *__restrict__ x, const float *__restrict__ weight, const float *__restrict__ mean,
                    const float *__restrict__ rstd, int rows, int C) {
    __shared__ float per_warp[THREADS / WARP];
    __shared__ float per_thread[VEC][THREADS];
    float sums[2][PACKS][VEC] = {}; // of dout * n and of dout, for the thread's channels

    for (int first = blockIdx.x * ROWS_PER_BLOCK; first < rows; first += gridDim.x * ROWS_PER_BLOCK) {
        const int row = first + row_in_block();
        const int width = row < rows ? C : 0;
        const float row_mean = width ? mean[row] : 0, row_rstd = width ? rstd[row] : 0;
        Pack<act_t, VEC> own_x[PACKS], own_dout[PACKS], own_dres[PACKS];
#pragma unroll
        for (int p = 0; p < PACKS; p++) {
            const long long at = (long long)row * C + channel_of(p);
            if (channel_of(p) >= width) continue;
            own_x[p] = load_pack<VEC>(x + at);
            own_dout[p] = load_pack<VEC>(dout + at);
            own_dres[p] = load_pack<VEC>(dres + at);
        }

        float g_sum = 0, gn_sum = 0;
#pragma unroll
        for (int p = 0; p < PACKS; p++) {
            if (channel_of(p) >= width) continue;
            const Pack<float, VEC> w = load_pack<VEC>(weight + channel_of(p));
            for (int k = 0; k < VEC; k++) {
                const float d = to_float(own_dout[p].at[k]);
                const float n = (to_float(own_x[p].at[k]) - row_mean) * row_rstd;
                g_sum += d * w.at[k];
                gn_sum += d * w.at[k] * n;
                sums[0][p][k] += d * n;
                sums[1][p][k] += d;
            }
        }
        const float g_mean = row_sum(g_sum, per_warp) / C, gn_mean = row_sum(gn_sum, per_warp) / C;

#pragma unroll
        for (int p = 0; p < PACKS; p++) {
            if (channel_of(p) >= width) continue;
            const Pack<float, VEC> w = load_pack<VEC>(weight + channel_of(p));
            for (int k = 0; k < VEC; k++) {
                const float n = (to_float(own_x[p].at[k]) - row_mean) * row_rstd;
                const float dx = row_rstd * (to_float(own_dout[p].at[k]) * w.at[k] - g_mean - n * gn_mean);
                store(own_dres[p].at[k], to_float(own_dres[p].at[k]) + dx);
            }
            store_pack(dres + (long long)row * C + channel_of(p), own_dres[p]);
        }
    }

    // Add up the block's rows: the threads of one lane, the first row's first.
#pragma unroll
    for (int which = 0; which < 2; which++)
#pragma unroll
        for (int p = 0; p < PACKS; p++) {
            __syncthreads();
            for (int k = 0; k < VEC; k++) per_thread[k][threadIdx.x] = sums[which][p][k];
            __syncthreads();
            for (int i = threadIdx.x; i < VEC * THREADS_PER_ROW; i += THREADS) {
                const int k = i / THREADS_PER_ROW, lane = i % THREADS_PER_ROW;
                const int c = (p * THREADS_PER_ROW + lane) * VEC + k;
                float sum = 0;
                for (int r = 0; r < ROWS_PER_BLOCK; r++) sum += per_thread[k][r * THREADS_PER_ROW + lane];
                if (c < C) partials[((long long)blockIdx.x * 2 + which) * C + c] = sum;
            }
        }
}

// One block adds 32 of the 2C columns of partials, its thread rows taking turns; reads partials once.
#define COLUMNS 32
#define COLUMN_GROUPS 16
extern "C" __global__ void __launch_bounds__(COLUMNS *COLUMN_GROUPS)
layer_norm_backward_finish(float *__restrict__ dweight, float *__restrict__ dbias, const float *__restrict__ partials,
                           int n_partials, int C) {
    __shared__ float per_group[COLUMN_GROUPS][COLUMNS];
    const int column = blockIdx.x * COLUMNS + threadIdx.x;
    float sum = 0;
    if (column < 2 * C)
#pragma unroll 8
        for (int p = threadIdx.y; p < n_partials; p += COLUMN_GROUPS) sum += partials[(long long)p * 2 * C + column];
    per_group[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y > 0 || column >= 2 * C) return;
    for (int group = 1; group < COLUMN_GROUPS; group++) sum += per_group[group][threadIdx.x];
    if (column < C) dweight[column] += sum;
    else dbias[column - C] += sum;
}
