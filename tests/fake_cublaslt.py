"""A cublasLt for tests: C functions that check every argument, record every product, and compute it in host memory."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from bpnet_cupy import cublaslt

DTYPES = {0: np.dtype("float32"), 1: np.dtype("float64"), 14: np.dtype("uint16")}  # bits of bfloat16
SCALE = {68: 0, 77: 0, 75: 0, 70: 1}  # the type of alpha and beta, by compute type
SIZES = {  # bytes of every attribute, as in cublasLt.h
    "MatmulDesc": {3: 4, 4: 4, 7: 4, 8: 8, 11: 8, 12: 8},
    "MatrixLayout": {5: 4, 6: 8},
    "MatmulPreference": {1: 8, 5: 4, 6: 4, 7: 4, 8: 4},
}
FORMATS = {4: "<i", 8: "<q"}
NAMES = {value: name for name, value in cublaslt.EPILOGUES.items()}
HOLDS_ALGORITHM = 0xB9
INVALID = 7


class Wrong(Exception):
    """An argument that the library would refuse, or would compute something else with."""


def at(address: int, count: int, dtype: Any) -> Any:
    """The host memory at an address as an array."""
    size = count * np.dtype(dtype).itemsize
    return np.frombuffer((ctypes.c_char * size).from_address(address), dtype)


def gelu_tanh(x: Any) -> Any:
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def gelu_tanh_slope(x: Any) -> Any:
    inner = np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)
    t = np.tanh(inner)
    return 0.5 * (1 + t) + 0.5 * x * (1 - t**2) * np.sqrt(2 / np.pi) * (1 + 3 * 0.044715 * x**2)


class FakeCublasLt:
    """The functions of `cublaslt.PROTOTYPES` over host memory.

    real      : the true library, which gets every descriptor, layout and preference too; None where it is not installed
    lacks     : told the epilogue's name and the problem, whether there is no algorithm for it
    activate  : what the relu epilogue does, to make one that hides NaN
    calls     : of cublasLtMatmul, each a dict
    """

    def __init__(
        self,
        real: Any = None,
        *,
        lacks: Callable[[str, dict[str, Any]], bool] = lambda epilogue, problem: False,
        activate: Callable[[Any], Any] = lambda x: np.maximum(x, 0),
    ) -> None:
        self.real = real
        self.lacks = lacks
        self.activate = activate
        self.rounds_twice = False  # where it adds to what is there
        self.calls: list[dict[str, Any]] = []
        self.heuristics: list[dict[str, Any]] = []
        self.errors: list[BaseException] = []
        self.objects: dict[int, dict[str, Any]] = {}
        self.handles = 0
        self._count = 1000
        self._keep: list[Any] = []
        for name, types in cublaslt.PROTOTYPES.items():
            setattr(self, name, self._function(name, types))

    def _function(self, name: str, types: tuple[Any, ...]) -> Any:
        name = name.removeprefix("cublasLt")
        body = getattr(self, f"_{name}", None)
        if body is None:
            verb = next(verb for verb in METHODS if name.endswith(verb))
            body = partial(getattr(self, METHODS[verb]), name.removesuffix(verb))

        def run(*args: Any) -> int:
            try:
                return body(*args) or 0
            except Wrong as error:
                self.errors.append(error)
                return INVALID
            except BaseException as error:
                self.errors.append(error)
                return 14

        function = ctypes.CFUNCTYPE(ctypes.c_int, *types)(run)
        self._keep.append(function)
        return function

    # --- objects ---

    def _create(self, kind: str, place: int, *args: Any) -> None:
        self._count += 16
        handle = self._count
        made: dict[str, Any] = {"kind": kind, "args": args, "set": {}}
        if self.real is not None:
            real = ctypes.c_void_p()
            status = getattr(self.real, f"cublasLt{kind}Create")(ctypes.byref(real), *args)
            if status:
                raise Wrong(f"the library's own cublasLt{kind}Create{args} gives {status}")
            made["real"] = real
        if kind == "MatrixLayout":
            _, rows, columns, ld = args
            if not (rows and columns and ld >= rows):
                raise Wrong(f"a layout of {rows} x {columns} with the leading dimension {ld}")
        elif kind == "MatmulDesc" and SCALE.get(args[0]) != args[1]:
            raise Wrong(f"compute type {args[0]} with the scale type {args[1]}")
        self.objects[handle] = made
        at(place, 1, np.int64)[0] = handle

    def _destroy(self, kind: str, handle: int) -> None:
        found = self.objects.pop(handle)
        assert found["kind"] == kind
        if self.real is not None:
            status = getattr(self.real, f"cublasLt{kind}Destroy")(found["real"])
            assert status == 0

    def _set(self, kind: str, handle: int, attribute: int, value: int, size: int) -> None:
        found = self._object(handle, kind)
        if SIZES[kind].get(attribute) != size:
            raise Wrong(f"attribute {attribute} of {kind} has {SIZES[kind].get(attribute)} bytes, not {size}")
        if self.real is not None:
            status = getattr(self.real, f"cublasLt{kind}SetAttribute")(found["real"], attribute, value, size)
            if status:
                raise Wrong(f"the library's own cublasLt{kind}SetAttribute({attribute}) gives {status}")
        found["set"][attribute] = struct.unpack(FORMATS[size], ctypes.string_at(value, size))[0]

    def _object(self, handle: int, kind: str) -> dict[str, Any]:
        found = self.objects.get(handle)
        if found is None or found["kind"] != kind:
            raise Wrong(f"{handle} is no living {kind}")
        return found

    def _Create(self, place: int) -> None:
        self.handles += 1
        at(place, 1, np.int64)[0] = 77

    def _GetVersion(self) -> int:
        return 130000

    # --- algorithms ---

    def _problem(self, handle: int, desc: int, a: int, b: int, c: int, d: int) -> dict[str, Any]:
        if handle != 77:
            raise Wrong(f"{handle} is no handle")
        descriptor = self._object(desc, "MatmulDesc")
        layouts = {name: self._object(x, "MatrixLayout") for name, x in zip("ABCD", (a, b, c, d), strict=True)}
        compute, scale = descriptor["args"]
        settings = descriptor["set"]
        found: dict[str, Any] = {
            "compute": compute,
            "scale": scale,
            "transposes": (settings.get(3, 0), settings.get(4, 0)),
            "epilogue": NAMES[settings.get(7, 1)],
            "vector": settings.get(8, 0),
            "aux": settings.get(11, 0),
            "aux_ld": settings.get(12, 0),
        }
        for name, layout in layouts.items():
            dtype, rows, columns, ld = layout["args"]
            halves = dtype == 14 and (compute, scale) == (68, 0) and name in "AB"
            if dtype != scale and not halves:
                raise Wrong(f"{name} is of type {dtype}, the scale of {scale}")
            found[name] = (rows, columns, ld, layout["set"].get(5, 1), layout["set"].get(6, 0))
            found.setdefault("types", {})[name] = dtype
        if found["types"]["A"] != found["types"]["B"]:
            raise Wrong(f"factors of the types {found['types']}")
        (m, k), (k2, n) = (
            found[name][:2][:: -1 if t else 1] for name, t in zip("AB", found["transposes"], strict=True)
        )
        if k != k2 or found["D"][:2] != (m, n) or found["C"] != found["D"]:
            raise Wrong(f"op(A) is {m} x {k}, op(B) {k2} x {n}, C {found['C']}, D {found['D']}")
        if len({found[name][3] for name in "ABCD"}) != 1:
            raise Wrong("the layouts have different numbers of matrices")
        self._check_epilogue(found, m)
        return found

    def _check_epilogue(self, found: dict[str, Any], rows: int) -> None:
        epilogue, ld = found["epilogue"], found["aux_ld"]
        if bool(found["vector"]) != any(word in epilogue for word in ("bias", "bgrad")):
            raise Wrong(f"epilogue {epilogue!r} with the vector {found['vector']}")
        if bool(found["aux"]) != ("aux" in epilogue or epilogue[:1] == "d"):
            raise Wrong(f"epilogue {epilogue!r} with the auxiliary array {found['aux']}")
        if found["aux"] and (ld < rows or ld % (128 if "relu" in epilogue else 8)):
            raise Wrong(f"an auxiliary array with the leading dimension {ld} for {rows} rows")

    def _MatmulAlgoGetHeuristic(
        self, handle: int, desc: int, a: int, b: int, c: int, d: int, pref: int, asked: int, result: int, count: int
    ) -> int:
        problem = self._problem(handle, desc, a, b, c, d)
        preference = self._object(pref, "MatmulPreference")["set"]
        if asked != 1 or set(preference) != {1, 5, 6, 7, 8}:
            raise Wrong(f"asked for {asked} algorithms with the preferences {preference}")
        self.heuristics.append(problem | {"preference": dict(preference)})
        at(count, 1, np.int32)[0] = 0
        if self.lacks(problem["epilogue"], problem):
            return cublaslt.NOT_SUPPORTED
        found = cublaslt.Heuristic.from_address(result)
        found.algorithm.data[0] = HOLDS_ALGORITHM
        for i, name in enumerate("ABCD"):
            found.algorithm.data[1 + i] = preference[cublaslt.PREFERENCE_ALIGNMENT[name]]
        found.workspace_bytes, found.state = preference[1], 0
        at(count, 1, np.int32)[0] = 1
        return 0

    def _MatmulAlgoCheck(self, handle: int, desc: int, a: int, b: int, c: int, d: int, algo: int, result: int) -> int:
        problem = self._problem(handle, desc, a, b, c, d)
        if at(algo, 1, np.uint64)[0] != HOLDS_ALGORITHM:
            raise Wrong("no algorithm")
        if self.lacks(problem["epilogue"], problem):
            return cublaslt.NOT_SUPPORTED
        cublaslt.Heuristic.from_address(result).workspace_bytes = 0
        return 0

    # --- the product ---

    def _Matmul(
        self,
        handle: int,
        desc: int,
        alpha: int,
        A: int,
        a: int,
        B: int,
        b: int,
        beta: int,
        C: int,
        c: int,
        D: int,
        d: int,
        algo: int,
        workspace: int,
        workspace_bytes: int,
        stream: int | None,
    ) -> int:
        found = self._problem(handle, desc, a, b, c, d)
        data = at(algo, 8, np.uint64)
        if data[0] != HOLDS_ALGORITHM:
            raise Wrong("no algorithm")
        for name, address, needed in zip("ABCD", (A, B, C, D), data[1:5], strict=True):
            if address % int(needed):
                raise Wrong(f"{name} at {address} for an algorithm that needs multiples of {needed}")
        dtype = DTYPES[found["scale"]]
        scalars = [float(at(place, 1, dtype)[0]) for place in (alpha, beta)]
        if workspace % 256 or not workspace_bytes:
            raise Wrong("the workspace is not aligned, or empty")
        at(workspace, workspace_bytes, np.uint8)[-1] = 1  # it must be ours to write
        self.calls.append(
            found
            | {"alpha": scalars[0], "beta": scalars[1], "stream": stream or 0, "workspace": workspace, "C is D": C == D}
        )
        for i in range(found["D"][3]):
            x, y, z, w = (
                self._matrix(address, found[name], i, DTYPES[found["types"][name]])
                for name, address in zip("ABCD", (A, B, C, D), strict=True)
            )
            if found["types"]["A"] == 14:
                x, y = ((each.T.astype(np.uint32) << 16).view(np.float32).T for each in (x, y))
            x, y = (each.T if t else each for each, t in zip((x, y), found["transposes"], strict=True))
            self._compute(found, x, y, z, w, scalars, dtype)
        return 0

    def _matrix(self, address: int, layout: tuple[int, ...], i: int, dtype: Any) -> Any:
        rows, columns, ld, _, stride = layout
        start = address + i * stride * dtype.itemsize
        memory = at(start, ld * (columns - 1) + rows, dtype)
        return np.lib.stride_tricks.as_strided(memory, (rows, columns), (dtype.itemsize, ld * dtype.itemsize))

    def _compute(self, found: dict[str, Any], x: Any, y: Any, z: Any, w: Any, scalars: Any, dtype: Any) -> None:
        epilogue, (rows, columns) = found["epilogue"], w.shape
        with np.errstate(all="ignore"):
            value = (np.ascontiguousarray(y.T) @ np.ascontiguousarray(x.T)).T  # the bits of the row-major product
            if scalars[0] != 1:
                value = dtype.type(scalars[0]) * value
            if scalars[1]:
                value = value + dtype.type(scalars[1]) * z
                value = np.nextafter(value, dtype.type(np.inf)) if self.rounds_twice else value
            vector = at(found["vector"], columns if epilogue == "bgradb" else rows, dtype) if found["vector"] else None
            if "bias" in epilogue:
                value = value + vector[:, None]
            if epilogue in ("relu_aux", "relu_aux_bias", "drelu", "drelu_bgrad"):
                bits = at(found["aux"], found["aux_ld"] // 8 * columns, np.uint8).reshape(columns, -1)
                if epilogue[0] == "d":
                    on = np.unpackbits(bits, axis=1, bitorder="little")[:, :rows].T.astype(bool)
                    value = np.where(on, value, 0)
                else:
                    on = np.zeros((columns, found["aux_ld"]), bool)
                    on[:, :rows] = value.T > 0
                    bits[...] = np.packbits(on, axis=1, bitorder="little")
                    value = self.activate(value)
            elif epilogue in ("gelu_aux", "gelu_aux_bias", "dgelu", "dgelu_bgrad"):
                aux = at(found["aux"], found["aux_ld"] * columns, dtype).reshape(columns, -1)[:, :rows].T
                if epilogue[0] == "d":
                    value = value * gelu_tanh_slope(aux)
                else:
                    aux[...] = value
                    value = gelu_tanh(value)
            elif epilogue in ("relu", "relu_bias"):
                value = self.activate(value)
            elif epilogue in ("gelu", "gelu_bias"):
                value = gelu_tanh(value)
            w[...] = value
            if epilogue.endswith("_bgrad"):
                vector[...] = value.sum(axis=1)
            elif epilogue == "bgrada":
                vector[...] = x.sum(axis=1)
            elif epilogue == "bgradb":
                vector[...] = y.sum(axis=0)

    def assert_no_errors(self) -> None:
        if self.errors:
            raise self.errors[0]


METHODS = {"SetAttribute": "_set", "Create": "_create", "Destroy": "_destroy"}


class HostMemory:
    """NumPy's arrays as `bpnet_cupy.gemm.Memory`; device and stream are what the test says."""

    def __init__(self) -> None:
        self.current_device = 0
        self.current_stream = 0
        self.allocated: list[tuple[tuple[int, ...], str]] = []

    def pointer(self, x: Any) -> int:
        return int(x.__array_interface__["data"][0])

    def empty(self, shape: tuple[int, ...], dtype: str) -> Any:
        self.allocated.append((shape, dtype))
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        raw = np.full(size + 256, 0xFF, np.uint8)  # not a number, in floating types
        start = -self.pointer(raw) % 256
        return raw[start : start + size].view(dtype).reshape(shape)

    def asarray(self, host: Any) -> Any:
        found = self.empty(host.shape, str(host.dtype))
        found[...] = host
        return found

    def to_numpy(self, x: Any) -> Any:
        return x

    def device(self) -> int:
        return self.current_device

    def stream(self) -> int:
        return self.current_stream
