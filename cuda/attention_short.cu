// Causal attention of short rows, T <= GROUP: one thread per query, many heads in a block.
//
//   S[t][j] = q[t] . k[j] / sqrt(HS),  P[t] = softmax(S[t][0..t]),  out[t] = sum_j P[t][j] v[j]
//
// qkv (B*T, 3C): q, k, v of head h in columns h*HS, C + h*HS, 2C + h*HS. out (B*T, C). lse (B, NH, T): log of the sum
// of exp S[t]. GROUP (8, 16 or 32) neighbouring threads work on one (sequence, head), so that none waits for another
// warp. A thread reads its own row of q once for every KEYS keys, and all rows of k and v, again and again, from L1:
// the threads of a group want the same address at the same time, and such a load is one broadcast. S and P never
// leave shared memory.
//
// With AT_POSITIONS there are n queries per sequence instead of T, query i at positions[i] (n, ascending), and q, dq,
// out and dout are (B*n, C), lse (B, NH, n); of qkv and dqkv nothing but columns C.. is touched. Without, query t is at
// position t, n is T, q is qkv itself, dq dqkv, and `positions` null.
// build: VEC=4:8; HEAD_SIZE=32,64; GROUP=8,32; AT_POSITIONS=0,1
#include "floats.cuh"

#define THREADS 128
#define GROUPS (THREADS / GROUP)
#define KEYS 8 // scores that a thread sums side by side, in registers

// dots[i] = mine . row first + i, of rows `stride` apart; past the last row, which is T - 1, that one again.
__device__ inline void dot_rows(float (&dots)[KEYS], const act_t *mine, const act_t *rows, int first, int stride,
                                int T) {
#pragma unroll
    for (int i = 0; i < KEYS; i++) dots[i] = 0.0f;
#pragma unroll 1
    for (int c = 0; c < HEAD_SIZE; c += VEC) {
        const Floats x = read(mine + c);
#pragma unroll
        for (int i = 0; i < KEYS; i++) dots[i] = add_dot(dots[i], x, read(rows + min(first + i, T - 1) * stride + c));
    }
}

// One thread: out and lse of one query of one head.
extern "C" __global__ void __launch_bounds__(THREADS, 4)
    attention_short_forward(act_t *__restrict__ out, float *__restrict__ lse, const act_t *__restrict__ queries,
                            const act_t *__restrict__ qkv, const int *__restrict__ positions, int B, int n, int T,
                            int NH) {
    __shared__ float shared_p[THREADS][GROUP + 1]; // an odd row, so that a column lies in different banks
    const int query = threadIdx.x % GROUP;
    const long long row = (long long)blockIdx.x * GROUPS + threadIdx.x / GROUP; // b * NH + h
    if (row >= (long long)B * NH || query >= n) return;                        // nobody waits for this thread

    const int t = AT_POSITIONS ? positions[query] : query;
    const int C = NH * HEAD_SIZE, stride = 3 * C, column = (int)(row % NH) * HEAD_SIZE;
    const long long wide = row / NH * T * stride + column, narrow = (row / NH * n + query) * C + column;
    const act_t *q = queries + (AT_POSITIONS ? narrow : wide + t * stride), *k = qkv + wide + C, *v = k + C;
    const float scale = 1.0f / sqrtf((float)HEAD_SIZE);
    float *p = shared_p[threadIdx.x]; // (T), no other thread looks at it

    float highest = -INFINITY, sum = 0.0f;
    for (int j = 0; j < T; j += KEYS) {
        float s[KEYS];
        dot_rows(s, q, k, j, stride, T);
#pragma unroll
        for (int i = 0; i < KEYS; i++) {
            p[j + i] = j + i <= t ? scale * s[i] : -INFINITY;
            highest = fmaxf(highest, p[j + i]);
        }
    }
    for (int j = 0; j < T; j++) {
        p[j] = expf(p[j] - highest);
        sum += p[j];
    }
    lse[row * n + query] = highest + logf(sum);

    for (int c = 0; c < HEAD_SIZE; c += VEC) {
        Floats o = {};
#pragma unroll 4
        for (int j = 0; j < T; j++) add_scaled(o, p[j], read(v + j * stride + c));
        write(out + narrow + c, o, 1.0f / sum);
    }
}

// With P = exp(S - lse) and delta[t] = dout[t] . out[t]:
//
//   dS[t][j] = P[t][j] (dout[t] . v[j] - delta[t])
//   dq[t] = sum_j dS[t][j] k[j] / sqrt(HS),  dk[j] = sum_t dS[t][j] q[t] / sqrt(HS),  dv[j] = sum_t P[t][j] dout[t]
//
// One thread: dq of query t, then dk and dv of key t, zeros where no query sees it, when P and dS are read by column
// instead of by row. Rows of q and dout are read again as those of k and v are.
extern "C" __global__ void __launch_bounds__(THREADS, 4)
    attention_short_backward(act_t *__restrict__ dqueries, act_t *__restrict__ dqkv, const act_t *__restrict__ dout,
                             const act_t *__restrict__ out, const float *__restrict__ lse,
                             const act_t *__restrict__ queries, const act_t *__restrict__ qkv,
                             const int *__restrict__ positions, int B, int n, int T, int NH) {
    __shared__ float shared_p[THREADS][GROUP + 1];
    __shared__ float shared_ds[THREADS][GROUP + 1];
    const int t = threadIdx.x % GROUP, group = threadIdx.x - t; // first row of the group in shared memory
    const long long row = (long long)blockIdx.x * GROUPS + threadIdx.x / GROUP;
    const bool active = row < (long long)B * NH;

    const int C = NH * HEAD_SIZE, stride = 3 * C, column = (int)(row % NH) * HEAD_SIZE;
    const int q_stride = AT_POSITIONS ? C : stride;
    const long long wide = row / NH * T * stride + column, narrow = row / NH * n * C + column;
    const long long q_first = AT_POSITIONS ? narrow : wide;
    const act_t *q = queries + q_first, *k = qkv + wide + C, *v = k + C, *o = out + narrow, *d_o = dout + narrow;
    const float scale = 1.0f / sqrtf((float)HEAD_SIZE);

    if (active && t < n) {
        const int position = AT_POSITIONS ? positions[t] : t;
        float delta = 0.0f;
        for (int c = 0; c < HEAD_SIZE; c += VEC) delta = add_dot(delta, read(d_o + t * C + c), read(o + t * C + c));
        const float log_sum = lse[row * n + t];
        float *p = shared_p[threadIdx.x], *ds = shared_ds[threadIdx.x];
        for (int j = 0; j < T; j += KEYS) {
            float s[KEYS], dp[KEYS];
            dot_rows(s, q + t * q_stride, k, j, stride, T);
            dot_rows(dp, d_o + t * C, v, j, stride, T);
#pragma unroll
            for (int i = 0; i < KEYS; i++) {
                p[j + i] = j + i <= position ? expf(scale * s[i] - log_sum) : 0.0f;
                ds[j + i] = p[j + i] * (dp[i] - delta);
            }
        }
        for (int c = 0; c < HEAD_SIZE; c += VEC) {
            Floats dq = {};
#pragma unroll 4
            for (int j = 0; j < T; j++) add_scaled(dq, ds[j], read(k + j * stride + c));
            write(dqueries + q_first + t * q_stride + c, dq, scale);
        }
    }
    __syncwarp();
    if (active && t < T) {
        for (int c = 0; c < HEAD_SIZE; c += VEC) {
            Floats dk = {}, dv = {};
#pragma unroll 4
            for (int i = 0; i < n; i++) {
                add_scaled(dk, shared_ds[group + i][t], read(q + i * q_stride + c));
                add_scaled(dv, shared_p[group + i][t], read(d_o + i * C + c));
            }
            write(dqkv + wide + C + t * stride + c, dk, scale);
            write(dqkv + wide + 2 * C + t * stride + c, dv, 1.0f);
        }
    }
}
