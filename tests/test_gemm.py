"""Products by cublasLt: the mapping to column-major, epilogues, algorithms, and what is said to the library."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cuda_host
import numpy as np
import pytest
from fake_cublaslt import FakeCublasLt, HostMemory, gelu_tanh, gelu_tanh_slope
from hypothesis import given, settings
from hypothesis import strategies as st

import bpnet as bp
from bpnet.testing.kernels import check_kernel
from bpnet_cupy import cublaslt
from bpnet_cupy.gemm import PER_THREAD_STREAM, Gemm
from bpnet_cupy.host.arrays import HostArray
from bpnet_cupy.problem import alignment, operand, precision


def true_library() -> Any:
    """The installed cublasLt, or None; descriptors and layouts need no GPU."""
    try:
        return cublaslt.load()
    except cublaslt.CublasLtError:
        return None


REAL = true_library()


def made(**options: Any) -> tuple[Gemm, FakeCublasLt, HostMemory]:
    library, memory = FakeCublasLt(REAL, **options), HostMemory()
    return Gemm(library, memory, workspace_bytes=4096), library, memory


def run(library: FakeCublasLt, call: Any) -> dict[str, Any]:
    assert call is not None
    call()
    library.assert_no_errors()
    return library.calls[-1]


def laid_out(memory: HostMemory, x: Any, transposed: bool) -> Any:
    """`x` contiguous, or as the transposed view of what is."""
    axes = (*range(x.ndim - 2), x.ndim - 1, x.ndim - 2)
    return memory.asarray(np.ascontiguousarray(x.transpose(axes))).transpose(axes) if transposed else memory.asarray(x)


# --- the mapping ---


@settings(max_examples=120, deadline=None)
@given(
    m=st.integers(1, 7),
    n=st.integers(1, 7),
    k=st.integers(1, 7),
    batch=st.sampled_from([None, 1, 2, 3]),
    a_transposed=st.booleans(),
    b_transposed=st.booleans(),
    dtype=st.sampled_from(["float32", "float64"]),
    alpha=st.sampled_from([1.0, 0.5, -2.0]),
    beta=st.sampled_from([0.0, 1.0, 0.25]),
    seed=st.integers(0, 99),
)
def test_every_product_is_that_of_the_row_major_arrays(
    m: int,
    n: int,
    k: int,
    batch: Any,
    a_transposed: bool,
    b_transposed: bool,
    dtype: str,
    alpha: float,
    beta: float,
    seed: int,
) -> None:
    gemm, library, memory = made()
    rng = np.random.default_rng(seed)
    leading = () if batch is None else (batch,)
    a = laid_out(memory, rng.normal(size=(*leading, m, k)).astype(dtype), a_transposed)
    b = laid_out(memory, rng.normal(size=(*leading, k, n)).astype(dtype), b_transposed)
    out = memory.asarray(rng.normal(size=(*leading, m, n)).astype(dtype))
    expected = alpha * (a @ b) + beta * out
    if not beta:
        out[...] = np.nan  # what is not read cannot spoil the result
    seen = run(library, gemm.prepare(out, a, b, alpha=alpha, beta=beta))
    np.testing.assert_allclose(out, expected, rtol=2e-5 if dtype == "float32" else 1e-12, atol=1e-6)
    assert seen["D"][:2] == (n, m)
    assert (seen["alpha"], seen["beta"], seen["C is D"]) == (alpha, beta, True)


def test_operands_change_places_and_nothing_is_copied() -> None:
    gemm, library, memory = made()
    x, W = memory.asarray(np.ones((4, 3))), memory.asarray(np.ones((3, 5)))
    out = memory.empty((4, 5), "float64")
    allocated = len(memory.allocated)
    seen = run(library, gemm.prepare(out, x, W))
    assert seen["A"] == (5, 3, 5, 1, 0)  # W as columns of 5
    assert seen["B"] == (3, 4, 3, 1, 0)
    assert seen["D"] == (5, 4, 5, 1, 0)
    assert seen["transposes"] == (0, 0)
    assert memory.allocated[allocated:] == [((512,), "float64")]  # the workspace
    dy = memory.asarray(np.ones((4, 5)))
    dW, dx = memory.empty((3, 5), "float64"), memory.empty((4, 3), "float64")
    assert run(library, gemm.prepare(dW, x.T, dy))["transposes"] == (0, 1)
    assert run(library, gemm.prepare(dx, dy, W.T))["transposes"] == (1, 0)
    assert len(memory.allocated) == allocated + 4  # dy, dW, dx and the workspace


def test_batches_are_strided_and_one_matrix_serves_all_where_it_is_broadcast() -> None:
    gemm, library, memory = made()
    rng = np.random.default_rng(0)
    a, b = memory.asarray(rng.normal(size=(3, 4, 2))), memory.asarray(rng.normal(size=(2, 5)))
    out = memory.empty((3, 4, 5), "float64")
    seen = run(library, gemm.prepare(out, a, np.broadcast_to(b, (3, 2, 5))))
    np.testing.assert_allclose(out, a @ b)
    assert [seen[name][3:] for name in "ABD"] == [(3, 0), (3, 8), (3, 20)]


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x[:, ::2],
        lambda x: x[::2],
        lambda x: x[:, :3],
        lambda x: x[::-1],
        lambda x: np.broadcast_to(x[:1], x.shape),
    ],
)
def test_what_lies_otherwise_in_memory_has_no_call(view: Any) -> None:
    gemm, _, memory = made()
    a = view(memory.asarray(np.ones((6, 6))))
    assert operand(a) is None
    assert gemm.prepare(memory.empty((len(a), 2), "float64"), a, memory.asarray(np.ones((a.shape[1], 2)))) is None


def test_other_dtypes_and_empty_products_have_no_call() -> None:
    gemm, _, memory = made()
    whole = memory.asarray(np.ones((2, 2), np.int64))
    assert gemm.prepare(memory.empty((2, 2), "int64"), whole, whole) is None
    a, b = memory.empty((0, 2), "float32"), memory.empty((2, 3), "float32")
    assert gemm.prepare(memory.empty((0, 3), "float32"), a, b) is None
    assert (
        gemm.prepare(memory.empty((2, 3), "float32"), memory.empty((2, 0), "float32"), memory.empty((0, 3), "float32"))
        is None
    )


# --- factors in bfloat16 ---


def halves(memory: HostMemory, rng: Any, shape: tuple[int, ...], transposed: bool = False) -> tuple[Any, Any]:
    """Bits of bfloat16 numbers as they lie in memory, and the numbers."""
    x = rng.integers(-8, 9, shape).astype(np.float32)  # whole, so that sums are exact in any order
    bits = (x.view(np.uint32) >> 16).astype(np.uint16)
    return laid_out(memory, bits, transposed), x


@settings(max_examples=60, deadline=None)
@given(
    m=st.integers(1, 7),
    n=st.integers(1, 7),
    k=st.integers(1, 7),
    batch=st.sampled_from([None, 2]),
    a_transposed=st.booleans(),
    b_transposed=st.booleans(),
    beta=st.sampled_from([0.0, 1.0]),
)
def test_bits_of_bfloat16_give_a_float32_product(
    m: int, n: int, k: int, batch: Any, a_transposed: bool, b_transposed: bool, beta: float
) -> None:
    gemm, library, memory = made()
    rng, leading = np.random.default_rng(m + 8 * n + 64 * k), () if batch is None else (batch,)
    a, wide_a = halves(memory, rng, (*leading, m, k), a_transposed)
    b, wide_b = halves(memory, rng, (*leading, k, n), b_transposed)
    out = memory.asarray(np.ones((*leading, m, n), np.float32))
    with precision("tf32"):  # is about factors in float32
        seen = run(library, gemm.prepare(out, a, b, beta=beta))
    assert out.tobytes() == (wide_a @ wide_b + np.float32(beta)).tobytes()
    assert (seen["compute"], seen["scale"]) == (68, 0)
    assert seen["types"] == {"A": 14, "B": 14, "C": 0, "D": 0}
    assert library.heuristics[-1]["preference"][6] in (2, 4, 8, 16, 32, 64, 128, 256)  # alignments of 2-byte numbers


@pytest.mark.parametrize("activation", ["", "relu"])
def test_an_epilogue_behind_bits_is_used_where_it_gives_the_bits_of_the_kernels(activation: str) -> None:
    for activate, right in ((lambda x: np.maximum(x, 0), True), (lambda x: np.fmax(x, 0), not activation)):
        gemm, library, memory = made(activate=activate)
        rng = np.random.default_rng(0)
        (x, wide_x), (W, wide_W) = halves(memory, rng, (6, 3)), halves(memory, rng, (3, 5))
        b, out = memory.asarray(rng.normal(size=5).astype(np.float32)), memory.empty((6, 5), "float32")
        call = gemm.product(out, x, W, bias=b, activation=activation)
        library.assert_no_errors()
        assert (call is not None) == right
        if call is not None:
            call()
            z = wide_x @ wide_W + b
            assert out.tobytes() == (np.maximum(z, 0) if activation else z).tobytes()


def test_what_is_no_pair_of_halves_for_a_float32_result_has_no_call() -> None:
    gemm, library, memory = made()
    bits, single = memory.asarray(np.ones((2, 2), np.uint16)), memory.asarray(np.ones((2, 2), np.float32))
    for dtype, a, b in (("float64", bits, bits), ("float32", bits, single), ("float32", single, bits),
                        ("uint16", bits, bits)):  # fmt: skip
        assert gemm.prepare(memory.empty((2, 2), dtype), a, b) is None
    sums = memory.empty((2,), "float32")
    assert gemm.product(memory.empty((2, 2), "float32"), bits, bits, column_sums=sums) is None  # of rounded numbers
    assert not library.calls


# --- epilogues ---


def epilogue_case(memory: HostMemory, dtype: str = "float64") -> tuple[Any, ...]:
    rng = np.random.default_rng(4)
    x, W = (memory.asarray(rng.normal(size=shape).astype(dtype)) for shape in ((6, 3), (3, 5)))
    return x, W, memory.asarray(rng.normal(size=5).astype(dtype)), memory.empty((6, 5), dtype)


@pytest.mark.parametrize(
    ("epilogue", "expected"),
    [
        ("relu", lambda y, b: np.maximum(y, 0)),
        ("bias", lambda y, b: y + b),
        ("relu_bias", lambda y, b: np.maximum(y + b, 0)),
        ("gelu", lambda y, b: gelu_tanh(y)),
        ("gelu_bias", lambda y, b: gelu_tanh(y + b)),
    ],
)
def test_a_bias_lies_along_the_columns_of_the_result(epilogue: str, expected: Any) -> None:
    gemm, library, memory = made()
    x, W, b, out = epilogue_case(memory)
    run(library, gemm.prepare(out, x, W, epilogue=epilogue, vector=b if "bias" in epilogue else None))
    np.testing.assert_allclose(out, expected(x @ W, b), rtol=1e-12)


def test_relus_bits_come_back_in_the_backward_product_with_the_biases_gradient() -> None:
    gemm, library, memory = made()
    x, W, b, out = epilogue_case(memory)
    aux = memory.empty((6, 16), "uint8")
    run(library, gemm.prepare(out, x, W, epilogue="relu_aux_bias", vector=b, aux=aux))
    z = x @ W + b
    np.testing.assert_allclose(out, np.maximum(z, 0))
    bits = np.unpackbits(aux, axis=1, bitorder="little")
    assert np.array_equal(bits[:, :5], z > 0)
    rng = np.random.default_rng(1)
    dy, V = memory.asarray(rng.normal(size=(6, 4))), memory.asarray(rng.normal(size=(5, 4)))  # the layer behind
    dz, db = memory.empty((6, 5), "float64"), memory.empty((5,), "float64")
    seen = run(library, gemm.prepare(dz, dy, V.T, epilogue="drelu_bgrad", vector=db, aux=aux))
    np.testing.assert_allclose(dz, (dy @ V.T) * (z > 0))
    np.testing.assert_allclose(db, dz.sum(axis=0))
    assert seen["aux_ld"] == 128
    run(library, gemm.prepare(dz, dy, V.T, epilogue="drelu", aux=aux))
    np.testing.assert_allclose(dz, (dy @ V.T) * (z > 0))


def test_gelus_input_comes_back_in_the_backward_product() -> None:
    gemm, library, memory = made()
    x, W, b, out = epilogue_case(memory)
    aux = memory.empty((6, 8), "float64")
    run(library, gemm.prepare(out, x, W, epilogue="gelu_aux_bias", vector=b, aux=aux))
    z = x @ W + b
    np.testing.assert_allclose(aux[:, :5], z)
    np.testing.assert_allclose(out, gelu_tanh(z))
    np.testing.assert_allclose(out, bp.ops.gelu_tanh(z), rtol=1e-12)
    dy, V = memory.asarray(np.ones((6, 4))), memory.asarray(np.random.default_rng(1).normal(size=(5, 4)))
    dz, db = memory.empty((6, 5), "float64"), memory.empty((5,), "float64")
    run(library, gemm.prepare(dz, dy, V.T, epilogue="dgelu_bgrad", vector=db, aux=aux))
    np.testing.assert_allclose(dz, (dy @ V.T) * gelu_tanh_slope(z))
    np.testing.assert_allclose(db, dz.sum(axis=0))


def test_the_gradient_of_a_bias_is_summed_on_the_way_to_that_of_the_weight() -> None:
    gemm, library, memory = made()
    rng = np.random.default_rng(2)
    x, dy = memory.asarray(rng.normal(size=(6, 3))), memory.asarray(rng.normal(size=(6, 5)))
    dW, db = memory.empty((3, 5), "float64"), memory.empty((5,), "float64")
    run(library, gemm.prepare(dW, x.T, dy, epilogue="bgrada", vector=db))
    np.testing.assert_allclose(dW, x.T @ dy)
    np.testing.assert_allclose(db, dy.sum(axis=0))
    sums = memory.empty((3,), "float64")
    run(library, gemm.prepare(dW, x.T, dy, epilogue="bgradb", vector=sums))
    np.testing.assert_allclose(sums, x.sum(axis=0))


@pytest.mark.parametrize("columns", [15, 17])
def test_an_auxiliary_array_of_a_wrong_width_is_refused_by_the_library(columns: int) -> None:
    gemm, _library, memory = made()
    x, W, b, out = epilogue_case(memory)
    with pytest.raises(cublaslt.CublasLtError, match="AlgoGetHeuristic failed with CUBLAS_STATUS_INVALID_VALUE"):
        gemm.prepare(out, x, W, epilogue="relu_aux_bias", vector=b, aux=memory.empty((6, columns), "uint8"))


# --- trust ---


@pytest.mark.parametrize("activation", ["", "relu"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_an_epilogue_that_gives_the_bits_of_the_kernels_is_used(activation: str, dtype: str) -> None:
    gemm, library, memory = made()
    x, W, b, out = epilogue_case(memory, dtype)
    run(library, gemm.product(out, x, W, bias=b, activation=activation))
    z = x @ W + b
    assert out.tobytes() == (bp.ops.relu(z) if activation else z).tobytes()
    assert library.calls[-1]["epilogue"] == ("relu_bias" if activation else "bias")
    before = len(library.calls)
    gemm.product(out, x, W, bias=b, activation=activation)
    assert len(library.calls) == before  # proved once


def test_an_epilogue_that_hides_a_nan_is_not_used() -> None:
    gemm, library, memory = made(activate=lambda x: np.fmax(x, 0))
    x, W, b, out = epilogue_case(memory)
    assert gemm.product(out, x, W, bias=b, activation="relu") is None
    assert run(library, gemm.product(out, x, W, bias=b))["epilogue"] == "bias"


def test_an_epilogue_that_rounds_otherwise_is_not_used() -> None:
    gemm, library, memory = made(activate=lambda x: np.nextafter(np.maximum(x, 0), np.inf))
    x, W, b, out = epilogue_case(memory)
    assert gemm.product(out, x, W, bias=b, activation="relu") is None
    library.assert_no_errors()


def test_an_epilogue_without_room_for_its_proof_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    gemm, library, memory = made()
    x, W, b, out = epilogue_case(memory)

    def full(shape: tuple[int, ...], dtype: str) -> Any:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(memory, "empty", full)
        assert gemm.product(out, x, W, bias=b) is None
    assert run(library, gemm.product(out, x, W))["epilogue"] == ""


def test_the_sums_of_columns_are_used_where_they_are_right() -> None:
    gemm, library, memory = made()
    dW, db = memory.empty((3, 5), "float32"), memory.empty((5,), "float32")
    x, dy = (memory.asarray(np.random.default_rng(0).normal(size=s).astype("float32")) for s in ((6, 3), (6, 5)))
    run(library, gemm.product(dW, x.T, dy, column_sums=db))
    np.testing.assert_allclose(db, dy.sum(axis=0), rtol=1e-5)
    np.testing.assert_allclose(dW, x.T @ dy, rtol=1e-5, atol=1e-6)


def test_a_product_is_added_to_what_is_there_where_that_has_the_bits_of_an_addition() -> None:
    for rounds_twice in (False, True):
        gemm, library, memory = made()
        library.rounds_twice = rounds_twice
        rng = np.random.default_rng(0)
        x, dy, dW = (memory.asarray(rng.normal(size=shape).astype("float32")) for shape in ((6, 3), (6, 5), (3, 5)))
        expected = dW + x.T @ dy
        call = gemm.product(dW, x.T, dy, beta=1.0)
        if rounds_twice:
            assert call is None
        else:
            run(library, call)
            assert dW.tobytes() == expected.tobytes()
        library.assert_no_errors()


def test_what_no_epilogue_can_do_has_no_call() -> None:
    gemm, library, memory = made()
    x, W, b, out = epilogue_case(memory)
    assert gemm.product(out, x, W, bias=b, activation="sigmoid") is None
    assert gemm.product(out, x, W, bias=b, beta=1.0) is None
    assert gemm.product(out, x, W, bias=b, column_sums=b) is None
    assert not library.calls


def test_none_is_the_answer_where_the_library_has_no_algorithm() -> None:
    gemm, library, memory = made(lacks=lambda epilogue, problem: epilogue != "bias")
    x, W, b, out = epilogue_case(memory)
    assert gemm.prepare(out, x, W) is None
    assert gemm.product(out, x, W) is None
    assert gemm.product(out, x, W, bias=b) is None  # nothing to hold the epilogue to
    library.assert_no_errors()


# --- algorithms ---


def test_the_algorithm_is_asked_for_once_a_problem_and_never_timed() -> None:
    gemm, library, memory = made()
    x, W, _b, out = epilogue_case(memory)
    for _ in range(3):
        gemm.prepare(out, x, W)
    other = memory.asarray(np.zeros((6, 3)))
    gemm.prepare(out, other, W)
    assert len(library.heuristics) == 1
    assert not library.calls
    gemm.prepare(out, laid_out(memory, np.ones((6, 3)), True), W)
    assert len(library.heuristics) == 2


def test_a_fused_product_takes_the_algorithm_of_the_plain_one() -> None:
    gemm, library, memory = made()
    x, W, b, out = epilogue_case(memory)
    gemm.prepare(out, x, W, epilogue="relu_bias", vector=b)
    assert [each["epilogue"] for each in library.heuristics] == [""]
    gemm, library, memory = made(lacks=lambda epilogue, problem: epilogue == "")
    gemm.prepare(memory.empty((6, 5), "float64"), x, W, epilogue="relu_bias", vector=b)
    assert [each["epilogue"] for each in library.heuristics] == ["", "relu_bias"]


def test_the_preference_has_the_workspace_and_the_alignment_of_each_matrix() -> None:
    gemm, library, memory = made()
    raw = memory.empty((64,), "float32")
    a = raw[1:7].reshape(2, 3)  # 4 bytes behind a multiple of 256
    b = raw[8:20].reshape(3, 4)
    out = memory.empty((2, 4), "float32")
    run(library, gemm.prepare(out, a, b))
    assert library.heuristics[-1]["preference"] == {1: 4096, 5: 32, 6: 4, 7: 256, 8: 256}
    gemm.prepare(out, raw[32:38].reshape(2, 3), b)
    assert len(library.heuristics) == 2  # another alignment, another problem


@pytest.mark.parametrize(
    ("pointer", "stride", "expected"), [(0, 0, 256), (512, 0, 256), (4, 0, 4), (256, 24, 8), (48, 32, 16)]
)
def test_alignment_is_that_of_every_matrix(pointer: int, stride: int, expected: int) -> None:
    assert alignment(pointer, stride) == expected


def test_each_stream_has_a_workspace_of_its_own() -> None:
    gemm, library, memory = made()
    x, W, _, out = epilogue_case(memory)
    call = gemm.prepare(out, x, W)
    places = {}
    for stream in (0, 7, 0, PER_THREAD_STREAM):
        memory.current_stream = stream
        seen = run(library, call)
        assert seen["stream"] == stream  # read when the call is made, not when it is bound
        places.setdefault(stream, set()).add(seen["workspace"])
    assert all(len(each) == 1 for each in places.values())
    assert len(set.union(*places.values())) == 3


def test_the_workspace_of_a_stream_can_be_made_ahead_of_a_capture() -> None:
    gemm, library, memory = made()
    x, W, _, out = epilogue_case(memory)
    call = gemm.prepare(out, x, W)
    memory.current_stream = 5
    gemm.prepare_stream()
    allocated = len(memory.allocated)
    run(library, call)
    assert len(memory.allocated) == allocated


def test_each_device_has_a_handle_and_algorithms_of_its_own() -> None:
    gemm, library, memory = made()
    x, W, _, out = epilogue_case(memory)
    gemm.prepare(out, x, W)
    memory.current_device = 1
    gemm.prepare(out, x, W)
    assert library.handles == 2
    assert len(library.heuristics) == 2


# --- precision ---


def test_float32_is_computed_in_float32_unless_asked_otherwise() -> None:
    gemm, library, memory = made()
    x, W, _, out = epilogue_case(memory, "float32")
    assert run(library, gemm.prepare(out, x, W))["compute"] == 68
    for name, value in (("tf32", 77), ("bf16", 75), ("float32", 68)):
        with precision(name):
            call = gemm.prepare(out, x, W)
        assert run(library, call)["compute"] == value  # decided where it is bound
    assert run(library, gemm.prepare(out, x, W))["compute"] == 68
    assert len(library.heuristics) == 3


def test_float64_knows_no_other_precision() -> None:
    gemm, library, memory = made()
    x, W, _, out = epilogue_case(memory, "float64")
    with precision("tf32"):
        seen = run(library, gemm.prepare(out, x, W))
    assert (seen["compute"], seen["scale"]) == (70, 1)


def test_an_unknown_precision_names_those_known() -> None:
    with (
        pytest.raises(
            bp.ConfigError,
            match="must be one of 'float32', 'tf32', 'bf16', got 'tf23'; did you mean 'tf32'",
        ),
        precision("tf23"),
    ):
        pass


# --- life and death ---


def test_descriptors_live_as_long_as_their_call_and_layouts_are_shared() -> None:
    gemm, library, memory = made()
    x, W, _, out = epilogue_case(memory)
    calls = [gemm.prepare(out, x, W) for _ in range(3)]
    kinds = [each["kind"] for each in library.objects.values()]
    assert (kinds.count("MatmulDesc"), kinds.count("MatrixLayout"), kinds.count("MatmulPreference")) == (3, 3, 0)
    run(library, calls[0])
    calls.clear()
    kinds = [each["kind"] for each in library.objects.values()]
    assert (kinds.count("MatmulDesc"), kinds.count("MatrixLayout")) == (0, 3)
    library.assert_no_errors()


def test_a_call_holds_the_memory_that_it_names() -> None:
    gemm, library, memory = made()
    out = memory.empty((2, 2), "float64")
    call = gemm.prepare(out, memory.asarray(np.eye(2)), memory.asarray(np.full((2, 2), 3.0)))
    del gemm
    run(library, call)
    assert out.tolist() == [[3, 3], [3, 3]]


def test_a_failed_call_names_the_function_and_the_status() -> None:
    with pytest.raises(cublaslt.CublasLtError, match="cublasLtMatmul failed with CUBLAS_STATUS_EXECUTION_FAILED"):
        cublaslt.check(13, "cublasLtMatmul")


# --- the library itself ---

needs_library = pytest.mark.skipif(REAL is None, reason="cublasLt is not installed")


@needs_library
def test_the_library_takes_every_descriptor_layout_and_preference() -> None:
    aux = {"vector": 4096, "aux": 8192, "aux_ld": 128}
    for epilogue in cublaslt.EPILOGUES:
        for name, compute in cublaslt.COMPUTE.items():
            scale = cublaslt.REAL["float64" if name == "float64" else "float32"]
            made = cublaslt.Descriptor(
                REAL, compute, scale, transpose_a=True, transpose_b=False, epilogue=epilogue, **aux
            )
            assert attribute(made, 7, ctypes.c_uint32) == cublaslt.EPILOGUES[epilogue]
            assert (attribute(made, 3, ctypes.c_int32), attribute(made, 4, ctypes.c_int32)) == (1, 0)
            assert (attribute(made, 0, ctypes.c_int32), attribute(made, 1, ctypes.c_int32)) == (compute, scale)
            assert attribute(made, 8, ctypes.c_uint64) == 4096
            assert attribute(made, 11, ctypes.c_uint64) == 8192
            assert attribute(made, 12, ctypes.c_int64) == 128
    layout = cublaslt.Layout(REAL, "float64", 3, 4, 5, batch=6, stride=20)
    found = [
        attribute(layout, i, kind) for i, kind in enumerate((ctypes.c_uint32, ctypes.c_int32, *(ctypes.c_uint64,) * 3))
    ]
    assert found == [1, 0, 3, 4, 5]  # type, order (column-major), rows, columns, leading dimension
    assert (attribute(layout, 5, ctypes.c_int32), attribute(layout, 6, ctypes.c_int64)) == (6, 20)
    preference = cublaslt.Preference(REAL, 12345, {"A": 16, "B": 32, "C": 64, "D": 128})
    assert attribute(preference, 1, ctypes.c_uint64) == 12345
    assert [attribute(preference, i, ctypes.c_uint32) for i in (5, 6, 7, 8)] == [16, 32, 64, 128]


def attribute(owned: cublaslt.Owned, number: int, kind: Any) -> int:
    """An attribute as the library has it."""
    value, written = kind(0), ctypes.c_size_t(0)
    function = getattr(REAL, f"cublasLt{owned.kind}GetAttribute")
    status = function(
        owned.handle, number, ctypes.byref(value), ctypes.c_size_t(ctypes.sizeof(value)), ctypes.byref(written)
    )
    assert status == 0
    return int(value.value)


@needs_library
def test_the_constants_are_those_of_the_header() -> None:
    headers = {}
    for parent in Path(REAL._name).parents:
        headers = {path.name: path.read_text() for path in (parent / "include").glob("*.h")}
        if "cublasLt.h" in headers:
            break
    else:
        pytest.skip("the library came without its headers")
    lt = headers["cublasLt.h"]

    def value(name: str, text: str = lt) -> int:
        found = re.search(rf"\b{name}\s*=\s*([^,/\n]+)", text)
        assert found, name
        parts = [part.strip(" ()") for part in found[1].split("|")]
        total = 0
        for part in parts:
            total |= int(part, 0) if part[0].isdigit() else value(part, text)
        return total

    for name, number in cublaslt.EPILOGUES.items():
        assert value(f"CUBLASLT_EPILOGUE_{(name or 'default').upper()}") == number
    for name, number in (
        ("MATMUL_DESC_TRANSA", cublaslt.DESC_TRANSA),
        ("MATMUL_DESC_TRANSB", cublaslt.DESC_TRANSB),
        ("MATMUL_DESC_EPILOGUE", cublaslt.DESC_EPILOGUE),
        ("MATMUL_DESC_BIAS_POINTER", cublaslt.DESC_BIAS_POINTER),
        ("MATMUL_DESC_EPILOGUE_AUX_POINTER", cublaslt.DESC_AUX_POINTER),
        ("MATMUL_DESC_EPILOGUE_AUX_LD", cublaslt.DESC_AUX_LD),
        ("MATRIX_LAYOUT_BATCH_COUNT", cublaslt.LAYOUT_BATCH_COUNT),
        ("MATRIX_LAYOUT_STRIDED_BATCH_OFFSET", cublaslt.LAYOUT_BATCH_OFFSET),
        ("MATMUL_PREF_MAX_WORKSPACE_BYTES", cublaslt.PREFERENCE_WORKSPACE),
        *((f"MATMUL_PREF_MIN_ALIGNMENT_{each}_BYTES", n) for each, n in cublaslt.PREFERENCE_ALIGNMENT.items()),
    ):
        assert value(f"CUBLASLT_{name}") == number, name
    api = headers["cublas_api.h"]
    for name, number in (("32F", 68), ("32F_FAST_TF32", 77), ("32F_FAST_16BF", 75), ("64F", 70)):
        assert value(f"CUBLAS_COMPUTE_{name}", api) == number
        assert number in cublaslt.COMPUTE.values()
    for number, name in cublaslt.STATUS.items():
        assert value(f"CUBLAS_STATUS_{name}", api) == number
    types = headers["library_types.h"]
    assert (value("CUDA_R_32F", types), value("CUDA_R_64F", types)) == (0, 1)
    assert (ctypes.sizeof(cublaslt.Algorithm), ctypes.sizeof(cublaslt.Heuristic)) == (64, 96)


@needs_library
def test_the_version_is_said() -> None:
    assert re.fullmatch(r"cublasLt 1[23]\.\d+\.\d+", cublaslt.products_by())


def test_a_library_that_is_not_there_is_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "cuda.pathfinder", None)
    with pytest.raises(cublaslt.CublasLtError, match=r'cublasLt cannot be loaded .*pip install "bpnet-xp\[cuda12\]"'):
        cublaslt.load()
    assert cublaslt.products_by().startswith("CuPy's, because cublasLt cannot be loaded")


# --- together with the kernels, over the cases of every op ---


class ArrayMemory(HostMemory):
    """The same for the arrays on which the kernels run here."""

    def pointer(self, x: Any) -> int:
        return super().pointer(x.array if isinstance(x, HostArray) else x)

    def empty(self, shape: tuple[int, ...], dtype: str) -> Any:
        return HostArray(super().empty(shape, dtype))

    def asarray(self, host: Any) -> Any:
        found = self.empty(host.shape, str(host.dtype))
        found.array[...] = host
        return found

    def to_numpy(self, x: Any) -> Any:
        return x.array


@contextmanager
def products_by(library: FakeCublasLt) -> Iterator[bp.Backend]:
    """The backend of the kernels on the host, with its matrix products by this library."""
    backend, gemm = bp.get_backend("cuda_host"), Gemm(library, ArrayMemory(), workspace_bytes=4096)

    def matmul(out: Any, a: Any, b: Any, **options: Any) -> Any:
        call = gemm.product(out, a, b, **options) if out.size and a.size else None
        return plain(out, a, b, **options) if call is None else call

    inner = cuda_host.driver().driver
    plain = inner.matmul
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inner, "matmul", matmul)
        yield backend


@pytest.mark.cuda_host
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_linear_and_its_derivatives_are_the_references_in_every_case(dtype: str) -> None:
    library = FakeCublasLt(REAL)
    with products_by(library) as backend:
        for op in (bp.ops.linear, bp.ops.linear_backward, bp.ops.linear_backward_add_):
            check_kernel(op, backend, dtype)
    library.assert_no_errors()
    assert {call["epilogue"] for call in library.calls} == {"", "bias", "relu_bias", "bgrada"}
    assert {call["beta"] for call in library.calls} == {0, 1}


@pytest.mark.cuda_host
def test_products_in_bfloat16_are_the_references_in_every_case() -> None:
    library = FakeCublasLt(REAL)
    with products_by(library) as backend:
        for op in (bp.ops.linear_bf16, bp.ops.linear_bf16_backward):
            check_kernel(op, backend, "float32")
    library.assert_no_errors()
    assert {call["epilogue"] for call in library.calls} == {"", "bias", "relu_bias"}
    assert {call["types"]["A"] for call in library.calls} == {14}


@pytest.mark.cuda_host
def test_a_library_without_epilogues_leaves_them_to_the_kernels() -> None:
    library = FakeCublasLt(REAL, lacks=lambda epilogue, problem: bool(epilogue))
    with products_by(library) as backend:
        for op in (bp.ops.linear, bp.ops.linear_backward):
            check_kernel(op, backend, "float32")
    library.assert_no_errors()
    assert {call["epilogue"] for call in library.calls} == {""}


@pytest.mark.cuda_host
@pytest.mark.parametrize("activate", [lambda x: np.maximum(x, 0), lambda x: np.fmax(x, 0)], ids=["right", "hides NaN"])
def test_planned_steps_with_epilogues_have_the_bits_of_eager_ones(activate: Any) -> None:
    rng = np.random.default_rng(0)
    given = [(rng.normal(size=(8, 6)).astype(np.float32), rng.integers(0, 3, 8)) for _ in range(6)]
    library = FakeCublasLt(REAL, activate=activate)

    def train(where: Any, plan: bool) -> tuple[list[bytes], Any, str]:
        hidden = [bp.Dense(6, 16), bp.ReLU(), bp.Dropout(0.2), bp.Dense(16, 8), bp.GELU("tanh")]
        model = bp.Sequential(*hidden, bp.Dense(8, 3))
        trainer = bp.Trainer(model, bp.SoftmaxCrossEntropy(), bp.Adam(0.01), backend=where, plan=plan, seed=1)
        losses = []
        for number, (x, y) in enumerate(given):
            if number == 2:  # the plan is made, and proved
                library.calls.clear()
            losses.append(bp.to_numpy(trainer.step(x, y)).tobytes())
        return losses, bp.to_numpy(model.store.values), trainer.plan_report()

    with products_by(library) as backend:
        eager = train(backend, False)
        planned = train(backend, True)
    library.assert_no_errors()
    assert planned[0] == eager[0]
    assert planned[1].tobytes() == eager[1].tobytes()
    assert "planned, " in planned[2]
    used = [call["epilogue"] for call in library.calls]
    assert used.count("relu_bias") == (4 if np.isnan(activate(np.nan)) else 0)
    np.testing.assert_allclose(planned[1], train("numpy", True)[1], atol=1e-5)


@pytest.mark.cuda_host
def test_gradients_of_micro_batches_are_added_in_the_products() -> None:
    rng = np.random.default_rng(0)
    given = [(rng.normal(size=(8, 6)).astype(np.float32), rng.integers(0, 3, 8)) for _ in range(6)]
    library = FakeCublasLt(REAL)

    def train(where: Any, plan: bool) -> tuple[list[bytes], Any, str]:
        model = bp.Sequential(bp.Dense(6, 16), bp.ReLU(), bp.Dense(16, 4, bias=False), bp.Tanh(), bp.Dense(4, 3))
        trainer = bp.Trainer(model, bp.SoftmaxCrossEntropy(), bp.Adam(0.01), backend=where, plan=plan, seed=1)
        losses = [bp.to_numpy(trainer.step(x, y, micro_batch_size=3)).tobytes() for x, y in given]
        return losses, bp.to_numpy(model.store.values), trainer.plan_report()

    with products_by(library) as backend:
        eager, planned = train(backend, False), train(backend, True)
    library.assert_no_errors()
    assert planned[0] == eager[0]
    assert planned[1].tobytes() == eager[1].tobytes()
    assert planned[2].count("linear_backward_add_(") == 6  # of three layers, in the second and the third part
    assert " add_(" not in planned[2]
    np.testing.assert_allclose(planned[1], train("numpy", True)[1], atol=1e-5)
    assert "linear_backward_add_" not in train("numpy", True)[2]
