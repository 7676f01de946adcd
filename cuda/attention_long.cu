// Causal attention of rows of any length; the scores stay on the chip (FlashAttention-2, Dao 2023).
//
//   S[t][j] = q[t] . k[j] / sqrt(HS),  P[t] = softmax(S[t][0..t]),  out[t] = sum_j P[t][j] v[j]
//
// qkv (B*T, 3C): q, k, v of head h in columns h*HS, C + h*HS, 2C + h*HS. out (B*T, C). lse (B, NH, T): log of the sum
// of exp S[t]. A block owns a tile of consecutive rows of one (sequence, head) and walks over the tiles of the rows
// that meet them. All tiles are float in shared memory: each is read from L2 by every block that walks over it.
//
// Inside a block, thread (y, x) of 8 x 8 has rows y, y + 8, ... of the tile that stays, and columns x, x + 8, ... (rows
// of the tile that passes) or channels 4x .. 4x + 3, 32 + 4x ... The eight threads of a row are of one warp: rows of
// weights (P or dS) are written and read by that warp alone, and summed by shuffles.
// build: VEC=4:8; HEAD_SIZE=32,64,128,256
#include "common.cuh"

#define SIDE 8
#define THREADS (SIDE * SIDE)

typedef Pack<float, 4> Quad;

#define QUADS ((HEAD_SIZE + 3) / 4)                  // of a row of channels, the last one filled up with zeros
#define QUADS_PER_THREAD ((QUADS + SIDE - 1) / SIDE) // of the thread's share of it
#define ROW_QUADS (QUADS | 1)                        // of a row in shared memory: odd, so 8 rows lie in different banks
#define VALUES (VEC < 4 ? VEC : 4)                   // read or written together, as all of one quad

// Rows and columns per thread, so that four tiles and the weights fit into 48 KiB and the sums into registers.
#define FORWARD_ROWS (HEAD_SIZE <= 64 ? 8 : HEAD_SIZE <= 128 ? 4 : 2)
#define FORWARD_COLS (FORWARD_ROWS / 2)
#define BACKWARD_ROWS FORWARD_COLS

// A tile of weights has SIDE * N columns. Its rows are an odd number of times 8 long: 4 rows lie in different banks.
#define WEIGHT_QUADS(N) (2 * ((N) | 1))

// tile[i] = factor * row first + i of one head, zero after the last row; rows are `stride` apart.
template <int ROWS>
__device__ inline void load_tile(Quad *tile, const act_t *__restrict__ head, int stride, int first, int T, float factor) {
    const int packs = 4 * QUADS / VEC;
#pragma unroll 8
    for (int i = threadIdx.x; i < ROWS * packs; i += THREADS) {
        const int row = i / packs, c = i % packs * VEC;
        Pack<act_t, VEC> stored = {};
        if (first + row < T && c < HEAD_SIZE) stored = load_pack<VEC>(head + (long long)(first + row) * stride + c);
        float *target = (tile + row * ROW_QUADS)->at + c;
#pragma unroll
        for (int start = 0; start < VEC; start += VALUES) {
            Pack<float, VALUES> values;
#pragma unroll
            for (int e = 0; e < VALUES; e++) values.at[e] = factor * to_float(stored.at[start + e]);
            store_pack<VALUES>(target + start, values);
        }
    }
}

// dots[i][j] = a[y + 8i] . b[x + 8j], for the thread's rows and columns of two tiles.
template <int R, int N> __device__ inline void dot_rows(float (&dots)[R][N], const Quad *a, const Quad *b) {
    const int x = threadIdx.x % SIDE, y = threadIdx.x / SIDE;
#pragma unroll
    for (int i = 0; i < R; i++)
#pragma unroll
        for (int j = 0; j < N; j++) dots[i][j] = 0.0f;
#pragma unroll 2
    for (int c = 0; c < QUADS; c++) {
        Quad row[R], column[N];
#pragma unroll
        for (int i = 0; i < R; i++) row[i] = a[(y + SIDE * i) * ROW_QUADS + c];
#pragma unroll
        for (int j = 0; j < N; j++) column[j] = b[(x + SIDE * j) * ROW_QUADS + c];
#pragma unroll
        for (int e = 0; e < 4; e++)
#pragma unroll
            for (int i = 0; i < R; i++)
#pragma unroll
                for (int j = 0; j < N; j++) dots[i][j] = fmaf(row[i].at[e], column[j].at[e], dots[i][j]);
    }
}

// sums[i] += sum_j weights[y + 8i][j] * b[j], over the SIDE * N rows j of tile b; the thread's rows and channels.
template <int N, int R>
__device__ inline void add_weighted(Quad (&sums)[R][QUADS_PER_THREAD], const Quad *weights, const Quad *b) {
    const int x = threadIdx.x % SIDE, y = threadIdx.x / SIDE;
#pragma unroll 1
    for (int j = 0; j < SIDE * N; j += 4) {
        Quad weight[R];
#pragma unroll
        for (int i = 0; i < R; i++) weight[i] = weights[(y + SIDE * i) * WEIGHT_QUADS(N) + j / 4];
#pragma unroll
        for (int e = 0; e < 4; e++)
#pragma unroll
            for (int n = 0; n < QUADS_PER_THREAD; n++) {
                if (x + SIDE * n >= QUADS) continue;
                const Quad channels = b[(j + e) * ROW_QUADS + x + SIDE * n];
#pragma unroll
                for (int i = 0; i < R; i++)
#pragma unroll
                    for (int c = 0; c < 4; c++)
                        sums[i][n].at[c] = fmaf(weight[i].at[e], channels.at[c], sums[i][n].at[c]);
            }
    }
}

// weights[y + 8i][x + 8j] = values[i][j], in time for the warp's add_weighted.
template <int R, int N> __device__ inline void share_weights(Quad *weights, const float (&values)[R][N]) {
    const int x = threadIdx.x % SIDE, y = threadIdx.x / SIDE;
#pragma unroll
    for (int i = 0; i < R; i++)
#pragma unroll
        for (int j = 0; j < N; j++)
            weights[(y + SIDE * i) * WEIGHT_QUADS(N) + 2 * j + x / 4].at[x % 4] = values[i][j];
    __syncwarp();
}

// Row `row` of a head = factor * sums, the thread's channels of it.
__device__ inline void write_row(act_t *head, int stride, int row, const Quad (&sums)[QUADS_PER_THREAD], float factor) {
    const int x = threadIdx.x % SIDE;
#pragma unroll
    for (int n = 0; n < QUADS_PER_THREAD; n++)
#pragma unroll
        for (int start = 0; start < 4; start += VALUES) {
            const int c = 4 * (x + SIDE * n) + start;
            if (c >= HEAD_SIZE) continue;
            Pack<act_t, VALUES> values;
#pragma unroll
            for (int e = 0; e < VALUES; e++) store(values.at[e], factor * sums[n].at[start + e]);
            store_pack<VALUES>(head + (long long)row * stride + c, values);
        }
}

// Sum or maximum over the eight threads of a row, given to each.
__device__ inline float row_sum(float x) {
    for (int offset = SIDE / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(FULL_MASK, x, offset);
    return x;
}

__device__ inline float row_max(float x) {
    for (int offset = SIDE / 2; offset > 0; offset /= 2) x = fmaxf(x, __shfl_xor_sync(FULL_MASK, x, offset));
    return x;
}

// What a block works on: a tile of one (sequence, head). The tiles of a head are neighbours, because they share its
// rows in L2, and the one with most to do comes first.
struct Head {
    int C, stride;         // of a row of out, and of qkv
    long long row;         // b * NH + h
    long long narrow, qkv; // where the head begins in out and dout, in q and dq
    __device__ Head(long long row, int T, int NH) : C(NH * HEAD_SIZE), stride(3 * C), row(row) {
        const long long first = row / NH * T, column = row % NH * HEAD_SIZE;
        narrow = first * C + column;
        qkv = first * stride + column;
    }
};

// One block: SIDE * FORWARD_ROWS queries, out and lse; it walks over the keys up to the last of them. The softmax is
// taken as the keys come: when a higher score turns up, what was summed so far is scaled down.
extern "C" __global__ void __launch_bounds__(THREADS, 4)
    attention_long_forward(act_t *__restrict__ out, float *__restrict__ lse, const act_t *__restrict__ qkv, int T,
                           int NH, int n_tiles) {
    const int R = FORWARD_ROWS, N = FORWARD_COLS, QUERIES = SIDE * R, KEYS = SIDE * N;
    __shared__ Quad q[QUERIES * ROW_QUADS], k[KEYS * ROW_QUADS], v[KEYS * ROW_QUADS], weights[QUERIES * WEIGHT_QUADS(N)];
    const int x = threadIdx.x % SIDE, y = threadIdx.x / SIDE;
    const Head head(blockIdx.x / n_tiles, T, NH);
    const int first = (n_tiles - 1 - blockIdx.x % n_tiles) * QUERIES, end = min(first + QUERIES, T);

    load_tile<QUERIES>(q, qkv + head.qkv, head.stride, first, T, 1.0f / sqrtf((float)HEAD_SIZE));
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
        const bool diagonal = key + KEYS > first + 1;
#pragma unroll
        for (int i = 0; i < R; i++) {
            float next = highest[i];
#pragma unroll
            for (int j = 0; j < N; j++) {
                if (diagonal && key + x + SIDE * j > first + y + SIDE * i) p[i][j] = -INFINITY;
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
            for (int n = 0; n < QUADS_PER_THREAD; n++)
#pragma unroll
                for (int c = 0; c < 4; c++) o[i][n].at[c] *= correction;
        }
        share_weights(weights, p);
        add_weighted<N>(o, weights, v);
    }

#pragma unroll
    for (int i = 0; i < R; i++) {
        const int t = first + y + SIDE * i;
        const float total = row_sum(sum[i]);
        if (t >= T) continue;
        write_row(out + head.narrow, head.C, t, o[i], 1.0f / total);
        if (x == 0) lse[head.row * T + t] = highest[i] + logf(total);
    }
}

// delta (B, NH, T) = sum over the head's channels of dout * out. SIDE threads per row; reads both once.
extern "C" __global__ void __launch_bounds__(THREADS, 4)
    attention_long_delta(float *__restrict__ delta, const act_t *__restrict__ dout, const act_t *__restrict__ out,
                         long long n_rows, int T, int NH) {
    const long long i = (long long)blockIdx.x * SIDE + threadIdx.x / SIDE; // (b * T + t) * NH + h
    float sum = 0.0f;
    if (i < n_rows) {
        for (int c = threadIdx.x % SIDE * VEC; c < HEAD_SIZE; c += SIDE * VEC) {
            const Pack<act_t, VEC> a = load_pack<VEC>(dout + i * HEAD_SIZE + c), b = load_pack<VEC>(out + i * HEAD_SIZE + c);
#pragma unroll
            for (int e = 0; e < VEC; e++) sum = fmaf(to_float(a.at[e]), to_float(b.at[e]), sum);
        }
    }
    sum = row_sum(sum);
    const long long b = i / NH / T, t = i / NH % T, h = i % NH;
    if (i < n_rows && threadIdx.x % SIDE == 0) delta[(b * NH + h) * T + t] = sum;
}

// With P = exp(S - lse), dS[t][j] = P[t][j] (dout[t] . v[j] - delta[t]):
//
//   dk[j] = sum_t dS[t][j] q[t] / sqrt(HS),  dv[j] = sum_t P[t][j] dout[t]
//
// One block: dk and dv of SIDE * BACKWARD_ROWS keys; it walks over the queries from the first of them on.
extern "C" __global__ void __launch_bounds__(THREADS, 4)
    attention_long_backward_kv(act_t *__restrict__ dqkv, const act_t *__restrict__ dout, const float *__restrict__ lse,
                               const float *__restrict__ delta, const act_t *__restrict__ qkv, int T, int NH,
                               int n_tiles) {
    const int R = BACKWARD_ROWS, TILE = SIDE * R;
    __shared__ Quad k[TILE * ROW_QUADS], v[TILE * ROW_QUADS], q[TILE * ROW_QUADS], d_o[TILE * ROW_QUADS];
    __shared__ Quad weights[TILE * WEIGHT_QUADS(R)];
    const int x = threadIdx.x % SIDE, y = threadIdx.x / SIDE;
    const Head head(blockIdx.x / n_tiles, T, NH);
    const int first = blockIdx.x % n_tiles * TILE;
    const float scale = 1.0f / sqrtf((float)HEAD_SIZE);

    load_tile<TILE>(k, qkv + head.qkv + head.C, head.stride, first, T, 1.0f);
    load_tile<TILE>(v, qkv + head.qkv + 2 * head.C, head.stride, first, T, 1.0f);
    Quad dk[R][QUADS_PER_THREAD] = {}, dv[R][QUADS_PER_THREAD] = {};

    for (int query = first; query < T; query += TILE) {
        __syncthreads();
        load_tile<TILE>(q, qkv + head.qkv, head.stride, query, T, scale);
        load_tile<TILE>(d_o, dout + head.narrow, head.C, query, T, 1.0f);
        __syncthreads();

        float p[R][R], ds[R][R];
        dot_rows(p, k, q);
        dot_rows(ds, v, d_o);
#pragma unroll
        for (int j = 0; j < R; j++) {
            const int t = query + x + SIDE * j;
            const float row_lse = t < T ? lse[head.row * T + t] : INFINITY; // no query there: P = 0
            const float row_delta = t < T ? delta[head.row * T + t] : 0.0f;
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
// One block: SIDE * BACKWARD_ROWS queries; it walks over the keys up to the last of them.
extern "C" __global__ void __launch_bounds__(THREADS, 4)
    attention_long_backward_q(act_t *__restrict__ dqkv, const act_t *__restrict__ dout, const float *__restrict__ lse,
                              const float *__restrict__ delta, const act_t *__restrict__ qkv, int T, int NH,
                              int n_tiles) {
    const int R = BACKWARD_ROWS, TILE = SIDE * R;
    __shared__ Quad k[TILE * ROW_QUADS], v[TILE * ROW_QUADS], q[TILE * ROW_QUADS], d_o[TILE * ROW_QUADS];
    __shared__ Quad weights[TILE * WEIGHT_QUADS(R)];
    const int x = threadIdx.x % SIDE, y = threadIdx.x / SIDE;
    const Head head(blockIdx.x / n_tiles, T, NH);
    const int first = (n_tiles - 1 - blockIdx.x % n_tiles) * TILE, end = min(first + TILE, T);
    const float scale = 1.0f / sqrtf((float)HEAD_SIZE);

    load_tile<TILE>(q, qkv + head.qkv, head.stride, first, T, scale);
    load_tile<TILE>(d_o, dout + head.narrow, head.C, first, T, 1.0f);
    Quad dq[R][QUADS_PER_THREAD] = {};
    float row_lse[R], row_delta[R];
#pragma unroll
    for (int i = 0; i < R; i++) {
        const int t = min(first + y + SIDE * i, T - 1);
        row_lse[i] = lse[head.row * T + t];
        row_delta[i] = delta[head.row * T + t];
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
        for (int i = 0; i < R; i++)
#pragma unroll
            for (int j = 0; j < R; j++) {
                p[i][j] = key + x + SIDE * j <= first + y + SIDE * i ? expf(p[i][j] - row_lse[i]) : 0.0f;
                ds[i][j] = p[i][j] * (ds[i][j] - row_delta[i]);
            }
        share_weights(weights, ds);
        add_weighted<R>(dq, weights, k);
    }

#pragma unroll
    for (int i = 0; i < R; i++) {
        const int t = first + y + SIDE * i;
        if (t < T) write_row(dqkv + head.qkv, head.stride, t, dq[i], scale);
    }
}
