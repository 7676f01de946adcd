// Token and position embeddings.
//   forward   x[b,t,:] = wte[tokens[b,t],:] + wpe[t,:]
//   backward  dwte[v,:] += sum of dx[b,t,:] over the (b,t) with token v;  dwpe[t,:] += sum over b of dx[b,t,:]
// Shapes: tokens (B,T), x and dx (B,T,C), wte (Vp,C), wpe (max_seq_len,C). VEC divides C.
// Rows that are nodes of a tree have their positions (rows) in place of t, and dwpe is summed as dwte is.
// Sums are taken by threads that own their channels, in an order that depends on the tokens alone: no atomics.
// build: VEC=4:8
#include "common.cuh"

// In the backward kernels a block is PACKS x GROUPS threads: PACKS threads side by side hold PACKS * VEC channels
// (one cache line of a row), and the groups take rows in turn.
#define THREADS 256 // forward
#define PACKS 8
#define GROUPS WARP // as many as a ballot has bits
#define CHANNELS (PACKS * VEC)
#define LOADS 8 // that a thread has on their way at a time
#define LONG_SEGMENT 32 // rows from which the whole block sums a token
#define SPREAD 256       // blocks that share few segments, as many as there are
#define STRIDE (PACKS * GROUPS + 8) // in shared memory; the 8 keep lanes that read neighbouring channels on own banks

// One thread writes VEC channels of one row. Rows of wte and wpe are read again through the caches.
extern "C" __global__ void __launch_bounds__(THREADS)
embedding_forward(act_t *__restrict__ x, const int *__restrict__ tokens, const int *__restrict__ positions,
                  const float *__restrict__ wte, const float *__restrict__ wpe, int rows, int T, int C) {
    const int packs_per_row = C / VEC;
    const int pack = blockIdx.x * blockDim.x + threadIdx.x;
    const int row = pack / packs_per_row;
    if (row >= rows) return;
    const int c = (pack - row * packs_per_row) * VEC;
    const Pack<float, VEC> token = load_pack<VEC>(wte + (long long)tokens[row] * C + c);
    const int t = positions ? positions[row] : row % T;
    const Pack<float, VEC> position = load_pack<VEC>(wpe + (long long)t * C + c);
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
            const int at = min(i + j * step, end - 1); // the last row again rather than a load that waits for a test
            const long long row = order ? order[at] : (long long)at * row_step;
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
extern "C" __global__ void __launch_bounds__(PACKS *GROUPS, 3)
embedding_backward_positions(float *__restrict__ dwpe, const act_t *__restrict__ dx, int B, int T, int C) {
    __shared__ float shared[VEC * STRIDE];
    const int t = blockIdx.x, first_channel = blockIdx.y * CHANNELS;
    const int c = first_channel + threadIdx.x * VEC;
    float sum[VEC] = {};
    if (c < C) add_rows(sum, dx + (long long)t * C + c, nullptr, threadIdx.y, B, GROUPS, T, C);
    add_groups(dwpe + (long long)t * C + first_channel, sum, C - first_channel, shared);
}

// `order` (rows) lists the rows sorted by token (or, for dwpe of a tree, by position; rows that it leaves out are not
// added). segments[0] = n; segment s, the rows order[segments[1 + s] .. segments[2 + s]), has one token, for s below
// n. Blocks (i, slice) share the segments: a group of threads takes a
// short one, the whole block each of the long ones. A block's segments lie far apart in the vocabulary, because
// frequent tokens are neighbours there, and few segments are spread over many blocks. Reads dx once, in whole cache
// lines.
extern "C" __global__ void __launch_bounds__(PACKS *GROUPS, 3)
embedding_backward_tokens(float *__restrict__ dwte, const act_t *__restrict__ dx, const int *__restrict__ tokens,
                          const int *__restrict__ order, const int *__restrict__ segments, int C) {
    __shared__ float shared[VEC * STRIDE];
    __shared__ unsigned long_segments; // bit g: that of group g is long
    const int n = segments[0];
    const int *begins = segments + 1;
    const int n_blocks = max((n + GROUPS - 1) / GROUPS, min(n, SPREAD));
    if (blockIdx.x >= n_blocks) return;
    const int first_channel = blockIdx.y * CHANNELS;
    const int c = first_channel + threadIdx.x * VEC;

    const int thread = threadIdx.y * PACKS + threadIdx.x;
    if (thread < WARP) {
        const int segment = blockIdx.x + thread * n_blocks;
        const bool is_long = segment < n && begins[segment + 1] - begins[segment] >= LONG_SEGMENT;
        const unsigned all = __ballot_sync(FULL_MASK, is_long);
        if (thread == 0) long_segments = all;
    }
    __syncthreads();

    const int own = blockIdx.x + threadIdx.y * n_blocks;
    if (own < n && c < C && !(long_segments >> threadIdx.y & 1)) {
        float sum[VEC] = {};
        add_rows(sum, dx + c, order, begins[own], begins[own + 1], 1, 0, C);
        float *target = dwte + (long long)tokens[order[begins[own]]] * C + c;
        Pack<float, VEC> total = load_pack<VEC>(target);
#pragma unroll
        for (int k = 0; k < VEC; k++) total.at[k] += sum[k];
        store_pack(target, total);
    }
    for (int group = 0; group < GROUPS; group++) {
        if (!(long_segments >> group & 1)) continue;
        const int segment = blockIdx.x + group * n_blocks;
        const int begin = begins[segment], end = begins[segment + 1];
        float sum[VEC] = {};
        if (c < C) add_rows(sum, dx + c, order, begin + threadIdx.y, end, GROUPS, 0, C);
        add_groups(dwte + (long long)tokens[order[begin]] * C + first_channel, sum, C - first_channel, shared);
    }
}
