"""Layers of sequences and models of ids: derivatives, masks, caches, what the door says, and training."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bpnet as bp
from bpnet.testing import check_layer
from bpnet.testing.differences import compare
from bpnet.testing.inputs import SampleInputs
from bpnet.testing.layer_derivatives import assert_derivatives

RNG = np.random.default_rng(3)
N_TOKENS = 7


def gpt(**options: Any) -> bp.Sequential:
    """A small model of ids (N, T), T at most 6."""
    made: dict[str, Any] = {"causal": True} | options
    return bp.Sequential(
        bp.Embedding(N_TOKENS, 4),
        bp.LearnedPositions(6, 4),
        bp.TransformerBlock(4, 2, n_hidden=6, **made),
        bp.LayerNorm(4),
        bp.Unembedding(N_TOKENS, 4),
    )


MODELS: dict[str, tuple[Callable[[], bp.Layer], tuple[int, ...]]] = {
    "model of ids": (gpt, (5,)),
    "post-norm model": (lambda: gpt(pre_norm=False, activation="relu", dropout=0.2), (6,)),
    "gated, rotary model": (lambda: gpt(norm="rms", activation="swiglu", rotary=100.0), (1,)),
    "two embeddings": (lambda: bp.Concatenate(bp.Embedding(5, 2), bp.Embedding(5, 1)), (3,)),
    "attention": (lambda: bp.MultiHeadAttention(4, 2, causal=True, rotary=100.0), (3, 4)),
}
every_model = pytest.mark.parametrize(("make", "shape"), MODELS.values(), ids=MODELS)


@every_model
def test_models_of_ids_keep_the_promises_of_layers(make: Callable[[], bp.Layer], shape: tuple[int, ...]) -> None:
    """Those of the single layers are held by the registry's generic tests, on every backend."""
    check_layer(make, SampleInputs(shape, below=make().input_ids), strict=False)


@every_model
def test_every_backend_gives_the_same_outputs_and_gradients(
    make: Callable[[], bp.Layer], shape: tuple[int, ...], backend: bp.Backend
) -> None:
    host, there = (make().initialize(dtype="float64", backend=each) for each in ("numpy", backend))
    n_ids = host.input_ids
    x = RNG.normal(size=(2, *shape)) if n_ids is None else RNG.integers(0, n_ids, size=(2, *shape))
    y, other = host.forward(x), there.forward(there.asarray(x))
    np.testing.assert_allclose(bp.to_numpy(other), y, rtol=1e-12, atol=1e-12)
    dy = RNG.normal(size=y.shape)
    dx, other_dx = host.backward(dy), there.backward(there.asarray(dy))
    assert (dx is None) == (other_dx is None) == (n_ids is not None)
    if dx is not None:
        np.testing.assert_allclose(bp.to_numpy(other_dx), dx, rtol=1e-11, atol=1e-11)
    for path, parameter in host.parameters().items():
        found = bp.to_numpy(there.parameters()[path].grad)
        np.testing.assert_allclose(found, parameter.grad, rtol=1e-10, atol=1e-10, err_msg=path)


@every_model
def test_an_empty_batch_goes_through(make: Callable[[], bp.Layer], shape: tuple[int, ...]) -> None:
    layer = make().initialize()
    dtype = np.float32 if layer.input_ids is None else np.int64
    x = np.zeros((0, *shape), dtype)
    y = layer.forward(x)
    assert y.shape[0] == 0
    dx = layer.backward(np.zeros(y.shape, np.float32))
    assert dx is None or dx.shape == x.shape
    for parameter in layer.parameters().values():
        assert not parameter.grad.any()


# --- attention ---


def test_attention_by_hand() -> None:
    # one head of one feature: the scores are q k, and y the weighted mean of v
    q, k, v = np.array([[[1.0], [0.0]]]), np.array([[[0.0], [math.log(3)]]]), np.array([[[4.0], [8.0]]])
    y, p = bp.ops.attention(q, k, v, None, None, 1, False, 0.0)
    np.testing.assert_allclose(p[0, 0], [[0.25, 0.75], [0.5, 0.5]], rtol=1e-14)
    np.testing.assert_allclose(y[0, :, 0], [7.0, 6.0], rtol=1e-14)
    y, _ = bp.ops.attention(q, k, v, None, None, 1, True, 0.0)
    np.testing.assert_allclose(y[0, :, 0], [4.0, 6.0], rtol=1e-14)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("dropped", [False, True])
def test_the_derivatives_of_attention_with_a_mask_equal_differences(causal: bool, dropped: bool) -> None:
    n, n_queries, n_keys, heads = 2, 3, 4, 2
    arrays = [RNG.normal(size=(n, length, 4)) for length in (n_queries, n_keys, n_keys)]
    mask = np.array([[True, False, True, True], [False] * 4])
    keep = RNG.uniform(size=(n, heads, n_queries, n_keys)) > 0.3 if dropped else None
    settings = (mask, keep, heads, causal, 0.25 if dropped else 0.0)
    y, kept = bp.ops.attention(*arrays, *settings)
    dy = RNG.normal(size=y.shape)
    found = bp.ops.attention_backward(dy, y, *arrays, kept, *settings)
    for index, name in enumerate("qkv"):

        def loss(value: Any, index: int = index) -> float:
            changed = [value if i == index else each for i, each in enumerate(arrays)]
            return float(np.sum(bp.ops.attention(*changed, *settings)[0] * dy))

        comparison = compare(found[index], loss, arrays[index])
        assert comparison.agrees, f"d{name} {comparison.diagnosis}"
        assert not found[index][1].any()  # the sample in which nothing is seen


def test_a_position_that_sees_nothing_gets_zeros_and_no_warning(backend: bp.Backend) -> None:
    layer = bp.MultiHeadAttention(4, 2, bias=False).initialize(backend=backend)
    x = layer.asarray(RNG.normal(size=(2, 3, 4)), dtype="float32")
    mask = layer.asarray(np.array([[True, True, False], [False] * 3]))
    y = bp.to_numpy(layer.forward(x, mask=mask))
    assert np.isfinite(y).all()
    assert not y[1].any()
    dx = bp.to_numpy(layer.backward(layer.asarray(np.ones((2, 3, 4)), dtype="float32")))
    assert not dx[1].any()
    assert dx[0].any()


def test_padding_changes_nothing_for_the_tokens_that_are_there() -> None:
    layer = bp.TransformerBlock(4, 2).initialize(dtype="float64")
    short, long = RNG.normal(size=(1, 2, 4)), np.zeros((1, 5, 4))
    long[:, :2], long[:, 2:] = short, 1e3
    mask = np.array([[True, True, False, False, False]])
    np.testing.assert_allclose(layer(long, mask=mask)[:, :2], layer(short), rtol=1e-12)
    model = bp.Sequential(bp.Dense(4, 4), layer)
    with pytest.raises(bp.ConfigError, match="no layer in Sequential takes masks; declared are: mask"):
        model(short, masks=mask)
    np.testing.assert_allclose(model(long, mask=mask)[:, :2], model(short), rtol=1e-12)


def test_a_causal_model_does_not_see_what_is_to_come() -> None:
    model = gpt().initialize(dtype="float64")
    ids = RNG.integers(0, N_TOKENS, size=(2, 6))
    whole = model(ids)
    for length in range(1, 7):
        np.testing.assert_allclose(model(ids[:, :length]), whole[:, :length], rtol=1e-12, atol=1e-13)


def test_probabilities_that_are_made_again_give_what_kept_ones_give(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rule is one of shapes; here it is bent so that small arrays take the way of large ones."""
    arrays = [RNG.normal(size=(2, length, 6)) for length in (9, 11, 11)]
    mask = np.arange(11)[None, :] < np.array([[11], [4]])
    dy = RNG.normal(size=(2, 9, 6))
    found = []
    for kept_up_to in (1 << 22, 50):
        monkeypatch.setattr(bp.ops.attention.__wrapped__.__globals__["keeps_probabilities"], "__defaults__", None)
        globals_ = bp.ops.attention.__wrapped__.__globals__
        monkeypatch.setitem(globals_, "KEPT", kept_up_to)
        monkeypatch.setitem(globals_, "BLOCK", 60)
        for each in (bp.ops.attention, bp.ops.attention_backward):  # what is prepared knows shapes, and no other rule
            if each.shortcut is not None:
                each.shortcut.forget()
        for op, backward in (
            (bp.ops.attention, bp.ops.attention_backward),
            (bp.ops.attention.reference.body, bp.ops.attention_backward.reference.body),
        ):
            y, kept = op(*arrays, mask, None, 2, True, 0.0)
            assert (kept.ndim == 4) == (kept_up_to > 50)
            found.append((y, *backward(dy, y, *arrays, kept, mask, None, 2, True, 0.0)))
    for each in found[1:]:
        for a, b in zip(each, found[0], strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)


def test_dropout_of_attention_keeps_the_mean_and_repeats_until_the_backward() -> None:
    layer = bp.MultiHeadAttention(4, 1, dropout=0.5, bias=False).initialize(seed=2, dtype="float64")
    x = RNG.normal(size=(1, 8, 4))
    first = layer.forward(x)
    assert np.array_equal(layer.forward(x), first)
    layer.backward(np.ones_like(first))
    assert not np.array_equal(layer.forward(x), first)
    total = np.zeros_like(first)
    for _ in range(400):
        total += layer.forward(x) / 400
        layer.backward(np.zeros_like(first))
    np.testing.assert_allclose(total, layer(x), atol=0.15)


# --- positions, tables ---


def test_sines_and_turns_by_hand() -> None:
    x = np.zeros((1, 3, 4))
    table = bp.SinusoidalPositions().initialize(dtype="float64")(x)[0]
    np.testing.assert_allclose(table[2], [math.sin(2), math.cos(2), math.sin(0.02), math.cos(0.02)], rtol=1e-14)
    x[0, :, 0] = 1.0
    turned = bp.ops.rotate(x, 4, 4, 100.0, 0, 1.0)[0]
    np.testing.assert_allclose(turned[2], [math.cos(2), 0, math.sin(2), 0], atol=1e-15)
    np.testing.assert_allclose(bp.ops.rotate(turned[None], 4, 4, 100.0, 0, -1.0), x, atol=1e-15)


def test_turned_queries_and_keys_know_only_how_far_apart_they_are() -> None:
    q, k = RNG.normal(size=(2, 1, 9, 6))
    products = [
        np.sum(bp.ops.rotate(q, 6, 6, 1e4, start, 1.0) * bp.ops.rotate(k, 6, 6, 1e4, start + 2, 1.0), axis=-1)
        for start in (0, 5, 50)
    ]
    np.testing.assert_allclose(products[1], products[0], rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(products[2], products[0], rtol=1e-11, atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(
    n_tokens=st.sampled_from([1, 3, 255, 256, 257, 300]),
    n=st.integers(0, 40),
    width=st.integers(1, 5),
    seed=st.integers(0, 99),
)
def test_the_gradient_of_an_embedding_is_the_sum_over_the_places_of_an_id(
    n_tokens: int, n: int, width: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    ids, dy = rng.integers(-1, n_tokens + 1, size=n), rng.normal(size=(n, width))
    expected = np.zeros((n_tokens, width))
    for i, row in zip(ids, dy, strict=True):
        if 0 <= i < n_tokens:
            expected[i] += row
    for backward in (bp.ops.embedding_backward, bp.ops.embedding_backward.reference.body):
        np.testing.assert_allclose(backward(dy, ids, n_tokens), expected, rtol=1e-12, atol=1e-13)


def test_an_embedding_and_its_counterpart_may_share_one_table(tmp_path: Path) -> None:
    model = gpt()
    model[4].weight = model[0].weight  # type: ignore[attr-defined]
    model.initialize(dtype="float64")
    assert model.tied() == {"4.weight": "0.weight"}
    assert_derivatives(model, RNG.integers(0, N_TOKENS, size=(2, 4)))
    model.save(tmp_path / "tied.safetensors")
    loaded = bp.load(tmp_path / "tied.safetensors")
    assert loaded.tied() == model.tied()
    ids = RNG.integers(0, N_TOKENS, size=(2, 4))
    assert np.array_equal(loaded(ids), model(ids))


def test_a_block_costs_what_the_literature_says() -> None:
    """Products of a token: 24 D^2, and 4 T D in the attention. [Kaplan et al. 2020, table 1]"""
    length, width = 16, 32
    model = bp.Sequential(bp.TransformerBlock(width, 4, bias=False, activation="relu")).initialize()
    products = length * (24 * width**2 + 4 * length * width)
    found = model.summary((length, width)).rows[0][4]
    assert products < found < 1.25 * products  # norms, softmax, activation and sums are the rest


def test_layers_are_written_as_one_types_them() -> None:
    assert repr(gpt()[2]) == "TransformerBlock(4, 2, n_hidden=6, causal=True)"
    assert repr(bp.MultiHeadAttention(4, 2, dropout=0.1, rotary=1e4)) == (
        "MultiHeadAttention(4, 2, dropout=0.1, rotary=10000.0)"
    )
    assert repr(bp.LayerNorm(3)) == "LayerNorm(3)"
    assert repr(bp.RMSNorm(3, epsilon=0.5)) == "RMSNorm(3, epsilon=0.5)"
    assert repr(bp.Embedding(5, 2, weight_initializer="zeros")) == "Embedding(5, 2, weight_initializer='zeros')"
    assert repr(bp.SinusoidalPositions()) == "SinusoidalPositions()"


# --- caches ---


@pytest.mark.parametrize(
    "options",
    [{}, {"rotary": 50.0, "norm": "rms", "activation": "swiglu"}, {"pre_norm": False, "activation": "gelu_tanh"}],
    ids=str,
)
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 1e-5)])
def test_steps_from_a_cache_give_what_all_positions_at_once_give(
    options: dict[str, Any], dtype: str, tolerance: float, backend: bp.Backend
) -> None:
    model = gpt(**options).initialize(dtype=dtype, backend=backend)
    ids = RNG.integers(0, N_TOKENS, size=(2, 6))
    whole = bp.to_numpy(model(model.asarray(ids)))
    cache, parts = None, []
    for start, stop in ((0, 3), (3, 4), (4, 6)):
        before = cache
        y, cache = model.step(model.asarray(ids[:, start:stop]), cache)
        parts.append(bp.to_numpy(y))
        again, _ = model.step(model.asarray(ids[:, start:stop]), before)  # a cache is a value, which nobody changes
        assert np.array_equal(bp.to_numpy(again), parts[-1])
    np.testing.assert_allclose(np.concatenate(parts, axis=1), whole, rtol=0, atol=tolerance)


def test_what_cannot_go_on_from_a_cache_says_so() -> None:
    with pytest.raises(bp.StateError, match="it is not causal, so its outputs depend on positions to come"):
        bp.MultiHeadAttention(4, 2).step(np.zeros((1, 2, 4), np.float32))
    assert not gpt(causal=False).can_step
    assert bp.Sequential(bp.Residual(bp.Dense(3, 3)), bp.ReLU()).can_step
    with pytest.raises(bp.StateError, match=r"Flatten\(\) has no step"):
        bp.Sequential(bp.Dense(3, 3), bp.Flatten()).step(np.zeros((1, 2, 3), np.float32))


# --- the door ---


def raises(error: type[Exception], text: str) -> Any:
    import re

    return pytest.raises(error, match=re.escape(text))


def test_what_layers_refuse_when_they_are_made() -> None:
    with raises(bp.ConfigError, "got 3 heads and 4 features"):
        bp.MultiHeadAttention(4, 3)
    with raises(bp.ConfigError, "MultiHeadAttention: dropout must be in [0, 1), got 1"):
        bp.MultiHeadAttention(4, 2, dropout=1)
    with raises(bp.ConfigError, "causal is for a sequence that attends to itself; leave n_context out"):
        bp.MultiHeadAttention(4, 2, causal=True, n_context=3)
    with raises(bp.ConfigError, "rotary turns pairs of features, and a head has 3; choose heads of an even size"):
        bp.MultiHeadAttention(6, 2, rotary=1e4)
    with raises(bp.ConfigError, "rotary must be None or a base above 1, as 10000, got True"):
        bp.MultiHeadAttention(4, 2, rotary=True)
    with raises(bp.ConfigError, "n_context must be a whole number of at least 1, got 0"):
        bp.MultiHeadAttention(4, 2, n_context=0)
    with raises(bp.ConfigError, "made without dropout, it has no random stream; make it with dropout"):
        bp.MultiHeadAttention(4, 2).dropout = 0.5
    with raises(bp.ConfigError, "activation must be one of 'gelu', 'gelu_tanh', 'relu', 'silu', 'swiglu', got 'gleu'"):
        bp.TransformerBlock(4, 2, activation="gleu")
    with raises(bp.ConfigError, "norm must be one of 'layer', 'rms', got 'batch'"):
        bp.TransformerBlock(4, 2, norm="batch")
    with raises(bp.ConfigError, "n_hidden must be a whole number of at least 1, got 0"):
        bp.TransformerBlock(4, 2, n_hidden=0)
    with raises(bp.ConfigError, "LayerNorm: epsilon must be a number above 0 and below 1, got 0"):
        bp.LayerNorm(4, epsilon=0)
    with raises(bp.ConfigError, "RMSNorm needs a whole number of features, at least 1, got 2.5"):
        bp.RMSNorm(2.5)  # type: ignore[arg-type]
    with raises(bp.ConfigError, "Embedding needs at least 1 token and 1 feature, whole numbers: got Embedding(0, 4)"):
        bp.Embedding(0, 4)
    with raises(bp.ConfigError, "LearnedPositions needs at least 1 position and 1 feature"):
        bp.LearnedPositions(0, 4)


def test_what_layers_refuse_when_they_are_called() -> None:
    attention = bp.MultiHeadAttention(4, 2).initialize()
    x = np.zeros((2, 3, 4), np.float32)
    with raises(bp.ShapeError, "needs x of shape (N, T, 4), got (3, 4); for one sequence use x[None, ...]"):
        attention(x[0])
    with raises(bp.ShapeError, "needs sequences of at least one position, got x of shape (2, 0, 4)"):
        attention(x[:, :0])
    with raises(bp.ShapeError, "MultiHeadAttention(4, 2) needs x of shape (N, T, 4), got (2, 3, 5)"):
        attention(np.zeros((2, 3, 5), np.float32))
    with raises(bp.ShapeError, "MultiHeadAttention(4, 2) needs a mask of shape (2, 3), got (2, 4)"):
        attention(x, mask=np.ones((2, 4), bool))
    with raises(bp.DTypeError, "needs a mask of truth values, True where there is a token, got int64"):
        attention.forward(x, mask=np.ones((2, 3), np.int64))
    with raises(bp.DTypeError, "needs a mask of numpy.ndarray, got list; use model.asarray(mask)"):
        attention(x, mask=[[True] * 3] * 2)
    with raises(bp.ShapeError, "takes one input; give it n_context to take a second"):
        attention(x, x)
    cross = bp.MultiHeadAttention(4, 2, n_context=5).initialize()
    with raises(bp.ShapeError, "takes a second input, the context"):
        cross(x)
    with raises(bp.ShapeError, "needs a context of shape (2, S, 5), S at least 1, got (3, 2, 5)"):
        cross(x, np.zeros((3, 2, 5), np.float32))
    positions = bp.LearnedPositions(2, 4).initialize()
    with raises(bp.ShapeError, "has vectors for 2 positions, got sequences of 3; cut them, or make it with more"):
        positions(x)
    _, cache = positions.step(x[:, :2])
    with raises(bp.ShapeError, "has vectors for 2 positions, got sequences of 1 behind 2 others"):
        positions.step(x[:, :1], cache)
    with raises(bp.ShapeError, "SinusoidalPositions() needs an even number of features, got x of shape (2, 3, 3)"):
        bp.SinusoidalPositions()(x[..., :3])
    with raises(bp.ShapeError, "SwiGLU() halves the last axis, which must be even and at least 2, got (2, 3)"):
        bp.SwiGLU()(np.zeros((2, 3), np.float32))
    embedding = bp.Embedding(5, 4).initialize()
    with raises(bp.DTypeError, "takes ids, integers in 0 ... 4, got x of float32; if they are whole, use"):
        embedding(np.zeros((2, 3), np.float32))
    with raises(bp.DTypeError, "Embedding(5, 4) holds numpy.ndarray arrays, got list"):
        embedding([[1, 2]])
    with raises(bp.ShapeError, "needs ids of shape (N, ...), got a 0-d array"):
        embedding(np.array(3))
    attention.forward(x)
    with raises(bp.ShapeError, "backward needs dy of the output's shape (2, 3, 4), got (2, 3)"):
        attention.backward(x[..., 0])
    attention.backward(x)
    with raises(bp.StateError, "MultiHeadAttention.backward: nothing saved; call forward first"):
        attention.backward(x)


def trainer(model: bp.Layer, loss: bp.Loss | None = None, **more: Any) -> bp.Trainer:
    return bp.Trainer(model, loss or bp.SoftmaxCrossEntropy(), bp.AdamW(1e-2), seed=1, **more)


def test_ids_are_checked_once_where_they_enter() -> None:
    ids = RNG.integers(0, N_TOKENS, size=(8, 5))
    wrong = ids.copy()
    wrong[6, 2] = N_TOKENS
    message = "x holds 1 ids outside 0 ... 6, which are all that the model's first layer knows; the first is 7 at index"
    model = gpt().initialize(seed=1)
    before = model.store.values.copy()
    with raises(bp.DataError, f"{message} (6, 2)"):
        trainer(model).fit(wrong, ids, epochs=1, progress=False)
    with raises(bp.DataError, "validation x holds 1 ids outside 0 ... 6"):
        trainer(model).fit(ids, ids, validation_data=(wrong, ids), epochs=1, progress=False)
    with raises(bp.DataError, f"{message} (6, 2)"):
        bp.predict(model, wrong, batch_size=3)
    with raises(bp.DataError, f"{message} (6, 2)"):
        trainer(model).evaluate(wrong, ids)
    with raises(bp.DTypeError, "x must hold ids, integers in 0 ... 6, which the model begins with; got float64"):
        trainer(model).fit(ids.astype(float), ids, epochs=1, progress=False)
    with raises(bp.DTypeError, "x must hold ids, integers in 0 ... 6, which the model begins with; got float32"):
        trainer(model).step(ids.astype(np.float32), ids)
    with raises(bp.DTypeError, "x must hold ids, integers in 0 ... 6"):
        bp.predict(model, ids.astype(np.float32))
    with raises(bp.ShapeError, "has vectors for 6 positions, got sequences of 7"):
        trainer(model).fit(np.zeros((4, 7), int), np.zeros((4, 7), int), epochs=1, progress=False)
    assert np.array_equal(model.store.values, before)


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64])
def test_ids_of_any_integer_dtype_are_the_same(dtype: Any, backend: bp.Backend) -> None:
    ids = RNG.integers(0, N_TOKENS, size=(4, 5))
    model = gpt().initialize(backend=backend)
    expected = bp.predict(model, ids)
    assert np.array_equal(bp.predict(model, ids.astype(dtype)), expected)
    assert np.array_equal(bp.predict(model, ids.astype(dtype).tolist()), expected)
    value = trainer(model).step(ids.astype(dtype), ids.astype(dtype))
    assert math.isfinite(float(bp.to_numpy(value)))


def test_a_model_of_single_ids_takes_them_without_an_axis_of_positions() -> None:
    model = bp.Sequential(bp.Embedding(5, 3), bp.Dense(3, 2)).initialize()
    ids = np.array([0, 4, 2, 2])
    assert bp.predict(model, ids).shape == (4, 2)
    history = trainer(model).fit(ids, np.array([0, 1, 1, 1]), epochs=2, progress=False)
    assert len(history) == 2


# --- training ---


def sequences() -> tuple[Any, Any]:
    """Counting up modulo N_TOKENS, from everywhere: what follows is certain."""
    x = (np.arange(N_TOKENS)[:, None] + np.arange(6)) % N_TOKENS
    return x, (x + 1) % N_TOKENS


def test_planned_training_is_the_eager_one_bit_for_bit() -> None:
    x, y = sequences()
    found = []
    for plan in (True, False):
        model = gpt(dropout=0.2, rotary=100.0, activation="gelu_tanh").initialize(seed=3)
        run = trainer(model, plan=plan, metrics=[bp.Accuracy(), bp.Perplexity()])
        history = run.fit(x, y, epochs=6, batch_size=3, micro_batch_size=2, progress=False)
        found.append((model.store.values.tobytes(), history["loss"], history["accuracy"]))
        if plan:
            assert "planned" in run.plan_report()
            assert "eager, because" not in run.plan_report()
    assert found[0] == found[1]


def test_a_model_learns_to_count_and_says_what_follows() -> None:
    x, y = sequences()
    model = gpt(rotary=100.0).initialize(seed=1)
    run = trainer(model, metrics=[bp.Accuracy()])
    history = run.fit(x, y, epochs=120, batch_size=7, progress=False)
    assert history["accuracy"][-1] == 1.0
    assert run.evaluate(x, y)["accuracy"] == 1.0
    model.info["vocabulary"] = "0123456"
    assert bp.generate(model, "2", length=14, temperature=0) == "234560123456012"  # far behind the sixth position
    assert bp.generate(model, np.array([[5, 6], [0, 1]]), length=3, temperature=0).tolist() == [
        [5, 6, 0, 1, 2],
        [0, 1, 2, 3, 4],
    ]


def test_labels_to_ignore_count_for_nothing_in_loss_and_metrics() -> None:
    x, y = sequences()
    padded = np.concatenate((y[:, :4], np.full((len(y), 2), -1)), axis=1)
    metrics = [bp.Accuracy(ignore_index=-1), bp.Perplexity(ignore_index=-1)]
    values = []
    for targets, inputs, n in ((padded, x, 6), (y[:, :4], x[:, :4], 4)):
        model = gpt().initialize(seed=3, dtype="float64")
        run = trainer(model, bp.SoftmaxCrossEntropy(ignore_index=-1), metrics=metrics)
        results = run.evaluate(inputs, targets)
        run.fit(inputs, targets, epochs=3, batch_size=3, progress=False)
        values.append((results, [p.value.copy() for p in model.parameters().values()], n))
    assert values[0][0] == pytest.approx(values[1][0], rel=1e-12)
    for a, b in zip(values[0][1], values[1][1], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-10)


def test_a_checkpoint_of_a_model_of_ids_goes_on_bit_for_bit(tmp_path: Path) -> None:
    x, y = sequences()

    def fresh() -> bp.Trainer:
        return trainer(gpt(dropout=0.1).initialize(seed=2))

    whole = fresh()
    whole.fit(x, y, epochs=4, batch_size=3, progress=False)
    half = fresh()
    half.fit(x, y, epochs=2, batch_size=3, progress=False)
    half.save(tmp_path / "half.safetensors")
    rest = fresh()
    rest.restore(tmp_path / "half.safetensors")
    rest.fit(x, y, epochs=2, batch_size=3, progress=False)
    assert rest.model.store.values.tobytes() == whole.model.store.values.tobytes()


def test_ids_from_a_memory_map_are_checked_batch_by_batch(tmp_path: Path) -> None:
    x, y = sequences()
    np.save(tmp_path / "x.npy", x)
    model = gpt().initialize(seed=3)
    there = np.load(tmp_path / "x.npy", mmap_mode="r")
    history = trainer(model).fit(there, y, epochs=2, batch_size=3, progress=False)
    again = gpt().initialize(seed=3)
    expected = trainer(again).fit(x, y, epochs=2, batch_size=3, progress=False)
    assert history["loss"] == expected["loss"]
    x[5, 5] = -2
    np.save(tmp_path / "wrong.npy", x)
    there = np.load(tmp_path / "wrong.npy", mmap_mode="r")
    with raises(bp.DataError, "x holds 1 ids outside 0 ... 6"):
        trainer(gpt().initialize()).fit(there, y, epochs=1, batch_size=3, progress=False)


def test_frozen_tables_and_blocks_stay_as_they_are() -> None:
    x, y = sequences()
    model = gpt().initialize(seed=3)
    for path, parameter in model.parameters().items():
        parameter.trainable = path.startswith(("2.attention.qkv", "4"))
    before = {path: parameter.value.copy() for path, parameter in model.parameters().items()}
    trainer(model).fit(x, y, epochs=2, batch_size=3, progress=False)
    for path, parameter in model.parameters().items():
        assert np.array_equal(parameter.value, before[path]) != parameter.trainable, path


def test_models_of_ids_can_be_audited_explained_summed_up_and_pickled() -> None:
    model = gpt(dropout=0.1).initialize(seed=1)
    report = bp.audit(model, bp.SoftmaxCrossEntropy(), samples=2)
    assert report.passed, str(report)
    assert bp.audit(model, bp.SoftmaxCrossEntropy(), against="eager", samples=2).passed
    ids = RNG.integers(0, N_TOKENS, size=(2, 3))
    explanation = bp.explain(model, ids, bp.SoftmaxCrossEntropy(), ids)
    assert explanation.dx is None
    assert not explanation.disagreements
    assert "The id names a row of the table: weight[" in str(explanation)
    table = str(model.summary((5,)))
    assert "TransformerBlock(4, 2, n_hidden=6, causal=True, dropout=0.1)" in table
    assert "(N, 5, 7)" in table
    assert f"{model.n_parameters} parameters" in table
    assert sum(int(row[3]) for row in model.summary((5,)).rows) == model.n_parameters
    again = pickle.loads(pickle.dumps(model))
    assert np.array_equal(again(ids), model(ids))


def test_strict_mode_with_values_lets_ids_through() -> None:
    x, y = sequences()
    model = gpt().initialize(seed=1)
    with bp.strict(values=True):
        trainer(model).fit(x, y, epochs=1, batch_size=4, progress=False)


def test_attention_to_a_context_has_derivatives_by_both_inputs() -> None:
    layer = bp.MultiHeadAttention(4, 2, n_context=3).initialize(dtype="float64", seed=2)
    x, context = RNG.normal(size=(2, 3, 4)), RNG.normal(size=(2, 5, 3))
    mask = np.array([[True] * 5, [True, True, False, False, True]])
    dy = RNG.normal(size=x.shape)
    assert np.array_equal(layer.forward(x, context, mask=mask), layer(x, context, mask=mask))
    dx, dcontext = layer.backward(dy)
    for found, loss, value in (
        (dx, lambda v: float(np.sum(layer(v, context, mask=mask) * dy)), x),
        (dcontext, lambda v: float(np.sum(layer(x, v, mask=mask) * dy)), context),
    ):
        comparison = compare(found, loss, value)
        assert comparison.agrees, comparison.diagnosis
    for path, parameter in layer.parameters().items():
        start = parameter.value.copy()

        def loss_of(value: Any, parameter: Any = parameter) -> float:
            parameter.value = value
            return float(np.sum(layer(x, context, mask=mask) * dy))

        comparison = compare(parameter.grad.copy(), loss_of, start)
        parameter.value = start
        assert comparison.agrees, f"{path}: {comparison.diagnosis}"
    assert not dcontext[1, 2:4].any()
    layer.forward(x, context)
    assert layer.backward(dy, need_dx=False) is None
