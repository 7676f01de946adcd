// GELU by tanh (Hendrycks & Gimpel 2016, https://arxiv.org/abs/1606.08415):
//   gelu(x)  = 0.5 x (1 + tanh u),  u = sqrt(2/pi) (x + 0.044715 x^3)
//   gelu'(x) = 0.5 (1 + tanh u) + 0.5 x (1 - tanh^2 u) u',  u' = sqrt(2/pi) (1 + 3 * 0.044715 x^2)
// With t = e^(-2|u|), which neither overflows nor is lost beside 1 where its digits count:
//   0.5 (1 + tanh u) = s = (u < 0 ? t : 1) / (1 + t),  0.5 (1 - tanh^2 u) = 2 s (1 - s) = 2 t / (1 + t)^2
// build: VEC=4:8
#include "common.cuh"

#define THREADS 256

constexpr float SQRT_2_OVER_PI = 0.79788456080286535588;
constexpr float CUBIC = 0.044715;

__device__ inline float gelu(float x) {
    const float u = SQRT_2_OVER_PI * x * (1.0f + CUBIC * x * x);
    const float t = expf(-2.0f * fabsf(u));
    return x * (u < 0.0f ? t : 1.0f) / (1.0f + t);
}

__device__ inline float gelu_derivative(float x) {
    const float u = SQRT_2_OVER_PI * x * (1.0f + CUBIC * x * x);
    const float slope = SQRT_2_OVER_PI * (1.0f + 3.0f * CUBIC * x * x);
    const float t = expf(-2.0f * fabsf(u)), r = 1.0f / (1.0f + t);
    return r * ((u < 0.0f ? t : 1.0f) + 2.0f * x * slope * t * r);
}

// pre[r, i] += bias[i], rounded to act_t; out[r, i] = gelu(pre[r, i]) of the rounded value, which backward sees too.
// pre and out are (rows, N), bias is (N). A thread takes one pack of columns in ROWS_PER_THREAD rows, all of them
// loaded before any is stored. Blocks are `lanes` packs wide, as in bias.cu. Every value of pre is read once.
#define ROWS_PER_THREAD 4
extern "C" __global__ void __launch_bounds__(THREADS)
    bias_gelu_forward(act_t *__restrict__ out, act_t *__restrict__ pre, const float *__restrict__ bias, int rows, int n,
                      int lanes) {
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
        if (row < rows) values[i] = load_pack<VEC>(pre + (long long)row * n + pack * VEC);
    }
#pragma unroll
    for (int i = 0; i < ROWS_PER_THREAD; i++) {
        const int row = first + i * height;
        if (row >= rows) return;
        for (int j = 0; j < VEC; j++) store(values[i].at[j], to_float(values[i].at[j]) + b.at[j]);
        store_pack(pre + (long long)row * n + pack * VEC, values[i]);
        for (int j = 0; j < VEC; j++) store(values[i].at[j], gelu(to_float(values[i].at[j])));
        store_pack(out + (long long)row * n + pack * VEC, values[i]);
    }
}

// gradient[i] *= gelu'(pre[i]), in place: the gradient of out becomes the gradient of pre. Both hold `packs` packs.
// A thread takes PACKS_PER_THREAD packs, a block apart, loaded before any is stored. Every value is read once.
#define PACKS_PER_THREAD 2
extern "C" __global__ void __launch_bounds__(THREADS)
    gelu_backward(act_t *__restrict__ gradient, const act_t *__restrict__ pre, long long packs) {
    const long long first = (long long)blockIdx.x * PACKS_PER_THREAD * blockDim.x + threadIdx.x;
    Pack<act_t, VEC> dy[PACKS_PER_THREAD], x[PACKS_PER_THREAD];
#pragma unroll
    for (int i = 0; i < PACKS_PER_THREAD; i++) {
        const long long pack = first + i * blockDim.x;
        if (pack < packs) {
            dy[i] = load_pack<VEC>(gradient + pack * VEC);
            x[i] = load_pack<VEC>(pre + pack * VEC);
        }
    }
#pragma unroll
    for (int i = 0; i < PACKS_PER_THREAD; i++) {
        const long long pack = first + i * blockDim.x;
        if (pack >= packs) return;
        for (int j = 0; j < VEC; j++) {
            store(dy[i].at[j], to_float(dy[i].at[j]) * gelu_derivative(to_float(x[i].at[j])));
        }
        store_pack(gradient + pack * VEC, dy[i]);
    }
}
