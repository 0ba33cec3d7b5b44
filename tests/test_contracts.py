"""Strict mode: what breaks a promise is named where it happens, and outside a block nothing is in the way."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

import bpnet as bp
from bpnet import ops

pytestmark = pytest.mark.lenient

X, Y = np.random.default_rng(0).normal(size=(6, 4)), np.array([0, 1, 2, 0, 1, 2])


class Identity(bp.Layer):
    """A layer whose subclasses break one promise each."""

    def __call__(self, x: Any) -> Any:
        return ops.copy(x)

    def forward(self, x: Any) -> Any:
        self.keep(x.shape)
        return ops.copy(x)

    def backward(self, dy: Any, need_dx: bool = True) -> Any:
        self.kept()
        return ops.copy(dy)


class WritesIntoX(Identity):
    def forward(self, x: Any) -> Any:
        self.keep(x.shape)
        x[...] = bp.namespace(x).where(x > 0, x, 0)
        return ops.copy(x)


class WritesIntoDy(Identity):
    def backward(self, dy: Any, need_dx: bool = True) -> Any:
        self.kept()
        dy[...] = 2 * dy
        return dy


class KeepsInInference(Identity):
    def __call__(self, x: Any) -> Any:
        self.keep(x)
        return ops.copy(x)


class ChangesTheDtype(Identity):
    def forward(self, x: Any) -> Any:
        self.keep(x.shape)
        return bp.namespace(x).astype(x, bp.namespace(x).float32)


class ReturnsAList(Identity):
    def __call__(self, x: Any) -> Any:
        return [1.0]


class ForgetsTheShape(Identity):
    def backward(self, dy: Any, need_dx: bool = True) -> Any:
        self.kept()
        return ops.rows(dy, 0, 1)


class DividesByZero(Identity):
    def forward(self, x: Any) -> Any:
        self.keep(x.shape)
        return x / (0 * x)


def model_of(layer: bp.Layer, backend: Any = None) -> bp.Sequential:
    return bp.Sequential(bp.Dense(4, 4), layer, bp.Dense(4, 3)).initialize(0, backend=backend, dtype="float64")


def one_pass(model: bp.Layer) -> None:
    model(model.asarray(X))
    loss = bp.SoftmaxCrossEntropy()
    loss.forward(model.forward(model.asarray(X)), model.asarray(Y))
    model.backward(loss.backward())


BROKEN = {
    "x": (WritesIntoX, r"WritesIntoX\(\) at '1', forward: wrote into an array that it was given"),
    "dy": (WritesIntoDy, r"WritesIntoDy\(\) at '1', backward: wrote into an array that it was given"),
    "inference": (KeepsInInference, r"KeepsInInference\(\) at '1', inference: layer\(x\) must keep nothing"),
    "dtype": (ChangesTheDtype, "forward: returned float32 for float64; dtypes must agree"),
    "library": (ReturnsAList, "inference: returned list, not an array "),
    "shape": (ForgetsTheShape, r"backward: dx has shape \(1, 4\), x had \(6, 4\)"),
}


@pytest.mark.parametrize(("kind", "message"), BROKEN.values(), ids=BROKEN)
def test_a_broken_promise_is_named_where_it_happens(kind: type[bp.Layer], message: str, backend: bp.Backend) -> None:
    model = model_of(kind(), backend)
    error: Any = bp.ContractError
    if backend.name == "numpy" and kind in (WritesIntoX, WritesIntoDy):
        error, message = ValueError, "read-only"  # NumPy itself raises, at the line that writes
    with bp.strict(), pytest.raises(error, match=message):
        one_pass(model)


def test_numbers_that_stop_being_finite_are_named_with_the_layer(backend: bp.Backend) -> None:
    model = model_of(DividesByZero(), backend)
    message = r"DividesByZero\(\) at '1', forward: made -?(inf|nan) at index \(0, 0\) of finite numbers"
    with np.errstate(all="ignore"), bp.strict(), pytest.raises(bp.NonFiniteError, match=message):
        one_pass(model)
    with np.errstate(all="ignore"), bp.strict(values=False):
        one_pass(model)


@pytest.mark.parametrize(
    ("labels", "message"),
    [(np.array([0, 1, 2, 0, 1, 3]), r"holds 1 labels outside 0 \.\.\. 2"), (np.array([-1, 1, 2, 0, 1, 2]), "-1 at")],
)
def test_in_an_explicit_loop_labels_are_looked_at(labels: Any, message: str, backend: bp.Backend) -> None:
    model, loss = model_of(bp.ReLU(), backend), bp.SoftmaxCrossEntropy()
    logits = model.forward(model.asarray(X))
    loss.forward(logits, model.asarray(labels))  # without strict mode no value is read
    with bp.strict(), pytest.raises(bp.DataError, match=message):
        loss.forward(logits, model.asarray(labels))


def test_predictions_and_weights_are_looked_at_too() -> None:
    loss, weight = bp.MeanSquaredError(), np.array([1.0, -1.0])
    with bp.strict():
        with pytest.raises(bp.DataError, match="the prediction that MeanSquaredError.* got holds 1 NaN"):
            loss(np.array([np.nan, 1.0]), np.zeros(2))
        with pytest.raises(bp.DataError, match="the target that MeanSquaredError.* got holds 0 NaN and 1 infinite"):
            loss.forward(np.zeros(2), np.array([np.inf, 1.0]))
        with pytest.raises(bp.DataError, match="the sample_weight that MeanSquaredError.* got must be at least 0"):
            loss.forward(np.zeros(2), np.zeros(2), sample_weight=weight)


def test_what_we_ship_trains_in_strict_mode_to_the_same_bits() -> None:
    def trained(**more: Any) -> bytes:
        layers = (bp.Dense(4, 8), bp.GELU(), bp.Dropout(0.3), bp.Residual(bp.Dense(8, 8), bp.ReLU()), bp.Dense(8, 3))
        trainer = bp.Trainer(bp.Sequential(*layers), bp.SoftmaxCrossEntropy(), bp.Adam(0.01), seed=1, **more)
        trainer.fit(X, Y, epochs=6, batch_size=2, validation_data=(X, Y), progress=False)
        return trainer.model.store.values.tobytes()

    expected = trained()
    with bp.strict():
        assert trained() == expected
    with bp.strict(values=False):
        assert trained() == expected
    assert trained() == expected


def test_a_block_that_looks_at_values_is_not_passed_by_through_a_plan() -> None:
    trainer = bp.Trainer(model_of(bp.ReLU()), bp.SoftmaxCrossEntropy(), bp.SGD(0.1))
    for _ in range(4):
        trainer.step(X, Y)
    assert "planned" in trainer.plan_report()
    with bp.strict(), pytest.raises(bp.DataError, match="labels outside"):
        trainer.step(X, Y + 1)
    trainer.step(X, Y + 1)  # outside no value is read in a step
    with bp.strict(values=False):
        trainer.step(X, Y)


def test_outside_of_a_block_the_classes_are_as_they_were() -> None:
    methods = [bp.Dense.forward, bp.Dense.__call__, bp.Layer.backward, bp.Loss.forward, bp.Residual.backward]
    with bp.strict(), bp.strict(values=False):
        assert bp.Dense.forward is not methods[0]
    with pytest.raises(RuntimeError, match="mine"), bp.strict():
        raise RuntimeError("mine")
    after = [bp.Dense.forward, bp.Dense.__call__, bp.Layer.backward, bp.Loss.forward, bp.Residual.backward]
    assert all(a is b for a, b in zip(after, methods, strict=True))


def test_arrays_can_be_written_to_again_after_a_call() -> None:
    model, x = model_of(bp.Flatten()), X.copy()
    with bp.strict():
        y = model.forward(x)
        flat = bp.Flatten().initialize(dtype="float64")
        view = flat.forward(x)
        view[0, 0] = 5
        dx = model.backward(np.ones_like(y))
    x[0, 0], y[0, 0], dx[0, 0] = 1, 2, 3
    frozen = X.copy()
    frozen.flags.writeable = False
    with bp.strict():
        model(frozen)
    assert not frozen.flags.writeable


def test_threads_share_a_model_in_strict_mode() -> None:
    model = model_of(bp.ReLU())
    expected, found = model(X), []
    with bp.strict():
        threads = [threading.Thread(target=lambda: found.append(model(X))) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(found) == 8
    assert all(np.array_equal(each, expected) for each in found)
