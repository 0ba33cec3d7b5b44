"""What a training depends on, as JSON values that can be compared: settings, data, and where it runs."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from bpnet.backend import Backend, to_numpy
from bpnet.data.dataset import Dataset
from bpnet.data.lazy import LazyRows
from bpnet.dispatch import dtype_name
from bpnet.errors import ConfigError
from bpnet.layers import Layer
from bpnet.layers.serialization import architecture
from bpnet.layers.tree import live_config

if TYPE_CHECKING:
    from bpnet.trainer import Trainer

SAMPLED = 64  # rows that stand for data which may be beyond memory
SHOWN = 8  # differences that a message names


def described(trainer: Trainer) -> dict[str, Any]:
    """The model, the loss, the metrics and the optimizer of a Trainer, with all settings that change a step."""
    model, store = trainer.model, trainer.model.store
    parameters = {
        path: {
            "shape": p.shape,
            "place": store.offsets[path],
            "trainable": p.trainable,
            "decay": p.decay,
            "l1": p.l1,
            "l2": p.l2,
        }
        for path, p in model.parameters().items()
    }
    try:
        layers: Any = architecture(model)
    except ConfigError:  # a layer with an argument that JSON cannot hold; its numbers are among the settings
        layers = [type(layer).__name__ for _, layer in model.walk()]
    optimizer = trainer.optimizer
    schedule = optimizer.schedule
    config = dict(optimizer.config)
    if schedule is not None and not isinstance(config["learning_rate"], dict):
        config["learning_rate"] = getattr(schedule, "__qualname__", type(schedule).__name__)
    precision = {} if trainer.matmul_precision == "float32" else {"matmul_precision": trainer.matmul_precision}
    found: dict[str, Any] = plain(
        {
            "model": layers,
            "layers": _layer_settings(model),
            "parameters": parameters,
            "tied": model.tied(),
            "dtype": store.dtype,
            "model seed": store.seed,
            "random streams": sorted(store.streams),
            "loss": {"name": type(trainer.loss).__name__, **_loss_settings(trainer)},
            "metrics": [repr(metric) for metric in trainer.metrics],
            "optimizer": {"name": type(optimizer).__name__, **config},
            "seed": trainer.seed,
            **precision,
        }
    )
    if trainer.precision != "float32":
        found["precision"] = trainer.precision
    # Named only where it is on: a checkpoint from before there was the setting is one without it.
    return found | ({"check_gradients": True} if trainer.check_gradients else {})


def _loss_settings(trainer: Trainer) -> dict[str, Any]:
    try:
        return trainer.loss.config
    except AttributeError:  # a loss of one's own that keeps its arguments elsewhere
        return {}


def plain(value: Any) -> Any:
    """The value as JSON brings it back; what JSON cannot hold is named by its type."""
    return json.loads(json.dumps(value, default=_named))


def _named(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else type(value).__name__


def _layer_settings(model: Layer) -> dict[str, dict[str, Any]]:
    """Every layer's numbers and texts by path: what may be set while a model trains."""
    kinds = (bool, int, float, str, type(None))
    return {
        path: {name: value for name, value in live_config(layer).items() if isinstance(value, kinds)}
        for path, layer in model.walk()
    }


def fingerprint(data: Dataset) -> dict[str, Any]:
    """The shapes, the dtypes and a digest of the content of a data set.

    Of memory maps and of rows that are made when they are needed, some rows spread over all stand for the content.
    """
    parts = {"x": data.x, "y": data.y, "sample_weight": data.weight}
    parts |= {f"side input {name}": array for name, array in data.side.items()}
    return {"samples": len(data), **{name: _digested(each) for name, each in parts.items() if each is not None}}


def _digested(array: Any) -> dict[str, Any]:
    found = {"shape": [int(n) for n in array.shape], "dtype": dtype_name(array.dtype)}
    n = int(array.shape[0])
    if isinstance(array, (np.memmap, LazyRows)) and n > SAMPLED:
        rows = np.unique(np.linspace(0, n - 1, SAMPLED).astype(np.int64))
        taken = array.take(rows) if isinstance(array, LazyRows) else np.asarray(array)[rows]
        return {**found, f"SHA-256 of {SAMPLED} rows": _sha256(taken)}
    content = array.take(slice(0, n)) if isinstance(array, LazyRows) else to_numpy(array)
    return {**found, "SHA-256": _sha256(content)}


def _sha256(array: Any) -> str:
    host = np.ascontiguousarray(array)
    return hashlib.sha256(host.reshape(-1).view(np.uint8).data).hexdigest()


def environment(backend: Backend) -> dict[str, Any]:
    """What the last bits of a result depend on beside the settings."""
    from bpnet import __version__
    from bpnet.blas import facts

    about, blas = backend.describe(), facts()
    return {
        "bpnet": __version__,
        "Python": platform.python_version(),
        "NumPy": np.__version__,
        "backend": backend.name,
        "version of the backend": about.get("version"),
        "device": about.get("device"),
        "kernels": about.get("kernels"),
        "BLAS": " ".join(str(blas[key]) for key in ("name", "version", "kernel") if blas[key]),
        "BLAS threads": blas["threads"] or blas["thread_variables"] or os.cpu_count(),
        "machine": f"{platform.system()} {platform.machine()}, {blas['cpu']}",
    }


def differences(before: Any, now: Any, where: str = "") -> Iterator[str]:
    """A line for every value that is not the same in two descriptions."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in [*before, *(key for key in now if key not in before)]:
            yield from differences(before.get(key), now.get(key), f"{where}.{key}" if where else str(key))
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for index, (old, new) in enumerate(zip(before, now, strict=True)):
            yield from differences(old, new, f"{where}[{index}]")
    elif before != now:
        yield f"{where}: {_short(before)} in the checkpoint, {_short(now)} now"


def _short(value: Any) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def listed(lines: list[str]) -> str:
    """The lines as one text, at most so many of them."""
    more = f"; and {len(lines) - SHOWN} more" if len(lines) > SHOWN else ""
    return "; ".join(line if len(line) <= 200 else f"{line[:197]}..." for line in lines[:SHOWN]) + more
