// The global gradient norm, the factor that clips it, and the flag that stops a training run that diverged.
//   norm = sqrt(sum of grads[i]^2 over the entries that the bands keep)
//   stats[1] = norm;  stats[2] = clip / norm where clip > 0 and norm > clip, else 1
// Where stats[0] (the loss) or the norm is not finite and no flag is set: flag[0] = update[0], the number of this
// update, and failure = {loss, norm}. AdamW does nothing once the flag is set.
// grads: float, flat, one row of `tensors` each (tensors.cuh). Reads every kept gradient once; what a band leaves out
// may hold anything. Two stages with fixed shapes: the same gradients give the same bits.
// build: no act_t; VEC=4
#include "tensors.cuh"

#define THREADS 256
#define FINISH_THREADS 512

// blockIdx.y is the tensor; a thread takes every (gridDim.x * THREADS)-th pack of it.
// partials (n_tensors, gridDim.x)
extern "C" __global__ void __launch_bounds__(THREADS)
grad_norm_partials(float *__restrict__ partials, const float *__restrict__ grads,
                   const long long *__restrict__ tensors) {
    __shared__ float per_warp[THREADS / WARP];
    const Tensor tensor = tensor_of(tensors, blockIdx.y);
    const float *of_tensor = grads + tensor.begin;
    float sum = 0;
    for (int at = (blockIdx.x * THREADS + threadIdx.x) * VEC; at < tensor.size; at += gridDim.x * THREADS * VEC) {
        const Range kept = kept_of_pack(tensor, at);
        if (kept.begin == 0 && kept.end == VEC) {
            const Pack<float, VEC> g = load_pack<VEC>(of_tensor + at);
#pragma unroll
            for (int k = 0; k < VEC; k++) sum += g.at[k] * g.at[k];
        } else {
            for (int k = kept.begin; k < kept.end; k++) sum += of_tensor[at + k] * of_tensor[at + k];
        }
    }
    sum = block_sum(sum, per_warp);
    if (threadIdx.x == 0) partials[blockIdx.y * gridDim.x + blockIdx.x] = sum;
}

// One block; thread i adds every 512th partial.
extern "C" __global__ void __launch_bounds__(FINISH_THREADS)
grad_norm_finish(float *__restrict__ stats, int *__restrict__ flag, float *__restrict__ failure,
                 const float *__restrict__ partials, const int *__restrict__ update, int n_partials, float clip) {
    __shared__ float per_warp[WARP];
    float sum = 0;
#pragma unroll 4
    for (int i = threadIdx.x; i < n_partials; i += blockDim.x) sum += partials[i];
    sum = block_sum(sum, per_warp);
    if (threadIdx.x > 0) return;

    const float loss = stats[0], norm = sqrtf(sum);
    stats[1] = norm;
    stats[2] = clip > 0 && norm > clip ? clip / norm : 1;
    const bool finite = fabsf(loss) < INFINITY && fabsf(norm) < INFINITY; // false for nan as well
    if (!finite && flag[0] == 0) {
        flag[0] = update[0];
        failure[0] = loss;
        failure[1] = norm;
    }
}
