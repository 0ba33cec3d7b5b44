// The CUDA kernels of bpnet. Compiled by NVRTC through cupy.RawModule, and by a host's C++ compiler for the tests
// (host/cuda_on_host.h then takes the place of what CUDA brings: blocks and threads run one after another).
//
// - Every kernel means what the op of its name means (bpnet/ops); its host code is in kernels/*.py.
// - `/* n */` behind a pointer is the number of elements that the kernel may touch, `?` that it may be null.
//   bpnet_cupy/launches.py reads that and holds every launch of the tests to it.
// - All are templates, also where nothing varies: so only what is asked for is compiled.
// - Deterministic: no atomic operation on floats. A sum over a grid is taken in the order of blocks by the block that
//   comes last, which an integer counter finds; it returns to 0 by itself. The grid depends on shapes alone.
// - What changes from step to step (rate, counters, the flag ok) is read from memory, so that a launch can be replayed.
// - Where pointers are aligned, 16 bytes are moved at once.

#ifdef BPNET_ON_HOST
#include "cuda_on_host.h"
#else
#define SHARED(type, name, size) __shared__ __align__(16) type name[size]
#define HOST_CHECK(condition)
#endif

typedef long long int64;
typedef unsigned long long uint64;

// ---- moving numbers ----

template <class T> struct alignas(16) Pack {
    static constexpr int size = 16 / sizeof(T);
    T element[size];
};

template <int value_> struct Count {
    static constexpr int value = value_;
};

template <class T> __device__ uint64 address(const T* pointer) { return reinterpret_cast<uint64>(pointer); }

template <class... P> __device__ bool aligned(const P*... pointers) { return ((address(pointers) | ...) & 15) == 0; }

template <class T, int m> __device__ void load(T (&to)[m], const T* from) {
    if constexpr (m > 1) {
        static_assert(m % Pack<T>::size == 0, "whole packs");
        HOST_CHECK(address(from) % 16 == 0);
        for (int k = 0; k < m; k += Pack<T>::size) {
            Pack<T> pack = *reinterpret_cast<const Pack<T>*>(from + k);
            for (int j = 0; j < Pack<T>::size; ++j) to[k + j] = pack.element[j];
        }
    } else {
        to[0] = *from;
    }
}

template <class T, int m> __device__ void store(T* to, const T (&from)[m]) {
    if constexpr (m > 1) {
        static_assert(m % Pack<T>::size == 0, "whole packs");
        HOST_CHECK(address(to) % 16 == 0);
        for (int k = 0; k < m; k += Pack<T>::size) {
            Pack<T> pack;
            for (int j = 0; j < Pack<T>::size; ++j) pack.element[j] = from[k + j];
            *reinterpret_cast<Pack<T>*>(to + k) = pack;
        }
    } else {
        *to = from[0];
    }
}

__device__ inline int64 first_thread() { return blockIdx.x * (int64)blockDim.x + threadIdx.x; }
__device__ inline int64 all_threads() { return gridDim.x * (int64)blockDim.x; }

// body(Count<m>, i) for m elements from i on, until all n are done: whole packs where that may be, then single ones.
template <class T, class Body> __device__ void for_all(int64 n, bool in_packs, Body body) {
    constexpr int size = Pack<T>::size;
    int64 done = in_packs ? n / size * size : 0;
    for (int64 i = first_thread() * size; i < done; i += all_threads() * size) body(Count<size>(), i);
    for (int64 i = done + first_thread(); i < n; i += all_threads()) body(Count<1>(), i);
}

// i % columns; the 32-bit division is several times faster.
__device__ inline int64 column_of(int64 i, int64 columns) {
    return (i | columns) >> 32 ? i % columns : (int64)((unsigned)i % (unsigned)columns);
}

__device__ inline int64 row_of(int64 i, int64 columns) {
    return (i | columns) >> 32 ? i / columns : (int64)((unsigned)i / (unsigned)columns);
}

// ---- numbers ----

template <class T> __device__ bool is_nan(T x) { return x != x; }
template <class T> __device__ bool is_finite(T x) { return x - x == 0; }

// As the Array API's: NaN wins.
template <class T> __device__ T maximum(T a, T b) { return a > b || is_nan(a) ? a : b; }
template <class T> __device__ T minimum(T a, T b) { return a < b || is_nan(a) ? a : b; }

template <class T> __device__ T sign(T x) { return x > 0 ? T(1) : x < 0 ? T(-1) : x; }

template <class T> struct Limits;
template <> struct Limits<float> {
    static constexpr float smallest_normal = 1.17549435082228750797e-38f;
    static __device__ float infinity() { return __int_as_float(0x7f800000); }
};
template <> struct Limits<double> {
    static constexpr double smallest_normal = 2.22507385850720138309e-308;
    static __device__ double infinity() { return __longlong_as_double(0x7ff0000000000000ll); }
};

template <class T> __device__ T sigmoid(T x) {
    T e = exp(-fabs(x));
    return (x >= 0 ? T(1) : e) / (1 + e);
}

template <class T> __device__ T softplus(T x) { return maximum(x, T(0)) + log1p(exp(-fabs(x))); }

// 1 / total, 0 where the total is 0. The total is a number of the host, or one of the device where the pointer is set.
__device__ inline double inverse(const double* total, double number) {
    double value = total ? *total : number;
    return value == 0 ? 0.0 : 1.0 / value;
}

// ---- bits of bfloat16 ----

// The bits of the nearest bfloat16, of two that are as near the even one; every NaN is 0x7fc0. By integers, which
// -ftz=true leaves alone.
__device__ inline unsigned short bf16_bits(float x) {
    unsigned word = __float_as_uint(x);
    if ((word & 0x7fffffffu) > 0x7f800000u) return 0x7fc0;
    return (unsigned short)((word + 0x7fffu + (word >> 16 & 1u)) >> 16);
}

__device__ inline float bf16_number(unsigned short bits) { return __uint_as_float((unsigned)bits << 16); }

// A number as a factor of a product of S: its bits where those are multiplied.
template <class S, class T> __device__ S as_factor(T x) {
    if constexpr (sizeof(S) == 2 && sizeof(T) > 2) {
        return bf16_bits(x);
    } else {
        return x;
    }
}

struct alignas(8) FourHalves {
    unsigned short element[4];
};

// The copies in bfloat16 of m values from element i on, where copies are kept: of float only.
template <class T, int m> __device__ void store_copy(unsigned short* copy, int64 i, const T (&w)[m]) {
    if constexpr (sizeof(T) == 4) {
        if (!copy) return;
        if constexpr (m % 4 == 0) {
            HOST_CHECK(address(copy + i) % 8 == 0);
            for (int k = 0; k < m; k += 4) {
                FourHalves halves;
                for (int j = 0; j < 4; ++j) halves.element[j] = bf16_bits(w[k + j]);
                *reinterpret_cast<FourHalves*>(copy + i + k) = halves;
            }
        } else {
            for (int j = 0; j < m; ++j) copy[i + j] = bf16_bits(w[j]);
        }
    }
}

// ---- sums over threads ----

constexpr unsigned ALL_LANES = 0xffffffffu;

// The sum over `width` neighbouring lanes, in all of them. Both partners add the same two numbers: one result.
template <int width, class S> __device__ S lane_sum(S value) {
    for (int offset = width / 2; offset > 0; offset /= 2) value += __shfl_xor_sync(ALL_LANES, value, offset);
    return value;
}

template <int width, class S> __device__ S lane_max(S value) {
    for (int offset = width / 2; offset > 0; offset /= 2) {
        value = maximum(value, __shfl_xor_sync(ALL_LANES, value, offset));
    }
    return value;
}

// The sum over a block, in all its threads.
template <class S> __device__ S block_sum(S value) {
    SHARED(S, sums, 32);
    value = lane_sum<32>(value);
    __syncthreads();  // an earlier call's readers are done
    if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = value;
    __syncthreads();
    S total = sums[0];
    for (int warp = 1; warp < blockDim.x / 32; ++warp) total += sums[warp];
    return total;
}

template <class S> __device__ S block_max(S value) {
    SHARED(S, largest, 32);
    value = lane_max<32>(value);
    __syncthreads();
    if (threadIdx.x % 32 == 0) largest[threadIdx.x / 32] = value;
    __syncthreads();
    S result = largest[0];
    for (int warp = 1; warp < blockDim.x / 32; ++warp) result = maximum<S>(result, largest[warp]);
    return result;
}

// Whether this block is the last of `blocks` to come here; it then sees what the others have written before.
__device__ inline bool last_block(unsigned* counter, unsigned blocks) {
    if (blocks == 1) return true;
    SHARED(bool, last, 1);
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) last[0] = atomicInc(counter, blocks - 1) == blocks - 1;
    __syncthreads();
    __threadfence();
    return last[0];
}

// The sums over the grid of m values a thread, in all threads of the block that comes last: true there.
template <int m>
__device__ bool grid_sum(double (&values)[m], double* partial, unsigned* counter) {
    for (int k = 0; k < m; ++k) values[k] = block_sum(values[k]);
    if (gridDim.x == 1) return true;
    if (threadIdx.x == 0) {
        for (int k = 0; k < m; ++k) partial[blockIdx.x * m + k] = values[k];
    }
    if (!last_block(counter, gridDim.x)) return false;
    const volatile double* written = partial;
    for (int k = 0; k < m; ++k) {
        double mine = 0;
        for (int block = threadIdx.x; block < gridDim.x; block += blockDim.x) mine += written[block * m + k];
        values[k] = block_sum(mine);
    }
    return true;
}

// ---- activations ----

// forward(x, a), and backward(dy, s, a), where s is what the op's derivative takes: the output or the input.
struct Identity {
    template <class T> static __device__ T forward(T x, T) { return x; }
};
struct Relu {
    template <class T> static __device__ T forward(T x, T) { return maximum(x, T(0)); }
    template <class T> static __device__ T backward(T dy, T y, T) { return y > 0 ? dy : T(0); }
};
struct LeakyRelu {
    template <class T> static __device__ T forward(T x, T slope) { return x > 0 ? x : slope * x; }
    template <class T> static __device__ T backward(T dy, T y, T slope) { return y > 0 ? dy : slope * dy; }
};
struct Sigmoid {
    template <class T> static __device__ T forward(T x, T) { return sigmoid(x); }
    template <class T> static __device__ T backward(T dy, T y, T) { return dy * (y * (1 - y)); }
};
struct Tanh {
    template <class T> static __device__ T forward(T x, T) { return tanh(x); }
    template <class T> static __device__ T backward(T dy, T y, T) { return dy * (1 - y * y); }
};
struct NormalCdf {
    template <class T> static __device__ T forward(T x, T) { return normcdf(x); }
};
struct Gelu {
    template <class T> static __device__ T forward(T x, T) { return x * normcdf(x); }
    template <class T> static __device__ T backward(T dy, T x, T) {
        T density = exp(T(-0.5) * x * x) * T(0.39894228040143267794);  // 1 / sqrt(2 pi)
        return dy * (normcdf(x) + x * density);
    }
};
struct GeluTanh {
    template <class T> static __device__ T inner(T x) {
        return tanh(T(0.79788456080286535588) * (x + T(0.044715) * x * x * x));  // sqrt(2 / pi)
    }
    template <class T> static __device__ T forward(T x, T) { return T(0.5) * x * (1 + inner(x)); }
    template <class T> static __device__ T backward(T dy, T x, T) {
        T t = inner(x);
        T slope = T(0.79788456080286535588) * (1 + T(3 * 0.044715) * x * x);
        return dy * (T(0.5) * (1 + t) + T(0.5) * x * (1 - t * t) * slope);
    }
};
struct Elu {
    template <class T> static __device__ T forward(T x, T alpha) { return x > 0 ? x : alpha * expm1(x); }
    template <class T> static __device__ T backward(T dy, T y, T alpha) { return y > 0 ? dy : dy * (y + alpha); }
};
struct Silu {
    template <class T> static __device__ T forward(T x, T) { return x * sigmoid(x); }
    template <class T> static __device__ T backward(T dy, T x, T) {
        T s = sigmoid(x);
        return dy * (s * (1 + x * (1 - s)));
    }
};
struct Softplus {
    template <class T> static __device__ T forward(T x, T) { return softplus(x); }
    template <class T> static __device__ T backward(T dy, T x, T) { return dy * sigmoid(x); }
};
struct Mish {
    template <class T> static __device__ T forward(T x, T) { return x * tanh(softplus(x)); }
    template <class T> static __device__ T backward(T dy, T x, T) {
        T t = tanh(softplus(x));
        return dy * (t + x * sigmoid(x) * (1 - t * t));
    }
};
struct Hardswish {
    template <class T> static __device__ T forward(T x, T) {
        return x * minimum(maximum(x + 3, T(0)), T(6)) * T(1.0 / 6);
    }
    template <class T> static __device__ T backward(T dy, T x, T) {
        return x <= -3 ? T(0) : x >= 3 ? dy : dy * ((2 * x + 3) * T(1.0 / 6));
    }
};

template <class T, class F>
__global__ void activation(T* out /* n */, const T* x /* n */, int64 n, T a) {
    for_all<T>(n, aligned(out, x), [&](auto count, int64 i) {
        T v[decltype(count)::value];
        load(v, x + i);
        for (auto& each : v) each = F::forward(each, a);
        store(out + i, v);
    });
}

template <class T, class F>
__global__ void activation_backward(T* out /* n */, const T* dy /* n */, const T* saved /* n */, int64 n, T a) {
    for_all<T>(n, aligned(out, dy, saved), [&](auto count, int64 i) {
        constexpr int m = decltype(count)::value;
        T d[m], s[m];
        load(d, dy + i);
        load(s, saved + i);
        for (int j = 0; j < m; ++j) d[j] = F::backward(d[j], s[j], a);
        store(out + i, d);
    });
}

// y = F(y + bias), the end of an affine map.
template <class T, class F>
__global__ void bias_activation(T* y /* n */, const T* bias /* columns */, int64 n, int64 columns, T a) {
    for_all<T>(n, aligned(y, bias) && columns % Pack<T>::size == 0, [&](auto count, int64 i) {
        constexpr int m = decltype(count)::value;
        T v[m], b[m];
        load(v, y + i);
        load(b, bias + column_of(i, columns));
        for (int j = 0; j < m; ++j) v[j] = F::forward(v[j] + b[j], a);
        store(y + i, v);
    });
}

template <class T>
__global__ void prelu(T* out /* n */, const T* x /* n */, const T* a /* slopes */, int64 n, int64 slopes) {
    for (int64 i = first_thread(); i < n; i += all_threads()) {
        out[i] = x[i] > 0 ? x[i] : a[column_of(i, slopes)] * x[i];
    }
}

template <class T>
__global__ void prelu_backward(T* dx /* n */, const T* dy /* n */, const T* x /* n */, const T* a /* slopes */, int64 n,
                               int64 slopes) {
    for (int64 i = first_thread(); i < n; i += all_threads()) {
        dx[i] = x[i] > 0 ? dy[i] : a[column_of(i, slopes)] * dy[i];
    }
}

template <class T> __global__ void glu(T* out /* n */, const T* x /* 2 * n */, int64 n, int64 half) {
    for (int64 i = first_thread(); i < n; i += all_threads()) {
        const T* left = x + i + row_of(i, half) * half;
        out[i] = left[0] * sigmoid(left[half]);
    }
}

template <class T>
__global__ void glu_backward(T* dx /* 2 * n */, const T* dy /* n */, const T* x /* 2 * n */, int64 n, int64 half) {
    for (int64 i = first_thread(); i < n; i += all_threads()) {
        int64 left = i + row_of(i, half) * half;
        T s = sigmoid(x[left + half]);
        dx[left] = dy[i] * s;
        dx[left + half] = dy[i] * x[left] * (s * (1 - s));
    }
}

// ---- moving arrays ----

template <class T> __global__ void copy(T* out /* n */, const T* x /* n */, int64 n) {
    for_all<T>(n, aligned(out, x), [&](auto count, int64 i) {
        T v[decltype(count)::value];
        load(v, x + i);
        store(out + i, v);
    });
}

struct Sum {
    template <class T> static __device__ T of(T x, T y) { return x + y; }
};
struct Product {
    template <class T> static __device__ T of(T x, T y) { return x * y; }
};

template <class T, class F>
__global__ void combine(T* out /* n */, const T* x /* n */, const T* y /* n */, int64 n) {
    for_all<T>(n, aligned(out, x, y), [&](auto count, int64 i) {
        constexpr int m = decltype(count)::value;
        T a[m], b[m];
        load(a, x + i);
        load(b, y + i);
        for (int j = 0; j < m; ++j) a[j] = F::of(a[j], b[j]);
        store(out + i, a);
    });
}

// A block of columns from one matrix into another; widths and beginnings are counted in elements.
template <class T>
__global__ void copy_columns(T* to /* (rows - 1) * to_width + to_begin + columns */,
                             const T* from /* (rows - 1) * from_width + from_begin + columns */, int64 rows,
                             int64 columns, int64 to_width, int64 to_begin, int64 from_width, int64 from_begin) {
    for (int64 i = first_thread(); i < rows * columns; i += all_threads()) {
        int64 row = row_of(i, columns), column = i - row * columns;
        to[row * to_width + to_begin + column] = from[row * from_width + from_begin + column];
    }
}

// (x - mean) / std, mean and std for each of `columns` numbers that follow each other; without a mean x / std.
template <class T>
__global__ void standardize(T* out /* n */, const T* x /* n */, const T* mean /* columns? */,
                            const T* std /* columns */, int64 n, int64 columns) {
    for (int64 i = first_thread(); i < n; i += all_threads()) {
        int64 column = column_of(i, columns);
        out[i] = (mean ? x[i] - mean[column] : x[i]) / std[column];
    }
}

template <class T> __global__ void fill(T* out /* n */, int64 n, T value) {
    for (int64 i = first_thread(); i < n; i += all_threads()) out[i] = value;
}

// ---- column sums ----

// What is summed. Term takes dy alone; ScaledTerm is the derivative of prelu by its slope.
struct Term {
    template <class T> static __device__ T of(const T* dy, const T*, int64 i) { return dy[i]; }
};
struct ScaledTerm {
    template <class T> static __device__ T of(const T* dy, const T* x, int64 i) {
        return x[i] > 0 ? T(0) : dy[i] * x[i];
    }
};

// The sums over the lines of a block, blockDim = (X, 256 / X), of m numbers a thread: in the threads of the first line.
template <int m, int X, class T> __device__ void sum_lines(T (&mine)[m]) {
    constexpr int Y = 256 / X;
    SHARED(T, sums, m * 256);
    __syncthreads();  // who has called this before has read them
    for (int k = 0; k < m; ++k) sums[(k * Y + threadIdx.y) * X + threadIdx.x] = mine[k];
    for (int offset = Y / 2; offset > 0; offset /= 2) {
        __syncthreads();
        if (threadIdx.y < offset) {
            for (int k = 0; k < m; ++k) {
                sums[(k * Y + threadIdx.y) * X + threadIdx.x] += sums[(k * Y + threadIdx.y + offset) * X + threadIdx.x];
            }
        }
    }
    if (threadIdx.y != 0) return;
    for (int k = 0; k < m; ++k) mine[k] = sums[k * Y * X + threadIdx.x];
}

// The sums over the rows begin ... end - 1 of m numbers for the block's X columns, in the threads of the first line. A
// thread takes every (256 / X)th row: add(sums, row) adds what its column has there.
template <int m, int X, class T, class Add>
__device__ void block_columns(T (&mine)[m], int64 begin, int64 end, bool within, Add add) {
    for (int k = 0; k < m; ++k) mine[k] = 0;
    if (within) {
        for (int64 row = begin + threadIdx.y; row < end; row += 256 / X) add(mine, row);
    }
    sum_lines<m, X>(mine);
}

// The same over all rows: gridDim = (columns / X, slabs of rows), and the last block of a column sums the slabs.
// add(sums, row, column); done(column, sums) gets the result, once a column.
template <int m, int X, class T, class Add, class Done>
__device__ void sum_columns(T* partial, unsigned* counter, int64 rows, int64 columns, Add add, Done done) {
    int64 column = blockIdx.x * (int64)X + threadIdx.x;
    int64 slab = (rows + gridDim.y - 1) / gridDim.y;
    int64 begin = blockIdx.y * slab, end = begin + slab < rows ? begin + slab : rows;
    T sums[m];
    block_columns<m, X>(sums, begin, end, column < columns, [&](T (&mine)[m], int64 row) { add(mine, row, column); });
    bool writes = threadIdx.y == 0 && column < columns;
    if (gridDim.y == 1) {
        if (writes) done(column, sums);
        return;
    }
    if (writes) {
        for (int k = 0; k < m; ++k) partial[(blockIdx.y * m + k) * columns + column] = sums[k];
    }
    SHARED(bool, last, 1);
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0 && threadIdx.y == 0) {
        last[0] = atomicInc(counter + blockIdx.x, gridDim.y - 1) == gridDim.y - 1;
    }
    __syncthreads();
    __threadfence();
    if (!last[0] || !writes) return;
    const volatile T* written = partial;
    for (int k = 0; k < m; ++k) {
        sums[k] = 0;
        for (unsigned s = 0; s < gridDim.y; ++s) sums[k] += written[(s * m + k) * columns + column];
    }
    done(column, sums);
}

template <class T, class F, int X>
__global__ void column_sum(T* out /* columns */, const T* dy /* rows * columns */, const T* x /* rows * columns? */,
                           T* partial /* gridDim.y * columns? */, unsigned* counter /* gridDim.x? */, int64 rows,
                           int64 columns) {
    sum_columns<1, X>(
        partial, counter, rows, columns,
        [&](T (&sums)[1], int64 row, int64 column) { sums[0] += F::of(dy, x, row * columns + column); },
        [&](int64 column, T (&sums)[1]) { out[column] = sums[0]; });
}

// The same of dy itself, and dy's bits.
template <int X>
__global__ void column_sum_bf16(float* out /* columns */, unsigned short* bits /* rows * columns */,
                                const float* dy /* rows * columns */, float* partial /* gridDim.y * columns? */,
                                unsigned* counter /* gridDim.x? */, int64 rows, int64 columns) {
    sum_columns<1, X>(
        partial, counter, rows, columns,
        [&](float (&sums)[1], int64 row, int64 column) {
            float each = dy[row * columns + column];
            bits[row * columns + column] = bf16_bits(each);
            sums[0] += each;
        },
        [&](int64 column, float (&sums)[1]) { out[column] = sums[0]; });
}

// The sum over all elements: the derivative of prelu by a slope that all share.
template <class T>
__global__ void slope_sum(T* out /* 1 */, const T* dy /* n */, const T* x /* n */, double* partial /* gridDim.x? */,
                          unsigned* counter /* 1? */, int64 n) {
    double sums[1] = {0};
    for (int64 i = first_thread(); i < n; i += all_threads()) sums[0] += (double)ScaledTerm::of(dy, x, i);
    if (grid_sum(sums, partial, counter) && threadIdx.x == 0) *out = T(sums[0]);
}

// ---- rows ----

// W threads share a row: lanes of a warp where W <= 32, else a block of W threads.
template <int W, class S> __device__ S row_sum(S value) {
    if constexpr (W <= 32)
        return lane_sum<W>(value);
    else
        return block_sum(value);
}

template <int W, class S> __device__ S row_max(S value) {
    if constexpr (W <= 32)
        return lane_max<W>(value);
    else
        return block_max(value);
}

// body(row, lane, alive) for all rows, by all threads equally often, so that it may sum over its row.
template <int W, class Body> __device__ void for_rows(int64 rows, Body body) {
    int64 at_once = blockDim.x / W;
    for (int64 first = blockIdx.x * at_once; first < rows; first += gridDim.x * at_once) {
        int64 row = first + threadIdx.x / W;
        body(row, (int64)(threadIdx.x % W), row < rows);
    }
}

template <class T, int W>
__global__ void softmax(T* out /* rows * columns */, const T* x /* rows * columns */, int64 rows, int64 columns) {
    for_rows<W>(rows, [&](int64 row, int64 lane, bool alive) {
        const T* from = x + row * columns;
        T* to = out + row * columns;
        int64 end = alive ? columns : 0;
        T top = -Limits<T>::infinity(), total = 0;
        for (int64 c = lane; c < end; c += W) top = maximum(top, from[c]);
        top = row_max<W>(top);
        for (int64 c = lane; c < end; c += W) {
            T e = exp(from[c] - top);
            to[c] = e;
            total += e;
        }
        total = row_sum<W>(total);
        for (int64 c = lane; c < end; c += W) to[c] /= total;
    });
}

template <class T, int W>
__global__ void softmax_backward(T* out /* rows * columns */, const T* dy /* rows * columns */,
                                 const T* y /* rows * columns */, int64 rows, int64 columns) {
    for_rows<W>(rows, [&](int64 row, int64 lane, bool alive) {
        int64 begin = row * columns, end = alive ? columns : 0;
        T total = 0;
        for (int64 c = lane; c < end; c += W) total += dy[begin + c] * y[begin + c];
        total = row_sum<W>(total);
        for (int64 c = lane; c < end; c += W) out[begin + c] = y[begin + c] * (dy[begin + c] - total);
    });
}

template <class T, int W>
__global__ void log_softmax(T* out /* rows * columns */, const T* x /* rows * columns */, int64 rows, int64 columns) {
    for_rows<W>(rows, [&](int64 row, int64 lane, bool alive) {
        int64 begin = row * columns, end = alive ? columns : 0;
        T top = -Limits<T>::infinity(), total = 0;
        for (int64 c = lane; c < end; c += W) top = maximum(top, x[begin + c]);
        top = row_max<W>(top);
        for (int64 c = lane; c < end; c += W) total += exp(x[begin + c] - top);
        total = log(row_sum<W>(total));
        for (int64 c = lane; c < end; c += W) out[begin + c] = x[begin + c] - top - total;
    });
}

template <class T, int W>
__global__ void log_softmax_backward(T* out /* rows * columns */, const T* dy /* rows * columns */,
                                     const T* y /* rows * columns */, int64 rows, int64 columns) {
    for_rows<W>(rows, [&](int64 row, int64 lane, bool alive) {
        int64 begin = row * columns, end = alive ? columns : 0;
        T total = 0;
        for (int64 c = lane; c < end; c += W) total += dy[begin + c];
        total = row_sum<W>(total);
        for (int64 c = lane; c < end; c += W) out[begin + c] = dy[begin + c] - exp(y[begin + c]) * total;
    });
}

// ---- losses ----

// The loss, and in `out` the softmax, or where `gradient` holds the derivative by the logits, (p - onehot) * slope.
template <class T, class L, int W, bool gradient>
__global__ void softmax_cross_entropy(T* loss /* 1 */, T* out /* rows * columns */,
                                      const T* logits /* rows * columns */, const L* labels /* rows */,
                                      double* partial /* gridDim.x? */, unsigned* counter /* 1? */, int64 rows,
                                      int64 columns, double factor, T slope) {
    double sums[1] = {0};
    for_rows<W>(rows, [&](int64 row, int64 lane, bool alive) {
        const T* from = logits + row * columns;
        T* to = out + row * columns;
        int64 end = alive ? columns : 0;
        int64 label = alive ? (int64)labels[row] : -1;
        T top = -Limits<T>::infinity(), total = 0;
        for (int64 c = lane; c < end; c += W) top = maximum(top, from[c]);
        top = row_max<W>(top);
        for (int64 c = lane; c < end; c += W) {
            T e = exp(from[c] - top);
            to[c] = e;
            total += e;
        }
        total = row_sum<W>(total);
        for (int64 c = lane; c < end; c += W) {
            T p = to[c] / total;
            to[c] = gradient ? (p - (c == label ? T(1) : T(0))) * slope : p;
        }
        if (lane == 0 && label >= 0 && label < end) sums[0] += (double)(log(total) - (from[label] - top));
    });
    if (grid_sum(sums, partial, counter) && threadIdx.x == 0) *loss = factor == 0 ? T(0) : T(sums[0] * factor);
}

template <class T, class L>
__global__ void softmax_cross_entropy_backward(T* out /* rows * columns */, const T* p /* rows * columns */,
                                               const L* labels /* rows */, int64 rows, int64 columns, T slope) {
    for (int64 i = first_thread(); i < rows * columns; i += all_threads()) {
        int64 row = row_of(i, columns);
        T hit = i - row * columns == (int64)labels[row] ? T(1) : T(0);
        out[i] = (p[i] - hit) * slope;
    }
}

// The same against weighted rows of targets Q. What has the weight 0 counts for nothing, whatever its logit is.
template <class T, int W, bool gradient>
__global__ void soft_cross_entropy(T* loss /* 1 */, T* out /* rows * columns */, const T* logits /* rows * columns */,
                                   const T* Q /* rows * columns */, const double* normalizer /* 1? */,
                                   double* partial /* gridDim.x? */, unsigned* counter /* 1? */, int64 rows,
                                   int64 columns, double number, T scale) {
    double sums[1] = {0}, factor = inverse(normalizer, number);
    T slope = scale * T(factor);
    for_rows<W>(rows, [&](int64 row, int64 lane, bool alive) {
        int64 begin = row * columns, end = alive ? columns : 0;
        T top = -Limits<T>::infinity(), total = 0, weight = 0;
        for (int64 c = lane; c < end; c += W) top = maximum(top, logits[begin + c]);
        top = row_max<W>(top);
        for (int64 c = lane; c < end; c += W) {
            T e = exp(logits[begin + c] - top);
            out[begin + c] = e;
            total += e;
            weight += Q[begin + c];
        }
        total = row_sum<W>(total);
        weight = row_sum<W>(weight);
        T log_total = log(total);
        for (int64 c = lane; c < end; c += W) {
            T p = out[begin + c] / total, q = Q[begin + c];
            if (q != 0) sums[0] += (double)(q * (log_total - (logits[begin + c] - top)));
            out[begin + c] = gradient ? ((weight == 0 ? T(0) : p) * weight - q) * slope : p;
        }
    });
    if (grid_sum(sums, partial, counter) && threadIdx.x == 0) *loss = factor == 0 ? T(0) : T(sums[0] * factor);
}

template <class T, int W>
__global__ void soft_cross_entropy_backward(T* out /* rows * columns */, const T* p /* rows * columns */,
                                            const T* Q /* rows * columns */, const double* normalizer /* 1? */,
                                            int64 rows, int64 columns, double number, T scale) {
    T slope = scale * T(inverse(normalizer, number));
    for_rows<W>(rows, [&](int64 row, int64 lane, bool alive) {
        int64 begin = row * columns, end = alive ? columns : 0;
        T weight = 0;
        for (int64 c = lane; c < end; c += W) weight += Q[begin + c];
        weight = row_sum<W>(weight);
        for (int64 c = lane; c < end; c += W) {
            out[begin + c] = ((weight == 0 ? T(0) : p[begin + c]) * weight - Q[begin + c]) * slope;
        }
    });
}

template <class T, class L>
__global__ void categorical_cross_entropy(T* loss /* 1 */, const T* p /* rows * columns */, const L* labels /* rows */,
                                          double* partial /* gridDim.x? */, unsigned* counter /* 1? */, int64 rows,
                                          int64 columns, double factor) {
    double sums[1] = {0};
    for (int64 row = first_thread(); row < rows; row += all_threads()) {
        int64 label = (int64)labels[row];
        if (label >= 0 && label < columns) {
            sums[0] -= (double)log(maximum(p[row * columns + label], Limits<T>::smallest_normal));
        }
    }
    if (grid_sum(sums, partial, counter) && threadIdx.x == 0) *loss = factor == 0 ? T(0) : T(sums[0] * factor);
}

template <class T, class L>
__global__ void categorical_cross_entropy_backward(T* out /* rows * columns */, const T* p /* rows * columns */,
                                                   const L* labels /* rows */, int64 rows, int64 columns, T slope) {
    for (int64 i = first_thread(); i < rows * columns; i += all_threads()) {
        int64 row = row_of(i, columns);
        bool hit = i - row * columns == (int64)labels[row];
        out[i] = hit ? slope / maximum(p[i], Limits<T>::smallest_normal) : T(0);
    }
}

// Losses of single elements: value(y, t, s), and slope(y, t, s), its derivative by y. The settings s are the op's.
template <class T> struct Settings {
    T a, b, c;
};

struct SquaredError {
    template <class T> static __device__ T value(T y, T t, Settings<T>) { return (y - t) * (y - t); }
    template <class T> static __device__ T slope(T y, T t, Settings<T>) { return 2 * (y - t); }
};
struct AbsoluteError {
    template <class T> static __device__ T value(T y, T t, Settings<T>) { return fabs(y - t); }
    template <class T> static __device__ T slope(T y, T t, Settings<T>) { return sign(y - t); }
};
struct SigmoidCrossEntropy {
    template <class T> static __device__ T value(T x, T t, Settings<T>) {
        return maximum(x, T(0)) - x * t + log1p(exp(-fabs(x)));
    }
    template <class T> static __device__ T slope(T x, T t, Settings<T>) { return sigmoid(x) - t; }
};
struct BinaryCrossEntropy {
    template <class T> static __device__ T value(T p, T t, Settings<T>) {
        constexpr T tiny = Limits<T>::smallest_normal;
        return -(t * log(maximum(p, tiny)) + (1 - t) * log(maximum(1 - p, tiny)));
    }
    template <class T> static __device__ T slope(T p, T t, Settings<T>) {
        constexpr T tiny = Limits<T>::smallest_normal;
        return (1 - t) / maximum(1 - p, tiny) - t / maximum(p, tiny);
    }
};
struct Huber {  // a = delta
    template <class T> static __device__ T value(T y, T t, Settings<T> s) {
        T e = fabs(y - t), c = minimum(e, s.a);
        return c * (e - T(0.5) * c);
    }
    template <class T> static __device__ T slope(T y, T t, Settings<T> s) { return maximum(minimum(y - t, s.a), -s.a); }
};
struct LogCosh {
    template <class T> static __device__ T value(T y, T t, Settings<T>) {
        T e = fabs(y - t);
        return e + log1p(exp(-2 * e)) - T(0.69314718055994530942);  // log 2
    }
    template <class T> static __device__ T slope(T y, T t, Settings<T>) { return tanh(y - t); }
};
struct Poisson {
    template <class T> static __device__ T value(T x, T t, Settings<T>) { return exp(x) - t * x; }
    template <class T> static __device__ T slope(T x, T t, Settings<T>) { return exp(x) - t; }
};
struct BinaryFocal {  // a = gamma, b = the weight of 1, c = the weight of 0
    template <class T> static __device__ T value(T x, T t, Settings<T> s) {
        T p = sigmoid(x), q = sigmoid(-x);
        T hit = s.b * t * pow(q, s.a) * softplus(-x);
        return hit + s.c * (1 - t) * pow(p, s.a) * softplus(x);
    }
    template <class T> static __device__ T slope(T x, T t, Settings<T> s) {
        T p = sigmoid(x), q = sigmoid(-x);
        T hit = s.b * t * pow(q, s.a) * (-s.a * p * softplus(-x) - q);
        return hit + s.c * (1 - t) * pow(p, s.a) * (s.a * q * softplus(x) + p);
    }
};
struct Hinge {  // a = whether the loss is squared
    template <class T> static __device__ T value(T y, T t, Settings<T> s) {
        T missing = maximum(1 - t * y, T(0));
        return s.a != 0 ? missing * missing : missing;
    }
    template <class T> static __device__ T slope(T y, T t, Settings<T> s) {
        T missing = maximum(1 - t * y, T(0));
        return s.a != 0 ? -2 * t * missing : -t * sign(missing);
    }
};

template <class T, class F>
__global__ void loss_each(T* out /* n */, const T* y /* n */, const T* targets /* n */, int64 n, T a, T b, T c) {
    for_all<T>(n, aligned(out, y, targets), [&](auto count, int64 i) {
        constexpr int m = decltype(count)::value;
        T v[m], t[m];
        load(v, y + i);
        load(t, targets + i);
        for (int j = 0; j < m; ++j) v[j] = F::value(v[j], t[j], Settings<T>{a, b, c});
        store(out + i, v);
    });
}

// Where dl is 0 the derivative is 0, even if the slope is not finite.
template <class T, class F>
__global__ void loss_each_backward(T* out /* n */, const T* dl /* n */, const T* y /* n */, const T* targets /* n */,
                                   int64 n, T a, T b, T c) {
    for_all<T>(n, aligned(out, dl, y, targets), [&](auto count, int64 i) {
        constexpr int m = decltype(count)::value;
        T d[m], v[m], t[m];
        load(d, dl + i);
        load(v, y + i);
        load(t, targets + i);
        for (int j = 0; j < m; ++j) d[j] = d[j] == 0 ? d[j] * 0 : d[j] * F::slope(v[j], t[j], Settings<T>{a, b, c});
        store(out + i, d);
    });
}

// Losses of rows against weighted rows of targets: term(x, q, a) is what -q log p is for cross-entropy, before q;
// x is the row itself, or log softmax of it. What has the weight 0 counts for nothing.
struct CrossEntropyRow {
    static constexpr bool softmax = true;
    template <class T> static __device__ T term(T log_p, T, T) { return -log_p; }
};
struct FocalRow {  // a = gamma
    static constexpr bool softmax = true;
    template <class T> static __device__ T term(T log_p, T, T gamma) { return -pow(-expm1(log_p), gamma) * log_p; }
};
struct ProbabilityRow {
    static constexpr bool softmax = false;
    template <class T> static __device__ T term(T p, T, T) { return -log(maximum(p, Limits<T>::smallest_normal)); }
};
struct LogProbabilityRow {
    static constexpr bool softmax = false;
    template <class T> static __device__ T term(T log_p, T, T) { return -log_p; }
};
struct DivergenceRow {
    static constexpr bool softmax = false;
    template <class T> static __device__ T term(T log_p, T q, T) { return log(q) - log_p; }
};

// The largest element of a row and the logarithm of the sum of its exponentials, less that element.
template <int W, class T> __device__ void log_sum(const T* x, int64 lane, int64 end, T& top, T& log_total) {
    T total = 0;
    top = -Limits<T>::infinity();
    for (int64 c = lane; c < end; c += W) top = maximum(top, x[c]);
    top = row_max<W>(top);
    for (int64 c = lane; c < end; c += W) total += exp(x[c] - top);
    log_total = log(row_sum<W>(total));
}

template <class T, int W, class F>
__global__ void loss_rows(T* out /* rows */, const T* x /* rows * columns */, const T* Q /* rows * columns */,
                          int64 rows, int64 columns, T a) {
    for_rows<W>(rows, [&](int64 row, int64 lane, bool alive) {
        int64 begin = row * columns, end = alive ? columns : 0;
        T top = 0, log_total = 0, loss = 0;
        if constexpr (F::softmax) log_sum<W>(x + begin, lane, end, top, log_total);
        for (int64 c = lane; c < end; c += W) {
            T q = Q[begin + c], value = F::softmax ? x[begin + c] - top - log_total : x[begin + c];
            if (q != 0) loss += q * F::term(value, q, a);
        }
        loss = row_sum<W>(loss);
        if (alive && lane == 0) out[row] = loss;
    });
}

// With h = q (1 - p)^gamma (gamma p r - 1), r = log p / (1 - p): dx = dl (h - p sum h). Cross-entropy has gamma = 0.
template <class T, int W>
__global__ void focal_rows_backward(T* out /* rows * columns */, const T* dl /* rows */,
                                    const T* logits /* rows * columns */, const T* Q /* rows * columns */, int64 rows,
                                    int64 columns, T gamma) {
    for_rows<W>(rows, [&](int64 row, int64 lane, bool alive) {
        int64 begin = row * columns, end = alive ? columns : 0;
        T top, log_total, total = 0, weight = alive ? dl[row] : T(0);
        log_sum<W>(logits + begin, lane, end, top, log_total);
        for (int64 c = lane; c < end; c += W) {
            T q = Q[begin + c], h = 0;
            if (q != 0) {
                T log_p = logits[begin + c] - top - log_total, p = exp(log_p), rest = -expm1(log_p);
                T p_r = p == 0 ? T(0) : p * (rest == 0 ? T(-1) : log_p / rest);
                h = gamma == 0 ? -q : q * (pow(rest, gamma) * (gamma * p_r - 1));
            }
            out[begin + c] = h;
            total += h;
        }
        total = row_sum<W>(total);
        for (int64 c = lane; c < end; c += W) {
            T p = exp(logits[begin + c] - top - log_total);
            T slope = out[begin + c] - total * (total == 0 ? T(0) : p);
            out[begin + c] = weight == 0 ? weight * 0 : weight * slope;
        }
    });
}

// -dl q, and for probabilities -dl q / p.
template <class T>
__global__ void target_rows_backward(T* out /* rows * columns */, const T* dl /* rows */,
                                     const T* p /* rows * columns? */, const T* Q /* rows * columns */, int64 rows,
                                     int64 columns) {
    for (int64 i = first_thread(); i < rows * columns; i += all_threads()) {
        T weight = dl[row_of(i, columns)] * Q[i];
        out[i] = p ? -(weight == 0 ? weight * 0 : weight * (1 / maximum(p[i], Limits<T>::smallest_normal))) : -weight;
    }
}

template <class T, class F>
__global__ void loss_sum(T* loss /* 1 */, const T* y /* n */, const T* targets /* n */,
                         const double* normalizer /* 1? */, double* partial /* gridDim.x? */,
                         unsigned* counter /* 1? */, int64 n, double number) {
    double sums[1] = {0}, factor = inverse(normalizer, number);
    for_all<T>(n, aligned(y, targets), [&](auto count, int64 i) {
        constexpr int m = decltype(count)::value;
        T a[m], b[m];
        load(a, y + i);
        load(b, targets + i);
        for (int j = 0; j < m; ++j) sums[0] += (double)F::value(a[j], b[j], Settings<T>{});
    });
    if (grid_sum(sums, partial, counter) && threadIdx.x == 0) *loss = factor == 0 ? T(0) : T(sums[0] * factor);
}

template <class T, class F>
__global__ void loss_slope(T* out /* n */, const T* y /* n */, const T* targets /* n */,
                           const double* normalizer /* 1? */, int64 n, double number, T scale) {
    T factor = scale * T(inverse(normalizer, number));
    for_all<T>(n, aligned(out, y, targets), [&](auto count, int64 i) {
        constexpr int m = decltype(count)::value;
        T a[m], b[m];
        load(a, y + i);
        load(b, targets + i);
        for (int j = 0; j < m; ++j) a[j] = F::slope(a[j], b[j], Settings<T>{}) * factor;
        store(out + i, a);
    });
}

// ---- random bits ----

struct Words {
    uint64 word[4];
};

// NumPy's Philox4x64-10: block b of the stream of (step, micro-batch). NumPy counts up before it draws.
__device__ inline Words philox_block(int64 b, const int64* counters, int64 index, uint64 key0, uint64 key1) {
    constexpr uint64 multiplier0 = 0xD2E7470EE14C6C93ull, multiplier1 = 0xCA5A826395121157ull;
    uint64 c0 = (uint64)b + 1, c1 = (uint64)counters[index], c2 = (uint64)counters[0], c3 = 0;
    for (int round = 0; round < 10; ++round) {
        uint64 high0 = __umul64hi(multiplier0, c0), low0 = multiplier0 * c0;
        uint64 high1 = __umul64hi(multiplier1, c2), low1 = multiplier1 * c2;
        c0 = high1 ^ c1 ^ key0;
        c1 = low1;
        c2 = high0 ^ c3 ^ key1;
        c3 = low0;
        key0 += 0x9E3779B97F4A7C15ull;
        key1 += 0xBB67AE8584CAA73Bull;
    }
    return {{c0, c1, c2, c3}};
}

template <int> __global__ void philox(uint64* out /* n */, const int64* counters /* index + 1 */, int64 index,
                                      uint64 key0, uint64 key1, int64 n) {
    for (int64 b = first_thread(); 4 * b < n; b += all_threads()) {
        Words words = philox_block(b, counters, index, key0, key1);
        for (int w = 0; w < 4 && 4 * b + w < n; ++w) out[4 * b + w] = words.word[w];
    }
}

// Element 4 w + j uses bits 16 j ... 16 j + 15 of word w; it is kept where they are not below the threshold.
__device__ inline bool kept(const Words& words, int element, unsigned threshold) {
    return (unsigned)(words.word[element / 4] >> (element % 4 * 16) & 0xffff) >= threshold;
}

template <int> __global__ void keep_mask(bool* keep /* n */, const int64* counters /* index + 1 */, int64 index,
                                         uint64 key0, uint64 key1, int64 n, unsigned threshold) {
    for (int64 b = first_thread(); 16 * b < n; b += all_threads()) {
        Words words = philox_block(b, counters, index, key0, key1);
        bool bits[16];
        for (int e = 0; e < 16; ++e) bits[e] = kept(words, e, threshold);
        if (aligned(keep) && 16 * b + 16 <= n) {
            store(keep + 16 * b, bits);
        } else {
            for (int e = 0; e < 16 && 16 * b + e < n; ++e) keep[16 * b + e] = bits[e];
        }
    }
}

template <class T>
__global__ void dropout(T* y /* n */, bool* keep /* n */, unsigned short* copy /* n? */, const T* x /* n */,
                        const int64* counters /* index + 1 */, int64 index, uint64 key0, uint64 key1, int64 n,
                        unsigned threshold, T scale) {
    for (int64 b = first_thread(); 16 * b < n; b += all_threads()) {
        Words words = philox_block(b, counters, index, key0, key1);
        bool bits[16];
        for (int e = 0; e < 16; ++e) bits[e] = kept(words, e, threshold);
        if (aligned(y, x) && aligned(keep) && address(copy) % 8 == 0 && 16 * b + 16 <= n) {
            T v[16];
            load(v, x + 16 * b);
            for (int e = 0; e < 16; ++e) v[e] = bits[e] ? v[e] * scale : T(0);
            store(y + 16 * b, v);
            store(keep + 16 * b, bits);
            store_copy(copy, 16 * b, v);
        } else {
            for (int64 i = 16 * b; i < 16 * b + 16 && i < n; ++i) {
                keep[i] = bits[i - 16 * b];
                T v[1] = {keep[i] ? x[i] * scale : T(0)};
                y[i] = v[0];
                store_copy(copy, i, v);
            }
        }
    }
}

template <class T>
__global__ void dropout_backward(T* dx /* n */, const T* dy /* n */, const bool* keep /* n */, int64 n, T scale) {
    for_all<T>(n, aligned(dx, dy), [&](auto count, int64 i) {
        constexpr int m = decltype(count)::value;
        T v[m];
        load(v, dy + i);
        for (int j = 0; j < m; ++j) v[j] = keep[i + j] ? v[j] * scale : T(0);
        store(dx + i, v);
    });
}

// ---- bfloat16 ----

template <int> __global__ void to_bf16(unsigned short* out /* n */, const float* x /* n */, int64 n) {
    for_all<unsigned short>(n, aligned(out, x), [&](auto count, int64 i) {
        constexpr int m = decltype(count)::value;
        float v[m];
        unsigned short bits[m];
        load(v, x + i);
        for (int j = 0; j < m; ++j) bits[j] = bf16_bits(v[j]);
        store(out + i, bits);
    });
}

// An activation, and its bits.
template <class F>
__global__ void activation_bf16(float* out /* n */, unsigned short* bits /* n */, const float* x /* n */, int64 n,
                                float a) {
    for_all<float>(n, aligned(out, x) && address(bits) % 8 == 0, [&](auto count, int64 i) {
        float v[decltype(count)::value];
        load(v, x + i);
        for (auto& each : v) each = F::forward(each, a);
        store(out + i, v);
        store_copy(bits, i, v);
    });
}

template <int> __global__ void from_bf16(float* out /* n */, const unsigned short* bits /* n */, int64 n) {
    for_all<unsigned short>(n, aligned(out, bits), [&](auto count, int64 i) {
        constexpr int m = decltype(count)::value;
        unsigned short v[m];
        float x[m];
        load(v, bits + i);
        for (int j = 0; j < m; ++j) x[j] = bf16_number(v[j]);
        store(out + i, x);
    });
}

// ---- optimizers ----

// Each writes the copies in bfloat16 of the values too, where there are such.

template <class T>
__global__ void sgd(T* value /* n */, const T* grad /* n */, const bool* ok /* 1 */,
                    const double* learning_rate /* 1 */, int64 n, T weight_decay,
                    unsigned short* copy /* n? */) {
    if (!*ok) return;
    T rate = T(*learning_rate);
    for_all<T>(n, aligned(value, grad, copy), [&](auto count, int64 i) {
        constexpr int m = decltype(count)::value;
        T w[m], g[m];
        load(w, value + i);
        load(g, grad + i);
        for (int j = 0; j < m; ++j) {
            if (weight_decay != 0) g[j] = g[j] + weight_decay * w[j];
            w[j] = w[j] - rate * g[j];
        }
        store(value + i, w);
        store_copy(copy, i, w);
    });
}

template <class T>
__global__ void sgd_momentum(T* value /* n */, const T* grad /* n */, T* velocity /* n */, const bool* ok /* 1 */,
                             const double* learning_rate /* 1 */, int64 n, T weight_decay, T momentum, bool nesterov,
                             unsigned short* copy /* n? */) {
    if (!*ok) return;
    T rate = T(*learning_rate);
    for_all<T>(n, aligned(value, grad, velocity, copy), [&](auto count, int64 i) {
        constexpr int m = decltype(count)::value;
        T w[m], g[m], v[m];
        load(w, value + i);
        load(g, grad + i);
        load(v, velocity + i);
        for (int j = 0; j < m; ++j) {
            if (weight_decay != 0) g[j] = g[j] + weight_decay * w[j];
            v[j] = momentum * v[j] + g[j];
            w[j] = w[j] - rate * (nesterov ? g[j] + momentum * v[j] : v[j]);
        }
        store(value + i, w);
        store_copy(copy, i, w);
        store(velocity + i, v);
    });
}

// With v_max, AMSGrad.
template <class T, bool amsgrad>
__global__ void adam(T* value /* n */, const T* grad /* n */, T* m1 /* n */, T* m2 /* n */, T* m2_max /* n? */,
                     const bool* ok /* 1 */, const double* learning_rate /* 1 */, const int64* counters /* 1 */,
                     int64 n, double beta1, double beta2, double epsilon, double weight_decay,
                     unsigned short* copy /* n? */) {
    if (!*ok) return;
    // This step's numbers in float64: the powers by two warps, because many GPUs are slow at them, the rest by one.
    SHARED(double, corrections, 2);
    SHARED(T, numbers, 3);
    double t = (double)(*counters + 1);
    if (threadIdx.x == 0) corrections[0] = 1 - pow(beta1, t);
    if (threadIdx.x == 32) corrections[1] = sqrt(1 - pow(beta2, t));
    __syncthreads();
    if (threadIdx.x == 0) {
        numbers[0] = T(*learning_rate * corrections[1] / corrections[0]);
        numbers[1] = T(epsilon * corrections[1]);
        numbers[2] = T(*learning_rate * weight_decay);
    }
    __syncthreads();
    T factor = numbers[0], floor = numbers[1], decay = numbers[2];
    T rest1 = T(1 - beta1), rest2 = T(1 - beta2);
    for_all<T>(n, aligned(value, grad, m1, m2, m2_max, copy), [&](auto count, int64 i) {
        constexpr int m = decltype(count)::value;
        T w[m], g[m], a[m], b[m], top[m];
        load(w, value + i);
        load(g, grad + i);
        load(a, m1 + i);
        load(b, m2 + i);
        if (amsgrad) load(top, m2_max + i);
        for (int j = 0; j < m; ++j) {
            a[j] = a[j] + rest1 * (g[j] - a[j]);
            b[j] = b[j] + rest2 * (g[j] * g[j] - b[j]);
            top[j] = amsgrad ? maximum(top[j], b[j]) : b[j];
            T next = w[j] - factor * (a[j] / (sqrt(top[j]) + floor));
            w[j] = weight_decay != 0 ? next - decay * w[j] : next;
        }
        store(value + i, w);
        store_copy(copy, i, w);
        store(m1 + i, a);
        store(m2 + i, b);
        if (amsgrad) store(m2_max + i, top);
    });
}

template <class T>
__global__ void adagrad(T* value /* n */, const T* grad /* n */, T* total /* n */, const bool* ok /* 1 */,
                        const double* learning_rate /* 1 */, int64 n, T initial, T epsilon, T weight_decay,
                        unsigned short* copy /* n? */) {
    if (!*ok) return;
    T rate = T(*learning_rate);
    for_all<T>(n, aligned(value, grad, total, copy), [&](auto count, int64 i) {
        constexpr int m = decltype(count)::value;
        T w[m], g[m], a[m];
        load(w, value + i);
        load(g, grad + i);
        load(a, total + i);
        for (int j = 0; j < m; ++j) {
            if (weight_decay != 0) g[j] = g[j] + weight_decay * w[j];
            a[j] = a[j] + g[j] * g[j];
            w[j] = w[j] - rate * g[j] / (sqrt(a[j] + initial) + epsilon);
        }
        store(value + i, w);
        store_copy(copy, i, w);
        store(total + i, a);
    });
}

// Without centering `mean` is no array, without momentum `velocity` is none.
template <class T, bool centered, bool with_momentum>
__global__ void rmsprop(T* value /* n */, const T* grad /* n */, T* square /* n */, T* mean /* n? */,
                        T* velocity /* n? */, const bool* ok /* 1 */, const double* learning_rate /* 1 */, int64 n,
                        T rest, T epsilon, T momentum, T weight_decay,
                        unsigned short* copy /* n? */) {
    if (!*ok) return;
    T rate = T(*learning_rate);
    for_all<T>(n, aligned(value, grad, square, mean, velocity, copy), [&](auto count, int64 i) {
        constexpr int m = decltype(count)::value;
        T w[m], g[m], a[m], b[m], v[m];
        load(w, value + i);
        load(g, grad + i);
        load(a, square + i);
        if (centered) load(b, mean + i);
        if (with_momentum) load(v, velocity + i);
        for (int j = 0; j < m; ++j) {
            if (weight_decay != 0) g[j] = g[j] + weight_decay * w[j];
            a[j] = a[j] + rest * (g[j] * g[j] - a[j]);
            T spread = a[j];
            if (centered) {
                b[j] = b[j] + rest * (g[j] - b[j]);
                spread = a[j] - b[j] * b[j];
                spread = spread < 0 ? T(0) : spread;
            }
            T u = g[j] / (sqrt(spread) + epsilon);
            if (with_momentum) u = v[j] = momentum * v[j] + u;
            w[j] = w[j] - rate * u;
        }
        store(value + i, w);
        store_copy(copy, i, w);
        store(square + i, a);
        if (centered) store(mean + i, b);
        if (with_momentum) store(velocity + i, v);
    });
}

// In double, because next to the smallest normal number a float32 difference would be flushed to 0.
template <class T>
__global__ void lion(T* value /* n */, const T* grad /* n */, T* m1 /* n */, const bool* ok /* 1 */,
                     const double* learning_rate /* 1 */, const int64* counters /* 1 */, int64 n, double beta1,
                     double beta2, double weight_decay, int64 flush_every,
                     unsigned short* copy /* n? */) {
    if (!*ok) return;
    constexpr double tiny = Limits<T>::smallest_normal;
    T rate = T(*learning_rate), decay = T(*learning_rate * weight_decay);
    bool flush = (*counters + 1) % flush_every == 0;
    for_all<T>(n, aligned(value, grad, m1, copy), [&](auto count, int64 i) {
        constexpr int m = decltype(count)::value;
        T w[m], g[m], a[m];
        load(w, value + i);
        load(g, grad + i);
        load(a, m1 + i);
        for (int j = 0; j < m; ++j) {
            double old = flush && fabs((double)a[j]) < tiny * 1e8 ? 0.0 : (double)a[j];
            double difference = (double)g[j] - old;
            double c = old + (1 - beta1) * difference;
            T next = weight_decay != 0 ? w[j] - decay * w[j] : w[j];
            w[j] = next - rate * T(c / (fabs(c) + tiny));
            a[j] = T(old + (1 - beta2) * difference);
        }
        store(value + i, w);
        store_copy(copy, i, w);
        store(m1 + i, a);
    });
}

// ---- what surrounds an update ----

template <class T>
__global__ void average(T* mean /* n */, const T* value /* n */, const bool* ok /* 1 */, const int64* counters /* 1 */,
                        int64 n, T rest) {
    if (!*ok) return;
    bool first = *counters == 0;
    for_all<T>(n, aligned(mean, value), [&](auto count, int64 i) {
        constexpr int m = decltype(count)::value;
        T a[m], w[m];
        load(a, mean + i);
        load(w, value + i);
        for (int j = 0; j < m; ++j) a[j] = first ? w[j] : a[j] + rest * (w[j] - a[j]);
        store(mean + i, a);
    });
}

template <class T>
__global__ void penalty_gradient(T* grad /* n */, const T* value /* n */, int64 n, T l1, T twice_l2) {
    for_all<T>(n, aligned(grad, value), [&](auto count, int64 i) {
        constexpr int m = decltype(count)::value;
        T g[m], w[m];
        load(g, grad + i);
        load(w, value + i);
        for (int j = 0; j < m; ++j) {
            if (l1 != 0) g[j] = g[j] + l1 * sign(w[j]);
            if (twice_l2 != 0) g[j] = g[j] + twice_l2 * w[j];
        }
        store(grad + i, g);
    });
}

// out = before + l1 sum |w| + l2 sum w^2, where `before` is no array 0: one launch an array, each adds its own.
template <class T>
__global__ void penalty(double* out /* 1 */, const double* before /* 1? */, const T* value /* n */,
                        double* partial /* 2 * gridDim.x? */, unsigned* counter /* 1? */, int64 n, double l1,
                        double l2) {
    double sums[2] = {0, 0};
    for_all<T>(n, aligned(value), [&](auto count, int64 i) {
        T w[decltype(count)::value];
        load(w, value + i);
        for (auto each : w) {
            sums[0] += fabs((double)each);
            sums[1] += (double)each * (double)each;
        }
    });
    if (!grid_sum(sums, partial, counter) || threadIdx.x != 0) return;
    double total = before ? *before : 0.0;
    if (l1 != 0) total += l1 * sums[0];
    if (l2 != 0) total += l2 * sums[1];
    *out = total;
}

template <class T> __global__ void convert(T* out /* 1 */, const double* value /* 1 */) {
    if (threadIdx.x != 0) return;
    *out = T(*value);
}

template <class T> __global__ void clip_value(T* grads /* n */, int64 n, T limit) {
    for_all<T>(n, aligned(grads), [&](auto count, int64 i) {
        T g[decltype(count)::value];
        load(g, grads + i);
        for (auto& each : g) each = minimum(maximum(each, -limit), limit);
        store(grads + i, g);
    });
}

// The sum of squares of any float64, in three sums of numbers of like size: no square overflows or is lost.
// [Blue 1978: A portable Fortran program to find the Euclidean norm of a vector]
// The squares of float32 numbers all fit into the middle one.
struct Squares {
    static constexpr double SMALL = 1e-140, LARGE = 1e140, UP = 1e170, DOWN = 1e-170;
};

template <class T> __device__ void add_square(double (&sums)[3], T x) {
    double size = fabs((double)x);
    if (sizeof(T) == 8 && size > Squares::LARGE) {
        sums[2] += (size * Squares::DOWN) * (size * Squares::DOWN);
    } else if (sizeof(T) == 8 && size < Squares::SMALL) {
        sums[0] += (size * Squares::UP) * (size * Squares::UP);
    } else {
        sums[1] += size * size;
    }
}

__device__ inline double norm_of(const double (&sums)[3]) {
    if (sums[2] > 0) return Squares::UP * sqrt(sums[2] + sums[1] * Squares::DOWN * Squares::DOWN);
    if (sums[1] > 0 || is_nan(sums[1])) return sqrt(sums[1] + sums[0] * Squares::DOWN * Squares::DOWN);
    return Squares::DOWN * sqrt(sums[0]);
}

// scale = limit / norm where the norm is finite and above the limit, else 1; ok becomes false where it is not finite.
template <class T>
__global__ void norm_scale(double* scale /* 1 */, const T* grads /* n */, bool* ok /* 1 */,
                           double* partial /* 3 * gridDim.x? */, unsigned* counter /* 1? */, int64 n, double limit) {
    double sums[3] = {0, 0, 0};
    for_all<T>(n, aligned(grads), [&](auto count, int64 i) {
        T g[decltype(count)::value];
        load(g, grads + i);
        for (auto each : g) add_square(sums, each);
    });
    if (!grid_sum(sums, partial, counter) || threadIdx.x != 0) return;
    double norm = norm_of(sums);
    *scale = is_finite(norm) && norm > limit ? limit / norm : 1.0;
    if (!is_finite(norm)) *ok = false;
}

template <class T> __global__ void scale_all(T* grads /* n */, const double* scale /* 1 */, int64 n) {
    T factor = T(*scale);
    if (*scale == 1.0) return;
    for_all<T>(n, aligned(grads), [&](auto count, int64 i) {
        T g[decltype(count)::value];
        load(g, grads + i);
        for (auto& each : g) each = each * factor;
        store(grads + i, g);
    });
}

template <class T> __global__ void check_finite(bool* ok /* 1 */, const T* value /* 1 */) {
    if (threadIdx.x != 0) return;
    if (!is_finite(*value)) *ok = false;
}

template <int> __global__ void advance(int64* counters /* n */, const bool* ok /* 1 */, int64 n) {
    for (int64 i = first_thread(); i < n; i += all_threads()) counters[i] = i == 0 ? counters[0] + *ok : 0;
}

template <int> __global__ void increment(int64* counters /* index + 1 */, int64 index) {
    if (threadIdx.x != 0) return;
    counters[index] += 1;
}

// total += (value * weight, weight); the weight is a number of the host where there is no array of it.
template <class T, class U>
__global__ void accumulate(double* total /* 2 */, const T* value /* 1 */, const U* weight /* 1? */, double number) {
    if (threadIdx.x != 0) return;
    double count = weight ? (double)*weight : number;
    total[0] += (double)*value * count;
    total[1] += count;
}

template <int> __global__ void scale_rate(double* target /* 1 */, const double* learning_rate /* 1 */, double scale) {
    if (threadIdx.x != 0) return;
    *target = *learning_rate * scale;
}

// A schedule's formula in postfix form; kernels/rates.py writes the programs. Depth: how many numbers wait at most.
enum Instruction {
    NUMBER,
    STEP,
    ADD,
    SUBTRACT,
    MULTIPLY,
    DIVIDE,
    POWER,
    LESS,
    LESS_EQUAL,
    MINIMUM,
    FLOOR,
    COSINE,
    WHERE
};

template <int> __global__ void set_rate(double* learning_rate /* 1 */, const int64* counters /* 1 */,
                                        const int* program /* length */, const double* numbers /* length */,
                                        int64 length) {
    if (threadIdx.x != 0) return;
    double stack[24];
    int top = -1;
    for (int64 i = 0; i < length; ++i) {
        int instruction = program[i];
        if (instruction == NUMBER || instruction == STEP) {
            stack[++top] = instruction == NUMBER ? numbers[i] : (double)*counters;
            continue;
        }
        if (instruction == FLOOR || instruction == COSINE) {
            stack[top] = instruction == FLOOR ? floor(stack[top]) : cos(stack[top]);
            continue;
        }
        if (instruction == WHERE) {  // condition, a, b
            top -= 2;
            stack[top] = stack[top] != 0 ? stack[top + 1] : stack[top + 2];
            continue;
        }
        double a = stack[top - 1], b = stack[top];
        top -= 1;
        switch (instruction) {
            case ADD: stack[top] = a + b; break;
            case SUBTRACT: stack[top] = a - b; break;
            case MULTIPLY: stack[top] = a * b; break;
            case DIVIDE: stack[top] = a / b; break;
            case POWER: stack[top] = pow(a, b); break;
            case LESS: stack[top] = a < b; break;
            case LESS_EQUAL: stack[top] = a <= b; break;
            case MINIMUM: stack[top] = minimum(a, b); break;
        }
    }
    *learning_rate = stack[0];
}

// ---- counting ----

// Whether score a at i stands before score b at j: larger, or equal and earlier; NaN is the largest of all.
template <class T> __device__ bool before(T a, int64 i, T b, int64 j) {
    if (is_nan(a) || is_nan(b)) return is_nan(a) && (!is_nan(b) || i < j);
    return a > b || (a == b && i < j);
}

template <class T, class L, int W>
__global__ void count_correct(double* out /* 2 */, const T* scores /* rows * columns */, const L* labels /* rows */,
                              double* partial /* 2 * gridDim.x? */, unsigned* counter /* 1? */, int64 rows,
                              int64 columns, bool ignoring, int64 ignored) {
    static_assert(W <= 32, "lanes of a warp");
    double sums[2] = {0, 0};
    for_rows<W>(rows, [&](int64 row, int64 lane, bool alive) {
        const T* from = scores + row * columns;
        T best = -Limits<T>::infinity();
        int64 at = columns;  // behind all others
        for (int64 c = lane; c < (alive ? columns : 0); c += W) {
            if (before(from[c], c, best, at)) {
                best = from[c];
                at = c;
            }
        }
        for (int offset = W / 2; offset > 0; offset /= 2) {
            T other = __shfl_xor_sync(ALL_LANES, best, offset);
            int64 other_at = __shfl_xor_sync(ALL_LANES, at, offset);
            if (before(other, other_at, best, at)) {
                best = other;
                at = other_at;
            }
        }
        if (lane != 0 || !alive) return;
        int64 label = (int64)labels[row];
        bool counted = !ignoring || label != ignored;
        sums[0] += counted && at == label;
        sums[1] += counted;
    });
    if (grid_sum(sums, partial, counter) && threadIdx.x == 0) {
        out[0] = sums[0];
        out[1] = sums[1];
    }
}

template <class T>
__global__ void count_correct_binary(double* out /* 2 */, const T* scores /* n */, const T* targets /* n */,
                                     double* partial /* gridDim.x? */, unsigned* counter /* 1? */, int64 n,
                                     T threshold) {
    double sums[1] = {0};
    for (int64 i = first_thread(); i < n; i += all_threads()) {
        sums[0] += (scores[i] > threshold) == (targets[i] > T(0.5));
    }
    if (grid_sum(sums, partial, counter) && threadIdx.x == 0) {
        out[0] = sums[0];
        out[1] = (double)n;
    }
}

// ---- weights ----

// What a label counts for: false where it names no class or is ignored.
__device__ inline bool counts(int64 label, int64 classes, bool ignoring, int64 ignored) {
    return label >= 0 && label < classes && !(ignoring && label == ignored);
}

// Q[i, c] = weight of the sample * (on[c] at the label, off[c] elsewhere); rows that do not count are 0.
template <class T, class L>
__global__ void label_targets(T* Q /* rows * columns */, const L* labels /* rows */, const T* on /* columns */,
                              const T* off /* columns */, const T* weights /* samples? */, int64 rows, int64 columns,
                              int64 samples, bool ignoring, int64 ignored) {
    for (int64 i = first_thread(); i < rows * columns; i += all_threads()) {
        int64 row = row_of(i, columns), c = i - row * columns;
        int64 label = (int64)labels[row];
        T weight = weights ? weights[row / (rows / samples)] : T(1);
        T value = weight == 0 || !counts(label, columns, ignoring, ignored) ? T(0) : c == label ? on[c] : off[c];
        Q[i] = weights ? weight * value : value;
    }
}

// The sum of what the labels count for; `table` is what each class does.
template <class T, class L>
__global__ void label_weight(double* out /* 1 */, const L* labels /* rows */, const double* table /* classes */,
                             const T* weights /* samples? */, double* partial /* gridDim.x? */,
                             unsigned* counter /* 1? */, int64 rows, int64 classes, int64 samples, bool ignoring,
                             int64 ignored) {
    double sums[1] = {0};
    for (int64 row = first_thread(); row < rows; row += all_threads()) {
        int64 label = (int64)labels[row];
        double weight = weights ? (double)weights[row / (rows / samples)] : 1.0;
        if (weight != 0 && counts(label, classes, ignoring, ignored)) sums[0] += weight * table[label];
    }
    if (grid_sum(sums, partial, counter) && threadIdx.x == 0) *out = sums[0];
}

// sum(values * weights) / normalizer; a row of weight 0 counts for nothing, whatever it holds.
template <class T>
__global__ void weighted_sum(T* out /* 1 */, const T* values /* n */, const T* weights /* samples? */,
                             const double* normalizer /* 1? */, double* partial /* gridDim.x? */,
                             unsigned* counter /* 1? */, int64 n, int64 samples, double number) {
    double sums[1] = {0}, factor = inverse(normalizer, number);
    int64 of_sample = weights ? n / samples : 1;
    for (int64 i = first_thread(); i < n; i += all_threads()) {
        T weight = weights ? weights[row_of(i, of_sample)] : T(1);
        if (weight != 0) sums[0] += (double)(weights ? weight * values[i] : values[i]);
    }
    if (grid_sum(sums, partial, counter) && threadIdx.x == 0) *out = factor == 0 ? T(0) : T(sums[0] * factor);
}

template <class T>
__global__ void weighted_sum_backward(T* out /* n */, const T* weights /* samples? */,
                                      const double* normalizer /* 1? */, int64 n, int64 samples, double number,
                                      T scale) {
    T factor = scale * T(inverse(normalizer, number));
    int64 of_sample = weights ? n / samples : 1;
    for (int64 i = first_thread(); i < n; i += all_threads()) {
        out[i] = weights ? weights[row_of(i, of_sample)] * factor : factor;
    }
}
