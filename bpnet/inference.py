"""A model's outputs for data of any kind."""

from __future__ import annotations

from typing import Any

import numpy as np
from array_api_compat import to_device

from bpnet.backend import Backend, to_numpy
from bpnet.data.checks import check_ids
from bpnet.data.dataset import Dataset, as_array, check_batch_size
from bpnet.data.lazy import LazyRows
from bpnet.dispatch import namespace
from bpnet.errors import DataError, ShapeError
from bpnet.layers.base import Layer


def predict(model: Layer, x: Any, *, batch_size: int = 256) -> Any:
    """Return `model`'s outputs for `x`, a batch at a time, in the caller's kind of array (NumPy for lists).

    >>> import bpnet as bp
    >>> model = bp.Sequential(bp.Dense(2, 3), bp.Softmax()).initialize(seed=0)
    >>> bp.predict(model, [[0.0, 0.0], [0.0, 0.0]]).round(2)
    array([[0.33, 0.33, 0.33],
           [0.33, 0.33, 0.33]], dtype=float32)
    """
    check_batch_size(batch_size)
    given = as_array(x.x if isinstance(x, Dataset) else x, "x")
    if given.ndim == 0:
        raise ShapeError("x must have a first axis of samples, got a 0-d array")
    if given.shape[0] == 0:
        raise DataError(f"x is empty, of shape {tuple(given.shape)}; there is nothing to predict")
    if given.ndim == 1 and model.input_ids is None:
        batch_size = given.shape[0]  # so that a layer's complaint shows the whole shape
    store = model.store
    dtype, n_ids = model.input_dtype, model.input_ids
    parts = []
    for start in range(0, given.shape[0], batch_size):
        part = host_if_foreign(given[start : min(start + batch_size, given.shape[0]), ...], store.backend)
        if n_ids is not None:
            check_ids(part, n_ids, "x", start)
        parts.append(model(store.backend.asarray(part, dtype=dtype)))
    result = store.backend.xp.concat(parts, axis=0) if len(parts) > 1 else store.backend.xp.asarray(parts[0], copy=True)
    if isinstance(given, store.backend.array_type):
        return result if result.device == given.device else to_device(result, given.device)
    host = to_numpy(result)
    return host if isinstance(given, (np.ndarray, LazyRows)) else namespace(given).asarray(host, device=given.device)


def host_if_foreign(x: Any, backend: Backend) -> Any:
    """`x` itself where `backend` takes it (its own arrays, the host's), else a host copy."""
    return x if isinstance(x, backend.array_type) else to_numpy(x)
