"""cublasLt by ctypes: its constants, its functions, and objects that give back what they took.

CuPy refuses every cuBLAS call while a CUDA graph is being captured; the library itself does not. Descriptors, layouts
and preferences are made without a device, so that part runs anywhere.
"""

from __future__ import annotations

import ctypes
from ctypes import c_float, c_int, c_int32, c_int64, c_size_t, c_uint32, c_uint64, c_void_p
from typing import Any

from bpnet.errors import BackendError

SUCCESS, NOT_SUPPORTED = 0, 15
STATUS = {
    1: "NOT_INITIALIZED",
    3: "ALLOC_FAILED",
    7: "INVALID_VALUE",
    8: "ARCH_MISMATCH",
    11: "MAPPING_ERROR",
    13: "EXECUTION_FAILED",
    14: "INTERNAL_ERROR",
    15: "NOT_SUPPORTED",
    16: "LICENSE_ERROR",
}

REAL = {"float32": 0, "float64": 1, "bfloat16": 14}  # cudaDataType
COMPUTE = {  # cublasComputeType_t, by what is asked for; float64 is always computed in float64
    "float32": 68,  # CUBLAS_COMPUTE_32F
    "tf32": 77,  # CUBLAS_COMPUTE_32F_FAST_TF32
    "bf16": 75,  # CUBLAS_COMPUTE_32F_FAST_16BF
    "float64": 70,  # CUBLAS_COMPUTE_64F
}
TRANSPOSE = {False: 0, True: 1}  # cublasOperation_t

EPILOGUES = {
    "": 1,
    "relu": 2,
    "bias": 4,
    "relu_bias": 6,
    "relu_aux": 130,
    "relu_aux_bias": 134,
    "drelu": 136,
    "drelu_bgrad": 152,
    "gelu": 32,
    "gelu_bias": 36,
    "gelu_aux": 160,
    "gelu_aux_bias": 164,
    "dgelu": 192,
    "dgelu_bgrad": 208,
    "bgrada": 256,
    "bgradb": 512,
}
"""What is done to a product before it is stored. ReLU's auxiliary matrix has one bit an element, that of GELU the input
of the activation; GELU is the form with a tanh. `bgrad` gives the sums of the result's rows, `bgrada` those of A's."""

DESC_TRANSA, DESC_TRANSB, DESC_EPILOGUE, DESC_BIAS_POINTER, DESC_AUX_POINTER, DESC_AUX_LD = 3, 4, 7, 8, 11, 12
LAYOUT_BATCH_COUNT, LAYOUT_BATCH_OFFSET = 5, 6
PREFERENCE_WORKSPACE = 1
PREFERENCE_ALIGNMENT = {"A": 5, "B": 6, "C": 7, "D": 8}


class Algorithm(ctypes.Structure):
    """cublasLtMatmulAlgo_t: 64 bytes that only the library reads."""

    _fields_ = (("data", c_uint64 * 8),)


class Heuristic(ctypes.Structure):
    """cublasLtMatmulHeuristicResult_t, 96 bytes."""

    _fields_ = (
        ("algorithm", Algorithm),
        ("workspace_bytes", c_size_t),
        ("state", c_int),
        ("waves", c_float),
        ("reserved", c_int * 4),
    )


PROTOTYPES: dict[str, tuple[Any, ...]] = {
    "cublasLtGetVersion": (),
    "cublasLtCreate": (c_void_p,),
    "cublasLtMatmulDescCreate": (c_void_p, c_int, c_int),
    "cublasLtMatmulDescDestroy": (c_void_p,),
    "cublasLtMatmulDescSetAttribute": (c_void_p, c_int, c_void_p, c_size_t),
    "cublasLtMatrixLayoutCreate": (c_void_p, c_int, c_uint64, c_uint64, c_int64),
    "cublasLtMatrixLayoutDestroy": (c_void_p,),
    "cublasLtMatrixLayoutSetAttribute": (c_void_p, c_int, c_void_p, c_size_t),
    "cublasLtMatmulPreferenceCreate": (c_void_p,),
    "cublasLtMatmulPreferenceDestroy": (c_void_p,),
    "cublasLtMatmulPreferenceSetAttribute": (c_void_p, c_int, c_void_p, c_size_t),
    "cublasLtMatmulAlgoGetHeuristic": (*(c_void_p,) * 7, c_int, c_void_p, c_void_p),
    "cublasLtMatmulAlgoCheck": (c_void_p,) * 8,
    "cublasLtMatmul": (*(c_void_p,) * 14, c_size_t, c_void_p),
}
"""The functions that are used, with the types of their arguments; pointers of all kinds are `void *`."""


class CublasLtError(BackendError):
    """cublasLt refused a call."""


def typed(library: Any) -> Any:
    """The loaded library with its functions' argument types set."""
    for name, types in PROTOTYPES.items():
        function = getattr(library, name)
        function.argtypes = types
        function.restype = c_size_t if name == "cublasLtGetVersion" else c_int
    return library


def load() -> Any:
    """Load cublasLt from where CuPy's CUDA libraries are; CublasLtError with the remedy where there is none."""
    try:
        from cuda.pathfinder import load_nvidia_dynamic_lib

        path = load_nvidia_dynamic_lib("cublasLt").abs_path  # which has loaded it
        return typed(ctypes.CDLL(path or "libcublasLt.so"))
    except Exception as error:  # each version of cuda-pathfinder has an exception of its own
        raise CublasLtError(
            f"cublasLt cannot be loaded ({type(error).__name__}: {str(error).splitlines()[0]}); it comes with "
            'pip install "bpnet-xp[cuda12]" (or [cuda13]), or with a CUDA toolkit that CUDA_PATH names'
        ) from error


def products_by() -> str:
    """Who makes matrix products here: "cublasLt 13.2.0", or CuPy, with the reason."""
    try:
        version = int(load().cublasLtGetVersion())
    except CublasLtError as error:
        return f"CuPy's, because {error}"
    return f"cublasLt {version // 10000}.{version % 10000 // 100}.{version % 100}"


def check(status: int, function: str) -> None:
    """Raise CublasLtError unless a call has succeeded."""
    if status != SUCCESS:
        raise CublasLtError(f"{function} failed with CUBLAS_STATUS_{STATUS.get(status, status)}")


class Owned:
    """A handle of the library, destroyed with this object."""

    kind = ""

    def __init__(self, library: Any, *args: Any) -> None:
        self._library = library
        self.handle = c_void_p()
        check(
            getattr(library, f"cublasLt{self.kind}Create")(ctypes.byref(self.handle), *args),
            f"cublasLt{self.kind}Create",
        )

    def set(self, attribute: int, value: Any) -> None:
        """Set an attribute to a ctypes number, whose size the library compares with its own."""
        name = f"cublasLt{self.kind}SetAttribute"
        check(
            getattr(self._library, name)(self.handle, attribute, ctypes.byref(value), ctypes.sizeof(value)),
            f"{name}({attribute})",
        )

    def __del__(self) -> None:
        handle = getattr(self, "handle", None)
        if handle:
            getattr(self._library, f"cublasLt{self.kind}Destroy")(handle)
            self.handle = c_void_p()


class Descriptor(Owned):
    """What is computed: cublasLtMatmulDesc_t.

    compute, scale : cublasComputeType_t, and the cudaDataType of alpha and beta
    vector, aux    : pointers of what the epilogue reads or writes beside the result, 0 for none
    """

    kind = "MatmulDesc"

    def __init__(
        self,
        library: Any,
        compute: int,
        scale: int,
        *,
        transpose_a: bool,
        transpose_b: bool,
        epilogue: str = "",
        vector: int = 0,
        aux: int = 0,
        aux_ld: int = 0,
    ) -> None:
        super().__init__(library, compute, scale)
        self.set(DESC_TRANSA, c_int32(TRANSPOSE[transpose_a]))
        self.set(DESC_TRANSB, c_int32(TRANSPOSE[transpose_b]))
        self.set(DESC_EPILOGUE, c_uint32(EPILOGUES[epilogue]))
        if vector:
            self.set(DESC_BIAS_POINTER, c_void_p(vector))
        if aux:
            self.set(DESC_AUX_POINTER, c_void_p(aux))
            self.set(DESC_AUX_LD, c_int64(aux_ld))


class Layout(Owned):
    """How a column-major matrix, or several of them, lie in memory: cublasLtMatrixLayout_t.

    ld, stride : elements between columns, and between matrices
    """

    kind = "MatrixLayout"

    def __init__(self, library: Any, dtype: str, rows: int, columns: int, ld: int, *, batch: int = 1, stride: int = 0):
        super().__init__(library, REAL[dtype], rows, columns, ld)
        if batch > 1:
            self.set(LAYOUT_BATCH_COUNT, c_int32(batch))
            self.set(LAYOUT_BATCH_OFFSET, c_int64(stride))


class Preference(Owned):
    """What an algorithm may need: workspace, in bytes, and the alignment of A, B, C and D, in bytes."""

    kind = "MatmulPreference"

    def __init__(self, library: Any, workspace_bytes: int, alignment: dict[str, int]) -> None:
        super().__init__(library)
        self.set(PREFERENCE_WORKSPACE, c_uint64(workspace_bytes))
        for name, value in alignment.items():
            self.set(PREFERENCE_ALIGNMENT[name], c_uint32(value))
