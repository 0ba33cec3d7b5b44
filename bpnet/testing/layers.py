"""`check_layer`: a layer of anybody's held to what bpnet promises of every layer."""

from __future__ import annotations

import copy
import importlib.util
import json
import tempfile
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from bpnet.backend import Backend, get_backend, to_numpy
from bpnet.dispatch import Array, dtype_name
from bpnet.errors import StateError
from bpnet.layers.base import Layer
from bpnet.layers.containers import Sequential
from bpnet.layers.dense import Dense
from bpnet.layers.serialization import known_layers
from bpnet.losses import MeanSquaredError
from bpnet.optimizers import Adam
from bpnet.testing.differences import Comparison, compare, diagnose
from bpnet.testing.inputs import random_input
from bpnet.testing.strict import StrictBackend
from bpnet.trainer import Trainer

SAMPLES = 5
TOLERANCE = {"float32": 1e-5, "float64": 1e-12}


def check_layer(
    layer: Layer | Callable[[], Layer],
    input_shape: tuple[int, ...] | int = (4,),
    *,
    backends: Iterable[str | Backend] = ("numpy",),
    dtype: str = "float64",
    seed: int = 0,
    strict: bool = True,
) -> None:
    """Hold a layer to the promises that models, optimizers and plans rely on.

    layer       : its class, a function that makes one, or a layer, of which copies are initialized anew
    input_shape : of one sample, without the axis of the batch
    backends    : where it is to work; and on array_api_strict where that is installed, unless `strict` is False
    dtype       : of all checks but the derivatives, which are always held to differences in float64
    A layer that takes ids (`input_ids`) gets random ones, and must return None as dx.
    Raises AssertionError, which says what is broken, where, and by how much.
    """
    make = (lambda: copy.deepcopy(layer)) if isinstance(layer, Layer) else layer
    shape = (input_shape,) if isinstance(input_shape, int) else tuple(input_shape)
    chosen = [get_backend(each) for each in backends]
    if strict and importlib.util.find_spec("array_api_strict"):
        chosen += [each for each in map(get_backend, _strict_backends()) if each.name not in {b.name for b in chosen}]
    for backend in chosen:
        for n_samples in (SAMPLES, 1):
            LayerCheck(make, (n_samples, *shape), backend, dtype, seed).run()
    first = LayerCheck(make, (SAMPLES, *shape), chosen[0], dtype, seed)
    first.it_can_be_saved_and_made_again()


@lru_cache(maxsize=1)
def _strict_backends() -> tuple[Backend, ...]:
    return (StrictBackend(), StrictBackend("device1"))


def reset(model: Layer) -> None:
    """Set all counters to 0, so that the next forward draws what the first one drew."""
    model.store.counters[...] = 0


def derivatives(model: Layer, x: Any, *, seed: int = 0) -> dict[str, Comparison]:
    """dx and every parameter's gradient of a float64 `model`, held to differences of the sum of y dy, dy random.

    x : a NumPy array. Returns a Comparison each, by name: "dx", and the parameters' paths.
    """
    x = np.asarray(x)
    rng = np.random.default_rng([seed, 1])  # of no use would be a dy that equals x, if that was drawn with the seed
    reset(model)
    model.store.consume_gradients()
    y = model.forward(model.asarray(x))
    ids = model.input_ids is not None  # which have no derivative
    dy = rng.normal(size=tuple(y.shape))
    dx = model.backward(model.asarray(dy))
    given = {path for path, parameter in model.parameters().items() if parameter._filled}
    model.store.complete_gradients()

    def loss(value: Any) -> float:
        reset(model)
        return float(np.sum(to_numpy(model.forward(model.asarray(value))) * dy))

    factors = {"the number of samples": float(x.shape[0]), "the number of elements of y": float(dy.size)}
    found = {} if ids and dx is None else {"dx": compare(dx, loss, x, seed=seed, factors=factors)}
    for path, parameter in model.parameters().items():
        if not parameter.trainable:
            continue
        value = np.array(to_numpy(parameter.value))

        def loss_of(changed: Any, parameter: Any = parameter) -> float:
            parameter.value = changed
            return loss(x)

        computed = np.array(to_numpy(parameter.grad))
        comparison = compare(computed, loss_of, value, seed=seed, factors=factors)
        if not comparison.agrees and path not in given:
            hint = f"{comparison.diagnosis}; no gradient came by the parameter's accumulate(gradient)"
            comparison = Comparison(comparison.error, comparison.tolerance, hint)
        found[path] = comparison
        parameter.value = value
    for _, each in model.walk():
        each._kept = None
    return found


def assert_derivatives(model: Layer, x: Any, *, seed: int = 0) -> None:
    """Raise AssertionError, with the diagnosis, unless all derivatives of a float64 `model` at `x` are right."""
    wrong = [
        f"{_named(name)} {each.diagnosis}" for name, each in derivatives(model, x, seed=seed).items() if not each.agrees
    ]
    assert not wrong, f"{model!r}: {'; '.join(wrong)}"


def _named(name: str) -> str:
    return name if name == "dx" else f"the gradient of {name!r}"


def same_bits(a: Array, b: Array) -> bool:
    """Whether two arrays are of one shape and dtype and agree in every bit."""
    a, b = to_numpy(a), to_numpy(b)
    return bool(a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes())


class LayerCheck:
    """The checks of one layer on one backend with one shape of x."""

    n_ids: int | None = None  # that x may name, where the layer takes ids

    def __init__(
        self, make: Callable[[], Layer], shape: tuple[int, ...], backend: Backend, dtype: str, seed: int
    ) -> None:
        self.make, self.shape, self.backend, self.dtype, self.seed = make, shape, backend, dtype, seed
        self.n_ids = make().input_ids
        self.x = random_input(shape, self.n_ids, np.random.default_rng(seed))
        self.where = f"{make()!r} on {backend.name}, x of shape {shape}"

    def run(self) -> None:
        """All checks, the most telling first."""
        for dtype in dict.fromkeys((self.dtype, "float32", "float64")):
            self.shapes_dtypes_and_untouched_arrays(dtype)
        self.nothing_is_random_but_streams()
        self.derivatives_equal_differences()
        self.inference_is_forward_and_keeps_nothing()
        self.what_is_kept_is_taken_once()
        self.gradients_accumulate()
        self.need_dx_false_changes_no_gradient()
        self.views_and_read_only_arrays_give_the_same()
        self.planned_steps_equal_eager_ones()

    def fail(self, what: str) -> AssertionError:
        """The error that says what is broken, and where."""
        return AssertionError(f"{self.where}: {what}")

    def call(self, name: str, f: Callable[..., Any], *args: Any, **keywords: Any) -> Any:
        """f(...), with an error of the layer's turned into this check's."""
        try:
            return f(*args, **keywords)
        except AssertionError:
            raise
        except Exception as error:
            hint = ""
            if self.backend.name != "numpy" and isinstance(error, (TypeError, AttributeError)):
                hint = "; inside a layer use kernels, and the functions of bpnet.namespace(x)"
            raise self.fail(f"{name} raised {type(error).__name__}: {error}{hint}") from error

    def model(self, dtype: str | None = None) -> Layer:
        """A fresh one, initialized."""
        return self.make().initialize(seed=self.seed, backend=self.backend, dtype=dtype or self.dtype)

    def forward(self, model: Layer, x: Any = None) -> Array:
        """The output of a forward whose random bits are those of the first step."""
        reset(model)
        return self.call("forward", model.forward, model.asarray(self.x) if x is None else x)

    def gradient_of(self, y: Array, model: Layer) -> Array:
        """A random dy for this y."""
        return model.asarray(np.random.default_rng([self.seed, 2]).normal(size=tuple(y.shape)))

    def pass_through(self, model: Layer, **keywords: Any) -> tuple[Array, dict[str, Any]]:
        """dx, and copies of all gradients on the host, after one forward and backward."""
        y = self.forward(model)
        dx = self.call("backward", model.backward, self.gradient_of(y, model), **keywords)
        return dx, self.gradients(model)

    def gradients(self, model: Layer) -> dict[str, Any]:
        """Copies of all gradients on the host, by path."""
        model.store.complete_gradients()
        return {path: np.array(to_numpy(parameter.grad)) for path, parameter in model.parameters().items()}

    def shapes_dtypes_and_untouched_arrays(self, dtype: str) -> None:
        """y and dx are arrays of the backend, in x's dtype, on its device; neither x nor dy is written to."""
        model = self.model(dtype)
        x = model.asarray(np.array(self.x))
        before = np.array(to_numpy(x))
        y = self.forward(model, x)
        like = model.store.values if self.n_ids is not None else x
        self.array("forward", "y", y, like)
        if not same_bits(before, x):
            raise self.fail("forward wrote into x")
        dy = self.gradient_of(y, model)
        dy_before = np.array(to_numpy(dy))
        dx = self.call("backward", model.backward, dy)
        if not same_bits(dy_before, dy):
            raise self.fail("backward wrote into dy")
        if not same_bits(before, x):
            raise self.fail("backward wrote into x")
        if self.n_ids is not None:
            if dx is not None:
                raise self.fail(f"backward returned {type(dx).__name__}; ids have no derivative, so dx must be None")
            return
        self.array("backward", "dx", dx, x)
        if tuple(dx.shape) != self.shape:
            raise self.fail(f"dx has shape {tuple(dx.shape)}, not x's {self.shape}")

    def array(self, method: str, name: str, found: Any, x: Array) -> None:
        """Fail unless `found` is an array of the backend, of x's dtype, on x's device."""
        if not isinstance(found, self.backend.array_type):
            raise self.fail(f"{method} returned {type(found).__name__}, not an array of {self.backend.name}")
        if found.dtype != x.dtype:
            raise self.fail(f"{name} is {dtype_name(found.dtype)} for x of {dtype_name(x.dtype)}; dtypes must agree")
        if found.device != x.device:
            raise self.fail(f"{name} is on {found.device}, x on {x.device}; pass device=x.device where arrays are made")

    def nothing_is_random_but_streams(self) -> None:
        """Two forwards in one state agree, inference never draws, and a backward moves every stream on."""
        model = self.model()
        first = np.array(to_numpy(self.forward(model)))
        if not same_bits(first, self.forward(model)):
            raise self.fail(
                "two forwards in the same state differ: the layer draws random numbers of its own; draw them with a "
                "bpnet.Stream"
            )
        x = model.asarray(self.x)
        reset(model)
        inference = np.array(to_numpy(self.call("inference", model, x)))
        model.store.counters[...] = 3
        if not same_bits(inference, self.call("inference", model, x)):
            raise self.fail("inference is random: layer(x) changes from call to call or with the step")
        if model.streams():
            y = self.forward(model)
            self.call("backward", model.backward, self.gradient_of(y, model))
            still = [path for path, stream in model.streams().items() if not self.counter(stream.source)]
            if still:
                raise self.fail(
                    f"backward must call commit() of {', '.join(still)}, so that the next forward draws anew"
                )

    def counter(self, source: tuple[Array, int, Any]) -> int:
        """The number of micro-batches that a stream has counted."""
        return int(to_numpy(source[0])[source[1]])

    def derivatives_equal_differences(self) -> None:
        """The derivatives of inputs and parameters are right."""
        found = self.call("forward or backward", derivatives, self.model("float64"), self.x, seed=self.seed)
        wrong = [f"{_named(name)} {each.diagnosis}" for name, each in found.items() if not each.agrees]
        if wrong:
            raise self.fail("; ".join(wrong))

    def inference_is_forward_and_keeps_nothing(self) -> None:
        """layer(x) equals forward(x) where nothing is random, and leaves nothing behind for a backward."""
        model = self.model()
        x = model.asarray(self.x)
        y = self.call("inference", model, x)
        self.expect_nothing_kept(model, y, x, "layer(x) is inference, and a backward after it")
        if not model.streams():
            trained, inferred = to_numpy(self.forward(model)), to_numpy(y)
            if trained.shape != inferred.shape:
                raise self.fail(f"layer(x) has shape {inferred.shape}, forward(x) {trained.shape}")
            if not self.close(inferred, trained):
                raise self.fail(f"layer(x) is not forward(x), and nothing is random: it {diagnose(inferred, trained)}")

    def expect_nothing_kept(self, model: Layer, y: Array, x: Array, what: str) -> None:
        """Fail unless a backward now raises StateError."""
        if y is x and all(each._kept is None for _, each in model.walk()) and not model.parameters():
            return  # the identity has nothing to keep
        try:
            model.backward(self.gradient_of(y, model))
        except StateError:
            return
        except Exception as error:
            raise self.fail(f"{what} must raise StateError, it raised {type(error).__name__}: {error}") from error
        raise self.fail(f"{what} must raise StateError: keep values with self.keep(...) and take them with self.kept()")

    def what_is_kept_is_taken_once(self) -> None:
        """A second backward raises."""
        model = self.model()
        x = model.asarray(self.x)
        y = self.forward(model, x)
        self.call("backward", model.backward, self.gradient_of(y, model))
        self.expect_nothing_kept(model, y, x, "a second backward")

    def close(self, found: Any, expected: Any) -> bool:
        """Whether two arrays agree as results in the dtype must."""
        scale = max(1.0, float(np.max(np.abs(expected), initial=0.0)))
        return bool(np.all(np.abs(found - expected) <= TOLERANCE[self.dtype] * scale))

    def gradients_accumulate(self) -> None:
        """The first backward of a step replaces what is there, later ones add."""
        model = self.model()
        for parameter in model.parameters().values():
            parameter.grad[...] = 1e9 * parameter.trainable  # what an earlier step left
        _, first = self.pass_through(model)
        _, clean = self.pass_through(self.model())
        for path, expected in clean.items():
            if not self.close(first[path], expected):
                raise self.fail(
                    f"the first backward of a step must replace the gradient of {path!r} that the step before left; "
                    "give it by accumulate(gradient)"
                )
        _, both = self.pass_through(model)
        for path, expected in clean.items():
            if not self.close(both[path], 2 * expected):
                wrong = diagnose(both[path], 2 * expected)
                raise self.fail(
                    f"after two backwards before one step the gradient of {path!r} {wrong}: they must add up; give "
                    "each by accumulate(gradient)"
                )

    def need_dx_false_changes_no_gradient(self) -> None:
        """backward(dy, need_dx=False) returns None and gives the parameters what backward(dy) gives."""
        _, whole = self.pass_through(self.model())
        dx, spared = self.pass_through(self.model(), need_dx=False)
        if dx is not None:
            raise self.fail(f"backward(dy, need_dx=False) returned {type(dx).__name__}, not None")
        for path, expected in whole.items():
            if not same_bits(spared[path], expected):
                raise self.fail(
                    f"need_dx=False changes the gradient of {path!r}: it {diagnose(spared[path], expected)}"
                )

    def views_and_read_only_arrays_give_the_same(self) -> None:
        """x and dy may be strided views, and on NumPy read-only."""
        model = self.model()
        y = self.forward(model)
        dy = self.gradient_of(y, model)
        first = y, self.call("backward", model.backward, dy)
        expected = [None if each is None else np.array(to_numpy(each)) for each in first]
        y = self.call("forward of a strided x", self.forward, model, self.strided(model.asarray(self.x)))
        found = y, self.call("backward of a strided dy", model.backward, self.strided(dy))
        for name, a, b in zip(("y", "dx"), found, expected, strict=True):
            if b is not None and not self.close(to_numpy(a), b):
                raise self.fail(f"{name} of a strided view {diagnose(to_numpy(a), b)}")

    def strided(self, array: Array) -> Array:
        """The same values as a view with gaps between them, read-only where the library can say so."""
        host = np.array(to_numpy(array))
        wide = self.backend.asarray(np.repeat(host, 2, axis=0) if host.ndim < 2 else np.repeat(host, 2, axis=-1))
        view = wide[::2, ...] if host.ndim < 2 else wide[..., ::2]
        if isinstance(view, np.ndarray):
            view.flags.writeable = False
        return view

    def planned_steps_equal_eager_ones(self) -> None:
        """A Trainer's planned steps give the bits of its eager ones."""

        def trained(plan: bool) -> dict[str, Any]:
            width = self.shape[-1] if len(self.shape) > 1 and self.n_ids is None else 0
            model = Sequential(Dense(width, width), self.make()) if width else Sequential(self.make())
            model.initialize(seed=self.seed, backend=self.backend, dtype=self.dtype)
            targets = np.random.default_rng([self.seed, 3]).normal(size=tuple(model(model.asarray(self.x)).shape))
            trainer = Trainer(model, MeanSquaredError(), Adam(1e-3), plan=plan)
            losses = [np.array(to_numpy(trainer.step(self.x, targets))) for _ in range(5)]
            state = {name: np.array(to_numpy(array)) for name, array in model.store.arrays().items()}
            return {f"the loss of step {i}": loss for i, loss in enumerate(losses, start=1)} | state

        planned = self.call("training with a plan", trained, True)
        eager = self.call("training", trained, False)
        differing = [name for name, value in eager.items() if not same_bits(value, planned[name])]
        if differing:
            raise self.fail(
                f"a planned step is not the eager one: {', '.join(differing)} differ; what a layer does may depend on "
                "shapes and on public attributes alone"
            )

    def it_can_be_saved_and_made_again(self) -> None:
        """The architecture is JSON, and its file gives a layer with the same outputs."""
        model = self.model()
        custom = {type(each) for _, each in model.walk()} - set(known_layers().values())
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "layer.safetensors"
            self.call("save", model.save, path)
            again = self.call("load", Layer.load, path, backend=self.backend, custom=tuple(custom))
        x = model.asarray(self.x)
        if json.dumps(repr(again.config)) != json.dumps(repr(model.config)):
            raise self.fail(f"made again from its file, its arguments are {again.config}, not {model.config}")
        if not same_bits(self.call("inference", model, x), self.call("inference of the loaded layer", again, x)):
            raise self.fail(
                "made again from its file, it gives other outputs: the constructor's arguments do not say all"
            )
