"""The kernels of a backend, in a real training step: each result beside that of the reference in float64 on NumPy."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from bpnet.auditing.copies import on_host, said
from bpnet.auditing.report import Row
from bpnet.dispatch import Kernel, recording
from bpnet.trace import flat, is_array, mapped

LIMIT = {"float32": 3e-5, "float64": 1e-11}  # of the largest value; sums may be taken in another order


@dataclass
class _Seen:
    calls: int = 0
    error: float = 0.0
    diagnosis: str = ""


class KernelAudit:
    """A recorder that makes every kernel call a second time, by the kernel's reference on NumPy.

    dtype : of the run; results in float32 are held to those of float64 on the same arguments
    """

    def __init__(self, dtype: str) -> None:
        self.dtype = dtype
        self.seen: dict[str, _Seen] = {}

    def run(self, kernel: Kernel, args: tuple[Any, ...]) -> Any:
        """Make the call, compare, and return its result."""
        before = tuple(mapped(on_host, arg) for arg in args)
        result = kernel.choose(args).body(*args)
        after = tuple(mapped(on_host, arg) for arg in args)
        found = (mapped(on_host, result), after)
        seen = self.seen.setdefault(kernel.name, _Seen())
        seen.calls += 1
        try:
            with np.errstate(all="ignore"):
                own, precise = copy.deepcopy(before), tuple(mapped(_wide, arg) for arg in before)
                rounded = (kernel.reference.body(*own), own)
                expected = (kernel.reference.body(*precise), precise)
                near = tuple(mapped(self._shaken, arg) for arg in before)
                shaken = (kernel.reference.body(*near), near)
        except Exception as error:
            seen.diagnosis = seen.diagnosis or f"its reference raised {said(error)} on NumPy"
            return result
        for each in zip(*(list(flat(of)) for of in (found, rounded, expected, shaken)), strict=True):
            if is_array(each[2]) or isinstance(each[2], np.generic):
                self._compare(seen, *map(np.asarray, each))
        return result

    def _shaken(self, value: Any) -> Any:
        """A copy in float64 in which every number is another in its last place of the run's dtype."""
        wide = _wide(value)
        if not isinstance(wide, np.ndarray) or wide.dtype.kind != "f":
            return wide
        signs = np.random.default_rng(0).choice([-1.0, 1.0], size=wide.shape)
        return np.asarray(wide * (1 + float(np.finfo(self.dtype).eps) * signs))

    def _compare(self, seen: _Seen, found: Any, rounded: Any, expected: Any, shaken: Any) -> None:
        """Allow what sums in another order give, and what rounding of the arguments makes of the result."""
        if found.shape != expected.shape:
            seen.diagnosis = seen.diagnosis or f"gave shape {found.shape}, not {expected.shape}"
            return
        if found.dtype != rounded.dtype:
            seen.diagnosis = seen.diagnosis or f"gave {found.dtype}, not {rounded.dtype}"
            return
        if found.dtype.kind != "f":
            if not np.array_equal(found, expected):
                seen.diagnosis = seen.diagnosis or f"gave other {found.dtype} values"
            return
        finite = np.isfinite(expected) & np.isfinite(rounded)
        same = np.where(finite, np.isfinite(found), (found == rounded) | (np.isnan(found) & np.isnan(rounded)))
        if not np.all(same):
            seen.diagnosis = (
                seen.diagnosis or f"gave {int(np.sum(~same))} values that are NaN or infinite, or should be"
            )
            return
        largest = float(np.max(np.abs(expected[finite]), initial=0.0))
        off = float(np.max(np.abs(found[finite] - expected[finite]), initial=0.0))
        own = max(float(np.max(np.abs(each[finite] - expected[finite]), initial=0.0)) for each in (rounded, shaken))
        tiny = float(np.finfo(found.dtype).tiny)
        error = off / largest if largest else (0.0 if off <= tiny else float("inf"))
        seen.error = max(seen.error, error)
        if off > LIMIT[self.dtype] * largest + 16 * own + tiny:
            seen.diagnosis = seen.diagnosis or f"is off by {error:.2g} of its largest value"

    def rows(self, where: str) -> Iterator[Row]:
        """A row a kernel."""
        for name, seen in self.seen.items():
            yield Row(
                f"{name} on {where}",
                self.dtype,
                not seen.diagnosis,
                seen.error,
                diagnosis=seen.diagnosis,
                how=f"{seen.calls} {'call' if seen.calls == 1 else 'calls'}",
            )


def _wide(value: Any) -> Any:
    """float32 as float64, in a copy; anything else as it is, arrays in a copy."""
    if not isinstance(value, np.ndarray):
        return value
    return value.astype(np.float64) if value.dtype == np.float32 else value.copy()


def kernel_rows(step: Any, where: str, dtype: str) -> Iterator[Row]:
    """The rows of all kernels that `step()` calls."""
    recorder = KernelAudit(dtype)
    try:
        with recording(recorder):
            step()
    except Exception as error:
        yield Row("a training step", dtype, False, diagnosis=f"raised {said(error)}")
    yield from recorder.rows(where)
