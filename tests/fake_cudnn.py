"""A nvidia-cudnn-frontend for tests: it checks what it is told as the library would, and computes it in host memory.

Images and filters are read by the strides and dims of the graph, never by what bpnet means by them.
"""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Callable
from enum import Enum
from typing import Any

import numpy as np

NOTES = (
    "TENSOR_CORE DOWN_CONVERT_INPUTS REDUCED_PRECISION_REDUCTION FFT NONDETERMINISTIC WINOGRAD WINOGRAD_TILE_4x4 "
    "WINOGRAD_TILE_6x6 WINOGRAD_TILE_13x13 STRICT_NAN_PROP"
)
DataType = Enum("DataType", "NOT_SET FLOAT BFLOAT16 HALF DOUBLE")
HeurMode = Enum("HeurMode", "A B FALLBACK")
Note = Enum("Note", NOTES)
Policy = Enum("Policy", "HEURISTICS_CHOICE ALL")
Diagonal = Enum("Diagonal", "TOP_LEFT BOTTOM_RIGHT")
BYTES = {DataType.FLOAT: 4, DataType.BFLOAT16: 2}


class NotSupported(RuntimeError):
    """The library's cudnnGraphNotSupportedError."""


class Tensor:
    def __init__(self, name: str, uid: int, given: bool) -> None:
        self.name, self.uid, self.given = name, uid, given
        self.dim: list[int] = []
        self.stride: list[int] = []
        self.data_type: Any = DataType.NOT_SET
        self.output = False

    def set_uid(self, uid: int) -> Tensor:
        self.uid = uid
        return self

    def set_dim(self, dim: list[int]) -> Tensor:
        self.dim = dim
        return self

    def set_stride(self, stride: list[int]) -> Tensor:
        self.stride = stride
        return self

    def set_output(self, output: bool) -> Tensor:
        self.output = output
        return self

    def set_data_type(self, data_type: Any) -> Tensor:
        self.data_type = data_type
        return self

    def view(self, address: int, writable: bool) -> Any:
        """The memory from an address on, with the axes in the graph's order."""
        assert address > 0 == address % 16, f"{self.name} lies at {address}"
        length = 1 + sum((n - 1) * s for n, s in zip(self.dim, self.stride, strict=True))
        size = BYTES[self.data_type]
        flat = np.frombuffer((ctypes.c_char * (length * size)).from_address(address), f"u{size}")
        flat.flags.writeable = writable
        return np.lib.stride_tricks.as_strided(flat, self.dim, [s * size for s in self.stride], writeable=writable)

    def read(self, address: int) -> Any:
        bits = self.view(address, writable=False)  # of a wrong description, of memory that holds whatever it does
        if self.data_type is DataType.BFLOAT16:
            bits = bits.astype(np.uint32) << 16
        with np.errstate(invalid="ignore"):
            return np.ascontiguousarray(bits).view(np.float32).astype(np.float64)

    def write(self, address: int, values: Any) -> None:
        assert list(values.shape) == self.dim, f"{self.name} is {self.dim}, not {values.shape}"
        bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
        if self.data_type is DataType.BFLOAT16:
            bits = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
        self.view(address, writable=True)[...] = bits


def rounded(x: Any) -> Any:
    """Numbers as bfloat16 has them."""
    bits = np.ascontiguousarray(x, dtype=np.float32).view(np.uint32)
    return (((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16) << 16).view(np.float32).astype(np.float64)


class FakeCudnn:
    """The module `cudnn`.

    lacks : told the operation's name and the type of its factors, why there is no plan for it; '' where there is one
    plans : of every graph, in the order of the heuristics: the numerical notes of each
    spoil : changes what an execution has computed, to see it found
    """

    data_type, heur_mode, numerical_note, build_plan_policy, diagonal_alignment = (
        DataType,
        HeurMode,
        Note,
        Policy,
        Diagonal,
    )
    cudnnGraphNotSupportedError = NotSupported
    __version__ = "1.26.0"

    def __init__(
        self,
        *,
        lacks: Callable[[str, str], str] = lambda kind, factors: "",
        workspace_bytes: int = 48,
        version: int = 92801,
    ) -> None:
        self.lacks, self.workspace_bytes, self.version = lacks, workspace_bytes, version
        self.plans: list[set[str]] = [{"TENSOR_CORE", "NONDETERMINISTIC"}, {"TENSOR_CORE"}, set()]
        self.spoil: Callable[[str, Any], Any] = lambda name, values: values
        self.streams: dict[int, int] = {}
        self.graphs: list[Graph] = []
        self.executed: list[tuple[str, int]] = []  # operation, stream
        self.fails = ""

    def backend_version(self) -> int:
        return self.version

    def create_handle(self) -> int:
        self.streams[len(self.streams) + 7] = -1
        return len(self.streams) + 6

    def set_stream(self, *, handle: int, stream: int) -> None:
        assert self.streams[handle] == -1, "a handle's stream is set once: its graphs' captures count on it"
        self.streams[handle] = stream

    def pygraph(self, **settings: Any) -> Graph:
        self.graphs.append(Graph(self, **settings))
        return self.graphs[-1]


class Graph:
    def __init__(
        self, module: FakeCudnn, *, name: str, io_data_type: Any, intermediate_data_type: Any, compute_data_type: Any,
        handle: int,
    ) -> None:  # fmt: skip
        assert intermediate_data_type is compute_data_type is DataType.FLOAT
        assert handle in module.streams
        self.module, self.name, self.io = module, name, io_data_type
        self.tensors: list[Tensor] = []
        self.compute: Callable[[dict[str, Any]], dict[str, Any]] | None = None
        self.steps: list[str] = []
        self.modes: list[Any] = []
        self.refused: set[str] = set()
        self.limit = 0
        self.chosen: int | None = None
        self.settings: dict[str, Any] = {}

    def _step(self, name: str, *before: str) -> None:
        assert self.steps == list(before), f"{name} after {self.steps}"
        self.steps.append(name)

    # --- what is built ---

    def tensor(self, *, name: str, dim: list[int], stride: list[int], data_type: Any, uid: int) -> Tensor:
        found = Tensor(name, uid, given=True).set_dim(dim).set_stride(stride).set_data_type(data_type)
        self.tensors.append(found)
        return found

    def _made(self, *names: str) -> list[Tensor]:
        found = [Tensor(name, -1, given=False) for name in names]
        self.tensors += found
        return found

    def _convolution(self, inputs: dict[str, Tensor], output: str, settings: dict[str, Any], compute: Any) -> Tensor:
        assert settings.pop("compute_data_type") is DataType.FLOAT
        settings.pop("name")
        self.settings, (made,) = settings, self._made(output)
        names = {role: tensor.name for role, tensor in inputs.items()}

        def run(values: dict[str, Any]) -> dict[str, Any]:
            shapes = {t.name: t.dim for t in self.tensors}
            return {output: compute(*(values[name] for name in names.values()), shape=shapes[output], **settings)}

        self.compute = run
        return made

    def conv_fprop(self, *, image: Tensor, weight: Tensor, **settings: Any) -> Tensor:
        return self._convolution({"image": image, "weight": weight}, "Y", settings, fprop)

    def conv_dgrad(self, *, loss: Tensor, filter: Tensor, **settings: Any) -> Tensor:
        return self._convolution({"loss": loss, "filter": filter}, "DX", settings, dgrad)

    def conv_wgrad(self, *, image: Tensor, loss: Tensor, **settings: Any) -> Tensor:
        return self._convolution({"image": image, "loss": loss}, "DW", settings, wgrad)

    def sdpa(
        self, *, q: Tensor, k: Tensor, v: Tensor, generate_stats: bool, attn_scale: float, compute_data_type: Any,
        name: str, diagonal_alignment: Any = None, diagonal_band_right_bound: int | None = None,
    ) -> list[Tensor]:  # fmt: skip
        assert generate_stats
        assert diagonal_band_right_bound in (None, 0)
        assert q.dim[3] % 8 == 0
        made = self._made("O", "Stats")

        def run(values: dict[str, Any]) -> dict[str, Any]:
            p, logs = probabilities(values["q"], values["k"], attn_scale, diagonal_alignment)
            return {"O": rounded(p) @ values["v"], "Stats": logs}

        self.compute = run
        return made

    def sdpa_backward(
        self, *, q: Tensor, k: Tensor, v: Tensor, o: Tensor, dO: Tensor, stats: Tensor, attn_scale: float,
        compute_data_type: Any, name: str, use_deterministic_algorithm: bool, diagonal_alignment: Any = None,
        diagonal_band_right_bound: int | None = None,
    ) -> list[Tensor]:  # fmt: skip
        assert use_deterministic_algorithm
        assert diagonal_band_right_bound in (None, 0)
        assert q.dim[3] % 8 == 0
        names = [tensor.name for tensor in (q, k, v, o, dO, stats)]
        made = self._made("DQ", "DK", "DV")

        def run(values: dict[str, Any]) -> dict[str, Any]:
            q, k, v, y, dy, logs = (values[name] for name in names)
            s = scores(q, k, attn_scale, diagonal_alignment)
            p = np.exp(s - logs)
            ds = p * (dy @ v.swapaxes(2, 3) - np.sum(dy * y, axis=3, keepdims=True)) * attn_scale
            ds = rounded(ds)
            return {"DQ": ds @ k, "DK": ds.swapaxes(2, 3) @ q, "DV": rounded(p).swapaxes(2, 3) @ dy}

        self.compute = run
        return made

    # --- planning ---

    def validate(self) -> None:
        self._step("validate")
        assert self.compute is not None
        uids = [t.uid for t in self.tensors]
        assert sorted(uids) == sorted({*uids} - {-1}), f"tensors are numbered {uids}"
        for t in self.tensors:
            assert len(t.dim) == len(t.stride) == 4, f"{t.name}: {t.dim}, {t.stride}"
            assert min(t.dim) > 0, f"{t.name}: {t.dim}"
            assert t.data_type in BYTES, t.name
            assert t.given or t.output, t.name

    def build_operation_graph(self) -> None:
        self._step("build_operation_graph", "validate")

    def create_execution_plans(self, modes: list[Any]) -> None:
        self._step("create_execution_plans", "validate", "build_operation_graph")
        self.modes = modes

    def deselect_numeric_notes(self, notes: list[Any]) -> None:
        assert self.steps[-1] == "create_execution_plans", "filters mark the plans that there are"
        self.refused |= {note.name for note in notes}

    def deselect_workspace_greater_than(self, limit: int) -> None:
        self.limit = limit

    def check_support(self) -> None:
        self._step("check_support", "validate", "build_operation_graph", "create_execution_plans")
        reason = self.module.lacks(self.name, self.tensors[0].data_type.name)
        if not reason and self.module.workspace_bytes > self.limit:
            reason = "workspace"
        if reason:
            raise NotSupported(f"{reason} ___\n{{more}}")
        fitting = [i for i, notes in enumerate(self.module.plans) if not notes & self.refused]
        if not fitting:
            raise NotSupported("No valid engine configs")
        self.chosen = fitting[0]

    def build_plans(self, policy: Any) -> None:
        assert self.steps[-1] == "check_support"
        assert policy is Policy.HEURISTICS_CHOICE
        self.steps.append("build_plans")

    def get_workspace_size(self) -> int:
        assert self.steps[-1] == "build_plans"
        return self.module.workspace_bytes

    # --- execution ---

    def execute(self, pointers: dict[int, int], workspace: int, *, handle: int) -> None:
        module = self.module
        if module.fails:
            raise RuntimeError(module.fails)
        assert self.steps[-1] == "build_plans"
        assert self.compute is not None
        assert set(pointers) == {t.uid for t in self.tensors}, f"{sorted(pointers)} given"
        if module.workspace_bytes:
            ctypes.memset(workspace, 0xA5, module.workspace_bytes)
        found = self.compute({t.name: t.read(pointers[t.uid]) for t in self.tensors if t.given})
        for t in self.tensors:
            if not t.given:
                t.write(pointers[t.uid], module.spoil(t.name, found[t.name]))
        module.executed.append((self.name, module.streams[handle]))


# --- the mathematics, with axes as cuDNN names them ---


def positions(
    shape: list[int], places: list[int], window: list[int], pre: list[int], post: list[int], stride: list[int],
    dilation: list[int],
) -> list[tuple[int, ...]]:  # fmt: skip
    """(p, q, r, s, row, column) of everything that some window sees within images of that shape."""
    for axis in (0, 1):
        reach = dilation[axis] * (window[axis] - 1) + 1
        expected = (shape[axis] + pre[axis] + post[axis] - reach) // stride[axis] + 1
        assert places[axis] == expected, f"{places[axis]} places, the library computes {expected}"
    found = []
    for p, q, r, s in itertools.product(*map(range, (*places, *window))):
        row = p * stride[0] + r * dilation[0] - pre[0]
        column = q * stride[1] + s * dilation[1] - pre[1]
        if 0 <= row < shape[0] and 0 <= column < shape[1]:
            found.append((p, q, r, s, row, column))
    return found


def grouped(channels: int, depth: int, outputs: int) -> int:
    assert channels % depth == 0, f"{channels} channels in groups of {depth}"
    groups = channels // depth
    assert outputs % groups == 0, f"{outputs} outputs in {groups} groups"
    return groups


def walked(x: Any, w: Any, y: Any, window: dict[str, Any], made: str) -> Any:
    """The sums over all triples of a pixel, a weight and a place, into the one of the three that is made."""
    (_, channels, *shape), (outputs, depth, *size), (_, _, *places) = x.shape, w.shape, y.shape
    groups = grouped(channels, depth, outputs)
    x = x.reshape(len(x), groups, depth, *shape)
    w = w.reshape(groups, outputs // groups, depth, *size)
    y = y.reshape(len(y), groups, outputs // groups, *places)
    names = ("pre_padding", "post_padding", "stride", "dilation")
    for p, q, r, s, i, j in positions(shape, places, size, *(window[name] for name in names)):
        if made == "y":
            y[:, :, :, p, q] += np.einsum("ngc,gkc->ngk", x[:, :, :, i, j], w[:, :, :, r, s])
        elif made == "x":
            x[:, :, :, i, j] += np.einsum("ngk,gkc->ngc", y[:, :, :, p, q], w[:, :, :, r, s])
        else:
            w[:, :, :, r, s] += np.einsum("ngk,ngc->gkc", y[:, :, :, p, q], x[:, :, :, i, j])
    found = {"x": x, "w": w, "y": y}[made]
    return found


def fprop(image: Any, weight: Any, *, shape: list[int], **window: Any) -> Any:
    return walked(image, weight, np.zeros(shape), window, "y").reshape(shape)


def dgrad(loss: Any, filters: Any, *, shape: list[int], **window: Any) -> Any:
    return walked(np.zeros(shape), filters, loss, window, "x").reshape(shape)


def wgrad(image: Any, loss: Any, *, shape: list[int], **window: Any) -> Any:
    return walked(image, np.zeros(shape), loss, window, "w").reshape(shape)


def scores(q: Any, k: Any, scale: float, diagonal: Any) -> Any:
    s = scale * (q @ k.swapaxes(2, 3))
    if diagonal is not None:
        shift = 0 if diagonal is Diagonal.TOP_LEFT else s.shape[3] - s.shape[2]
        s = np.where(np.arange(s.shape[3])[None] <= np.arange(s.shape[2])[:, None] + shift, s, -np.inf)
    return s


def probabilities(q: Any, k: Any, scale: float, diagonal: Any) -> tuple[Any, Any]:
    s = scores(q, k, scale, diagonal)
    top = s.max(axis=3, keepdims=True)
    logs = top + np.log(np.exp(s - top).sum(axis=3, keepdims=True))
    return np.exp(s - logs), logs
