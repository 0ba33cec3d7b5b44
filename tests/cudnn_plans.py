"""cuDNN itself, planning for a GPU that is not there: it needs nvidia-cudnn-frontend, cuDNN, NVRTC, and a C++ compiler.

cuDNN plans for a description of a GPU. It asks the driver for nothing then, but wants its functions to exist, and loads
the kernels that it has compiled. So a process of its own gets libraries in their place whose functions do nothing. It
never executes a plan.

    python tests/cudnn_plans.py    # plans of usual convolutions and attentions
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Sequence
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from bpnet_cupy.cudnn import Cudnn, Description, load, version_of
from bpnet_cupy.cudnn_graphs import Attention, Convolution
from bpnet_cupy.host.build import compiler

# Name, compute capability, multiprocessors, shared memory of a block, L2 cache
GPUS = {
    "sm_80": ("NVIDIA A100", 800, 108, 166912, 41943040),
    "sm_90": ("NVIDIA H100", 900, 132, 232448, 52428800),
    "sm_100": ("NVIDIA B200", 1000, 148, 232448, 132644864),
}
MAKES_SOMETHING = (
    "cuModuleLoadData cuModuleGetFunction cuLibraryLoadData cuLibraryLoadFromFile cuLibraryGetKernel "
    "cuKernelGetFunction"
)
DOES_NOTHING = (
    "cuModuleUnload cuTensorMapEncodeIm2col cuTensorMapEncodeTiled cuCtxGetCurrent cuCtxGetLimit cuCtxPopCurrent "
    "cuCtxPushCurrent cuDeviceGet cuDeviceGetCount cuKernelGetAttribute cuKernelSetAttribute cuLaunchCooperativeKernel "
    "cuLaunchKernel cuLaunchKernelEx cuLibraryUnload cuLinkAddData cuLinkComplete cuLinkCreate cuLinkDestroy "
    "cuOccupancyMaxPotentialClusterSize cuStreamGetCtx"
)


def driver_source() -> str:
    """A libcuda whose functions succeed and do nothing."""
    lines = [
        f'extern "C" int {name}(void **made) {{ *made = (void *)64; return 0; }}' for name in MAKES_SOMETHING.split()
    ]
    lines += [f'extern "C" int {name}() {{ return 0; }}' for name in DOES_NOTHING.split()]
    for name in ("cuGetErrorString", "cuGetErrorName"):
        lines.append(f'extern "C" int {name}(int, const char **text) {{ *text = "a stand-in"; return 0; }}')
    lines.append('extern "C" int cuDriverGetVersion(int *version) { *version = 13000; return 0; }')
    return "\n".join(lines)


def runtime_source(capability: int, processors: int) -> str:
    """A libcudart with one device, of which nvidia-cudnn-frontend wants the compute capability."""
    return f"""
#include <string.h>
extern "C" int cudaGetDevice(int *device) {{ *device = 0; return 0; }}
extern "C" const char *cudaGetErrorString(int) {{ return "a stand-in"; }}
extern "C" int cudaGetDeviceProperties(char *properties, int) {{
  memset(properties, 0, 640);
  int *capability = (int *)(properties + 360), *processors = (int *)(properties + 384);
  capability[0] = {capability // 100}, capability[1] = {capability // 10 % 10};
  processors[0] = processors[1] = {processors};  // of CUDA 13, and of CUDA 12
  return 0;
}}
extern "C" int cudaGetDeviceProperties_v2(char *properties, int device) {{
  return cudaGetDeviceProperties(properties, device);
}}
"""


def shared(folder: Path, name: str, source: str) -> None:
    text = folder / f"{name}.cpp"
    text.write_text(source)
    command = [compiler() or "g++", "-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", str(folder / name), str(text)]
    subprocess.run(command, check=True, capture_output=True, text=True)


@cache
def why_not() -> str:
    """Why cuDNN cannot plan here, or ''."""
    if sys.platform != "linux" or not compiler():
        return "no C++ compiler, or not Linux"
    try:
        metadata.version("nvidia-cudnn-frontend")
        load()
    except Exception as error:
        return f"cuDNN or nvidia-cudnn-frontend is not installed ({type(error).__name__})"
    return ""


def device_json(architecture: str) -> str:
    """A GPU as cuDNN describes one."""
    name, capability, processors, shared_bytes, cache_bytes = GPUS[architecture]
    return json.dumps(
        {
            "cudaDeviceId": 0, "deviceName": name, "deviceVer": capability, "driverVer": 13000, "isTccDriver": 0,
            "l2CacheSize": cache_bytes, "maxCtasPerSM": 32, "maxRegistersPerSM": 65536,
            "maxSharedMemoryPerBlock": 49152, "maxSharedMemoryPerBlockOptin": shared_bytes,
            "oversizedSharedMemoryPerBlock": shared_bytes, "reservedSharedMemoryPerBlock": 1024,
            "maxThreadsPerBlock": 1024, "maxThreadsPerSM": 2048, "memClockRateKHz": 2619000, "memoryBusWidth": 5120,
            "multiProcessorCount": processors, "pciDeviceId": 0, "regsPerBlock": 65536, "smClockRateKHz": 1980000,
            "smCountOrigin": 0, "supportCoopLaunch": 1, "totalGlobalMem": 80 * 2**30, "warpSize": 32,
            "maxGridSize": [2147483647, 65535, 65535], "maxBlockSize": [1024, 1024, 64],
        }
    )  # fmt: skip


class _NoArrays:
    """A memory for one who only plans."""

    def device(self) -> int:
        return 0


class Planner(Cudnn):
    """The library as it plans for a GPU that is described."""

    def __init__(self, module: Any, architecture: str) -> None:
        super().__init__(module, _NoArrays())  # type: ignore[arg-type]
        self._described = module.create_device_properties(device_json(architecture))

    def _device(self) -> dict[str, Any]:
        return {"device_property": self._described}


def plans(descriptions: Sequence[Description], architecture: str) -> list[dict[str, Any]]:
    """What cuDNN says of each: the bytes of workspace of its plan, or None and the reason."""
    _, capability, processors, *_ = GPUS[architecture]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shared(folder, "libcuda.so.1", driver_source())
        for version in (12, 13):
            shared(folder, f"libcudart.so.{version}", runtime_source(capability, processors))
        (folder / "libcuda.so").symlink_to("libcuda.so.1")
        (folder / "descriptions").write_bytes(pickle.dumps((list(descriptions), architecture)))
        environment = {**os.environ, "LD_LIBRARY_PATH": name, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        command = [sys.executable, __file__, str(folder / "descriptions")]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
        if done.returncode:
            raise AssertionError(f"the process ended with {done.returncode}: {done.stderr[-2000:]}")
        found: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
        return found


def child(path: str) -> None:
    descriptions, architecture = pickle.loads(Path(path).read_bytes())
    warnings.simplefilter("ignore")
    library = Planner(load(), architecture)
    found = []
    for each in descriptions:
        plan = library.plan(each)
        size = None if plan is None else plan.workspace_bytes
        found.append({"workspace": size, "reason": library.why_not(each)})
    print(json.dumps(found))


def usual() -> list[Description]:
    """Layers of nets that people train: images of 28 and of 224 pixels, groups, strides; sequences of 1024."""
    found: list[Description] = []
    for n, side, channels, outputs, size, stride, groups in (
        (64, 28, 1, 16, 3, 1, 1),
        (64, 14, 16, 32, 3, 1, 1),
        (32, 56, 64, 64, 3, 1, 1),
        (32, 56, 64, 128, 3, 2, 1),
        (32, 28, 128, 128, 3, 1, 4),
        (32, 224, 3, 64, 7, 2, 1),
    ):
        half = size // 2
        places = ((side + 2 * half - size) // stride + 1,) * 2
        for kind in ("fprop", "dgrad", "wgrad"):
            for mode in ("float32", "tf32", "bf16"):
                shapes = (n, side, side, channels), (size, size, channels // groups, outputs), (n, *places, outputs)
                strides, padding = (stride, stride), ((half, half), (half, half))
                found.append(Convolution(kind, *shapes, strides, (1, 1), padding, mode))
    for shape in ((4, 12, 1024, 1024, 64), (8, 16, 777, 777, 128), (2, 8, 512, 2048, 32)):
        for kind in ("forward", "backward"):
            for joined in (True, False)[shape[2] != shape[3] :]:
                found.append(Attention(kind, shape, causal=True, joined=joined))
                found.append(Attention(kind, shape, causal=False, joined=joined))
    return found


if __name__ == "__main__":
    if len(sys.argv) > 1:
        child(sys.argv[1])
    else:
        if why_not():
            sys.exit(why_not())
        print(version_of(load()))
        for gpu in GPUS:
            described = usual()
            for each, result in zip(described, plans(described, gpu), strict=True):
                what = f"{result['workspace']} bytes" if result["workspace"] is not None else result["reason"][:90]
                print(f"{gpu:6} {each}: {what}")
