"""The CUDA kernels on a GPU: everything that holds them on the host and is not tied to it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cuda_cases import cases_of

import bpnet as bp
from bpnet import ops
from bpnet.dispatch import Kernel, Variant, kernels
from bpnet.ops.random import philox
from bpnet.testing.cases import CASES
from bpnet.testing.kernels import agreement, assert_close, call

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def gpu() -> Any:
    return bp.get_backend("cupy")


def brought(x: Any, gpu: Any) -> Any:
    if isinstance(x, tuple):
        return tuple(brought(each, gpu) for each in x)
    return gpu.asarray(x.copy()) if isinstance(x, np.ndarray) else x


def back(x: Any, gpu: Any) -> Any:
    if isinstance(x, tuple):
        return tuple(back(each, gpu) for each in x)
    return gpu.to_numpy(x) if isinstance(x, gpu.array_type) else x


def leaves(x: Any) -> tuple[Any, ...]:
    return x if isinstance(x, tuple) else (x,)


def kernel_named(name: str) -> Kernel:
    return next(each for each in kernels() if each.name == name and each.__module__.startswith("bpnet."))


def chosen(op: Kernel, own: tuple[Any, ...]) -> Variant | None:
    variant = op.choose(own)
    return None if variant is op.reference else variant


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", CASES)
def test_a_kernel_means_what_the_reference_means(name: str, dtype: str, gpu: Any) -> None:
    op = kernel_named(name)
    if not any(cls is gpu.array_type for cls, _ in op.variants()):
        pytest.skip(f"{name} has no kernel of its own")
    accepted = 0
    for args in cases_of(name, dtype, costly=True):
        own = brought(args, gpu)
        variant = chosen(op, own)
        if variant is None:
            continue
        accepted += 1
        expected, after = call(op.reference.body, args)
        assert_close(back(variant.body(*own), gpu), expected, agreement(name, dtype))
        changed = [(a, b) for a, b in zip(back(own, gpu), after, strict=True) if isinstance(b, np.ndarray)]
        assert_close(tuple(a for a, _ in changed), tuple(b for _, b in changed), dtype)
    assert accepted > 0


@pytest.mark.parametrize(
    "name",
    ["linear_backward", "mean_squared_error", "softmax_cross_entropy_gradient", "count_correct", "prelu_backward"],
)
def test_a_sum_has_the_same_bits_every_time(name: str, gpu: Any) -> None:
    op = kernel_named(name)
    for args in cases_of(name, "float32"):
        own = brought(args, gpu)
        variant = chosen(op, own)
        if variant is None or variant.bind is None:
            continue
        found = variant.body(*own)
        out = brought(back(found, gpu), gpu)
        calls = variant.bind(out, *own)
        for _ in range(20):  # the same prepared calls: their counters return to 0
            for prepared in calls:
                prepared()
            for a, b in zip(leaves(back(out, gpu)), leaves(back(found, gpu)), strict=True):
                assert a is None or a.tobytes() == b.tobytes()


def test_random_bits_are_numpys(gpu: Any) -> None:
    counters = np.array([2**40, 2**33, 9], dtype=np.int64)
    for index, key, n in ((1, (0, 0), 9), (2, (7, 2**64 - 1), 1000), (1, (2**63, 5), 1)):
        found = gpu.to_numpy(philox(gpu.asarray(counters), index, key, n))
        assert np.array_equal(found, philox(counters, index, key, n))


def test_optimizers_give_numpys_bits(gpu: Any) -> None:
    """Products and sums are rounded one by one, roots and quotients exactly."""
    for name in ("sgd_", "sgd_momentum_", "adagrad_", "rmsprop_"):  # Adam needs a power, which CUDA may round otherwise
        op = kernel_named(name)
        for args in CASES[name](np.random.default_rng(4), "float32"):
            _, expected = call(op.reference.body, args)
            own = brought(args, gpu)
            op(*own)
            for a, b in zip(back(own, gpu), expected, strict=True):
                assert not isinstance(b, np.ndarray) or a.tobytes() == b.tobytes(), name


def test_an_array_of_more_than_two_to_the_31_elements(gpu: Any) -> None:
    n = 2**31 + 17
    try:
        x = gpu.zeros((n,), "float32")
        y = ops.add(x, x)
    except MemoryError as error:
        pytest.skip(f"the GPU has too little memory: {error}")
    x[n - 3 :] = 2
    ops.add_(y, x)
    assert gpu.to_numpy(y[n - 4 :]).tolist() == [0, 2, 2, 2]


# --- cuDNN, and the kernels that it stands before ---

CONVOLUTIONS = ("conv2d", "conv2d_backward", "conv_transpose2d", "conv_transpose2d_backward")
ATTENTION = ("attention", "attention_backward", "self_attention", "self_attention_backward")
OF_BITS = tuple(name.replace("2d", "2d_bf16") for name in CONVOLUTIONS)
ATTENTION_OF_BITS = tuple(name.replace("attention", "attention_bf16") for name in ATTENTION)
TOLERANCES = {"float32": 3e-5, "tf32": 3e-3, "bf16": 2e-2}


def of_op(name: str, gpu: Any, by_cudnn: bool) -> Any:
    found = [v for cls, v in kernel_named(name).variants() if cls is gpu.array_type]
    return next(v for v in found if (v.name == "cudnn") is by_cudnn)


def close(found: Any, expected: Any, tolerance: float) -> None:
    for a, b in zip(leaves(found), leaves(expected), strict=True):
        assert (a is None) is (b is None)
        if b is not None:
            np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * max(1.0, float(np.abs(b).max(initial=0))))


def hold(variant: Any, args: tuple[Any, ...], expected: Any, tolerance: float, gpu: Any) -> None:
    """A result is near the reference's, and has the same bits whenever it is made again."""
    own = brought(args, gpu)
    found = variant.body(*own)
    close(back(found, gpu), expected, tolerance)
    for _ in range(5):
        for a, b in zip(leaves(back(variant.body(*own), gpu)), leaves(back(found, gpu)), strict=True):
            assert a is None or a.tobytes() == b.tobytes()


@pytest.mark.parametrize("name", CONVOLUTIONS + OF_BITS)
def test_the_kernels_behind_cudnn_mean_what_the_reference_means(name: str, gpu: Any) -> None:
    variant = of_op(name, gpu, by_cudnn=False)
    for args in cases_of(name, "float32", costly=True):
        if variant.accepts(*brought(args, gpu)):
            hold(variant, args, kernel_named(name).reference.body(*args), TOLERANCES["float32"], gpu)


def the_cudnn() -> Any:
    from bpnet_cupy import cudnn

    if cudnn.why_not():
        pytest.skip(cudnn.why_not())
    found = cudnn.library()
    assert found is not None, cudnn.convolutions_by()
    return found


@pytest.mark.filterwarnings("ignore:cuDNN has no plan")
@pytest.mark.parametrize("mode", TOLERANCES)
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_cudnns_convolutions_mean_what_the_reference_means(name: str, mode: str, gpu: Any) -> None:
    the_cudnn()
    variant, accepted = of_op(name, gpu, by_cudnn=True), 0
    with gpu.scope(mode):
        for args in cases_of(name, "float32", costly=True):
            if variant.accepts(*brought(args, gpu)):
                accepted += 1
                hold(variant, args, kernel_named(name).reference.body(*args), TOLERANCES[mode], gpu)
    assert accepted > 0


@pytest.mark.filterwarnings("ignore:cuDNN has no plan")
@pytest.mark.parametrize("name", OF_BITS)
def test_cudnns_convolutions_of_bits_mean_what_the_reference_means(name: str, gpu: Any) -> None:
    the_cudnn()
    variant, accepted = of_op(name, gpu, by_cudnn=True), 0
    for args in cases_of(name, "float32", costly=True):
        if variant.accepts(*brought(args, gpu)):
            accepted += 1
            hold(variant, args, kernel_named(name).reference.body(*args), TOLERANCES["float32"], gpu)
    assert accepted > 0


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("name", ATTENTION + ATTENTION_OF_BITS)
def test_cudnns_attention_means_what_the_reference_means_to_bfloat16(name: str, causal: bool, gpu: Any) -> None:
    the_cudnn()
    rng, heads, n, length, width = np.random.default_rng(0), 4, 3, 700, 256

    def normal(*shape: int) -> Any:
        return rng.standard_normal(shape, np.float32)

    joined = name.startswith("self")
    factors = (normal(n, length, 3 * width),) if joined else tuple(normal(n, length, width) for _ in "qkv")
    if "bf16" in name:
        factors = tuple(map(ops.to_bf16, factors))
    args: tuple[Any, ...] = (*factors, None, None, heads, causal, 0.0)
    if name.endswith("backward"):
        y, kept = kernel_named(name.removesuffix("_backward")).reference.body(*args)
        args = (normal(n, length, width), y, *factors, kept, *args[len(factors) :])
    variant = of_op(name, gpu, by_cudnn=True)
    with gpu.scope("float32" if "bf16" in name else "bf16"):
        assert variant.accepts(*brought(args, gpu))
        hold(variant, args, kernel_named(name).reference.body(*args), TOLERANCES["bf16"], gpu)
