"""An array that counts: a NumPy array in whose namespace every floating-point operation is noted as it is made.

What `bpnet.ops.costs` says of a kernel is held against it: the reference body runs on such arrays, and what it really
computed is added up, by the rules that are stated there.
"""

from __future__ import annotations

import operator
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

EACH = {
    "add", "subtract", "multiply", "divide", "maximum", "minimum", "pow", "remainder", "square", "reciprocal", "sqrt",
    "hypot", "exp", "exp2", "expm1", "log", "log1p", "log2", "log10", "logaddexp", "sin", "cos", "tan", "asin", "acos",
    "atan", "atan2", "sinh", "cosh", "tanh", "asinh", "acosh", "atanh", "floor", "ceil", "round", "trunc",
}  # fmt: skip
"""Functions that count one for each element of their result."""
TWICE = {"clip"}
"""A maximum and a minimum."""
REDUCTIONS = {"sum", "prod", "max", "min", "mean", "argmax", "argmin", "cumulative_sum", "cumulative_prod"}
"""Functions that count one for each element of their argument."""


_tally = threading.local()


class Count(NamedTuple):
    """Floating-point operations on arrays, and those whose result or argument is a single number."""

    arrays: int
    numbers: int


def count_flops(body: Callable[..., Any], args: tuple[Any, ...]) -> Count:
    """The floating-point operations that `body(*args)` makes.

    args : NumPy arrays, tuples of them, and constants
    A formula leaves out what a call does with single numbers, but may count an array that has only one: so it is right
    where it gives at least `arrays` and at most `arrays + numbers`.
    """
    _tally.arrays = _tally.numbers = 0
    with np.errstate(all="ignore"):
        body(*_counting(args))
    return Count(_tally.arrays, _tally.numbers)


def _note(n: int, size: int) -> None:
    if size > 1:
        _tally.arrays += n
    else:
        _tally.numbers += n


def _counting(x: Any) -> Any:
    if isinstance(x, (tuple, list)):
        return type(x)(_counting(each) for each in x)
    return Counted(x) if isinstance(x, (np.ndarray, np.generic)) else x


def _plain(x: Any) -> Any:
    if isinstance(x, (tuple, list)):
        return type(x)(_plain(each) for each in x)
    return x._values if isinstance(x, Counted) else x


def _is_floating(x: Any) -> bool:
    return isinstance(x, (np.ndarray, np.generic)) and x.dtype.kind == "f"


class Counted:
    """A NumPy array whose operations are noted."""

    __array_ufunc__ = None  # NumPy's scalars leave an operator to this class

    def __init__(self, values: Any) -> None:
        self._values = np.asarray(values)

    def __array_namespace__(self, *, api_version: str | None = None) -> Any:
        return _NAMESPACE

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return _counting(getattr(self._values, name))

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, key: Any) -> Counted:
        return Counted(self._values[_plain(key)])

    def __setitem__(self, key: Any, value: Any) -> None:
        self._values[_plain(key)] = _plain(value)

    def __matmul__(self, other: Counted) -> Any:
        return _NAMESPACE.matmul(self, other)

    def _with(self, f: Callable[..., Any], counts: bool, *args: Any) -> Any:
        result = f(*(_plain(arg) for arg in args))
        if counts and _is_floating(result):
            _note(result.size, result.size)
        return Counted(result)


def _operators() -> None:
    def add(name: str, counts: bool, swapped: bool = False) -> None:
        f = getattr(operator, name)

        def method(self: Counted, *other: Any) -> Any:
            return self._with(f, counts, *((*other, self) if swapped else (self, *other)))

        setattr(Counted, f"__{'r' if swapped else ''}{name.rstrip('_')}__", method)

    for name in ("add", "sub", "mul", "truediv", "pow", "mod", "floordiv"):
        add(name, True)
        add(name, True, swapped=True)
    for name in ("and_", "or_", "xor", "lshift", "rshift"):
        add(name, False)
        add(name, False, swapped=True)
    for name in ("lt", "le", "gt", "ge", "eq", "ne", "neg", "abs", "invert", "pos"):
        add(name, False)


_operators()


class Namespace:
    """NumPy's functions, which note what they do."""

    def __getattr__(self, name: str) -> Any:
        found = getattr(np, name)
        if isinstance(found, type) or not callable(found) or name in ("finfo", "iinfo", "isdtype", "result_type"):
            return found
        return lambda *args, **keywords: self._call(name, found, args, keywords)

    def _call(self, name: str, f: Callable[..., Any], args: Any, keywords: Any) -> Any:
        plain = _plain(args)
        result = f(*plain, **{key: _plain(value) for key, value in keywords.items()})
        counts = _is_floating(result) or (name.startswith("arg") and _is_floating(plain[0]))
        if name in ("matmul", "tensordot", "vecdot") and counts:
            _note(_products(name, plain, keywords, result), max(map(np.size, plain[:2])))
        elif name in REDUCTIONS and counts:
            _note(np.size(plain[0]), np.size(plain[0]))
        elif (name in EACH or name in TWICE) and counts:
            _note((2 if name in TWICE else 1) * result.size, result.size)
        return _counting(result)


_NAMESPACE = Namespace()


def _products(name: str, args: Any, keywords: Any, result: Any) -> int:
    """A multiplication and an addition for every number that is summed."""
    if name == "matmul":
        return 2 * int(result.size) * int(args[0].shape[-1])
    if name == "vecdot":
        return 2 * int(result.size) * int(args[0].shape[keywords.get("axis", -1)])
    axes = keywords.get("axes", args[2] if len(args) > 2 else 2)
    summed = args[0].shape[-axes:] if isinstance(axes, int) else [args[0].shape[axis] for axis in axes[0]]
    return 2 * int(result.size) * int(np.prod(summed, dtype=int))
