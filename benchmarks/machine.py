"""What the numbers were measured on, and the environment that children get."""

from __future__ import annotations

import os
import platform
import subprocess
from math import ceil
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent

CHANGES_TIMINGS = (
    "ACCELERATE_", "ATEN_", "BLIS_", "BPNET_", "DNNL_", "FLEXIBLAS", "GOMP_", "GOTO_", "JAX_", "KMP_", "LD_PRELOAD",
    "MALLOC_", "MKL_", "NPROC", "NPY_", "NUMBA_", "NUMEXPR_", "NVPL_", "OMP_", "ONEDNN_", "OPENBLAS_", "PYTHONDEVMODE",
    "PYTHONMALLOC", "PYTHONOPTIMIZE", "PYTHONTRACEMALLOC", "PYTHON_GIL", "PYTHON_JIT", "PYTORCH_", "TF_", "TORCH_",
    "VECLIB_", "XLA_",
)  # fmt: skip
"""Variables with these beginnings choose another BLAS kernel, thread count, allocator or compiler for some peer."""

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS")


def clean_environment(threads: int, gpu: bool = False) -> tuple[dict[str, str], list[str]]:
    """The environment of every child, the same for all, and the names of the variables that were left out.

    gpu : whether GPUs may be seen
    """
    removed = sorted(name for name in os.environ if name.startswith(CHANGES_TIMINGS))
    environment = {name: value for name, value in os.environ.items() if name not in removed}
    environment |= dict.fromkeys(THREAD_VARIABLES, str(threads))
    if not gpu:
        environment |= {"CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu"}
    environment["PYTHONPATH"] = python_path(ROOT)
    return environment, removed


def python_path(tree: Path) -> str:
    """What PYTHONPATH is for a process that runs the code of `tree`."""
    paths = [str(tree), str(tree / "backends"), os.environ.get("PYTHONPATH", "")]
    return os.pathsep.join(path for path in paths if path)


def usable_cpus() -> list[int]:
    """One logical CPU for each physical core this process may use, no more than its control group's share of time."""
    allowed = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    cores: dict[Any, int] = {}
    for cpu in allowed:
        folder = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology")
        try:
            core: Any = (folder / "physical_package_id").read_text(), (folder / "core_id").read_text()
        except OSError:
            core = cpu
        cores.setdefault(core, cpu)
    return list(cores.values())[: _quota()]


def _quota() -> int | None:
    try:
        share, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, ceil(int(share) / int(period)))
    except (OSError, ValueError):
        return None


def pin(cpus: list[int]) -> None:
    """Keep this process on `cpus` where the system can; thread pools made later count them."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cpus)


def describe() -> dict[str, Any]:
    """CPU, cores, memory in bytes, system, and how busy the machine is."""
    return {
        "cpu": _cpu_name(),
        "cores": len(usable_cpus()),
        "memory": _memory(),
        "system": platform.platform(),
        "load": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def commit() -> str | None:
    """The checkout's commit, with "+changes" where tracked files differ from it; None outside of a checkout."""
    try:
        found = _git("rev-parse", "HEAD")
        return found + ("+changes" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(*arguments: str) -> str:
    run = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    return run.stdout.strip()


def thread_pools() -> list[dict[str, Any]] | None:
    """Every thread pool of BLAS and OpenMP loaded in this process; None without threadpoolctl."""
    try:
        from threadpoolctl import threadpool_info
    except ImportError:
        return None
    wanted = ("user_api", "internal_api", "version", "architecture", "num_threads", "threading_layer")
    return [{key: pool[key] for key in wanted if key in pool} for pool in threadpool_info()]
