// Causal attention of the nodes of a prefix tree: a node sees its ancestors, from the root on, and itself.
//
//   S[i][s] = q[i] . k[path[node][s]] / sqrt(HS), s = 0..positions[node],  P[i] = softmax(S[i])
//   out[i] = sum_s P[i][s] v[path[node][s]]
//
// Query i of m is at node nodes[i] of n, or at node i where `nodes` is null. q: rows of q_stride, of which the first C
// columns: qkv itself, or (m, C). qkv (n, 3C): k and v of head h in columns C + h*HS, 2C + h*HS. path (n, T),
// positions (n). out (m, C). lse (m, NH): log of the sum of exp S[i].
// LANES neighbouring threads, a group, work on one query (or key) of one head, each on every LANES-th pack of its
// channels: a row is read by neighbouring threads side by side, once, and a product of two rows is summed by shuffles.
// Groups that are neighbours work on the heads of one row. Rows of k and v near the root are read again by every query
// below them, from L1 or L2. Loops are as long for every group of a warp as for the longest, so that all lanes shuffle.
// build: VEC=4:8; HEAD_SIZE=32,64,256
#include "floats.cuh"

#define THREADS 128
#define HEAD_PACKS (HEAD_SIZE / VEC)
#define LANES                                                                                                          \
    (HEAD_PACKS > 16 ? 32 : HEAD_PACKS > 8 ? 16 : HEAD_PACKS > 4 ? 8 : HEAD_PACKS > 2 ? 4 : HEAD_PACKS)
#define PACKS ((HEAD_PACKS + LANES - 1) / LANES) // of a thread
#define KEYS 8                                   // or queries, that a group has in flight: forward
#define PAIRS 4                                  // and backward, where each of them has two rows

// A thread's share of one row of a head.
struct Share {
    Floats at[PACKS];
};

__device__ inline int channel(int n) { return (threadIdx.x % LANES + n * LANES) * VEC; }

// The row of a head that begins at `row`, or zeros.
__device__ inline Share read_share(const act_t *row, bool exists) {
    Share share = {};
#pragma unroll
    for (int n = 0; n < PACKS; n++)
        if (exists && channel(n) < HEAD_SIZE) share.at[n] = read(row + channel(n));
    return share;
}

__device__ inline void write_share(act_t *row, const Share &share, float factor) {
#pragma unroll
    for (int n = 0; n < PACKS; n++)
        if (channel(n) < HEAD_SIZE) write(row + channel(n), share.at[n], factor);
}

__device__ inline void add_scaled(Share &sum, float weight, const Share &x) {
#pragma unroll
    for (int n = 0; n < PACKS; n++) add_scaled(sum.at[n], weight, x.at[n]);
}

// a . b, given to every thread of the group.
__device__ inline float dot(const Share &a, const Share &b) {
    float sum = 0.0f;
#pragma unroll
    for (int n = 0; n < PACKS; n++) sum = add_dot(sum, a.at[n], b.at[n]);
#pragma unroll
    for (int offset = LANES / 2; offset > 0; offset /= 2) sum += __shfl_xor_sync(FULL_MASK, sum, offset);
    return sum;
}

// The longest loop of the warp's groups.
__device__ inline int longest_of_warp(int n) {
#pragma unroll
    for (int offset = WARP / 2; offset >= LANES; offset /= 2) n = max(n, __shfl_xor_sync(FULL_MASK, n, offset));
    return n;
}

// What a group works on: row `row` of `rows`, head h; the groups past the last row take part in shuffles only.
struct Group {
    int number, row, h, C, stride, column; // number = row * NH + h
    bool active;
    __device__ Group(int rows, int NH) {
        number = (blockIdx.x * THREADS + threadIdx.x) / LANES;
        row = number / NH;
        h = number % NH;
        active = row < rows;
        C = NH * HEAD_SIZE;
        stride = 3 * C;
        column = h * HEAD_SIZE;
    }
};

// One group: out[i] and lse[i] of one head. The softmax is taken as the keys come: when a higher score turns up, what
// was summed so far is scaled down. Up to KEYS keys it is the plain one.
extern "C" __global__ void __launch_bounds__(THREADS, 4)
    attention_tree_forward(act_t *__restrict__ out, float *__restrict__ lse, const act_t *__restrict__ q,
                           const act_t *__restrict__ qkv, const int *__restrict__ path,
                           const int *__restrict__ positions, const int *__restrict__ nodes, int q_stride, int m, int T,
                           int NH) {
    const Group group(m, NH);
    const int node = group.active && nodes ? nodes[group.row] : group.row;
    const int n_keys = group.active ? positions[node] + 1 : 0, longest = longest_of_warp(n_keys);
    const act_t *k = qkv + group.C + group.column, *v = k + group.C;
    const float scale = 1.0f / sqrtf((float)HEAD_SIZE);

    const Share x = read_share(q + (long long)group.row * q_stride + group.column, group.active);
    Share o = {};
    float highest = -INFINITY, sum = 0.0f;
    for (int first = 0; first < longest; first += KEYS) {
        long long rows[KEYS]; // where each key's row begins, -1 past the last key
        float p[KEYS], next = highest;
#pragma unroll
        for (int j = 0; j < KEYS; j++)
            rows[j] = first + j < n_keys ? (long long)path[(long long)node * T + first + j] * group.stride : -1;
#pragma unroll
        for (int j = 0; j < KEYS; j++) {
            const float s = dot(x, read_share(k + rows[j], rows[j] >= 0));
            p[j] = rows[j] >= 0 ? scale * s : -INFINITY;
            next = fmaxf(next, p[j]); // finite from the first round on: every query sees the root
        }
        const float correction = expf(highest - next);
        highest = next;
        sum *= correction;
#pragma unroll
        for (int n = 0; n < PACKS; n++)
#pragma unroll
            for (int e = 0; e < VEC; e++) o.at[n].at[e] *= correction;
#pragma unroll
        for (int j = 0; j < KEYS; j++) {
            p[j] = expf(p[j] - next);
            sum += p[j];
            add_scaled(o, p[j], read_share(v + rows[j], rows[j] >= 0));
        }
    }
    if (!group.active) return;
    write_share(out + (long long)group.row * group.C + group.column, o, 1.0f / sum);
    if (threadIdx.x % LANES == 0) lse[group.number] = highest + logf(sum);
}

// With P = exp(S - lse), delta[i] = dout[i] . out[i] and dS[i][s] = P[i][s] (dout[i] . v[path[node][s]] - delta[i]):
//
//   dq[i] = sum_s dS[i][s] k[path[node][s]] / sqrt(HS)
//
// One group: dq[i] and delta[i] of one head. dq has rows of q_stride: dqkv itself, or (m, C). delta (m, NH).
extern "C" __global__ void __launch_bounds__(THREADS, 4)
    attention_tree_backward_q(act_t *__restrict__ dq, float *__restrict__ delta, const act_t *__restrict__ dout,
                              const act_t *__restrict__ out, const float *__restrict__ lse,
                              const act_t *__restrict__ q, const act_t *__restrict__ qkv,
                              const int *__restrict__ path, const int *__restrict__ positions,
                              const int *__restrict__ nodes, int q_stride, int m, int T, int NH) {
    const Group group(m, NH);
    const int node = group.active && nodes ? nodes[group.row] : group.row;
    const int n_keys = group.active ? positions[node] + 1 : 0, longest = longest_of_warp(n_keys);
    const long long wide = (long long)group.row * q_stride + group.column;
    const long long narrow = (long long)group.row * group.C + group.column;
    const act_t *k = qkv + group.C + group.column, *v = k + group.C;
    const float scale = 1.0f / sqrtf((float)HEAD_SIZE);

    const Share x = read_share(q + wide, group.active), d_o = read_share(dout + narrow, group.active);
    const float row_delta = dot(d_o, read_share(out + narrow, group.active));
    const float row_lse = group.active ? lse[group.number] : 0.0f;
    Share sum = {};
    for (int first = 0; first < longest; first += PAIRS) {
        long long rows[PAIRS];
#pragma unroll
        for (int j = 0; j < PAIRS; j++)
            rows[j] = first + j < n_keys ? (long long)path[(long long)node * T + first + j] * group.stride : -1;
#pragma unroll
        for (int j = 0; j < PAIRS; j++) {
            const Share key = read_share(k + rows[j], rows[j] >= 0);
            const float s = dot(x, key), dp = dot(d_o, read_share(v + rows[j], rows[j] >= 0));
            const float p = rows[j] >= 0 ? expf(scale * s - row_lse) : 0.0f;
            add_scaled(sum, p * (dp - row_delta), key);
        }
    }
    if (!group.active) return;
    write_share(dq + wide, sum, scale);
    if (threadIdx.x % LANES == 0) delta[group.number] = row_delta;
}

//   dk[j] = sum_i dS[i][j] q[i] / sqrt(HS),  dv[j] = sum_i P[i][j] dout[i], over the queries i that see key j
//
// Nodes are in preorder, so those queries are neighbours. items (n_items, 4): key, first query, past the last one,
// slot; key -1 is padding. One group: one item of one head. With slot -1 it writes columns C.. and 2C.. of the key's
// row of dqkv (n, 3C), zeros when no query sees the key; else its part of the sums, as partials[slot] (2, C).
// Rows of q and dout are read again for each of their ancestors.
extern "C" __global__ void __launch_bounds__(THREADS, 4)
    attention_tree_backward_kv(act_t *__restrict__ dqkv, float *__restrict__ partials, const act_t *__restrict__ dout,
                               const float *__restrict__ lse, const float *__restrict__ delta,
                               const act_t *__restrict__ q, const act_t *__restrict__ qkv,
                               const int *__restrict__ items, int q_stride, int n_items, int NH) {
    const Group group(n_items, NH);
    const int *item = items + 4LL * group.row;
    const int key = group.active ? item[0] : -1;
    const int begin = key >= 0 ? item[1] : 0, end = key >= 0 ? item[2] : 0, longest = longest_of_warp(end - begin);
    const long long wide = (long long)key * group.stride + group.C + group.column;
    const float scale = 1.0f / sqrtf((float)HEAD_SIZE);

    const Share k = read_share(qkv + wide, key >= 0), v = read_share(qkv + wide + group.C, key >= 0);
    Share dk = {}, dv = {};
    for (int first = 0; first < longest; first += PAIRS) {
#pragma unroll
        for (int j = 0; j < PAIRS; j++) {
            const int i = begin + first + j;
            const bool exists = i < end;
            const Share x = read_share(q + (long long)i * q_stride + group.column, exists);
            const Share d_o = read_share(dout + (long long)i * group.C + group.column, exists);
            const int row = i * NH + group.h;
            const float s = dot(x, k), dp = dot(d_o, v);
            const float p = exists ? expf(scale * s - lse[row]) : 0.0f;
            add_scaled(dk, exists ? p * (dp - delta[row]) : 0.0f, x);
            add_scaled(dv, p, d_o);
        }
    }
    if (key < 0) return;
    if (item[3] < 0) {
        write_share(dqkv + wide, dk, scale);
        write_share(dqkv + wide + group.C, dv, 1.0f);
        return;
    }
    float *part = partials + 2LL * item[3] * group.C + group.column;
#pragma unroll
    for (int n = 0; n < PACKS; n++) {
        if (channel(n) >= HEAD_SIZE) continue;
#pragma unroll
        for (int e = 0; e < VEC; e++) dk.at[n].at[e] *= scale;
        store_pack(part + channel(n), dk.at[n]);
        store_pack(part + group.C + channel(n), dv.at[n]);
    }
}

// The keys of several items: columns C.. and 2C.. of dqkv[key] = sum of partials[slot] over its slots.
// sums (n_sums, 3): key, first slot, past the last one; key -1 is padding. A block takes WARP columns of one key: its
// warps sum every fourth slot, its first warp adds what they found, in order. Everything is read once.
extern "C" __global__ void __launch_bounds__(THREADS)
    attention_tree_sum(act_t *__restrict__ dqkv, const float *__restrict__ partials, const int *__restrict__ sums,
                       int C) {
    __shared__ float found[THREADS];
    const int *of_key = sums + 3LL * blockIdx.x;
    const int key = of_key[0], end = of_key[2], lane = threadIdx.x % WARP, column = blockIdx.y * WARP + lane;
    float sum = 0.0f;
    if (column < 2 * C) {
#pragma unroll 4
        for (int slot = of_key[1] + threadIdx.x / WARP; slot < end; slot += THREADS / WARP)
            sum += partials[2LL * slot * C + column];
    }
    found[threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.x >= WARP || column >= 2 * C || key < 0) return;
    float total = 0.0f;
    for (int i = 0; i < THREADS / WARP; i++) total += found[i * WARP + lane];
    store(dqkv[(long long)key * 3 * C + C + column], total);
}
