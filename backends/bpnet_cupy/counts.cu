// The CUDA kernels of what is counted: sums of metrics, weights of samples and classes, losses of margins. Compiled
// behind kernels.cu, as one source with it; what is said there holds here.

// ---- the largest of a row ----

// The largest number of W lanes and where it stands, in all of them; `columns` where a lane had none.
template <int W, class T> __device__ void lane_first(T& best, int64& at) {
    static_assert(W <= 32, "lanes of a warp");
    for (int offset = W / 2; offset > 0; offset /= 2) {
        T other = __shfl_xor_sync(ALL_LANES, best, offset);
        int64 other_at = __shfl_xor_sync(ALL_LANES, at, offset);
        if (before(other, other_at, best, at)) {
            best = other;
            at = other_at;
        }
    }
}

template <class T, int W>
__global__ void largest(int64* out /* rows */, const T* scores /* rows * columns */, int64 rows, int64 columns) {
    for_rows<W>(rows, [&](int64 row, int64 lane, bool alive) {
        T best = -Limits<T>::infinity();
        int64 at = columns;
        for (int64 c = lane; c < (alive ? columns : 0); c += W) {
            T each = scores[row * columns + c];
            if (before(each, c, best, at)) {
                best = each;
                at = c;
            }
        }
        lane_first<W>(best, at);
        if (lane == 0 && alive) out[row] = at;
    });
}

template <class T> __global__ void above(int64* out /* n */, const T* scores /* n */, int64 n, T threshold) {
    for (int64 i = first_thread(); i < n; i += all_threads()) out[i] = scores[i] > threshold;
}

// ---- sums of metrics ----

// (hits, rows that count): the label's score is one of the k largest.
template <class T, class L, int W>
__global__ void count_top_k(double* out /* 2 */, const T* scores /* rows * columns */, const L* labels /* rows */,
                            double* partial /* 2 * gridDim.x? */, unsigned* counter /* 1? */, int64 rows, int64 columns,
                            int64 k, bool ignoring, int64 ignored) {
    double sums[2] = {0, 0};
    for_rows<W>(rows, [&](int64 row, int64 lane, bool alive) {
        int64 label = alive ? (int64)labels[row] : -1;
        bool known = label >= 0 && label < columns;
        T own = known ? scores[row * columns + label] : T(0);
        int64 ahead = 0;
        for (int64 c = lane; c < (alive ? columns : 0); c += W) {
            T each = scores[row * columns + c];
            ahead += each > own || (each == own && c < label);
        }
        ahead = lane_sum<W>(ahead);
        if (lane != 0 || !alive || (ignoring && label == ignored)) return;
        sums[0] += known && !is_nan(own) && ahead < k;
        sums[1] += 1;
    });
    if (grid_sum(sums, partial, counter) && threadIdx.x == 0) {
        out[0] = sums[0];
        out[1] = sums[1];
    }
}

// How often label i was given class j: a warp for each (i, j).
template <class L>
__global__ void confusion(double* out /* n_classes * n_classes */, const int64* classes /* n */,
                          const L* labels /* n */, int64 n, int64 n_classes, bool ignoring, int64 ignored) {
    for_rows<32>(n_classes * n_classes, [&](int64 cell, int64 lane, bool alive) {
        int64 label = row_of(cell, n_classes), given = cell - label * n_classes, found = 0;
        for (int64 i = lane; i < (alive && !(ignoring && label == ignored) ? n : 0); i += 32) {
            found += (int64)labels[i] == label && classes[i] == given;
        }
        found = lane_sum<32>(found);
        if (lane == 0 && alive) out[cell] = (double)found;
    });
}

// For every class the right answers, the answers and the labels, of the labels that count.
template <class L>
__global__ void class_counts(double* out /* 3 * n_classes */, const int64* classes /* n */, const L* labels /* n */,
                             int64 n, int64 n_classes, bool ignoring, int64 ignored) {
    for_rows<32>(n_classes, [&](int64 own, int64 lane, bool alive) {
        int64 right = 0, given = 0, actual = 0;
        for (int64 i = lane; i < (alive ? n : 0); i += 32) {
            int64 label = (int64)labels[i];
            if (ignoring && label == ignored) continue;
            right += classes[i] == own && label == own;
            given += classes[i] == own;
            actual += label == own;
        }
        right = lane_sum<32>(right);
        given = lane_sum<32>(given);
        actual = lane_sum<32>(actual);
        if (lane != 0 || !alive) return;
        out[own] = (double)right;
        out[n_classes + own] = (double)given;
        out[2 * n_classes + own] = (double)actual;
    });
}

// (-sum of log p of the labels, how many count), p the softmax of the scores or the scores themselves.
template <class T, class L, int W>
__global__ void sum_log_loss(double* out /* 2 */, const T* scores /* rows * columns */, const L* labels /* rows */,
                             double* partial /* 2 * gridDim.x? */, unsigned* counter /* 1? */, int64 rows,
                             int64 columns, bool from_logits, bool ignoring, int64 ignored) {
    double sums[2] = {0, 0};
    for_rows<W>(rows, [&](int64 row, int64 lane, bool alive) {
        const T* from = scores + row * columns;
        int64 end = alive && from_logits ? columns : 0, label = alive ? (int64)labels[row] : -1;
        T top = -Limits<T>::infinity(), total = 0;
        for (int64 c = lane; c < end; c += W) top = maximum(top, from[c]);
        top = lane_max<W>(top);
        for (int64 c = lane; c < end; c += W) total += exp(from[c] - top);
        total = lane_sum<W>(total);
        if (lane != 0 || !alive || (ignoring && label == ignored)) return;
        sums[1] += 1;
        if (label < 0 || label >= columns) return;
        T p = from[label];
        sums[0] -= (double)(from_logits ? (p - top) - log(total) : log(maximum(p, Limits<T>::smallest_normal)));
    });
    if (grid_sum(sums, partial, counter) && threadIdx.x == 0) {
        out[0] = sums[0];
        out[1] = sums[1];
    }
}

template <class T>
__global__ void sum_errors(double* out /* 2 */, const T* y /* n */, const T* targets /* n */,
                           double* partial /* gridDim.x? */, unsigned* counter /* 1? */, int64 n, bool squared) {
    double sums[1] = {0};
    for (int64 i = first_thread(); i < n; i += all_threads()) {
        double error = (double)y[i] - (double)targets[i];
        sums[0] += squared ? error * error : fabs(error);
    }
    if (grid_sum(sums, partial, counter) && threadIdx.x == 0) {
        out[0] = sums[0];
        out[1] = (double)n;
    }
}

// For every column the number of rows, and the sums of t - shift, of its square, and of (y - t)^2.
template <class T, int X>
__global__ void sum_deviations(double* out /* 4 * columns */, const T* y /* rows * columns */,
                               const T* targets /* rows * columns */, double* partial /* 3 * gridDim.y * columns? */,
                               unsigned* counter /* gridDim.x? */, int64 rows, int64 columns, double shift) {
    sum_columns<3, X>(
        partial, counter, rows, columns,
        [&](double (&sums)[3], int64 row, int64 column) {
            double t = (double)targets[row * columns + column], error = (double)y[row * columns + column] - t;
            sums[0] += t - shift;
            sums[1] += (t - shift) * (t - shift);
            sums[2] += error * error;
        },
        [&](int64 column, double (&sums)[3]) {
            out[column] = (double)rows;
            for (int k = 0; k < 3; ++k) out[(k + 1) * columns + column] = sums[k];
        });
}

// ---- weights of rows of targets ----

// weight * (of_class (kept t + shared)) for every target t; what has the weight 0 counts for nothing.
template <class T>
__global__ void soft_targets(T* Q /* n */, const T* targets /* n */, const T* of_class /* columns? */,
                             const T* weights /* samples? */, int64 n, int64 columns, int64 samples, bool smooth,
                             T kept, T shared) {
    int64 of_sample = n / samples;
    for (int64 i = first_thread(); i < n; i += all_threads()) {
        T q = smooth ? targets[i] * kept + shared : targets[i];
        if (of_class) q = q * of_class[column_of(i, columns)];
        T weight = weights ? weights[row_of(i, of_sample)] : T(1);
        Q[i] = weights ? weight * (weight == 0 ? T(0) : q) : q;
    }
}

template <class T>
__global__ void soft_weight(double* out /* 1 */, const T* targets /* n */, const double* of_class /* columns */,
                            const T* weights /* samples? */, double* partial /* gridDim.x? */,
                            unsigned* counter /* 1? */, int64 n, int64 columns, int64 samples) {
    int64 of_sample = n / samples;
    double sums[1] = {0};
    for (int64 i = first_thread(); i < n; i += all_threads()) {
        double weight = weights ? (double)weights[row_of(i, of_sample)] : 1.0;
        if (weight != 0) sums[0] += weight * ((double)targets[i] * of_class[column_of(i, columns)]);
    }
    if (grid_sum(sums, partial, counter) && threadIdx.x == 0) *out = sums[0];
}

template <class T>
__global__ void sum_weights(double* out /* 1 */, const T* weights /* n */, double* partial /* gridDim.x? */,
                            unsigned* counter /* 1? */, int64 n, double repeats) {
    double sums[1] = {0};
    for (int64 i = first_thread(); i < n; i += all_threads()) sums[0] += (double)weights[i];
    if (grid_sum(sums, partial, counter) && threadIdx.x == 0) *out = sums[0] * repeats;
}

// values * weights / normalizer; 0 where the normalizer is 0, and where a weight is, whatever the value is.
template <class T>
__global__ void weighted(T* out /* n */, const T* values /* n */, const T* weights /* samples? */,
                         const double* normalizer /* 1? */, int64 n, int64 samples, double number) {
    T total = T(normalizer ? *normalizer : number);
    int64 of_sample = n / samples;
    for (int64 i = first_thread(); i < n; i += all_threads()) {
        T weight = weights ? weights[row_of(i, of_sample)] : T(1);
        T value = weights ? weight * (weight == 0 ? T(0) : values[i]) : values[i];
        out[i] = total == 0 ? T(0) : value / total;
    }
}

// ---- margins ----

// A row's largest score, those of classes other than the label raised by the margin; Q is not 0 at the label.
template <class T, int W>
__global__ void multiclass_hinge_rows(T* out /* rows */, const T* scores /* rows * columns */,
                                      const T* Q /* rows * columns */, int64 rows, int64 columns, T margin) {
    for_rows<W>(rows, [&](int64 row, int64 lane, bool alive) {
        const T *from = scores + row * columns, *weights = Q + row * columns;
        int64 end = alive ? columns : 0;
        T top = -Limits<T>::infinity(), total = 0;
        for (int64 c = lane; c < end; c += W) top = maximum(top, weights[c] == 0 ? from[c] + margin : from[c]);
        top = lane_max<W>(top);
        for (int64 c = lane; c < end; c += W) total += weights[c] * (weights[c] == 0 ? T(0) : top - from[c]);
        total = lane_sum<W>(total);
        if (lane == 0 && alive) out[row] = total;
    });
}

template <class T, int W>
__global__ void multiclass_hinge_rows_backward(T* out /* rows * columns */, const T* dl /* rows */,
                                               const T* scores /* rows * columns */, const T* Q /* rows * columns */,
                                               int64 rows, int64 columns, T margin) {
    for_rows<W>(rows, [&](int64 row, int64 lane, bool alive) {
        int64 begin = row * columns, end = alive ? columns : 0, at = columns;
        T best = -Limits<T>::infinity(), own = 0, weight = 0;
        for (int64 c = lane; c < end; c += W) {
            T q = Q[begin + c], raised = q == 0 ? scores[begin + c] + margin : scores[begin + c];
            if (before(raised, c, best, at)) {
                best = raised;
                at = c;
            }
            own += q == 0 ? T(0) : scores[begin + c];
            weight += q;
        }
        lane_first<W>(best, at);
        own = lane_sum<W>(own);
        weight = lane_sum<W>(weight);
        T slope = alive ? dl[row] : T(0);
        bool violated = best != own && slope != 0;  // NaN is unequal too
        for (int64 c = lane; c < end; c += W) {
            out[begin + c] = violated ? slope * ((c == at ? weight : T(0)) - Q[begin + c]) : slope * T(0);
        }
    });
}
