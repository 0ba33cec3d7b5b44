"""What a kernel call costs, from the shapes and dtypes of its arguments alone.

A floating-point operation is one +, -, x or /, one maximum or minimum, or one value of a function such as exp, log,
tanh, sqrt or a power; a multiplication with an addition is 2, so that a product of (M, K) and (K, N) is 2 M K N. A sum
or a maximum over n numbers counts n. Signs, absolute values, comparisons, selections, conversions, moves and integer
arithmetic (random bits too) count nothing. What is counted is the arithmetic of the reference body on arrays; that of
single numbers, once a call, is left out. A faster body may do with less.

Bytes are those of every array that is read and of every array that is written, once each: the least that must pass
between memory and processor where nothing stays in a cache. A view moves nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from bpnet.dispatch import Kernel, dtype_name


@dataclass(frozen=True)
class Cost:
    """Floating-point operations, and bytes that pass between memory and processor. Costs add up."""

    flops: int = 0
    bytes: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.flops + other.flops, self.bytes + other.bytes)

    @property
    def intensity(self) -> float:
        """Operations a byte, which tells whether arithmetic or memory is the limit; 0 where nothing moves."""
        return self.flops / self.bytes if self.bytes else 0.0


@dataclass(frozen=True)
class Shaped:
    """Stands for an array of which the shape is known, in a formula that asks another one."""

    shape: tuple[int, ...]


def size(x: Any) -> int:
    """The number of elements of an array, or of all arrays of a tuple; 0 of anything else."""
    if isinstance(x, tuple):
        return sum(size(each) for each in x)
    return math.prod(x.shape) if hasattr(x, "shape") else 0


class CostRecorder:
    """Adds up what every kernel call costs that its thread makes.

    undeclared : the names of kernels that do not say what they cost
    """

    def __init__(self) -> None:
        self.cost = Cost()
        self.undeclared: dict[str, None] = {}

    def run(self, kernel: Kernel, args: tuple[Any, ...]) -> Any:
        """Make the call, and count it."""
        result = kernel.choose(args).body(*args)
        self.note(kernel_cost(kernel, args, result))
        if kernel.flops is None:
            self.undeclared[kernel.name] = None
        return result

    def note(self, cost: Cost) -> None:
        """Count one call."""
        self.cost = self.cost + cost


def n_rows(x: Any) -> int:
    """The number of rows along the last axis."""
    return math.prod(x.shape[:-1])


def kernel_cost(op: Kernel, args: tuple[Any, ...], out: Any) -> Cost:
    """The cost of one call.

    args, out : what it was called with and what it returned; a Value of a trace may stand for an array
    A kernel that does not declare its `flops` counts 0; its bytes are counted all the same.
    """
    return Cost(kernel_flops(op, args), 0 if op.view else _bytes(op, args, out))


def kernel_flops(op: Kernel, args: tuple[Any, ...]) -> int:
    """The floating-point operations of one call."""
    if op.flops is None:
        return 0
    return op.flops * size(args[0]) if isinstance(op.flops, int) else op.flops(*args)


def _bytes(op: Kernel, args: tuple[Any, ...], out: Any) -> int:
    unread = op.unread(*args) if callable(op.unread) else op.unread
    read = sum(n_bytes(arg) for place, arg in enumerate(args) if place not in unread)
    return read + n_bytes(out) + sum(n_bytes(args[place]) for place in op.writes)


def n_bytes(x: Any) -> int:
    """The bytes of an array, or of all arrays in nested tuples; 0 of anything else."""
    return sum(math.prod(each.shape) * _item(each) for each in _arrays(x))


def _arrays(x: Any) -> Iterator[Any]:
    if isinstance(x, tuple):
        for each in x:
            yield from _arrays(each)
    elif hasattr(x, "dtype") and isinstance(getattr(x, "shape", None), tuple) and not isinstance(x, type):
        yield x


def _item(x: Any) -> int:
    """The bytes of one element, from the name of its dtype: "float32" has 32 bits, "bool" a byte."""
    name = dtype_name(x.dtype)
    bits = "".join(each for each in name if each.isdigit())
    return max(1, int(bits) // 8) if bits else 1
