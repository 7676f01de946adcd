// Cross entropy of each row of logits against its target, and its gradient.
//   forward   losses[r] = log(sum_v exp(x[r,v])) - x[r,targets[r]]
//             correct[r] = 1 where the target is the first of the largest logits, else 0
//   backward  x[r,v] <- (exp(x[r,v]) / sum_u exp(x[r,u]) - [v = targets[r]]) * scale, in place; losses as above
// Shapes: logits (n_rows,Vp), of which V columns are real; padded columns never enter and have gradient 0.
// targets, correct (n_rows) int; losses (n_rows), nats. VEC divides Vp.
// WARPS_PER_ROW warps share a row. Each thread takes every THREADS_PER_ROW-th pack of it; the gradient reads the row a
// second time, from its end, where the caches still hold it.
// build: VEC=4:8; WARPS_PER_ROW=1,16
#define THREADS 512
#include "rows.cuh"

#define ROWS_PER_BLOCK (THREADS / THREADS_PER_ROW)
#define ROW_STRIDE (THREADS_PER_ROW * VEC)

struct RowSummary {
    float largest; // logit
    float sum;     // of exp(logit - largest)
    bool beaten;   // some logit ranks before the target's, or is nan; false unless RANKED
};

// Reads the first V logits of a row once, keeping a running maximum and rescaling the sum when it grows.
// V is 0 for a row that does not exist. Every thread of the block calls. RANKED: whether the target's rank is asked
// for; nobody reads it in backward, and shuffles would keep it alive.
template <bool RANKED>
__device__ inline RowSummary summarise(const act_t *row, int target, float target_logit, int V, float *per_warp) {
    float largest = -INFINITY, sum = 0;
    bool beaten = false;
#pragma unroll 4
    for (int v = lane_in_row() * VEC; v < V; v += ROW_STRIDE) {
        const Pack<act_t, VEC> logits = load_pack<VEC>(row + v);
        float x[VEC];
        const float before = largest;
#pragma unroll
        for (int k = 0; k < VEC; k++) {
            x[k] = v + k < V ? to_float(logits.at[k]) : -INFINITY;
            largest = fmaxf(largest, x[k]);
            if (RANKED) beaten |= !(x[k] < target_logit || (x[k] == target_logit && v + k >= target));
        }
        sum *= expf(before - largest);
#pragma unroll
        for (int k = 0; k < VEC; k++) sum += expf(x[k] - largest);
    }
    RowSummary all;
    all.largest = row_max(largest, per_warp);
    all.sum = row_sum(sum * expf(largest - all.largest), per_warp);
    all.beaten = RANKED && row_max(beaten, per_warp) > 0;
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
    const RowSummary all = summarise<true>(row, target, target_logit, exists ? V : 0, per_warp);
    if (exists && lane_in_row() == 0) {
        losses[r] = logf(all.sum) + (all.largest - target_logit);
        correct[r] = !all.beaten;
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
    const RowSummary all = summarise<false>(row, target, target_logit, exists ? V : 0, per_warp);
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

// stats[0] += scale * sum(losses). One block; thread i adds every 1024th loss.
extern "C" __global__ void __launch_bounds__(1024)
add_losses(float *__restrict__ stats, const float *__restrict__ losses, int n_rows, float scale) {
    __shared__ float per_warp[WARP];
    float sum = 0;
#pragma unroll 8
    for (int r = threadIdx.x; r < n_rows; r += blockDim.x) sum += losses[r];
    sum = block_sum(sum, per_warp);
    if (threadIdx.x == 0) stats[0] += scale * sum;
}
