"""A loss alone, at the model's own predictions, and the whole model with its loss and penalties."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from bpnet import ops
from bpnet.auditing import suspects
from bpnet.auditing.copies import said
from bpnet.auditing.gradients import Case, hold
from bpnet.auditing.layers import as_row
from bpnet.auditing.report import Row
from bpnet.backend import to_numpy
from bpnet.errors import StateError
from bpnet.layers.base import Layer
from bpnet.losses import Loss
from bpnet.testing.differences import Comparison
from bpnet.testing.layer_derivatives import reset, same_bits


def _factors(shape: tuple[int, ...]) -> dict[str, float]:
    found = {"the number of samples": float(shape[0])}
    if len(shape) > 1:
        found["the length of the last axis"] = float(shape[-1])
    found["the number of elements of the prediction"] = float(np.prod(shape, dtype=float))
    return found


class LossAlone:
    """A loss at a prediction, a host array in float64, and a target of the backend."""

    def __init__(self, model: Layer, loss: Loss, prediction: Any, target: Any, seed: int) -> None:
        self.model, self.loss, self.prediction, self.target, self.seed = model, loss, prediction, target, seed
        self.where = type(loss).__name__

    def forward(self, prediction: Any, weight: Any = None) -> Any:
        """The loss, on the host."""
        there = self.model.asarray(np.array(prediction))
        if weight is None:
            return np.array(to_numpy(self.loss.forward(there, self.target)))
        return np.array(to_numpy(self.loss.forward(there, self.target, None, self.model.asarray(weight))))

    def upstream(self, value: Any) -> list[Any]:
        """What a backward is scaled with: 1, or random numbers for single losses."""
        if value.ndim == 0:
            return [np.ones(())]
        return [np.random.default_rng([self.seed, 3]).normal(size=value.shape)]

    def derivative(self, weight: Any = None) -> Comparison:
        """The derivative by the prediction."""

        def backward(prediction: Any, dy: Any) -> Any:
            self.forward(prediction, weight)
            return to_numpy(self.loss.backward(self.model.asarray(dy) if dy.ndim else 1.0))

        host = np.array(to_numpy(self.target))
        found = hold(
            self.prediction,
            lambda value: self.forward(value, weight),
            backward,
            self.upstream,
            seed=self.seed,
            factors=_factors(self.prediction.shape),
            suspects=lambda case: suspects.of_prediction(case, host),
        )
        self.loss._kept = None
        return found

    def rows(self) -> Iterator[Row]:
        """The rows of the loss."""
        yield as_row(self.where, "dprediction", self.derivative)
        if type(self.loss).forward is Loss.forward:
            weight = np.random.default_rng([self.seed, 4]).uniform(0.2, 2.0, size=self.prediction.shape[0])
            weight[-1] = 0.0 if len(weight) > 1 else weight[-1]
            yield as_row(self.where, "dprediction, weighted", partial(self.derivative, weight))
        try:
            self.promises()
        except AssertionError as error:
            yield Row(self.where, "promises", False, diagnosis=str(error))
        except Exception as error:
            yield Row(self.where, "promises", False, diagnosis=f"raised {said(error)}")
        else:
            yield Row(self.where, "promises", True, how="6 checks")

    def promises(self) -> None:
        """Raise AssertionError where a promise of losses is broken."""
        prediction = self.model.asarray(np.array(self.prediction))
        before, target = np.array(self.prediction), np.array(to_numpy(self.target))
        value = self.loss.forward(prediction, self.target)
        gradient = self.loss.backward()
        for name, array, kept in (("the prediction", prediction, before), ("the target", self.target, target)):
            if not same_bits(array, kept):
                raise AssertionError(f"forward or backward wrote into {name}")
        if tuple(gradient.shape) != tuple(prediction.shape) or gradient.dtype != prediction.dtype:
            raise AssertionError(
                f"backward returned {gradient.dtype} of shape {tuple(gradient.shape)} for a prediction of "
                f"{prediction.dtype} of shape {tuple(prediction.shape)}"
            )
        if value.device != prediction.device or gradient.device != prediction.device:
            raise AssertionError("the loss or its gradient is on another device than the prediction")
        try:
            self.loss.backward()
        except StateError:
            pass
        else:
            raise AssertionError("a second backward must raise StateError: what forward kept is taken once")
        called = to_numpy(self.loss(prediction, self.target))
        if not np.allclose(called, to_numpy(value), rtol=1e-12, atol=0):
            raise AssertionError("loss(prediction, target) is not loss.forward(prediction, target)")
        again = self.loss.forward(prediction, self.target)
        if not same_bits(again, value) or not same_bits(self.loss.backward(), gradient):
            raise AssertionError("the loss is not deterministic: two equal calls give other bits")


class Whole:
    """A float64 model with its loss and penalties: what training makes smaller."""

    def __init__(self, model: Layer, loss: Loss, x: Any, y: Any, outputs: tuple[int, ...], seed: int) -> None:
        self.model, self.loss, self.x, self.y, self.seed = model, loss, x, y, seed
        self.factors = _factors(outputs)

    def value(self, x: Any) -> Any:
        """What is minimized, a host array of shape ()."""
        reset(self.model)
        found = self.loss.forward(self.model.forward(self.model.asarray(np.array(x))), self.y)
        penalty = self.model.penalty()
        return np.array(to_numpy(found)) + (0.0 if penalty is None else np.array(to_numpy(penalty)))

    def backward(self, x: Any) -> Any:
        """One forward and backward, as a step makes them, with the gradients of the penalties; returns dx."""
        reset(self.model)
        self.model.store.consume_gradients()
        self.loss.forward(self.model.forward(self.model.asarray(np.array(x))), self.y)
        dx = self.model.backward(self.loss.backward())
        self.model.store.complete_gradients()
        for parameter in self.model.parameters().values():
            if parameter.trainable and (parameter.l1 or parameter.l2):
                ops.penalty_gradient_(parameter.grad, parameter.value, parameter.l1, parameter.l2)
        return dx

    def input(self) -> Comparison:
        """The derivative by x."""
        return self._hold(self.x, self.value, lambda x, dy: to_numpy(self.backward(x)))

    def parameter(self, path: str) -> Comparison:
        """The derivative by a parameter."""
        parameter = self.model.parameters()[path]
        start = np.array(to_numpy(parameter.value))

        def function(value: Any) -> Any:
            parameter.value = value
            return self.value(self.x)

        def backward(value: Any, dy: Any) -> Any:
            parameter.value = value
            self.backward(self.x)
            return np.array(to_numpy(parameter.grad))

        try:
            return self._hold(start, function, backward)
        finally:
            parameter.value = start

    def _hold(self, start: Any, function: Any, backward: Any) -> Comparison:
        return hold(
            np.asarray(start, dtype=np.float64),
            function,
            backward,
            lambda value: [np.ones(())],
            seed=self.seed,
            factors=self.factors,
            suspects=_none,
        )

    def rows(self) -> Iterator[Row]:
        """The rows of the composed model."""
        where = "model and loss"
        if np.asarray(self.x).dtype.kind == "f":
            yield as_row(where, "dx", self.input)
        for path, parameter in self.model.parameters().items():
            if parameter.trainable:
                yield as_row(where, path, partial(self.parameter, path))
        for _, layer in self.model.walk():
            layer._kept = None
        self.loss._kept = None


def _none(case: Case) -> dict[str, Any]:
    return {}
