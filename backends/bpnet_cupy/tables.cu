// Rows of a table by number. The gradient of the table adds up, for every row, what came back to the places that named
// it, in the order of the places. So the places are sorted by their number first, by counting, stably:
//
// - sort_tiles: in every tile of TILE places a place goes behind those with a smaller number, and with the same one
//   earlier. TILE comparisons a place.
// - merge_tiles: behind those of all other tiles, by a binary search in each. (places / TILE) log TILE steps a place.
// - sum_rows: a row of the table finds its places by one binary search and adds them up.
//
// No atomic operation, no two sums in another order; memory for the numbers and the places twice.

constexpr int TILE = 1024;

template <class T, class L>
__global__ void take_rows(T* out /* places * columns */, const L* ids /* places */, const T* table /* n_rows * columns */,
                          int64 places, int64 columns, int64 n_rows) {
    for_all<T>(places * columns, aligned(out, table) && columns % Pack<T>::size == 0, [&](auto count, int64 i) {
        T v[decltype(count)::value] = {};
        int64 column = i;
        int64 id = (int64)ids[cut(column, columns)];
        if (id >= 0 && id < n_rows) load(v, table + id * columns + column);
        store(out + i, v);
    });
}

template <class L>
__global__ void sort_tiles(int64* sorted /* n */, int64* places /* n */, const L* ids /* n */, int64 n) {
    SHARED(int64, tile, TILE);
    int64 begin = blockIdx.x * (int64)TILE;
    int size = (int)(n - begin < TILE ? n - begin : TILE);
    for (int k = threadIdx.x; k < size; k += blockDim.x) tile[k] = (int64)ids[begin + k];
    __syncthreads();
    for (int k = threadIdx.x; k < size; k += blockDim.x) {
        int64 id = tile[k];
        int rank = 0;
        for (int other = 0; other < size; ++other) {
            int64 found = tile[other];
            rank += found < id || (found == id && other < k);
        }
        sorted[begin + rank] = id;
        places[begin + rank] = begin + k;
    }
}

// How many of n sorted numbers are below `value`, or where `too` not above it.
__device__ inline int64 count_below(const int64* sorted, int64 n, int64 value, bool too) {
    int64 low = 0, high = n;
    while (low < high) {
        int64 middle = (low + high) / 2;
        if (sorted[middle] < value || (too && sorted[middle] == value))
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

template <int> __global__ void merge_tiles(int64* sorted /* n */, int64* places /* n */, const int64* tiles /* n */,
                                           const int64* tile_places /* n */, int64 n) {
    for (int64 i = first_thread(); i < n; i += all_threads()) {
        int64 id = tiles[i], own = i / TILE, rank = i - own * TILE;
        for (int64 tile = 0; tile * TILE < n; ++tile) {
            int64 begin = tile * TILE;
            if (tile != own) rank += count_below(tiles + begin, n - begin < TILE ? n - begin : TILE, id, tile < own);
        }
        sorted[rank] = id;
        places[rank] = tile_places[i];
    }
}

// out[v] = sum of the rows of dy at the places with the number v, 0 where there is none. blockDim = (32, 8): a line of
// threads adds every eighth place, then the lines are added up. gridDim = tiles of 32 packs of columns, rows of the table.
template <class T>
__global__ void sum_rows(T* out /* n_rows * columns */, const T* dy /* places * columns */,
                         const int64* sorted /* places */, const int64* order /* places */, int64 places,
                         int64 columns, int64 n_rows) {
    constexpr int m = Pack<T>::size;
    bool in_packs = aligned(out, dy) && columns % m == 0;
    int64 step = in_packs ? 1 : 32;  // from one column of a thread to the next
    int64 column = blockIdx.x * (int64)(32 * m) + threadIdx.x * (in_packs ? m : 1);
    for (int64 v = blockIdx.y; v < n_rows; v += gridDim.y) {
        T sum[m] = {}, more[m] = {};
        for (int64 k = count_below(sorted, places, v, false) + threadIdx.y; k < places && sorted[k] == v; k += 8) {
            const T* from = dy + order[k] * columns + column;
            if (!in_packs) {
                for (int j = 0; j < m && column + j * step < columns; ++j) more[j] = from[j * step];
            } else if (column < columns) {
                load(more, from);
            }
            for (int j = 0; j < m; ++j) sum[j] += more[j];
        }
        sum_lines<m, 32>(sum);
        if (threadIdx.y != 0) continue;
        if (!in_packs) {
            for (int j = 0; j < m && column + j * step < columns; ++j) out[v * columns + column + j * step] = sum[j];
        } else if (column < columns) {
            store(out + v * columns + column, sum);
        }
    }
}
