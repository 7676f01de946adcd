// One pack of activations as float: read, written, multiplied, added. VEC says how many.
#pragma once
#include "common.cuh"

typedef Pack<float, VEC> Floats;

__device__ inline Floats read(const act_t *source) {
    const Pack<act_t, VEC> stored = load_pack<VEC>(source);
    Floats values;
#pragma unroll
    for (int i = 0; i < VEC; i++) values.at[i] = to_float(stored.at[i]);
    return values;
}

__device__ inline void write(act_t *target, const Floats &values, float factor) {
    Pack<act_t, VEC> stored;
#pragma unroll
    for (int i = 0; i < VEC; i++) store(stored.at[i], factor * values.at[i]);
    store_pack<VEC>(target, stored);
}

__device__ inline float add_dot(float sum, const Floats &a, const Floats &b) {
#pragma unroll
    for (int i = 0; i < VEC; i++) sum = fmaf(a.at[i], b.at[i], sum);
    return sum;
}

__device__ inline void add_scaled(Floats &sum, float weight, const Floats &x) {
#pragma unroll
    for (int i = 0; i < VEC; i++) sum.at[i] = fmaf(weight, x.at[i], sum.at[i]);
}
