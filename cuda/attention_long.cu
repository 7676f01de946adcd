// Causal attention of rows of any length; the scores stay on the chip (FlashAttention-2, Dao 2023).
//
//   S[t][j] = q[t] . k[j] / sqrt(HS),  P[t] = softmax(S[t][0..t]),  out[t] = sum_j P[t][j] v[j]
//
// qkv (B*T, 3C): q, k, v of head h in columns h*HS, C + h*HS, 2C + h*HS. out (B*T, C). lse (B, NH, T): log of the sum
// of exp S[t]. A block owns a tile of consecutive rows of one (sequence, head) and walks over the tiles of the rows
// that meet them. All tiles are float in shared memory: each is read from L2 by every block that walks over it.
//
// With AT_POSITIONS there are n queries per sequence instead of T, query i at positions[i] (n, ascending), and q, dq,
// out and dout are (B*n, C), lse and delta (B, NH, n); of qkv and dqkv nothing but columns C.. is touched. Without,
// query t is at position t, n is T, q is qkv itself, dq dqkv, and `positions` null.
// build: VEC=4:8; HEAD_SIZE=32,64,128,256; AT_POSITIONS=0,1
#include "attention_tiles.cuh"

// Rows and columns per thread, so that four tiles and the weights fit into 48 KiB and the sums into registers.
#define FORWARD_ROWS (HEAD_SIZE <= 64 ? 8 : HEAD_SIZE <= 128 ? 4 : 2)
#define FORWARD_COLS (FORWARD_ROWS / 2)
#define BACKWARD_ROWS FORWARD_COLS

// Where query i of n stands in its row. A tile may be longer than what is left of the n.
__device__ inline int position_of(const int *__restrict__ positions, int i, int n) {
    return AT_POSITIONS ? positions[min(i, n - 1)] : i;
}

// What a block works on: a tile of one (sequence, head). The tiles of a head are neighbours, because they share its
// rows in L2, and the one with most to do comes first.
struct Head {
    int C, stride, q_stride;  // of a row of out, of qkv, and of q
    long long row;            // b * NH + h
    long long narrow, qkv, q; // where the head begins in out and dout, in qkv and dqkv, in q and dq
    __device__ Head(long long row, int n, int T, int NH)
        : C(NH * HEAD_SIZE), stride(3 * C), q_stride(AT_POSITIONS ? C : stride), row(row) {
        const long long b = row / NH, column = row % NH * HEAD_SIZE;
        narrow = b * n * C + column;
        qkv = b * T * stride + column;
        q = AT_POSITIONS ? narrow : qkv;
    }
};

// One block: SIDE * FORWARD_ROWS queries, out and lse; it walks over the keys up to the last of them. The softmax is
// taken as the keys come: when a higher score turns up, what was summed so far is scaled down.
extern "C" __global__ void __launch_bounds__(THREADS, 4)
    attention_long_forward(act_t *__restrict__ out, float *__restrict__ lse, const act_t *__restrict__ queries,
                           const act_t *__restrict__ qkv, const int *__restrict__ positions, int n, int T, int NH,
                           int n_tiles) {
    const int R = FORWARD_ROWS, N = FORWARD_COLS, QUERIES = SIDE * R, KEYS = SIDE * N;
    __shared__ Quad q[QUERIES * ROW_QUADS], k[KEYS * ROW_QUADS], v[KEYS * ROW_QUADS];
    __shared__ Quad weights[QUERIES * WEIGHT_QUADS(N)];
    const int x = threadIdx.x % SIDE, y = threadIdx.x / SIDE;
    const Head head(blockIdx.x / n_tiles, n, T, NH);
    const int first = (n_tiles - 1 - blockIdx.x % n_tiles) * QUERIES;
    const int end = position_of(positions, min(first + QUERIES, n) - 1, n) + 1; // past the last key that they see

    load_tile<QUERIES>(q, queries + head.q, head.q_stride, first, n, 1.0f / sqrtf((float)HEAD_SIZE));
    Quad o[R][QUADS_PER_THREAD] = {};
    float highest[R], sum[R] = {};
#pragma unroll
    for (int i = 0; i < R; i++) highest[i] = -INFINITY;

    for (int key = 0; key < end; key += KEYS) {
        __syncthreads();
        load_tile<KEYS>(k, qkv + head.qkv + head.C, head.stride, key, T, 1.0f);
        load_tile<KEYS>(v, qkv + head.qkv + 2 * head.C, head.stride, key, T, 1.0f);
        __syncthreads();

        float p[R][N];
        dot_rows(p, q, k);
        const bool diagonal = key + KEYS > position_of(positions, first, n) + 1;
#pragma unroll
        for (int i = 0; i < R; i++) {
            const int t = position_of(positions, first + y + SIDE * i, n);
            float next = highest[i];
#pragma unroll
            for (int j = 0; j < N; j++) {
                if (diagonal && key + x + SIDE * j > t) p[i][j] = -INFINITY;
                next = fmaxf(next, p[i][j]);
            }
            next = row_max(next); // finite: every query sees key 0, which is in the first tile
            const float correction = expf(highest[i] - next);
            highest[i] = next;
            sum[i] *= correction;
#pragma unroll
            for (int j = 0; j < N; j++) {
                p[i][j] = expf(p[i][j] - next);
                sum[i] += p[i][j];
            }
#pragma unroll
            for (int quad = 0; quad < QUADS_PER_THREAD; quad++)
#pragma unroll
                for (int c = 0; c < 4; c++) o[i][quad].at[c] *= correction;
        }
        share_weights(weights, p);
        add_weighted<N>(o, weights, v);
    }

#pragma unroll
    for (int i = 0; i < R; i++) {
        const int query = first + y + SIDE * i;
        const float total = row_sum(sum[i]);
        if (query >= n) continue;
        write_row(out + head.narrow, head.C, query, o[i], 1.0f / total);
        if (x == 0) lse[head.row * n + query] = highest[i] + logf(total);
    }
}

// delta (B, NH, n) = sum over the head's channels of dout * out. SIDE threads per row of a head; reads both once.
extern "C" __global__ void __launch_bounds__(THREADS, 4)
    attention_long_delta(float *__restrict__ delta, const act_t *__restrict__ dout, const act_t *__restrict__ out,
                         int n_rows, int n, int NH) {
    const int row = blockIdx.x * SIDE + threadIdx.x / SIDE; // (b * n + i) * NH + h
    float sum = 0.0f;
    for (int c = threadIdx.x % SIDE * VEC; c < HEAD_SIZE && row < n_rows; c += SIDE * VEC) {
        const long long first = (long long)row * HEAD_SIZE + c;
        const Pack<act_t, VEC> a = load_pack<VEC>(dout + first), b = load_pack<VEC>(out + first);
#pragma unroll
        for (int e = 0; e < VEC; e++) sum = fmaf(to_float(a.at[e]), to_float(b.at[e]), sum);
    }
    sum = row_sum(sum);
    const int token = row / NH, h = row % NH, b = token / n, i = token % n;
    if (row < n_rows && threadIdx.x % SIDE == 0) delta[((long long)b * NH + h) * n + i] = sum;
}

// With P = exp(S - lse), dS[t][j] = P[t][j] (dout[t] . v[j] - delta[t]):
//
//   dk[j] = sum_t dS[t][j] q[t] / sqrt(HS),  dv[j] = sum_t P[t][j] dout[t]
//
// One block: dk and dv of SIDE * BACKWARD_ROWS keys, zeros where no query sees them; it walks over the tiles of queries
// from the first on that has one at or behind the first key.
extern "C" __global__ void __launch_bounds__(THREADS, 4)
    attention_long_backward_kv(act_t *__restrict__ dqkv, const act_t *__restrict__ dout, const float *__restrict__ lse,
                               const float *__restrict__ delta, const act_t *__restrict__ queries,
                               const act_t *__restrict__ qkv, const int *__restrict__ positions, int n, int T, int NH,
                               int n_tiles) {
    const int R = BACKWARD_ROWS, TILE = SIDE * R;
    __shared__ Quad k[TILE * ROW_QUADS], v[TILE * ROW_QUADS], q[TILE * ROW_QUADS], d_o[TILE * ROW_QUADS];
    __shared__ Quad weights[TILE * WEIGHT_QUADS(R)];
    const int x = threadIdx.x % SIDE, y = threadIdx.x / SIDE;
    const Head head(blockIdx.x / n_tiles, n, T, NH);
    const int first = blockIdx.x % n_tiles * TILE;
    const float scale = 1.0f / sqrtf((float)HEAD_SIZE);

    load_tile<TILE>(k, qkv + head.qkv + head.C, head.stride, first, T, 1.0f);
    load_tile<TILE>(v, qkv + head.qkv + 2 * head.C, head.stride, first, T, 1.0f);
    Quad dk[R][QUADS_PER_THREAD] = {}, dv[R][QUADS_PER_THREAD] = {};

    int query = AT_POSITIONS ? 0 : first;
    while (AT_POSITIONS && query < n && position_of(positions, query + TILE - 1, n) < first) query += TILE;
    for (; query < n; query += TILE) {
        __syncthreads();
        load_tile<TILE>(q, queries + head.q, head.q_stride, query, n, scale);
        load_tile<TILE>(d_o, dout + head.narrow, head.C, query, n, 1.0f);
        __syncthreads();

        float p[R][R], ds[R][R];
        dot_rows(p, k, q);
        dot_rows(ds, v, d_o);
#pragma unroll
        for (int j = 0; j < R; j++) {
            const int row = query + x + SIDE * j, t = position_of(positions, row, n);
            const float row_lse = row < n ? lse[head.row * n + row] : INFINITY; // no query there: P = 0
            const float row_delta = row < n ? delta[head.row * n + row] : 0.0f;
#pragma unroll
            for (int i = 0; i < R; i++) {
                p[i][j] = first + y + SIDE * i <= t ? expf(p[i][j] - row_lse) : 0.0f;
                ds[i][j] = p[i][j] * (ds[i][j] - row_delta);
            }
        }
        share_weights(weights, p);
        add_weighted<R>(dv, weights, d_o);
        __syncwarp();
        share_weights(weights, ds);
        add_weighted<R>(dk, weights, q);
    }

#pragma unroll
    for (int i = 0; i < R; i++) {
        const int j = first + y + SIDE * i;
        if (j >= T) continue;
        write_row(dqkv + head.qkv + head.C, head.stride, j, dk[i], 1.0f); // q came scaled
        write_row(dqkv + head.qkv + 2 * head.C, head.stride, j, dv[i], 1.0f);
    }
}

// dq[t] = sum_j dS[t][j] k[j] / sqrt(HS), with dS as above, computed again rather than stored.
// One block: SIDE * BACKWARD_ROWS queries; it walks over the keys up to the last that one of them sees.
extern "C" __global__ void __launch_bounds__(THREADS, 4)
    attention_long_backward_q(act_t *__restrict__ dqueries, const act_t *__restrict__ dout,
                              const float *__restrict__ lse, const float *__restrict__ delta,
                              const act_t *__restrict__ queries, const act_t *__restrict__ qkv,
                              const int *__restrict__ positions, int n, int T, int NH, int n_tiles) {
    const int R = BACKWARD_ROWS, TILE = SIDE * R;
    __shared__ Quad k[TILE * ROW_QUADS], v[TILE * ROW_QUADS], q[TILE * ROW_QUADS], d_o[TILE * ROW_QUADS];
    __shared__ Quad weights[TILE * WEIGHT_QUADS(R)];
    const int x = threadIdx.x % SIDE, y = threadIdx.x / SIDE;
    const Head head(blockIdx.x / n_tiles, n, T, NH);
    const int first = (n_tiles - 1 - blockIdx.x % n_tiles) * TILE;
    const int end = position_of(positions, min(first + TILE, n) - 1, n) + 1;
    const float scale = 1.0f / sqrtf((float)HEAD_SIZE);

    load_tile<TILE>(q, queries + head.q, head.q_stride, first, n, scale);
    load_tile<TILE>(d_o, dout + head.narrow, head.C, first, n, 1.0f);
    Quad dq[R][QUADS_PER_THREAD] = {};
    float row_lse[R], row_delta[R];
#pragma unroll
    for (int i = 0; i < R; i++) {
        const int row = min(first + y + SIDE * i, n - 1);
        row_lse[i] = lse[head.row * n + row];
        row_delta[i] = delta[head.row * n + row];
    }

    for (int key = 0; key < end; key += TILE) {
        __syncthreads();
        load_tile<TILE>(k, qkv + head.qkv + head.C, head.stride, key, T, 1.0f);
        load_tile<TILE>(v, qkv + head.qkv + 2 * head.C, head.stride, key, T, 1.0f);
        __syncthreads();

        float p[R][R], ds[R][R];
        dot_rows(p, q, k);
        dot_rows(ds, d_o, v);
#pragma unroll
        for (int i = 0; i < R; i++) {
            const int t = position_of(positions, first + y + SIDE * i, n);
#pragma unroll
            for (int j = 0; j < R; j++) {
                p[i][j] = key + x + SIDE * j <= t ? expf(p[i][j] - row_lse[i]) : 0.0f;
                ds[i][j] = p[i][j] * (ds[i][j] - row_delta[i]);
            }
        }
        share_weights(weights, ds);
        add_weighted<R>(dq, weights, k);
    }

#pragma unroll
    for (int i = 0; i < R; i++) {
        const int row = first + y + SIDE * i;
        if (row < n) write_row(dqueries + head.q, head.q_stride, row, dq[i], scale);
    }
}
