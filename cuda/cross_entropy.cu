// Cross entropy of each row of logits against its target, and its gradient.
//   forward   losses[r] = log(sum_v exp(x[r,v])) - x[r,targets[r]]
//             correct[r] = 1 where the target is the first of the largest logits, else 0
//   backward  x[r,v] <- (exp(x[r,v]) / sum_u exp(x[r,u]) - [v = targets[r]]) * scale, in place; losses as above
// A row may also stand for several targets, each as often as rows of a batch have it: the pairs of row r are
// pair_begins[r] ... pair_begins[r+1] - 1, their targets distinct and ascending. Then, with P = exp / sum as above,
//   forward   losses[r] = sum_i counts[i] (log(sum_v exp(x[r,v])) - x[r,targets[i]])
//             correct[r] = counts[i] of the pair whose target is the first of the largest logits, else 0
//   backward  x[r,v] <- (sum_i counts[i] P[r,v] - counts of the pair with target v) * scale; losses as above
// Shapes: logits (n_rows,Vp), of which V columns are real; padded columns never enter and have gradient 0.
// targets, correct (n_rows) int, or pair_begins (n_rows+1), targets and counts (pairs) int; losses (n_rows), nats.
// VEC divides Vp. correct is 0 where the loss is not a number.
// WARPS_PER_ROW warps share a row. Each thread takes every THREADS_PER_ROW-th pack of it; the gradient reads the row a
// second time, from its end, where the caches still hold it.
// build: VEC=4:8; WARPS_PER_ROW=1,16
#define THREADS 512
#define SUM_THREADS 1024 // of add_losses
#include "rows.cuh"

#define ROWS_PER_BLOCK (THREADS / THREADS_PER_ROW)
#define ROW_STRIDE (THREADS_PER_ROW * VEC)

struct RowSummary {
    float largest; // logit
    float sum;     // of exp(logit - largest)
    int first;     // of the logits that are the largest; undefined unless RANKED, and -1 where the sum is nan
};

// Reads the first V logits of a row once, keeping a running maximum and rescaling the sum when it grows.
// V is 0 for a row that does not exist. Every thread of the block calls. RANKED: whether the likeliest target is asked
// for; nobody reads it in backward, and shuffles would keep it alive.
template <bool RANKED> __device__ inline RowSummary summarise(const act_t *row, int V, float *per_warp) {
    float largest = -INFINITY, sum = 0;
    int first = 0;
#pragma unroll 4
    for (int v = lane_in_row() * VEC; v < V; v += ROW_STRIDE) {
        const Pack<act_t, VEC> logits = load_pack<VEC>(row + v);
        float x[VEC];
        const float before = largest;
#pragma unroll
        for (int k = 0; k < VEC; k++) {
            x[k] = v + k < V ? to_float(logits.at[k]) : -INFINITY;
            if (RANKED && x[k] > largest) first = v + k;
            largest = fmaxf(largest, x[k]);
        }
        sum *= expf(before - largest);
#pragma unroll
        for (int k = 0; k < VEC; k++) sum += expf(x[k] - largest);
    }
    RowSummary all;
    all.largest = row_max(largest, per_warp);
    all.sum = row_sum(sum * expf(largest - all.largest), per_warp);
    if (RANKED) { // a number of a column is exact as a float: V is below 2^24
        all.first = (int)-row_max(largest == all.largest ? -(float)first : -INFINITY, per_warp);
        if (isnan(all.sum)) all.first = -1;
    }
    return all;
}

extern "C" __global__ void __launch_bounds__(THREADS)
cross_entropy_forward(float *__restrict__ losses, int *__restrict__ correct, const act_t *__restrict__ logits,
                      const int *__restrict__ targets, int n_rows, int V, int Vp) {
    __shared__ float per_warp[THREADS / WARP];
    const int r = blockIdx.x * ROWS_PER_BLOCK + row_in_block();
    const bool exists = r < n_rows;
    const act_t *row = logits + (long long)r * Vp;
    const int target = exists ? targets[r] : 0;
    const float target_logit = exists ? to_float(row[target]) : 0;
    const RowSummary all = summarise<true>(row, exists ? V : 0, per_warp);
    if (exists && lane_in_row() == 0) {
        losses[r] = logf(all.sum) + (all.largest - target_logit);
        correct[r] = all.first == target;
    }
}

extern "C" __global__ void __launch_bounds__(THREADS)
cross_entropy_backward(float *__restrict__ losses, act_t *__restrict__ logits, const int *__restrict__ targets,
                       int n_rows, int V, int Vp, float scale) {
    __shared__ float per_warp[THREADS / WARP];
    const int r = blockIdx.x * ROWS_PER_BLOCK + row_in_block();
    const bool exists = r < n_rows;
    act_t *row = logits + (long long)r * Vp;
    const int target = exists ? targets[r] : 0;
    const float target_logit = exists ? to_float(row[target]) : 0;
    const RowSummary all = summarise<false>(row, exists ? V : 0, per_warp);
    __syncwarp(); // every lane has read the target's logit before one of them writes over it
    if (!exists) return;
    if (lane_in_row() == 0) losses[r] = logf(all.sum) + (all.largest - target_logit);
    const float inverse = 1 / all.sum;

    const int last = (Vp - 1) / ROW_STRIDE * ROW_STRIDE + lane_in_row() * VEC;
#pragma unroll 4
    for (int v = last; v >= 0; v -= ROW_STRIDE) {
        if (v >= Vp) continue;
        Pack<act_t, VEC> values;
        if (v < V) values = load_pack<VEC>(row + v);
#pragma unroll
        for (int k = 0; k < VEC; k++) {
            float gradient = 0;
            if (v + k < V) {
                gradient = expf(to_float(values.at[k]) - all.largest) * inverse;
                if (v + k == target) gradient -= 1;
            }
            store(values.at[k], gradient * scale);
        }
        store_pack(row + v, values);
    }
}

// The first of the pairs begin ... end - 1 whose target is v or above; `end` where there is none.
__device__ inline int first_pair(const int *targets, int begin, int end, int v) {
    while (begin < end) {
        const int middle = (begin + end) / 2;
        if (targets[middle] < v) begin = middle + 1;
        else end = middle;
    }
    return begin;
}

// The loss of a row's pairs begin ... end - 1, given to each of its threads, and in `total` the sum of their counts.
// Every thread of the block calls.
__device__ inline float pairs_loss(const act_t *row, const int *targets, const int *counts, int begin, int end,
                                   RowSummary all, float *total, float *per_warp) {
    float loss = 0, count = 0;
    for (int i = begin + lane_in_row(); i < end; i += THREADS_PER_ROW) {
        loss += counts[i] * (logf(all.sum) + (all.largest - to_float(row[targets[i]])));
        count += counts[i];
    }
    *total = row_sum(count, per_warp);
    return row_sum(loss, per_warp);
}

extern "C" __global__ void __launch_bounds__(THREADS)
cross_entropy_pairs_forward(float *__restrict__ losses, int *__restrict__ correct, const act_t *__restrict__ logits,
                            const int *__restrict__ pair_begins, const int *__restrict__ targets,
                            const int *__restrict__ counts, int n_rows, int V, int Vp) {
    __shared__ float per_warp[THREADS / WARP];
    const int r = blockIdx.x * ROWS_PER_BLOCK + row_in_block();
    const bool exists = r < n_rows;
    const act_t *row = logits + (long long)r * Vp;
    const int begin = exists ? pair_begins[r] : 0, end = exists ? pair_begins[r + 1] : 0;
    const RowSummary all = summarise<true>(row, exists ? V : 0, per_warp);
    float total;
    const float loss = pairs_loss(row, targets, counts, begin, end, all, &total, per_warp);
    if (!exists || lane_in_row() > 0) return;
    losses[r] = loss;
    const int i = first_pair(targets, begin, end, all.first);
    correct[r] = i < end && targets[i] == all.first ? counts[i] : 0;
}

// As cross_entropy_backward; a pack's first pair is looked up in log2(pairs) steps, one in rows with a single target.
// Without the 2 ptxas spills to fit more blocks.
extern "C" __global__ void __launch_bounds__(THREADS, 2)
cross_entropy_pairs_backward(float *__restrict__ losses, act_t *__restrict__ logits,
                             const int *__restrict__ pair_begins, const int *__restrict__ targets,
                             const int *__restrict__ counts, int n_rows, int V, int Vp, float scale) {
    __shared__ float per_warp[THREADS / WARP];
    const int r = blockIdx.x * ROWS_PER_BLOCK + row_in_block();
    const bool exists = r < n_rows;
    act_t *row = logits + (long long)r * Vp;
    const int begin = exists ? pair_begins[r] : 0, end = exists ? pair_begins[r + 1] : 0;
    const RowSummary all = summarise<false>(row, exists ? V : 0, per_warp);
    float total;
    const float loss = pairs_loss(row, targets, counts, begin, end, all, &total, per_warp);
    __syncwarp(); // every lane has read its targets' logits before one of them writes over them
    if (!exists) return;
    if (lane_in_row() == 0) losses[r] = loss;
    const float inverse = 1 / all.sum;

    const int last = (Vp - 1) / ROW_STRIDE * ROW_STRIDE + lane_in_row() * VEC;
    for (int v = last; v >= 0; v -= ROW_STRIDE) {
        if (v >= Vp) continue;
        Pack<act_t, VEC> values;
        if (v < V) values = load_pack<VEC>(row + v);
        int i = first_pair(targets, begin, end, v);
#pragma unroll
        for (int k = 0; k < VEC; k++) {
            float gradient = 0;
            if (v + k < V) {
                gradient = expf(to_float(values.at[k]) - all.largest) * inverse * total;
                if (i < end && targets[i] == v + k) gradient -= counts[i++];
            }
            store(values.at[k], gradient * scale);
        }
        store_pack(row + v, values);
    }
}

// stats[0] += scale * sum(losses). One block; thread i adds every 1024th loss.
extern "C" __global__ void __launch_bounds__(SUM_THREADS)
add_losses(float *__restrict__ stats, const float *__restrict__ losses, int n_rows, float scale) {
    __shared__ float per_warp[WARP];
    float sum = 0;
#pragma unroll 8
    for (int r = threadIdx.x; r < n_rows; r += blockDim.x) sum += losses[r];
    sum = block_sum(sum, per_warp);
    if (threadIdx.x == 0) stats[0] += scale * sum;
}
