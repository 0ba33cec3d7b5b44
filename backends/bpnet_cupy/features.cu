// What rows of features still need: activations with their slopes, gates, positions.

// F, and its derivative by x, which shares most of the work.
template <class T, class F>
__global__ void activation_with_slope(T* y /* n */, T* slope /* n */, unsigned short* bits /* n? */,
                                      const T* x /* n */, int64 n) {
    for_all<T>(n, aligned(y, slope, x) && address(bits) % 8 == 0, [&](auto count, int64 i) {
        constexpr int m = decltype(count)::value;
        T v[m], s[m];
        load(v, x + i);
        for (int k = 0; k < m; ++k) {
            s[k] = F::backward(T(1), v[k], T(0));
            v[k] = F::forward(v[k], T(0));
        }
        store(y + i, v);
        store(slope + i, s);
        store_copy(bits, i, v);
    });
}

template <class T> __global__ void swiglu(T* out /* n */, const T* x /* 2 * n */, int64 n, int64 half) {
    for_all<T>(n, aligned(out, x) && half % Pack<T>::size == 0, [&](auto count, int64 i) {
        constexpr int m = decltype(count)::value;
        T a[m], b[m];
        const T* left = x + i + row_of(i, half) * half;
        load(a, left);
        load(b, left + half);
        for (int k = 0; k < m; ++k) a[k] = a[k] * sigmoid(a[k]) * b[k];
        store(out + i, a);
    });
}

template <class T>
__global__ void swiglu_backward(T* dx /* 2 * n */, const T* dy /* n */, const T* x /* 2 * n */, int64 n, int64 half) {
    for_all<T>(n, aligned(dx, dy, x) && half % Pack<T>::size == 0, [&](auto count, int64 i) {
        constexpr int m = decltype(count)::value;
        T d[m], a[m], b[m];
        int64 left = i + row_of(i, half) * half;
        load(d, dy + i);
        load(a, x + left);
        load(b, x + left + half);
        for (int k = 0; k < m; ++k) {
            T s = sigmoid(a[k]);
            b[k] = d[k] * b[k] * (s * (1 + a[k] * (1 - s)));
            a[k] = d[k] * (a[k] * s);
        }
        store(dx + left, b);
        store(dx + left + half, a);
    });
}

// x plus the numbers of a table from `begin` on, the same for every `size` numbers of x.
template <class T>
__global__ void add_table(T* out /* n */, const T* x /* n */, const T* table /* begin + size */, int64 n, int64 size,
                          int64 begin) {
    bool in_packs = aligned(out, x, table) && (size | begin) % Pack<T>::size == 0;
    for_all<T>(n, in_packs, [&](auto count, int64 i) {
        constexpr int m = decltype(count)::value;
        T v[m], t[m];
        load(v, x + i);
        load(t, table + begin + column_of(i, size));
        for (int k = 0; k < m; ++k) v[k] += t[k];
        store(out + i, v);
    });
}

// Each pair of features (i, i + head / 2) of the heads in the first `turned` columns, turned by its angle; the others as
// they are. cosines, sines : length * head / 2, one row a position.
template <class T>
__global__ void rotate(T* out /* rows * columns */, const T* x /* rows * columns */,
                       const T* cosines /* length * head // 2 */, const T* sines /* length * head // 2 */, int64 rows,
                       int64 columns, int64 turned, int64 head, int64 length, T direction) {
    int64 half = head / 2;
    for (int64 i = first_thread(); i < rows * columns; i += all_threads()) {
        int64 column = i;
        int64 position = column_of(cut(column, columns), length);
        if (column >= turned) {
            out[i] = x[i];
            continue;
        }
        int64 feature = column_of(column, head);
        bool first = feature < half;
        int64 at = position * half + (first ? feature : feature - half);
        T c = cosines[at], s = direction * sines[at];
        out[i] = first ? x[i] * c - x[i + half] * s : x[i - half] * s + x[i] * c;
    }
}
