"""A `Driver` whose device is the host: the same kernel source, run by cuda_on_host.h."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from typing import Any

import numpy as np

from bpnet.dispatch import Array, Call
from bpnet_cupy.driver import Grid, three
from bpnet_cupy.host.arrays import HostArray
from bpnet_cupy.host.build import Kernels
from bpnet_cupy.launches import span

GUARD = 256  # bytes before and behind an array


class KernelError(AssertionError):
    """A kernel did what it must not: the message says which, and what."""


def aligned_zeros(shape: int | tuple[int, ...], dtype: Any) -> np.ndarray[Any, Any]:
    """Zeros in C order whose data start at a multiple of 256 bytes, as CuPy's pool gives them."""
    kind = np.dtype(dtype)
    size = int(np.prod(shape)) * kind.itemsize
    raw = np.zeros(size + GUARD, np.uint8)
    start = -raw.__array_interface__["data"][0] % GUARD
    found: np.ndarray[Any, Any] = raw[start : start + size].view(kind).reshape(shape)
    return found


class HostDriver:
    """Runs kernels on the host.

    orders    : the orders of threads and blocks in which each launch is run. With several of them it runs on copies of
                its arrays with guards around them; all orders must give the same bits, and leave the guards alone
    epilogues : whether `matmul` takes a bias and an activation, which the kernels then add
    flush     : whether float32 numbers below the smallest normal one count as 0, as they do under CuPy
    """

    def __init__(
        self, kernels: Kernels, *, orders: tuple[int, ...] = (0,), epilogues: bool = False, flush: bool = True
    ) -> None:
        self.kernels = kernels
        self.orders = orders
        self.epilogues = epilogues
        self.flush = flush
        self.array_type: Any = HostArray
        self.sm_count = 4

    def empty(self, shape: int | tuple[int, ...], dtype: Any) -> Array:
        """An array with numbers that nobody should use: NaN, or the largest integers."""
        found = aligned_zeros(shape, dtype)
        found.reshape(-1).view(np.uint8)[...] = 1 if found.dtype == np.bool_ else 0xFF
        return HostArray(found)

    def zeros(self, shape: int | tuple[int, ...], dtype: Any) -> Array:
        """An array of zeros."""
        return HostArray(aligned_zeros(shape, dtype))

    def constants(self, values: Any, dtype: Any) -> Array:
        """An array of these numbers."""
        found = aligned_zeros(len(values), dtype)
        found[...] = values
        return HostArray(found)

    def launch(self, name: str, grid: Grid, block: Grid, args: tuple[Any, ...], shared_bytes: int = 0) -> Call:
        """Bind a launch."""
        return HostLaunch(self, name, three(grid), three(block), args)

    def matmul(
        self,
        out: Array,
        a: Array,
        b: Array,
        *,
        alpha: float = 1.0,
        beta: float = 0.0,
        bias: Array | None = None,
        activation: str = "",
        column_sums: Array | None = None,
    ) -> Call | None:
        """Bind NumPy's product."""
        if column_sums is not None:
            return None
        if (bias is not None or activation) and not self.epilogues:
            return None
        after: list[Call] = []
        if bias is not None or activation:
            from bpnet_cupy.kernels.linear import bias_activation

            after = bias_activation(self, out, bias, activation)
            if bias is None or not after:
                return None
        return HostProduct(out.array, a.array, b.array, alpha, beta, after)


def number(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The numbers of an array, where it holds bits of bfloat16 those; it stays transposed."""
    if x.dtype != np.uint16:
        return x
    found: np.ndarray[Any, Any] = (x.T.astype(np.uint32) << 16).view(np.float32).T
    return found


class HostProduct:
    """A bound product."""

    def __init__(self, out: Any, a: Any, b: Any, alpha: float, beta: float, after: list[Call]) -> None:
        self.arrays, self.factors, self.after = (out, a, b), (alpha, beta), after

    def __call__(self) -> None:
        """out = alpha a @ b + beta out, and what comes behind it."""
        (out, a, b), (alpha, beta) = self.arrays, self.factors
        product = number(a) @ number(b)
        if alpha != 1:
            product *= product.dtype.type(alpha)
        out[...] = product + out.dtype.type(beta) * out if beta else product
        for call in self.after:
            call()


class HostLaunch:
    """A bound launch."""

    def __init__(
        self, driver: HostDriver, name: str, grid: tuple[int, ...], block: tuple[int, ...], args: tuple[Any, ...]
    ) -> None:
        if name not in driver.kernels.index:
            raise KernelError(f"{name} is not among the names that are compiled (bpnet_cupy.names)")
        self.driver, self.name, self.grid, self.block = driver, name, grid, block
        self.args = args  # keeps the arrays
        self._values = [_value(arg) for arg in args]
        self._pointers = (ctypes.c_void_p * max(len(args), 1))(*(v.ctypes.data for v in self._values))

    def __call__(self) -> None:
        """Run the kernel; raise KernelError with what was found."""
        if len(self.driver.orders) == 1:
            self._run(self.driver.orders[0])
        else:
            self._run_guarded()

    def _run(self, order: int) -> None:
        flush = self.driver.flush and "double" not in self.name
        found = self.driver.kernels.run(self.name, self._pointers, self.grid, self.block, order, flush)
        if found:
            raise KernelError(f"{self.name}: {found}")

    def _run_guarded(self) -> None:
        arrays = [arg.array for arg in self.args if isinstance(arg, HostArray)]
        regions = [_Region(begin, end) for begin, end in _joined(arrays)]
        slots = [i for i, arg in enumerate(self.args) if isinstance(arg, HostArray)]
        first: list[bytes] = []
        for number, order in enumerate(self.driver.orders):
            fill = (0xFF, 0x3C)[number % 2]  # NaN, and a small number: what is read behind the end shows
            for region in regions:
                region.prepare(fill)
            for slot, array in zip(slots, arrays, strict=True):
                begin = _address(array)
                region = next(r for r in regions if r.begin <= begin and begin + _reach(array) <= r.end)
                self._values[slot][...] = region.inside + begin - region.begin
            try:
                self._run(order)
            finally:
                for slot, array in zip(slots, arrays, strict=True):
                    self._values[slot][...] = _address(array)
            for region in regions:
                if not region.intact(fill):
                    raise KernelError(f"{self.name} writes outside of its arrays")
            found = [region.bits() for region in regions]
            if first and found != first:
                raise KernelError(
                    f"{self.name} gives other bits in another order of its threads, or reads outside of its arrays"
                )
            first = found
        for region in regions:
            region.write_back()


class _Region:
    """Memory that one or several arrays lie in, and a copy of it between guards."""

    def __init__(self, begin: int, end: int) -> None:
        self.begin, self.end = begin, end
        self._raw = np.empty(end - begin + 3 * GUARD, np.uint8)
        place = self._raw.__array_interface__["data"][0] + GUARD
        self._start = GUARD + (begin - place) % GUARD  # aligned as the original is
        self.inside = self._raw.__array_interface__["data"][0] + self._start

    def prepare(self, fill: int) -> None:
        self._raw[...] = fill
        ctypes.memmove(self.inside, self.begin, self.end - self.begin)

    def intact(self, fill: int) -> bool:
        stop = self._start + self.end - self.begin
        return bool((self._raw[: self._start] == fill).all() and (self._raw[stop:] == fill).all())

    def bits(self) -> bytes:
        return ctypes.string_at(self.inside, self.end - self.begin)

    def write_back(self) -> None:
        ctypes.memmove(self.begin, self.inside, self.end - self.begin)


def _address(array: np.ndarray[Any, Any]) -> int:
    found: int = array.__array_interface__["data"][0]
    return found


def _reach(array: np.ndarray[Any, Any]) -> int:
    """The bytes from the array's first element to behind its last one, gaps included."""
    return span(array) * array.itemsize


def _joined(arrays: Iterable[np.ndarray[Any, Any]]) -> list[tuple[int, int]]:
    """The spans of memory that the arrays cover, overlapping ones as one."""
    spans: list[tuple[int, int]] = []
    for begin, end in sorted((_address(a), _address(a) + _reach(a)) for a in arrays):
        if spans and begin < spans[-1][1]:
            spans[-1] = (spans[-1][0], max(end, spans[-1][1]))
        else:
            spans.append((begin, end))
    return spans


def _value(arg: Any) -> np.ndarray[Any, Any]:
    """The bytes that a kernel gets for an argument."""
    if arg is None:
        return np.zeros((), np.uint64)
    if isinstance(arg, HostArray):
        return np.array(_address(arg.array), np.uint64)
    if isinstance(arg, np.generic):
        return np.array(arg)
    raise KernelError(f"a kernel got a {type(arg).__name__}: arrays, None and numbers of NumPy's types are passed")
