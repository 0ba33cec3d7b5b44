"""A model's outputs for data of any kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from array_api_compat import to_device

from bpnet.backend import host_if_foreign, to_numpy
from bpnet.beside import brought, check_names
from bpnet.data.checks import check_ids, check_lengths
from bpnet.data.dataset import Dataset, as_array, as_side, check_batch_size
from bpnet.data.lazy import LazyRows
from bpnet.dispatch import namespace
from bpnet.errors import ConfigError, DataError, ShapeError
from bpnet.layers.base import Layer


def predict(model: Layer, x: Any, *, batch_size: int = 256, side: Mapping[str, Any] | None = None) -> Any:
    """Return `model`'s outputs for `x`, a batch at a time, in the caller's kind of array (NumPy for lists).

    side : arrays by name, one row a sample, which the model takes by keyword: a mask, lengths; a Dataset has its own

    >>> import bpnet as bp
    >>> model = bp.Sequential(bp.Dense(2, 3), bp.Softmax()).initialize(seed=0)
    >>> bp.predict(model, [[0.0, 0.0], [0.0, 0.0]]).round(2)
    array([[0.33, 0.33, 0.33],
           [0.33, 0.33, 0.33]], dtype=float32)
    """
    check_batch_size(batch_size)
    given = as_array(x.x if isinstance(x, Dataset) else x, "x")
    if isinstance(x, Dataset) and side is not None:
        raise ConfigError("a Dataset brings its own side inputs: Dataset(x, y, side=...)")
    beside = x.side if isinstance(x, Dataset) else as_side(side)
    if given.ndim == 0:
        raise ShapeError("x must have a first axis of samples, got a 0-d array")
    if given.shape[0] == 0:
        raise DataError(f"x is empty, of shape {tuple(given.shape)}; there is nothing to predict")
    if given.ndim == 1 and model.input_ids is None:
        batch_size = given.shape[0]  # so that a layer's complaint shows the whole shape
    check_names(beside, model)
    for name, array in beside.items():
        check_lengths(given, array, name_y=name)
    store = model.store
    dtype, n_ids = model.input_dtype, model.input_ids
    parts = []
    for start in range(0, given.shape[0], batch_size):
        rows = slice(start, min(start + batch_size, given.shape[0]))
        part = host_if_foreign(given[rows, ...], store.backend)
        if n_ids is not None:
            check_ids(part, n_ids, "x", start)
        own = brought({name: array[rows, ...] for name, array in beside.items()}, model)
        parts.append(model(store.backend.asarray(part, dtype=dtype), **own))
    result = store.backend.xp.concat(parts, axis=0) if len(parts) > 1 else store.backend.xp.asarray(parts[0], copy=True)
    if isinstance(given, store.backend.array_type):
        return result if result.device == given.device else to_device(result, given.device)
    host = to_numpy(result)
    return host if isinstance(given, (np.ndarray, LazyRows)) else namespace(given).asarray(host, device=given.device)
