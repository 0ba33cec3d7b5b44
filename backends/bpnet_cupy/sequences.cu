// The CUDA kernels of sequences: recurrent networks, attention, positions. Compiled behind kernels.cu, as one source
// with it; what is said there holds here.

// ---- recurrent networks ----

// A step of every sequence is one launch behind the product of states and weights. x W of all steps lies as the
// sequences do, (samples, n_steps, ...); what is kept for the backward, and states, lie step by step.

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
__global__ void rnn_step(T* y /* samples * n_steps * width */, T* state /* samples * width */,
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
        state[i] = h;
    }
}

// dz of step t, also as rows of their own for the next product; `product` is dz_{t+1} U^T.
template <class T, class L, class F>
__global__ void rnn_step_backward(T* d /* samples * n_steps * width */, T* dz /* samples * width */,
                                  const T* dy /* samples * n_steps * width */, const T* y /* samples * n_steps * width */,
                                  const T* product /* samples * width? */, const L* lengths /* samples? */,
                                  int64 samples, int64 n_steps, int64 width, int64 t) {
    for (int64 i = first_thread(); i < samples * width; i += all_threads()) {
        int64 sample = row_of(i, width), c = i - sample * width;
        int64 at = (sample * n_steps + t) * width + c;
        T dh = present(lengths, sample, t) ? dy[at] + (product ? product[i] : T(0)) : T(0);
        T found = F::backward(dh, y[at]);
        d[at] = found;
        dz[i] = found;
    }
}

// The step's gates are i, f, g, o in xW, product and bias, and i, f, o, g in what is kept. `last` is the step that was
// made before, -1 at the first one, which starts from `cell`, or 0.
template <class T, class L>
__global__ void lstm_step(T* y /* samples * n_steps * width */, T* gates /* n_steps * 4 * samples * width */,
                          T* cells /* n_steps * samples * width */, T* state /* samples * width */,
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
        state[i] = h;
    }
}

// The backward of step t: `dc` holds dc_{t+1} f_{t+1} and gets dc_t f_t; `before` is the step that the forward made
// before t, -1 where there is none; `first` holds at the step that is treated first.
template <class T, class L>
__global__ void lstm_step_backward(T* d /* samples * n_steps * 4 * width */, T* dz /* samples * 4 * width */,
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
            dz[(sample * 4 + k) * width + c] = quarters[k];
        }
        dc[i] = slope * forget;
    }
}

// `before` is the state before, none where it is 0; it may be `state` itself.
template <class T, class L>
__global__ void gru_step(T* y /* samples * n_steps * width */, T* gates /* n_steps * samples * 4 * width */,
                         T* state /* samples * width */, const T* xW /* samples * n_steps * 3 * width */,
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
    }
}

// `carried` holds dh_{t+1} z_{t+1} and gets dh_t z_t; `product` is q_{t+1} U^T. p and q as bpnet.ops.gru has them.
template <class T, class L>
__global__ void gru_step_backward(T* p /* samples * n_steps * 3 * width */, T* q /* samples * n_steps * 3 * width? */,
                                  T* step /* samples * 3 * width */, T* carried /* samples * width */,
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
            step[(sample * 3 + k) * width + c] = thirds[k];
        }
        carried[i] = dh * z;
    }
}

// The state that each step started from: y of the step before, 0 at the first one.
template <class T>
__global__ void states_before(T* out /* samples * n_steps * width */, const T* y /* samples * n_steps * width */,
                              int64 samples, int64 n_steps, int64 width, bool reverse) {
    for (int64 i = first_thread(); i < samples * n_steps * width; i += all_threads()) {
        int64 t = column_of(row_of(i, width), n_steps);
        bool none = reverse ? t == n_steps - 1 : t == 0;
        out[i] = none ? T(0) : reverse ? y[i + width] : y[i - width];
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
