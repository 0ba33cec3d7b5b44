"""Recurrent layers: steps worked by hand, derivatives, padded batches, both directions, going on from states."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from finite_differences import assert_gradient

import bpnet as bp
from bpnet import ops
from bpnet.testing.layer_derivatives import derivatives

KINDS: dict[str, Any] = {
    "tanh": bp.RNN,
    "relu": lambda *sizes, **settings: bp.RNN(*sizes, activation="relu", **settings),
    "lstm": bp.LSTM,
    "gru": bp.GRU,
}
every_kind = pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "last": {"last": True},
    "stacked": {"n_layers": 2},
    "both ways": {"bidirectional": True},
    "stacked, both ways, last": {"n_layers": 2, "bidirectional": True, "last": True},
}
every_setting = pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
LENGTHS = [3, 5, 1, 0, 2]


def sequences(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(size=shape)


def set_all(layer: bp.Layer, value: float) -> None:
    for parameter in layer.parameters().values():
        parameter.value = np.full(parameter.shape, value)


def logistic(x: float) -> float:
    return 1 / (1 + math.exp(-x))


# --- by hand ---


def test_two_steps_of_an_rnn_by_hand(backend: bp.Backend) -> None:
    layer = bp.RNN(1, 1).initialize(backend=backend, dtype="float64")
    layer.weight[0].value, layer.recurrent[0].value, layer.bias[0].value = [[2.0]], [[0.5]], [0.1]
    y = layer.forward(layer.asarray([[[1.0], [-1.0]]]))
    first = math.tanh(2.1)
    second = math.tanh(-1.9 + 0.5 * first)
    np.testing.assert_allclose(bp.to_numpy(y).ravel(), [first, second], rtol=1e-14)
    dx = layer.backward(layer.asarray([[[0.0], [1.0]]]))
    after = 1 - second**2
    before = after * 0.5 * (1 - first**2)
    np.testing.assert_allclose(bp.to_numpy(dx).ravel(), [2 * before, 2 * after], rtol=1e-14)
    gradients = [float(bp.to_numpy(p.grad).ravel()[0]) for p in layer.parameters().values()]
    np.testing.assert_allclose(gradients, [before - after, after * first, before + after], rtol=1e-14)


def test_two_steps_of_an_lstm_by_hand(backend: bp.Backend) -> None:
    layer = bp.LSTM(1, 1).initialize(backend=backend, dtype="float64")
    layer.weight[0].value, layer.recurrent[0].value = [[1.0, 2.0, -1.0, 0.5]], [[0.3, -0.2, 0.7, 0.1]]
    layer.bias[0].value = [0.0, 1.0, 0.5, -0.5]
    y = bp.to_numpy(layer(layer.asarray([[[0.4], [-0.6]]]))).ravel()
    h = c = 0.0
    for x, found in zip((0.4, -0.6), y, strict=True):
        i, f = logistic(x + 0.3 * h), logistic(2 * x - 0.2 * h + 1)
        g, o = math.tanh(-x + 0.7 * h + 0.5), logistic(0.5 * x + 0.1 * h - 0.5)
        c = f * c + i * g
        h = o * math.tanh(c)
        assert found == pytest.approx(h, rel=1e-14)


def test_two_steps_of_a_gru_by_hand(backend: bp.Backend) -> None:
    layer = bp.GRU(1, 1).initialize(backend=backend, dtype="float64")
    layer.weight[0].value, layer.recurrent[0].value = [[1.0, 2.0, -1.0]], [[0.3, -0.2, 0.7]]
    layer.bias[0].value, layer.bias_n[0].value = [0.1, 1.0, 0.5], [0.25]
    y = bp.to_numpy(layer(layer.asarray([[[0.4], [-0.6]]]))).ravel()
    h = 0.0
    for x, found in zip((0.4, -0.6), y, strict=True):
        r, z = logistic(x + 0.3 * h + 0.1), logistic(2 * x - 0.2 * h + 1)
        n = math.tanh(-x + 0.5 + r * (0.7 * h + 0.25))
        h = (1 - z) * n + z * h
        assert found == pytest.approx(h, rel=1e-14)


def test_an_lstm_that_forgets_nothing_counts() -> None:
    """With gates wide open, and the forget gate at 1, the cell is the sum of what came."""
    layer = bp.LSTM(1, 1).initialize(dtype="float64")
    layer.weight[0].value, layer.recurrent[0].value = [[0.0, 0.0, 1e-4, 0.0]], [[0.0] * 4]
    layer.bias[0].value = [40.0, 40.0, 0.0, 40.0]
    x = np.arange(1.0, 9.0).reshape(1, 8, 1)
    np.testing.assert_allclose(layer(x).ravel(), 1e-4 * np.cumsum(x), rtol=1e-4)


# --- derivatives ---


def assert_derivatives(layer: bp.Layer, x: Any, side: Any = None) -> None:
    found = derivatives(layer, x, side=side)
    assert set(found) == {"dx", *layer.parameters()}
    assert [f"{name} {each.diagnosis}" for name, each in found.items() if not each.agrees] == []


@every_setting
@every_kind
@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["whole", "padded"])
def test_derivatives_equal_differences(make: Any, settings: Any, lengths: Any) -> None:
    layer = make(3, 2, **settings).initialize(seed=2, dtype="float64")
    for bias in layer.bias:
        bias.value = np.random.default_rng(1).normal(size=bias.shape)  # no relu stands at its kink
    assert_derivatives(layer, sequences(5, 5, 3), None if lengths is None else {"lengths": np.asarray(lengths)})


@every_kind
@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 4, 3), (4, 1, 3)], ids=str)
def test_derivatives_of_one_sequence_and_of_one_position(make: Any, shape: tuple[int, ...]) -> None:
    assert_derivatives(make(3, 2, bidirectional=True).initialize(seed=4, dtype="float64"), sequences(*shape))


@pytest.mark.parametrize("reverse", [False, True])
def test_the_derivative_of_the_last_step(reverse: bool) -> None:
    y, dy, lengths = sequences(5, 4, 3), sequences(5, 3, seed=1), np.array([1, 4, 0, 2, 9])
    dx = ops.last_step_backward(dy, 4, lengths, reverse)
    assert_gradient(dx, lambda value: float(np.sum(dy * ops.last_step(value, lengths, reverse))), y)


# --- padded batches ---


@every_setting
@every_kind
def test_a_padded_batch_is_its_sequences_one_by_one(make: Any, settings: Any, backend: bp.Backend) -> None:
    layer = make(3, 4, **settings).initialize(seed=1, backend=backend, dtype="float64")
    x = sequences(5, 5, 3)
    lengths = np.asarray(LENGTHS)
    beyond = np.arange(5) >= lengths[:, None]
    x[beyond] = np.nan  # nobody looks there
    y = layer.forward(layer.asarray(x), lengths=layer.asarray(lengths))
    dy = sequences(*y.shape, seed=1)
    dx = bp.to_numpy(layer.backward(layer.asarray(np.array(dy))))
    found = bp.to_numpy(y)
    assert not dx[beyond].any()
    assert not found[3].any()
    assert settings.get("last") or not found[beyond].any()
    expected = {path: np.zeros(p.shape) for path, p in layer.parameters().items()}
    for n, length in enumerate(LENGTHS):
        if not length:
            continue
        alone = layer.forward(layer.asarray(x[n : n + 1, :length]))
        part = dy[n : n + 1] if settings.get("last") else dy[n : n + 1, :length]
        layer.store.consume_gradients()
        dx_alone = layer.backward(layer.asarray(part))
        close = {"rtol": 1e-12, "atol": 1e-13}
        own = found[n] if settings.get("last") else found[n, :length]
        np.testing.assert_allclose(bp.to_numpy(alone)[0], own, **close)
        np.testing.assert_allclose(bp.to_numpy(dx_alone)[0], dx[n, :length], **close)
        for path, p in layer.parameters().items():
            expected[path] += bp.to_numpy(p.grad)
    layer.store.consume_gradients()
    x[beyond] = 7.0
    layer.forward(layer.asarray(x), lengths=layer.asarray(lengths))
    layer.backward(layer.asarray(dy))
    for path, p in layer.parameters().items():
        np.testing.assert_allclose(bp.to_numpy(p.grad), expected[path], rtol=1e-11, atol=1e-12)


@every_kind
def test_full_lengths_change_nothing_and_lists_are_lengths_too(make: Any, backend: bp.Backend) -> None:
    layer = make(3, 4, n_layers=2, bidirectional=True).initialize(backend=backend, dtype="float64")
    x = layer.asarray(sequences(4, 5, 3))
    y = bp.to_numpy(layer(x))
    for lengths in ([5] * 4, (5, 5, 5, 5), layer.asarray([5, 6, 5, 99])):
        found = bp.to_numpy(layer(x, lengths=lengths))  # where lengths are given another body may run
        np.testing.assert_allclose(found, y, rtol=1e-12, atol=1e-14)
    some = layer.asarray([5, 3, 0, 1], dtype="int32")
    np.testing.assert_array_equal(bp.to_numpy(layer(x, lengths=some)), bp.to_numpy(layer(x, lengths=[5, 3, 0, 1])))
    np.testing.assert_array_equal(
        bp.to_numpy(layer(x, lengths=layer.asarray([5, 3, -4, 1]))), bp.to_numpy(layer(x, lengths=[5, 3, 0, 1]))
    )


@every_kind
def test_what_comes_after_a_position_does_not_reach_it(make: Any) -> None:
    x = sequences(2, 6, 3)
    changed = x.copy()
    changed[:, 4:] += 1
    one_way, both = make(3, 4).initialize(dtype="float64"), make(3, 4, bidirectional=True).initialize(dtype="float64")
    np.testing.assert_array_equal(one_way(x)[:, :4], one_way(changed)[:, :4])
    assert (both(x)[:, :4, :4] == both(changed)[:, :4, :4]).all()
    assert (both(x)[:, :4, 4:] != both(changed)[:, :4, 4:]).any()


@every_kind
def test_the_backward_direction_is_the_forward_one_of_the_reversed_sequence(make: Any) -> None:
    layer, mirror = make(3, 4, bidirectional=True).initialize(dtype="float64"), make(3, 4).initialize(dtype="float64")
    for name, parameter in mirror.parameters().items():
        parameter.value = layer.parameters()[name.replace(".0", ".1")].value
    x = sequences(2, 6, 3)
    np.testing.assert_allclose(layer(x)[:, :, 4:], mirror(x[:, ::-1])[:, ::-1], rtol=1e-13, atol=1e-15)


# --- sizes, states, settings ---


@every_setting
@every_kind
@pytest.mark.parametrize("n", [0, 1])
def test_batches_of_none_and_of_one(make: Any, settings: Any, n: int, backend: bp.Backend) -> None:
    layer = make(3, 4, **settings).initialize(backend=backend)
    for lengths in (None, [2] * n):
        y = layer.forward(layer.asarray(sequences(n, 4, 3)), lengths=lengths)
        assert tuple(y.shape[1:]) == layer.output_shape((4, 3))
        dx = layer.backward(layer.backend.xp.ones_like(y))
        assert tuple(dx.shape) == (n, 4, 3)
        assert all(bool(np.isfinite(bp.to_numpy(p.grad)).all()) for p in layer.parameters().values())


@every_kind
@pytest.mark.parametrize("cuts", [(5,), (1, 1, 1, 1, 1), (2, 3)], ids=str)
def test_steps_joined_are_the_whole(make: Any, cuts: tuple[int, ...], backend: bp.Backend) -> None:
    layer = make(3, 4, n_layers=2).initialize(backend=backend, dtype="float64")
    x = sequences(2, 5, 3)
    cache, start, parts = None, 0, []
    for n in cuts:
        y, cache = layer.step(layer.asarray(x[:, start : start + n]), cache)
        parts.append(bp.to_numpy(y))
        start += n
    whole = bp.to_numpy(layer(layer.asarray(x)))
    np.testing.assert_allclose(np.concatenate(parts, axis=1), whole, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(bp.to_numpy(cache[1][0]), whole[:, -1], rtol=1e-12, atol=1e-14)
    assert [len(state) for state in cache] == [2 if isinstance(layer, bp.LSTM) else 1] * 2


def test_a_step_that_cannot_be_made_is_refused() -> None:
    both = bp.LSTM(3, 4, bidirectional=True).initialize()
    assert not both.can_step
    with pytest.raises(bp.StateError, match=r"has no step: its outputs depend on positions to come$"):
        both.step(np.zeros((1, 1, 3), np.float32))
    layer = bp.GRU(3, 4).initialize()
    _, cache = layer.step(np.zeros((2, 1, 3), np.float32))
    with pytest.raises(bp.ShapeError, match=r"GRU\(3, 4\).step needs states of shape \(5, 4\), got \(2, 4\)$"):
        layer.step(np.zeros((5, 1, 3), np.float32), cache)


@pytest.mark.parametrize(
    ("lengths", "error", "message"),
    [
        ([1, 2], bp.ShapeError, r"LSTM\(3, 4\) needs one length for every sequence, of shape \(3,\), got \(2,\)$"),
        (np.ones((3, 1), np.int64), bp.ShapeError, r"of shape \(3,\), got \(3, 1\)$"),
        ([1, 6, 2], bp.ShapeError, r"needs lengths in 0 ... 5, the positions of x \(3, 5, 3\), got 6; cut longer"),
        ([1, -1, 2], bp.ShapeError, r"got -1; cut longer"),
        ([1, 2.0, 2], bp.DTypeError, r"needs lengths that are whole numbers, got 2.0$"),
        ([1, True, 2], bp.DTypeError, r"got True$"),
        (
            np.ones(3),
            bp.DTypeError,
            r"whole numbers, got an array of float64; use model.asarray\(lengths, dtype=\"int64",
        ),
        (np.ones(3, bool), bp.DTypeError, r"got an array of bool"),
        (3, bp.DTypeError, r"needs lengths of x's array library, or a list; use model.asarray\(lengths\)$"),
    ],
)
def test_wrong_lengths_are_refused(lengths: Any, error: type[Exception], message: str) -> None:
    layer = bp.LSTM(3, 4).initialize()
    x = np.zeros((3, 5, 3), np.float32)
    for call in (layer, layer.forward):
        with pytest.raises(error, match=message):
            call(x, lengths=lengths)
    assert layer._kept is None


def test_shapes_that_nothing_can_come_of_are_refused_before_anything_runs() -> None:
    with pytest.raises(bp.ShapeError, match=r"^RNN\(1, 2\) needs x of shape .N, T, 1., got .5, 3.; for sequences of s"):
        bp.RNN(1, 2).initialize()(np.zeros((5, 3), np.float32))
    with pytest.raises(bp.ShapeError, match="at least one position"):
        bp.LSTM(3, 4).output_shape((0, 3))
    assert bp.LSTM(3, 4, bidirectional=True).output_shape((7, 3)) == (7, 8)
    assert bp.GRU(3, 4, last=True).output_shape((7, 3)) == (4,)


def test_each_gate_is_drawn_by_itself() -> None:
    lstm, gru = bp.LSTM(3, 4, n_layers=2).initialize(dtype="float64"), bp.GRU(3, 4).initialize(dtype="float64")
    for U in [p.value for p in (*lstm.recurrent, *gru.recurrent)]:
        for start in range(0, U.shape[1], 4):
            np.testing.assert_allclose(U[:, start : start + 4].T @ U[:, start : start + 4], np.eye(4), atol=1e-12)
    assert lstm.bias[1].value.tolist() == [0.0] * 4 + [1.0] * 4 + [0.0] * 8
    assert not bp.LSTM(3, 4, forget_bias=0).initialize().bias[0].value.any()
    W = bp.LSTM(30, 40).initialize(dtype="float64").weight[0].value
    assert math.sqrt(6 / 70) * 0.99 < np.abs(W).max() <= math.sqrt(6 / 70)
    with pytest.raises(bp.ConfigError, match="^4 equal blocks do not fill a last axis of 6$"):
        bp.Parameter((2, 6), bp.initializers.side_by_side(*(bp.initializers.zeros,) * 4)).initializer(None, (2, 6))


def test_parameters_texts_and_models_in_files(tmp_path: Any) -> None:
    model = bp.Sequential(
        bp.LSTM(3, 4, n_layers=2, forget_bias=0.5), bp.GRU(4, 2, bidirectional=True, last=True), bp.Dense(4, 1)
    ).initialize()
    assert repr(model[0]) == "LSTM(3, 4, n_layers=2, forget_bias=0.5)"
    assert repr(model[1]) == "GRU(4, 2, bidirectional=True, last=True)"
    assert repr(bp.RNN(3, 4, activation="relu")) == "RNN(3, 4, activation='relu')"
    shapes = {path: p.shape for path, p in model[0].parameters().items()}
    assert shapes == {
        "weight.0": (3, 16), "weight.1": (4, 16), "recurrent.0": (4, 16), "recurrent.1": (4, 16), "bias.0": (16,),
        "bias.1": (16,),
    }  # fmt: skip
    assert json.loads(json.dumps(model[0].config))["forget_bias"] == 0.5
    model.save(tmp_path / "a.safetensors")
    again = bp.load(tmp_path / "a.safetensors")
    x = sequences(2, 5, 3).astype("float32")
    np.testing.assert_array_equal(again(x, lengths=[2, 5]), model(x, lengths=[2, 5]))
    assert repr(again) == repr(model)


@every_kind
def test_frozen_parameters_get_no_gradient_and_let_it_through(make: Any) -> None:
    layer = make(3, 4, n_layers=2).initialize(dtype="float64")
    x, dy = sequences(2, 5, 3), sequences(2, 5, 4)
    layer.forward(x)
    dx = layer.backward(dy)
    bias = layer.bias[1].grad.copy()
    layer.store.consume_gradients()
    layer.weight[1].trainable = False
    layer.forward(x)
    np.testing.assert_array_equal(layer.backward(dy), dx)
    assert not layer.weight[1].grad.any()
    np.testing.assert_array_equal(layer.bias[1].grad, bias)
    layer.freeze()
    layer.forward(x)
    np.testing.assert_array_equal(layer.backward(dy), dx)
    layer.forward(x)
    assert layer.backward(dy, need_dx=False) is None


@every_kind
def test_a_planned_fit_is_the_eager_one_to_the_bit(make: Any) -> None:
    """Which sequence has its largest number first."""
    x = sequences(64, 6, 2).astype("float32")
    y = (x[:, :, 0].argmax(axis=1) == 0).astype("int64")
    values = []
    for plan in (True, False):
        model = bp.Sequential(make(2, 8, n_layers=2, last=True), bp.Dense(8, 2)).initialize(seed=1)
        trainer = bp.Trainer(model, bp.SoftmaxCrossEntropy(), bp.Adam(0.01), seed=0, plan=plan)
        for _ in range(6):
            trainer.step(x, y)
        if plan:
            assert "planned" in str(trainer.plan_report())
        values.append(bp.to_numpy(model.store.values).tobytes())
    assert values[0] == values[1]


@pytest.mark.parametrize("make", [bp.LSTM, bp.GRU])
def test_it_learns_what_lies_far_back(make: Any) -> None:
    """The answer is the first of 20 numbers, the others are noise."""
    rng = np.random.default_rng(0)
    x = 0.3 * rng.normal(size=(400, 20, 1)).astype("float32")
    y = rng.integers(0, 2, 400)
    x[:, 0, 0] += 2 * y - 1
    model = bp.Sequential(make(1, 12, last=True), bp.Dense(12, 2))
    trainer = bp.Trainer(model, bp.SoftmaxCrossEntropy(), bp.Adam(0.02), metrics=[bp.Accuracy()], seed=0)
    trainer.fit(x[:300], y[:300], epochs=25, batch_size=50, progress=False)
    assert trainer.evaluate(x[300:], y[300:])["accuracy"] > 0.95


def test_the_recipe_of_text_is_trained_and_writes() -> None:
    from bpnet import recipes

    assert recipes.check("char-lstm") == []
    small = ["Embedding(96, 16)", "LSTM(16, 16)", "Unembedding(96, 16)"]
    run = recipes.find("char-lstm", {"model.layers": small, "data.length": 16}).prepare()
    losses = [float(run.trainer.step(*batch)) for batch in bp.data.batches(run.training[:2560], 16)]
    assert np.mean(losses[-20:]) < np.mean(losses[:5]) - 0.5
    model = run.model
    ids = np.array([[3, 4, 5], [60, 61, 62]])
    found = bp.generate(model, ids, length=8, temperature=0)
    assert model.can_step
    for n in range(3, 11):  # as the whole sequence says, each time from its start
        assert (np.argmax(model(model.asarray(found[:, :n])), axis=-1)[:, -1] == found[:, n]).all()
