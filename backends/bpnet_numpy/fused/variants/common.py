"""What the modules of variants share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from bpnet.dispatch import Call, Kernel, Variant
from bpnet_numpy.fused.helpers import team
from bpnet_numpy.fused.instruction import instruction, machine, usable
from bpnet_numpy.fused.prepared import Prepared

NAME = "fused"
LONG = 1 << 16
"""Elements from which a pass is divided among threads."""
COSTLY = 1 << 15
"""The same for passes that take longer than to read and write: those with exponentials."""
Array = Any


def fused(kernel: Kernel, *, allocate: Callable[..., Any], accepts: Callable[..., bool]) -> Callable[..., Variant]:
    """Decorate the `bind` of a compiled variant of `kernel`."""

    def takes(*args: Any) -> bool:
        return accepts(*args) and usable()

    def decorate(bind: Callable[..., list[Call]]) -> Variant:
        variant = kernel.register_bound(np.ndarray, allocate=allocate, accepts=takes, name=NAME)(bind)
        kernel.shortcut = Prepared(kernel, variant)
        return variant

    return decorate


def one_pass(name: str, arrays: Sequence[Array], *settings: float, least: int | None = None) -> list[Call]:
    """The calls of an elementwise body on arrays of one size, on all threads where there are `least` elements, or LONG.

    The body's words: the arrays, that size, the settings.
    """
    x = arrays[0]
    return elements(name, x, 0, len(arrays), *arrays, x.size, *map(float, settings), least=least)


def elements(name: str, x: Array, first: int, arrays: int, *operands: Any, least: int | None = None) -> list[Call]:
    """The calls of a body that treats each element of `x` and others like it alike, as `one_pass`, of any words.

    first, arrays : where the operands begin that are addresses of as many elements, and how many they are; their number
                    `x.size` is the operand before them, or behind them where they are the first
    """
    if x.size < (LONG if least is None else least):
        return [instruction(name, x.dtype, *operands)]
    length = first - 1 if first else arrays
    bodies = machine().address("share", x.dtype), machine().address(name, x.dtype)
    return [instruction("divided", x.dtype, *team(), *bodies, len(operands), length, first, arrays, *operands)]


def plain_number(x: Any) -> bool:
    """Whether `x` is an int or a float."""
    return isinstance(x, (int, float)) and not isinstance(x, bool)


def writable(*arrays: Array) -> bool:
    """Whether all arrays may be written to. A compiled body would not ask."""
    return all(x.flags.writeable for x in arrays)


def alike(*arrays: Array) -> bool:
    """Whether all arrays have one shape. A compiled body would read behind the end of a shorter one."""
    shape = arrays[0].shape
    return all(x.shape == shape for x in arrays)


def single(x: Any, dtype: np.dtype[Any]) -> bool:
    """Whether `x` is an array of one number of that dtype."""
    return isinstance(x, np.ndarray) and x.dtype == dtype and x.size == 1


def check_place(out: Array, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Raise ValueError unless a result of that shape and dtype can be written to `out`, as NumPy does."""
    if out.shape != shape or out.dtype != dtype or not (out.flags.c_contiguous and out.flags.writeable):
        raise ValueError(
            f"the result needs a writable {dtype} array of shape {shape} in C order, got {out.dtype} of {out.shape}"
        )
