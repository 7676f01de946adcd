// AdamW (Loshchilov and Hutter, 2019, algorithm 2) over all parameters in one launch.
//   g = grads * stats[2] (clipping)
//   p <- p * (1 - lr * weight_decay) where the tensor decays
//   m <- m + (1 - beta1) * (g - m),  v <- v + (1 - beta2) * (g^2 - v)
//   p <- p - lr / (1 - beta1^t) * m / (sqrt(v) / sqrt(1 - beta2^t) + eps);  weights = p in act_t, where there are any
// schedule = {lr, 1 - beta1^t, sqrt(1 - beta2^t)}. params, m, v, grads, weights: flat, one row of `tensors` each.
// Entries that a band leaves out are neither read nor written. Nothing changes once flag[0] is set. Reads and writes
// everything once.
// build: VEC=4
#include "tensors.cuh"

#define THREADS 256 // and __launch_bounds__(THREADS, 1): without the 1 ptxas spills to fit more blocks

struct Update {
    float decay, gradient_factor, one_minus_beta1, one_minus_beta2, step_size, root_scale, eps;
};

__device__ inline void update_entry(float &p, float &m, float &v, float grad, const Update &update) {
    const float g = grad * update.gradient_factor;
    m += update.one_minus_beta1 * (g - m);
    v += update.one_minus_beta2 * (g * g - v);
    p = p * update.decay - update.step_size * m / (sqrtf(v) * update.root_scale + update.eps);
}

// blockIdx.y is the tensor; a thread takes every (gridDim.x * THREADS)-th pack of it.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
adamw_update(float *__restrict__ params, float *__restrict__ m, float *__restrict__ v, act_t *__restrict__ weights,
             const float *__restrict__ grads, const long long *__restrict__ tensors,
             const float *__restrict__ schedule, const float *__restrict__ stats, const int *__restrict__ flag,
             float one_minus_beta1, float one_minus_beta2, float eps, float weight_decay) {
    if (flag[0] != 0) return;
    const Tensor tensor = tensor_of(tensors, blockIdx.y);
    const float lr = schedule[0];
    const Update update = {tensor.decays ? 1 - lr * weight_decay : 1, stats[2], one_minus_beta1, one_minus_beta2,
                           lr / schedule[1], 1 / schedule[2], eps};
    for (int at = (blockIdx.x * THREADS + threadIdx.x) * VEC; at < tensor.size; at += gridDim.x * THREADS * VEC) {
        const Range kept = kept_of_pack(tensor, at);
        const long long i = tensor.begin + at;
        if (kept.begin == 0 && kept.end == VEC) {
            Pack<float, VEC> p = load_pack<VEC>(params + i), first = load_pack<VEC>(m + i),
                             second = load_pack<VEC>(v + i);
            const Pack<float, VEC> g = load_pack<VEC>(grads + i);
            Pack<act_t, VEC> rounded;
#pragma unroll
            for (int k = 0; k < VEC; k++) {
                update_entry(p.at[k], first.at[k], second.at[k], g.at[k], update);
                store(rounded.at[k], p.at[k]);
            }
            store_pack(params + i, p);
            store_pack(m + i, first);
            store_pack(v + i, second);
            if (weights) store_pack(weights + i, rounded);
        } else {
            for (int k = kept.begin; k < kept.end; k++) {
                update_entry(params[i + k], m[i + k], v[i + k], grads[i + k], update);
                if (weights) store(weights[i + k], params[i + k]);
            }
        }
    }
}
