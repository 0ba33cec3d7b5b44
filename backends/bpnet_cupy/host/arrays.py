"""An array class and its namespace for the tests: NumPy inside, but no NumPy array, as CuPy's is none.

Like CuPy it lets itself not be converted in silence, its results of one element are 0-d arrays, and creation functions
take `device` and do not care.
"""

from __future__ import annotations

from typing import Any

import numpy as np

DEVICE = "host"


def wrapped(result: Any) -> Any:
    """NumPy's results as arrays of this class, tuples of them too."""
    if isinstance(result, (np.ndarray, np.generic)):
        return HostArray(np.asarray(result))
    if isinstance(result, (tuple, list)) and any(isinstance(each, np.ndarray) for each in result):
        return tuple(wrapped(each) for each in result)
    return result


def unwrapped(x: Any) -> Any:
    """The NumPy arrays within, also of tuples and lists."""
    if isinstance(x, HostArray):
        return x.array
    if isinstance(x, (tuple, list)):
        return type(x)(unwrapped(each) for each in x)
    return x


class HostArray:
    """A NumPy array in a class of its own."""

    __slots__ = ("array",)
    __hash__ = None  # type: ignore[assignment]
    __array_ufunc__ = None  # NumPy's arrays leave arithmetic to this class

    def __init__(self, array: np.ndarray[Any, Any]) -> None:
        self.array = array

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise TypeError("implicit conversion to a NumPy array is not allowed")

    def __array_namespace__(self, api_version: str | None = None) -> Any:
        return NAMESPACE

    def __getitem__(self, key: Any) -> Any:
        return wrapped(self.array[unwrapped(key)])

    def __setitem__(self, key: Any, value: Any) -> None:
        if isinstance(value, np.ndarray):
            raise TypeError("a NumPy array cannot be assigned to an array of another library")
        self.array[unwrapped(key)] = unwrapped(value)

    def __repr__(self) -> str:
        return f"HostArray({self.array!r})"

    def __len__(self) -> int:
        return len(self.array)

    def __bool__(self) -> bool:
        return bool(self.array)

    def __int__(self) -> int:
        return int(self.array)

    def __index__(self) -> int:
        return self.array.__index__()

    def __float__(self) -> float:
        return float(self.array)

    @property
    def device(self) -> str:
        """The one device."""
        return DEVICE

    @property
    def T(self) -> Any:
        """The transposed view."""
        return HostArray(self.array.T)

    def reshape(self, *shape: Any) -> Any:
        """As NumPy's."""
        return HostArray(self.array.reshape(*shape))

    def copy(self) -> Any:
        """A copy in C order."""
        return HostArray(self.array.copy())

    def tobytes(self) -> bytes:
        """The bits in C order."""
        return self.array.tobytes()


def _operator(name: str) -> Any:
    def operate(self: HostArray, *others: Any) -> Any:
        if any(isinstance(other, np.ndarray) for other in others):
            raise TypeError("arrays of two libraries in one operation")
        return wrapped(getattr(self.array, name)(*map(unwrapped, others)))

    return operate


def _attribute(name: str) -> Any:
    return property(lambda self: getattr(self.array, name))


_BINARY = "add sub mul truediv floordiv mod pow matmul and or xor lshift rshift"
for _name in _BINARY.split():
    setattr(HostArray, f"__{_name}__", _operator(f"__{_name}__"))
    setattr(HostArray, f"__r{_name}__", _operator(f"__r{_name}__"))
for _name in ["lt", "le", "gt", "ge", "eq", "ne", "neg", "pos", "abs", "invert"]:
    setattr(HostArray, f"__{_name}__", _operator(f"__{_name}__"))
for _name in ["shape", "dtype", "ndim", "size", "nbytes", "itemsize", "strides", "flags"]:
    setattr(HostArray, _name, _attribute(_name))


class Namespace:
    """The Array API on `HostArray`: NumPy's functions between unwrapping and wrapping."""

    __name__ = "bpnet_cupy.host.arrays"

    def __getattr__(self, name: str) -> Any:
        found = getattr(np, name)
        if isinstance(found, type) or not callable(found) or name in ("finfo", "iinfo", "isdtype", "result_type"):
            return found

        def call(*args: Any, device: Any = None, **settings: Any) -> Any:
            inside = {key: unwrapped(value) for key, value in settings.items()}
            return wrapped(found(*map(unwrapped, args), **inside))

        call.__name__ = name
        setattr(self, name, call)
        return call


NAMESPACE = Namespace()
