"""How many processors this process may use."""

from __future__ import annotations

import math
import os
from pathlib import Path

CONTROL_GROUPS = Path("/sys/fs/cgroup")


def affinity() -> int:
    """The processors that the operating system lets this process run on."""
    allowed = getattr(os, "sched_getaffinity", None)
    return len(allowed(0)) if allowed else os.cpu_count() or 1


def quota(root: Path = CONTROL_GROUPS) -> float | None:
    """The processors' worth of time that this control group may use, as containers limit it; None without a limit.

    root : where the file system of the control groups is mounted; its version 2 is read, then version 1
    """
    try:
        limit, period = (root / "cpu.max").read_text().split()
        return None if limit == "max" else int(limit) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        pass
    try:
        used, whole = (int((root / "cpu" / f"cpu.cfs_{each}_us").read_text()) for each in ("quota", "period"))
    except (OSError, ValueError):
        return None
    return used / whole if used > 0 and whole > 0 else None  # -1 is no limit


def usable(root: Path = CONTROL_GROUPS) -> int:
    """How many threads can compute at the same time: the affinity, and no more than the quota, rounded up."""
    share = quota(root)
    return affinity() if share is None else max(1, min(affinity(), math.ceil(share)))
