"""Strict mode: every call of a layer or a loss is held to what all layers and losses promise.

Within `with bpnet.strict():` what a layer gets cannot be written to, what it returns must be of the model's library,
device and dtype, and numbers must stay finite: an error names the layer. Outside nothing is checked and nothing paid:
the checks are put around the methods of the classes when the block begins, and taken off when it ends.
"""

from __future__ import annotations

import functools
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import numpy as np

from bpnet.backend import to_numpy, type_name
from bpnet.data.checks import check_finite, check_weights
from bpnet.dispatch import dtype_name, note_change, watch
from bpnet.errors import ContractError, NonFiniteError
from bpnet.layers.base import Layer
from bpnet.losses import Loss
from bpnet.trace import flat, is_array

METHODS = ("__call__", "forward", "backward")


class _Mode:
    """What is in force, for the whole process."""

    def __init__(self) -> None:
        self.depth = 0
        self.values = False
        self.originals: list[tuple[type, str, Any]] = []
        self.shapes: weakref.WeakKeyDictionary[Layer, tuple[Any, ...]] = weakref.WeakKeyDictionary()


_mode = _Mode()
_lock = threading.RLock()
_inside = threading.local()


@contextmanager
def strict(*, values: bool = True) -> Iterator[None]:
    """In the block, hold every layer and loss to its contract, in all threads.

    values : whether numbers are looked at too: what a layer makes of finite numbers must be finite, predictions must be
             and targets must have a meaning for the loss. The Trainer then plans no steps. Every look waits for the
             device, so this is for finding faults, not for training.
    Raises, at the call that breaks it:
    - ContractError where a layer writes into what it was given, returns arrays of another library, device or dtype,
      keeps something in inference, or returns a dx that has not the shape of x. On NumPy the arguments are read-only
      meanwhile, so that a write raises NumPy's own ValueError at its very line;
    - with `values`, NonFiniteError where a layer makes NaN or infinities of finite numbers, and DataError where a loss
      gets values that it cannot take, such as labels out of range.
    Blocks may be nested; the innermost one's `values` holds. Classes of layers made within a block are checked from the
    next block on.
    """
    with _lock:
        before = _mode.values
        _mode.values = values
        _mode.depth += 1
        watch(1)
        if _mode.depth == 1:
            _put_on()
        note_change()  # a plan made before would replay past the checks
    try:
        yield
    finally:
        with _lock:
            _mode.values = before
            _mode.depth -= 1
            watch(-1)
            if not _mode.depth:
                _take_off()


def looks_at_values() -> bool:
    """Whether a strict block that looks at values is in force."""
    return _mode.depth > 0 and _mode.values


def _classes(base: type) -> Iterator[type]:
    yield base
    cls: type
    for cls in type.__subclasses__(base):
        yield from _classes(cls)


def _put_on() -> None:
    kinds: tuple[tuple[type, Any], ...] = ((Layer, _guarded_layer), (Loss, _guarded_loss))
    for base, guard in kinds:
        for cls in dict.fromkeys(_classes(base)):
            for name in METHODS:
                method = cls.__dict__.get(name)
                if method is not None and callable(method):
                    _mode.originals.append((cls, name, method))
                    setattr(cls, name, guard(name, method))


def _take_off() -> None:
    for cls, name, method in _mode.originals:
        setattr(cls, name, method)
    _mode.originals = []


@contextmanager
def _outermost(each: Any) -> Iterator[bool]:
    """Whether this is the outermost call on an object in this thread; a method may call the one of its base class."""
    active = vars(_inside).setdefault("active", set())
    if id(each) in active:
        yield False
        return
    active.add(id(each))
    try:
        yield True
    finally:
        active.discard(id(each))


@contextmanager
def _unwritten(where: Callable[[], str], arrays: list[Any]) -> Iterator[None]:
    """Raise ContractError when the block writes to an array; NumPy's are read-only meanwhile, where they can be."""
    with ExitStack() as after:
        copies = []
        for array in arrays:
            if isinstance(array, np.ndarray) and array.flags.writeable:
                array.flags.writeable = False
                after.callback(_let_write, array)
            elif not isinstance(array, np.ndarray):
                copies.append((array, np.array(to_numpy(array))))
        yield
        for array, copy in copies:
            if to_numpy(array).tobytes() != copy.tobytes():
                raise ContractError(f"{where()} wrote into an array that it was given; make a new one")


def _let_write(array: Any) -> None:
    with suppress(ValueError):  # a view of what has become read-only
        array.flags.writeable = True


def _arrays(*given: Any) -> list[Any]:
    return [each for each in flat(given) if is_array(each)]


def _place(layer: Layer, name: str) -> str:
    """How a message begins: which layer, where it stands in its model, and what it was doing."""
    path = next((path for path, each in layer.root.walk() if each is layer), "")
    return f"{layer!r}{f' at {path!r}' if path else ''}, {'inference' if name == '__call__' else name}:"


def _guarded_layer(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def guarded(self: Layer, *args: Any, **keywords: Any) -> Any:
        with _outermost(self) as outermost:
            if not outermost:
                return method(self, *args, **keywords)
            where = functools.partial(_place, self, name)
            given = _arrays(*args, *keywords.values())
            kept = self._kept
            with _unwritten(where, given):
                result = method(self, *args, **keywords)
            _free_views(result)
            if name == "__call__" and self._kept is not kept:
                raise ContractError(f"{where()} layer(x) must keep nothing; keep values in forward")
            if name == "forward":
                _mode.shapes[self] = tuple(getattr(each, "shape", None) for each in flat(args))
            _check_result(self, where, name, given, result)
            return result

    return guarded


def _free_views(result: Any) -> None:
    """Let the caller write to views of what was read-only for the time of a call."""
    for array in _arrays(result):
        base = array.base if isinstance(array, np.ndarray) and not array.flags.writeable else None
        if isinstance(base, np.ndarray) and base.flags.writeable:
            _let_write(array)


def _like(layer: Layer, given: list[Any]) -> Any:
    """An array whose library, device and dtype results must have: the first floating argument, else the parameters."""
    floating = next((each for each in given if _is_floating(each)), None)
    store = layer.root._store
    return floating if floating is not None or store is None else store.values


def _is_floating(array: Any) -> bool:
    return dtype_name(array.dtype).startswith(("float", "bfloat", "complex"))


def _check_result(layer: Layer, where: Callable[[], str], name: str, given: list[Any], result: Any) -> None:
    like = _like(layer, given)
    for each in flat(result):
        if each is None and name == "backward":
            continue
        if not is_array(each) or (like is not None and not isinstance(each, type(like))):
            expected = "" if like is None else f" {type_name(like)}"
            raise ContractError(f"{where()} returned {type_name(each)}, not an array{expected}")
        if like is not None and each.device != like.device:
            raise ContractError(
                f"{where()} returned an array on {each.device}, its arguments are on {like.device}; pass "
                "device=x.device where arrays are made"
            )
        if like is not None and _is_floating(each) and each.dtype != like.dtype:
            raise ContractError(
                f"{where()} returned {dtype_name(each.dtype)} for {dtype_name(like.dtype)}; dtypes must agree"
            )
    shapes = _mode.shapes.get(layer)
    if name == "backward" and shapes is not None:
        for each, shape in zip(flat(result), shapes, strict=False):
            if each is not None and shape is not None and tuple(each.shape) != tuple(shape):
                raise ContractError(f"{where()} dx has shape {tuple(each.shape)}, x had {tuple(shape)}")
    if _mode.values and all(all_finite(each) for each in given):
        for each in _arrays(result):
            if not all_finite(each):
                host = to_numpy(each)
                first = tuple(int(i) for i in np.argwhere(~np.isfinite(host))[0])
                raise NonFiniteError(f"{where()} made {host[first]} at index {first} of finite numbers")


def all_finite(array: Any) -> bool:
    """Whether a floating array holds neither NaN nor infinities; any other array does."""
    host = to_numpy(array)
    return host.dtype.kind != "f" or bool(np.isfinite(host).all())


def _guarded_loss(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def guarded(self: Loss, *args: Any, **keywords: Any) -> Any:
        with _outermost(self) as outermost:
            if not outermost:
                return method(self, *args, **keywords)
            if _mode.values and name != "backward":
                _look_at(self, *args, **keywords)
            with _unwritten(lambda: f"{self!r}, {name}:", _arrays(*args, *keywords.values())):
                return method(self, *args, **keywords)

    return guarded


def _look_at(
    loss: Loss, prediction: Any, target: Any, *_: Any, sample_weight: Any = None, normalizer: Any = None
) -> None:
    """Raise where the values of prediction, target or weights are none that the loss can take."""
    loss.check(prediction, target, sample_weight)
    host = to_numpy(prediction)
    if not np.isfinite(host).all() and loss.wants != "log-probabilities":
        check_finite(host, f"the prediction that {loss!r} got")
    if loss.kind_of(target) != "labels":
        check_finite(target, f"the target that {loss!r} got")
    loss.check_values(target, f"the target that {loss!r} got", int(prediction.shape[-1]) if prediction.ndim else None)
    if sample_weight is not None and bool((to_numpy(sample_weight) != 0).any()):
        check_weights(sample_weight, f"the sample_weight that {loss!r} got")


__all__ = ["strict"]
