"""`bpnet.testing`: right layers and backends pass, and every kind of mistake is found and named."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import bpnet as bp
from bpnet import ops
from bpnet.testing import (
    BACKEND_CHECKS,
    SampleInputs,
    check_backend,
    check_layer,
    compare,
    derivatives,
    diagnose,
)
from bpnet.testing.planned import why_a_planned_pass_differs
from bpnet.testing.strict import StrictBackend

pytestmark = pytest.mark.lenient  # the mistakes are for check_layer to find


@bp.kernel
def scaled(x: Any, g: Any) -> Any:
    """x * g."""
    return x * g


@bp.kernel
def scaled_backward(dy: Any, x: Any, g: Any) -> Any:
    """dy g, and the sum of dy x."""
    return dy * g, bp.namespace(x).sum(dy * x, axis=tuple(range(x.ndim - 1)))


class Scale(bp.Layer):
    """A right layer: every feature times a learned gain."""

    def __init__(self, width: int = 4) -> None:
        self.width = width
        self.gain = bp.Parameter((width,), bp.initializers.constant(1.5))

    def __call__(self, x: Any) -> Any:
        return scaled(x, self.gain.value)

    def forward(self, x: Any) -> Any:
        self.keep(x)
        return scaled(x, self.gain.value)

    def backward(self, dy: Any, need_dx: bool = True) -> Any:
        (x,) = self.kept()
        dx, dg = scaled_backward(dy, x, self.gain.value)
        self.gain.accumulate(dg)
        return dx if need_dx else None


class Matrix(bp.Layer):
    """A right layer with a square weight."""

    def __init__(self) -> None:
        self.weight = bp.Parameter((4, 4), "he_normal")

    def __call__(self, x: Any) -> Any:
        return ops.linear(x, self.weight.value, None)

    def forward(self, x: Any) -> Any:
        self.keep(x)
        return self(x)

    def backward(self, dy: Any, need_dx: bool = True) -> Any:
        (x,) = self.kept()
        dx, dW, _ = ops.linear_backward(dy, x, self.weight.value, need_dx, False)
        self.give(dW)
        return dx

    def give(self, dW: Any) -> None:
        self.weight.accumulate(dW)


class SampleSum(Matrix):
    """The mean over samples taken in forward, forgotten in the weight's gradient."""

    def __call__(self, x: Any) -> Any:
        return super().__call__(x) * (1 / x.shape[0])

    def backward(self, dy: Any, need_dx: bool = True) -> Any:
        n = dy.shape[0]
        dx = super().backward(dy, need_dx)
        return None if dx is None else dx * (1 / n)


class WrongSign(Scale):
    def backward(self, dy: Any, need_dx: bool = True) -> Any:
        dx = super().backward(dy, need_dx)
        return None if dx is None else -dx


class TwiceTooLarge(Scale):
    def backward(self, dy: Any, need_dx: bool = True) -> Any:
        dx = super().backward(dy, need_dx)
        return None if dx is None else dx + dx


class Transposed(Matrix):
    def give(self, dW: Any) -> None:
        self.weight.accumulate(ops.copy(dW.T))


class TransposedOblong(bp.Dense):
    def backward(self, dy: Any, need_dx: bool = True) -> Any:
        (x,) = self.kept()
        dx, dW, db = ops.linear_backward(dy, x, self.weight.value)
        self.weight.accumulate(ops.copy(dW.T))
        self.bias.accumulate(db)  # type: ignore[union-attr]
        return dx


class OneElement(Matrix):
    """Right but for one element."""

    def give(self, dW: Any) -> None:
        changed = bp.namespace(dW).asarray(dW, copy=True)
        changed[1:2, 2:3] = 100
        self.weight.accumulate(changed)


class NoGradient(Matrix):
    def give(self, dW: Any) -> None:
        pass


class Infinite(Matrix):
    def give(self, dW: Any) -> None:
        self.weight.accumulate(dW / 0.0)


class Assigned(Matrix):
    """Sets the gradient by hand."""

    def give(self, dW: Any) -> None:
        self.weight.grad[...] = dW


class Overwritten(Matrix):
    """Looks as if it had accumulated."""

    def give(self, dW: Any) -> None:
        ops.copy_(self.weight.grad, dW)
        self.weight._filled = True
        self.store.filled = True


class NeverCleared(Matrix):
    """Adds to what an earlier step left."""

    def give(self, dW: Any) -> None:
        if not self.weight._filled:
            dW = dW + self.weight.grad
        self.weight.accumulate(dW)


class WritesIntoDy(Scale):
    def backward(self, dy: Any, need_dx: bool = True) -> Any:
        dy *= 1.5
        (x,) = self.kept()
        self.gain.accumulate(bp.namespace(x).sum(dy * x, axis=tuple(range(x.ndim - 1))) / 1.5)
        return dy if need_dx else None


class WritesIntoX(Scale):
    def forward(self, x: Any) -> Any:
        y = super().forward(x)
        x += 1
        return y


class BackwardWritesIntoX(Scale):
    def backward(self, dy: Any, need_dx: bool = True) -> Any:
        (x,) = self._kept  # type: ignore[misc]
        dx = super().backward(dy, need_dx)
        x += 1
        return dx


class KeepsForEver(Scale):
    def backward(self, dy: Any, need_dx: bool = True) -> Any:
        (x,) = self._kept or self.kept()
        dx, dg = scaled_backward(dy, x, self.gain.value)
        self.gain.accumulate(dg)
        return dx if need_dx else None


class KeepsInInference(Scale):
    def __call__(self, x: Any) -> Any:
        return self.forward(x)


class OtherInference(Scale):
    def __call__(self, x: Any) -> Any:
        return scaled(x, self.gain.value) * 2


class DropoutInInference(bp.Dropout):
    def __call__(self, x: Any) -> Any:
        return ops.dropout(x, *self.stream.source, self.rate)[0]


class NeverCommits(bp.Dropout):
    def backward(self, dy: Any, need_dx: bool = True) -> Any:
        mask, *_ = self.kept()
        return ops.dropout_backward(dy, mask, self.rate) if need_dx else None


class GlobalNoise(Scale):
    def forward(self, x: Any) -> Any:
        self.keep(x)
        return scaled(x, self.gain.value) + self.asarray(np.random.normal(size=x.shape))


class NoisyInference(Scale):
    def __call__(self, x: Any) -> Any:
        return scaled(x, self.gain.value) + self.asarray(np.random.normal(size=x.shape))


class AlwaysDx(Scale):
    def backward(self, dy: Any, need_dx: bool = True) -> Any:
        return super().backward(dy)


class SparedGradient(Matrix):
    """Forgets the weight where nobody wants dx."""

    def backward(self, dy: Any, need_dx: bool = True) -> Any:
        if need_dx:
            return super().backward(dy)
        self.kept()
        return None


class Widened(Scale):
    def __call__(self, x: Any) -> Any:
        xp = bp.namespace(x)
        return xp.astype(scaled(x, self.gain.value), xp.float64)

    def forward(self, x: Any) -> Any:
        self.keep(x)
        return self(x)


class FlatDx(Scale):
    def backward(self, dy: Any, need_dx: bool = True) -> Any:
        dx = super().backward(dy, need_dx)
        return None if dx is None else bp.namespace(dx).reshape(dx, (-1,))


class HostOnly(Scale):
    """Calls a method that NumPy's arrays have and the standard's do not."""

    def __call__(self, x: Any) -> Any:
        return scaled(x.copy(), self.gain.value)

    def forward(self, x: Any) -> Any:
        self.keep(x)
        return self(x)


class ReturnsHost(Scale):
    def backward(self, dy: Any, need_dx: bool = True) -> Any:
        dx = super().backward(dy, need_dx)
        return None if dx is None else bp.to_numpy(dx)


class FirstDevice(Scale):
    """Makes an array without saying where."""

    def __call__(self, x: Any) -> Any:
        return scaled(x, self.gain.value) + bp.namespace(x).zeros(x.shape, dtype=x.dtype)

    def forward(self, x: Any) -> Any:
        self.keep(x)
        return self(x)


class NeedsContiguous(Scale):
    """Reads the memory behind a view."""

    def forward(self, x: Any) -> Any:
        if isinstance(x, np.ndarray) and x.base is not None and not x.flags.c_contiguous:
            x = x.base.reshape(-1)[: x.size].reshape(x.shape)
        return super().forward(x)


class Factor(Matrix):
    """Has a number that is no argument of its constructor."""

    _factor = 1.0

    def __call__(self, x: Any) -> Any:
        return super().__call__(x) * self._factor

    def backward(self, dy: Any, need_dx: bool = True) -> Any:
        return super().backward(dy * self._factor, need_dx)


class NoJson(Scale):
    def __init__(self, f: Any = np.tanh) -> None:
        super().__init__()


WRONG: dict[type[bp.Layer], str] = {
    SampleSum: r"on numpy, x of shape \(5, 4\): the gradient of 'weight' is 5.000x too large \(5 is the number of",
    WrongSign: "dx has the wrong sign",
    TwiceTooLarge: "dx is 2.000x too large",
    Transposed: "the gradient of 'weight' is transposed",
    OneElement: r"the gradient of 'weight' is wrong in 1 of 16 elements, most at index \(1, 2\): 100, where diff",
    NoGradient: r"is zero everywhere, where differences give up to .*; no gradient came by .* accumulate\(gradient\)",
    Infinite: "the gradient of 'weight' holds 16 NaN or infinite values",
    Assigned: r"the gradient of 'weight' is zero everywhere.*; no gradient came by the parameter's accumulate",
    Overwritten: r"after two backwards before one step the gradient of 'weight' is 2.000x too small: they must add up",
    NeverCleared: "the first backward of a step must replace the gradient of 'weight' that the step before left",
    WritesIntoDy: "backward wrote into dy",
    WritesIntoX: "forward wrote into x",
    BackwardWritesIntoX: "backward wrote into x",
    KeepsForEver: r"a second backward must raise StateError: keep values with self.keep\(...\) and take them with",
    KeepsInInference: r"layer\(x\) is inference, and a backward after it must raise StateError",
    OtherInference: r"layer\(x\) is not forward\(x\), and nothing is random: it is 2.000x too large",
    GlobalNoise: "two forwards in the same state differ: the layer draws random numbers of its own; draw them with a",
    NoisyInference: r"inference is random: layer\(x\) changes from call to call or with the step",
    AlwaysDx: r"backward\(dy, need_dx=False\) returned ndarray, not None",
    SparedGradient: "need_dx=False changes the gradient of 'weight': it is zero everywhere",
    Widened: "y is float64 for x of float32; dtypes must agree",
    FlatDx: r"dx has shape \(20,\), not x's \(5, 4\)",
    NeedsContiguous: "y of a strided view is wrong in",
    NoJson: "save raised ConfigError: NoJson.* which JSON cannot hold",
}  # fmt: skip
WRONG_ELSEWHERE: dict[type[bp.Layer], str] = {
    HostOnly: r"on strict, .*forward raised AttributeError: .*; inside a layer use kernels, and the functions of",
    ReturnsHost: "on strict, .*backward returned ndarray, not an array of strict",
    FirstDevice: "on strict:device1, .*forward raised|y is on .*CPU_DEVICE.*, x on .*device1.*; pass device=x.device",
}


@pytest.mark.parametrize("backend", ["numpy", pytest.param("torch", marks=pytest.mark.torch)])
@pytest.mark.parametrize("layer", [Scale, Matrix, bp.Tanh, bp.Flatten, bp.Sequential])
def test_a_right_layer_passes(layer: Callable[[], bp.Layer], backend: str) -> None:
    check_layer(layer, backends=(backend,))
    check_layer(layer(), 4, dtype="float32", backends=(backend,), seed=3)


@pytest.mark.parametrize("layer", WRONG, ids=lambda layer: layer.__name__)
def test_a_wrong_layer_is_found_out_and_its_mistake_is_named(layer: type[bp.Layer]) -> None:
    with np.errstate(all="ignore"), pytest.raises(AssertionError, match=WRONG[layer]):
        check_layer(layer, strict=False)


@pytest.mark.parametrize("layer", WRONG_ELSEWHERE, ids=lambda layer: layer.__name__)
def test_a_layer_that_is_right_on_numpy_alone_is_found_out(layer: type[bp.Layer]) -> None:
    check_layer(layer, strict=False)
    with pytest.raises(AssertionError, match=WRONG_ELSEWHERE[layer]):
        check_layer(layer)


def test_random_layers_are_held_to_their_streams() -> None:
    check_layer(lambda: bp.Dropout(0.5), (8,), strict=False)
    with pytest.raises(AssertionError, match=r"inference is random: layer\(x\) changes"):
        check_layer(lambda: DropoutInInference(0.5), (8,), strict=False)
    with pytest.raises(AssertionError, match=r"backward must call commit\(\) of stream, so that the next forward"):
        check_layer(lambda: NeverCommits(0.5), (8,), strict=False)


def test_a_shape_that_the_layer_refuses_is_reported_with_its_own_words() -> None:
    with pytest.raises(AssertionError, match=r"Dense\(7, 2\) on numpy, .*forward raised ShapeError: .*\(N, 7\), got"):
        check_layer(lambda: bp.Dense(7, 2), strict=False)
    check_layer(lambda: bp.Dense(7, 2), 7, strict=False)
    with pytest.raises(AssertionError, match=r"backward raised ShapeError: the parameter 'weight' has shape \(4, 3\)"):
        check_layer(lambda: TransposedOblong(4, 3), strict=False)


def test_a_layer_that_its_arguments_do_not_make_is_found_out() -> None:
    def changed() -> bp.Layer:
        layer = Factor()
        layer._factor = 3.0
        return layer

    check_layer(Factor, strict=False)
    with pytest.raises(
        AssertionError, match="made again from its file, it gives other outputs: the constructor's argum"
    ):
        check_layer(changed, strict=False)


def test_large_parameters_are_differenced_along_directions() -> None:
    check_layer(lambda: bp.Dense(30, 20), 30, strict=False)

    class Half(bp.Dense):
        def backward(self, dy: Any, need_dx: bool = True) -> Any:
            (x,) = self.kept()
            dx, dW, db = ops.linear_backward(dy, x, self.weight.value)
            self.weight.accumulate(dW * 0.5)
            self.bias.accumulate(db)  # type: ignore[union-attr]
            return dx

    with pytest.raises(AssertionError, match="the gradient of 'weight' is 2.000x too small"):
        check_layer(lambda: Half(30, 20), 30, strict=False)


def test_a_layer_given_by_itself_is_not_touched() -> None:
    layer = Scale()
    layer.initialize(seed=5)
    layer.gain.value = [1.0, 2.0, 3.0, 4.0]
    check_layer(layer, strict=False)
    assert layer.gain.value.tolist() == [1.0, 2.0, 3.0, 4.0]
    assert layer.store.counters.tolist() == [0]


def test_derivatives_are_reported_by_name_with_their_errors() -> None:
    model = bp.Sequential(bp.Dense(3, 2), bp.Tanh()).initialize(dtype="float64")
    found = derivatives(model, np.ones((2, 3)))
    assert list(found) == ["dx", "0.weight", "0.bias"]
    assert all(each.agrees and each.error <= each.tolerance for each in found.values())


@pytest.mark.parametrize(
    ("factor", "said"),
    [
        (20.0, "is 20.000x too large"),
        (0.05, "is 20.000x too small (20 is the batch)"),
        (-1.0, "has the wrong sign"),
        (-3.0, "has the wrong sign and is 3.000x too large"),
        (0.0, "is zero everywhere, where differences give up to 4"),
        (np.nan, "holds 2 NaN or infinite values"),
    ],
)
def test_a_factor_is_said_as_such(factor: float, said: str) -> None:
    def f(x: Any) -> float:
        return float(np.sum(x * x))

    x = np.array([1.0, -2.0])
    factors = {"the batch": 20.0} if factor < 1 else None
    assert compare(factor * 2 * x, f, x, factors=factors).diagnosis == said
    assert compare(2 * x, f, x).agrees
    assert compare(2 * x + 1e-4, f, x).diagnosis.startswith("is wrong in 2 of 2 elements, most at index")


def test_a_gradient_of_another_shape_is_said_to_be_transposed() -> None:
    x = np.ones((2, 3))
    assert compare(np.ones((3, 2)), lambda x: 0.0, x).diagnosis == "has shape (3, 2), not (2, 3); it is transposed"
    assert compare(np.ones(6), lambda x: 0.0, x).diagnosis == "has shape (6,), not (2, 3)"


def test_a_gradient_where_there_is_none_is_shown() -> None:
    assert diagnose(np.array([0.0, 3.0]), np.zeros(2)) == (
        "is wrong in 1 of 2 elements, most at index (1,): 3, where differences give 0"
    )


# --- backends ---


@pytest.mark.parametrize("check", BACKEND_CHECKS, ids=lambda check: check.__name__)
def test_every_backend_passes(check: Callable[[bp.Backend], None], backend: bp.Backend) -> None:
    check(backend)


def test_check_backend_runs_all_of_them_by_name() -> None:
    check_backend("numpy")
    with pytest.raises(bp.BackendError, match="unknown backend 'nmpy'"):
        check_backend("nmpy")


class Silent(StrictBackend):
    def describe(self) -> dict[str, str]:
        return {"version": "1"}


class Deaf(StrictBackend):
    """Does not cast its own arrays."""

    def asarray(self, x: Any, dtype: str | None = None) -> Any:
        return super().asarray(x, None if isinstance(x, self.array_type) else dtype)


class Narrow(StrictBackend):
    """Copies to the host in float32."""

    def to_numpy(self, x: Any) -> Any:
        found = super().to_numpy(x)
        return found.astype(np.float32) if found.dtype == np.float64 else found


class Shared(StrictBackend):
    """Gives the same memory again."""

    def __init__(self) -> None:
        super().__init__()
        self._memory: dict[Any, Any] = {}

    def zeros(self, shape: tuple[int, ...], dtype: str) -> Any:
        return self._memory.setdefault((shape, dtype), super().zeros(shape, dtype))


class Elsewhere(StrictBackend):
    def zeros(self, shape: tuple[int, ...], dtype: str) -> Any:
        return super().zeros(shape, dtype).to_device(self.xp.Device("device2"))


class Raises(StrictBackend):
    def synchronize(self) -> None:
        raise OSError("the device is on fire")


@pytest.mark.parametrize(
    ("backend", "message"),
    [
        (Silent, r"strict: it says what it is: describe\(\) lacks 'device': it has version"),
        (Deaf, r"strict: values come and go unchanged: asarray\(..., dtype='float32'\) gave .*float64"),
        (Narrow, r"strict: values come and go unchanged: asarray of float64 of shape \(\): to_numpy gave float32"),
        (Shared, "strict: zeros are writable and of their own: .*(not 0|in use)"),
        (Raises, "strict: it says what it is: raised OSError: the device is on fire"),
    ],
)
def test_a_broken_backend_is_found_out(backend: Callable[[], Any], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_backend(backend())


def test_zeros_on_another_device_are_found_out() -> None:
    with pytest.raises((AssertionError, bp.BackendError), match=r"different devices|failed its probe"):
        check_backend(Elsewhere())


@pytest.fixture
def variants() -> Any:
    """Registers variants for array_api_strict that are gone after the test."""
    cls = type(StrictBackend().asarray(0.0))
    touched: list[bp.dispatch.Kernel] = []  # type: ignore[name-defined]

    def register(op: Any, body: Callable[..., Any], name: str) -> None:
        op.register(cls, name=name)(body)
        touched.append(op)

    yield register
    for op in touched:
        del op._registered[cls]
        op._table.clear()


def test_a_variant_that_loses_nan_is_found_out(variants: Any) -> None:
    def relu(x: Any) -> Any:
        return bp.namespace(x).where(x > 0, x, 0)

    variants(ops.relu, relu, "quick")
    with pytest.raises(AssertionError, match=r"every kernel gives what numpy gives: relu \(variant quick\) on str"):
        check_backend(StrictBackend())


def test_a_variant_that_writes_into_its_arguments_is_found_out(variants: Any) -> None:
    def tanh(x: Any) -> Any:
        y = bp.namespace(x).tanh(x)
        x[...] = 0
        return y

    variants(ops.tanh, tanh, "destructive")
    with pytest.raises(AssertionError, match=r"tanh \(variant destructive\).*: afterwards its arguments hold other"):
        check_backend(StrictBackend())


def test_a_variant_that_depends_on_more_than_its_arguments_is_found_out(variants: Any) -> None:
    calls = []

    def linear(x: Any, W: Any, b: Any, activation: Any = None, *settings: Any) -> Any:
        calls.append(None)
        y = ops.linear.reference.body(x, W, b, activation, *settings)
        return y * (1 + 2e-7 * (len(calls) % 2))

    variants(ops.linear, linear, "restless")
    with pytest.raises(AssertionError, match=r"strict: (training agrees|planned steps equal eager ones|every kernel)"):
        check_backend(StrictBackend())


# --- integers, several arrays, side inputs ---


def matches(x: Any, n: int) -> Any:
    xp = bp.namespace(x)
    return x[..., None] == xp.arange(n, dtype=xp.int64, device=x.device)


@bp.kernel
def looked_up(x: Any, table: Any) -> Any:
    """The rows of the table that x names."""
    return bp.namespace(table).astype(matches(x, table.shape[0]), table.dtype) @ table


@bp.kernel
def looked_up_backward(dy: Any, x: Any, n: int) -> Any:
    """The sum of dy over all places that name a row."""
    xp = bp.namespace(dy)
    at = xp.astype(matches(x, n), dy.dtype)
    return xp.reshape(at, (-1, n)).T @ xp.reshape(dy, (-1, dy.shape[-1]))


class LookUp(bp.Layer):
    """A right layer of integers."""

    factor = 1.0

    def __init__(self, n: int, width: int) -> None:
        self.n = n
        self.table = bp.Parameter((n, width), "he_normal")

    def blank(self, input_shape: tuple[int, ...]) -> Any:
        return self.backend.zeros((1, *input_shape), "int64")

    def __call__(self, x: Any) -> Any:
        return looked_up(x, self.table.value)

    def forward(self, x: Any) -> Any:
        self.keep(x)
        return self(x)

    def backward(self, dy: Any, need_dx: bool = True) -> Any:
        (x,) = self.kept()
        self.table.accumulate(looked_up_backward(dy, x, self.n))


class Doubled(LookUp):
    def forward(self, x: Any) -> Any:
        return ops.add(super().forward(x), self(x))

    def __call__(self, x: Any) -> Any:
        return looked_up(x, self.table.value)


class WithDx(LookUp):
    def backward(self, dy: Any, need_dx: bool = True) -> Any:
        super().backward(dy)
        return dy


class Product(bp.Layer):
    """A right layer of two arrays: x times m, by element."""

    def __call__(self, x: Any, m: Any) -> Any:
        return ops.mul(x, m)

    def forward(self, x: Any, m: Any) -> Any:
        self.keep(x, m)
        return self(x, m)

    def backward(self, dy: Any, need_dx: bool = True) -> Any:
        x, m = self.kept()
        dx, dm = ops.mul_backward(dy, x, m)
        return (dx, dm) if need_dx else None


class WrongProduct(Product):
    def backward(self, dy: Any, need_dx: bool = True) -> Any:
        x, m = self.kept()
        dx, dm = ops.mul_backward(dy, x, m)
        return (dx, ops.add(dm, dm)) if need_dx else None


class OneGradient(Product):
    def backward(self, dy: Any, need_dx: bool = True) -> Any:
        found = super().backward(dy, need_dx)
        return found and found[:1]


@bp.kernel
def masked(x: Any, mask: Any) -> Any:
    """x, and 0 where the mask is False."""
    return bp.namespace(x).where(mask, x, 0)


class Masked(bp.Layer):
    """A right layer with a side input."""

    def __call__(self, x: Any, *, mask: Any) -> Any:
        return masked(x, mask)

    def forward(self, x: Any, *, mask: Any) -> Any:
        self.keep(mask)
        return self(x, mask=mask)

    def backward(self, dy: Any, need_dx: bool = True) -> Any:
        (mask,) = self.kept()
        return masked(dy, mask) if need_dx else None


class MaskForgotten(Masked):
    def backward(self, dy: Any, need_dx: bool = True) -> Any:
        self.kept()
        return dy if need_dx else None


WORDS = SampleInputs((3,), below=7)
PAIR = SampleInputs((4,), others=(SampleInputs((4,)),))
MASK = SampleInputs((4,), side={"mask": lambda rng, n: rng.uniform(size=(n, 4)) > 0.4})


@pytest.mark.parametrize(
    ("make", "inputs"), [(lambda: LookUp(7, 2), WORDS), (Product, PAIR), (Masked, MASK)], ids=["words", "pair", "mask"]
)
def test_layers_of_integers_of_several_arrays_and_with_side_inputs_pass(make: Any, inputs: SampleInputs) -> None:
    check_layer(make, inputs)


@pytest.mark.parametrize(
    ("make", "inputs", "message"),
    [
        (lambda: Doubled(7, 2), WORDS, "the gradient of 'table' is 2.000x too small"),
        (lambda: WithDx(7, 2), WORDS, "dx must be None: integers have no derivative"),
        (WrongProduct, PAIR, "dx of input 1 is 2.000x too large"),
        (OneGradient, PAIR, "backward returned 1 gradients for 2 arrays"),
        (MaskForgotten, MASK, "on numpy, x of shape .5, 4.: dx "),
    ],
    ids=["doubled", "with dx", "second gradient", "one gradient", "mask forgotten"],
)
def test_their_mistakes_are_named(make: Any, inputs: SampleInputs, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_layer(make, inputs)


def test_a_planned_pass_that_is_not_the_eager_one_is_named() -> None:
    calls = []

    @bp.kernel
    def times_calls(x: Any) -> Any:
        calls.append(1)
        return x * len(calls)

    class Counting(Masked):
        """Another function in every call, by a number that no trace sees."""

        def __call__(self, x: Any, *, mask: Any) -> Any:
            return times_calls(masked(x, mask))

    model, x = Counting().initialize(), np.array([[-1.0, -2.0]], np.float32)
    why = why_a_planned_pass_differs(model, np.ones_like(x), (x,), {"mask": x < 0})
    assert why == "a planned pass is not the eager one: y differ"
    table, words = LookUp(7, 2).initialize(), np.array([[1, 2]])
    assert why_a_planned_pass_differs(table, np.ones((1, 2, 2), np.float32), (words,), {}) == ""
