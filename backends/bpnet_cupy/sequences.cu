// The CUDA kernels of sequences: recurrent networks and attention. Compiled behind kernels.cu, as one source
// with it; what is said there holds here.

// ---- recurrent networks ----

// A step of every sequence is one launch behind the product of states and weights. x W of all steps lies as the
// sequences do, (samples, n_steps, ...); what is kept for the backward, and states, lie step by step. Where products
// take bfloat16, a step writes the bits that the next one multiplies.

// The bits of element i, where bits are wanted: of float only.
template <class T> __device__ void store_bits(unsigned short* bits, int64 i, T value) {
    if (bits) bits[i] = bf16_bits((float)value);
}

// Whether there is a position t in a sequence; all are there where there are no lengths.
template <class L> __device__ bool present(const L* lengths, int64 sample, int64 t) {
    return !lengths || t < (int64)lengths[sample];
}

struct TanhUnit {
    template <class T> static __device__ T value(T a) { return tanh(a); }
    template <class T> static __device__ T backward(T dh, T h) { return dh * (1 - h * h); }
};
struct ReluUnit {
    template <class T> static __device__ T value(T a) { return maximum(a, T(0)); }
    template <class T> static __device__ T backward(T dh, T h) { return h > 0 ? dh : T(0); }
};

// h_t = F(x_t W + h_{t-1} U + b); `product` is h_{t-1} U, none where the state before is 0.
template <class T, class L, class F>
__global__ void rnn_step(T* y /* samples * n_steps * width */, T* state /* samples * width? */,
                         unsigned short* bits /* samples * width? */,
                         const T* xW /* samples * n_steps * width */, const T* product /* samples * width? */,
                         const T* bias /* width */, const L* lengths /* samples? */, int64 samples, int64 n_steps,
                         int64 width, int64 t) {
    for (int64 i = first_thread(); i < samples * width; i += all_threads()) {
        int64 sample = row_of(i, width), c = i - sample * width;
        int64 at = (sample * n_steps + t) * width + c;
        bool here = present(lengths, sample, t);
        T a = (here ? xW[at] : T(0)) + bias[c];
        if (product) a = a + product[i];
        T h = here ? F::value(a) : T(0);
        y[at] = h;
        if (state) state[i] = h;
        store_bits(bits, i, h);
    }
}

// dz of step t, also as rows of their own for the next product; `product` is dz_{t+1} U^T.
template <class T, class L, class F>
__global__ void rnn_step_backward(T* d /* samples * n_steps * width */, T* dz /* samples * width? */,
                                  unsigned short* bits /* samples * width? */,
                                  const T* dy /* samples * n_steps * width */, const T* y /* samples * n_steps * width */,
                                  const T* product /* samples * width? */, const L* lengths /* samples? */,
                                  int64 samples, int64 n_steps, int64 width, int64 t) {
    for (int64 i = first_thread(); i < samples * width; i += all_threads()) {
        int64 sample = row_of(i, width), c = i - sample * width;
        int64 at = (sample * n_steps + t) * width + c;
        T dh = present(lengths, sample, t) ? dy[at] + (product ? product[i] : T(0)) : T(0);
        T found = F::backward(dh, y[at]);
        d[at] = found;
        if (dz) dz[i] = found;
        store_bits(bits, i, found);
    }
}

// The step's gates are i, f, g, o in xW, product and bias, and i, f, o, g in what is kept. `last` is the step that was
// made before, -1 at the first one, which starts from `cell`, or 0.
template <class T, class L>
__global__ void lstm_step(T* y /* samples * n_steps * width */, T* gates /* n_steps * 4 * samples * width */,
                          T* cells /* n_steps * samples * width */, T* state /* samples * width? */,
                          unsigned short* bits /* samples * width? */,
                          const T* xW /* samples * n_steps * 4 * width */, const T* product /* samples * 4 * width? */,
                          const T* bias /* 4 * width */, const T* cell /* samples * width? */,
                          const L* lengths /* samples? */, int64 samples, int64 n_steps, int64 width, int64 t,
                          int64 last) {
    int64 n = samples * width;
    for (int64 i = first_thread(); i < n; i += all_threads()) {
        int64 sample = row_of(i, width), c = i - sample * width;
        const T* own = xW + (sample * n_steps + t) * 4 * width + c;
        bool here = present(lengths, sample, t);
        T a[4];
        for (int k = 0; k < 4; ++k) {
            a[k] = (here ? own[k * width] : T(0)) + bias[k * width + c];
            if (product) a[k] = a[k] + product[(sample * 4 + k) * width + c];
        }
        T in = sigmoid(a[0]), forget = sigmoid(a[1]), g = tanh(a[2]), out = sigmoid(a[3]);
        T before = last >= 0 ? cells[last * n + i] : cell ? cell[i] : T(0);
        T next = here ? forget * before + in * g : T(0);
        T h = here ? out * tanh(next) : T(0);
        T* kept = gates + t * 4 * n + i;
        kept[0] = in;
        kept[n] = forget;
        kept[2 * n] = out;
        kept[3 * n] = g;
        cells[t * n + i] = next;
        y[(sample * n_steps + t) * width + c] = h;
        if (state) state[i] = h;
        store_bits(bits, i, h);
    }
}

// The backward of step t: `dc` holds dc_{t+1} f_{t+1} and gets dc_t f_t; `before` is the step that the forward made
// before t, -1 where there is none; `first` holds at the step that is treated first.
template <class T, class L>
__global__ void lstm_step_backward(T* d /* samples * n_steps * 4 * width */, T* dz /* samples * 4 * width? */,
                                   unsigned short* bits /* samples * 4 * width? */,
                                   T* dc /* samples * width */, const T* dy /* samples * n_steps * width */,
                                   const T* gates /* n_steps * 4 * samples * width */,
                                   const T* cells /* n_steps * samples * width */,
                                   const T* product /* samples * width? */, const L* lengths /* samples? */,
                                   int64 samples, int64 n_steps, int64 width, int64 t, int64 before, bool first) {
    int64 n = samples * width;
    for (int64 i = first_thread(); i < n; i += all_threads()) {
        int64 sample = row_of(i, width), c = i - sample * width;
        const T* kept = gates + t * 4 * n + i;
        T in = kept[0], forget = kept[n], out = kept[2 * n], g = kept[3 * n];
        T earlier = before >= 0 ? cells[before * n + i] : T(0);
        T s = tanh(cells[t * n + i]);
        bool here = present(lengths, sample, t);
        T dh = here ? dy[(sample * n_steps + t) * width + c] + (product ? product[i] : T(0)) : T(0);
        T slope = here ? (first ? T(0) : dc[i]) + dh * out * (1 - s * s) : T(0);
        T quarters[4] = {slope * g * (in * (1 - in)), slope * earlier * (forget * (1 - forget)),
                         slope * in * (1 - g * g), dh * s * (out * (1 - out))};
        for (int k = 0; k < 4; ++k) {
            d[((sample * n_steps + t) * 4 + k) * width + c] = quarters[k];
            if (dz) dz[(sample * 4 + k) * width + c] = quarters[k];
            store_bits(bits, (sample * 4 + k) * width + c, quarters[k]);
        }
        dc[i] = slope * forget;
    }
}

// `before` is the state before, none where it is 0; it may be `state` itself.
template <class T, class L>
__global__ void gru_step(T* y /* samples * n_steps * width */, T* gates /* n_steps * samples * 4 * width */,
                         T* state /* samples * width */, unsigned short* bits /* samples * width? */,
                         const T* xW /* samples * n_steps * 3 * width */,
                         const T* product /* samples * 3 * width? */, const T* before /* samples * width? */,
                         const T* bias /* 3 * width */, const T* bias_n /* width */, const L* lengths /* samples? */,
                         int64 samples, int64 n_steps, int64 width, int64 t) {
    for (int64 i = first_thread(); i < samples * width; i += all_threads()) {
        int64 sample = row_of(i, width), c = i - sample * width;
        const T* own = xW + (sample * n_steps + t) * 3 * width + c;
        bool here = present(lengths, sample, t);
        T a[3], b[3];
        for (int k = 0; k < 3; ++k) {
            a[k] = (here ? own[k * width] : T(0)) + bias[k * width + c];
            b[k] = product ? product[(sample * 3 + k) * width + c] : T(0);
        }
        T r = sigmoid(a[0] + b[0]), z = sigmoid(a[1] + b[1]);
        T m = b[2] + bias_n[c];
        T n = tanh(a[2] + r * m);
        T old = before ? before[i] : T(0);
        T h = here ? n + z * (old - n) : T(0);
        T* kept = gates + (t * samples + sample) * 4 * width + c;
        kept[0] = r;
        kept[width] = z;
        kept[2 * width] = n;
        kept[3 * width] = m;
        y[(sample * n_steps + t) * width + c] = h;
        state[i] = h;
        store_bits(bits, i, h);
    }
}

// `carried` holds dh_{t+1} z_{t+1} and gets dh_t z_t; `product` is q_{t+1} U^T. p and q as bpnet.ops.gru has them.
template <class T, class L>
__global__ void gru_step_backward(T* p /* samples * n_steps * 3 * width */, T* q /* samples * n_steps * 3 * width? */,
                                  T* step /* samples * 3 * width? */, unsigned short* bits /* samples * 3 * width? */,
                                  T* carried /* samples * width */,
                                  const T* dy /* samples * n_steps * width */,
                                  const T* y /* samples * n_steps * width */,
                                  const T* gates /* n_steps * samples * 4 * width */,
                                  const T* product /* samples * width? */, const L* lengths /* samples? */,
                                  int64 samples, int64 n_steps, int64 width, int64 t, int64 before) {
    for (int64 i = first_thread(); i < samples * width; i += all_threads()) {
        int64 sample = row_of(i, width), c = i - sample * width;
        const T* kept = gates + (t * samples + sample) * 4 * width + c;
        T r = kept[0], z = kept[width], n = kept[2 * width], m = kept[3 * width];
        T earlier = before >= 0 ? y[(sample * n_steps + before) * width + c] : T(0);
        T dh = T(0);
        if (present(lengths, sample, t)) {
            dh = dy[(sample * n_steps + t) * width + c];
            if (product) dh = dh + (carried[i] + product[i]);
        }
        T dn = dh * (1 - z) * (1 - n * n);
        T thirds[3] = {dn * m * (r * (1 - r)), dh * (earlier - n) * (z * (1 - z)), dn * r};
        for (int k = 0; k < 3; ++k) {
            int64 at = ((sample * n_steps + t) * 3 + k) * width + c;
            p[at] = k == 2 ? dn : thirds[k];
            if (q) q[at] = thirds[k];
            if (step) step[(sample * 3 + k) * width + c] = thirds[k];
            store_bits(bits, (sample * 3 + k) * width + c, thirds[k]);
        }
        carried[i] = dh * z;
    }
}

// The state that each step started from: y of the step before, 0 at the first one.
template <class T, class S>
__global__ void states_before(S* out /* samples * n_steps * width */, const T* y /* samples * n_steps * width */,
                              int64 samples, int64 n_steps, int64 width, bool reverse) {
    for (int64 i = first_thread(); i < samples * n_steps * width; i += all_threads()) {
        int64 t = column_of(row_of(i, width), n_steps);
        bool none = reverse ? t == n_steps - 1 : t == 0;
        out[i] = as_factor<S>(none ? T(0) : reverse ? y[i + width] : y[i - width]);
    }
}

// x where there is a position, 0 beyond the lengths.
template <class T, class L>
__global__ void present_steps(T* out /* samples * n_steps * width */, const T* x /* samples * n_steps * width */,
                              const L* lengths /* samples */, int64 samples, int64 n_steps, int64 width) {
    for (int64 i = first_thread(); i < samples * n_steps * width; i += all_threads()) {
        int64 row = row_of(i, width), sample = row_of(row, n_steps);
        out[i] = present(lengths, sample, row - sample * n_steps) ? x[i] : T(0);
    }
}

// The last position that is there, the first one with `reverse`; -1 where there is none.
template <class L> __device__ int64 final_step(const L* lengths, int64 sample, int64 n_steps, bool reverse) {
    if (reverse) return 0;
    if (!lengths || (int64)lengths[sample] > n_steps) return n_steps - 1;
    return (int64)lengths[sample] < 1 ? -1 : (int64)lengths[sample] - 1;
}

template <class T, class L>
__global__ void last_step(T* out /* samples * width */, const T* y /* samples * n_steps * width */,
                          const L* lengths /* samples? */, int64 samples, int64 n_steps, int64 width, bool reverse) {
    for (int64 i = first_thread(); i < samples * width; i += all_threads()) {
        int64 sample = row_of(i, width), c = i - sample * width;
        int64 t = final_step(lengths, sample, n_steps, reverse);
        out[i] = t < 0 ? T(0) : y[(sample * n_steps + t) * width + c];
    }
}

template <class T, class L>
__global__ void last_step_backward(T* out /* samples * n_steps * width */, const T* dy /* samples * width */,
                                   const L* lengths /* samples? */, int64 samples, int64 n_steps, int64 width,
                                   bool reverse) {
    for (int64 i = first_thread(); i < samples * n_steps * width; i += all_threads()) {
        int64 row = row_of(i, width), c = i - row * width, sample = row_of(row, n_steps);
        bool hit = row - sample * n_steps == final_step(lengths, sample, n_steps, reverse);
        out[i] = hit ? dy[sample * width + c] : T(0);
    }
}

// ---- attention ----

// A block has 16 x 16 threads and a tile of 16 R queries by 16 R keys, of which a thread has R x R scores. Tiles follow
// each other along the keys (for dk and dv along the queries) with a running maximum and sum of every row, so that no
// more than a tile of scores is ever there. [Milakov & Gimelshein 2018; Dao et al. 2022] Every result is written by one
// block, in one order. Heads have at most D features; those that are missing count as 0.
#ifdef BPNET_ON_HOST
#define TWO_BLOCKS
#else
#define TWO_BLOCKS __launch_bounds__(256, 2)
#endif
constexpr int SIDE = 16;
constexpr int DEPTH = 16;  // features, or rows, that are staged in shared memory at a time

// The rows of one head of one sequence, `stride` elements apart. Within a head numbers of rows fit into 32 bits, which
// halves the registers that they need.
template <class T> struct Head {
    const T* data;
    int stride, rows, size;
    __device__ T at(int row, int feature) const {
        return row < rows && feature < size ? data[(int64)row * stride + feature] : T(0);
    }
};

// From row to row of a tile in shared memory: a pack more than the tile, against conflicts of banks.
template <class T, int R> constexpr int PITCH = SIDE * R + Pack<T>::size;

// The features of a thread, in groups of up to 4 neighbours.
template <int C> __device__ int feature_of(int j) {
    constexpr int group = C < 4 ? C : 4;
    return j / group * SIDE * group + threadIdx.x % SIDE * group + j % group;
}

// s[i][j] += the sum over all features of a's row i and b's row j of this thread.
template <class T, int R>
__device__ void add_scores(T (&s)[R][R], const Head<T>& a, int a_begin, const Head<T>& b, int b_begin) {
    constexpr int pitch = PITCH<T, R>;
    SHARED(T, left, DEPTH * pitch);
    SHARED(T, right, DEPTH * pitch);
    int row = threadIdx.x / SIDE * R, column = threadIdx.x % SIDE * R;
    #pragma unroll 1
    for (int begin = 0; begin < a.size; begin += DEPTH) {
        __syncthreads();
        #pragma unroll 2
        for (int e = threadIdx.x; e < DEPTH * SIDE * R; e += SIDE * SIDE) {
            int f = e % DEPTH, r = e / DEPTH;
            left[f * pitch + r] = a.at(a_begin + r, begin + f);
            right[f * pitch + r] = b.at(b_begin + r, begin + f);
        }
        __syncthreads();
        #pragma unroll 2
        for (int f = 0; f < DEPTH; ++f) {
            T x[R], y[R];
            #pragma unroll
            for (int i = 0; i < R; ++i) x[i] = left[f * pitch + row + i];
            #pragma unroll
            for (int j = 0; j < R; ++j) y[j] = right[f * pitch + column + j];
            #pragma unroll
            for (int i = 0; i < R; ++i) {
                #pragma unroll
                for (int j = 0; j < R; ++j) s[i][j] = fma(x[i], y[j], s[i][j]);
            }
        }
    }
}

// o[i][j] += the sum over the tile's k of weights[k][row i] times feature j of v's row begin + k.
template <class T, int R, int D, class Weights>
__device__ void add_product(T (&o)[R][D / SIDE], Weights weights, const Head<T>& v, int begin) {
    constexpr int pitch = PITCH<T, R>, C = D / SIDE;
    SHARED(T, rows, DEPTH * D);
    int row = threadIdx.x / SIDE * R;
    #pragma unroll 1
    for (int first = 0; first < SIDE * R; first += DEPTH) {
        __syncthreads();
        #pragma unroll 2
        for (int e = threadIdx.x; e < DEPTH * D; e += SIDE * SIDE) rows[e] = v.at(begin + first + e / D, e % D);
        __syncthreads();
        #pragma unroll 2
        for (int k = 0; k < DEPTH; ++k) {
            T x[R], y[C];
            #pragma unroll
            for (int i = 0; i < R; ++i) x[i] = weights[(first + k) * pitch + row + i];
            #pragma unroll
            for (int j = 0; j < C; ++j) y[j] = rows[k * D + feature_of<C>(j)];
            #pragma unroll
            for (int i = 0; i < R; ++i) {
                #pragma unroll
                for (int j = 0; j < C; ++j) o[i][j] = fma(x[i], y[j], o[i][j]);
            }
        }
    }
}

// Which tile of which head of which sequence a block has, and which keys a query sees there.
struct Place {
    int n_queries, n_keys, tile, later;  // later: by how much the last query's key is behind the query's number
    int64 sample, head, row;             // row: of all rows of probabilities, the head's first one
    const bool* mask;

    __device__ Place(int64 heads, int64 n_queries, int64 n_keys, int64 tiles, const bool* all_masks, bool causal)
        : n_queries(n_queries), n_keys(n_keys), later(causal ? n_keys - n_queries : n_keys) {
        int64 rest = row_of(blockIdx.x, tiles);
        tile = blockIdx.x - rest * tiles;
        sample = row_of(rest, heads);
        head = rest - sample * heads;
        row = rest * n_queries;
        mask = all_masks ? all_masks + sample * n_keys : nullptr;
    }
    __device__ bool inside(int query, int key) const { return query < n_queries && key < n_keys; }
    // Whether anybody may see the key, and then whether the query does.
    __device__ bool there(int key) const { return key < n_keys && (!mask || mask[key]); }
    __device__ bool sees(int query, int key) const { return query < n_queries && key <= query + later; }
    __device__ int64 at(int query, int key) const { return (int64)query * n_keys + key; }
    // The keys before which all lie that the queries before `query` see.
    __device__ int seen(int query) const { return query + later < n_keys ? query + later : n_keys; }
    // The first query that sees `key` or one behind it.
    __device__ int first(int key) const { return key > later ? key - later : 0; }
};

// What is left of a probability, or of its derivative, where some are dropped.
template <class T> __device__ T left_of(T p, const bool* keep, int64 at, T grown) {
    return !keep ? p : keep[at] ? p * grown : T(0);
}

// kept: the probabilities where kept_keys is n_keys, else the logarithms of the rows' sums, and kept_keys is 1.
template <class T, int R, int D>
__global__ void TWO_BLOCKS attention(T* y /* samples * n_queries * heads * size */,
                          T* kept /* samples * heads * n_queries * kept_keys */,
                          const T* q /* strided (samples - 1) * q_sample + (n_queries - 1) * q_row + heads * size */,
                          const T* k /* strided (samples - 1) * k_sample + (n_keys - 1) * k_row + heads * size */,
                          const T* v /* strided (samples - 1) * k_sample + (n_keys - 1) * k_row + heads * size */,
                          const bool* mask /* samples * n_keys? */,
                          const bool* keep /* samples * heads * n_queries * n_keys? */, int64 samples, int64 heads,
                          int64 n_queries, int64 n_keys, int64 size, int64 q_sample, int64 q_row, int64 k_sample,
                          int64 k_row, int64 kept_keys, bool whole, bool causal, T scale, T grown) {
    constexpr int TILE = SIDE * R, C = D / SIDE, pitch = PITCH<T, R>;
    SHARED(T, weights, TILE * pitch);
    Place place(heads, n_queries, n_keys, (n_queries + TILE - 1) / TILE, mask, causal);
    int begin = place.tile * TILE, row = begin + threadIdx.x / SIDE * R, column = threadIdx.x % SIDE * R;
    Head<T> queries{q + place.sample * q_sample + place.head * size, (int)q_row, (int)n_queries, (int)size};
    Head<T> keys{k + place.sample * k_sample + place.head * size, (int)k_row, (int)n_keys, (int)size};
    Head<T> values{v + place.sample * k_sample + place.head * size, (int)k_row, (int)n_keys, (int)size};
    kept += place.row * kept_keys;
    if (keep) keep += place.row * n_keys;
    T o[R][C] = {}, top[R], total[R] = {};
    #pragma unroll
    for (int i = 0; i < R; ++i) top[i] = -Limits<T>::infinity();
    int seen = place.seen(begin + TILE);
    for (int at = 0; at < seen; at += TILE) {
        T s[R][R] = {};
        add_scores<T, R>(s, queries, begin, keys, at);
        bool there[R];
        #pragma unroll
        for (int j = 0; j < R; ++j) there[j] = place.there(at + column + j);
        #pragma unroll
        for (int i = 0; i < R; ++i) {
            int64 first = place.at(row + i, at + column);
            T best = -Limits<T>::infinity(), sum = 0;
            #pragma unroll
            for (int j = 0; j < R; ++j) {
                s[i][j] = there[j] && place.sees(row + i, at + column + j) ? s[i][j] * scale : -Limits<T>::infinity();
                if (whole && place.inside(row + i, at + column + j)) kept[first + j] = s[i][j];
                best = maximum(best, s[i][j]);
            }
            best = maximum(top[i], lane_max<SIDE>(best));
            T shift = best == -Limits<T>::infinity() ? T(0) : best;
            T shrunk = exp(top[i] - shift);
            #pragma unroll
            for (int j = 0; j < R; ++j) {
                T e = exp(s[i][j] - shift);
                sum += e;
                bool inside = place.inside(row + i, at + column + j);
                weights[(column + j) * pitch + row - begin + i] =
                    inside ? left_of(e, keep, first + j, grown) : T(0);
            }
            total[i] = total[i] * shrunk + lane_sum<SIDE>(sum);
            #pragma unroll
            for (int j = 0; j < C; ++j) o[i][j] *= shrunk;
            top[i] = best;
        }
        add_product<T, R, D>(o, weights, values, at);
    }
    #pragma unroll
    for (int i = 0; i < R && row + i < place.n_queries; ++i) {
        T shift = top[i] == -Limits<T>::infinity() ? T(0) : top[i], sum = total[i] == 0 ? T(1) : total[i];
        #pragma unroll
        for (int j = 0; j < C; ++j) {
            int f = feature_of<C>(j);
            if (f < size) y[((place.sample * n_queries + row + i) * heads + place.head) * size + f] = o[i][j] / sum;
        }
        T* own = kept + (row + i) * kept_keys;
        if (!whole) {
            if (column == 0) own[0] = shift + log(sum);
            continue;
        }
        for (int at = column; at < place.n_keys; at += TILE) {
            #pragma unroll
            for (int j = 0; j < R && at + j < place.n_keys; ++j) {
                own[at + j] = at - column < seen ? exp(own[at + j] - shift) / sum : T(0);
            }
        }
    }
}

// For every row and head the sum of dy y over its features: what the softmax's derivative subtracts. With `rounded` dy
// counts as it is in bfloat16.
template <class T, int W>
__global__ void attention_inner(T* inner /* rows */, const T* dy /* rows * size */, const T* y /* rows * size */,
                                int64 rows, int64 size, bool rounded) {
    for_rows<W>(rows, [&](int64 row, int64 lane, bool alive) {
        T sum = 0;
        for (int64 f = lane; f < (alive ? size : 0); f += W) {
            T slope = dy[row * size + f];
            if (rounded) slope = bf16_number(bf16_bits((float)slope));
            sum += slope * y[row * size + f];
        }
        sum = row_sum<W>(sum);
        if (lane == 0 && alive) inner[row] = sum;
    });
}

// The probability of a score; `logarithms` are those of the sums of the head's rows.
template <class T>
__device__ T probability(T s, const T* logarithms, const Place& place, int query, int key, T scale) {
    return place.there(key) && place.sees(query, key) ? exp(s * scale - logarithms[query]) : T(0);
}

// dq: a block has some queries and goes through the keys that they see.
template <class T, int R, int D>
__global__ void TWO_BLOCKS attention_backward_queries(
    T* dq /* strided (samples - 1) * to_sample + (n_queries - 1) * to_row + heads * size */,
    const T* dy /* samples * n_queries * heads * size */, const T* inner /* samples * n_queries * heads */,
    const T* kept /* samples * heads * n_queries * kept_keys */,
    const T* q /* strided (samples - 1) * q_sample + (n_queries - 1) * q_row + heads * size */,
    const T* k /* strided (samples - 1) * k_sample + (n_keys - 1) * k_row + heads * size */,
    const T* v /* strided (samples - 1) * k_sample + (n_keys - 1) * k_row + heads * size */,
    const bool* mask /* samples * n_keys? */, const bool* keep /* samples * heads * n_queries * n_keys? */,
    int64 samples, int64 heads, int64 n_queries, int64 n_keys, int64 size, int64 q_sample, int64 q_row, int64 k_sample,
    int64 k_row, int64 kept_keys, int64 to_sample, int64 to_row, bool whole, bool causal,
    T scale, T grown) {
    constexpr int TILE = SIDE * R, C = D / SIDE, pitch = PITCH<T, R>;
    SHARED(T, weights, TILE * pitch);
    Place place(heads, n_queries, n_keys, (n_queries + TILE - 1) / TILE, mask, causal);
    int begin = place.tile * TILE, row = begin + threadIdx.x / SIDE * R, column = threadIdx.x % SIDE * R;
    Head<T> queries{q + place.sample * q_sample + place.head * size, (int)q_row, (int)n_queries, (int)size};
    Head<T> keys{k + place.sample * k_sample + place.head * size, (int)k_row, (int)n_keys, (int)size};
    Head<T> values{v + place.sample * k_sample + place.head * size, (int)k_row, (int)n_keys, (int)size};
    Head<T> slopes{dy + (place.sample * n_queries * heads + place.head) * size, (int)(heads * size), (int)n_queries,
                   (int)size};
    kept += place.row * kept_keys;
    if (keep) keep += place.row * n_keys;
    inner += place.sample * n_queries * heads + place.head;
    T found[R][C] = {};
    int seen = place.seen(begin + TILE);
    for (int at = 0; at < seen; at += TILE) {
        T s[R][R] = {}, dp[R][R] = {};
        if (!whole) add_scores<T, R>(s, queries, begin, keys, at);
        add_scores<T, R>(dp, slopes, begin, values, at);
        #pragma unroll
        for (int i = 0; i < R; ++i) {
            bool inside = row + i < place.n_queries;
            int64 first = inside ? place.at(row + i, at + column) : 0;
            T less = inside ? inner[(row + i) * heads] : T(0);
            #pragma unroll
            for (int j = 0; j < R; ++j) {
                T ds = 0;
                if (inside && at + column + j < place.n_keys) {
                    T p = whole ? kept[first + j] : probability(s[i][j], kept, place, row + i, at + column + j, scale);
                    ds = p * (left_of(dp[i][j], keep, first + j, grown) - less) * scale;
                }
                weights[(column + j) * pitch + row - begin + i] = ds;
            }
        }
        add_product<T, R, D>(found, weights, keys, at);
    }
    #pragma unroll
    for (int i = 0; i < R && row + i < place.n_queries; ++i) {
        T* to = dq + place.sample * to_sample + (row + i) * to_row + place.head * size;
        #pragma unroll
        for (int j = 0; j < C; ++j) {
            int f = feature_of<C>(j);
            if (f < size) to[f] = found[i][j];
        }
    }
}

// dk and dv: a block has some keys and goes through the queries that see them; tiles are transposed.
template <class T, int R, int D>
__global__ void TWO_BLOCKS attention_backward_keys(
    T* dk /* strided (samples - 1) * to_sample + (n_keys - 1) * to_row + heads * size */,
    T* dv /* strided (samples - 1) * to_sample + (n_keys - 1) * to_row + heads * size */,
    const T* dy /* samples * n_queries * heads * size */, const T* inner /* samples * n_queries * heads */,
    const T* kept /* samples * heads * n_queries * kept_keys */,
    const T* q /* strided (samples - 1) * q_sample + (n_queries - 1) * q_row + heads * size */,
    const T* k /* strided (samples - 1) * k_sample + (n_keys - 1) * k_row + heads * size */,
    const T* v /* strided (samples - 1) * k_sample + (n_keys - 1) * k_row + heads * size */,
    const bool* mask /* samples * n_keys? */, const bool* keep /* samples * heads * n_queries * n_keys? */,
    int64 samples, int64 heads, int64 n_queries, int64 n_keys, int64 size, int64 q_sample, int64 q_row, int64 k_sample,
    int64 k_row, int64 kept_keys, int64 to_sample, int64 to_row, bool whole, bool causal,
    T scale, T grown) {
    constexpr int TILE = SIDE * R, C = D / SIDE, pitch = PITCH<T, R>;
    SHARED(T, weights, TILE * pitch);
    Place place(heads, n_queries, n_keys, (n_keys + TILE - 1) / TILE, mask, causal);
    int begin = place.tile * TILE, row = begin + threadIdx.x / SIDE * R, column = threadIdx.x % SIDE * R;
    Head<T> queries{q + place.sample * q_sample + place.head * size, (int)q_row, (int)n_queries, (int)size};
    Head<T> keys{k + place.sample * k_sample + place.head * size, (int)k_row, (int)n_keys, (int)size};
    Head<T> values{v + place.sample * k_sample + place.head * size, (int)k_row, (int)n_keys, (int)size};
    Head<T> slopes{dy + (place.sample * n_queries * heads + place.head) * size, (int)(heads * size), (int)n_queries,
                   (int)size};
    kept += place.row * kept_keys;
    if (keep) keep += place.row * n_keys;
    inner += place.sample * n_queries * heads + place.head;
    T of_keys[R][C] = {}, of_values[R][C] = {};
    for (int at = place.first(begin); at < place.n_queries; at += TILE) {
        T p[R][R] = {}, ds[R][R] = {};
        if (!whole) add_scores<T, R>(p, keys, begin, queries, at);
        add_scores<T, R>(ds, values, begin, slopes, at);
        #pragma unroll
        for (int j = 0; j < R; ++j) {
            int query = at + column + j;
            T less = query < place.n_queries ? inner[query * heads] : T(0);
            #pragma unroll
            for (int i = 0; i < R; ++i) {
                T each = 0, rest = 0;
                if (place.inside(query, row + i)) {
                    int64 here = place.at(query, row + i);
                    each = whole ? kept[here] : probability(p[i][j], kept, place, query, row + i, scale);
                    rest = each * (left_of(ds[i][j], keep, here, grown) - less) * scale;
                    each = left_of(each, keep, here, grown);
                }
                weights[(column + j) * pitch + row - begin + i] = each;
                ds[i][j] = rest;
            }
        }
        add_product<T, R, D>(of_values, weights, slopes, at);
        __syncthreads();
        #pragma unroll
        for (int j = 0; j < R; ++j) {
            #pragma unroll
            for (int i = 0; i < R; ++i) weights[(column + j) * pitch + row - begin + i] = ds[i][j];
        }
        add_product<T, R, D>(of_keys, weights, queries, at);
    }
    #pragma unroll
    for (int i = 0; i < R && row + i < place.n_keys; ++i) {
        int64 to = place.sample * to_sample + (row + i) * to_row + place.head * size;
        #pragma unroll
        for (int j = 0; j < C; ++j) {
            int f = feature_of<C>(j);
            if (f < size) dk[to + f] = of_keys[i][j];
            if (f < size) dv[to + f] = of_values[i][j];
        }
    }
}
