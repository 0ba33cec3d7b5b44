"""What holds the CUDA kernels without a GPU finds errors: planted ones, in kernels, in launches, in arguments."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import cuda_host
import numpy as np
import pytest

from bpnet import ops
from bpnet.testing.cases import CASES
from bpnet.testing.kernels import assert_close, call
from bpnet_cupy.driver import source
from bpnet_cupy.host.arrays import HostArray
from bpnet_cupy.host.build import Kernels, build
from bpnet_cupy.host.driver import HostDriver, KernelError
from bpnet_cupy.launches import CheckingDriver, LaunchError, check, signature
from bpnet_cupy.names import name_expressions

pytestmark = pytest.mark.cuda_host
F32, I64 = np.dtype("float32"), np.int64

PLANTED = """
#include "cuda_on_host.h"
struct alignas(16) Four { float x[4]; };

__global__ void fine(float* out) {
    SHARED(float, s, 64);
    s[threadIdx.x] = threadIdx.x;
    __syncthreads();
    out[threadIdx.x] = s[63 - threadIdx.x] + __shfl_xor_sync(0xffffffffu, (float)threadIdx.x, 1);
}
__global__ void left_at_a_barrier(float* out) {
    if (threadIdx.x < 16) return;
    __syncthreads();
    out[threadIdx.x] = 1;
}
__global__ void two_barriers(float* out) {
    if (threadIdx.x < 16) __syncthreads();
    else
        __syncthreads();
    out[threadIdx.x] = 1;
}
__global__ void no_barrier(float* out) {
    SHARED(float, s, 64);
    s[threadIdx.x] = threadIdx.x;
    out[threadIdx.x] = s[threadIdx.x ^ 32];
}
__global__ void no_second_barrier(float* out) {
    SHARED(float, s, 64);
    s[threadIdx.x] = threadIdx.x;
    __syncthreads();
    out[threadIdx.x] = s[63 - threadIdx.x];
    s[threadIdx.x] = 0;
}
__global__ void same_place(float* out) {
    SHARED(float, s, 1);
    s[0] = threadIdx.x;
    __syncthreads();
    out[threadIdx.x] = s[0];
}
__global__ void behind_shared(float* out) {
    SHARED(float, s, 32);
    s[threadIdx.x] = 0;
    out[threadIdx.x] = 1;
}
__global__ void not_written(float* out) {
    SHARED(float, s, 64);
    out[threadIdx.x] = s[threadIdx.x];
}
__global__ void lanes_gone(float* out) {
    if (threadIdx.x % 2) return;
    out[threadIdx.x] = __shfl_xor_sync(0xffffffffu, 1.0f, 1);
}
__global__ void half_a_shuffle(float* out) {
    float other = 0;
    if (threadIdx.x % 32 < 16) other = __shfl_xor_sync(0xffffffffu, 1.0f, 1);
    __syncthreads();
    out[threadIdx.x] = other;
}
__global__ void not_aligned(float* out) {
    HOST_CHECK((unsigned long long)(out + 1) % 16 == 0);
    *reinterpret_cast<Four*>(out + 1) = {};
}
__global__ void one_too_many(float* out) {
    if (threadIdx.x == 0) out[64] = 1;
    out[threadIdx.x] = 1;
}
__global__ void reads_behind(float* out) { out[threadIdx.x] = out[threadIdx.x == 63 ? 64 : 0]; }
__global__ void last_one_wins(float* out) { out[0] = threadIdx.x; }
__global__ void blocks_race(float* out) {
    out[blockIdx.x * 32 + threadIdx.x % 32] = 7;
    if (blockIdx.x == 0) out[threadIdx.x % 32] = out[32 + threadIdx.x % 32];
}
__global__ void adds_in_any_order(float* out) { out[0] += 1.0f / (1 + threadIdx.x); }
"""
FOUND = {
    "left_at_a_barrier": "line 13: a barrier that some threads never reach",
    "two_barriers": "threads of one block wait at different barriers",
    "no_barrier": "shared s.* is read before it is written",
    "no_second_barrier": "shared s.* is (read|written) beside another thread's (write|access)",
    "same_place": "shared s.0. is written beside another thread's access",
    "behind_shared": "shared s has 32 elements, not one at 32",
    "not_written": "shared s.* is read before it is written",
    "lanes_gone": "a shuffle names a lane that has left",
    "half_a_shuffle": "threads wait for each other at a shuffle or a barrier",
    "not_aligned": "does not hold",
    "one_too_many": "writes outside of its arrays",
    "reads_behind": "other bits in another order of its threads, or reads outside of its arrays",
    "last_one_wins": "other bits in another order of its threads",
    "blocks_race": "other bits in another order of its threads",
    "adds_in_any_order": "other bits in another order of its threads",
}


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> HostDriver:
    library = build(PLANTED, ("fine", *FOUND), tmp_path_factory.mktemp("planted"))
    return HostDriver(Kernels(library), orders=(0, 1, 5))


def test_a_sound_kernel_passes(planted: HostDriver) -> None:
    out = planted.zeros(64, F32)
    planted.launch("fine", 1, 64, (out,))()
    t = np.arange(64)
    assert np.array_equal(out.array, (63 - t) + (t ^ 1))


@pytest.mark.parametrize("name", FOUND)
def test_a_planted_error_in_a_kernel_is_found(planted: HostDriver, name: str) -> None:
    out = planted.zeros(64, F32)
    with pytest.raises(KernelError, match=f"{name}.*{FOUND[name]}"):
        planted.launch(name, 2 if name == "blocks_race" else 1, 64, (out,))()
    fine = planted.zeros(64, F32)
    planted.launch("fine", 1, 64, (fine,))()  # the machine is usable afterwards


# What is changed in kernels.cu, and the op whose cases must then fail.
MUTANTS: dict[str, tuple[str, str, str, str]] = {
    "a sum's readers may still read": (
        "    __syncthreads();  // an earlier call's readers are done\n    if (threadIdx.x % 32 == 0) sums",
        "    if (threadIdx.x % 32 == 0) sums",
        "count_correct",
        "count_correct<float, long long, 8>",
    ),
    "a sum does not wait for its warps": (
        "    __syncthreads();\n    S total = sums[0];",
        "    S total = sums[0];",
        "mean_squared_error",
        "loss_sum<float, SquaredError>",
    ),
    "a column's tree does not wait": (
        "        __syncthreads();\n        if (threadIdx.y < offset) {\n            for (int k",
        "        if (threadIdx.y < offset) {\n            for (int k",
        "linear_backward",
        "column_sum<float, Term, 8>",
    ),
    "one element too many": (
        "i < n; i += all_threads()) body(Count<1>(), i);",
        "i <= n; i += all_threads()) body(Count<1>(), i);",
        "add",
        "combine<float, Sum>",
    ),
    "packs at any address": (
        "return ((address(pointers) | ...) & 15) == 0;",
        "return ((address(pointers) | ...) & 3) == 0;",
        "shifted",
        "activation<float, Sigmoid>",
    ),
    "Adam's numbers are read too early": (
        "        numbers[2] = T(*learning_rate * weight_decay);\n    }\n    __syncthreads();",
        "        numbers[2] = T(*learning_rate * weight_decay);\n    }",
        "adam_",
        "adam<float, false>",
    ),
    "all threads count": (
        "    if (threadIdx.x != 0) return;\n    counters[index] += 1;",
        "    counters[index] += 1;",
        "increment_",
        "increment<0>",
    ),
    "one round less": ("round < 10", "round < 9", "philox", "philox<0>"),
    "the first block takes itself for the last": (
        "last[0] = atomicInc(counter, blocks - 1) == blocks - 1;",
        "last[0] = atomicInc(counter, blocks - 1) == 0;",
        "sum of many",
        "loss_sum<float, SquaredError>",
    ),
    "a row's lanes are not summed": (
        "    total = row_sum<W>(total);\n        for (int64 c = lane; c < end; c += W) to[c] /= total;",
        "    for (int64 c = lane; c < end; c += W) to[c] /= total;",
        "softmax",
        "softmax<float, 8>",
    ),
    "a NaN is lost": (
        "{ return a > b || is_nan(a) ? a : b; }",
        "{ return a > b ? a : b; }",
        "relu",
        "activation<float, Relu>",
    ),
    "a label out of range names a class": (
        "label >= 0 && label < end) sums[0]",
        "label < end) sums[0]",
        "softmax_cross_entropy",
        "softmax_cross_entropy<float, long long, 8, false>",
    ),
    "ties that go up": ("word + 0x7fffu + (word >> 16 & 1u)", "word + 0x8000u", "to_bf16", "to_bf16<0>"),
    "NaN that becomes infinite": (
        "if ((word & 0x7fffffffu) > 0x7f800000u) return 0x7fc0;",
        "",
        "to_bf16",
        "to_bf16<0>",
    ),
    "copies of the values before": (
        "store(value + i, w);\n        store_copy(copy, i, w);\n        store(velocity + i, v);",
        "store(value + i, w);\n        store_copy(copy, i, g);\n        store(velocity + i, v);",
        "update_bf16_",
        "sgd_momentum<float>",
    ),
    "a copy too few": (
        "for (int j = 0; j < 4; ++j) halves.element[j]",
        "for (int j = 0; j < 3; ++j) halves.element[j]",
        "update_bf16_",
        "sgd<float>",
    ),
}


@pytest.fixture(scope="module")
def mutants(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Kernels]:
    return changed_kernels(MUTANTS, tmp_path_factory.mktemp("mutants"))


def changed_kernels(changes: dict[str, tuple[str, str, str, str]], folder: Path) -> dict[str, Kernels]:
    """Each change as kernels of its own, all compiled together, one namespace each."""
    text, names = '#include "cuda_on_host.h"\n', []
    for number, (what, (old, new, _, name)) in enumerate(changes.items()):
        assert source().count(old) == 1, f"{what}: the source no longer has {old!r}"
        text += f"namespace m{number} {{\n{source().replace(old, new)}\n}}\n"
        own = re.sub(r"\b(?=[A-Z])", f"m{number}::", name)  # the structs among its parameters
        names.append(f"m{number}::{own}")
    library = build(text, tuple(names), folder)
    found = {}
    for (what, (*_, plain)), name in zip(changes.items(), names, strict=True):
        found[what] = kernels = Kernels(library)
        kernels.index = {plain: kernels.index[name]}
    return found


def compare(op_name: str, name: str) -> int:
    """Hold the op to its reference wherever it launches only the instance `name`; return how often it did."""
    compared = 0
    if op_name == "sum of many":
        n = 20000
        y, t = np.full(n, 2, np.float32), np.zeros(n, np.float32)
        assert float(ops.mean_squared_error(HostArray(y), HostArray(t), float(n)).array) == 4
        return 1
    if op_name == "shifted":
        assert ops.sigmoid(HostArray(cuda_host.driver().zeros(9, F32).array[1:])).array.tolist() == [0.5] * 8
        return 1
    op, variant = next((k, v) for k, v in cuda_host.variants() if k.name == op_name)
    for args in CASES[op_name](np.random.default_rng(0), "float32"):
        own = cuda_host.brought(args)
        if not variant.accepts(*own) or any(a.size > 5000 for a in args if isinstance(a, np.ndarray)):  # type: ignore[misc]
            continue
        cuda_host.driver().launches.clear()
        try:
            found = cuda_host.back(variant.body(*own))
        except KernelError as error:
            if "is not among the names" in str(error):
                continue
            raise
        if {each.name for each in cuda_host.driver().launches} != {name}:
            continue
        compared += 1
        expected, after = call(op.reference.body, args)
        assert_close(found, expected, "float32")
        changed = zip(cuda_host.back(own), after, strict=True)
        assert_close(*zip(*((a, b) for a, b in changed if isinstance(b, np.ndarray)), strict=True), "float32")
    return compared


@pytest.mark.parametrize("what", MUTANTS)
def test_a_change_for_the_worse_in_kernels_cu_is_found(what: str, mutants: dict[str, Kernels]) -> None:
    _, _, op_name, name = MUTANTS[what]
    with cuda_host.mode(orders=(0, 1, 5)):
        assert compare(op_name, name) > 0  # the kernel as it is passes
        with cuda_host.mode(kernels=mutants[what]), pytest.raises(AssertionError):
            compare(op_name, name)


def test_indices_beyond_32_bits_are_computed_in_64() -> None:
    """What no array here is large enough for: rows and columns of elements far out."""
    text = (
        source()
        + """
__global__ void far_out(int64* out, const int64* i, const int64* columns, int64 n) {
    for (int64 k = first_thread(); k < n; k += all_threads()) {
        out[2 * k] = row_of(i[k], columns[k]);
        out[2 * k + 1] = column_of(i[k], columns[k]);
    }
}
"""
    )
    driver = HostDriver(Kernels(build(text, ("far_out",))))
    places = [0, 5, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**32 + 5, 2**40 + 11, 7]
    widths = [7, 5, 3, 2**31 - 1, 10, 7, 2**33, 1000, 2**35]
    out = driver.zeros(2 * len(places), np.dtype("int64"))
    args = (out, driver.constants(places, I64), driver.constants(widths, I64), I64(len(places)))
    driver.launch("far_out", 1, 32, args)()
    assert out.array.tolist() == [part for i, c in zip(places, widths, strict=True) for part in divmod(i, c)]


def arrays(*sizes: int, dtype: Any = F32) -> tuple[HostArray, ...]:
    return tuple(HostArray(np.zeros(size, dtype)) for size in sizes)


A, B = arrays(8, 8)
RELU = "activation<float, Relu>"
LAUNCHES: dict[str, tuple[Any, ...]] = {
    "there is no kernel 'relu'": ("relu<float>", 1, 32, (A, B, I64(8), np.float32(0))),
    "is not among the names that are compiled": ("activation<half, Relu>", 1, 32, (A, B, I64(8), np.float32(0))),
    "takes 4 arguments, got 3": (RELU, 1, 32, (A, B, I64(8))),
    "n: must be a int64 number, got a int32": (RELU, 1, 32, (A, B, np.int32(8), np.float32(0))),
    "n: must be a int64 number, got the Python number 8": (RELU, 1, 32, (A, B, 8, np.float32(0))),
    "a: must be a float32 number, got a float64": (RELU, 1, 32, (A, B, I64(8), np.float64(0))),
    "a: must be a float32 number, got the Python number 0.5": (RELU, 1, 32, (A, B, I64(8), 0.5)),
    "x: const float. is passed an array of float64": (
        RELU, 1, 32, (A, HostArray(np.zeros(8)), I64(8), np.float32(0)),
    ),
    "x: must be a HostArray, got a ndarray": (RELU, 1, 32, (A, np.zeros(8, F32), I64(8), np.float32(0))),
    "x: None, where the kernel needs an array": (RELU, 1, 32, (A, None, I64(8), np.float32(0))),
    "an array of shape .8,. and strides .8,., which is not contiguous": (
        RELU, 1, 32, (A, HostArray(np.zeros(16, F32)[::2]), I64(8), np.float32(0)),
    ),
    "n = 9 elements are touched, the array has 8": (RELU, 1, 32, (A, B, I64(9), np.float32(0))),
    "out: n is 0: nothing to do, so nothing must be launched": (RELU, 1, 32, (A, B, I64(0), np.float32(0))),
    "a grid of .0, 1, 1.; each must be from 1 to .2147483647, 65535, 65535.": (
        RELU, 0, 32, (A, B, I64(8), np.float32(0)),
    ),
    "a grid of .2147483648, 1, 1.": (RELU, 2**31, 32, (A, B, I64(8), np.float32(0))),
    "a grid of .1, 65536, 1.": (RELU, (1, 65536), 32, (A, B, I64(8), np.float32(0))),
    "a block of .2048, 1, 1.": (RELU, 1, 2048, (A, B, I64(8), np.float32(0))),
    "a block of .32, 64, 1.; it must be whole warps of 32, at most 1024 threads": (
        RELU, 1, (32, 64), (A, B, I64(8), np.float32(0)),
    ),
    "a block of .48, 1, 1.; it must be whole warps": (RELU, 1, 48, (A, B, I64(8), np.float32(0))),
    "labels: const long long. is passed an array of int32": (
        "softmax_cross_entropy_backward<float, long long>", 1, 32,
        (A, B, *arrays(2, dtype=np.int32), I64(2), I64(4), np.float32(1)),
    ),
    "partial: gridDim.x = 4 elements are touched, the array has 2": (
        "loss_sum<float, SquaredError>", 4, 256,
        (*arrays(1), A, B, None, *arrays(2, dtype=np.float64), *arrays(1, dtype=np.uint32), I64(8), np.float64(1)),
    ),
    "counters: index . 1 = 5 elements are touched, the array has 3": (
        "increment<0>", 1, 32, (*arrays(3, dtype=I64), I64(4)),
    ),
    "dy: rows . columns = 16 elements are touched, the array has 8": (
        "column_sum<float, Term, 8>", 1, (8, 32), (*arrays(8), A, None, None, None, I64(2), I64(8)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("message", LAUNCHES)
def test_a_launch_that_must_not_be_made_is_refused(message: str) -> None:
    with pytest.raises(LaunchError, match=message):
        check(*LAUNCHES[message], HostArray)


def test_a_launch_that_fits_is_noted_with_shapes_and_strides() -> None:
    driver = CheckingDriver(cuda_host.driver().driver, run=False)
    driver.launch(RELU, 1, 32, (A, B, I64(8), np.float32(0)))()
    (noted,) = driver.launches
    assert (noted.name, noted.grid, noted.block) == (RELU, (1, 1, 1), (32, 1, 1))
    assert noted.args == (("float32", (8,), (4,)), ("float32", (8,), (4,)), 8, 0.0)


def test_every_kernel_that_is_compiled_can_be_read_and_says_how_much_it_touches() -> None:
    for name in name_expressions():
        parameters = signature(name)
        assert parameters
        assert all(each.extent for each in parameters if each.type.endswith("*"))
    with pytest.raises(LaunchError, match="the template of adam has the parameters T, amsgrad"):
        signature("adam<float>")


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros((4, 4), F32)[:, ::2], "which is not contiguous"),
        (np.zeros((0, 3), F32), "a grid of .0, 1, 1."),
        (np.zeros((2, 3), np.int32), "kernels.cu|is not among the names that are compiled"),
    ],
    ids=["strided", "empty", "integers"],
)
def test_a_body_that_takes_too_much_is_found_out(x: Any, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from bpnet_cupy.kernels import activations

    monkeypatch.setattr(activations, "real", lambda *_: True)
    with pytest.raises(LaunchError, match=message):
        ops.relu(HostArray(x))


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((2, 3), (2, 4), (3, 3)), r"matmul: \(2, 4\) times \(3, 3\) into \(2, 3\)"),
        (((2, 3), (2, 0), (0, 3)), "matmul: into shape .* 0 terms each"),
        (((2, 3), (2, 4), (4, 3), (4,)), r"matmul: a bias of shape \(4,\) for 3 columns"),
    ],
)
def test_a_product_that_does_not_fit_is_refused(shapes: Any, message: str) -> None:
    out, a, b, *bias = (HostArray(np.zeros(shape, F32)) for shape in shapes)
    with pytest.raises(LaunchError, match=message):
        cuda_host.driver().matmul(out, a, b, bias=bias[0] if bias else None)
    with pytest.raises(LaunchError, match="float32 arrays with 2 axes"):
        cuda_host.driver().matmul(out, a, HostArray(np.zeros((4, 3))))


def test_numbers_of_python_are_no_arguments_of_a_kernel() -> None:
    with pytest.raises(KernelError, match="a kernel got a int: arrays, None and numbers of NumPy's types are passed"):
        cuda_host.driver().driver.launch(RELU, 1, 32, (A, B, 8, np.float32(0)))
