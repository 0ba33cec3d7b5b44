// The CUDA kernels of attention whose matrices of scores are whole, so that cublasLt multiplies: in bfloat16, and for
// large heads. Compiled behind kernels.cu, as one source with it; what is said there holds here.

// x (samples, length, parts * heads * size), whose rows may have gaps, as factors (parts, samples, heads, length, size).
template <class S, class T>
__global__ void split_heads(S* out /* parts * samples * heads * length * size */,
                            const T* x /* strided (samples - 1) * x_sample + (length - 1) * x_row + parts * heads * size */,
                            int64 parts, int64 samples, int64 heads, int64 length, int64 size, int64 x_sample,
                            int64 x_row) {
    bool in_packs = aligned(out, x) && (size | x_sample | x_row) % Pack<S>::size == 0;
    for_all<S>(parts * samples * heads * length * size, in_packs, [&](auto count, int64 i) {
        constexpr int m = decltype(count)::value;
        int64 row = row_of(i, size), f = i - row * size;
        int64 head = row_of(row, length), t = row - head * length;
        int64 sample = row_of(head, heads), part = row_of(sample, samples);
        T v[m];
        S w[m];
        load(v, x + (sample - part * samples) * x_sample + t * x_row + (part * heads + head - sample * heads) * size + f);
        for (int j = 0; j < m; ++j) w[j] = as_factor<S>(v[j]);
        store(out + i, w);
    });
}

// The way back.
template <class T>
__global__ void join_heads(T* out /* samples * length * parts * heads * size */,
                           unsigned short* copy /* samples * length * parts * heads * size? */,
                           const T* x /* parts * samples * heads * length * size */, int64 parts, int64 samples,
                           int64 heads, int64 length, int64 size) {
    bool wide = aligned(out, x) && address(copy) % 8 == 0 && size % Pack<T>::size == 0;
    for_all<T>(samples * length * parts * heads * size, wide, [&](auto count, int64 i) {
        T v[decltype(count)::value];
        int64 all = row_of(i, size), f = i - all * size;
        int64 row = row_of(all, parts * heads), place = all - row * parts * heads;
        int64 sample = row_of(row, length), part = row_of(place, heads);
        int64 head = (part * samples + sample) * heads + place - part * heads;
        load(v, x + (head * length + row - sample * length) * size + f);
        store(out + i, v);
        store_copy(copy, i, v);
    });
}

// Which keys the query of a row sees; rows are those of all queries of all heads of all samples.
struct Seen {
    const bool* there;
    int64 end;
    __device__ Seen(int64 row, const bool* mask, int64 heads, int64 n_queries, int64 n_keys, bool causal)
        : there(mask ? mask + row_of(row, heads * n_queries) * n_keys : nullptr),
          end(causal ? column_of(row, n_queries) + 1 + n_keys - n_queries : n_keys) {}
    __device__ bool operator()(int64 key) const { return key < end && (!there || there[key]); }
};

// The scores of `rows` rows from `first` on become probabilities; `weights` are what is left of them, as factors.
template <class T, class S, int W>
__global__ void softmax_scores(T* s /* rows * n_keys */, T* logarithms /* samples * heads * n_queries? */,
                               S* weights /* rows * n_keys */, const bool* mask /* samples * n_keys? */,
                               const bool* keep /* samples * heads * n_queries * n_keys? */, int64 rows, int64 first,
                               int64 samples, int64 heads, int64 n_queries, int64 n_keys, bool causal, T scale,
                               T grown) {
    for_rows<W>(rows, [&](int64 row, int64 lane, bool alive) {
        Seen seen(alive ? first + row : first, mask, heads, n_queries, n_keys, causal);
        T* own = s + row * n_keys;
        S* left = weights + row * n_keys;
        int64 end = alive ? n_keys : 0;
        T top = -Limits<T>::infinity(), total = 0;
        for (int64 c = lane; c < end; c += W) {
            T each = seen(c) ? own[c] * scale : -Limits<T>::infinity();
            own[c] = each;
            top = maximum(top, each);
        }
        top = row_max<W>(top);
        if (top == -Limits<T>::infinity()) top = 0;
        for (int64 c = lane; c < end; c += W) {
            T e = exp(own[c] - top);
            own[c] = e;
            total += e;
        }
        total = row_sum<W>(total);
        if (total == 0) total = 1;
        for (int64 c = lane; c < end; c += W) {
            T p = own[c] / total;
            own[c] = p;
            left[c] = as_factor<S>(left_of(p, keep, (first + row) * n_keys + c, grown));
        }
        if (logarithms && lane == 0 && alive) logarithms[first + row] = top + log(total);
    });
}

// From probabilities, or from scores where there are logarithms of the rows' sums, and from dP: the factors of dv, and
// of dq and dk.
template <class T, class S>
__global__ void scores_backward(S* weights /* rows * n_keys */, S* slopes /* rows * n_keys */,
                                const T* s /* rows * n_keys */, const T* dp /* rows * n_keys */,
                                const T* inner /* samples * n_queries * heads */,
                                const T* logarithms /* samples * heads * n_queries? */,
                                const bool* mask /* samples * n_keys? */,
                                const bool* keep /* samples * heads * n_queries * n_keys? */, int64 rows, int64 first,
                                int64 samples, int64 heads, int64 n_queries, int64 n_keys, bool causal, T scale,
                                T grown) {
    for (int64 i = first_thread(); i < rows * n_keys; i += all_threads()) {
        int64 row = row_of(i, n_keys), key = i - row * n_keys;
        row += first;
        int64 head = row_of(row, n_queries), sample = row_of(head, heads);
        T p = s[i];
        if (logarithms) {
            Seen seen(row, mask, heads, n_queries, n_keys, causal);
            p = seen(key) ? exp(p * scale - logarithms[row]) : T(0);
        }
        int64 at = row * n_keys + key;
        T less = inner[(sample * n_queries + row - head * n_queries) * heads + head - sample * heads];
        weights[i] = as_factor<S>(left_of(p, keep, at, grown));
        slopes[i] = as_factor<S>(p * (left_of(dp[i], keep, at, grown) - less) * scale);
    }
}
