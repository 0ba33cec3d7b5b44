"""A step that failed, in one file: the model before it, its batch, and who made the number that is not finite.

A bundle needs neither the data nor the backend of the training: it holds NumPy arrays and JSON, no code. The step is
made again on NumPy, in the model's dtype and with its masks, with all that `explain` shows.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from bpnet import losses
from bpnet.backend import get_backend, to_numpy
from bpnet.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    DTypeError,
    NonFiniteError,
    ShapeError,
)
from bpnet.files import SEAL, read, write
from bpnet.forensics import Failure, Finding
from bpnet.forensics import find as find_failure
from bpnet.identity import described, environment, plain
from bpnet.layers import Layer
from bpnet.layers.serialization import describe, known_layers, made_of
from bpnet.losses import Loss
from bpnet.snapshot import DEEPEST, depth, expect

if TYPE_CHECKING:
    from bpnet.explain.explanation import Explanation
    from bpnet.fitting import Fit

FORMAT = "bpnet-bundle"
VERSION = 2
WITHOUT_SIDE = 1  # the version of a file without side inputs, which readers of the first one take too
PARAMETER = "parameter/"
SIDE = "side/"
BATCH = ("x", "y", "weight")
NOT_FINITE = {"inf": float("inf"), "-inf": float("-inf"), "nan": float("nan")}


class Bundle:
    """A step of a fit that failed, as `error.bundle` has it, or `load_bundle` reads it.

    path      : of the file, or '' where it is in none
    message   : of the error; finding : who made the number, and of which sample, or None where that is not known
    x, y, sample_weight : the batch, NumPy arrays; the last is None where there are no weights
    side      : its side inputs by name, such as lengths
    rows      : (N,) which samples of the data these are
    step, epoch : which one it was, counted from 1
    training  : model, loss, metrics and optimizer with all settings, as JSON values
    info      : what the fit's Checkpoint, or `save_bundle`, was told to keep, such as a recipe
    environment : versions, backend, device and BLAS where it happened
    """

    def __init__(self, path: str, about: dict[str, Any], arrays: dict[str, Any], custom: tuple[type, ...]) -> None:
        self.path = path
        self._about = about
        self._arrays = arrays
        self._custom = custom
        self.message: str = about["message"]
        self.finding = None if about["finding"] is None else _as_finding(about["finding"])
        self.x: Any = arrays["x"]
        self.y: Any = arrays["y"]
        self.sample_weight: Any = arrays.get("weight")
        self.side = {name.removeprefix(SIDE): each for name, each in arrays.items() if name.startswith(SIDE)}
        self.rows: Any = arrays["rows"]
        self.step, self.epoch = about["step"], about["epoch"]
        self.training, self.info, self.environment = about["training"], about["info"], about["environment"]
        self._model: Layer | None = None

    def __repr__(self) -> str:
        where = "" if self.finding is None else f", {self.finding.where}"
        return f"<Bundle of step {self.step}, epoch {self.epoch}: {len(self.rows)} samples{where}>"

    def __str__(self) -> str:
        where = ", ".join(f"{name} {value}" for name, value in self.environment.items() if value is not None)
        loss, optimizer = (_called(self.training[name]) for name in ("loss", "optimizer"))
        parts = self._about["micro_batch_size"]
        several = "" if parts is None or parts >= len(self.rows) else f", {parts} at a time"
        return (
            f"{self.message}\n\nstep {self.step}, epoch {self.epoch}: {len(self.rows)} samples{several}\n"
            f"loss {loss}, optimizer {optimizer}\n{where}"
        )

    def json(self) -> dict[str, Any]:
        """What it says of the step, as JSON values; a number that is not finite is its name as text."""
        found = {name: self._about[name] for name in ("message", "finding", "step", "epoch", "training", "info")}
        return {**found, "environment": self.environment, "rows": self.rows.tolist(), "file": self.path}

    # --- making ---

    @classmethod
    def take(cls, fit: Fit, failure: Failure, message: str) -> Bundle:
        """Of a fit that has just failed, whose parameters are those before the step. Everything is copied."""
        trainer, model = fit.trainer, fit.trainer.model
        arrays = {PARAMETER + path: np.array(to_numpy(p.value)) for path, p in model.parameters().items()}
        arrays |= {"counters": np.array(to_numpy(model.store.counters)), "rows": failure.rows}
        batch = zip(BATCH, (failure.x, failure.y, failure.weight), strict=True)
        arrays |= {name: array for name, array in batch if array is not None}
        arrays |= {SIDE + name: array for name, array in failure.side.items()}
        loss = type(trainer.loss)
        about = {
            "message": message,
            "finding": None if failure.finding is None else _as_json(failure.finding),
            "model": describe(model, {}),
            "loss": {"name": loss.__name__, "custom": not _is_ours(loss), "config": plain(trainer.loss.config)},
            "training": described(trainer),
            "step": int(arrays["counters"][0]) + 1,
            "epoch": trainer.epoch + 1,
            "batch_size": fit.batch_size,
            "micro_batch_size": fit.micro_batch_size,
            "shuffle": fit.shuffle,
            "info": fit.position.info or {},
            "environment": environment(model.store.backend),
        }
        known = set(known_layers().values())
        own = {type(layer) for _, layer in model.walk()} - known
        return cls("", plain(about), arrays, (*own, *(() if _is_ours(loss) else (loss,))))

    def write(self, path: str | os.PathLike[str], **info: Any) -> None:
        """Write it to a file, whole or not at all; CheckpointError where that is not possible.

        info : JSON values to keep in it beside those that are there
        """
        try:
            about = json.dumps({**self._about, "info": {**self.info, **info}})
        except (TypeError, ValueError) as error:
            raise ConfigError(f"the info of a bundle must be JSON values: {error}") from error
        version = VERSION if self.side else WITHOUT_SIDE
        write(path, self._arrays, {"format": FORMAT, "version": str(version), "state": about})
        self.info.update(info)
        self.path = os.fsdecode(path)

    # --- the step again ---

    @property
    def model(self) -> Layer:
        """The model as it was before the step, on NumPy. Raises CheckpointError where a class is missing."""
        if self._model is None:
            values = {
                name.removeprefix(PARAMETER): each for name, each in self._arrays.items() if name.startswith(PARAMETER)
            }
            custom = tuple(cls for cls in self._custom if issubclass(cls, Layer))
            try:
                model = made_of(self.path, values, self._about["model"], get_backend("numpy"), custom)
            except CheckpointError as error:
                raise CheckpointError(str(error).replace("bpnet.load(path", "bpnet.load_bundle(path")) from error
            counters = self._arrays["counters"]
            if counters.shape != tuple(model.store.counters.shape) or counters.dtype != np.int64:
                raise CheckpointError(f"{self.path!r} does not fit its model: it has {counters.shape} counters")
            model.store.counters[...] = counters
            self._model = model
        return self._model

    @property
    def loss(self) -> Loss:
        """The loss of the training. Raises CheckpointError where its class is missing."""
        name, config = self._about["loss"]["name"], dict(self._about["loss"]["config"])
        own = {cls.__name__: cls for cls in self._custom if issubclass(cls, Loss)}
        cls = own.get(name) if self._about["loss"]["custom"] else getattr(losses, name, None)
        if not (isinstance(cls, type) and issubclass(cls, Loss)):
            raise CheckpointError(
                f"the file has the loss {name[:80]!r}, which is not one of bpnet's; in Python, pass the class: "
                f"bpnet.load_bundle(path, custom=({name[:80]},))"
            )
        if isinstance(weights := config.get("class_weight"), dict):  # JSON's keys are texts
            config["class_weight"] = {int(k) if k.isdecimal() else k: each for k, each in weights.items()}
        try:
            return cls(**config)
        except (TypeError, ValueError, OverflowError) as error:
            raise CheckpointError(
                f"the file's {name[:80]} cannot be made of {str(config)[:200]}: {str(error)[:200]}"
            ) from error

    def explain(self, *, samples: Any = None, neurons: Any = None, weights: Any = None) -> Explanation:
        """Make the step again and explain it: `bpnet.explain` of what the first bad number comes from.

        samples : numbers of samples in the data, of this batch (or, of a step of several micro-batches, of the one
                  that failed); by default the one that failed
        neurons, weights : see `bpnet.explain`; by default those of the number that is not finite
        Raises ConfigError where there is no such sample or neuron; CheckpointError where a class of one's own is
        missing, or the parts of the file do not fit each other.
        """
        from bpnet.explain.aim import Aim
        from bpnet.explain.explanation import Explanation
        from bpnet.explain.record import run
        from bpnet.explain.scenes import Choice

        with np.errstate(all="ignore"):
            try:
                x, y, weight, side, total, first = self._part()
                record = run(self.model, x, self.loss, y, None, weight, total, side)
            except (ShapeError, DTypeError, DataError, ConfigError) as error:
                raise CheckpointError(
                    f"{self.path or 'the bundle'}: its step cannot be made again: {str(error)[:500]}"
                ) from error
            rows = [int(row) for row in self.rows[first : first + len(x)]]
            aim = Aim(record, self.finding, first)
            places = [aim.sample] if samples is None else _places(samples, rows)
            if neurons is None and weights is None:
                neurons, weights = aim.neurons, aim.weights
            named = ", ".join(f"{place} is sample {rows[place]} of the data" for place in places)
            which = f" (rows {first} to {first + len(x) - 1} of the batch)" if len(x) < len(self.rows) else ""
            note = f"{self.message}\nIn these {len(x)} samples{which}, {named}."
            return Explanation(record, Choice(record, places, neurons, weights), note)

    def _part(self) -> tuple[Any, Any, Any, dict[str, Any], Any, int]:
        """x, y, weights and side inputs of what is run at once, what its loss is divided by, and its first row.

        That is the batch or, of several micro-batches, the one that failed; those before it are run, so that the same
        random numbers are drawn.
        """
        model, loss, x, y, weight = self.model, self.loss, self.x, self.y, self.sample_weight
        size = self._about["micro_batch_size"]
        if size is None or size >= len(x):
            return x, y, weight, self.side, None, 0
        part = 0 if self.finding is None else self.finding.part
        first = part * size
        if first >= len(x):
            raise ShapeError(f"there is no micro-batch {part} in {len(x)} samples")
        model.store.counters[...] = self._arrays["counters"]
        total: Any = None
        for start in range(0, first + 1, size):
            own = slice(start, start + size)
            if start == first and total is not None:
                break
            side = {name: each[own] for name, each in self.side.items()}
            prediction = model.forward(x[own], **side) if start < first else model(x[own], **side)
            if total is None:
                total = loss.total_weight((len(x), *prediction.shape[1:]), y, weight)
            if start < first:
                loss.forward(prediction, y[own], total, None if weight is None else weight[own])
                model.backward(loss.backward())
        model.store.consume_gradients()
        own = slice(first, first + size)
        side = {name: each[own] for name, each in self.side.items()}
        return x[own], y[own], None if weight is None else weight[own], side, total, first


def load_bundle(path: str | os.PathLike[str], *, custom: Iterable[type] | type = ()) -> Bundle:
    """Read the step that made a fit fail from a file; nothing in the file is executed.

    custom : your own classes of layers, and of the loss, that the file names
    Raises CheckpointError unless it is a whole bundle, with the digest that it was written with.

    >>> import numpy as np, bpnet as bp
    >>> trainer = bp.Trainer(bp.Sequential(bp.Dense(1, 1)), bp.MeanSquaredError(), bp.SGD(0.1), bundle="failed")
    >>> x = np.array([[1.0], [2.0], [3.0]])
    >>> try:
    ...     trainer.fit(x, np.array([[0.0], [1e30], [0.0]]), progress=False, shuffle=False)
    ... except bp.NonFiniteError:
    ...     bundle = bp.load_bundle("failed")
    >>> bundle.finding.where, bundle.finding.sample, bundle.rows
    ('MeanSquaredError()', 1, array([0, 1, 2]))
    >>> bundle.explain().loss
    inf
    """
    found = (custom,) if isinstance(custom, type) else tuple(custom)
    for cls in found:
        if not (isinstance(cls, type) and issubclass(cls, (Layer, Loss))):
            raise ConfigError(f"load_bundle: custom must hold classes of layers and losses, got {cls!r}")
    arrays, metadata = read(path)
    if metadata.get("format") != FORMAT:
        raise CheckpointError(f"{str(path)!r} is a safetensors file, but no bundle of a step that failed")
    if SEAL not in metadata:
        raise CheckpointError(f"{str(path)!r} is damaged: it lacks the digest of its content")
    try:
        version = int(metadata["version"])
        if version > VERSION:
            raise CheckpointError(f"{str(path)!r} is of format {version}; this bpnet reads up to {VERSION}: update it")
        about = json.loads(metadata["state"])
        _check_form(about, arrays)
        return Bundle(os.fsdecode(path), about, arrays, found)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{str(path)!r} has a damaged header: {repr(error)[:200]}") from error


def _check_form(about: Any, arrays: dict[str, Any]) -> None:
    """Raise ValueError, KeyError or TypeError where the parts are not built as `Bundle.take` builds them."""
    expect(about, {"message": str, "model": dict, "loss": dict, "training": dict, "step": int, "epoch": int})
    expect(about, {"info": dict, "environment": dict, "batch_size": int})
    expect(about["loss"], {"name": str, "config": dict, "custom": bool})
    expect(about["training"], {"loss": dict, "optimizer": dict})
    if depth(about) > DEEPEST or not all(isinstance(each, str) for each in about["model"].values()):
        raise ValueError("it is nested too deeply, or 'model' is malformed")
    size = about["micro_batch_size"]
    if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
        raise ValueError(f"'micro_batch_size' is {str(size)[:40]}")
    side = [name for name in arrays if name.startswith(SIDE)]
    lengths = {arrays[name].shape[:1] for name in (*BATCH, "rows", *side) if name in arrays}
    numbers = arrays["rows"].dtype == np.int64 and arrays["rows"].ndim == 1
    if not numbers or len(lengths) != 1 or (0,) in lengths or not {"x", "y", "counters"} <= arrays.keys():
        raise ValueError("the parts of the batch are missing, or not of one length")
    known = {*BATCH, "rows", "counters", *side}
    unknown = [name for name in arrays if not name.startswith(PARAMETER) and name not in known]
    if unknown:
        raise ValueError(f"it has unknown arrays, {unknown[:3]}")
    if about["finding"] is not None:
        finding = _as_finding(about["finding"])
        if finding.row is not None and not 0 <= finding.row < len(arrays["rows"]):
            raise ValueError("the finding is of a row that is not there")


def _as_json(finding: Finding) -> dict[str, Any]:
    return {k: str(v) if isinstance(v, float) and not np.isfinite(v) else v for k, v in asdict(finding).items()}


def _as_finding(table: dict[str, Any]) -> Finding:
    """The finding, as JSON brings it back; KeyError, TypeError or ValueError where it is none."""
    kinds = {"where": str, "direction": str, "kernel": str, "index": list, "shape": list, "part": int}
    expect(table, kinds)
    values: dict[str, Any] = {name: NOT_FINITE.get(v, v) if isinstance(v, str) else v for name, v in table.items()}
    values |= {name: table[name] for name in ("where", "direction", "kernel", "path")}
    expect(values, {"value": float, "largest": float})
    for name in ("index", "shape"):
        if not all(type(i) is int and i >= 0 for i in table[name]):
            raise ValueError(f"'{name}' is malformed")
        values[name] = tuple(table[name])
    for name, kind in (("sample", int), ("row", int), ("exact", (int, float)), ("path", str)):
        if values[name] is not None and (isinstance(values[name], bool) or not isinstance(values[name], kind)):
            raise TypeError(f"'{name}' is malformed")
    if len(values["index"]) != len(values["shape"]) or values["part"] < 0:
        raise ValueError("'index' or 'part' is malformed")
    return Finding(**values)


def _places(samples: Any, rows: list[int]) -> list[int]:
    """The places of samples of the data in what is run."""
    several = [samples] if isinstance(samples, (int, np.integer)) else list(samples)
    for each in several:
        if isinstance(each, bool) or not isinstance(each, (int, np.integer)) or each not in rows:
            known = ", ".join(map(str, rows[:12])) + (f" and {len(rows) - 12} more" if len(rows) > 12 else "")
            raise ConfigError(f"samples must be of those that were in the batch, {known}; got {each!r}")
    if not several:
        raise ConfigError(f"samples must name at least one, got {samples!r}")
    return [rows.index(int(each)) for each in several]


def _is_ours(loss: type) -> bool:
    return getattr(losses, loss.__name__, None) is loss


def _called(table: dict[str, Any]) -> str:
    """A description as it is written: "SGD(learning_rate=0.1)"; what is not set is left out."""
    shown = [f"{k}={v}" for k, v in table.items() if k != "name" and v is not None and v not in ([], False)]
    return f"{table.get('name')}({', '.join(shown)})"


# --- of a fit ---


def error_of(fit: Fit, done: int, text: str) -> NonFiniteError:
    """The error of a fit whose step after `done` steps of the present epoch has failed, with what can be told of it.

    Nothing that goes wrong here hides it. text : what is known anyway
    """
    try:
        failure = find_failure(fit, done)
    except Exception as reason:  # a model that cannot be copied or run on NumPy
        return NonFiniteError(f"{text}{_not_written(fit, reason)}")
    if failure.finding is not None:
        text = f"{text}: {failure.finding}"
    try:
        bundle = Bundle.take(fit, failure, text)
    except Exception as reason:  # such as layers that JSON cannot hold
        return NonFiniteError(f"{text}{_not_written(fit, reason)}")
    path = fit.bundle_path
    if path is None:
        return _with(NonFiniteError(text), bundle)
    try:
        bundle.write(path)
    except Exception as reason:
        return _with(NonFiniteError(f"{text}{_not_written(fit, reason)}"), bundle)
    error = _with(NonFiniteError(f"{text}. That step is in {path!r}: `bpnet explain --bundle {path}`"), bundle)
    error.bundle_path = path
    return error


def _with(error: NonFiniteError, bundle: Bundle) -> NonFiniteError:
    error.bundle = bundle
    return error


def _not_written(fit: Fit, reason: Exception) -> str:
    return "" if fit.bundle_path is None else f". No bundle was written: {reason}"
