// One token of one row through a causal model, and the logits of the next: what torch does in some 130 small calls.
//
// Owns the arithmetic and the division of the work among threads; one_token.py builds and calls it, and mirrors the
// structures. All numbers are fp32. D width, F inner width, H heads, K = D / H, V vocabulary. D, F and K are
// multiples of 16. Matrices are (in, out) with `out` contiguous, but for the token table, (V, D).

#include <cmath>
#include <cstdint>
#include <cstring>
#include <omp.h>

#if defined(__AVX512F__)
constexpr int WIDTH = 16, MOST = 24;  // floats of a register, registers that hold sums
#elif defined(__AVX__)
constexpr int WIDTH = 8, MOST = 8;
#else
constexpr int WIDTH = 4, MOST = 8;
#endif
typedef float Floats __attribute__((vector_size(4 * WIDTH), aligned(4), may_alias));
typedef int32_t Ints __attribute__((vector_size(4 * WIDTH)));
constexpr int64_t STEP = 16;  // columns are divided among threads in units of this

struct Layer {
    const float *attention_norm;  // (D,) or null
    const float *wqkv;            // (D, 3D)
    const float *attention_out;   // (D, D)
    const float *mlp_norm;        // (D,)
    const float *mlp_in;          // (D, 2F), the activated half first
    const float *mlp_out;         // (F, D)
    const float *turns;           // (positions, K), cosines before sines
};

struct Model {
    int64_t layers, width, inner, heads, entries;
    double eps;
    const float *table, *embedding_norm, *final_norm, *dense, *head_norm, *bias;
    const Layer *layer;
};

struct Past {  // of one layer; column c lies in slot c mod columns
    float *keys_values;  // (2H, columns, K)
    int64_t columns;
};

static inline Floats load(const float *from) { return *reinterpret_cast<const Floats *>(from); }
static inline void store(float *to, Floats values) { *reinterpret_cast<Floats *>(to) = values; }

static inline float total(Floats values) {
    float parts[WIDTH];  // summed in pairs: one after the other, each sum would wait for the one before
    store(parts, values);
    for (int half = WIDTH / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++) parts[i] += parts[i + half];
    return parts[0];
}

// y[N * WIDTH] += x (n) times N * WIDTH columns of w (n, stride)
template <int N> static void add_columns(const float *x, int64_t n, const float *w, int64_t stride, float *y) {
    Floats sum[N];
#pragma GCC unroll 32
    for (int j = 0; j < N; j++) sum[j] = load(y + j * WIDTH);
    for (int64_t i = 0; i < n; i++) {
        const float *row = w + i * stride, value = x[i];
#pragma GCC unroll 32
        for (int j = 0; j < N; j++) sum[j] += value * load(row + j * WIDTH);
    }
#pragma GCC unroll 32
    for (int j = 0; j < N; j++) store(y + j * WIDTH, sum[j]);
}

// y[begin .. end) += x (n) times those columns of w (n, stride)
static void add_product(const float *x, int64_t n, const float *w, int64_t stride, int64_t begin, int64_t end, float *y) {
    int64_t at = begin;
    for (; end - at >= MOST * WIDTH; at += MOST * WIDTH) add_columns<MOST>(x, n, w + at, stride, y + at);
    for (; end - at >= 8 * WIDTH; at += 8 * WIDTH) add_columns<8>(x, n, w + at, stride, y + at);
    for (; end - at >= 4 * WIDTH; at += 4 * WIDTH) add_columns<4>(x, n, w + at, stride, y + at);
    for (; end - at >= WIDTH; at += WIDTH) add_columns<1>(x, n, w + at, stride, y + at);
}

static float dot(const float *x, const float *y, int64_t n) {
    Floats first = {}, second = {}, third = {}, fourth = {};
    int64_t i = 0;
    for (; i + 4 * WIDTH <= n; i += 4 * WIDTH) {
        first += load(x + i) * load(y + i);
        second += load(x + i + WIDTH) * load(y + i + WIDTH);
        third += load(x + i + 2 * WIDTH) * load(y + i + 2 * WIDTH);
        fourth += load(x + i + 3 * WIDTH) * load(y + i + 3 * WIDTH);
    }
    for (; i < n; i += WIDTH) first += load(x + i) * load(y + i);
    return total((first + second) + (third + fourth));
}

static void norm(const float *x, const float *weight, int64_t n, double eps, float *y) {
    Floats sum = {}, squares = {};
    for (int64_t i = 0; i < n; i += WIDTH) sum += load(x + i);
    const float mean = total(sum) / n;
    for (int64_t i = 0; i < n; i += WIDTH) {
        const Floats part = load(x + i) - mean;
        squares += part * part;
    }
    const float scale = 1.0f / std::sqrt(total(squares) / n + (float)eps);
    for (int64_t i = 0; i < n; i += WIDTH) store(y + i, (load(x + i) - mean) * scale * load(weight + i));
}

// e^x for x of at most 88, to some 1e-7 of it. Source: coefficients of the Cephes library's expf (Moshier).
static inline Floats exponential(Floats x) {
    const Floats lowest = Floats{} - 87.0f, rounder = Floats{} + 12582912.0f;
    x = x > lowest ? x : lowest;
    const Floats n = (x * 1.44269504f + rounder) - rounder;  // to the nearest whole number
    const Floats r = x - n * 0.693359375f + n * 2.12194440e-4f;
    Floats p = 1.9875691500e-4f * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    const Ints power = (__builtin_convertvector(n, Ints) + 127) << 23;
    return (p * r * r + r + 1.0f) * reinterpret_cast<const Floats &>(power);
}

// 0.5 x (1 + erf(x / sqrt 2)), erf to 2e-7. Source: Abramowitz and Stegun, formula 7.1.26.
static inline Floats gelu(Floats x) {
    const Floats zero = {}, z = x * 0.70710678f, size = z < zero ? -z : z;
    const Floats t = 1.0f / (1.0f + 0.3275911f * size);
    Floats p = 1.061405429f * t - 1.453152027f;
    p = p * t + 1.421413741f;
    p = p * t - 0.284496736f;
    p = p * t + 0.254829592f;
    const Floats upper = p * t * exponential(-size * size);  // 1 - erf(|z|)
    return 0.5f * x * (x < zero ? upper : 2.0f - upper);
}

// Turn feature j with feature j + K/2, by K/2 cosines and K/2 sines.
static void turn(float *x, const float *turns, int64_t k) {
    const int64_t half = k / 2;
    for (int64_t i = 0; i < half; i++) {
        const float first = x[i], second = x[half + i], cosine = turns[i], sine = turns[half + i];
        x[i] = first * cosine - second * sine;
        x[half + i] = second * cosine + first * sine;
    }
}

// Keep the newest token's key and value of a head, and attend over columns [start, end).
static void attend(float *query, float *key, const float *value, const Model &model, const Past &past, int64_t head,
                   int64_t start, int64_t end, const float *turns, float *scores, float *mixed) {
    const int64_t k = model.width / model.heads, columns = past.columns;
    float *keys = past.keys_values + head * columns * k, *values = keys + model.heads * columns * k;
    turn(query, turns, k);
    turn(key, turns, k);
    std::memcpy(keys + (end - 1) % columns * k, key, k * sizeof(float));
    std::memcpy(values + (end - 1) % columns * k, value, k * sizeof(float));
    const int64_t seen = end - start < columns ? end - start : columns;
    const int64_t slot = seen == columns ? 0 : start % columns;  // of a full ring the order does not matter
    const int64_t before_wrap = seen < columns - slot ? seen : columns - slot;
    float largest = -INFINITY;
    for (int64_t i = 0; i < seen; i++) {
        scores[i] = dot(query, keys + (i < before_wrap ? slot + i : i - before_wrap) * k, k);
        if (scores[i] > largest) largest = scores[i];
    }
    const float root = 1.0f / std::sqrt((float)k);
    Floats sums = {};
    int64_t at = 0;
    for (; at + WIDTH <= seen; at += WIDTH) {
        const Floats share = exponential((load(scores + at) - largest) * root);
        store(scores + at, share);
        sums += share;
    }
    float sum = total(sums);
    for (; at < seen; at++) sum += scores[at] = std::exp((scores[at] - largest) * root);
    std::memset(mixed, 0, k * sizeof(float));
    add_product(scores, before_wrap, values + slot * k, k, 0, k, mixed);
    add_product(scores + before_wrap, seen - before_wrap, values, k, 0, k, mixed);
    for (int64_t i = 0; i < k; i++) mixed[i] /= sum;
}

// The part of n, in units of `unit`, that this thread computes.
struct Share {
    int64_t begin, end;
    Share(int64_t n, int64_t unit) {
        const int64_t units = n / unit, threads = omp_get_num_threads(), thread = omp_get_thread_num();
        begin = units * thread / threads * unit;
        end = units * (thread + 1) / threads * unit;
    }
};

// What every thread adds to the D states. All take the sum for themselves, in one order, so that they agree.
struct Parts {
    float *sums;  // (threads, D)
    int64_t d;

    // This thread's part: x times its rows of w (n, D).
    void put(const float *x, const float *w, const Share &rows) const {
        float *own = sums + omp_get_thread_num() * d;
        std::memset(own, 0, d * sizeof(float));
        add_product(x + rows.begin, rows.end - rows.begin, w + rows.begin * d, d, 0, d, own);
    }

    void add_to(float *states) const {
        for (int thread = 0; thread < omp_get_num_threads(); thread++)
            for (int64_t i = 0; i < d; i += WIDTH)
                store(states + i, load(states + i) + load(sums + thread * d + i));
    }
};

// y[share] = x (n) times those columns of w (n, stride)
static void product(const float *x, int64_t n, const float *w, int64_t stride, const Share &share, float *y) {
    std::memset(y + share.begin, 0, (share.end - share.begin) * sizeof(float));
    add_product(x, n, w, stride, share.begin, share.end, y);
}

// Read `token` at column end - 1 of a row that begins at column `start`; write its D head states.
// `scratch` holds 5D + 3F + H * (most columns of a layer) floats, and 4D for every thread. A thread has its heads and its
// inner features from their first product to their last, so threads meet only twice a layer.
extern "C" void read_token(const Model *given, const Past *pasts, int64_t token, int64_t start, int64_t end, float *scratch,
                           float *head_states, int threads) {
    const Model &model = *given;
    const int64_t d = model.width, f = model.inner, heads = model.heads, k = d / heads;
    float *qkv = scratch, *mixed = qkv + 3 * d, *hidden = mixed + d, *gates = hidden + d, *inner = gates + 2 * f;
    float *own = inner + f, *scores = own + 4 * threads * d;
    const Parts of_attention{own + 2 * threads * d, d}, of_mlp{own + 3 * threads * d, d};
#pragma omp parallel num_threads(threads)
    {
        float *states = own + 2 * omp_get_thread_num() * d, *normed = states + d;
        const Share of_heads(heads * k, k), of_width(d, STEP), of_inner(f, STEP);
        norm(model.table + token * d, model.embedding_norm, d, model.eps, states);
        for (int64_t index = 0; index < model.layers; index++) {
            const Layer &layer = model.layer[index];
            const float *input = states;
            if (layer.attention_norm) {
                norm(states, layer.attention_norm, d, model.eps, normed);
                input = normed;
            }
            for (int part = 0; part < 3; part++)
                product(input, d, layer.wqkv + part * d, 3 * d, of_heads, qkv + part * d);
            for (int64_t head = of_heads.begin / k; head < of_heads.end / k; head++)
                attend(qkv + head * k, qkv + d + head * k, qkv + 2 * d + head * k, model, pasts[index], head, start, end,
                       layer.turns + (end - 1 - start) * k, scores + head * (end - start), mixed + head * k);
            of_attention.put(mixed, layer.attention_out, of_heads);
#pragma omp barrier
            of_attention.add_to(states);
            norm(states, layer.mlp_norm, d, model.eps, normed);
            product(normed, d, layer.mlp_in, 2 * f, of_inner, gates);
            product(normed, d, layer.mlp_in + f, 2 * f, of_inner, gates + f);
            for (int64_t i = of_inner.begin; i < of_inner.end; i += WIDTH)
                store(inner + i, gelu(load(gates + i)) * load(gates + f + i));
            of_mlp.put(inner, layer.mlp_out, of_inner);
#pragma omp barrier
            of_mlp.add_to(states);
        }
        norm(states, model.final_norm, d, model.eps, normed);
        product(normed, d, model.dense, d, of_width, hidden);
        for (int64_t i = of_width.begin; i < of_width.end; i += WIDTH) store(hidden + i, gelu(load(hidden + i)));
#pragma omp barrier
#pragma omp single
        norm(hidden, model.head_norm, d, model.eps, head_states);
    }
}

// y[0 .. N) += rows of w (N, n) times x (n)
template <int N> static void add_dots(const float *x, const float *w, int64_t n, float *y) {
    Floats sum[N] = {};
    for (int64_t i = 0; i < n; i += WIDTH) {
        const Floats part = load(x + i);
#pragma GCC unroll 4
        for (int row = 0; row < N; row++) sum[row] += part * load(w + row * n + i);
    }
    for (int row = 0; row < N; row++) y[row] += total(sum[row]);
}

// Write the V logits of D head states.
extern "C" void write_logits(const Model *model, const float *head_states, float *logits, int threads) {
    const int64_t d = model->width;
#pragma omp parallel num_threads(threads)
    {
        const Share rows(model->entries, 1);
        std::memcpy(logits + rows.begin, model->bias + rows.begin, (rows.end - rows.begin) * sizeof(float));
        int64_t row = rows.begin;
        for (; row + 4 <= rows.end; row += 4) add_dots<4>(head_states, model->table + row * d, d, logits + row);
        for (; row < rows.end; row++) add_dots<1>(head_states, model->table + row * d, d, logits + row);
    }
}

// Read a token as `read_token` does and return the likeliest next one, the first of equal ones.
extern "C" int64_t likeliest_after(const Model *model, const Past *pasts, int64_t token, int64_t start, int64_t end,
                                   float *scratch, float *head_states, float *logits, int threads) {
    read_token(model, pasts, token, start, end, scratch, head_states, threads);
    write_logits(model, head_states, logits, threads);
    int64_t best = 0;
    for (int64_t at = 0; at < model->entries; at += STEP * STEP) {  // a block's maximum is found in registers
        const int64_t after = at + STEP * STEP < model->entries ? at + STEP * STEP : model->entries;
        Floats most = Floats{} + logits[best];
        int64_t i = at;
        for (; i + WIDTH <= after; i += WIDTH) {
            const Floats part = load(logits + i);
            most = part > most ? part : most;
        }
        float largest = logits[best];
        for (int lane = 0; lane < WIDTH; lane++) largest = most[lane] > largest ? most[lane] : largest;
        for (; i < after; i++) largest = logits[i] > largest ? logits[i] : largest;
        if (largest > logits[best])
            for (best = at; logits[best] != largest;) best++;
    }
    return best;
}
