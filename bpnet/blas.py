"""NumPy's BLAS: which it is, whether it uses this machine as it could, and what it costs where it does not."""

from __future__ import annotations

import importlib
import os
import platform
import subprocess
import sys
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

THREAD_VARIABLES = ("BPNET_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", "OMP_NUM_THREADS")

# The kernels of OpenBLAS on x86-64 by the widest instructions that they use.
_AVX512_KERNELS = {"skylakex", "cooperlake", "sapphirerapids"}
_AVX2_KERNELS = {"haswell", "zen", "excavator"}
_WIDTHS = ("SSE or AVX", "AVX2", "AVX-512")

SIDE = 384  # of the square product that is measured: a millisecond or so
ROUNDS, SECONDS = 15, 0.3  # at most
HARM = 1.2  # times the time, from which on several threads are worth a warning
_MEASURE = f"""
import numpy as np
from time import perf_counter
a = np.ones(({SIDE}, {SIDE}), np.float32)
out = np.empty_like(a)
found = []
for _ in range({ROUNDS}):
    start = perf_counter()
    np.dot(a, a, out)
    found.append(perf_counter() - start)
print(min(found))
"""


def facts() -> dict[str, Any]:
    """NumPy's BLAS: what it was built with, and, where threadpoolctl can see it, the kernel and threads at work."""
    built: Any = np.show_config(mode="dicts")
    built = (built or {}).get("Build Dependencies", {}).get("blas", {})
    found: dict[str, Any] = {
        "name": built.get("name", "unknown"),
        "version": built.get("version", "unknown"),
        "kernel": None,
        "threads": None,
        "forced_kernel": os.environ.get("OPENBLAS_CORETYPE") or None,
        "thread_variables": {name: os.environ[name] for name in THREAD_VARIABLES if name in os.environ},
        "cpu": _WIDTHS[cpu_level()] if is_x86() else platform.machine(),
        "note": None,
    }
    try:
        from threadpoolctl import threadpool_info
    except ImportError:
        found["note"] = 'kernel and threads are unknown without threadpoolctl: pip install "bpnet-xp[cli]"'
        return found
    libraries = [each for each in threadpool_info() if each["user_api"] == "blas"]
    own = [each for each in libraries if "numpy" in str(each["filepath"]).lower()] or libraries
    if not own:
        found["note"] = "threadpoolctl does not know this BLAS, so kernel and threads are unknown"
        return found
    library = own[0]
    return found | {
        "name": library["internal_api"],
        "version": library.get("version") or found["version"],
        "kernel": library.get("architecture"),
        "threads": library["num_threads"],
        "file": library["filepath"],
    }


# --- what it costs ---


def cost(library: dict[str, Any]) -> dict[str, Any]:
    """Measure a square product for a fraction of a second; None for what cannot be measured, or has no reason to be.

    gflops  : billions of operations a second, as NumPy is set now
    threads : the time with all threads over the time with one, the median of several turns of each
    kernel  : the time with the kernel at work over that of the kernel which OpenBLAS would choose by itself, measured
              in another process where a variable forces one that is older than the processor
    """
    a = np.ones((SIDE, SIDE), np.float32)
    found: dict[str, Any] = {"threads": None, "kernel": None}
    ratio, best = _with_threads(a) if (library["threads"] or 1) > 1 else (None, _seconds(a, ROUNDS))
    found |= {"threads": ratio, "gflops": 2 * SIDE**3 / best / 1e9}
    if library["forced_kernel"] and kernel_is_old(library):
        now, free = (_elsewhere(forced) for forced in (library["forced_kernel"], None))
        found["kernel"] = now / free if now and free else None
    return found


def _seconds(a: Any, tries: int) -> float:
    out, found = np.empty_like(a), []
    for _ in range(tries):
        start = perf_counter()
        np.dot(a, a, out)
        found.append(perf_counter() - start)
    return min(found)


def _with_threads(a: Any) -> tuple[float, float]:
    """(time with all threads over the time with one, the best time), in turns, which other programs disturb alike."""
    from threadpoolctl import threadpool_limits

    ratios: list[float] = []
    best, start = float("inf"), perf_counter()
    while not ratios or (len(ratios) < ROUNDS and perf_counter() - start < SECONDS):
        every = _seconds(a, 1)
        with threadpool_limits(limits=1, user_api="blas"):
            one = _seconds(a, 1)
        ratios.append(every / one)
        best = min(best, every)
    return median(ratios), best


def _elsewhere(kernel: str | None) -> float | None:
    """The best time on one thread in a fresh process whose OpenBLAS has that kernel, or its own choice."""
    environment = {name: value for name, value in os.environ.items() if name != "OPENBLAS_CORETYPE"}
    environment |= {"OPENBLAS_NUM_THREADS": "1"} | ({"OPENBLAS_CORETYPE": kernel} if kernel else {})
    try:
        done = subprocess.run(
            [sys.executable, "-c", _MEASURE], env=environment, capture_output=True, text=True, timeout=30, check=True
        )
        return float(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None


# --- what it should be ---


def is_x86() -> bool:
    """Whether this is an x86-64 processor, whose kernels are known here."""
    return platform.machine().lower() in ("x86_64", "amd64")


def cpu_level() -> int:
    """How wide this processor computes, by NumPy's own detection: 2 is AVX-512, 1 is AVX2, 0 less or unknown."""
    try:
        internals = importlib.import_module("numpy._core._multiarray_umath")
    except ImportError:
        return 0
    features: dict[str, bool] = getattr(internals, "__cpu_features__", {})
    return 2 if features.get("AVX512_SKX") else 1 if features.get("AVX2") else 0


def kernel_level(kernel: str) -> int:
    """The same for a kernel of OpenBLAS, by its name."""
    kernel = kernel.lower()
    return 2 if kernel in _AVX512_KERNELS else 1 if kernel in _AVX2_KERNELS else 0


def kernel_is_old(library: dict[str, Any]) -> bool:
    """Whether OpenBLAS runs a kernel that is narrower than the processor."""
    known = library["name"] == "openblas" and library["kernel"] and is_x86()
    return bool(known) and kernel_level(library["kernel"]) < cpu_level()


def warnings(library: dict[str, Any], cost: dict[str, Any], usable: int) -> list[str]:
    """Texts, each with its remedy. usable : the processors that this process may use."""
    found = []
    if kernel_is_old(library):
        does, can = _WIDTHS[kernel_level(library["kernel"])], _WIDTHS[cpu_level()]
        text = f"OpenBLAS runs its {library['kernel']} kernel ({does}) on a CPU that can do {can}: products are slower"
        if cost["kernel"]:
            text += f", here they take {cost['kernel']:.1f} times as long"
        if library["forced_kernel"]:
            text += f". OPENBLAS_CORETYPE={library['forced_kernel']} forces it; unset that variable"
        else:
            text += ". A newer NumPy from PyPI (pip install -U numpy) brings an OpenBLAS that knows this CPU"
        found.append(text)
    threads = library["threads"] or 1
    if threads > usable:
        found.append(
            f"NumPy's BLAS uses {threads} threads where this process may use {usable} processors: they wait for each "
            f"other; set BPNET_THREADS={usable}"
        )
    elif (cost["threads"] or 0) > HARM:
        found.append(
            f"a product takes {cost['threads']:.1f} times as long with {threads} threads as with one: other programs "
            "use the processors; as long as they do, BPNET_THREADS=1 is faster"
        )
    return found


def lines(library: dict[str, Any]) -> list[str]:
    """What the report prints: the library and its settings, then how fast it is."""
    kernel = f", kernel {library['kernel']}" if library["kernel"] else ""
    threads = f", {library['threads']} threads" if library["threads"] else ""
    variables = "".join(f", {name}={value}" for name, value in library["thread_variables"].items())
    note = f"; {library['note']}" if library["note"] else ""
    text = f"BLAS of NumPy: {library['name']} {library['version']}{kernel}{threads}{variables}"
    found = [f"{text} (CPU: {library['cpu']}){note}"]
    cost = library["cost"]
    speed = f"  a product of {SIDE}x{SIDE} matrices reaches {cost['gflops']:.0f} GFLOP/s"
    if cost["threads"]:
        speed += (
            f"; with {library['threads']} threads it takes {cost['threads']:.2f} of the time that it takes with one"
        )
    return [*found, speed]
