"""Vector registers in LLVM's terms: what the modules share that write their inner loops themselves.

`p` is the type of the pointer that a body has as its argument. Functions with a builder `b` write LLVM's instructions;
`width` and `room` are called by compiled bodies.
"""

from __future__ import annotations

from typing import Any

import llvmlite.binding
from llvmlite import ir
from numba import types
from numba.core import config
from numba.extending import intrinsic

I1, I32, I64 = ir.IntType(1), ir.IntType(32), ir.IntType(64)
BYTE_POINTER = ir.IntType(8).as_pointer()
FLOAT, DOUBLE = ir.FloatType(), ir.DoubleType()


def _vector_bytes() -> int:
    """Found out, or told by numba's environment variables."""
    if config.CPU_NAME == "generic":
        return 0
    given = config.CPU_FEATURES
    if given is None:
        found = llvmlite.binding.get_host_cpu_features()
        has = {name for name, there in found.items() if there}
    else:
        has = {name[1:] for name in given.split(",") if name.startswith("+")}
    if {"avx512f", "avx512vl"} <= has:
        return 64
    return 32 if {"avx2", "fma"} <= has else 0


VECTOR = _vector_bytes()
"""The bytes of this processor's vectors; 0 where no loops are made for them by hand."""


def lanes(p: Any) -> int:
    """How many numbers a vector holds of the type that `p` points at."""
    return VECTOR // (4 if p.dtype == types.float32 else 8)


def element_of(p: Any) -> Any:
    """The type that `p` points at, as LLVM's."""
    return FLOAT if p.dtype == types.float32 else DOUBLE


def suffix_of(vector: Any) -> str:
    """How the names of LLVM's functions for a type of vectors end."""
    return f"v{vector.count}f{32 if vector.element == FLOAT else 64}"


def declared(module: Any, name: str, result: Any, arguments: list[Any]) -> Any:
    """The function of that name and type, which LLVM or the process has."""
    return module.globals.get(name) or ir.Function(module, ir.FunctionType(result, arguments), name)


def integer(n: int) -> Any:
    """The constant n, an int64."""
    return ir.Constant(I64, n)


def at(b: Any, start: Any, index: Any, vector: Any = None) -> Any:
    """The place of element `index` behind a pointer, as one of a vector where that is given."""
    place = b.gep(start, [index])
    return place if vector is None else b.bitcast(place, vector.as_pointer())


def in_all_lanes(b: Any, x: Any, vector: Any) -> Any:
    """A number in every lane of a vector of that type."""
    found = b.insert_element(ir.Constant(vector, ir.Undefined), x, ir.Constant(I32, 0))
    return b.shuffle_vector(found, found, ir.Constant(ir.VectorType(I32, vector.count), [0] * vector.count))


def first_lanes(b: Any, n: int, count: Any) -> Any:
    """True in the first `count` of n lanes."""
    numbers, wanted = ir.VectorType(I32, n), b.trunc(count, I32)
    return b.icmp_signed("<", ir.Constant(numbers, list(range(n))), in_all_lanes(b, wanted, numbers))


def load_some(b: Any, place: Any, vector: Any, mask: Any) -> Any:
    """The elements where the mask is true; 0 elsewhere, and nothing is read there."""
    masks = ir.VectorType(I1, vector.count)
    name = f"llvm.masked.load.{suffix_of(vector)}.p0"
    load = declared(b.module, name, vector, [vector.as_pointer(), I32, masks, vector])
    size = 4 if vector.element == FLOAT else 8
    return b.call(load, [place, ir.Constant(I32, size), mask, ir.Constant(vector, [0.0] * vector.count)])


def store_some(b: Any, x: Any, place: Any, mask: Any) -> None:
    """Write the elements where the mask is true."""
    masks = ir.VectorType(I1, x.type.count)
    name = f"llvm.masked.store.{suffix_of(x.type)}.p0"
    store = declared(b.module, name, ir.VoidType(), [x.type, x.type.as_pointer(), I32, masks])
    b.call(store, [x, place, ir.Constant(I32, 4 if x.type.element == FLOAT else 8), mask])


def turned(b: Any, vectors: list[Any]) -> list[Any]:
    """The transpose of a square in registers: neighbours at distance 1, 2, 4, ... exchange what is not theirs."""
    n, distance = len(vectors), 1
    indices = ir.VectorType(I32, n)
    while distance < n:
        found = list(vectors)
        for i in range(n):
            if i & distance == 0:
                x, y = vectors[i], vectors[i + distance]
                low = [j if j & distance == 0 else n + j - distance for j in range(n)]
                high = [j + distance if j & distance == 0 else n + j for j in range(n)]
                found[i] = b.shuffle_vector(x, y, ir.Constant(indices, low))
                found[i + distance] = b.shuffle_vector(x, y, ir.Constant(indices, high))
        vectors = found
        distance *= 2
    return vectors


@intrinsic
def width(typing: Any, p: Any) -> Any:
    """How many numbers a vector holds."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return integer(lanes(p))

    return types.int64(p), generate


@intrinsic(prefer_literal=True)
def room(typing: Any, p: Any, bytes: Any) -> Any:
    """The address of that many bytes, a number written in the source, that are the function's own until it returns."""
    size = bytes.literal_value

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        with builder.goto_entry_block():
            found = builder.alloca(ir.ArrayType(ir.IntType(8), size))
            found.align = 64
        return builder.ptrtoint(found, I64)

    return types.int64(p, bytes), generate
