// The rows at counted positions, side by side, and the way back for their gradients.
//   forward   out[b*n+i,:] = x[b*T+counted[i],:]
//   backward  dx[b*T+t,:] = dout[b*n+slots[t],:], or 0 where slots[t] < 0: every row of dx is written
// Shapes: x, dx (B,T,C), out, dout (B,n,C), counted (n) ascending, slots (T) its inverse with -1 for not counted.
// VEC divides C. One thread moves VEC channels of one row; nothing is read twice.
// build: VEC=4:8
#include "common.cuh"

#define THREADS 256

extern "C" __global__ void __launch_bounds__(THREADS)
gather_forward(act_t *__restrict__ out, const act_t *__restrict__ x, const int *__restrict__ counted, int B, int T,
               int n, int C) {
    const int packs_per_row = C / VEC;
    const int pack = blockIdx.x * blockDim.x + threadIdx.x;
    const int row = pack / packs_per_row;
    if (row >= B * n) return;
    const int c = (pack - row * packs_per_row) * VEC;
    const int b = row / n;
    const long long source = (long long)b * T + counted[row - b * n];
    store_pack(out + (long long)row * C + c, load_pack<VEC>(x + source * C + c));
}

extern "C" __global__ void __launch_bounds__(THREADS)
gather_backward(act_t *__restrict__ dx, const act_t *__restrict__ dout, const int *__restrict__ slots, int B, int T,
                int n, int C) {
    const int packs_per_row = C / VEC;
    const int pack = blockIdx.x * blockDim.x + threadIdx.x;
    const int row = pack / packs_per_row;
    if (row >= B * T) return;
    const int c = (pack - row * packs_per_row) * VEC;
    const int b = row / T;
    const int slot = slots[row - b * T];
    Pack<act_t, VEC> values;
    if (slot >= 0) {
        values = load_pack<VEC>(dout + ((long long)b * n + slot) * C + c);
    } else {
#pragma unroll
        for (int k = 0; k < VEC; k++) store(values.at[k], 0);
    }
    store_pack(dx + (long long)row * C + c, values);
}
