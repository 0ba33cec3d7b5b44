// What kernels.cu takes from CUDA, for a C++ compiler of the host: to test the kernels, not to be fast.
//
// The blocks of a grid run one after another, the threads of a block as fibers that take turns at barriers. Found are:
// - threads that wait at different barriers, or that are gone when others wait; a shuffle without all its lanes
// - shared memory used out of bounds, read before it was written, or touched by two threads without a barrier between
// - 16 bytes moved at once at an address that is no multiple of 16
// - a result that depends on the order of threads or blocks: run a kernel in several orders and compare
// Global memory is not watched here; bpnet_cupy.host.driver puts guards around the arrays instead.

#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <type_traits>
#include <typeinfo>
#include <vector>
#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

#define __global__ static
#define __device__
#define __forceinline__ inline

struct dim3 {
    unsigned x = 1, y = 1, z = 1;
};

namespace host {

struct Fiber {
    enum State { ready, at_barrier, at_shuffle, finished };
    State state = finished;
    bool begun = false;
    int line = 0;             // of the barrier or shuffle that it waits at
    unsigned mask = 0;        // of the shuffle
    unsigned shuffles = 0;    // so far
    unsigned warp_epoch = 0;  // counts shuffles too: accesses before and after one are ordered within a warp
    dim3 thread;
    jmp_buf place;
    ucontext_t start;
    std::unique_ptr<char[]> stack;
};

// One number of shared memory, and who touched it last.
struct Access {
    int thread = -1;
    unsigned block_epoch = 0, warp_epoch = 0;
    bool by_many = false;
};
struct Cell {
    bool written = false;
    Access write, read;
};
struct Shared {
    std::string name;
    int line = 0;
    long size = 0;
    std::vector<Cell> cells;
    std::vector<char> bytes;
};

struct Machine {
    dim3 grid, block, block_index;
    std::vector<std::unique_ptr<Fiber>> fibers;
    int threads = 0, current = 0;
    unsigned block_epoch = 0;
    jmp_buf scheduler;
    void (*kernel)(void**) = nullptr;
    void** arguments = nullptr;
    std::map<const void*, Shared> shared;
    uint64_t slots[2][1024];
    std::string failure;
};

inline Machine machine;

[[noreturn]] inline void leave(Fiber::State state) {
    Fiber& fiber = *machine.fibers[machine.current];
    fiber.state = state;
    _longjmp(machine.scheduler, 1);
}

inline void fail(const std::string& message) {
    const Fiber& fiber = *machine.fibers[machine.current];
    char where[120];
    snprintf(where, sizeof where, " (thread %u, %u of block %u, %u)", fiber.thread.x, fiber.thread.y,
             machine.block_index.x, machine.block_index.y);
    if (machine.failure.empty()) machine.failure = message + where;
    leave(Fiber::finished);
}

inline void check(bool holds, const char* what, int line) {
    if (!holds) fail("line " + std::to_string(line) + ": " + what + " does not hold");
}

// Let others run until all that must be here are here.
inline void wait(Fiber::State state, int line, unsigned mask) {
    Fiber& fiber = *machine.fibers[machine.current];
    fiber.line = line;
    fiber.mask = mask;
    fiber.warp_epoch += 1;
    if (_setjmp(fiber.place) == 0) leave(state);
}

template <class T> T shuffle(unsigned mask, T value, int source, int line) {
    static_assert(sizeof(T) <= 8, "one word");
    int own = machine.current;
    Fiber& fiber = *machine.fibers[own];
    uint64_t* slots = machine.slots[fiber.shuffles++ % 2];  // the lanes that are behind still read the other half
    memcpy(&slots[own], &value, sizeof(T));
    wait(Fiber::at_shuffle, line, mask);
    memcpy(&value, &slots[own / 32 * 32 + source], sizeof(T));
    return value;
}

inline void fiber_main() {
    for (;;) {
        machine.kernel(machine.arguments);
        Fiber& fiber = *machine.fibers[machine.current];
        if (_setjmp(fiber.place) == 0) leave(Fiber::finished);
    }
}

inline void resume(int thread) {
    constexpr size_t STACK = 64 * 1024;
    machine.current = thread;
    Fiber& fiber = *machine.fibers[thread];
    if (_setjmp(machine.scheduler) != 0) return;
    if (fiber.begun) _longjmp(fiber.place, 1);
    fiber.begun = true;
    if (!fiber.stack) fiber.stack.reset(new char[STACK]);
    getcontext(&fiber.start);
    fiber.start.uc_stack.ss_sp = fiber.stack.get();
    fiber.start.uc_stack.ss_size = STACK;
    fiber.start.uc_link = nullptr;
    makecontext(&fiber.start, fiber_main, 0);
    setcontext(&fiber.start);
}

// Release those that wait where all they wait for have come; say whether any was.
inline bool release() {
    bool any = false;
    int waiting = 0, gone = 0, line = 0;
    bool same = true;
    for (int t = 0; t < machine.threads; ++t) {
        const Fiber& fiber = *machine.fibers[t];
        if (fiber.state == Fiber::at_barrier) {
            if (waiting++ == 0) line = fiber.line;
            same = same && fiber.line == line;
        } else if (fiber.state == Fiber::finished) {
            ++gone;
        }
    }
    for (int warp = 0; warp < machine.threads; warp += 32) {
        int end = std::min(warp + 32, machine.threads);
        for (int t = warp; t < end; ++t) {
            Fiber& fiber = *machine.fibers[t];
            if (fiber.state != Fiber::at_shuffle) continue;
            bool complete = true;
            for (int lane = 0; lane < 32; ++lane) {
                if (!(fiber.mask >> lane & 1)) continue;
                int other = warp + lane;
                if (other >= end || machine.fibers[other]->state == Fiber::finished) {
                    machine.current = t;
                    if (_setjmp(machine.scheduler) == 0) {
                        fail("line " + std::to_string(fiber.line) + ": a shuffle names a lane that has left");
                    }
                    return false;
                }
                const Fiber& partner = *machine.fibers[other];
                complete = complete && partner.state == Fiber::at_shuffle && partner.line == fiber.line &&
                           partner.mask == fiber.mask;
            }
            if (!complete) continue;
            for (int lane = 0; lane < 32; ++lane) {
                if (fiber.mask >> lane & 1) machine.fibers[warp + lane]->state = Fiber::ready;
            }
            any = true;
        }
    }
    if (any) return true;
    if (waiting == machine.threads && same) {
        machine.block_epoch += 1;
        for (int t = 0; t < machine.threads; ++t) machine.fibers[t]->state = Fiber::ready;
        return true;
    }
    if (gone < machine.threads && machine.failure.empty()) {
        machine.failure = !same ? "threads of one block wait at different barriers"
                          : gone && waiting
                              ? "line " + std::to_string(line) + ": a barrier that some threads never reach"
                              : "threads wait for each other at a shuffle or a barrier";
    }
    return false;
}

// order: 0 forward, 1 backward, above that a shuffle with this number as its seed.
inline std::vector<int> arranged(int n, int order) {
    std::vector<int> result(n);
    for (int i = 0; i < n; ++i) result[i] = order == 1 ? n - 1 - i : i;
    if (order > 1) {
        std::mt19937 random(order);
        std::shuffle(result.begin(), result.end(), random);
    }
    return result;
}

inline void run_block(const std::vector<int>& order) {
    machine.shared.clear();
    machine.block_epoch = 0;
    for (int t = 0; t < machine.threads; ++t) {
        Fiber& fiber = *machine.fibers[t];
        fiber.state = Fiber::ready;
        fiber.shuffles = fiber.warp_epoch = 0;
        fiber.thread = {t % machine.block.x, t / machine.block.x % machine.block.y,
                        t / (machine.block.x * machine.block.y)};
    }
    do {
        for (int t : order) {
            if (machine.fibers[t]->state == Fiber::ready) resume(t);
            if (!machine.failure.empty()) return;
        }
    } while (release());
}

inline bool launch(void (*kernel)(void**), void** arguments, dim3 grid, dim3 block, int order) {
    machine.kernel = kernel;
    machine.arguments = arguments;
    machine.grid = grid;
    machine.block = block;
    machine.threads = block.x * block.y * block.z;
    machine.failure.clear();
    while ((int)machine.fibers.size() < machine.threads) machine.fibers.emplace_back(new Fiber);
    std::vector<int> threads = arranged(machine.threads, order);
    for (int index : arranged(grid.x * grid.y * grid.z, order)) {
        machine.block_index = {index % grid.x, index / grid.x % grid.y, index / (grid.x * grid.y)};
        run_block(threads);
        if (!machine.failure.empty()) {
            for (auto& fiber : machine.fibers) fiber->begun = false;  // they stand in the middle of the kernel
            return false;
        }
    }
    return true;
}

// Two accesses are ordered by a barrier of the block, or within a warp by a shuffle.
inline bool ordered(const Access& before, int thread, const Fiber& fiber) {
    if (before.thread < 0 || before.block_epoch != machine.block_epoch) return true;
    if (before.by_many) return false;
    if (before.thread == thread) return true;
    return before.thread / 32 == thread / 32 && before.warp_epoch < fiber.warp_epoch;
}

inline void note(Access& access, int thread, const Fiber& fiber) {
    bool again = access.thread >= 0 && access.block_epoch == machine.block_epoch && access.thread != thread;
    access = {thread, machine.block_epoch, fiber.warp_epoch, again};
}

template <class T> struct Ref {
    Shared& shared;
    long index;
    T& value() const { return reinterpret_cast<T*>(shared.bytes.data())[index]; }
    operator T() const {
        Cell& cell = shared.cells[index];
        const Fiber& fiber = *machine.fibers[machine.current];
        if (!cell.written)
            fail("shared " + shared.name + "[" + std::to_string(index) + "] is read before it is written");
        if (!ordered(cell.write, machine.current, fiber)) {
            fail("shared " + shared.name + "[" + std::to_string(index) + "] is read beside another thread's write");
        }
        note(cell.read, machine.current, fiber);
        return value();
    }
    Ref& operator=(T next) {
        Cell& cell = shared.cells[index];
        const Fiber& fiber = *machine.fibers[machine.current];
        if (!ordered(cell.write, machine.current, fiber) || !ordered(cell.read, machine.current, fiber)) {
            fail("shared " + shared.name + "[" + std::to_string(index) + "] is written beside another thread's access");
        }
        note(cell.write, machine.current, fiber);
        cell.written = true;
        value() = next;
        return *this;
    }
    Ref& operator=(const Ref& other) { return *this = T(other); }
    Ref& operator+=(T more) { return *this = T(*this) + more; }
};

template <class T> struct SharedArray {
    Shared& shared;
    Ref<T> operator[](long index) const {
        if (index < 0 || index >= shared.size) {
            fail("shared " + shared.name + " has " + std::to_string(shared.size) + " elements, not one at " +
                 std::to_string(index));
        }
        return {shared, index};
    }
};

template <class T> SharedArray<T> shared_array(const void* key, const char* name, long size) {
    Shared& found = machine.shared[key];
    if (found.cells.empty()) {
        found.name = name;
        found.size = size;
        found.cells.resize(size);
        found.bytes.assign(size * sizeof(T), (char)0xff);
    }
    return {found};
}

// How a parameter's type is called in a signature.
template <class T> constexpr const char* code() {
    if constexpr (std::is_same_v<T, float>)
        return "float";
    else if constexpr (std::is_same_v<T, double>)
        return "double";
    else if constexpr (std::is_same_v<T, int>)
        return "int";
    else if constexpr (std::is_same_v<T, unsigned>)
        return "unsigned";
    else if constexpr (std::is_same_v<T, long long>)
        return "long long";
    else if constexpr (std::is_same_v<T, unsigned long long>)
        return "unsigned long long";
    else if constexpr (std::is_same_v<T, unsigned short>)
        return "unsigned short";
    else if constexpr (std::is_same_v<T, bool>)
        return "bool";
    else
        return "?";
}

template <class T> std::string parameter() {
    if constexpr (std::is_pointer_v<T>) {
        using Target = std::remove_pointer_t<T>;
        return std::string(std::is_const_v<Target> ? "const " : "") + code<std::remove_const_t<Target>>() + "*";
    } else {
        return code<T>();
    }
}

template <auto kernel> struct Entry;
template <class... A, void (*kernel)(A...)> struct Entry<kernel> {
    template <size_t... i> static void unpack(void** arguments, std::index_sequence<i...>) {
        kernel(*static_cast<A*>(arguments[i])...);
    }
    static void call(void** arguments) { unpack(arguments, std::index_sequence_for<A...>()); }
    static const char* signature() {
        static std::string text;
        if (text.empty()) ((text += (text.empty() ? "" : ", ") + parameter<A>()), ...);
        return text.c_str();
    }
};

}  // namespace host

#define threadIdx (host::machine.fibers[host::machine.current]->thread)
#define blockIdx (host::machine.block_index)
#define blockDim (host::machine.block)
#define gridDim (host::machine.grid)

#define SHARED(type, name, size)         \
    static const char key_of_##name = 0; \
    host::SharedArray<type> name = host::shared_array<type>(&key_of_##name, #name, size)
#define HOST_CHECK(condition) host::check(condition, #condition, __LINE__)

#define __syncthreads() host::wait(host::Fiber::at_barrier, __LINE__, 0)
#define __threadfence() ((void)0)
#define __shfl_xor_sync(mask, value, offset) \
    host::shuffle(mask, value, (host::machine.current % 32) ^ (offset), __LINE__)

inline unsigned atomicInc(unsigned* address, unsigned limit) {
    unsigned old = *address;
    *address = old >= limit ? 0 : old + 1;
    return old;
}

inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return (unsigned long long)((unsigned __int128)a * b >> 64);
}

inline float __int_as_float(int bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

inline unsigned __float_as_uint(float value) {
    unsigned bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

inline float __uint_as_float(unsigned bits) { return __int_as_float((int)bits); }

inline double __longlong_as_double(long long bits) {
    double value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

// To a unit in the last place or two, as CUDA's.
inline float normcdf(float x) { return (float)(0.5 * std::erfc(-(double)x * M_SQRT1_2)); }
inline double normcdf(double x) { return (double)(0.5L * std::erfc(-(long double)x * 0.707106781186547524400844L)); }

using std::cos;
using std::exp;
using std::expm1;
using std::fabs;
using std::floor;
using std::fma;
using std::log;
using std::log1p;
using std::max;
using std::min;
using std::pow;
using std::sin;
using std::sqrt;
using std::tanh;
