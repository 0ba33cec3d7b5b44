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
from bpnet.testing.differences import diagnose
from bpnet.testing.inputs import SampleInputs
from bpnet.testing.layer_derivatives import as_gradients, derivatives, named, reset, same_bits
from bpnet.testing.planned import why_a_planned_pass_differs
from bpnet.testing.strict import StrictBackend
from bpnet.trainer import Trainer

SAMPLES = 5
TOLERANCE = {"float32": 1e-5, "float64": 1e-12}


def check_layer(
    layer: Layer | Callable[[], Layer],
    input_shape: SampleInputs | tuple[int, ...] | int = (4,),
    *,
    backends: Iterable[str | Backend] = ("numpy",),
    dtype: str = "float64",
    seed: int = 0,
    strict: bool = True,
) -> None:
    """Hold a layer to the promises that models, optimizers and plans rely on.

    layer       : its class, a function that makes one, or a layer, of which copies are initialized anew
    input_shape : of one sample, without the axis of the batch; for a layer that takes integers, several arrays or side
                  inputs, a SampleInputs, which says so
    backends    : where it is to work; and on array_api_strict where that is installed, unless `strict` is False
    dtype       : of all checks but the derivatives, which are always held to differences in float64
    Raises AssertionError, which says what is broken, where, and by how much.
    """
    make = (lambda: copy.deepcopy(layer)) if isinstance(layer, Layer) else layer
    inputs = SampleInputs.of(input_shape)
    chosen = [get_backend(each) for each in backends]
    if strict and importlib.util.find_spec("array_api_strict"):
        chosen += [each for each in map(get_backend, _strict_backends()) if each.name not in {b.name for b in chosen}]
    for backend in chosen:
        for n_samples in (SAMPLES, max(inputs.fewest, _fewest(make))):
            LayerCheck(make, inputs, n_samples, backend, dtype, seed).run()
    first = LayerCheck(make, inputs, SAMPLES, chosen[0], dtype, seed)
    first.it_can_be_saved_and_made_again()


def _fewest(make: Callable[[], Layer]) -> int:
    """The fewest samples that a layer must take in training: one, or two where it looks at how they spread."""
    return 2 if make().statistics() else 1


@lru_cache(maxsize=1)
def _strict_backends() -> tuple[Backend, ...]:
    return (StrictBackend(), StrictBackend("device1"))


class LayerCheck:
    """The checks of one layer on one backend with one batch of inputs.

    args, side : what it is called with, NumPy arrays
    """

    def __init__(
        self,
        make: Callable[[], Layer],
        inputs: SampleInputs,
        n_samples: int,
        backend: Backend,
        dtype: str = "float64",
        seed: int = 0,
    ) -> None:
        self.make, self.backend, self.dtype, self.seed = make, backend, dtype, seed
        self.args, self.side = inputs.draw(n_samples, seed)
        shapes = " and ".join(
            f"x of shape {each.shape}" if not i else str(each.shape) for i, each in enumerate(self.args)
        )
        self.where = f"{make()!r} on {backend.name}, {shapes}"

    @property
    def plain(self) -> bool:
        """Whether the layer takes one floating array and nothing else."""
        return len(self.args) == 1 and not self.side and bool(self.args[0].dtype.kind == "f")

    def arrays(self, model: Layer) -> tuple[Array, ...]:
        """The inputs on the model's backend."""
        return tuple(model.asarray(np.array(each)) for each in self.args)

    def sides(self, model: Layer) -> dict[str, Array]:
        """The side inputs on the model's backend."""
        return {name: model.asarray(np.array(each)) for name, each in self.side.items()}

    def infer(self, name: str, model: Layer, arrays: tuple[Array, ...]) -> Array:
        """The output of inference."""
        return self.call(name, model, *arrays, **self.sides(model))

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

    def forward(self, model: Layer, *arrays: Array) -> Array:
        """The output of a forward whose random bits are those of the first step."""
        reset(model)
        return self.call("forward", model.forward, *(arrays or self.arrays(model)), **self.sides(model))

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
        arrays = self.arrays(model)
        before = [np.array(to_numpy(each)) for each in arrays]
        like = self.backend.zeros((1,), dtype)
        y = self.forward(model, *arrays)
        self.array("forward", "y", y, like)
        self.untouched("forward", before, arrays)
        dy = self.gradient_of(y, model)
        dy_before = np.array(to_numpy(dy))
        dx = self.call("backward", model.backward, dy)
        if not same_bits(dy_before, dy):
            raise self.fail("backward wrote into dy")
        self.untouched("backward", before, arrays)
        for place, (each, gradient) in enumerate(zip(self.args, as_gradients(dx, len(arrays)), strict=True)):
            name = "dx" if not place else f"dx of input {place}"
            if each.dtype.kind != "f":
                if gradient is not None:
                    raise self.fail(f"{name} must be None: integers have no derivative")
                continue
            self.array("backward", name, gradient, like)
            if tuple(gradient.shape) != each.shape:
                raise self.fail(f"{name} has shape {tuple(gradient.shape)}, not x's {each.shape}")

    def untouched(self, method: str, before: list[Any], arrays: tuple[Array, ...]) -> None:
        """Fail where an input is no longer what it was."""
        for place, (old, new) in enumerate(zip(before, arrays, strict=True)):
            if not same_bits(old, new):
                raise self.fail(f"{method} wrote into {f'input {place}' if place else 'x'}")

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
        arrays = self.arrays(model)
        reset(model)
        inference = np.array(to_numpy(self.infer("inference", model, arrays)))
        model.store.counters[...] = 3
        if not same_bits(inference, self.infer("inference", model, arrays)):
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
        model = self.model("float64")
        found = self.call("forward or backward", derivatives, model, *self.args, side=self.side, seed=self.seed)
        wrong = [f"{named(name)} {each.diagnosis}" for name, each in found.items() if not each.agrees]
        if wrong:
            raise self.fail("; ".join(wrong))

    def inference_is_forward_and_keeps_nothing(self) -> None:
        """layer(x) leaves nothing behind for a backward; it equals forward(x) where nothing is random or counted."""
        model = self.model()
        arrays = self.arrays(model)
        y = self.infer("inference", model, arrays)
        self.expect_nothing_kept(model, y, arrays[0], "layer(x) is inference, and a backward after it")
        if not model.streams() and not model.statistics():
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
        arrays = self.arrays(model)
        y = self.forward(model, *arrays)
        self.call("backward", model.backward, self.gradient_of(y, model))
        self.expect_nothing_kept(model, y, arrays[0], "a second backward")

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
        dxs = as_gradients(self.call("backward", model.backward, dy), len(self.args))
        expected = [np.array(to_numpy(each)) for each in (y, *dxs) if each is not None]
        y = self.call("forward of a strided x", self.forward, model, *map(self.strided, self.arrays(model)))
        dxs = as_gradients(self.call("backward of a strided dy", model.backward, self.strided(dy)), len(self.args))
        found = [to_numpy(each) for each in (y, *dxs) if each is not None]
        for name, a, b in zip(("y", *["dx"] * len(dxs)), found, expected, strict=False):
            if not self.close(a, b):
                raise self.fail(f"{name} of a strided view {diagnose(a, b)}")

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

        if not self.plain:
            self._planned_pass_equals_the_eager_one()
            return

        def trained(plan: bool) -> dict[str, Any]:
            shape = self.args[0].shape
            width = shape[-1] if len(shape) > 1 else 0
            model = Sequential(Dense(width, width), self.make()) if width else Sequential(self.make())
            model.initialize(seed=self.seed, backend=self.backend, dtype=self.dtype)
            targets = np.random.default_rng([self.seed, 3]).normal(size=tuple(model(*self.arrays(model)).shape))
            trainer = Trainer(model, MeanSquaredError(), Adam(1e-3), plan=plan)
            losses = [np.array(to_numpy(trainer.step(self.args[0], targets))) for _ in range(5)]
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

    def _planned_pass_equals_the_eager_one(self) -> None:
        """The same of a forward and backward alone, for inputs that a Trainer may not have."""
        model = self.model()
        y = self.forward(model)
        self.call("backward", model.backward, self.gradient_of(y, model))
        wrong = self.call(
            "a recorded pass",
            why_a_planned_pass_differs,
            model,
            self.gradient_of(y, model),
            self.arrays(model),
            self.sides(model),
        )
        if wrong:
            raise self.fail(wrong)

    def it_can_be_saved_and_made_again(self) -> None:
        """The architecture is JSON, and its file gives a layer with the same outputs."""
        model = self.model()
        custom = {type(each) for _, each in model.walk()} - set(known_layers().values())
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "layer.safetensors"
            self.call("save", model.save, path)
            again = self.call("load", Layer.load, path, backend=self.backend, custom=tuple(custom))
        arrays = self.arrays(model)
        if json.dumps(repr(again.config)) != json.dumps(repr(model.config)):
            raise self.fail(f"made again from its file, its arguments are {again.config}, not {model.config}")
        found = self.infer("inference of the loaded layer", again, arrays)
        if not same_bits(self.infer("inference", model, arrays), found):
            raise self.fail(
                "made again from its file, it gives other outputs: the constructor's arguments do not say all"
            )
