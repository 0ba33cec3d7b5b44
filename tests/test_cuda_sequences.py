"""The CUDA kernels of sequences on the host: tiles of every size, rows that see nothing, views, whole models."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import cuda_host
import numpy as np
import pytest
from cuda_cases import ATTENTION, EXACT_ATTENTION, SIZES, cases_of, of_attention
from test_cuda_checks import changed_kernels

import bpnet as bp
from bpnet import ops
from bpnet.dispatch import Kernel, Variant
from bpnet.testing.kernels import agreement, assert_close, call
from bpnet_cupy.host.arrays import HostArray
from bpnet_cupy.host.build import Kernels
from bpnet_cupy.host.driver import HostLaunch, HostProduct
from bpnet_cupy.kernels import attention as bodies
from bpnet_cupy.kernels import attention_products

pytestmark = pytest.mark.cuda_host


def variant_of(name: str) -> tuple[Kernel, Variant]:
    return next((k, v) for k, v in cuda_host.variants() if k.name == name)


def hold(name: str, args: tuple[Any, ...], dtype: str, orders: tuple[int, ...] = (0, 1, 5)) -> set[str]:
    """Hold the variant to the reference in these orders of threads; return the kernels that were launched."""
    op, variant = variant_of(name)
    own = cuda_host.brought(args)
    assert variant.accepts is not None
    assert variant.accepts(*own)
    cuda_host.driver().launches.clear()
    with cuda_host.mode(orders=orders):
        found = cuda_host.back(variant.body(*own))
    assert_close(found, call(op.reference.body, args)[0], agreement(name, dtype))
    return {each.name for each in cuda_host.driver().launches}


@pytest.fixture
def few_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Probabilities are kept of next to nothing: what is done where there are too many of them."""
    monkeypatch.setattr(importlib.import_module("bpnet.ops.attention"), "KEPT", 4)
    monkeypatch.setattr(attention_products, "KEPT", 600)  # some queries of a head, or some heads
    monkeypatch.setattr(importlib.import_module("bpnet.ops.attention"), "BLOCK", 1 << 12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ATTENTION)
def test_attention_makes_its_probabilities_again(name: str, dtype: str, few_kept: None) -> None:
    compared = 0
    for args in cases_of(name, dtype):
        if 0 not in args[0].shape:
            compared += 1
            hold(name, args, dtype)
    assert compared > 10


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("name", EXACT_ATTENTION)
def test_attention_in_larger_tiles(
    name: str, kept: bool, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    if not kept:
        request.getfixturevalue("few_kept")
    monkeypatch.setattr(bodies, "MANY", 1)
    launched: set[str] = set()
    for args in of_attention(name, SIZES)(np.random.default_rng(1), "float32"):
        launched |= hold(name, args, "float32", orders=(0, 3))
    assert any("<float, 4, 64>" in each for each in launched)


def test_attention_takes_keys_and_values_that_lie_side_by_side() -> None:
    """As one product makes them: views with gaps, whose gradients have none; no copy is made of them."""
    rng = np.random.default_rng(2)
    q, kv = rng.normal(size=(2, 5, 6)).astype(np.float32), rng.normal(size=(2, 7, 12)).astype(np.float32)
    own_q, own_kv = cuda_host.brought((q, kv))
    views = (own_q, own_kv[..., :6], own_kv[..., 6:])
    settings = (None, None, 2, False, 0.0)
    assert ops.attention.choose((*views, *settings)).name == "bpnet_cupy"
    with cuda_host.mode(orders=(0, 1, 5)):
        y, kept = ops.attention(*views, *settings)
        dy = HostArray(np.ones((2, 5, 6), np.float32))
        found = ops.attention_backward(dy, y, *views, kept, *settings)
    expected = ops.attention(q, kv[..., :6], kv[..., 6:], *settings)
    assert_close(cuda_host.back((y, kept)), expected, "float32")
    slopes = ops.attention_backward(dy.array, expected[0], q, kv[..., :6], kv[..., 6:], expected[1], *settings)
    assert_close(cuda_host.back(found), slopes, "float32")
    assert all(each.flags.c_contiguous for each in found)


@pytest.mark.parametrize("kept", [False, True])
def test_heads_of_more_features_than_a_tile_holds_are_multiplied_by_the_library(
    kept: bool, request: pytest.FixtureRequest
) -> None:
    if not kept:
        request.getfixturevalue("few_kept")
    rng = np.random.default_rng(4)
    q, k, v, dy = rng.normal(size=(4, 2, 23, 3 * 129)).astype(np.float32)
    for heads, by_products in ((1, True), (3, True), (9, False)):
        settings = (None, rng.uniform(size=(2, heads, 23, 23)) > 0.5, heads, True, 0.5)
        y, sums = ops.attention(q, k, v, *settings)
        launched = hold("attention", (q, k, v, *settings), "float32")
        launched |= hold("attention_backward", (dy, y, q, k, v, sums, *settings), "float32")
        assert ("softmax_scores<float, float, 32>" in launched) == by_products
        assert ("scores_backward<float, float>" in launched) == by_products
        assert any(each.startswith("attention<") for each in launched) != by_products


@pytest.mark.parametrize("limit", [1, 7, 100, 500, 10**6])
@pytest.mark.parametrize("sizes", [(1, 1, 1, 1), (3, 2, 5, 7), (2, 3, 40, 1), (1, 1, 30, 30)])
def test_no_more_scores_are_there_at_a_time_than_were_said(
    limit: int, sizes: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every query of every matrix is in one part, in order; a part is of the limit, or of one query."""
    monkeypatch.setattr(importlib.import_module("bpnet.ops.attention"), "KEPT", 0)
    monkeypatch.setattr(attention_products, "KEPT", limit)
    n, heads, n_queries, n_keys = sizes
    x = HostArray(np.ones((n, n_queries, heads), np.float32))
    found = attention_products.heads_of(x, n_keys, heads, None, None, heads, False, 0.0)
    rows: list[int] = []
    for matrices, queries in found.parts():
        count = (matrices.stop - matrices.start) * (queries.stop - queries.start)
        assert count * n_keys <= max(limit, n_keys)
        assert count * n_keys <= found.most
        assert matrices.stop - matrices.start == 1 or (queries.start, queries.stop) == (0, n_queries)
        rows += range(matrices.start * n_queries + queries.start, matrices.start * n_queries + queries.start + count)
    assert rows == list(range(n * heads * n_queries))


def test_a_value_that_nobody_sees_is_not_looked_at(few_kept: None) -> None:
    """Behind the tiles that a causal query sees there may be anything."""
    rng = np.random.default_rng(3)
    qkv = rng.normal(size=(1, 70, 12)).astype(np.float32)
    whole, _ = ops.self_attention(HostArray(qkv.copy()), None, None, 1, True, 0.0)
    qkv[0, 64:] = np.nan
    y, _ = ops.self_attention(HostArray(qkv), None, None, 1, True, 0.0)
    assert y.array[0, :64].tobytes() == whole.array[0, :64].tobytes()
    assert np.isnan(y.array[0, 64:]).all()


# --- planted errors ---

# What is changed in the source, the op whose cases must then fail, and the instance that is launched.
MUTANTS: dict[str, tuple[str, str, str, str]] = {
    "a step looks beyond its sequence": (
        "return !lengths || t < (int64)lengths[sample];",
        "return !lengths || t <= (int64)lengths[sample];",
        "lstm",
        "lstm_step<float, long long>",
    ),
    "a cell forgets where it came from": (
        "T before = last >= 0 ? cells[last * n + i] : cell ? cell[i] : T(0);",
        "T before = last >= 0 ? cells[last * n + i] : T(0);",
        "lstm",
        "lstm_step<float, long long>",
    ),
    "gates are kept in the order of the products": (
        "        kept[2 * n] = out;\n        kept[3 * n] = g;",
        "        kept[2 * n] = g;\n        kept[3 * n] = out;",
        "lstm",
        "lstm_step<float, long long>",
    ),
    "the last cell's gradient begins with what lay there": (
        "(first ? T(0) : dc[i]) + dh * out",
        "dc[i] + dh * out",
        "lstm_backward",
        "lstm_step_backward<float, long long>",
    ),
    "the reset gate comes before the bias": (
        "T m = b[2] + bias_n[c];\n        T n = tanh(a[2] + r * m);",
        "T m = b[2];\n        T n = tanh(a[2] + r * m + bias_n[c]);",
        "gru",
        "gru_step<float, long long>",
    ),
    "a gradient is not carried past the gate": (
        "dh = dh + (carried[i] + product[i])",
        "dh = dh + product[i]",
        "gru_backward",
        "gru_step_backward<float, long long>",
    ),
    "relu learns where it is 0": (
        "return h > 0 ? dh : T(0); }\n};\n\n// h_t",
        "return h >= 0 ? dh : T(0); }\n};\n\n// h_t",
        "nothing came out",
        "rnn_step_backward<float, long long, ReluUnit>",
    ),
    "backwards from the wrong side": (
        "bool none = reverse ? t == n_steps - 1 : t == 0;",
        "bool none = t == 0;",
        "rnn_backward",
        "states_before<float, float>",
    ),
    "padding counts as input": (
        "out[i] = present(lengths, sample, row - sample * n_steps) ? x[i] : T(0);",
        "out[i] = x[i];",
        "padded",
        "present_steps<float, long long>",
    ),
    "an empty sequence has a last step": (
        "return (int64)lengths[sample] < 1 ? -1 :",
        "return (int64)lengths[sample] < 1 ? 0 :",
        "last_step",
        "last_step<float, int>",
    ),
    "the future is seen": (
        "query < n_queries && key <= query + later;",
        "query < n_queries && key <= query + later + 1;",
        "self_attention",
        "attention<float, 2, 32>",
    ),
    "padding is seen": (
        "return key < n_keys && (!mask || mask[key]);",
        "return key < n_keys;",
        "self_attention",
        "attention<float, 2, 32>",
    ),
    "a new maximum leaves the sum as it was": (
        "total[i] = total[i] * shrunk + lane_sum<SIDE>(sum);",
        "total[i] = total[i] + lane_sum<SIDE>(sum);",
        "long rows",
        "attention<float, 2, 32>",
    ),
    "a new maximum leaves the values as they were": (
        "o[i][j] *= shrunk;",
        "o[i][j] *= T(1);",
        "long rows",
        "attention<float, 2, 32>",
    ),
    "a row that sees nothing divides by 0": (
        "sum = total[i] == 0 ? T(1) : total[i];",
        "sum = total[i];",
        "attention",
        "attention<float, 2, 32>",
    ),
    "a tile of scores does not wait": (
        "        __syncthreads();\n        #pragma unroll 2\n        for (int f = 0;",
        "        #pragma unroll 2\n        for (int f = 0;",
        "attention",
        "attention<float, 2, 32>",
    ),
    "weights are written while they are read": (
        "        __syncthreads();\n        #pragma unroll\n        for (int j = 0; j < R; ++j) {\n"
        "            #pragma unroll\n            for (int i = 0; i < R; ++i) weights",
        "        #pragma unroll\n        for (int j = 0; j < R; ++j) {\n"
        "            #pragma unroll\n            for (int i = 0; i < R; ++i) weights",
        "attention_backward",
        "attention_backward_keys<float, 2, 32>",
    ),
    "what was dropped has a gradient": (
        "ds = p * (left_of(dp[i][j], keep, first + j, grown) - less) * scale;",
        "ds = p * (dp[i][j] - less) * scale;",
        "attention_backward",
        "attention_backward_queries<float, 2, 32>",
    ),
    "the softmax's derivative subtracts nothing": (
        "rest = each * (left_of(ds[i][j], keep, here, grown) - less) * scale;",
        "rest = each * left_of(ds[i][j], keep, here, grown) * scale;",
        "self_attention_backward",
        "attention_backward_keys<float, 2, 32>",
    ),
    "whole scores see the future": (
        "column_of(row, n_queries) + 1 + n_keys - n_queries : n_keys)",
        "column_of(row, n_queries) + 2 + n_keys - n_queries : n_keys)",
        "self_attention_bf16",
        "softmax_scores<float, unsigned short, 8>",
    ),
    "whole scores see padding": (
        "return key < end && (!there || there[key]);",
        "return key < end;",
        "attention_bf16",
        "softmax_scores<float, unsigned short, 8>",
    ),
    "a row of scores that sees nothing divides by 0": (
        "if (total == 0) total = 1;",
        "",
        "attention_bf16",
        "softmax_scores<float, unsigned short, 8>",
    ),
    "a factor keeps what was dropped": (
        "left[c] = as_factor<S>(left_of(p, keep, (first + row) * n_keys + c, grown));",
        "left[c] = as_factor<S>(p);",
        "attention_bf16",
        "softmax_scores<float, unsigned short, 8>",
    ),
    "heads lie in the order of their parts": (
        "(part * heads + head - sample * heads) * size + f);",
        "(head - sample * heads) * size + f);",
        "self_attention_bf16",
        "split_heads<unsigned short, unsigned short>",
    ),
    "heads are joined in the order of samples": (
        "int64 head = (part * samples + sample) * heads + place - part * heads;",
        "int64 head = (sample + part) * heads + place - part * heads;",
        "self_attention_bf16_backward",
        "join_heads<float>",
    ),
    "what was dropped has a gradient among whole scores": (
        "slopes[i] = as_factor<S>(p * (left_of(dp[i], keep, at, grown) - less) * scale);",
        "slopes[i] = as_factor<S>(p * (dp[i] - less) * scale);",
        "attention_bf16_backward",
        "scores_backward<float, unsigned short>",
    ),
    "a head's sums are those of its sample": (
        "inner[(sample * n_queries + row - head * n_queries) * heads + head - sample * heads];",
        "inner[(sample * n_queries + row - head * n_queries) * heads];",
        "attention_bf16_backward",
        "scores_backward<float, unsigned short>",
    ),
    "the state of a product is cut, not rounded": (
        "if (bits) bits[i] = bf16_bits((float)value);",
        "if (bits) bits[i] = (unsigned short)(__float_as_uint((float)value) >> 16);",
        "lstm_bf16",
        "lstm_step<float, long long>",
    ),
    "later queries are left out": (
        "return key > later ? key - later : 0; }",
        "return key; }",
        "cross",
        "attention_backward_keys<float, 2, 32>",
    ),
    "of equal scores the last one stands first": (
        "each > own || (each == own && c < label)",
        "each > own || (each == own && c > label)",
        "count_top_k",
        "count_top_k<float, long long, 8>",
    ),
    "ignored labels are counted": (
        "i < (alive && !(ignoring && label == ignored) ? n : 0); i += 32",
        "i < (alive ? n : 0); i += 32",
        "confusion",
        "confusion<long long>",
    ),
    "the label's own class gets the margin": (
        "top = maximum(top, weights[c] == 0 ? from[c] + margin : from[c]);",
        "top = maximum(top, from[c] + margin);",
        "multiclass_hinge_rows",
        "multiclass_hinge_rows<float, 8>",
    ),
    "a weight of 0 lets NaN through": (
        "Q[i] = weights ? weight * (weight == 0 ? T(0) : q) : q;",
        "Q[i] = weights ? weight * q : q;",
        "weightless",
        "soft_targets<float>",
    ),
}


@pytest.fixture(scope="module")
def mutants(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Kernels]:
    return changed_kernels(MUTANTS, tmp_path_factory.mktemp("sequence-mutants"))


def given(what: str) -> list[tuple[str, tuple[Any, ...]]]:
    """Arguments that tell the kernel from the changed one, with the name of their op."""
    rng = np.random.default_rng(7)
    if what == "long rows":  # the largest score comes last
        q, v = np.ones((1, 2, 4), np.float32), rng.normal(size=(1, 80, 4)).astype(np.float32)
        k = np.linspace(0, 9, 80 * 4, dtype=np.float32).reshape(1, 80, 4)
        return [("attention", (q, k, v, None, None, 1, False, 0.0))]
    if what == "cross":  # more keys than queries: a query sees keys behind its own number
        return [("attention_backward", args) for args in of_attention("attention_backward", later_keys)(rng, "float32")]
    if what == "nothing came out":
        arrays = [np.ones(shape, np.float32) for shape in ((2, 3, 2), (2, 3, 2), (2, 3, 2), (2, 2), (2, 2))]
        return [("rnn_backward", (arrays[0], 0 * arrays[1], *arrays[2:], "relu"))]
    if what == "padded":
        arrays = [
            rng.normal(size=shape).astype(np.float32) for shape in ((2, 3, 2), (2, 3, 2), (2, 3, 2), (2, 2), (2, 2))
        ]
        arrays[2][0, 2] = np.nan
        return [("rnn_backward", (*arrays, "tanh", np.array([2, 3])))]
    if what == "weightless":
        targets = np.array([[np.nan, 1.0], [0.5, 0.5]], np.float32)
        return [("soft_targets", (targets, 0.0, None, np.array([0, 2], np.float32)))]
    return [(what, args) for args in cases_of(what, "float32") if 0 not in args[0].shape]


def hold_all(what: str, orders: tuple[int, ...]) -> None:
    for op_name, args in given(what):
        hold(op_name, args, "float32", orders)


def later_keys(rng: Any, dtype: str) -> Any:
    q, k, v = (rng.normal(size=(1, length, 3)).astype(dtype) for length in (40, 80, 80))
    yield q, k, v, None, None, 1, True, 0.0


@pytest.mark.parametrize("what", MUTANTS)
def test_a_change_for_the_worse_is_found(what: str, mutants: dict[str, Kernels]) -> None:
    *_, cases, name = MUTANTS[what]
    patched: Any = cuda_host.Patched(cuda_host.driver().driver.kernels, name, mutants[what])
    with cuda_host.mode(kernels=patched), pytest.raises(AssertionError):
        hold_all(cases, (0, 1))
    assert patched.used > 0


@pytest.mark.parametrize("cases", sorted({cases for *_, cases, _ in MUTANTS.values() if not hasattr(ops, cases)}))
def test_what_tells_them_apart_passes_without_the_change(cases: str) -> None:
    hold_all(cases, (0, 1, 5))


# --- nets ---


class Both(bp.Layer):
    """Attention to itself, then to a part of its own input as a context."""

    def __init__(self) -> None:
        self.first = bp.MultiHeadAttention(8, 2, causal=True, rotary=10000.0, dropout=0.1)
        self.second = bp.MultiHeadAttention(8, 2, n_context=8)

    def __call__(self, x: Any) -> Any:
        return self.second(self.first(x), x)

    def forward(self, x: Any) -> Any:
        return self.second.forward(self.first.forward(x), x)

    def backward(self, dy: Any, need_dx: bool = True) -> Any:
        dx, dcontext = self.second.backward(dy)
        return ops.add(self.first.backward(dx), dcontext)


NETS: dict[str, Callable[[], bp.Layer]] = {
    "lstm": lambda: bp.Sequential(bp.Embedding(11, 6), bp.LSTM(6, 5, n_layers=2, bidirectional=True), bp.Dense(10, 11)),
    "gru": lambda: bp.Sequential(bp.Embedding(11, 6), bp.GRU(6, 5), bp.RNN(5, 4, last=True), bp.Dense(4, 11)),
    "attention": lambda: bp.Sequential(bp.Embedding(11, 8), Both(), bp.Dense(8, 11)),
    "blocks": lambda: bp.Sequential(
        bp.Embedding(11, 8), bp.LearnedPositions(9, 8), bp.TransformerBlock(8, 2, causal=True), bp.Dense(8, 11)
    ),
}


def trained(net: str, backend: str, n: int = 5, **more: Any) -> tuple[bp.Trainer, list[float]]:
    rng = np.random.default_rng(3)
    x = rng.integers(0, 11, (4, 9))
    y = x[:, 0] if net == "gru" else (x + 1) % 11
    trainer = bp.Trainer(NETS[net](), bp.SoftmaxCrossEntropy(), bp.AdamW(0.003), seed=1, backend=backend, **more)
    return trainer, [float(bp.to_numpy(trainer.step(x, y))) for _ in range(n)]


def bits(trainer: bp.Trainer) -> dict[str, bytes]:
    return {name: bp.to_numpy(array).tobytes() for name, array in trainer.model.store.arrays().items()}


@pytest.mark.parametrize("net", NETS)
def test_a_net_trains_as_on_numpy_planned_and_eager_with_the_same_bits(net: str) -> None:
    _, expected = trained(net, "numpy")
    planned, losses = trained(net, "cuda_host")
    eager, again = trained(net, "cuda_host", plan=False)
    assert "planned" in planned.plan_report(), planned.plan_report()
    np.testing.assert_allclose(losses, expected, rtol=1e-3)
    assert losses == again
    assert bits(planned) == bits(eager)
    (plan,) = planned._planner.plans().values()  # type: ignore[union-attr]
    assert {type(each) for each in plan._calls} == {HostLaunch, HostProduct}


@pytest.mark.parametrize("net", NETS)
def test_a_step_gives_the_same_bits_in_every_order_of_threads(net: str) -> None:
    one, losses = trained(net, "cuda_host", 2)
    with cuda_host.mode(orders=(0, 1)):
        other, again = trained(net, "cuda_host", 2)
    assert losses == again
    assert bits(one) == bits(other)


def test_text_is_continued_from_a_cache_as_on_numpy() -> None:
    """One position at a time: queries that are views, keys of several lengths."""
    answers = []
    for backend in ("numpy", "cuda_host"):
        model = NETS["blocks"]().initialize(seed=2, backend=backend)
        ids, cache = model.asarray(np.array([[1, 4, 2]])), None
        for _ in range(4):
            scores, cache = model.step(ids, cache)
            last = bp.to_numpy(scores)[:, -1]
            ids = model.asarray(last.argmax(axis=-1)[:, None])
        answers.append(last)
    np.testing.assert_allclose(*answers, rtol=1e-4, atol=1e-5)
