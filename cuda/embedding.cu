// Token and position embeddings.
//   forward   x[b,t,:] = wte[tokens[b,t],:] + wpe[t,:]
//   backward  dwte[v,:] += sum of dx[b,t,:] over the (b,t) with token v;  dwpe[t,:] += sum over b of dx[b,t,:]
// Shapes: tokens (B,T), x and dx (B,T,C), wte (Vp,C), wpe (max_seq_len,C). VEC divides C.
// Sums are taken by threads that own their channels, in an order that depends on the tokens alone: no atomics.
// build: VEC=4:8
#include "common.cuh"

// In the backward kernels a block is PACKS x GROUPS threads: PACKS threads side by side hold PACKS * VEC channels
// (one cache line of a row), and the groups take rows in turn.
#define PACKS 8
#define GROUPS 32
#define CHANNELS (PACKS * VEC)
#define LOADS 4 // that a thread has on their way at a time
#define LONG_SEGMENT 32 // rows from which the whole block sums a token
#define STRIDE (PACKS * GROUPS + 8) // in shared memory; the 8 keep lanes that read neighbouring channels on own banks

// One thread writes VEC channels of one row. Rows of wte and wpe are read again through the caches.
extern "C" __global__ void __launch_bounds__(256)
embedding_forward(act_t *__restrict__ x, const int *__restrict__ tokens, const float *__restrict__ wte,
                  const float *__restrict__ wpe, int rows, int T, int C) {
    const int packs_per_row = C / VEC;
    const int pack = blockIdx.x * blockDim.x + threadIdx.x;
    const int row = pack / packs_per_row;
    if (row >= rows) return;
    const int c = (pack - row * packs_per_row) * VEC;
    const Pack<float, VEC> token = load_pack<VEC>(wte + (long long)tokens[row] * C + c);
    const Pack<float, VEC> position = load_pack<VEC>(wpe + (long long)(row % T) * C + c);
    Pack<act_t, VEC> sum;
#pragma unroll
    for (int k = 0; k < VEC; k++) store(sum.at[k], token.at[k] + position.at[k]);
    store_pack(x + (long long)row * C + c, sum);
}

// Adds to `sum` the VEC channels from dx on of the rows begin, begin + step, ... before end; `order`, where there is
// one, says which row of dx each of them is, else they lie `row_step` rows apart.
__device__ inline void add_rows(float (&sum)[VEC], const act_t *dx, const int *order, int begin, int end, int step,
                                int row_step, int C) {
    for (int i = begin; i < end; i += LOADS * step) {
        Pack<act_t, VEC> values[LOADS];
#pragma unroll
        for (int j = 0; j < LOADS; j++) {
            if (i + j * step >= end) continue;
            const long long row = order ? order[i + j * step] : (long long)(i + j * step) * row_step;
            values[j] = load_pack<VEC>(dx + row * C);
        }
#pragma unroll
        for (int j = 0; j < LOADS; j++)
            if (i + j * step < end)
                for (int k = 0; k < VEC; k++) sum[k] += to_float(values[j].at[k]);
    }
}

// Adds the sums of all groups, group 0 first, to `width` channels of target. Every thread of the block calls.
__device__ inline void add_groups(float *target, const float (&sum)[VEC], int width, float *shared) {
    const int thread = threadIdx.y * PACKS + threadIdx.x;
    __syncthreads(); // what the last call left has been read
#pragma unroll
    for (int k = 0; k < VEC; k++) shared[k * STRIDE + thread] = sum[k];
    __syncthreads();
    const int channel = thread % PACKS * VEC + thread / PACKS;
    if (thread >= CHANNELS || channel >= width) return;
    float total = 0;
    for (int group = 0; group < GROUPS; group++)
        total += shared[thread / PACKS * STRIDE + group * PACKS + thread % PACKS];
    target[channel] += total;
}

// Block (t, slice): position t, CHANNELS channels. Reads dx once.
extern "C" __global__ void __launch_bounds__(PACKS *GROUPS)
embedding_backward_positions(float *__restrict__ dwpe, const act_t *__restrict__ dx, int B, int T, int C) {
    __shared__ float shared[VEC * STRIDE];
    const int t = blockIdx.x, first_channel = blockIdx.y * CHANNELS;
    const int c = first_channel + threadIdx.x * VEC;
    float sum[VEC] = {};
    if (c < C) add_rows(sum, dx + (long long)t * C + c, nullptr, threadIdx.y, B, GROUPS, T, C);
    add_groups(dwpe + (long long)t * C + first_channel, sum, C - first_channel, shared);
}

// `order` (rows) lists the rows sorted by token; segment s, the rows order[begins[s] .. begins[s+1]), has one token.
// begins (n_segments + 1) ends in empty segments. Block (i, slice) sums GROUPS segments, far apart in the vocabulary
// because frequent tokens are neighbours there: each group of threads a short one, all groups each of the long ones.
// Reads dx once, in whole cache lines.
extern "C" __global__ void __launch_bounds__(PACKS *GROUPS)
embedding_backward_tokens(float *__restrict__ dwte, const act_t *__restrict__ dx, const int *__restrict__ tokens,
                          const int *__restrict__ order, const int *__restrict__ begins, int n_segments, int C) {
    __shared__ float shared[VEC * STRIDE];
    const int first_channel = blockIdx.y * CHANNELS;
    const int c = first_channel + threadIdx.x * VEC;

    const int own = blockIdx.x + threadIdx.y * gridDim.x;
    const int own_begin = own < n_segments ? begins[own] : 0, own_end = own < n_segments ? begins[own + 1] : 0;
    if (c < C && own_end > own_begin && own_end - own_begin < LONG_SEGMENT) {
        float sum[VEC] = {};
        add_rows(sum, dx + c, order, own_begin, own_end, 1, 0, C);
        float *target = dwte + (long long)tokens[order[own_begin]] * C + c;
        Pack<float, VEC> total = load_pack<VEC>(target);
#pragma unroll
        for (int k = 0; k < VEC; k++) total.at[k] += sum[k];
        store_pack(target, total);
    }

    for (int segment = blockIdx.x; segment < n_segments; segment += gridDim.x) {
        const int begin = begins[segment], end = begins[segment + 1];
        if (end - begin < LONG_SEGMENT) continue; // the same for every thread of the block
        float sum[VEC] = {};
        if (c < C) add_rows(sum, dx + c, order, begin + threadIdx.y, end, GROUPS, 0, C);
        add_groups(dwte + (long long)tokens[order[begin]] * C + first_channel, sum, C - first_channel, shared);
    }
}
