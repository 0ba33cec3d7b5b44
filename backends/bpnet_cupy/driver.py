"""What stands between the variants' host code and the device: prepared launches, scratch memory, matrix products.

A variant's `bind` asks a `Driver` for prepared calls. It never touches CuPy itself, so that the same host code and the
same kernel source run on the host, where the tests hold them to the reference (`bpnet_cupy.host`).
"""

from __future__ import annotations

from functools import cache, partial
from importlib import resources
from typing import Any, Protocol

import numpy as np

from bpnet.dispatch import Array, Call
from bpnet_cupy.names import compiled_together

OPTIONS = ("-fmad=false",)
"""How the kernels are compiled. Products and sums are rounded one by one, as NumPy does, so that a fused body gives the
bits of the single ones; what is bound by memory loses nothing by it. CuPy adds -ftz=true: float32 numbers below the
smallest normal one count as 0."""

NULL = np.uint64(0)
"""The null pointer as an argument of a kernel."""

Grid = int | tuple[int, ...]


class Driver(Protocol):
    """A device as the variants see it.

    array_type : the class of its arrays; they have shape, dtype, size, nbytes, flags.c_contiguous, reshape, T
    """

    array_type: Any

    @property
    def sm_count(self) -> int:
        """How many multiprocessors the device has; a grid need not be larger than a few times that."""

    def empty(self, shape: int | tuple[int, ...], dtype: Any) -> Array:
        """A C-contiguous array whose values are not set. Called when a call is bound, never in one."""

    def zeros(self, shape: int | tuple[int, ...], dtype: Any) -> Array:
        """A C-contiguous array of zeros."""

    def constants(self, values: Any, dtype: Any) -> Array:
        """A one-dimensional array of these numbers: copied from the host, so never in a prepared call."""

    def launch(self, name: str, grid: Grid, block: Grid, args: tuple[Any, ...], shared_bytes: int = 0) -> Call:
        """A call that runs the kernel `name` ("bias_activation<float, Relu>") on the current stream.

        args : arrays pass their pointer, numbers of NumPy's types their value, None the null pointer. All are bound:
               the call takes no argument, allocates nothing and reads nothing on the host.
        """

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
        """A call that does out = activation(alpha a @ b + beta out + bias), or None where there is none for that.

        out : (M, N), or (B, M, N) for batches, C-contiguous
        a, b : (M, K) and (K, N), each C-contiguous or the transposed view (`x.T`) of what is
        bias : (N,); activation : the name of an op ("relu", "gelu_tanh") or ""
        column_sums : (N,), gets the sums of b's columns, as the gradient of a bias where b is dy
        None is an answer for those three only: a plain product always has a call. An epilogue that is given has the
        bits of the plain product with the kernels behind it; `column_sums` may be added in another order.
        """


class CudaDriver:
    """CuPy's arrays on the current device and stream; a kernel is compiled when it is first asked for."""

    def __init__(self) -> None:
        import cupy

        self._cupy = cupy
        self.array_type: Any = cupy.ndarray
        self._sm_count = 0

    @property
    def sm_count(self) -> int:
        """The number of multiprocessors, asked for once."""
        if not self._sm_count:
            self._sm_count = int(self._cupy.cuda.Device().attributes["MultiProcessorCount"])
        return self._sm_count

    def empty(self, shape: int | tuple[int, ...], dtype: Any) -> Array:
        """An array from CuPy's pool."""
        return self._cupy.empty(shape, dtype)

    def zeros(self, shape: int | tuple[int, ...], dtype: Any) -> Array:
        """An array of zeros from CuPy's pool."""
        return self._cupy.zeros(shape, dtype)

    def constants(self, values: Any, dtype: Any) -> Array:
        """Copy numbers from the host."""
        return self._cupy.asarray(values, dtype=dtype)

    def launch(self, name: str, grid: Grid, block: Grid, args: tuple[Any, ...], shared_bytes: int = 0) -> Call:
        """Bind a launch on what is the current stream when it is called."""
        passed = tuple(NULL if arg is None else arg for arg in args)  # CuPy passes no address at all for None
        return partial(self._kernel(name), three(grid), three(block), passed, shared_mem=shared_bytes)

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
        """Bind cublasLt's product, with the epilogue where it has proved itself; see `bpnet_cupy.products`."""
        from bpnet_cupy.products import product

        return product(out, a, b, alpha=alpha, beta=beta, bias=bias, activation=activation, column_sums=column_sums)

    @cache  # noqa: B019  (there is one driver)
    def _kernel(self, name: str) -> Any:
        return self._module(compiled_together(name)).get_function(name)

    @cache  # noqa: B019
    def _module(self, names: tuple[str, ...]) -> Any:
        return self._cupy.RawModule(code=source(), options=OPTIONS, name_expressions=names)


def three(size: Grid) -> tuple[int, ...]:
    """A grid or block as three numbers."""
    sizes = (size,) if isinstance(size, int) else size
    return (*sizes, 1, 1)[:3]


SOURCES = ("kernels.cu", "images.cu", "norms.cu", "tables.cu", "features.cu", "sequences.cu", "scores.cu", "counts.cu")
"""The files of the kernels, compiled as one: the first has what the others use."""


@cache
def source() -> str:
    """The text of all kernels; a compiler's messages name file and line."""
    folder = resources.files("bpnet_cupy")
    first, *others = (folder.joinpath(name).read_text() for name in SOURCES)
    return first + "".join(f'#line 1 "{n}"\n{text}' for n, text in zip(SOURCES[1:], others, strict=True))
