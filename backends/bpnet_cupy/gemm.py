"""Matrix products of row-major arrays by cublasLt, as prepared calls that a CUDA graph can capture.

cublasLt is column-major, where the memory of a row-major X is that of X^T. So `out = a @ b` is asked for as
`out^T = b^T a^T`: the operands change places, nothing is copied, and the vector of an epilogue, which runs along the
rows of the column-major result, runs along the columns of `out`, as a bias does.

Which algorithm computes a product is a function of the problem alone: the library's first choice for its shapes, types
and alignments and a fixed workspace. Nothing is timed, so that a training can be resumed bit for bit.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np

from bpnet import ops
from bpnet.dispatch import Array, Call
from bpnet_cupy import cublaslt
from bpnet_cupy.cublaslt import COMPUTE, REAL, Algorithm, Descriptor, Heuristic, Layout, Preference
from bpnet_cupy.memory import Memory
from bpnet_cupy.problem import Problem, plain_of, problem_of, same_bits

WORKSPACE_BYTES = 32 * 1024**2
SAMPLED = 65521  # numbers that are drawn for a proof and repeated; prime, so that rows differ
PER_THREAD_STREAM = 2  # the handle that means another stream in every thread


class Matmul:
    """A prepared product. It holds its arrays, its descriptor and its layouts; a call allocates nothing.

    before : what cublasLtMatmul takes before the workspace and the stream, which are those of the call
    """

    __slots__ = ("_after", "_before", "_function", "_kept", "_workspace")

    def __init__(self, function: Any, before: tuple[Any, ...], workspace: Callable[[], Any], kept: Any) -> None:
        self._function = function
        self._before = before
        self._workspace = workspace
        self._kept = kept

    def __call__(self) -> None:
        """Enqueue the product on the current stream."""
        status = self._function(*self._before, *self._workspace())
        if status:
            cublaslt.check(status, "cublasLtMatmul")


class Gemm:
    """cublasLt with its handles, algorithms and workspaces; one for all devices of a process.

    library : as `cublaslt.load()` returns it
    """

    def __init__(self, library: Any, memory: Memory, workspace_bytes: int = WORKSPACE_BYTES) -> None:
        self.library = library
        self.memory = memory
        self.workspace_bytes = workspace_bytes
        self._handles: dict[int, Any] = {}
        self._workspaces: dict[tuple[int, int, int], tuple[Any, int]] = {}
        self._layouts: dict[tuple[Any, ...], Layout] = {}
        self._algorithms: dict[Problem, Algorithm | None] = {}
        self._trusted: dict[tuple[Problem, float], bool] = {}
        self._scalars: dict[tuple[str, float], Any] = {}
        self._lock = threading.RLock()

    # --- what variants use ---

    def product(
        self,
        out: Array,
        a: Array,
        b: Array,
        *,
        alpha: float = 1.0,
        beta: float = 0.0,
        bias: Array | None = None,
        activation: str = "",
        column_sums: Array | None = None,
    ) -> Call | None:
        """A call that does out = activation(alpha a @ b + beta out + bias), or None where cublasLt has none for that.

        Where a and b are uint16, the bits of bfloat16, out is float32, as the sums are.

        column_sums : (N,) gets the sums of b's columns on the way: the bias's gradient where b is dy
        An epilogue is given only after it has shown, on this problem, to be what the separate kernels are: the same
        bits, NaN and infinities among the values.
        """
        names = {"relu": "relu", "gelu_tanh": "gelu", "": ""}
        if activation not in names or (column_sums is not None and (activation or bias is not None)):
            return None
        if column_sums is not None:
            epilogue = "bgrada"
        else:
            epilogue = "_".join(part for part in (names[activation], "bias" if bias is not None else "") if part)
        vector = bias if column_sums is None else column_sums
        if epilogue and (alpha != 1.0 or out.ndim != 2 or (beta and (beta != 1.0 or epilogue != "bgrada"))):
            return None
        problem = problem_of(self.memory, out, a, b, epilogue, vector, None)
        if problem is None or (epilogue == "bgrada" and problem.factors != problem.dtype):
            return None  # sums of rounded numbers are not those of the numbers
        if epilogue and not self._trust(problem, beta):
            return None
        if beta == 1.0 == alpha and not self._trust(plain_of(problem), beta):
            return None
        return self._bind(problem, out, a, b, alpha, beta, vector, None)

    def prepare(
        self,
        out: Array,
        a: Array,
        b: Array,
        *,
        alpha: float = 1.0,
        beta: float = 0.0,
        epilogue: str = "",
        vector: Array | None = None,
        aux: Array | None = None,
    ) -> Call | None:
        """A call with any epilogue of `cublaslt.EPILOGUES`, as the library has it; None where it has no algorithm.

        out    : (M, N) or (B, M, N), C-contiguous; a : (..., M, K), b : (..., K, N), each contiguous or transposed
        vector : (N,) the bias, or what gets sums over M: of the result ("drelu_bgrad", "dgelu_bgrad"), of b ("bgrada");
                 (M,) for "bgradb", which gets a's sums over K
        aux    : what the forward form writes and the backward form reads, (M, L): bytes of bits with 8 L >= N and a
                 multiple of 128 for ReLU, numbers with L >= N and a multiple of 8 for GELU
        """
        problem = problem_of(self.memory, out, a, b, epilogue, vector, aux)
        return None if problem is None else self._bind(problem, out, a, b, alpha, beta, vector, aux)

    # --- the mapping ---

    def _descriptor(self, problem: Problem, vector: int, aux: int) -> Descriptor:
        scale = REAL[problem.dtype]
        return Descriptor(
            self.library,
            COMPUTE[problem.compute],
            scale,
            transpose_a=problem.b_transposed,  # the column-major A is b, B is a
            transpose_b=problem.a_transposed,
            epilogue=problem.epilogue,
            vector=vector,
            aux=aux,
            aux_ld=problem.aux_ld,
        )

    def _layouts_of(self, problem: Problem) -> tuple[Layout, Layout, Layout]:
        m, n, k = problem.m, problem.n, problem.k
        b_rows, b_columns = (k, n) if problem.b_transposed else (n, k)
        a_rows, a_columns = (m, k) if problem.a_transposed else (k, m)
        return (
            self._layout(problem, problem.factors, b_rows, b_columns, problem.b_stride),
            self._layout(problem, problem.factors, a_rows, a_columns, problem.a_stride),
            self._layout(problem, problem.dtype, n, m, m * n if problem.batch > 1 else 0),
        )

    def _layout(self, problem: Problem, dtype: str, rows: int, columns: int, stride: int) -> Layout:
        """The layout of a column-major matrix without gaps between its columns."""
        key = (dtype, rows, columns, problem.batch, stride)
        found = self._layouts.get(key)
        if found is None:
            found = self._layouts[key] = Layout(
                self.library, dtype, rows, columns, rows, batch=problem.batch, stride=stride
            )
        return found

    def _bind(
        self,
        problem: Problem,
        out: Array,
        a: Array,
        b: Array,
        alpha: float,
        beta: float,
        vector: Array | None,
        aux: Array | None,
    ) -> Call | None:
        pointer = self.memory.pointer
        descriptor = self._descriptor(
            problem, 0 if vector is None else pointer(vector), 0 if aux is None else pointer(aux)
        )
        first, second, result = layouts = self._layouts_of(problem)
        algorithm = self._algorithm(problem, descriptor, layouts)
        if algorithm is None:
            return None
        d = pointer(out)
        before = (
            self._handle(problem.device),
            descriptor.handle,
            ctypes.addressof(self._scalar(problem.dtype, alpha)),
            pointer(b),
            first.handle,
            pointer(a),
            second.handle,
            ctypes.addressof(self._scalar(problem.dtype, beta)),
            d,
            result.handle,
            d,
            result.handle,
            ctypes.addressof(algorithm),
        )
        kept = (self, descriptor, layouts, algorithm, out, a, b, vector, aux)
        return Matmul(self.library.cublasLtMatmul, before, self._workspace, kept)

    def _scalar(self, dtype: str, value: float) -> Any:
        """alpha or beta in the host's memory, kept for as long as calls point to it."""
        key = (dtype, value)
        if key not in self._scalars:
            self._scalars[key] = (ctypes.c_double if dtype == "float64" else ctypes.c_float)(value)
        return self._scalars[key]

    # --- algorithms ---

    def _algorithm(self, problem: Problem, descriptor: Descriptor, layouts: tuple[Layout, ...]) -> Algorithm | None:
        """The algorithm for a problem, the same in every run; None where the library has none.

        With an epilogue it is that of the plain product where this can do it too: then both round alike.
        """
        with self._lock:
            if problem not in self._algorithms:
                chosen = None
                if problem.epilogue:
                    plain = plain_of(problem)
                    same = self._algorithm(plain, self._descriptor(plain, 0, 0), layouts)
                    if same is not None and self._fits(problem, same, descriptor, layouts):
                        chosen = same
                self._algorithms[problem] = chosen or self._first(problem, descriptor, layouts)
            return self._algorithms[problem]

    def _fits(self, problem: Problem, algorithm: Algorithm, descriptor: Descriptor, layouts: Any) -> bool:
        result = Heuristic()
        a, b, d = (layout.handle for layout in layouts)
        status = self.library.cublasLtMatmulAlgoCheck(
            self._handle(problem.device),
            descriptor.handle,
            a,
            b,
            d,
            d,
            ctypes.addressof(algorithm),
            ctypes.addressof(result),
        )
        return bool(status == cublaslt.SUCCESS and result.workspace_bytes <= self.workspace_bytes)

    def _first(self, problem: Problem, descriptor: Descriptor, layouts: Any) -> Algorithm | None:
        a, b, d, _ = problem.alignment
        preference = Preference(self.library, self.workspace_bytes, {"A": b, "B": a, "C": d, "D": d})
        result, count = Heuristic(), ctypes.c_int(0)
        first, second, third = (layout.handle for layout in layouts)
        status = self.library.cublasLtMatmulAlgoGetHeuristic(
            self._handle(problem.device),
            descriptor.handle,
            first,
            second,
            third,
            third,
            preference.handle,
            1,
            ctypes.addressof(result),
            ctypes.addressof(count),
        )
        if status == cublaslt.NOT_SUPPORTED or (status == cublaslt.SUCCESS and not count.value):
            return None
        cublaslt.check(status, "cublasLtMatmulAlgoGetHeuristic")
        return result.algorithm if result.state == cublaslt.SUCCESS else None

    def _handle(self, device: int) -> Any:
        with self._lock:
            if device not in self._handles:
                handle = ctypes.c_void_p()
                cublaslt.check(self.library.cublasLtCreate(ctypes.byref(handle)), "cublasLtCreate")
                self._handles[device] = handle  # for the life of the process: the driver may be gone before us
            return self._handles[device]

    def _workspace(self) -> tuple[int, int, int]:
        """(address, bytes, stream) for a call on the current stream; streams may run at once, so each has its own.

        A workspace lives as long as this object, since graphs name its address.
        """
        stream = self.memory.stream()
        key = (self.memory.device(), stream, threading.get_ident() if stream == PER_THREAD_STREAM else 0)
        found = self._workspaces.get(key)
        if found is None:
            buffer = self.memory.empty((self.workspace_bytes // 8,), "float64")
            found = self._workspaces[key] = (buffer, self.memory.pointer(buffer))
        return found[1], self.workspace_bytes, stream

    def prepare_stream(self) -> None:
        """Have a workspace for the current stream, so that nothing is allocated while calls are captured."""
        self._workspace()

    # --- trust ---

    def _trust(self, problem: Problem, beta: float) -> bool:
        """Whether the epilogue, or adding to what is there, gives the bits of separate kernels on this problem."""
        key = (problem, beta)
        with self._lock:
            if key not in self._trusted:
                self._trusted[key] = False
                if problem.batch == 1:
                    with suppress(MemoryError):  # without room for a proof the separate kernels do the same
                        self._trusted[key] = all(self._agrees(problem, beta, poisoned) for poisoned in (False, True))
            return self._trusted[key]

    def _agrees(self, problem: Problem, beta: float, poisoned: bool) -> bool:
        a, b, vector, before = self._samples(problem, poisoned)
        fused, plain = (self.memory.empty((problem.m, problem.n), problem.dtype) for _ in range(2))
        fused[...] = before
        first = self._bind(problem, fused, a, b, 1.0, beta, vector, None)
        second = self._bind(plain_of(problem), plain, a, b, 1.0, 0.0, None, None)
        if first is None or second is None:
            return False
        first()
        second()
        host = self.memory.to_numpy
        with np.errstate(all="ignore"):
            if problem.epilogue == "bgrada":
                sums = host(b).sum(axis=0, dtype=np.float64)  # of whole numbers, so in any order
                whole = same_bits(host(vector), sums.astype(problem.dtype))
                return whole and same_bits(host(fused), host(before + plain if beta else plain))
            expected = plain if vector is None else plain + vector
            if beta:
                expected = before + plain
            if "relu" in problem.epilogue:
                expected = ops.relu(expected)
            elif "gelu" in problem.epilogue:
                expected = ops.gelu_tanh(expected)
            return same_bits(host(fused), host(expected))

    def _samples(self, problem: Problem, poisoned: bool) -> tuple[Array, Array, Array | None, Array]:
        """Operands that lie in memory as the problem's do, the epilogue's vector, and what the result is added to."""
        rng = np.random.Generator(np.random.Philox(0))
        whole = problem.epilogue == "bgrada"

        def sample(rows: int, columns: int) -> Any:
            some = rng.integers(-3, 4, SAMPLED) if whole else rng.standard_normal(SAMPLED)
            x = np.resize(some.astype(problem.dtype), (rows, columns))
            if poisoned:
                x[0, 0], x[-1, -1], x[-1, 0] = np.nan, np.inf, -np.inf
            return x

        m, n, k = problem.m, problem.n, problem.k
        a, b = sample(m, k), sample(k, n)
        if problem.factors == "bfloat16":
            a, b = ops.to_bf16(a), ops.to_bf16(b)
        vector = sample(1, n)[0] if "bias" in problem.epilogue or whole else None
        asarray = self.memory.asarray
        return (
            asarray(np.ascontiguousarray(a.T)).T if problem.a_transposed else asarray(a),
            asarray(np.ascontiguousarray(b.T)).T if problem.b_transposed else asarray(b),
            None if vector is None else asarray(vector),
            asarray(sample(m, n)),
        )
