"""Every kernel: the reference runs on every backend, and every variant means what the reference means."""

from __future__ import annotations

import copy
import threading
from typing import Any

import numpy as np
import pytest

import bpnet as bp
from bpnet.dispatch import Kernel, Variant, kernel, kernels, load_variants, recording
from bpnet.testing.cases import CASES
from bpnet.testing.kernels import agreement, assert_close, call, check_kernel

load_variants(np.ndarray)
SHIPPED = [k for k in kernels() if k.__module__.startswith("bpnet.")]
VARIANTS = [(k, v) for k in SHIPPED for cls, v in k.variants() if cls is np.ndarray]


def frozen(args: Any) -> Any:
    if isinstance(args, tuple):
        return tuple(frozen(arg) for arg in args)
    if isinstance(args, np.ndarray):
        args = args.copy()
        args.flags.writeable = False
    return args


def test_every_kernel_has_a_case() -> None:
    assert {k.name for k in SHIPPED} == set(CASES)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("op", "variant"), VARIANTS, ids=[f"{k.name}-{v.name}" for k, v in VARIANTS])
def test_a_variant_means_what_the_reference_means(op: Kernel, variant: Variant, dtype: str) -> None:
    rng = np.random.default_rng(0)
    accepted = 0
    for args in CASES[op.name](rng, dtype):
        if variant.accepts is not None and not variant.accepts(*args):
            continue
        accepted += 1
        expected, after_reference = call(op.reference.body, args)
        found, after = call(variant.body, args)
        assert_close(found, expected, agreement(op.name, dtype))
        assert_close(tuple(a for a in after if isinstance(a, np.ndarray)),
              tuple(a for a in after_reference if isinstance(a, np.ndarray)), dtype)  # fmt: skip
        if variant.into is not None and expected is not None:
            own = copy.deepcopy(args)
            out = copy.deepcopy(found)
            for each in out if isinstance(out, tuple) else (out,):
                if each is not None:
                    each[...] = True if each.dtype.kind == "b" else 77
            with np.errstate(all="ignore"):
                variant.into(out, *own)
            for a, b in zip(
                out if isinstance(out, tuple) else (out,), found if isinstance(found, tuple) else (found,), strict=True
            ):
                assert (a is None and b is None) or a.tobytes() == b.tobytes()
    assert accepted > 0


@pytest.mark.parametrize(
    ("op", "variant"),
    [(k, v) for k, v in VARIANTS if k.elementwise and v.bind is not None],
    ids=lambda each: getattr(each, "name", ""),
)
def test_an_elementwise_variant_may_write_over_its_first_argument(op: Kernel, variant: Variant) -> None:
    assert variant.into is not None
    for args in CASES[op.name](np.random.default_rng(1), "float32"):
        if variant.accepts is not None and not variant.accepts(*args):
            continue
        expected, own = call(variant.body, args)
        with np.errstate(all="ignore"):
            variant.into(own[0], *own)
        assert own[0].tobytes() == expected.tobytes()


@pytest.mark.parametrize("op", [k for k in SHIPPED if not k.name.endswith("_")], ids=lambda k: k.name)
def test_no_op_writes_into_its_arguments(op: Kernel) -> None:
    for args in CASES[op.name](np.random.default_rng(2), "float32"):
        with np.errstate(all="ignore"):
            op(*frozen(args))
            op.reference.body(*frozen(args))


@pytest.mark.parametrize("op", SHIPPED, ids=lambda k: k.name)
def test_the_reference_runs_on_every_backend(op: Kernel, backend: bp.Backend) -> None:
    check_kernel(op, backend)


@pytest.mark.parametrize("op", SHIPPED, ids=lambda k: k.name)
def test_what_is_no_array_is_refused(op: Kernel) -> None:
    args = next(iter(CASES[op.name](np.random.default_rng(0), "float32")))
    for given in ([1.0, 2.0], 3.0, "x", None, ()):
        with pytest.raises(bp.DTypeError, match=f"^expected an array, got {type(given).__name__}; bring it over"):
            op(given, *args[1:])


def test_a_list_of_arrays_that_was_taken_lets_no_list_of_numbers_through() -> None:
    x = np.zeros((2, 3))
    for arrays in ([x, x], (x, x)):
        assert bp.ops.concatenate(arrays, 0).shape == (4, 3)
    with pytest.raises(bp.DTypeError, match="^expected an array, got list; bring it over"):
        bp.ops.concatenate([1.0, 2.0], 0)
    with pytest.raises(bp.DTypeError, match="^expected an array, got tuple; bring it over"):
        bp.ops.concatenate((), 0)
    with pytest.raises((bp.DTypeError, ValueError)):
        bp.ops.concatenate(((x,), (x,)), 0)
    with pytest.raises(bp.DTypeError, match="^expected an array, got tuple; bring it over"):
        bp.ops.concatenate((), 0)


def test_the_latest_registered_variant_is_asked_first_and_the_reference_last() -> None:
    @kernel
    def double(x: Any) -> Any:
        return ("reference", x)

    @double.register(np.ndarray, accepts=lambda x: x.ndim == 1, name="plain")
    def _(x: Any) -> Any:
        return ("plain", x)

    @double.register(np.ndarray, accepts=lambda x: x.size > 3, name="large")
    def _(x: Any) -> Any:
        return ("large", x)

    try:
        assert double(np.zeros(5))[0] == "large"
        assert double(np.zeros(2))[0] == "plain"
        assert double(np.zeros((1, 1)))[0] == "reference"
        assert double(np.zeros(2).view(np.memmap))[0] == "plain"
        assert [v.name for _, v in double.variants()] == ["large", "plain"]
    finally:
        from bpnet import dispatch

        dispatch._KERNELS.remove(double)


def test_a_recorder_sees_the_outermost_calls_of_its_own_thread_only() -> None:
    seen: list[str] = []

    class Notes:
        def run(self, op: Kernel, args: tuple[Any, ...]) -> Any:
            seen.append(op.name)
            return op.choose(args).body(*args)

    x = np.ones((2, 2), np.float32)
    with recording(Notes()):
        bp.ops.linear.reference.body  # noqa: B018  (not a call)
        bp.ops.linear(x, x, None, bp.ops.leaky_relu, 0.1)
        other = threading.Thread(target=lambda: bp.ops.tanh(x))
        other.start()
        other.join()
    bp.ops.relu(x)
    assert seen == ["linear"]


def test_float16_and_mixed_dtypes_fall_to_the_reference() -> None:
    x = np.ones((2, 3), np.float16)
    assert bp.ops.relu.choose((x,)).name == "reference"
    assert bp.ops.relu(x).dtype == np.float16
    W = np.ones((3, 2), np.float64)
    assert bp.ops.linear.choose((x, W, None)).name == "reference"
