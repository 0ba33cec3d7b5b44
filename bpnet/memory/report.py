"""What training holds of memory, as numbers and as a table."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from bpnet.errors import ConfigError, ShapeError
from bpnet.memory.rehearsal import Peaks, Task

UNITS = {"": 1, **{f"{letter}{end}": (1000 if end == "b" else 1024) ** power
                   for power, letter in enumerate(("", "k", "m", "g", "t"))
                   for end in (("b", "ib") if letter else ("b",))}}  # fmt: skip
BATCH = "(batch)"


@dataclass(frozen=True)
class MemoryRow:
    """The bytes of one layer, of the loss, or of the batch.

    path      : of the layer, "" for the model itself; "(loss)" and "(batch)"
    name      : as it is written
    values    : of its parameters and statistics; gradients : beside them; optimizer : of its part of the slots
    saved     : what it keeps from its forward for its backward. An array that several keep counts for the first.
    """

    path: str
    name: str
    values: int
    gradients: int
    optimizer: int
    saved: int


@dataclass(frozen=True)
class RecomputeRow:
    """What Recompute around some layers would do.

    paths : of the layers, each in a Recompute of its own; name : of the layer, or of all together
    saved : the bytes that they save without it; peak : of the training with it
    """

    paths: tuple[str, ...]
    name: str
    saved: int
    peak: int


@dataclass(frozen=True)
class MemoryReport:
    """What `model.memory` found, in bytes; prints as a table.

    rows           : in the order of the model; `peaks` : the most that is held, by phase of a training
    parameters, gradients, optimizer : the flat buffers, with their padding; copies : that of the parameters' copies in
                     bfloat16, where the precision is "bf16"
    saved          : what layers and loss keep between forward and backward; batch : x and y
    at             : what an eager step does where it holds the most
    counted        : which memory is meant, and what is left out
    """

    batch_size: int
    input_shape: tuple[int, ...]
    dtype: str
    backend: str
    loss_name: str
    optimizer_name: str
    planned: bool
    rows: tuple[MemoryRow, ...]
    peaks: Peaks
    parameters: int
    gradients: int
    optimizer: int
    saved: int
    batch: int
    at: str
    counted: str
    recompute: tuple[RecomputeRow, ...]
    budget: int | None = None
    largest: int | None = None
    _task: Task | None = field(default=None, repr=False, compare=False)
    _peak_of: Callable[[Task], Peaks] | None = field(default=None, repr=False, compare=False)
    precision: str = "float32"
    copies: int = 0

    @property
    def peak(self) -> int:
        """The most bytes that are held at a time."""
        return self.peaks.peak(self.planned)

    @property
    def workspace(self) -> int:
        """What is held at the peak beside parameters, their copies, gradients, optimizer and batch.

        That is what is saved, results on their way, the scratch of kernels, and the copies by which a plan is proved.
        """
        return self.peak - self._state - self.batch

    @property
    def _state(self) -> int:
        return self.parameters + self.copies + self.gradients + self.optimizer

    def largest_batch(self, budget: int | str) -> int:
        """The largest batch whose peak is within the budget; 0 where not even the smallest is.

        budget : bytes, or text such as "2 GiB" or "500 MB"
        One sample more exceeds it. (Attention keeps less beyond some size, so a much larger batch might fit again.)
        Raises ConfigError for a budget that is none.
        """
        assert self._task is not None
        assert self._peak_of is not None
        return search(self._task, bytes_of(budget), self.planned, self._peak_of)

    def as_dict(self) -> dict[str, Any]:
        """All of it, as JSON values."""
        rows = [dict(vars(row)) for row in self.rows]
        recompute = [dict(vars(row), paths=list(row.paths)) for row in self.recompute]
        names = ("batch_size", "dtype", "backend", "planned", "peak", "parameters", "gradients", "optimizer", "saved",
                 "batch", "workspace", "at", "counted", "budget", "largest", "precision", "copies")  # fmt: skip
        found = {name: getattr(self, name) for name in names}
        return found | {
            "input_shape": list(self.input_shape),
            "loss": self.loss_name,
            "optimizer_name": self.optimizer_name,
            "peaks": dict(vars(self.peaks)),
            "rows": rows,
            "recompute": recompute,
        }

    def __str__(self) -> str:
        from bpnet.layers.summary import aligned

        table = [("path", "layer", "values", "gradients", "optimizer", "saved")]
        for row in self.rows:
            a, b, c, d = (shown(n) for n in (row.values, row.gradients, row.optimizer, row.saved))
            table.append((row.path or "(model)", row.name, a, b, c, d))
        total = ("total", "", *(shown(n) for n in (self.parameters, self.gradients, self.optimizer, self.saved)))
        lines = aligned([*table, total], 2)
        rule = "-" * len(lines[0])
        return "\n".join([self._title(), "", lines[0], rule, *lines[1:-1], rule, lines[-1], "", *self._below()])

    __repr__ = __str__

    def _title(self) -> str:
        shape = str(("N", *self.input_shape)).replace("'", "")
        return (
            f"training on {self.batch_size} samples of x {shape}, {self.dtype} on {self.backend}, "
            f"{'' if self.precision == 'float32' else 'products in bfloat16, '}"
            f"with {self.loss_name} and {self.optimizer_name}"
        )

    def _below(self) -> list[str]:
        peaks = self.peaks
        lines = [f"peak {shown(self.peak)} ({self.peak:,} bytes), {'Trainer' if self.planned else 'explicit loop'}"]
        if self.planned and not peaks.unplanned:
            lines.append(
                f"  recording {shown(peaks.recorded)}, proving the plan {shown(peaks.proved)}, replaying it "
                f"{shown(peaks.replayed)}"
            )
        elif self.planned:
            lines.append(f"  no plan, because {peaks.unplanned}")
        lines.append(f"  an eager step holds {shown(peaks.eager)}, the most in {self.at}")
        copied = f" ({shown(self.copies)} copies in bfloat16)" if self.copies else ""
        lines.append(
            f"  of it {shown(self._state)} model and optimizer{copied}, {shown(self.batch)} batch, "
            f"{shown(self.workspace)} else"
        )
        if self.budget is not None:
            lines.append(f"the largest batch in {shown(self.budget)}: {self.largest or 'none fits'}")
        helping = [row for row in self.recompute if row.peak < self.peak]
        lines += [
            f"Recompute around {row.name}: peak {shown(row.peak)}, {shown(self.peak - row.peak)} less"
            for row in helping
        ]
        return [*lines, self.counted]


def shown(n: int) -> str:
    """Bytes for people: "0", "512 B", "1.50 MiB"."""
    if n < 0:
        return f"-{shown(-n)}"
    if n < 1024:
        return f"{n} B" if n else "0"
    power = min(4, (n.bit_length() - 1) // 10)
    return f"{n / 1024**power:.4g} {'KMGT'[power - 1]}iB"


def bytes_of(budget: Any) -> int:
    """A number of bytes, or text such as "2 GiB", as a number; ConfigError where it is none."""
    number = None
    if isinstance(budget, int) and not isinstance(budget, bool):
        number = budget
    elif isinstance(budget, str):
        found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", budget, re.IGNORECASE)
        unit = None if found is None else UNITS.get(found[2].lower())
        number = None if found is None or unit is None else int(float(found[1]) * unit)
    elif hasattr(budget, "__index__") and not isinstance(budget, bool):
        number = int(budget)
    if number is None or number < 1:
        raise ConfigError(
            f"a budget is a number of bytes of at least 1, or text such as '2 GiB', '500 MB' or '64KiB', got {budget!r}"
        )
    return number


FASTER = 64  # times larger, at most, is the next batch that is tried
MOST = 1 << 40  # samples


def search(task: Task, budget: int, planned: bool, peaks_of: Callable[[Task], Peaks]) -> int:
    """The largest batch that fits: by secants, since what a step holds is nearly affine in the batch, then between."""
    known: dict[int, int] = {}

    def peak(n: int) -> int:
        if n not in known:
            known[n] = peaks_of(replace(task, batch_size=n)).peak(planned)
        return known[n]

    low = 1
    try:
        peak(low)
    except ShapeError:  # statistics of one sample
        low = 2
    if peak(low) > budget:
        return 0
    high = low + 1
    while peak(high) <= budget:
        slope = max(1, (peak(high) - peak(low)) // (high - low))
        low, high = high, min(high + max(1, (budget - peak(high)) // slope), FASTER * high, MOST)
        if low == MOST:
            return MOST
    while high - low > 1:
        part = (budget - peak(low)) / (peak(high) - peak(low)) if len(known) % 3 else 0.5
        middle = min(max(low + int(part * (high - low)), low + 1), high - 1)
        if peak(middle) <= budget:
            low = middle
        else:
            high = middle
    return low
