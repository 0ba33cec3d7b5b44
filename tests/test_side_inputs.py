"""Side inputs through the Trainer: masks and lengths go with their samples, and the gradients are the loop's."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import read_only

import bpnet as bp
from bpnet.data import batches

RNG = np.random.default_rng(8)
N, T = 22, 5
X = RNG.normal(size=(N, T, 3)).astype("float32")
Y = RNG.integers(0, 2, N)
LENGTHS = RNG.integers(1, T + 1, N)
FILE = "failed.safetensors"
MASK = np.arange(T)[None, :] < LENGTHS[:, None]


def lstm() -> bp.Layer:
    return bp.Sequential(bp.LSTM(3, 4, n_layers=2, bidirectional=True, last=True), bp.Dense(8, 2))


def attending() -> bp.Layer:
    return bp.Sequential(bp.TransformerBlock(3, 1, n_hidden=5), bp.LSTM(3, 3, last=True), bp.Dense(3, 2))


def make(model: bp.Layer, **settings: Any) -> bp.Trainer:
    return bp.Trainer(model, bp.SoftmaxCrossEntropy(), bp.SGD(0.1, momentum=0.9), seed=3, **settings)


def values(trainer: bp.Trainer) -> Any:
    return bp.to_numpy(trainer.model.store.values)


def by_hand(
    model: bp.Layer, data: bp.Dataset, epochs: int, batch_size: int, size: int | None = None, **given: Any
) -> Any:
    """The explicit loop over the same batches: every gradient is that of the loss of the samples, with their own."""
    loss, optimizer = bp.SoftmaxCrossEntropy(), bp.SGD(0.1, momentum=0.9)
    for epoch in range(epochs):
        order = bp.data.dataset.epoch_order(len(data), 3, epoch)  # type: ignore[attr-defined]
        for start in range(0, len(data), batch_size):
            rows = order[start : start + batch_size]
            step = size or batch_size
            weight = None if data.weight is None else model.asarray(data.weight[rows])
            total = loss.total_weight((len(rows), 2), model.asarray(data.y[rows]), weight)
            for first in range(0, len(rows), step):
                own = rows[first : first + step]
                side = {name: model.asarray(array[own]) for name, array in given.items()}
                prediction = model.forward(model.asarray(data.x[own]), **side)
                part = None if data.weight is None else model.asarray(data.weight[own])
                loss.forward(prediction, model.asarray(data.y[own]), total, part)
                model.backward(loss.backward(), need_dx=False)
            optimizer.step(model)
    return bp.to_numpy(model.store.values), bp.to_numpy(model.store.grads)


@pytest.mark.parametrize("plan", [True, False], ids=["planned", "eager"])
@pytest.mark.parametrize("size", [None, 3])
@pytest.mark.parametrize("weighted", [False, True])
def test_an_lstm_with_lengths_has_exactly_the_gradients_of_the_explicit_loop(
    weighted: bool, size: int | None, plan: bool
) -> None:
    weight = RNG.uniform(0.5, 2, N) if weighted else None
    data = bp.Dataset(X, Y, weight=weight, side={"lengths": read_only(LENGTHS)})
    trainer = make(lstm(), plan=plan)
    loop = copy.deepcopy(trainer.model)
    trainer.fit(data, epochs=4, batch_size=8, micro_batch_size=size, progress=False)
    expected, gradients = by_hand(loop, data, 4, 8, size, lengths=LENGTHS)
    np.testing.assert_array_equal(values(trainer), expected)
    np.testing.assert_array_equal(bp.to_numpy(trainer.model.store.grads), gradients)
    without = make(lstm())
    without.fit(X, Y, sample_weight=weight, epochs=4, batch_size=8, micro_batch_size=size, progress=False)
    assert not np.array_equal(values(without), expected)
    if plan:
        each = f"counted step{'' if size is None else ', 3 at a time'} with lengths for x (8, 5, 3), y (8,), "
        each += "weight (8,), " if weighted else ""
        assert f"{each}lengths (8,): planned, " in trainer.plan_report()


def test_every_backend_takes_them(backend: bp.Backend) -> None:
    here, there = make(attending(), backend="numpy"), make(attending(), backend=backend)
    given = {"mask": MASK, "lengths": LENGTHS}
    results = []
    for trainer in (here, there):
        history = trainer.fit(X, Y, side=given, epochs=2, batch_size=8, progress=False)
        found = trainer.predict(X, side=given, batch_size=9)
        assert isinstance(found, np.ndarray)
        results.append((found, history["loss"], trainer.evaluate(X, Y, side=given)["loss"]))
    np.testing.assert_allclose(results[1][0], results[0][0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(results[1][1], results[0][1], rtol=1e-5)
    np.testing.assert_allclose(results[1][2], results[0][2], rtol=1e-5)


@pytest.mark.parametrize("shuffle", [True, False])
def test_what_lies_behind_the_lengths_does_not_matter(shuffle: bool) -> None:
    """Each sample keeps its own lengths and mask: what they hide changes nothing, in any batch."""
    noise = np.where(MASK[..., None], X, RNG.normal(size=X.shape) * 100).astype("float32")
    losses = []
    for x in (X, noise):
        trainer = make(attending())
        data = bp.Dataset(x, Y, side={"mask": MASK, "lengths": LENGTHS})
        history = trainer.fit(data, validation_data=data[:7], epochs=3, batch_size=6, shuffle=shuffle, progress=False)
        losses.append((history["loss"], history["val_loss"], trainer.evaluate(data), trainer.predict(data)))
    for one, other in zip(*losses, strict=True):
        np.testing.assert_allclose(
            *([each["loss"] for each in (one, other)] if isinstance(one, dict) else (one, other)), rtol=1e-5, atol=1e-6
        )


def test_evaluation_and_prediction_are_those_of_the_model_with_its_side_inputs() -> None:
    trainer = make(lstm(), metrics=[bp.Accuracy()])
    data = bp.Dataset(X, Y, side={"lengths": LENGTHS})
    expected = trainer.model(X, lengths=list(map(int, LENGTHS)))
    np.testing.assert_allclose(trainer.predict(data, batch_size=4), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(bp.predict(trainer.model, X, side={"lengths": LENGTHS}), expected, rtol=1e-6, atol=1e-7)
    found = trainer.evaluate(data, batch_size=5)
    assert found["accuracy"] == np.mean(expected.argmax(axis=1) == Y)
    assert found["loss"] == pytest.approx(float(bp.SoftmaxCrossEntropy()(expected, Y)), rel=1e-5)


def test_a_single_step_takes_them_and_is_planned() -> None:
    trainer, loop = make(lstm()), make(lstm(), plan=False)
    for _ in range(4):
        for each in (trainer, loop):
            each.step(X[:6], Y[:6], side={"lengths": LENGTHS[:6]}, micro_batch_size=4)
            each.step(X[6:12], Y[6:12], side={"lengths": LENGTHS[6:12]})
    np.testing.assert_array_equal(values(trainer), values(loop))
    assert "step with lengths for x (6, 5, 3), y (6,), lengths (6,): planned, " in trainer.plan_report()
    with pytest.raises(bp.ConfigError, match="no layer of the model takes the side input 'mask'"):
        trainer.step(X[:6], Y[:6], side={"mask": MASK[:6]})
    with pytest.raises(bp.ShapeError, match=r"one length for every sequence, of shape \(6,\), got \(5,\)"):
        trainer.step(X[:6], Y[:6], side={"lengths": LENGTHS[:5]})


def test_memory_maps_bring_them_along(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "mask.npy", MASK)
    mapped = {name: bp.data.memmap(tmp_path / f"{name}.npy") for name in ("x", "mask")}
    side = {"mask": MASK, "lengths": LENGTHS}
    results = []
    for data in (bp.Dataset(X, Y, side=side), bp.Dataset(mapped["x"], Y, side=side | {"mask": mapped["mask"]})):
        trainer = make(attending())
        trainer.fit(data, epochs=2, batch_size=8, progress=False)
        results.append(values(trainer))
    np.testing.assert_array_equal(*results)


def test_a_fit_with_side_inputs_is_resumed_bit_for_bit_and_only_with_the_same(tmp_path: Path) -> None:
    data = bp.Dataset(X, Y, side={"lengths": LENGTHS})
    whole = make(lstm())
    whole.fit(data, epochs=3, batch_size=8, progress=False)
    make(lstm()).fit(data, epochs=2, batch_size=8, progress=False, checkpoint=tmp_path)
    again = make(lstm())
    again.fit(data, epochs=3, batch_size=8, progress=False, resume=tmp_path)
    np.testing.assert_array_equal(values(again), values(whole))
    other = bp.Dataset(X, Y, side={"lengths": np.maximum(LENGTHS - 1, 1)})
    with pytest.raises(bp.ConfigError, match="side input lengths"):
        make(lstm()).fit(other, epochs=3, batch_size=8, progress=False, resume=tmp_path)


def test_a_data_set_keeps_them_with_their_samples() -> None:
    data = bp.Dataset(np.arange(6)[:, None], np.arange(6), side={"b": np.arange(6) * 10, "a": np.arange(6) % 2 == 0})
    assert list(data.side) == ["a", "b"]
    for some in (data[1:5], data.subset([4, 1, 2]), *bp.data.split(data, 0.5, stratify=False)):
        assert (some.side["b"] == some.x[:, 0] * 10).all()
        assert (some.side["a"] == (some.x[:, 0] % 2 == 0)).all()
    for x, y, a, b in batches(data, 4, seed=1):
        assert (b == x[:, 0] * 10).all()
        assert (a == (y % 2 == 0)).all()
    assert [each.dtype for each in next(batches(data, 4))] == [data.x.dtype, data.y.dtype, np.bool_, np.int64]


def test_statistics_and_probabilities_are_looked_at_with_them() -> None:
    model = bp.Sequential(bp.LSTM(3, 4, last=True), bp.BatchNorm(4), bp.Dense(4, 2), bp.Softmax())
    trainer = bp.Trainer(model, bp.CategoricalCrossEntropy(), bp.SGD(0.1))
    trainer.fit(X, Y, side={"lengths": LENGTHS}, epochs=1, batch_size=8, progress=False)
    with pytest.raises(bp.ShapeError, match="found with the smallest batch, 1 of 22 samples"):
        trainer.fit(X, Y, side={"lengths": LENGTHS}, epochs=1, batch_size=7, progress=False)


@pytest.mark.parametrize(
    ("side", "error", "message"),
    [
        (
            {"lenghts": LENGTHS},
            bp.ConfigError,
            "takes the side input 'lenghts'; declared are lengths; did you",
        ),
        ({"lengths": LENGTHS[:-1]}, bp.ShapeError, "x holds 22 samples and lengths 21; they must be as many"),
        ({"lengths": LENGTHS + 3}, bp.DataError, r"lengths must be in 0 ... 5, the positions of x; \d+ of 22 are not"),
        ({"lengths": LENGTHS - 9}, bp.DataError, r"lengths must be in 0 ... 5, the positions of x; 22 of 22 are not"),
        ({"lengths": LENGTHS / 1.0}, bp.DTypeError, r"lengths that are whole numbers.*found with the first sample"),
        ({"lengths": LENGTHS[:, None]}, bp.ShapeError, r"one length for every sequence.*found with the first sample"),
        ({"lengths": np.full(N, np.nan)}, bp.DataError, "lengths holds 22 NaN"),
        ([LENGTHS], bp.ConfigError, "side must be arrays by name, as"),
        ({"lengths": "all"}, bp.DTypeError, "lengths must hold numbers"),
    ],
)
def test_side_inputs_that_cannot_be(side: Any, error: type[Exception], message: str) -> None:
    trainer = make(lstm())
    before = values(trainer).copy()
    with pytest.raises(error, match=message):
        trainer.fit(X, Y, side=side, epochs=1, progress=False)
    np.testing.assert_array_equal(values(trainer), before)


def test_what_contradicts_itself_is_refused() -> None:
    trainer = make(lstm())
    data = bp.Dataset(X, Y, side={"lengths": LENGTHS})
    for call in (trainer.fit, trainer.evaluate):
        with pytest.raises(bp.ConfigError, match="a Dataset brings its own side inputs"):
            call(data, side={"lengths": LENGTHS})
    with pytest.raises(bp.ConfigError, match="a Dataset brings its own side inputs"):
        trainer.predict(data, side={"lengths": LENGTHS})
    with pytest.raises(bp.ConfigError, match="the data have the side inputs lengths, the validation data none; give"):
        trainer.fit(data, validation_data=(X, Y), progress=False)
    with pytest.raises(bp.ConfigError, match="the data have the side inputs none, the validation data lengths; give"):
        trainer.fit(X, Y, validation_data=data, progress=False)
    with pytest.raises(bp.ShapeError, match="x holds 22 samples and lengths 3"):
        trainer.predict(X, side={"lengths": LENGTHS[:3]})
    plain = make(bp.Sequential(bp.Flatten(), bp.Dense(15, 2)))
    with pytest.raises(bp.ConfigError, match="no layer of the model takes the side input 'lengths'; declared are none"):
        plain.fit(data, progress=False)
    with pytest.raises(bp.ConfigError, match="no layer of the model takes the side input 'mask'"):
        bp.predict(plain.model, X, side={"mask": MASK})


def failed(tmp_path: Path, size: int | None, **settings: Any) -> tuple[Any, Any]:
    """The error of a fit on data of which sample 13 is too large, and the trainer."""
    x = X.copy()
    x[13, 0] = 3e38
    block, memory = bp.TransformerBlock(3, 1, n_hidden=5), bp.LSTM(3, 3, last=True)
    trainer = make(bp.Sequential(bp.Dense(3, 3), block, memory, bp.Dense(3, 2)), bundle=tmp_path / FILE, **settings)
    trainer.model[0].weight.value = np.full((3, 3), 2.0)  # type: ignore[index]
    with pytest.raises(bp.NonFiniteError) as caught:
        trainer.fit(
            x, Y, side={"lengths": LENGTHS, "mask": MASK}, epochs=2, batch_size=8, micro_batch_size=size, progress=False
        )
    return caught.value, trainer


@pytest.mark.parametrize("size", [None, 3])
@pytest.mark.parametrize("plan", [True, False], ids=["planned", "eager"])
def test_a_fit_that_fails_names_who_it_was_and_keeps_the_step_with_its_side_inputs(
    size: int | None, plan: bool, tmp_path: Path
) -> None:
    error, trainer = failed(tmp_path, size, plan=plan)
    assert "which is sample 13 of the data" in str(error)
    assert f"bpnet explain --bundle {tmp_path / FILE}" in str(error)
    bundle = bp.load_bundle(tmp_path / FILE)
    assert bundle.finding is not None
    assert bundle.finding.sample == 13
    assert bundle.finding.where.startswith("Dense(3, 3)")
    np.testing.assert_array_equal(bundle.side["lengths"], LENGTHS[bundle.rows])
    np.testing.assert_array_equal(bundle.side["mask"], MASK[bundle.rows])
    assert bundle.side["lengths"].dtype == np.int64
    assert bundle.side["mask"].dtype == np.bool_
    explanation = bundle.explain()
    assert not np.isfinite(explanation.loss)
    for path, parameter in bundle.model.parameters().items():
        np.testing.assert_array_equal(parameter.value, bp.to_numpy(trainer.model.parameters()[path].value))


def test_the_step_is_replayed_with_the_lengths(tmp_path: Path) -> None:
    x = np.ones((4, T, 3), "float32")
    x[1, 3:] = 3e38  # behind its length, where nobody looks
    x[2, 3:] = 3e38
    trainer = bp.Trainer(
        bp.Sequential(bp.RNN(3, 2, activation="relu", last=True), bp.Dense(2, 1)), bp.MeanSquaredError(), bp.SGD(0.1),
        bundle=tmp_path / FILE, seed=0,
    )  # fmt: skip
    trainer.model[0].weight[0].value = np.full((3, 2), 2.0)  # type: ignore[index]
    with pytest.raises(bp.NonFiniteError) as caught:
        trainer.fit(
            x, np.zeros((4, 1)), side={"lengths": np.array([5, 3, 5, 5])}, batch_size=4, shuffle=False, epochs=1,
            progress=False,
        )  # fmt: skip
    assert caught.value.bundle is not None
    assert caught.value.bundle.finding.sample == 2


@pytest.mark.parametrize("name", ["side/lengths", "side/mask"])
def test_a_bundle_whose_side_inputs_are_of_another_length_is_damaged(name: str, tmp_path: Path) -> None:
    from bpnet.files import read, write

    failed(tmp_path, None)
    arrays, metadata = read(tmp_path / FILE)
    assert metadata["version"] == "2"
    arrays[name] = arrays[name][:-1]
    write(tmp_path / "other.safetensors", arrays, {k: metadata[k] for k in ("format", "version", "state")})
    with pytest.raises(bp.CheckpointError, match="the parts of the batch are missing, or not of one length"):
        bp.load_bundle(tmp_path / "other.safetensors")


def test_a_bundle_without_side_inputs_stays_one_that_older_versions_read(tmp_path: Path) -> None:
    from bpnet.files import read

    trainer = bp.Trainer(bp.Dense(3, 2), bp.MeanSquaredError(), bp.SGD(0.1), bundle=tmp_path / FILE)
    with pytest.raises(bp.NonFiniteError):
        trainer.fit(X[:, 0], np.full((N, 2), 1e38), epochs=1, progress=False)
    assert read(tmp_path / FILE)[1]["version"] == "1"


def test_explain_takes_them() -> None:
    model = lstm().initialize(seed=0, dtype="float64")
    given = X[:4].astype("float64")
    explanation = bp.explain(model, given, bp.SoftmaxCrossEntropy(), Y[:4], side={"lengths": LENGTHS[:4]})
    loss = bp.SoftmaxCrossEntropy()
    expected = loss.forward(model.forward(given, lengths=LENGTHS[:4]), Y[:4])
    model.backward(loss.backward())
    assert explanation.loss == pytest.approx(float(expected), rel=1e-12)
    for path, gradient in explanation.gradients.items():
        np.testing.assert_allclose(gradient, model.parameters()[path].grad, rtol=1e-12, atol=1e-14)
    with pytest.raises(bp.ConfigError, match="no layer of the model takes the side input 'mask'"):
        bp.explain(model, given, side={"mask": MASK[:4]})
    with pytest.raises(bp.ShapeError, match="x holds 4 samples and lengths 3"):
        bp.explain(model, given, side={"lengths": LENGTHS[:3]})


def test_a_layer_alone_is_a_model_that_takes_them() -> None:
    trainer = bp.Trainer(bp.LSTM(3, 2, last=True), bp.MeanSquaredError(), bp.SGD(0.1))
    target = np.zeros((N, 2), "float32")
    trainer.fit(X, target, side={"lengths": LENGTHS}, epochs=1, batch_size=8, progress=False)
    found = trainer.evaluate(X, target, side={"lengths": LENGTHS})["loss"]
    expected = trainer.model(X, lengths=list(map(int, LENGTHS)))  # type: ignore[call-arg]
    assert found == pytest.approx(float(np.mean(expected**2)), rel=1e-5)
