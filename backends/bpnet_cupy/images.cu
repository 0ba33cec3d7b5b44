// Images (N, H, W, C), channels last: convolutions, pools, channels dropped as a whole, axes swapped.
//
// A window stands at places_down x places_across places. Whatever goes back to the image is gathered: a thread has an
// element of the image and asks which windows have looked at it, in the order of the window's elements. So no
// two threads add to one number, and no image with its padding is ever made.

#define WINDOW int tall, int wide, int down, int across, int gap_down, int gap_across, int top, int left
#define IMAGE int height, int width, int channels
#define PLACES int places_down, int places_across

// Elements, steps from place to place, steps from element to element, padding before the image.
struct Window {
    int tall, wide, down, across, gap_down, gap_across, top, left;
};
#define THE_WINDOW Window{tall, wide, down, across, gap_down, gap_across, top, left}

// i / by, and what is left in i.
__device__ inline int64 cut(int64& i, int64 by) {
    int64 quotient = row_of(i, by);
    i -= quotient * by;
    return quotient;
}

// An element of (samples, rows, columns, channels), from its number.
struct Element {
    int64 sample;
    int row, column, channel;
    __device__ Element(int64 i, int rows, int columns, int channels) {
        sample = cut(i, (int64)rows * columns * channels);
        row = (int)cut(i, (int64)columns * channels);
        column = (int)cut(i, channels);
        channel = (int)i;
    }
};

// body(element of the window, offset of the pixel in its sample) for what a window at a place sees of the image.
template <class Body>
__device__ void for_seen(const Window& w, int height, int width, int place_down, int place_across, Body body) {
    int row = place_down * w.down - w.top, first = place_across * w.across - w.left;
    for (int i = 0; i < w.tall; ++i, row += w.gap_down) {
        if (row < 0 || row >= height) continue;
        int column = first;
        for (int j = 0; j < w.wide; ++j, column += w.gap_across) {
            if (column >= 0 && column < width) body(i * w.wide + j, (int64)row * width + column);
        }
    }
}

// body(element of the window, number of the place) for all windows that see a pixel.
template <class Body>
__device__ void for_windows(const Window& w, int places_down, int places_across, int row, int column, Body body) {
    for (int i = 0; i < w.tall; ++i) {
        int above = row + w.top - i * w.gap_down, p = above / w.down;
        if (above < 0 || p >= places_down || p * w.down != above) continue;
        for (int j = 0; j < w.wide; ++j) {
            int before = column + w.left - j * w.gap_across, q = before / w.across;
            if (before < 0 || q >= places_across || q * w.across != before) continue;
            body(i * w.wide + j, (int64)p * places_across + q);
        }
    }
}

// ---- convolutions as products ----

// What the windows at `rows` places see, from the place `first` of the first sample on, 0 outside of the image:
// (groups, rows, tall * wide * channels / groups).
template <class T>
__global__ void gather_windows(T* out /* rows * tall * wide * channels */,
                               const T* x /* samples * height * width * channels */, int64 rows, int64 first,
                               int64 samples, int groups, IMAGE, PLACES, WINDOW) {
    int each = channels / groups;
    bool in_packs = aligned(out, x) && each % Pack<T>::size == 0;
    for_all<T>(rows * tall * wide * channels, in_packs, [&](auto count, int64 i) {
        T v[decltype(count)::value] = {};
        int64 rest = i;
        int64 group = cut(rest, rows * tall * wide * each);
        int64 place = first + cut(rest, (int64)tall * wide * each);
        int row = (int)cut(rest, wide * each) * gap_down - top;
        int column = (int)cut(rest, each) * gap_across - left;
        int64 sample = cut(place, (int64)places_down * places_across);
        row += (int)cut(place, places_across) * down;
        column += (int)place * across;
        if (row >= 0 && row < height && column >= 0 && column < width) {
            load(v, x + ((sample * height + row) * width + column) * channels + group * each + rest);
        }
        store(out + i, v);
    });
}

// The way back: every pixel gets the sum of the terms of the windows that have seen it, and then bias and activation.
// Where the rows begin in the middle of the first sample, they add to what is there; where they end in the middle of the
// last one, bias and activation are left to who comes next.
template <class T, class F>
__global__ void add_windows(T* out /* samples * height * width * channels */,
                            const T* terms /* rows * tall * wide * channels */, const T* bias /* channels? */,
                            int64 rows, int64 first, int64 samples, int groups, IMAGE, PLACES, WINDOW, T a) {
    int each = channels / groups;
    int64 places = (int64)places_down * places_across, depth = (int64)tall * wide * each;
    bool in_packs = aligned(out, terms, bias) && each % Pack<T>::size == 0;
    for_all<T>(samples * height * width * channels, in_packs, [&](auto count, int64 i) {
        constexpr int m = decltype(count)::value;
        Element at(i, height, width, channels);
        T sum[m] = {}, more[m];
        if (first > 0 && at.sample == 0) load(sum, out + i);
        int group = at.channel / each;
        const T* from = terms + group * rows * depth + at.channel - group * each;
        for_windows(THE_WINDOW, places_down, places_across, at.row, at.column, [&](int element, int64 place) {
            int64 row = at.sample * places + place - first;
            if (row < 0 || row >= rows) return;
            load(more, from + row * depth + (int64)element * each);
            for (int k = 0; k < m; ++k) sum[k] += more[k];
        });
        if ((at.sample + 1) * places <= first + rows) {
            if (bias) {
                load(more, bias + at.channel);
                for (int k = 0; k < m; ++k) sum[k] += more[k];
            }
            for (int k = 0; k < m; ++k) sum[k] = F::forward(sum[k], a);
        }
        store(out + i, sum);
    });
}

// ---- convolutions of every channel by itself ----

// `outputs` is a multiple of channels: the channel c makes the outputs c * multiple, c * multiple + 1, ...
template <class T, class F>
__global__ void depthwise(T* out /* samples * places_down * places_across * outputs */,
                          const T* x /* samples * height * width * channels */, const T* W /* tall * wide * outputs */,
                          const T* bias /* outputs? */, int64 samples, int outputs, IMAGE, PLACES, WINDOW, T a) {
    int multiple = outputs / channels;
    bool in_packs = aligned(out, x, W, bias) && multiple == 1 && outputs % Pack<T>::size == 0;
    for_all<T>(samples * places_down * places_across * outputs, in_packs, [&](auto count, int64 i) {
        constexpr int m = decltype(count)::value;
        Element at(i, places_down, places_across, outputs);
        const T* from = x + at.sample * height * width * channels + at.channel / multiple;
        T sum[m] = {}, v[m], w[m];
        for_seen(THE_WINDOW, height, width, at.row, at.column, [&](int element, int64 pixel) {
            load(v, from + pixel * channels);
            load(w, W + (int64)element * outputs + at.channel);
            for (int k = 0; k < m; ++k) sum[k] += v[k] * w[k];
        });
        if (bias) {
            load(w, bias + at.channel);
            for (int k = 0; k < m; ++k) sum[k] += w[k];
        }
        for (int k = 0; k < m; ++k) sum[k] = F::forward(sum[k], a);
        store(out + i, sum);
    });
}

template <class T, class F>
__global__ void depthwise_back(T* out /* samples * height * width * channels */,
                               const T* dy /* samples * places_down * places_across * outputs */,
                               const T* W /* tall * wide * outputs */, const T* bias /* channels? */, int64 samples,
                               int outputs, IMAGE, PLACES, WINDOW, T a) {
    int multiple = outputs / channels;
    bool in_packs = aligned(out, dy, W, bias) && multiple == 1 && outputs % Pack<T>::size == 0;
    for_all<T>(samples * height * width * channels, in_packs, [&](auto count, int64 i) {
        constexpr int m = decltype(count)::value;
        Element at(i, height, width, channels);
        const T* from = dy + at.sample * places_down * places_across * outputs + at.channel * multiple;
        T sum[m] = {}, v[m], w[m];
        for_windows(THE_WINDOW, places_down, places_across, at.row, at.column, [&](int element, int64 place) {
            for (int each = 0; each < multiple; ++each) {
                load(v, from + place * outputs + each);
                load(w, W + (int64)element * outputs + at.channel * multiple + each);
                for (int k = 0; k < m; ++k) sum[k] += v[k] * w[k];
            }
        });
        if (bias) {
            load(w, bias + at.channel);
            for (int k = 0; k < m; ++k) sum[k] += w[k];
        }
        for (int k = 0; k < m; ++k) sum[k] = F::forward(sum[k], a);
        store(out + i, sum);
    });
}

// dW[i, j, o] = sum over samples and places of what (i, j) has seen times dy; blockIdx.z is the window's element.
template <class T, int X>
__global__ void depthwise_weight(T* dW /* tall * wide * outputs */,
                                 const T* dy /* samples * places_down * places_across * outputs */,
                                 const T* x /* samples * height * width * channels */,
                                 T* partial /* tall * wide * gridDim.y * outputs? */,
                                 unsigned* counter /* tall * wide * gridDim.x? */, int64 samples, int outputs, IMAGE,
                                 PLACES, WINDOW) {
    int element = blockIdx.z, multiple = outputs / channels;
    int above = element / wide * gap_down - top, before = element % wide * gap_across - left;
    sum_columns<1, X>(
        partial + (int64)element * gridDim.y * outputs, counter + element * gridDim.x,
        samples * places_down * places_across, outputs,
        [&](T (&sums)[1], int64 place, int64 o) {
            int64 rest = place;
            int64 sample = cut(rest, (int64)places_down * places_across);
            int row = (int)cut(rest, places_across) * down + above, column = (int)rest * across + before;
            if (row < 0 || row >= height || column < 0 || column >= width) return;
            sums[0] += x[((sample * height + row) * width + column) * channels + o / multiple] * dy[place * outputs + o];
        },
        [&](int64 o, T (&sums)[1]) { dW[(int64)element * outputs + o] = sums[0]; });
}

// ---- pools ----

template <class T>
__global__ void max_pool(T* out /* samples * places_down * places_across * channels */,
                         const T* x /* samples * height * width * channels */, int64 samples, IMAGE, PLACES, WINDOW) {
    bool in_packs = aligned(out, x) && channels % Pack<T>::size == 0;
    for_all<T>(samples * places_down * places_across * channels, in_packs, [&](auto count, int64 i) {
        constexpr int m = decltype(count)::value;
        Element at(i, places_down, places_across, channels);
        const T* from = x + at.sample * height * width * channels + at.channel;
        T best[m], v[m];
        for (auto& each : best) each = -Limits<T>::infinity();
        for_seen(THE_WINDOW, height, width, at.row, at.column, [&](int, int64 pixel) {
            load(v, from + pixel * channels);
            for (int k = 0; k < m; ++k) best[k] = maximum(best[k], v[k]);
        });
        store(out + i, best);
    });
}

// The element of each window that is its largest, the first of equal ones; which one that is where there are NaNs, the
// op says: the contest is held in every row of the window, and then among the rows.
template <class T>
__global__ void max_pool_winners(int* out /* samples * places_down * places_across * channels */,
                                 const T* x /* samples * height * width * channels */, int64 samples, IMAGE, PLACES,
                                 WINDOW) {
    for (int64 i = first_thread(); i < samples * places_down * places_across * channels; i += all_threads()) {
        Element at(i, places_down, places_across, channels);
        const T* from = x + at.sample * height * width * channels + at.channel;
        T best = 0;
        int winner = 0;
        for (int k = 0; k < tall; ++k) {
            int row = at.row * down + k * gap_down - top;
            T largest = 0;
            int here = 0;
            for (int j = 0; j < wide; ++j) {
                int column = at.column * across + j * gap_across - left;
                bool inside = row >= 0 && row < height && column >= 0 && column < width;
                T v = inside ? from[((int64)row * width + column) * channels] : -Limits<T>::infinity();
                if (j > 0 && !(largest >= v)) here = j;
                largest = j > 0 ? maximum(largest, v) : v;
            }
            if (k == 0 || !(best >= largest)) winner = k * wide + here;
            best = k > 0 ? maximum(best, largest) : largest;
        }
        out[i] = winner;
    }
}

template <class T>
__global__ void max_pool_backward(T* dx /* samples * height * width * channels */,
                                  const T* dy /* samples * places_down * places_across * channels */,
                                  const int* winners /* samples * places_down * places_across * channels */,
                                  int64 samples, IMAGE, PLACES, WINDOW) {
    for (int64 i = first_thread(); i < samples * height * width * channels; i += all_threads()) {
        Element at(i, height, width, channels);
        int64 begin = at.sample * places_down * places_across * channels + at.channel;
        T sum = 0;
        for_windows(THE_WINDOW, places_down, places_across, at.row, at.column, [&](int element, int64 place) {
            int64 from = begin + place * channels;
            if (winners[from] == element) sum += dy[from];
        });
        dx[i] = sum;
    }
}

// 1 / how many elements are averaged at a place: all, or those that lie in the image.
template <class T>
__device__ T share(const Window& w, int height, int width, int place_down, int place_across, bool padding) {
    if (padding) return 1 / T(w.tall * w.wide);
    int row = place_down * w.down - w.top, column = place_across * w.across - w.left;
    int rows = min(height, row + w.tall) - max(0, row), columns = min(width, column + w.wide) - max(0, column);
    return 1 / T(rows * columns);
}

template <class T>
__global__ void avg_pool(T* out /* samples * places_down * places_across * channels */,
                         const T* x /* samples * height * width * channels */, int64 samples, IMAGE, PLACES, WINDOW,
                         bool padding) {
    bool in_packs = aligned(out, x) && channels % Pack<T>::size == 0;
    for_all<T>(samples * places_down * places_across * channels, in_packs, [&](auto count, int64 i) {
        constexpr int m = decltype(count)::value;
        Element at(i, places_down, places_across, channels);
        const T* from = x + at.sample * height * width * channels + at.channel;
        T sum[m] = {}, v[m], part = share<T>(THE_WINDOW, height, width, at.row, at.column, padding);
        for_seen(THE_WINDOW, height, width, at.row, at.column, [&](int, int64 pixel) {
            load(v, from + pixel * channels);
            for (int k = 0; k < m; ++k) sum[k] += v[k];
        });
        for (auto& each : sum) each *= part;
        store(out + i, sum);
    });
}

template <class T>
__global__ void avg_pool_backward(T* dx /* samples * height * width * channels */,
                                  const T* dy /* samples * places_down * places_across * channels */, int64 samples,
                                  IMAGE, PLACES, WINDOW, bool padding) {
    bool in_packs = aligned(dx, dy) && channels % Pack<T>::size == 0;
    for_all<T>(samples * height * width * channels, in_packs, [&](auto count, int64 i) {
        constexpr int m = decltype(count)::value;
        Element at(i, height, width, channels);
        const T* from = dy + at.sample * places_down * places_across * channels + at.channel;
        T sum[m] = {}, v[m];
        for_windows(THE_WINDOW, places_down, places_across, at.row, at.column, [&](int, int64 place) {
            int p = (int)row_of(place, places_across), q = (int)(place - (int64)p * places_across);
            T part = share<T>(THE_WINDOW, height, width, p, q, padding);
            load(v, from + place * channels);
            for (int k = 0; k < m; ++k) sum[k] += v[k] * part;
        });
        store(dx + i, sum);
    });
}

// A sample's column of `pixels` numbers for every thread of a line: gridDim.x = samples * tiles of X channels.
struct SampleColumn {
    int64 sample, channel, begin;
    bool within;
    __device__ SampleColumn(int64 pixels, int64 channels, int X) {
        int64 tiles = (channels + X - 1) / X;
        sample = blockIdx.x / tiles;
        channel = (blockIdx.x - sample * tiles) * X + threadIdx.x;
        begin = sample * pixels * channels + channel;
        within = channel < channels;
    }
};

template <class T, int X>
__global__ void global_avg_pool(T* out /* samples * channels */, const T* x /* samples * pixels * channels */,
                                int64 samples, int64 pixels, int64 channels) {
    SampleColumn at(pixels, channels, X);
    T sums[1];
    block_columns<1, X>(sums, 0, pixels, at.within,
                        [&](T (&mine)[1], int64 row) { mine[0] += x[at.begin + row * channels]; });
    if (threadIdx.y == 0 && at.within) out[at.sample * channels + at.channel] = sums[0] / T(pixels);
}

template <class T>
__global__ void global_avg_pool_backward(T* dx /* samples * pixels * channels */, const T* dy /* samples * channels */,
                                         int64 samples, int64 pixels, int64 channels) {
    bool in_packs = aligned(dx, dy) && channels % Pack<T>::size == 0;
    for_all<T>(samples * pixels * channels, in_packs, [&](auto count, int64 i) {
        T v[decltype(count)::value];
        int64 rest = i;
        int64 sample = cut(rest, pixels * channels);
        load(v, dy + sample * channels + column_of(rest, channels));
        for (auto& each : v) each = each / T(pixels);
        store(dx + i, v);
    });
}

// The first of the largest numbers of the block's columns, NaN being the largest of all: in all threads of a column.
template <class T, int X> __device__ int64 first_of_largest(const T* x, int64 pixels, int64 channels, bool within) {
    constexpr int Y = 256 / X;
    SHARED(T, largest, 256);
    SHARED(int64, places, 256);
    T best = -Limits<T>::infinity();
    int64 at = pixels;  // behind all others
    if (within) {
        for (int64 row = threadIdx.y; row < pixels; row += Y) {
            T v = x[row * channels];
            if (before(v, row, best, at)) {
                best = v;
                at = row;
            }
        }
    }
    int mine = threadIdx.y * X + threadIdx.x;
    largest[mine] = best;
    places[mine] = at;
    for (int offset = Y / 2; offset > 0; offset /= 2) {
        __syncthreads();
        if (threadIdx.y < offset) {
            int other = mine + offset * X;
            if (before<T>(largest[other], places[other], largest[mine], places[mine])) {
                largest[mine] = largest[other];
                places[mine] = places[other];
            }
        }
    }
    __syncthreads();
    return places[threadIdx.x];
}

template <class T, int X>
__global__ void global_max_pool(T* out /* samples * channels */, const T* x /* samples * pixels * channels */,
                                int64 samples, int64 pixels, int64 channels) {
    SampleColumn at(pixels, channels, X);
    int64 found = first_of_largest<T, X>(x + at.begin, pixels, channels, at.within);
    if (threadIdx.y == 0 && at.within) out[at.sample * channels + at.channel] = x[at.begin + found * channels];
}

template <class T, int X>
__global__ void global_max_pool_backward(T* dx /* samples * pixels * channels */, const T* dy /* samples * channels */,
                                         const T* x /* samples * pixels * channels */, int64 samples, int64 pixels,
                                         int64 channels) {
    SampleColumn at(pixels, channels, X);
    int64 found = first_of_largest<T, X>(x + at.begin, pixels, channels, at.within);
    if (!at.within) return;
    T slope = dy[at.sample * channels + at.channel];
    for (int64 row = threadIdx.y; row < pixels; row += 256 / X) {
        dx[at.begin + row * channels] = row == found ? slope : T(0);
    }
}

// ---- axes and channels ----

// out[n, j, i, k] = x[n, i, j, k] for x (batch, rows, columns, inner).
template <class T>
__global__ void swap_axes(T* out /* batch * rows * columns * inner */, const T* x /* batch * rows * columns * inner */,
                          int64 batch, int64 rows, int64 columns, int64 inner) {
    for_all<T>(batch * rows * columns * inner, aligned(out, x) && inner % Pack<T>::size == 0,
               [&](auto count, int64 i) {
                   T v[decltype(count)::value];
                   int64 rest = i;
                   int64 n = cut(rest, rows * columns * inner), j = cut(rest, rows * inner), k = cut(rest, inner);
                   load(v, x + ((n * rows + k) * columns + j) * inner + rest);
                   store(out + i, v);
               });
}

// The same where inner is 1: 32 x 32 numbers at a time, read and written row by row. blockDim = (32, 8), gridDim = tiles
// of columns and of rows, matrices; the last two go through several where there are more.
template <class T>
__global__ void transpose_tiles(T* out /* batch * rows * columns */, const T* x /* batch * rows * columns */,
                                int64 batch, int64 rows, int64 columns) {
    SHARED(T, tile, 32 * 33);  // a column of 33: no two threads of a warp meet in a bank
    int64 left = blockIdx.x * (int64)32;
    for (int64 n = blockIdx.z; n < batch; n += gridDim.z) {
        for (int64 top = blockIdx.y * (int64)32; top < rows; top += gridDim.y * (int64)32) {
            int64 column = left + threadIdx.x;
            for (int y = threadIdx.y; y < 32; y += 8) {
                if (top + y < rows && column < columns) {
                    tile[y * 33 + threadIdx.x] = x[(n * rows + top + y) * columns + column];
                }
            }
            __syncthreads();
            int64 row = top + threadIdx.x;
            for (int y = threadIdx.y; y < 32; y += 8) {
                if (row < rows && left + y < columns) {
                    out[(n * columns + left + y) * rows + row] = tile[threadIdx.x * 33 + y];
                }
            }
            __syncthreads();
        }
    }
}

// x * scale where its sample and channel are kept, else 0. A sample has per_sample numbers, its channels `inner` apart.
template <class T>
__global__ void keep_channels(T* out /* samples * per_sample */, const T* x /* samples * per_sample */,
                              const bool* keep /* samples * channels */, int64 samples, int64 per_sample,
                              int64 channels, int64 inner, T scale) {
    for (int64 i = first_thread(); i < samples * per_sample; i += all_threads()) {
        int64 rest = i;
        int64 sample = cut(rest, per_sample);
        out[i] = keep[sample * channels + column_of(row_of(rest, inner), channels)] ? x[i] * scale : T(0);
    }
}
