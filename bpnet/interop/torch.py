"""Weights from PyTorch's files into bpnet's models, and back. PyTorch is not needed for either."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from bpnet.abilities import scope_of
from bpnet.checks import flag
from bpnet.errors import CheckpointError, ConfigError, DTypeError
from bpnet.files import write
from bpnet.interop.naming import Name, Names
from bpnet.interop.pairing import Pair, Pairing
from bpnet.interop.report import LoadReport, Match
from bpnet.interop.tensors import Tensor, tensors_of
from bpnet.layers import BatchNorm, Layer, Normalize
from bpnet.parameter import Parameter

__all__ = ["LoadReport", "load_state_dict", "save_state_dict"]

_BUFFERS = {
    "num_batches_tracked": "a count that bpnet does not need",
    "position_ids": "a constant",
    "inv_freq": "a constant",
    "masked_bias": "a constant",
}


def load_state_dict(
    model: Layer,
    source: str | os.PathLike[str] | Mapping[str, Any],
    *,
    names: Mapping[str, Name] | None = None,
    strict: bool = True,
    conv1d: bool | Iterable[str] = False,
    images: str = "NCHW",
    ignore: Iterable[str] = (),
    allow_nonfinite: bool = False,
) -> LoadReport:
    """Give a model the weights that a PyTorch module of the same structure has; return what was done with each.

    model  : where it has no arrays yet, it gets these; they come in the model's dtype
    source : a safetensors file, or a mapping of names to arrays; a `state_dict()` is one
    names  : our paths, or patterns of them, to PyTorch's names, where these differ: {"1": "encoder.norm"} for a layer
             and all below, {"{i}": "blocks.{i-1}"} for many, {"0.weight": "table"} for one array, a tuple where several
             layers of PyTorch's are one here, None where ours is to stay as it is
    strict : False lets parameters of ours that the source lacks be as they are, and tensors that nobody takes
    conv1d : True where the weights of linear layers are (inputs, outputs), as in GPT-2's Conv1D, or patterns of the
             names of those that are: ("*.c_*.weight",)
    images : "NHWC" where the source comes from a model that flattened images channels last, as bpnet does
    ignore : patterns of names of tensors to leave alone
    allow_nonfinite : whether NaN and infinities may be loaded
    Raises CheckpointError, with the whole report, where anything is missing or left over, and with strict=False too
    where a tensor is of another shape or not finite, or a file is damaged; ConfigError. The model is then as before.

    >>> import numpy as np
    >>> import bpnet as bp
    >>> from bpnet.interop.torch import load_state_dict
    >>> model = bp.Sequential(bp.Dense(4, 3), bp.ReLU())
    >>> state = {"0.weight": np.ones((3, 4), "float32"), "0.bias": np.zeros(3, "float32")}
    >>> print(load_state_dict(model, state))
    the mapping: 2 tensors for 2 of 2 parameters
      0.weight  <- 0.weight  (4, 3), transposed
      0.bias    <- 0.bias  (3,), as it is
    """
    flag("load_state_dict: strict", strict)
    flag("load_state_dict: allow_nonfinite", allow_nonfinite)
    label, tensors = tensors_of(source)
    report = LoadReport(label)
    patterns = (ignore,) if isinstance(ignore, str) else tuple(ignore)
    for name in [name for name in tensors if any(fnmatchcase(name, pattern) for pattern in patterns)]:
        report.ignored[name] = "as asked"
        del tensors[name]
    pairing = Pairing(model, Names(names), tensors, conv1d, images)
    parameters = dict(model._members(Parameter))
    dtype = _dtype(model)
    values = _Values(report, tensors, dtype, allow_nonfinite)
    for pair in pairing.pairs:
        values.take(pair, parameters[pair.ours])
    values.finish(parameters)
    if report.mismatched or (strict and not report.complete):
        raise CheckpointError(f"the weights do not fit the model; nothing was loaded. {report}{_advice(report)}")
    _assign(model, [(parameter, value) for parameter, value in values.found.values()], dtype)
    return report


def _no_parameter(name: str, tensor: Tensor) -> str:
    """Why a tensor that nobody takes is no parameter, or ''."""
    *above, last = name.split(".")
    if last == "bias" and above[-1:] == ["attn"] and len(tensor.shape) == 4:
        return "a mask"  # of GPT-2, which keeps its causal mask beside the weights
    return _BUFFERS.get(last, "")


def _dtype(model: Layer) -> str:
    root = model.root
    if root._store is not None:
        root.store.check()
        return root.store.dtype
    return root._origin[2] or "float32"


class _Values:
    """The values made of the tensors, and the report of it; nothing is changed yet."""

    def __init__(self, report: LoadReport, tensors: dict[str, Tensor], dtype: str, allow_nonfinite: bool) -> None:
        self.report, self.tensors, self.dtype, self.allow_nonfinite = report, tensors, dtype, allow_nonfinite
        self.found: dict[int, tuple[Parameter, Any]] = {}
        self.lacking: dict[str, tuple[int, tuple[str, ...]]] = {}  # of tied parameters, another path may have them
        self.asked: set[str] = set()

    def take(self, pair: Pair, parameter: Parameter) -> None:
        """Make the value of one parameter."""
        report, piece = self.report, pair.piece
        if piece is None:
            report.kept[pair.ours] = pair.why
            return
        self.asked.update(piece.theirs)
        lacking = tuple(name for name in piece.theirs if name not in self.tensors)
        if lacking:
            self.lacking[pair.ours] = (id(parameter), lacking)
            return
        given = [self.tensors[name] for name in piece.theirs]
        wrong = [
            f"{name!r} must be of shape {shape}, found {tensor.shape}{_hint(piece.matrix, shape, tensor.shape)}"
            for name, shape, tensor in zip(piece.theirs, piece.shapes, given, strict=True)
            if tensor.shape != shape
        ]
        if wrong:
            report.mismatched[pair.ours] = "; ".join(wrong)
            return
        try:
            value = self._value(pair, [tensor.values() for tensor in given], parameter)
        except (DTypeError, CheckpointError) as error:
            report.mismatched[pair.ours] = f"{' + '.join(map(repr, piece.theirs))} {error}"
            return
        before = self.found.get(id(parameter))
        if before is None:
            self.found[id(parameter)] = (parameter, value)
        elif not np.array_equal(before[1], value, equal_nan=True):
            report.mismatched[pair.ours] = (
                f"{' + '.join(map(repr, piece.theirs))} must be equal to what was loaded before, since several layers "
                "share the parameter"
            )
            return
        others = sorted({tensor.dtype for tensor in given} - {self.dtype})
        done = piece.done + (f", from {' and '.join(others)}" if others else "")
        report.matched.append(Match(pair.ours, piece.theirs, parameter.shape, done))

    def _value(self, pair: Pair, given: list[Any], parameter: Parameter) -> Any:
        assert pair.piece is not None
        with np.errstate(over="ignore", invalid="ignore"):
            exact = pair.piece.load(*given)
            value = np.array(exact, dtype=self.dtype, order="C")
        assert value.shape == parameter.shape
        if not self.allow_nonfinite and not np.isfinite(value).all():
            n = int(np.size(value) - np.isfinite(value).sum())
            if np.isfinite(exact).all():
                raise CheckpointError(f"has {n} numbers too large for {self.dtype}")
            raise CheckpointError(f"has {n} that are NaN or infinite; pass allow_nonfinite=True if they are meant")
        return value

    def finish(self, parameters: dict[str, Parameter]) -> None:
        """What is missing, and what is left over."""
        for path, (key, lacking) in self.lacking.items():
            if key not in self.found:
                self.report.missing[path] = lacking
        order = {path: place for place, path in enumerate(parameters)}
        self.report.matched.sort(key=lambda match: order[match.ours])
        for name, tensor in self.tensors.items():
            if name in self.asked:
                continue
            if why := _no_parameter(name, tensor):
                self.report.ignored[name] = why
            else:
                self.report.left_over[name] = tensor.shape


def _hint(matrix: bool, shape: tuple[int, ...], found: tuple[int, ...]) -> str:
    if matrix and found == shape[::-1]:
        return ", which is its transpose: is it a Conv1D's (conv1d=True)?"
    return ""


def _advice(report: LoadReport) -> str:
    """What to do where nothing fits, or the rest does."""
    if not (report.missing or report.left_over):
        return ""
    more = ""
    heads = {name.partition(".")[0] for name in report.left_over if "." in name}
    if report.missing and len(heads) == 1 and not report.matched:
        more = f"\nAll of PyTorch's names begin with {heads.pop()!r}: is it names={{'': ...}} with that?"
    return f"{more}\nGive names={{our path: PyTorch's}}; ignore=(...) for what is not needed; or strict=False"


def _assign(model: Layer, found: list[tuple[Parameter, Any]], dtype: str) -> None:
    """Give the parameters their values: all arrays are made before the first is changed."""
    if model.root._store is None:
        for parameter, value in found:
            parameter.preset(value)
    else:
        backend = model.backend
        with scope_of(backend):
            ready = [(parameter, backend.asarray(value, dtype=dtype)) for parameter, value in found]
            for parameter, array in ready:
                parameter.value = array
    arrays = {id(parameter) for parameter, _ in found}
    for _, layer in model.walk():
        if isinstance(layer, Normalize) and {id(layer.mean), id(layer.std)} <= arrays:
            layer.fitted = True


def save_state_dict(
    model: Layer,
    path: str | os.PathLike[str],
    *,
    names: Mapping[str, Name] | None = None,
    images: str = "NCHW",
) -> dict[str, tuple[int, ...]]:
    """Write a model's weights in PyTorch's names and layouts to a safetensors file; return the names and shapes.

    A PyTorch module of the same structure takes them: module.load_state_dict(safetensors.torch.load_file(path)). Layers
    of transformers are written as nn.TransformerEncoderLayer and nn.MultiheadAttention have them. Tied parameters are
    written under all of their names.
    names, images : as of `load_state_dict`; None leaves a layer out
    Raises ConfigError where PyTorch has no such layer, or two arrays would get one name; CheckpointError where the file
    cannot be written: one that was there before is then untouched.
    """
    pairing = Pairing(model, Names(names), None, False, images)
    parameters = dict(model._members(Parameter))
    model.root.store.check()
    made: dict[str, Any] = {}
    owners: dict[str, Pair] = {}
    for pair in pairing.pairs:
        if pair.piece is None:
            if pair.why != "as names says":
                raise ConfigError(
                    f"{pair.ours!r} cannot be written: {pair.why}; leave it out by names={{{pair.ours!r}: None}}, and "
                    "do what it does to the data beforehand"
                )
            continue
        _add(made, owners, pair, parameters)
    for layer_path, layer in model.walk():
        if isinstance(layer, BatchNorm):
            _count_batches(made, pairing, layer_path)
    write(path, made, {"format": "pt"})
    return {name: tuple(array.shape) for name, array in made.items()}


def _add(made: dict[str, Any], owners: dict[str, Pair], pair: Pair, parameters: dict[str, Parameter]) -> None:
    """Add a parameter's contributions to PyTorch's tensors, which pieces of one layer may share."""
    assert pair.piece is not None
    parameter = parameters[pair.ours]
    parts = pair.piece.save(parameter.host_value())
    for name, part in zip(pair.piece.theirs, parts, strict=True):
        taken = owners.setdefault(name, pair)
        if taken is pair:
            made[name] = np.ascontiguousarray(part)
        elif taken.layer == pair.layer and pair.piece.shared:
            made[name] = made[name] + part
        elif parameters[taken.ours] is not parameter:
            raise ConfigError(f"names: {taken.ours!r} and {pair.ours!r} would both be written as {name!r}")


def _count_batches(made: dict[str, Any], pairing: Pairing, path: str) -> None:
    """PyTorch's batch norms have a count, which matters only where their momentum is None."""
    for pair in pairing.pairs:
        if pair.piece is not None and pair.ours == (f"{path}.running_mean" if path else "running_mean"):
            prefix = pair.piece.theirs[0].rpartition(".")[0]
            made[f"{prefix}.num_batches_tracked" if prefix else "num_batches_tracked"] = np.array(0)
