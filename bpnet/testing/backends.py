"""`check_backend`: an array library's way into bpnet held to what bpnet needs of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from bpnet.backend import Backend, get_backend, to_numpy
from bpnet.data.named import load
from bpnet.dispatch import dtype_name
from bpnet.layers import Dense, Dropout, ReLU, Sequential
from bpnet.layers.base import Layer
from bpnet.losses import SoftmaxCrossEntropy
from bpnet.optimizers import SGD, Adam
from bpnet.testing.kernels import check_kernel, shipped_kernels
from bpnet.trainer import Trainer

DTYPES = ("float32", "float64", "int64", "int32", "bool")
AGREEMENT = {"float32": 1e-5, "float64": 1e-10}


def check_backend(backend: str | Backend) -> None:
    """Hold a backend to its protocol, to NumPy's results, and to plans that equal eager steps, one check after another.

    backend : a name as in `get_backend`, or a Backend
    Raises BackendError where it cannot be used at all; AssertionError, which names the check, where it is wrong. The
    checks are `bpnet.testing.BACKEND_CHECKS`, functions of a ready backend, for tests that want them one by one.
    """
    ready = get_backend(backend)
    for check in BACKEND_CHECKS:
        try:
            check(ready)
        except AssertionError as error:
            raise AssertionError(f"{ready.name}: {_title(check)}: {error}") from error
        except Exception as error:
            raise AssertionError(f"{ready.name}: {_title(check)}: raised {type(error).__name__}: {error}") from error


def _title(check: Callable[[Backend], None]) -> str:
    return check.__name__.replace("_", " ")


def it_says_what_it_is(backend: Backend) -> None:
    """The attributes and `describe` have what messages and `bpnet doctor` show."""
    assert isinstance(backend.name, str), f"name is {backend.name!r}, not a text"
    assert backend.name, "name is empty"
    about = backend.describe()
    assert isinstance(about, dict), f"describe() gave {about!r}, not a dict of texts"
    for key in ("version", "device"):
        assert key in about, f"describe() lacks {key!r}: it has {', '.join(about)}"
    wrong = {key: value for key, value in about.items() if not (isinstance(key, str) and isinstance(value, str))}
    assert not wrong, f"describe() must map texts to texts, got {wrong}"
    assert backend.synchronize() is None, "synchronize() returned something"  # type: ignore[func-returns-value]


def values_come_and_go_unchanged(backend: Backend) -> None:
    """`asarray` takes host arrays in any memory order and nested sequences; `to_numpy` gives the same values back."""
    rng = np.random.default_rng(0)
    for dtype in DTYPES:
        for shape in ((), (0,), (3,), (2, 3), (2, 0, 3), (2, 3, 4)):
            host = np.asarray(10 * rng.normal(size=shape)).astype(dtype)
            _comes_back(backend, host, host)
    host = rng.normal(size=(4, 6))
    host.flags.writeable = False
    for name, given in (
        ("read-only", host),
        ("a strided view", host[::2, 1::2]),
        ("reversed", host[::-1, ::-1]),
        ("in Fortran's order", np.asfortranarray(host)),
        ("a nested list", host.tolist()),
    ):
        _comes_back(backend, given, np.array(given, dtype=np.float64), f" ({name})")
    own = backend.asarray(host)
    for dtype in ("float32", "float64"):
        for source in (host, own, host.tolist()):
            cast = backend.asarray(source, dtype=dtype)
            assert dtype_name(cast.dtype) == dtype, f"asarray(..., dtype={dtype!r}) gave {cast.dtype}"
            assert np.array_equal(backend.to_numpy(cast), host.astype(dtype)), f"asarray to {dtype} changes values"
    assert np.array_equal(to_numpy(own), host), "bpnet.to_numpy does not know its arrays"


def _comes_back(backend: Backend, given: Any, expected: Any, what: str = "") -> None:
    array = backend.asarray(given)
    where = f"asarray of {expected.dtype} of shape {expected.shape}{what}"
    assert isinstance(array, backend.array_type), f"{where} gave a {type(array).__name__}, no array_type"
    assert isinstance(array.shape, tuple), f"{where}: its shape is a {type(array.shape).__name__}, no tuple"
    assert array.shape == expected.shape, f"{where}: it has shape {tuple(array.shape)}"
    assert dtype_name(array.dtype) == str(expected.dtype), f"{where} gave {array.dtype}"
    back = backend.to_numpy(array)
    assert type(back) is np.ndarray, f"to_numpy gave a {type(back).__name__}"
    assert back.dtype == expected.dtype, f"{where}: to_numpy gave {back.dtype}"
    assert back.shape == expected.shape, f"{where}: to_numpy gave shape {back.shape}"
    assert np.array_equal(back, expected), f"{where}: other values came back"


def zeros_are_writable_and_of_their_own(backend: Backend) -> None:
    """Every call of `zeros` gives fresh memory, on the device of all arrays."""
    for dtype in ("float32", "float64", "int64", "bool"):
        for shape in ((), (0,), (5,), (2, 3)):
            first = backend.zeros(shape, dtype)
            assert tuple(first.shape) == shape, f"zeros({shape}) has shape {tuple(first.shape)}"
            assert dtype_name(first.dtype) == dtype, f"zeros(..., {dtype!r}) is {first.dtype}"
            assert first.device == backend.asarray(np.zeros(1)).device, "zeros and asarray give different devices"
            assert not backend.to_numpy(first).any(), f"zeros({shape}, {dtype!r}) are not 0"
            first[...] = True if dtype == "bool" else 1
            assert backend.to_numpy(first).all(), f"zeros({shape}, {dtype!r}) cannot be written as array[...] = 1"
            assert not backend.to_numpy(backend.zeros(shape, dtype)).any(), "zeros gave memory that is in use"


def views_write_through(backend: Backend) -> None:
    """Slices, and reshapes of them, are views of one flat buffer, in both directions."""
    flat = backend.zeros((12,), "float32")
    matrix = backend.xp.reshape(flat[2:8], (2, 3))
    matrix[...] = backend.asarray(np.arange(6, dtype=np.float32).reshape(2, 3))
    assert backend.to_numpy(flat).tolist() == [0, 0, 0, 1, 2, 3, 4, 5, 0, 0, 0, 0], "a view does not write through"
    flat[...] = 7
    assert backend.to_numpy(matrix).tolist() == [[7.0] * 3] * 2, "a view does not see what its buffer gets"
    matrix[1:2, 0:2] = 9
    flat[11] = 5
    assert backend.to_numpy(flat).tolist() == [7, 7, 7, 7, 7, 9, 9, 7, 7, 7, 7, 5], "a part is not written in place"
    copied = backend.xp.asarray(flat, copy=True)
    copied[...] = 0
    assert backend.to_numpy(flat).any(), "xp.asarray(x, copy=True) gave no copy"


def every_kernel_gives_what_numpy_gives(backend: Backend) -> None:
    """The reference bodies, and the backend's own variants, over sample arguments in both dtypes."""
    for op in shipped_kernels():
        for dtype in ("float32", "float64"):
            check_kernel(op, backend, dtype)


def the_chain_rule_gives_the_known_numbers(backend: Backend) -> None:
    """A Dense layer of four inputs and three neurons, whose derivatives can be found by hand."""
    for dtype, tolerance in (("float64", 1e-12), ("float32", 1e-5)):
        layer = Dense(4, 3)
        model = Sequential(layer).initialize(backend=backend, dtype=dtype)
        layer.weight.value = [[0.2, 0.5, -0.26], [0.8, -0.91, -0.27], [-0.5, 0.26, 0.17], [1.0, -0.5, 0.87]]
        assert layer.bias is not None
        layer.bias.value = [2.0, 3.0, 0.5]
        y = model.forward(model.asarray([[1.0, 2.0, 3.0, 2.5], [2.0, 5.0, -1.0, 2.0], [-1.5, 2.7, 3.3, -0.8]]))
        dx = model.backward(model.asarray([[1.0] * 3, [2.0] * 3, [3.0] * 3]))
        for name, found, expected in (
            ("y", y, [[4.8, 1.21, 2.385], [8.9, -1.81, 0.2], [1.41, 1.051, 0.026]]),
            ("dx", dx, [[0.44, -0.38, -0.07, 1.37], [0.88, -0.76, -0.14, 2.74], [1.32, -1.14, -0.21, 4.11]]),
            ("dW", layer.weight.grad, [[0.5] * 3, [20.1] * 3, [10.9] * 3, [4.1] * 3]),
            ("db", layer.bias.grad, [6.0, 6.0, 6.0]),
        ):
            off = float(np.max(np.abs(backend.to_numpy(found) - np.array(expected))))
            assert off <= tolerance, f"{name} in {dtype} is off by {off:.3g}"
        SGD(0.001).step(model)
        updated = backend.to_numpy(layer.weight.value)[:, 0]
        assert np.allclose(updated, [0.1995, 0.7799, -0.5109, 0.9959], atol=tolerance), f"the update gave {updated}"


def _network(rate: float = 0.3) -> Layer:
    return Sequential(Dense(64, 24), ReLU(), Dropout(rate), Dense(24, 10))


def a_seed_draws_the_same_weights_and_masks(backend: Backend) -> None:
    """Initial weights, dropout masks and the order of samples are NumPy's to the bit."""

    def drawn(where: str | Backend) -> dict[str, Any]:
        model = _network().initialize(seed=11, backend=where)
        found = {path: to_numpy(parameter.value) for path, parameter in model.parameters().items()}
        x = model.asarray(np.ones((7, 64), np.float32))
        for step in range(3):
            model.forward(x)
            mask, *_ = dict(model.walk())["2"]._kept or (None,)
            found[f"the dropout mask {step}"] = np.array(to_numpy(mask))
            model.backward(model.asarray(np.ones((7, 10), np.float32)))
        return found

    found, expected = drawn(backend), drawn("numpy")
    for name, value in expected.items():
        assert found[name].dtype == value.dtype, f"{name} is {found[name].dtype}, not {value.dtype}"
        assert found[name].tobytes() == value.tobytes(), f"{name} is not NumPy's to the bit"


def _fit(where: str | Backend, dtype: str) -> list[float]:
    train, _ = load("digits")
    model = _network().initialize(seed=3, backend=where, dtype=dtype)
    trainer = Trainer(model, SoftmaxCrossEntropy(), Adam(0.003), seed=3)
    history = trainer.fit(train.x[:320], train.y[:320], epochs=3, batch_size=64, progress=False)
    return [*history["loss"], trainer.evaluate(train.x[320:420], train.y[320:420])["loss"]]


def training_agrees_with_numpys(backend: Backend) -> None:
    """Three epochs on 320 digits, and an evaluation, give NumPy's losses to 1e-5 in float32 and 1e-10 in float64."""
    for dtype, tolerance in AGREEMENT.items():
        found, expected = np.array(_fit(backend, dtype)), np.array(_fit("numpy", dtype))
        off = float(np.max(np.abs(found / expected - 1)))
        assert off <= tolerance, f"in {dtype} the losses {found.tolist()} are off by {off:.3g} from {expected.tolist()}"


def planned_steps_equal_eager_ones(backend: Backend) -> None:
    """A recorded and replayed step gives the bits of the eager one."""
    train, _ = load("digits")

    def run(plan: bool) -> tuple[dict[str, bytes], str]:
        model = _network().initialize(seed=5, backend=backend)
        trainer = Trainer(model, SoftmaxCrossEntropy(), Adam(0.003), plan=plan)
        found = {}
        for i in range(8):
            batch = slice(32 * i, 32 * i + 32)
            found[f"the loss of step {i + 1}"] = to_numpy(trainer.step(train.x[batch], train.y[batch])).tobytes()
        arrays = model.store.arrays().items()
        return found | {name: to_numpy(array).tobytes() for name, array in arrays}, trainer.plan_report()

    (planned, report), (eager, _) = run(True), run(False)
    assert "planned, " in report, f"no plan was made: {report}"
    differing = [name for name in eager if planned[name] != eager[name]]
    assert not differing, f"{', '.join(differing)} differ in their bits"


def a_model_moves_there_and_back(backend: Backend) -> None:
    """Values, gradients and counters survive the way from NumPy and back to the bit."""
    train, _ = load("digits")
    model = _network().initialize(seed=5, backend="numpy")
    trainer = Trainer(model, SoftmaxCrossEntropy(), Adam(0.003))
    trainer.step(train.x[:32], train.y[:32])
    before = {name: to_numpy(array).copy() for name, array in model.store.arrays().items()}
    model.to(backend)
    assert isinstance(model.store.values, backend.array_type), "the model was not moved"
    model.to("numpy")
    differing = [name for name, array in model.store.arrays().items() if array.tobytes() != before[name].tobytes()]
    assert not differing, f"{', '.join(differing)} came back changed"


BACKEND_CHECKS: tuple[Callable[[Backend], None], ...] = (
    it_says_what_it_is,
    values_come_and_go_unchanged,
    zeros_are_writable_and_of_their_own,
    views_write_through,
    every_kernel_gives_what_numpy_gives,
    the_chain_rule_gives_the_known_numbers,
    a_seed_draws_the_same_weights_and_masks,
    training_agrees_with_numpys,
    planned_steps_equal_eager_ones,
    a_model_moves_there_and_back,
)
