"""Named tensors of others: from a safetensors file, or from a mapping of names to arrays."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from bpnet.backend import to_numpy, type_name
from bpnet.errors import BpnetError, CheckpointError, DTypeError
from bpnet.files import SEAL, read_raw

_FORMATS = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1", "BOOL": "?",
}  # fmt: skip
_NAMES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


@dataclass(frozen=True, eq=False)
class Tensor:
    """One tensor: its dtype in PyTorch's words, its shape, and its elements; None where the dtype is unknown here.

    bfloat16 comes as the 16 bits of each element, where NumPy has no such dtype.
    """

    dtype: str
    shape: tuple[int, ...]
    elements: Any

    @property
    def is_floating(self) -> bool:
        """Whether it may be a parameter."""
        return self.dtype in ("float16", "bfloat16", "float32", "float64")

    def values(self) -> Any:
        """The elements in float32, or in float64 where they are; DTypeError where they are no floating numbers."""
        if not self.is_floating:
            raise DTypeError(f"is of {self.dtype}, which no parameter can be; make it float32 where it is from")
        if self.dtype == "bfloat16" and self.elements.dtype == np.uint16:
            return (self.elements.astype(np.uint32) << 16).view(np.float32)  # float32 with 16 more bits of zeros
        return self.elements.astype(np.float64 if self.dtype == "float64" else np.float32, copy=False)


def tensors_of(source: Any) -> tuple[str, dict[str, Tensor]]:
    """(what to call it in messages, its tensors by name). source : a path, or a mapping of names to arrays.

    Raises CheckpointError where the file is no whole safetensors file, or one of bpnet's own; DTypeError.
    """
    if isinstance(source, Mapping):
        return "the mapping", {_name(name): _from_array(name, value) for name, value in source.items()}
    if not isinstance(source, (str, os.PathLike)):
        raise DTypeError(
            f"the source must be the path of a safetensors file, or a mapping of names to arrays, got {source!r:.80}"
        )
    label = repr(os.fspath(source))
    _check_kind(source, label)
    raw, metadata = read_raw(source)
    if SEAL in metadata and str(metadata.get("format", "")).startswith("bpnet-"):
        raise CheckpointError(f"{label} was written by bpnet; read it by bpnet.load, or Trainer.restore")
    return label, {name: _from_bytes(name, *each) for name, each in raw.items()}


def _check_kind(path: Any, label: str) -> None:
    """Raise CheckpointError for what PyTorch writes beside safetensors files; other faults are found in reading."""
    try:
        if not os.path.isfile(path):
            return
        with open(path, "rb") as file:
            start = file.read(9)
    except (OSError, ValueError):
        return
    if start[8:] == b"{":  # behind the length of a header, which may be any number
        return
    if start[:2] == b"PK" or start[:2] in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
        raise CheckpointError(
            f"{label} is a pickle, as torch.save writes it, which could run code; where PyTorch is, make it "
            "a safetensors file: safetensors.torch.save_file(model.state_dict(), path)"
        )
    if start[:1] == b"{":
        raise CheckpointError(
            f"{label} is JSON: of a model in several files, give the tensors of all as one mapping of names to arrays"
        )


def _name(name: Any) -> str:
    if not isinstance(name, str):
        raise DTypeError(f"the mapping's names must be texts, got {name!r:.80}")
    return name


def _from_bytes(name: str, dtype: str, shape: tuple[int, ...], data: Any) -> Tensor:
    if dtype not in _FORMATS:
        return Tensor(dtype, shape, None)
    elements = np.frombuffer(data, _FORMATS[dtype])
    if dtype != "BF16":
        elements = elements.astype(elements.dtype.newbyteorder("="), copy=False)
    return Tensor(_NAMES.get(dtype, elements.dtype.name), shape, elements.reshape(shape))


def _from_array(name: str, value: Any) -> Tensor:
    if hasattr(value, "detach") and "bfloat16" in str(value.dtype):  # PyTorch's, which NumPy cannot hold
        return Tensor("bfloat16", tuple(value.shape), to_numpy(value.detach().float()))
    if not hasattr(value, "shape"):
        raise DTypeError(f"the mapping's {name!r:.80} must be an array, got {type_name(value)}")
    try:
        array = np.asarray(to_numpy(value))
    except (BpnetError, TypeError, ValueError) as error:
        raise DTypeError(f"the mapping's {name!r:.80} cannot be read as an array: {error}") from error
    if array.dtype.name == "bfloat16":  # ml_dtypes'
        return Tensor("bfloat16", array.shape, array.astype(np.float32))
    return Tensor(array.dtype.name, array.shape, array)
