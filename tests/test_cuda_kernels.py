"""The CUDA kernels on the host: every variant means what its reference means, in any order of threads and blocks."""

from __future__ import annotations

import re
from typing import Any

import cuda_host
import numpy as np
import pytest
from cuda_cases import cases_of, wide_labels, with_activation
from hypothesis import given, settings
from hypothesis import strategies as st

import bpnet as bp
from bpnet import ops
from bpnet.dispatch import Kernel, Variant
from bpnet.ops.random import keep_mask, philox
from bpnet.testing.cases import CASES
from bpnet.testing.kernels import agreement, assert_close, call
from bpnet_cupy.host.arrays import HostArray
from bpnet_cupy.host.driver import HostLaunch, HostProduct
from bpnet_cupy.kernels.rates import DEPTH, INSTRUCTIONS, Term, program_of
from bpnet_cupy.launches import signature
from bpnet_cupy.names import name_expressions

pytestmark = pytest.mark.cuda_host
NAMES = sorted({k.name for k, _ in cuda_host.variants()}) if not cuda_host.why_not() else []
ORDERS = (0, 1, 5)  # threads and blocks forward, backward, shuffled
SMALL = 5000  # elements; larger cases are run in one order only


def variant_of(name: str) -> tuple[Kernel, Variant]:
    found = [(k, v) for k, v in cuda_host.variants() if k.name == name]
    assert len(found) == 1
    return found[0]


def leaves(x: Any) -> list[Any]:
    return [leaf for each in x for leaf in leaves(each)] if isinstance(x, tuple) else [x]


def changed(args: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(a for a in args if isinstance(a, np.ndarray))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", NAMES)
def test_a_cuda_kernel_means_what_the_reference_means(name: str, dtype: str) -> None:
    op, variant = variant_of(name)
    accepted = 0
    for args in cases_of(name, dtype):
        own = cuda_host.brought(args)
        assert variant.accepts is not None
        if not variant.accepts(*own):
            continue
        accepted += 1
        expected, after = call(op.reference.body, args)
        small = all(a.size <= SMALL for a in leaves(args) if isinstance(a, np.ndarray))
        with cuda_host.mode(orders=ORDERS if small else (0,)):
            found = cuda_host.back(variant.body(*own))
        assert_close(found, expected, agreement(name, dtype))
        assert_close(changed(cuda_host.back(own)), changed(after), dtype)
    assert accepted > 0


@pytest.mark.parametrize("name", NAMES)
def test_a_result_may_be_written_anywhere_and_again(name: str) -> None:
    """Into memory that held other numbers, and by the same prepared calls once more: counters return to 0."""
    op, variant = variant_of(name)
    assert variant.bind is not None
    for args in cases_of(name, "float32"):
        own = cuda_host.brought(args)
        if op.name.endswith("_") or not variant.accepts(*own):  # type: ignore[misc]
            continue
        found = variant.body(*own)
        out = cuda_host.brought(cuda_host.back(found))
        calls = variant.bind(out, *own)
        for _ in range(2):
            for each in leaves(out):
                if each is not None:
                    each[...] = True if each.dtype == np.bool_ else 77
            for prepared in calls:
                prepared()
            for a, b in zip(leaves(out), leaves(found), strict=True):
                assert (a is None and b is None) or a.tobytes() == b.tobytes()


@pytest.mark.parametrize(
    "name", [name for name in NAMES if getattr(ops, name, None) and getattr(ops, name).elementwise]
)
def test_an_elementwise_kernel_may_write_over_its_first_argument(name: str) -> None:
    _, variant = variant_of(name)
    assert variant.into is not None
    for args in cases_of(name, "float32"):
        own = cuda_host.brought(args)
        if not variant.accepts(*own):  # type: ignore[misc]
            continue
        expected = variant.body(*own)
        with cuda_host.mode(orders=ORDERS):
            variant.into(own[0], *own)
        assert own[0].tobytes() == expected.tobytes()


@pytest.mark.parametrize("name", NAMES)
def test_prepared_calls_are_launches_and_products_and_nothing_else(name: str) -> None:
    """No Python between them: nothing is allocated and nothing is read on the host, so a graph can record them."""
    _, variant = variant_of(name)
    assert variant.bind is not None
    seen = 0
    for args in cases_of(name, "float32"):
        own = cuda_host.brought(args)
        if variant.accepts(*own):  # type: ignore[misc]
            out = None if name.endswith("_") else variant.body(*own)
            calls = variant.bind(out, *own)
            assert all(type(each) in (HostLaunch, HostProduct) for each in calls)
            seen += len(calls)
    assert seen > 0


def test_every_compiled_kernel_is_launched_by_some_case() -> None:
    driver = cuda_host.driver()
    driver.launches.clear()
    driver.run = False
    try:
        for name in NAMES:
            _, variant = variant_of(name)
            for dtype in ("float32", "float64"):
                for args in cases_of(name, dtype, costly=True):
                    own = cuda_host.brought(args)
                    if variant.accepts(*own):  # type: ignore[misc]
                        variant.body(*own)
        assert {each.name for each in driver.launches} == set(name_expressions())
    finally:
        driver.run = True
        driver.launches.clear()


def test_the_compiler_reads_the_signatures_as_the_checks_do() -> None:
    known = cuda_host.driver().driver.kernels.signatures
    assert set(known) == set(name_expressions())
    for name, text in known.items():
        assert text == ", ".join(each.type for each in signature(name)), name


@pytest.mark.parametrize("name", ["relu", "sigmoid_backward", "dropout", "adam_", "mean_squared_error"])
def test_arrays_that_begin_anywhere_give_the_same_bits(name: str) -> None:
    """The store's segments begin at multiples of 256 bytes, but rows of a batch do not."""
    _, variant = variant_of(name)
    for args in cases_of(name, "float32"):
        own = cuda_host.brought(args)
        if not variant.accepts(*own) or any(a.size > SMALL for a in args if isinstance(a, np.ndarray)):  # type: ignore[misc]
            continue
        expected = variant.body(*own)
        shifted = tuple(moved_by_one(arg) if isinstance(arg, np.ndarray) and arg.size > 2 else cuda_host.brought(arg)
                        for arg in args)  # fmt: skip
        with cuda_host.mode(orders=ORDERS):
            found = variant.body(*shifted)
        for a, b in zip(leaves(found), leaves(expected), strict=True):
            assert a is None or a.tobytes() == b.tobytes()
        for a, b in zip(shifted, own, strict=True):
            assert not isinstance(a, HostArray) or a.tobytes() == b.tobytes()


def moved_by_one(x: Any) -> HostArray:
    """A copy whose first element is not at a multiple of 16 bytes."""
    room = cuda_host.driver().zeros(x.size + 1, x.dtype).array
    room[1:] = x.reshape(-1)
    return HostArray(room[1:].reshape(x.shape))


@pytest.mark.parametrize("flush", [False, True], ids=["denormals", "flushed"])
def test_optimizers_give_numpys_bits(flush: bool) -> None:
    """Products and sums are rounded one by one, as the reference does it."""
    with cuda_host.mode(flush=flush):
        for name in ("sgd_", "sgd_momentum_", "adam_", "amsgrad_", "adagrad_", "rmsprop_"):
            op, variant = variant_of(name)
            for args in CASES[name](np.random.default_rng(4), "float32"):
                if args[0].size > SMALL:
                    continue
                _, expected = call(op.reference.body, args)
                own = cuda_host.brought(args)
                variant.body(*own)
                for a, b in zip(changed(cuda_host.back(own)), changed(expected), strict=True):
                    assert a.tobytes() == b.tobytes(), name


@pytest.mark.parametrize("name", ["lion_", "clip_norm_", "sigmoid", "softmax_cross_entropy", "binary_cross_entropy"])
def test_kernels_keep_their_meaning_with_and_without_denormal_numbers(name: str) -> None:
    op, variant = variant_of(name)
    for flush in (False, True):
        with cuda_host.mode(flush=flush):
            for args in CASES[name](np.random.default_rng(5), "float32"):
                own = cuda_host.brought(args)
                if variant.accepts(*own) and all(a.size < SMALL for a in args if isinstance(a, np.ndarray)):  # type: ignore[misc]
                    expected, after = call(op.reference.body, args)
                    assert_close(cuda_host.back(variant.body(*own)), expected, "float32")
                    assert_close(changed(cuda_host.back(own)), changed(after), "float32")


def test_random_bits_are_numpys() -> None:
    counters = HostArray(np.array([2**40, 2**33, 9], dtype=np.int64))
    for index, key, n in ((1, (0, 0), 9), (2, (7, 2**64 - 1), 1000), (1, (2**63, 5), 1)):
        words = np.random.Philox(
            key=np.array(key, np.uint64), counter=np.array([0, counters.array[index], 2**40, 0], np.uint64)
        ).random_raw(n)
        assert np.array_equal(philox(counters, index, key, n).array, words)
    assert philox.choose((counters, 1, (0, 0), 9)).name == "bpnet_cupy"


def test_dropout_drops_the_same_elements_as_numpy_and_a_mask_of_any_size() -> None:
    for size in (1, 15, 16, 17, 4096, 4101):
        x = np.arange(1.0, size + 1, dtype=np.float32)
        counters = np.array([3, 1], dtype=np.int64)
        y, keep = ops.dropout(HostArray(x), HostArray(counters), 1, (5, 6), 0.4)
        y_numpy, keep_numpy = ops.dropout(x, counters, 1, (5, 6), 0.4)
        assert np.array_equal(keep.array, keep_numpy)
        assert np.array_equal(y.array, y_numpy)


def test_a_rate_of_one_drops_everything() -> None:
    mask = keep_mask(HostArray(np.zeros(2, np.int64)), 1, (0, 1), (40,), 0.999999)
    assert not mask.array.any()


def test_a_matrix_product_with_an_epilogue_gives_the_bits_of_the_single_calls() -> None:
    for args in with_activation(np.random.default_rng(6), "float32"):
        own = cuda_host.brought(args)
        plain = ops.linear(*own)
        with cuda_host.mode(epilogues=True):
            assert ops.linear(*own).tobytes() == plain.tobytes()
        x, W, b, activation, *settings = own
        single = activation(ops.linear(x, W, b), *settings)
        assert plain.tobytes() == single.tobytes()


def test_the_loss_and_its_gradient_in_one_pass_are_those_of_the_pair() -> None:
    rng = np.random.default_rng(7)
    for x, labels, normalizer in (*CASES["softmax_cross_entropy"](rng, "float32"), *wide_labels(3.0)(rng, "float32")):
        own = cuda_host.brought((x, labels))
        loss, p = ops.softmax_cross_entropy(*own, normalizer)
        slopes = ops.softmax_cross_entropy_backward(p, own[1], normalizer, 2.0)
        both = ops.softmax_cross_entropy_gradient(*own, normalizer, 2.0)
        assert (loss.tobytes(), slopes.tobytes()) == (both[0].tobytes(), both[1].tobytes())


def test_a_schedule_of_anybodys_becomes_a_program_where_it_can() -> None:
    class Wave:
        def rate(self, step: Any, m: Any) -> Any:
            part = m.minimum(-step / 7, 2.0 - step) ** 2
            return m.where(step >= 3, 1 + m.cos(part), m.where(step > 1, 0.5, m.floor(step / 2) - 1))

    class Absolute:
        def rate(self, step: Any, m: Any) -> Any:
            return abs(step - 3)

    class Branching:
        def rate(self, step: Any, m: Any) -> Any:
            return 1.0 if step < 3 else 2.0

    class Constant:
        def rate(self, step: Any, m: Any) -> Any:
            return 0.25

    class Deep:
        def rate(self, step: Any, m: Any) -> Any:
            for k in range(DEPTH):
                step = k + step * step if k > 4 else k - step
            return step

    def deep(k: int) -> Any:
        class Deeper:
            def rate(self, step: Any, m: Any) -> Any:
                nested = step
                for _ in range(k):
                    nested = 1.0 + nested
                return nested

        return Deeper()

    assert program_of(Absolute()) is None
    assert program_of(Branching()) is None
    assert program_of(deep(DEPTH)) is None
    assert program_of(deep(DEPTH - 1)) is not None
    for schedule in (Wave(), Constant(), deep(DEPTH - 1)):
        for step in (0, 1, 2, 3, 8, 100):
            rate, counters = HostArray(np.zeros(())), HostArray(np.array([step, 7]))
            ops.set_rate_(rate, counters, schedule)
            expected = np.zeros(())
            ops.set_rate_.reference.body(expected, np.array([step, 7]), schedule)
            assert ops.set_rate_.choose((rate, counters, schedule)).name == "bpnet_cupy"
            np.testing.assert_allclose(rate.array, expected, rtol=1e-14)


def test_the_instructions_of_formulas_are_numbered_as_in_the_kernel() -> None:
    from bpnet_cupy.driver import source

    listed = source().partition("enum Instruction {")[2].partition("}")[0]
    assert tuple(each.strip() for each in listed.split(",")) == INSTRUCTIONS
    assert f"double stack[{DEPTH}];" in source()
    with pytest.raises(TypeError, match="a formula that branches on its step cannot be a program"):
        bool(Term(("STEP", 0.0)))


@pytest.mark.parametrize(
    "args",
    [
        (np.ones((2, 3), np.float16),),
        (np.ones((0, 3), np.float32),),
        (np.ones((4, 6), np.float32)[:, ::2],),
        (np.ones((4, 6), np.float32).T,),
        (np.ones((2, 3), np.int64),),
    ],
    ids=["float16", "empty", "strided", "transposed", "integers"],
)
def test_what_a_kernel_cannot_take_goes_to_the_reference(args: Any) -> None:
    own = tuple(HostArray(arg) for arg in args)
    assert ops.relu.choose(own).name == "reference"
    assert np.array_equal(ops.relu(*own).array, ops.relu(*args))


def test_arguments_of_two_dtypes_go_to_the_reference() -> None:
    x, W = HostArray(np.ones((2, 3), np.float32)), HostArray(np.ones((3, 2)))
    assert ops.linear.choose((x, W, None)).name == "reference"
    assert ops.softmax_cross_entropy.choose((x, HostArray(np.zeros(2, np.uint8)), 1.0)).name == "reference"
    assert ops.soft_cross_entropy.choose((x, x, HostArray(np.ones((), np.float32)))).name == "reference"


def test_nothing_is_compiled_where_there_is_no_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    from bpnet_cupy.host.build import build

    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(bp.BackendError, match="there is no C.. compiler; install g.., or set CXX to one"):
        build("", (), tmp_path)


def test_a_source_that_is_no_program_is_refused_with_the_compilers_words(tmp_path: Any) -> None:
    from bpnet_cupy.host.build import build

    with pytest.raises(bp.BackendError, match="cannot compile kernels.cu: kernels.cu:1:.*error"):
        build("no program", (), tmp_path)
    assert list(tmp_path.iterdir()) == []


DRAWN = (
    "softmax",
    "log_softmax_backward",
    "soft_cross_entropy_gradient",
    "mean_squared_error",
    "count_correct",
    "dropout",
)


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(DRAWN), st.integers(1, 70), st.integers(1, 70), st.sampled_from([1, 37]), st.integers(0, 2**32))
def test_any_shape_gives_what_the_reference_gives(name: str, rows: int, columns: int, more: int, seed: int) -> None:
    """Rows of 8, of 32 and of 256 threads, one block and several, with ends that fill no pack."""
    rng = np.random.default_rng(seed)
    x, other = rng.normal(size=(2, rows, columns * more)).astype(np.float32)
    labels = rng.integers(-1, columns + 1, rows)
    args: dict[str, tuple[Any, ...]] = {
        "softmax": (x,),
        "log_softmax_backward": (x, -np.abs(other)),
        "soft_cross_entropy_gradient": (x, np.abs(other), np.array(3.0), 2.0),
        "mean_squared_error": (x, other, 5.0),
        "count_correct": (x, labels, 0),
        "dropout": (x, np.array([seed, 3]), 1, (seed, 1), 0.25),
    }
    op, variant = variant_of(name)
    own = cuda_host.brought(args[name])
    assert variant.accepts is not None
    assert variant.accepts(*own)
    expected, _ = call(op.reference.body, args[name])
    with cuda_host.mode(orders=(0, 3)):
        assert_close(cuda_host.back(variant.body(*own)), expected, "float32")


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 600), st.integers(1, 70), st.integers(0, 2**32))
def test_the_gradient_of_any_bias_is_the_sum_of_its_column(rows: int, columns: int, seed: int) -> None:
    dy = np.random.default_rng(seed).normal(size=(rows, columns)).astype(np.float32)
    x, W = np.ones((rows, 1), np.float32), np.ones((1, columns), np.float32)
    with cuda_host.mode(orders=(0, 3)):
        _, _, db = ops.linear_backward(*cuda_host.brought((dy, x, W)), False)
    assert_close(db.array, dy.astype(np.float64).sum(axis=0).astype(np.float32), "float32")


def test_no_kernel_adds_floats_atomically() -> None:
    from bpnet_cupy.driver import source

    assert set(re.findall(r"\batomic\w+", source())) == {"atomicInc"}
