"""A kernel on a backend against its reference on NumPy, over the sample arguments of `bpnet.testing.cases`."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np

from bpnet.backend import Backend, to_numpy
from bpnet.dispatch import Kernel, kernels
from bpnet.testing.cases import CASES
from bpnet.testing.cases.bfloat16 import ROUNDED_WITHIN

# Sums may be taken in another order and constants folded: a few units in the last place of the largest term.
# With "bf16" some of the factors may also be rounded the other way, by half of the spacing of bfloat16.
TOLERANCE = {"float32": 3e-5, "float64": 1e-12, "bf16": 2.0**-7}
LARGE = 5000  # elements; the largest cases are for bodies that work in blocks, as an optimizer's do


def shipped_kernels() -> list[Kernel]:
    """bpnet's own kernels, each of which has cases."""
    return [each for each in kernels() if each.name in CASES and each.__module__.startswith("bpnet.ops")]


def agreement(name: str, dtype: str) -> str:
    """As what the results of two bodies of an op must agree: in `dtype`, or as "bf16" where they round on the way."""
    return "bf16" if name in ROUNDED_WITHIN else dtype


def assert_close(found: Any, expected: Any, dtype: str) -> None:
    """Raise AssertionError unless two results, arrays or tuples of them, agree as results in `dtype`, or "bf16", must.

    The same of "bf16" has few elements that differ by more than float32 may.
    """
    if isinstance(expected, tuple):
        assert isinstance(found, tuple), f"a {type(found).__name__} in the place of {len(expected)} results"
        assert len(found) == len(expected), f"{len(found)} results, not {len(expected)}"
        for a, b in zip(found, expected, strict=True):
            assert_close(a, b, dtype)
    elif expected is None:
        assert found is None, f"a {type(found).__name__} in the place of no result"
    else:
        expected, found = np.asarray(expected), np.asarray(found)
        assert found.shape == expected.shape, f"shape {found.shape}, not {expected.shape}"
        assert found.dtype == expected.dtype, f"dtype {found.dtype}, not {expected.dtype}"
        if found.dtype == np.uint16:
            _assert_close_bits(found, expected)
            return
        if found.dtype.kind != "f":
            assert np.array_equal(found, expected), f"other {found.dtype} values"
            return
        finite = expected[np.isfinite(expected)]
        scale = max(1.0, float(np.max(np.abs(finite), initial=0.0)))
        tolerance = max(TOLERANCE[dtype], TOLERANCE.get(found.dtype.name, 0.0))  # beside bfloat16 all is float32
        np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance * scale * 0.1)
        if dtype == "bf16":
            close = np.isclose(found, expected, TOLERANCE["float32"], TOLERANCE["float32"] * scale, equal_nan=True)
            others = 1 - np.mean(close) if close.size >= 64 else 0.0
            assert others < 0.5, f"{others:.0%} of the elements are those of factors rounded otherwise"


def _assert_close_bits(found: Any, expected: Any) -> None:
    """The same of the bits of bfloat16: the same numbers, but where the last bit of a float32 decided a rounding.

    That is one in the last place of no more than one number in a thousand. A zero has either sign, and NaN one
    pattern of bits.
    """
    a, b = ((each.astype(np.uint32) << 16).view(np.float32) for each in (found, expected))
    other = (found != expected) & (a != b)
    apart = np.abs(found.astype(np.int32) - expected.astype(np.int32))[other]
    assert np.max(apart, initial=0) <= 1, "other numbers in bfloat16"
    assert np.count_nonzero(other) <= found.size / 1000, f"{np.mean(other):.2%} of the numbers in bfloat16 differ"


def call(body: Callable[..., Any], args: tuple[Any, ...]) -> tuple[Any, tuple[Any, ...]]:
    """The result of a body on copies of `args`, and the copies as they are afterwards."""
    own = copy.deepcopy(args)
    with np.errstate(all="ignore"):
        return body(*own), own


def check_kernel(op: Kernel, backend: Backend, dtype: str = "float32") -> None:
    """Hold the reference and the variants of a kernel on `backend` to the reference on NumPy.

    Raises AssertionError where results, or arguments afterwards, differ, or a result is on another device.
    """
    for args in CASES[op.name](np.random.default_rng(3), dtype):
        if any(isinstance(a, np.ndarray) and a.size > LARGE for a in args) and op.name != "adam_":
            continue
        expected, after = call(op.reference.body, args)
        bodies = {"reference": op.reference.body}
        variant = op.choose(tuple(_bring(arg, backend) for arg in args))
        if variant is not op.reference:
            bodies[f"variant {variant.name}"] = variant.body
        for name, body in bodies.items():
            own = tuple(_bring(arg, backend) for arg in args)
            shapes = ", ".join(str(each.shape) for each in args if isinstance(each, np.ndarray))
            where = f"{op.name} ({name}) on {backend.name}, {dtype} arguments of shapes {shapes}"
            try:
                with np.errstate(all="ignore"):
                    found = body(*own)
            except Exception as error:
                raise AssertionError(f"{where}: raised {type(error).__name__}: {error}") from error
            try:
                assert_close(_back(found), expected, agreement(op.name, dtype))
            except AssertionError as error:
                raise AssertionError(f"{where}: {error}") from error
            try:
                arrays = [(to_numpy(a), b) for a, b in zip(own, after, strict=True) if isinstance(b, np.ndarray)]
                assert_close(tuple(a for a, _ in arrays), tuple(b for _, b in arrays), dtype)
            except AssertionError as error:
                raise AssertionError(f"{where}: afterwards its arguments hold other values: {error}") from error
            first = own[0][0] if isinstance(own[0], tuple) else own[0]
            for each in found if isinstance(found, tuple) else (found,):
                assert each is None or each.device == first.device, f"{where}: a result on {each.device}"


def _bring(arg: Any, backend: Backend) -> Any:
    if isinstance(arg, tuple) and any(isinstance(each, np.ndarray) for each in arg):
        return tuple(_bring(each, backend) for each in arg)
    return backend.asarray(arg.copy()) if isinstance(arg, np.ndarray) else arg


def _back(result: Any) -> Any:
    if isinstance(result, tuple):
        return tuple(_back(each) for each in result)
    return None if result is None else to_numpy(result)
