"""What can be wrong with CUDA on a machine, found out and said with the remedy."""

from __future__ import annotations

import os
from importlib import metadata
from typing import Any

from bpnet.errors import BackendError

INSTALL = 'pip install "bpnet-xp[cuda12]" (or [cuda13], to match the driver: `nvidia-smi` prints its CUDA version)'
PACKAGES = ("cupy", "cupy-cuda11x", "cupy-cuda12x", "cupy-cuda13x")
ON_CPU = "or run on the CPU with BPNET_BACKEND=numpy"


def import_cupy() -> tuple[Any, Any]:
    """CuPy and its Array API namespace; BackendError with the remedy where they cannot be had."""
    several = installed()
    if len(several) > 1:
        raise BackendError(
            f"two CuPy packages are installed, {' and '.join(several)}, and overwrite each other's files; "
            f"pip uninstall {' '.join(several)}, then install the one that fits: {INSTALL}"
        )
    try:
        import array_api_compat.cupy as xp
        import cupy
    except ImportError as error:
        raise BackendError(f"CuPy cannot be imported ({error}); install it with {INSTALL}") from error
    return cupy, xp


def installed() -> list[str]:
    """The packages of CuPy that pip knows, each of which brings the module `cupy`."""
    found = []
    for name in PACKAGES:
        try:
            metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        found.append(name)
    return found


def device_count(cupy: Any) -> int:
    """The number of usable CUDA devices, at least one; BackendError with the remedy otherwise."""
    try:
        count: int = cupy.cuda.runtime.getDeviceCount()
    except Exception as error:
        raise BackendError(
            f"CuPy {cupy.__version__} finds no usable GPU: {error}; {_driver_remedy(cupy, str(error))}"
        ) from error
    if count < 1:
        raise BackendError(
            f"CuPy {cupy.__version__} sees no GPU (CUDA_VISIBLE_DEVICES hides all of them?); {ON_CPU[3:]}"
        )
    return count


def _driver_remedy(cupy: Any, text: str) -> str:
    if "InsufficientDriver" not in text:
        return f"check `nvidia-smi` and CUDA_VISIBLE_DEVICES, {ON_CPU}"
    driver, runtime = _version(cupy, "driverGetVersion"), _version(cupy, "runtimeGetVersion")
    if driver and runtime:
        return (
            f"the driver supports CUDA up to {dotted(driver)}, and this CuPy is built for {dotted(runtime)}: update "
            f"the driver, or install the CuPy that fits it, {INSTALL}, {ON_CPU}"
        )
    return (
        "there is no NVIDIA driver, or it is older than this CuPy needs: install or update the driver "
        f"(`nvidia-smi` must work), {ON_CPU}"
    )


def _version(cupy: Any, function: str) -> int:
    try:
        return int(getattr(cupy.cuda.runtime, function)())
    except Exception:  # without a driver not even this may be asked
        return 0


def dotted(version: int) -> str:
    """12040 as "12.4"."""
    return f"{version // 1000}.{version % 1000 // 10}"


def check_compiler(cupy: Any, device: Any) -> None:
    """BackendError with the remedy unless a kernel can be compiled and run."""
    try:
        with device:
            one = cupy.zeros((), "float32")
            one += 1
            cupy.cuda.get_current_stream().synchronize()
    except Exception as error:
        text = f"{type(error).__name__}: {error}".splitlines()[0]
        whole = f"{error} {error.__cause__} {error.__context__}".lower()
        if "nvrtc" in whole or "cuda_fp16" in whole or "cuda path" in whole or "header" in whole:
            remedy = (
                f"CuPy compiles its kernels with NVRTC, which is missing or incomplete; {INSTALL} brings it, or set "
                "CUDA_PATH to a CUDA toolkit"
            )
        elif isinstance(error, MemoryError) or "memory" in whole:
            remedy = "the GPU has no memory left: `nvidia-smi` shows who uses it"
        else:
            remedy = "see `nvidia-smi` and `bpnet doctor`"
        raise BackendError(f"CuPy {cupy.__version__} cannot run a kernel on the GPU ({text}): {remedy}") from error


def memory_report(cupy: Any, device: Any, error: MemoryError) -> str:
    """How much was asked for, used and allowed; CuPy's pool then gives back what nobody uses."""
    asked = str(error).strip().splitlines()
    asked_text = asked[0].rstrip(".") if asked else "an allocation failed"
    limit = os.environ.get("CUPY_GPU_MEMORY_LIMIT", "")
    try:
        with device:
            pool = cupy.get_default_memory_pool()
            used = int(pool.used_bytes())
            pool.free_all_blocks()
            free, total = cupy.cuda.runtime.memGetInfo()
    except Exception:  # the report must not hide the lack of memory
        return asked_text
    limited = f", CUPY_GPU_MEMORY_LIMIT is {limit}" if limit else ""
    return f"{asked_text}; bpnet's process uses {size(used)}, the GPU has {size(free)} of {size(total)} free{limited}"


def size(n: int) -> str:
    """A number of bytes for people: "1.50 GiB"."""
    value, unit = float(n), "bytes"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{n} bytes" if unit == "bytes" else f"{value:.2f} {unit}"
