// One token of one row through a causal model, in one call: what torch does in some 130 small calls.
//
// Owns the arithmetic and the division of the work among threads; nn/one_token.py builds and calls it, and mirrors
// the structures. All numbers are fp32. D width, F inner width, H heads, K = D / H, V vocabulary. D, F and K are
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
constexpr int64_t STEP = 16;  // columns are divided among threads in units of this

struct Layer {
    const float *attention_norm;  // (D,) or null
    const float *wqkv;            // (D, 3D); features of queries and keys in pairs
    const float *attention_out;   // (D, D)
    const float *mlp_norm;        // (D,)
    const float *mlp_in;          // (D, 2F), the activated half first
    const float *mlp_out;         // (F, D)
    const float *turns;           // (positions, K/2) complex
};

struct Model {
    int64_t layers, width, inner, heads;
    double eps;
    const float *table, *embedding_norm, *final_norm, *dense, *head_norm;
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

static inline float gelu(float x) { return 0.5f * x * (1.0f + std::erf(x * 0.70710678118654752f)); }

// Turn K features by K/2 complex numbers.
static void turn(float *x, const float *turns, int64_t k) {
    for (int64_t i = 0; i < k; i += 2) {
        const float real = x[i] * turns[i] - x[i + 1] * turns[i + 1];
        x[i + 1] = x[i] * turns[i + 1] + x[i + 1] * turns[i];
        x[i] = real;
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
    float largest = -INFINITY, sum = 0.0f;
    for (int64_t i = 0; i < seen; i++) {
        scores[i] = dot(query, keys + (i < before_wrap ? slot + i : i - before_wrap) * k, k);
        if (scores[i] > largest) largest = scores[i];
    }
    const float root = 1.0f / std::sqrt((float)k);
    for (int64_t i = 0; i < seen; i++) sum += scores[i] = std::exp((scores[i] - largest) * root);
    std::memset(mixed, 0, k * sizeof(float));
    add_product(scores, before_wrap, values + slot * k, k, 0, k, mixed);
    add_product(scores + before_wrap, seen - before_wrap, values, k, 0, k, mixed);
    for (int64_t i = 0; i < k; i++) mixed[i] /= sum;
}

// Columns [begin, end) of n that this thread computes.
struct Share {
    int64_t begin, end;
    Share(int64_t n) {
        const int64_t units = n / STEP, threads = omp_get_num_threads(), thread = omp_get_thread_num();
        begin = units * thread / threads * STEP;
        end = units * (thread + 1) / threads * STEP;
    }
};

// Read `token` at column end - 1 of a row that begins at column `start`; write its D head states.
// `scratch` holds 8D + 3F + H * (most columns of a layer) floats, and D for every thread.
extern "C" void read_token(const Model *given, const Past *pasts, int64_t token, int64_t start, int64_t end, float *scratch,
                           float *head_states, int threads) {
    const Model &model = *given;
    const int64_t d = model.width, f = model.inner, heads = model.heads, k = d / heads;
    float *states = scratch, *qkv = states + d, *mixed = qkv + 3 * d, *hidden = mixed + d, *gates = hidden + d;
    float *inner = gates + 2 * f, *own = inner + f, *scores = own + threads * d;
#pragma omp parallel num_threads(threads)
    {
        float *normed = own + omp_get_thread_num() * d;
        const Share of_qkv(3 * d), of_width(d), of_inner(f);
#pragma omp single
        norm(model.table + token * d, model.embedding_norm, d, model.eps, states);
        for (int64_t index = 0; index < model.layers; index++) {
            const Layer &layer = model.layer[index];
            const Past &past = pasts[index];
            const float *input = states;
            if (layer.attention_norm) {
                norm(states, layer.attention_norm, d, model.eps, normed);
                input = normed;
            }
            std::memset(qkv + of_qkv.begin, 0, (of_qkv.end - of_qkv.begin) * sizeof(float));
            add_product(input, d, layer.wqkv, 3 * d, of_qkv.begin, of_qkv.end, qkv);
#pragma omp barrier
            const float *turns = layer.turns + (end - 1 - start) * k;
#pragma omp for schedule(static)
            for (int64_t head = 0; head < heads; head++)
                attend(qkv + head * k, qkv + d + head * k, qkv + 2 * d + head * k, model, past, head, start, end, turns,
                       scores + head * (end - start), mixed + head * k);
            add_product(mixed, d, layer.attention_out, d, of_width.begin, of_width.end, states);
#pragma omp barrier
            norm(states, layer.mlp_norm, d, model.eps, normed);
            std::memset(gates + of_inner.begin, 0, (of_inner.end - of_inner.begin) * sizeof(float));
            std::memset(gates + f + of_inner.begin, 0, (of_inner.end - of_inner.begin) * sizeof(float));
            add_product(normed, d, layer.mlp_in, 2 * f, of_inner.begin, of_inner.end, gates);
            add_product(normed, d, layer.mlp_in, 2 * f, f + of_inner.begin, f + of_inner.end, gates);
            for (int64_t i = of_inner.begin; i < of_inner.end; i++) inner[i] = gelu(gates[i]) * gates[f + i];
#pragma omp barrier
            add_product(inner, f, layer.mlp_out, d, of_width.begin, of_width.end, states);
#pragma omp barrier
        }
        norm(states, model.final_norm, d, model.eps, normed);
        std::memset(hidden + of_width.begin, 0, (of_width.end - of_width.begin) * sizeof(float));
        add_product(normed, d, model.dense, d, of_width.begin, of_width.end, hidden);
        for (int64_t i = of_width.begin; i < of_width.end; i++) hidden[i] = gelu(hidden[i]);
#pragma omp barrier
#pragma omp single
        norm(hidden, model.head_norm, d, model.eps, head_states);
    }
}
