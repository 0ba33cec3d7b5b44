"""cuDNN by nvidia-cudnn-frontend: plans, handles and workspaces, and prepared calls that a CUDA graph can capture.

Which plan computes something is a function of its description, the GPU and the library's version: the first in the
order of the heuristics that adds in a fixed order and keeps to the precision asked for. Nothing is timed, so that a
training can be resumed bit for bit.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from typing import Any

from bpnet.dispatch import Array, Call
from bpnet.errors import BackendError
from bpnet_cupy.cudnn_graphs import Attention, Convolution
from bpnet_cupy.gemm import PER_THREAD_STREAM
from bpnet_cupy.memory import CupyMemory, Memory, say_once
from bpnet_cupy.trouble import installed

OFF = "BPNET_CUDNN"
MINIMUM = 92800  # of the library: what plans were made with; 9.12 does not find cublasLt where pip puts it
ALIGNMENT = 16  # bytes: what cuDNN's graphs say of a tensor that says nothing
INSTALL = 'pip install "bpnet-xp[cudnn12]" (or [cudnn13], as CuPy is for CUDA 12 or 13)'
WITHOUT = "convolutions and attention are computed by bpnet's own kernels and cublasLt"

Description = Convolution | Attention


class CudnnError(BackendError):
    """cuDNN cannot be used, or failed."""


class Plan:
    """A graph with the plan that was chosen for it."""

    __slots__ = ("execute", "workspace_bytes")

    def __init__(self, graph: Any) -> None:
        self.execute = graph.execute
        self.workspace_bytes = int(graph.get_workspace_size())


class Execution:
    """A prepared call. It holds its arrays; only a stream's first call allocates, the workspace of that stream."""

    __slots__ = ("_kept", "_library", "_plan", "_pointers", "_text")

    def __init__(self, library: Cudnn, plan: Plan, pointers: dict[int, int], kept: Any, text: str) -> None:
        self._library, self._plan, self._pointers, self._kept, self._text = library, plan, pointers, kept, text

    def __call__(self) -> None:
        """Enqueue the operation on the current stream."""
        self._library.run(self._plan, self._pointers, self._text)


class Cudnn:
    """cuDNN with its handles, plans and workspaces; one for all devices of a process.

    module : as `load()` returns it
    """

    def __init__(self, module: Any, memory: Memory) -> None:
        self.module = module
        self.memory = memory
        self.prepared = False  # whether there are calls
        self.largest = 0  # bytes of workspace that one of them needs
        self._plans: dict[tuple[int, Description], Plan | None] = {}
        self._reasons: dict[tuple[int, Description], str] = {}
        self._said: set[tuple[str, str, str]] = set()
        self._handles: dict[tuple[int, int, int], Any] = {}
        self._workspaces: dict[tuple[int, int, int], tuple[Any, int, int]] = {}
        self._kept: list[Any] = []  # workspaces that graphs name
        self._lock = threading.RLock()

    # --- what variants use ---

    def has(self, description: Description, *arrays: Array) -> bool:
        """Whether there is a plan for that, and these arrays lie as it wants them; why there is none is said once."""
        if any(self.memory.pointer(x) % ALIGNMENT for x in arrays):
            return False
        if self.plan(description) is None:
            self._say(description, self.why_not(description))
            return False
        return True

    def call(self, description: Description, arrays: Mapping[int, Array]) -> Call:
        """A call that does what `description` says, for which there is a plan. arrays : by their number in the graph"""
        plan = self.plan(description)
        assert plan is not None
        self.prepared, self.largest = True, max(self.largest, plan.workspace_bytes)
        pointers = {number: self.memory.pointer(x) for number, x in arrays.items()}
        return Execution(self, plan, pointers, (description, dict(arrays)), str(description))

    def prepare_stream(self) -> None:
        """Have a handle and a workspace for the current stream, so that nothing is made while calls are captured.

        The workspace then lives as long as this object, since graphs name its address.
        """
        with self._lock:
            self._handle()
            if self._workspace():
                self._kept.append(self._workspaces[self._key()][0])

    # --- plans ---

    def plan(self, description: Description) -> Plan | None:
        """The plan for a description, the same in every run; None where the library has none."""
        key = (self.memory.device(), description)
        with self._lock:
            if key not in self._plans:
                try:
                    self._plans[key] = Plan(self._planned(description))
                except Exception as error:  # the library's own kinds, by the version
                    if isinstance(error, MemoryError) or "ALLOC_FAILED" in str(error):
                        raise  # which passes, and another method would give other bits
                    self._plans[key] = None
                    self._reasons[key] = _first_line(error)
            return self._plans[key]

    def _say(self, description: Description, reason: str) -> None:
        """Warn, once for each operation and reason: a net has many shapes."""
        kind = (description.kind, getattr(description, "mode", ""), reason)
        if kind not in self._said:
            self._said.add(kind)
            say_once(
                f"cuDNN has no plan for the {description} that keeps its precision and adds in a fixed order "
                f"({reason}); bpnet's own kernels compute it, and others like it"
            )

    def why_not(self, description: Description) -> str:
        """Why there is no plan, in the library's words; '' where there is one."""
        self.plan(description)
        return self._reasons.get((self.memory.device(), description), "")

    def _planned(self, description: Description) -> Any:
        module = self.module
        float32 = module.data_type.FLOAT
        graph = module.pygraph(
            name=description.kind,
            io_data_type=float32,
            intermediate_data_type=float32,
            compute_data_type=float32,
            **self._device(),
        )
        description.build(module, graph)
        graph.validate()
        graph.build_operation_graph()
        graph.create_execution_plans([getattr(module.heur_mode, name) for name in description.heuristics])
        notes = module.numerical_note
        graph.deselect_numeric_notes([getattr(notes, name) for name in description.refused])
        graph.deselect_workspace_greater_than(description.WORKSPACE)
        graph.check_support()
        graph.build_plans(module.build_plan_policy.HEURISTICS_CHOICE)
        return graph

    def _device(self) -> dict[str, Any]:
        """What a graph is told of the device that it is planned for."""
        return {"handle": self._handle()}

    # --- streams ---

    def _key(self) -> tuple[int, int, int]:
        stream = self.memory.stream()
        return self.memory.device(), stream, threading.get_ident() if stream == PER_THREAD_STREAM else 0

    def _handle(self) -> Any:
        """The handle of the current stream, which it is bound to for the life of the process."""
        key = self._key()
        found = self._handles.get(key)
        if found is None:
            try:
                found = self.module.create_handle()
                self.module.set_stream(handle=found, stream=key[1])
            except Exception as error:
                raise CudnnError(
                    f"cuDNN cannot be started on the GPU ({_first_line(error)}); is the driver new enough for "
                    f"{version_of(self.module)}? {OFF}=0 computes without it"
                ) from error
            self._handles[key] = found
        return found

    def _workspace(self) -> int:
        """The address of the current stream's workspace, or 0; calls of a stream follow each other and share it."""
        key = self._key()
        _, address, size = self._workspaces.get(key, (None, 0, 0))
        if size < self.largest:
            buffer = self.memory.empty((self.largest,), "uint8")
            address = self.memory.pointer(buffer)
            self._workspaces[key] = buffer, address, self.largest
        return address

    def run(self, plan: Plan, pointers: dict[int, int], text: str) -> None:
        """Execute a plan on the current stream; one thread at a time, because handles and workspaces are shared."""
        with self._lock:
            try:
                plan.execute(pointers, self._workspace(), handle=self._handle())
            except (RuntimeError, ValueError) as error:
                if isinstance(error, BackendError):
                    raise
                raise CudnnError(
                    f"cuDNN failed at the {text}: {_first_line(error)}; {OFF}=0 computes without it"
                ) from error


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0].strip(' _')}" if text else type(error).__name__


# --- the library ---


def load() -> Any:
    """Import nvidia-cudnn-frontend, which loads cuDNN; CudnnError with the remedy where that cannot be."""
    wanted = [name.rpartition("-cuda")[2][:2] for name in installed() if "-cuda" in name]
    present = [each for each in ("12", "13") if _is_installed(f"nvidia-cudnn-cu{each}")]
    if wanted and present and not set(wanted) & set(present):
        raise CudnnError(
            f"nvidia-cudnn-cu{present[0]} is for CUDA {present[0]}, and this CuPy is for CUDA {wanted[0]}: "
            f"pip uninstall nvidia-cudnn-cu{present[0]}, then pip install nvidia-cudnn-cu{wanted[0]}"
        )
    try:
        import cudnn
    except Exception as error:
        raise CudnnError(f"nvidia-cudnn-frontend cannot be imported ({_first_line(error)}); {INSTALL}") from error
    try:
        version = int(cudnn.backend_version())
    except Exception as error:
        raise CudnnError(
            f"nvidia-cudnn-frontend finds no cuDNN ({_first_line(error)}): its library libcudnn.so.9 comes with "
            f"{INSTALL}"
        ) from error
    if version < MINIMUM:
        raise CudnnError(f"cuDNN {_dotted(version)} is too old, bpnet needs {_dotted(MINIMUM)}: {INSTALL}")
    return cudnn


def _is_installed(distribution: str) -> bool:
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


def _dotted(version: int) -> str:
    """92801 as "9.28.1"."""
    return f"{version // 10000}.{version % 10000 // 100}.{version % 100}"


def version_of(module: Any) -> str:
    """ "cuDNN 9.28.1 by nvidia-cudnn-frontend 1.26.0"."""
    return f"cuDNN {_dotted(int(module.backend_version()))} by nvidia-cudnn-frontend {module.__version__}"


def why_not() -> str:
    """Why cuDNN is not asked, where that is how it should be; '' where it is to be used."""
    if os.environ.get(OFF) == "0":
        return f"{OFF} is 0"
    return "" if find_spec("cudnn") else "the extra cudnn12 or cudnn13 is not installed"


@cache
def library() -> Cudnn | None:
    """cuDNN on CuPy's arrays; None where it is not to be used, or, which is said once, cannot be."""
    if why_not():
        return None
    import cupy

    try:
        return Cudnn(load(), CupyMemory(cupy))
    except CudnnError as error:
        say_once(f"{error}; {WITHOUT}")
        return None


def convolutions_by() -> str:
    """Who computes convolutions here: "cuDNN 9.28.1 by ...", or bpnet's kernels, with the reason."""
    reason = why_not()
    if not reason:
        try:
            return version_of(load())
        except CudnnError as error:
            reason = str(error)
    return f"bpnet's kernels and cublasLt, because {reason}"


def prepare_stream() -> None:
    """Have what calls need on the current stream, before it is captured."""
    found = library() if library.cache_info().currsize else None
    if found is not None and found.prepared:
        found.prepare_stream()
