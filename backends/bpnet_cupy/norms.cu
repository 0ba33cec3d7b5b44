// Normalization: by the batch (batch norm), by a sample's groups of channels (group norm), by every row (layer norm, RMS
// norm), and the running statistics. Variances are means of squared differences from a mean that is known before, as in
// the ops: a second pass, and no cancellation.

// ---- rows ----

// body(Count<m>, c) for the elements c of a row that are this lane's, in packs where that may be.
template <int W, class T, class Body> __device__ void along(int64 columns, int64 lane, bool in_packs, Body body) {
    constexpr int size = Pack<T>::size;
    if (in_packs) {
        for (int64 c = lane * size; c < columns; c += W * size) body(Count<size>(), c);
    } else {
        for (int64 c = lane; c < columns; c += W) body(Count<1>(), c);
    }
}

// y = gain h + bias, h = (x - mean) r, r = 1 / sqrt(mean of (x - mean)^2 + epsilon); the mean is 0 where not `centred`.
template <class T, int W, bool centred>
__global__ void layer_norm(T* y /* rows * columns */, T* h /* rows * columns */, T* r /* rows */,
                           unsigned short* bits /* rows * columns? */, const T* x /* rows * columns */, const T* gain /* columns */, const T* bias /* columns? */,
                           int64 rows, int64 columns, T epsilon) {
    bool in_packs = aligned(y, h, x, gain, bias) && address(bits) % 8 == 0 && columns % Pack<T>::size == 0;
    for_rows<W>(rows, [&](int64 row, int64 lane, bool alive) {
        int64 begin = row * columns, end = alive ? columns : 0;
        T mean = 0, square = 0;
        if constexpr (centred) {
            along<W, T>(end, lane, in_packs, [&](auto count, int64 c) {
                T v[decltype(count)::value];
                load(v, x + begin + c);
                for (auto each : v) mean += each;
            });
            mean = row_sum<W>(mean) / T(columns);
        }
        along<W, T>(end, lane, in_packs, [&](auto count, int64 c) {
            T v[decltype(count)::value];
            load(v, x + begin + c);
            for (auto each : v) square += (each - mean) * (each - mean);
        });
        T scale = 1 / sqrt(row_sum<W>(square) / T(columns) + epsilon);
        along<W, T>(end, lane, in_packs, [&](auto count, int64 c) {
            constexpr int m = decltype(count)::value;
            T v[m], g[m], b[m] = {};
            load(v, x + begin + c);
            load(g, gain + c);
            if (bias) load(b, bias + c);
            for (auto& each : v) each = (each - mean) * scale;
            store(h + begin + c, v);
            for (int k = 0; k < m; ++k) v[k] = bias ? v[k] * g[k] + b[k] : v[k] * g[k];
            store(y + begin + c, v);
            store_copy(bits, begin + c, v);
        });
        if (alive && lane == 0) r[row] = scale;
    });
}

// dx = r (dh - mean(dh) - h mean(dh h)), dh = dy gain; mean(dh) counts where `centred`.
template <class T, int W, bool centred>
__global__ void layer_norm_backward(T* dx /* rows * columns */, const T* dy /* rows * columns */,
                                    const T* h /* rows * columns */, const T* r /* rows */,
                                    const T* gain /* columns */, int64 rows, int64 columns) {
    bool in_packs = aligned(dx, dy, h, gain) && columns % Pack<T>::size == 0;
    for_rows<W>(rows, [&](int64 row, int64 lane, bool alive) {
        int64 begin = row * columns, end = alive ? columns : 0;
        T mean = 0, slope = 0;
        along<W, T>(end, lane, in_packs, [&](auto count, int64 c) {
            constexpr int m = decltype(count)::value;
            T d[m], s[m], g[m];
            load(d, dy + begin + c);
            load(s, h + begin + c);
            load(g, gain + c);
            for (int k = 0; k < m; ++k) {
                mean += d[k] * g[k];
                slope += d[k] * g[k] * s[k];
            }
        });
        mean = centred ? row_sum<W>(mean) / T(columns) : T(0);
        slope = row_sum<W>(slope) / T(columns);
        T scale = alive ? r[row] : T(0);
        along<W, T>(end, lane, in_packs, [&](auto count, int64 c) {
            constexpr int m = decltype(count)::value;
            T d[m], s[m], g[m];
            load(d, dy + begin + c);
            load(s, h + begin + c);
            load(g, gain + c);
            for (int k = 0; k < m; ++k) d[k] = scale * (d[k] * g[k] - mean - s[k] * slope);
            store(dx + begin + c, d);
        });
    });
}

// dgain = sum of dy h over rows; dbias, where it is wanted, the sum of dy.
template <class T, int X>
__global__ void gain_sums(T* dgain /* columns */, T* dbias /* columns? */, const T* dy /* rows * columns */,
                          const T* h /* rows * columns */, T* partial /* gridDim.y * 2 * columns? */,
                          unsigned* counter /* gridDim.x? */, int64 rows, int64 columns) {
    sum_columns<2, X>(
        partial, counter, rows, columns,
        [&](T (&sums)[2], int64 row, int64 column) {
            T d = dy[row * columns + column];
            sums[0] += d * h[row * columns + column];
            sums[1] += d;
        },
        [&](int64 column, T (&sums)[2]) {
            dgain[column] = sums[0];
            if (dbias) dbias[column] = sums[1];
        });
}

// ---- columns ----

// The mean of every column, or the mean of the squared differences from `mean`.
template <class T, int X, bool squared>
__global__ void column_mean(T* out /* columns */, const T* x /* rows * columns */, const T* mean /* columns? */,
                            T* partial /* gridDim.y * columns? */, unsigned* counter /* gridDim.x? */, int64 rows,
                            int64 columns) {
    sum_columns<1, X>(
        partial, counter, rows, columns,
        [&](T (&sums)[1], int64 row, int64 column) {
            T v = x[row * columns + column];
            if constexpr (squared) v = (v - mean[column]) * (v - mean[column]);
            sums[0] += v;
        },
        [&](int64 column, T (&sums)[1]) { out[column] = sums[0] / T(rows); });
}

// As for_all over rows of `columns`, by threads that stay in their columns: prepare(Count<m>, column) when they come
// there, which is once but for rows of more packs than there are threads, and body(Count<m>, i) for every pack.
template <class T, class Prepare, class Body>
__device__ void for_columns(int64 n, int64 columns, bool in_packs, Prepare prepare, Body body) {
    auto run = [&](auto count) {
        constexpr int m = decltype(count)::value;
        int64 across = columns / m, threads = all_threads() / across * across, now = -1;
        if (threads == 0) threads = all_threads();
        if (first_thread() >= threads) return;
        for (int64 i = first_thread() * m; i < n; i += threads * m) {
            int64 column = column_of(i, columns);
            if (column != now) prepare(count, column);
            now = column;
            body(count, i);
        }
    };
    if (in_packs)
        run(Count<Pack<T>::size>());
    else
        run(Count<1>());
}

// y = (x - mean) / sqrt(variance + epsilon) * weight + bias, all of them one a column.
template <class T>
__global__ void normalize(T* y /* n */, const T* x /* n */, const T* mean /* columns */, const T* variance /* columns */,
                          const T* weight /* columns? */, const T* bias /* columns? */, int64 n, int64 columns,
                          T epsilon) {
    constexpr int size = Pack<T>::size;
    T centre[size], scale[size], shift[size] = {}, w[size];
    bool in_packs = aligned(y, x, mean, variance, weight, bias) && columns % size == 0;
    for_columns<T>(
        n, columns, in_packs,
        [&](auto count, int64 column) {
            constexpr int m = decltype(count)::value;
            T part[m];
            load(part, mean + column);
            for (int k = 0; k < m; ++k) centre[k] = part[k];
            load(part, variance + column);
            for (int k = 0; k < m; ++k) scale[k] = 1 / sqrt(part[k] + epsilon);
            if (weight) load(part, weight + column);
            for (int k = 0; weight && k < m; ++k) scale[k] *= part[k];
            if (bias) load(part, bias + column);
            for (int k = 0; bias && k < m; ++k) shift[k] = part[k];
        },
        [&](auto count, int64 i) {
            constexpr int m = decltype(count)::value;
            T v[m];
            load(v, x + i);
            for (int k = 0; k < m; ++k) {
                v[k] = (v[k] - centre[k]) * scale[k];
                if (bias) v[k] += shift[k];
            }
            store(y + i, v);
        });
}

// dweight = sum of dy n and dbias = sum of dy over rows, n = (x - mean) / sqrt(variance + epsilon). The statistics are
// those of the row's sample, of which each has so many rows, and of the column's group.
template <class T, int X>
__global__ void norm_sums(T* dweight /* columns */, T* dbias /* columns */, const T* dy /* rows * columns */,
                          const T* x /* rows * columns */, const T* mean /* rows // per_sample * groups */,
                          const T* variance /* rows // per_sample * groups */,
                          T* partial /* gridDim.y * 2 * columns? */, unsigned* counter /* gridDim.x? */, int64 rows,
                          int64 columns, int64 per_sample, int64 groups, T epsilon) {
    int64 now = -1;
    T centre = 0, scale = 0;
    sum_columns<2, X>(
        partial, counter, rows, columns,
        [&](T (&sums)[2], int64 row, int64 column) {
            int64 sample = row_of(row, per_sample);
            if (sample != now) {
                int64 at = sample * groups + row_of(column, columns / groups);
                centre = mean[at];
                scale = 1 / sqrt(variance[at] + epsilon);
                now = sample;
            }
            T d = dy[row * columns + column];
            sums[0] += d * ((x[row * columns + column] - centre) * scale);
            sums[1] += d;
        },
        [&](int64 column, T (&sums)[2]) {
            dweight[column] = sums[0];
            dbias[column] = sums[1];
        });
}

// dx = (dy - dbias / rows - n dweight / rows) weight / s for statistics of these rows, dy weight / s for `given` ones.
template <class T, bool given>
__global__ void normalize_backward(T* dx /* n */, const T* dy /* n */, const T* x /* n */, const T* mean /* columns */,
                                   const T* variance /* columns */, const T* weight /* columns? */,
                                   const T* dweight /* columns */, const T* dbias /* columns */, int64 n,
                                   int64 columns, T epsilon) {
    constexpr int size = Pack<T>::size;
    T centre[size], scale[size], factor[size], slope[size], shift[size], rows = T(n / columns);
    bool in_packs = aligned(dx, dy, x, mean, variance, weight, dweight, dbias) && columns % size == 0;
    for_columns<T>(
        n, columns, in_packs,
        [&](auto count, int64 column) {
            constexpr int m = decltype(count)::value;
            T part[m];
            load(part, variance + column);
            for (int k = 0; k < m; ++k) factor[k] = scale[k] = 1 / sqrt(part[k] + epsilon);
            if (weight) load(part, weight + column);
            for (int k = 0; weight && k < m; ++k) factor[k] *= part[k];
            if constexpr (!given) {
                load(part, mean + column);
                for (int k = 0; k < m; ++k) centre[k] = part[k];
                load(part, dweight + column);
                for (int k = 0; k < m; ++k) slope[k] = part[k] / rows;
                load(part, dbias + column);
                for (int k = 0; k < m; ++k) shift[k] = part[k] / rows;
            }
        },
        [&](auto count, int64 i) {
            constexpr int m = decltype(count)::value;
            T d[m];
            load(d, dy + i);
            if constexpr (!given) {
                T v[m];
                load(v, x + i);
                for (int k = 0; k < m; ++k) d[k] = d[k] - shift[k] - (v[k] - centre[k]) * scale[k] * slope[k];
            }
            for (int k = 0; k < m; ++k) d[k] *= factor[k];
            store(dx + i, d);
        });
}

// ---- groups ----

// W threads share a sample's group: `pixels` times channels / groups numbers that follow each other.
struct Group {
    int64 begin, first, each, channels;
    __device__ Group(int64 number, int64 pixels, int64 groups, int64 channels_) : channels(channels_) {
        each = channels / groups;
        int64 sample = cut(number, groups);
        first = number * each;
        begin = sample * pixels * channels + first;
    }
    __device__ int64 channel(int64 e) const { return first + column_of(e, each); }
    __device__ int64 offset(int64 e) const {
        int64 pixel = row_of(e, each);
        return begin + pixel * channels + e - pixel * each;
    }
};

template <class T, int W>
__global__ void group_norm(T* y /* samples * pixels * channels */, T* means /* samples * groups */,
                           T* variances /* samples * groups */, const T* x /* samples * pixels * channels */,
                           const T* weight /* channels? */, const T* bias /* channels? */, int64 samples, int64 pixels,
                           int64 channels, int64 groups, T epsilon) {
    bool in_packs = aligned(y, x, weight, bias) && channels / groups % Pack<T>::size == 0;
    for_rows<W>(samples * groups, [&](int64 row, int64 lane, bool alive) {
        Group group(alive ? row : 0, pixels, groups, channels);
        int64 n = pixels * group.each, end = alive ? n : 0;
        T mean = 0, square = 0;
        along<W, T>(end, lane, in_packs, [&](auto count, int64 e) {
            T v[decltype(count)::value];
            load(v, x + group.offset(e));
            for (auto each : v) mean += each;
        });
        mean = row_sum<W>(mean) / T(n);
        along<W, T>(end, lane, in_packs, [&](auto count, int64 e) {
            T v[decltype(count)::value];
            load(v, x + group.offset(e));
            for (auto each : v) square += (each - mean) * (each - mean);
        });
        T variance = row_sum<W>(square) / T(n), scale = 1 / sqrt(variance + epsilon);
        along<W, T>(end, lane, in_packs, [&](auto count, int64 e) {
            constexpr int m = decltype(count)::value;
            int64 at = group.offset(e), channel = group.channel(e);
            T v[m], w[m];
            load(v, x + at);
            for (auto& each : v) each = (each - mean) * scale;
            if (weight) load(w, weight + channel);
            for (int k = 0; weight && k < m; ++k) v[k] *= w[k];
            if (bias) load(w, bias + channel);
            for (int k = 0; bias && k < m; ++k) v[k] += w[k];
            store(y + at, v);
        });
        if (alive && lane == 0) {
            means[row] = mean;
            variances[row] = variance;
        }
    });
}

// dx = (g - mean(g) - n mean(g n)) / s, g = dy weight, means over the sample's group.
template <class T, int W>
__global__ void group_norm_backward(T* dx /* samples * pixels * channels */,
                                    const T* dy /* samples * pixels * channels */,
                                    const T* x /* samples * pixels * channels */, const T* means /* samples * groups */,
                                    const T* variances /* samples * groups */, const T* weight /* channels? */,
                                    int64 samples, int64 pixels, int64 channels, int64 groups, T epsilon) {
    bool in_packs = aligned(dx, dy, x, weight) && channels / groups % Pack<T>::size == 0;
    for_rows<W>(samples * groups, [&](int64 row, int64 lane, bool alive) {
        Group group(alive ? row : 0, pixels, groups, channels);
        int64 n = pixels * group.each, end = alive ? n : 0;
        T centre = alive ? means[row] : T(0), scale = alive ? 1 / sqrt(variances[row] + epsilon) : T(0);
        T mean = 0, slope = 0;
        along<W, T>(end, lane, in_packs, [&](auto count, int64 e) {
            constexpr int m = decltype(count)::value;
            T d[m], v[m], w[m];
            load(d, dy + group.offset(e));
            load(v, x + group.offset(e));
            for (auto& each : w) each = 1;
            if (weight) load(w, weight + group.channel(e));
            for (int k = 0; k < m; ++k) {
                T g = d[k] * w[k];
                mean += g;
                slope += g * ((v[k] - centre) * scale);
            }
        });
        mean = row_sum<W>(mean) / T(n);
        slope = row_sum<W>(slope) / T(n);
        along<W, T>(end, lane, in_packs, [&](auto count, int64 e) {
            constexpr int m = decltype(count)::value;
            int64 at = group.offset(e);
            T d[m], v[m], w[m];
            load(d, dy + at);
            load(v, x + at);
            for (auto& each : w) each = 1;
            if (weight) load(w, weight + group.channel(e));
            for (int k = 0; k < m; ++k) {
                T g = d[k] * w[k];
                d[k] = (g - mean - (v[k] - centre) * scale * slope) * scale;
            }
            store(dx + at, d);
        });
    });
}

// ---- running statistics ----

// target = (1 - momentum) source + momentum factor new; the source may be the target.
template <class T>
__global__ void blend(T* target /* n */, const T* source /* n */, const T* more /* n */, int64 n, T old_share,
                      T new_share) {
    for_all<T>(n, aligned(target, source, more), [&](auto count, int64 i) {
        constexpr int m = decltype(count)::value;
        T a[m], b[m];
        load(a, source + i);
        load(b, more + i);
        for (int k = 0; k < m; ++k) a[k] = old_share * a[k] + new_share * b[k];
        store(target + i, a);
    });
}

template <class T> __global__ void commit(T* value /* n */, const T* pending /* n */, const bool* ok /* 1 */, int64 n) {
    if (!*ok) return;
    for_all<T>(n, aligned(value, pending), [&](auto count, int64 i) {
        T v[decltype(count)::value];
        load(v, pending + i);
        store(value + i, v);
    });
}
