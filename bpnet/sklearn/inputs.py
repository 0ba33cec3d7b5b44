"""What users hand in: host data go through scikit-learn's validation, arrays of other libraries stay where they are."""

from __future__ import annotations

from typing import Any

import numpy as np
from array_api_compat import is_array_api_obj
from scipy.sparse import issparse
from sklearn import get_config
from sklearn.utils.validation import validate_data

from bpnet.backend import Backend, backend_names, backend_of, check_no_mask, get_backend, selection, to_numpy
from bpnet.data.checks import check_finite, check_weights
from bpnet.data.lazy import LazyRows
from bpnet.dispatch import Array, dtype_name, namespace
from bpnet.errors import BackendError, DataError, DTypeError, ShapeError

_HOST: dict[str, Any] = {"dtype": (np.float64, np.float32), "accept_sparse": "csr"}


class SparseRows(LazyRows):
    """A sparse matrix of scipy in CSR form, whose rows become dense a batch at a time."""

    def __init__(self, matrix: Any) -> None:
        super().__init__(tuple(matrix.shape), matrix.dtype)
        self.matrix = matrix

    def take(self, rows: Any) -> Any:
        """Some rows, dense."""
        return self.matrix[rows].toarray()


def is_foreign(x: Any) -> bool:
    """Whether `x` is an array of another library than NumPy."""
    return not isinstance(x, (np.ndarray, np.generic)) and is_array_api_obj(x)


def on_host(x: Any) -> Any:
    """An array of another library as a NumPy array; everything else as it is."""
    return to_numpy(x) if is_foreign(x) else x


def library_of(x: Any) -> tuple[str, str]:
    """The names of the array library and the device of `x`; for everything that becomes a NumPy array, NumPy's."""
    if not is_foreign(x):
        return "numpy", "cpu"
    return namespace(x).__name__, str(x.device)


def check_x(estimator: Any, X: Any, *, reset: bool) -> Any:
    """`X`, (N, n_features) of finite numbers: a NumPy array, or what was given where that is another library's.

    reset : whether the number and names of the features are learned from it, or must be those that were
    """
    if not is_foreign(X):
        check_no_mask(X, "X")
        return _lazily(validate_data(estimator, X, reset=reset, **_HOST))
    _check_foreign(X, "X", 2, estimator)
    return validate_data(estimator, X, reset=reset, skip_check_array=True)


def check_x_y(estimator: Any, X: Any, y: Any, *, reset: bool, numeric: bool) -> tuple[Any, Any]:
    """`X` as `check_x` gives it, and `y`, (N,) or (N, outputs), a NumPy array or one of another library."""
    if y is not None and hasattr(y, "tocsr"):
        y = y.toarray()
    if numeric and not is_foreign(y):
        _check_no_text(estimator, y)
    check_no_mask(X, "X")
    check_no_mask(y, "y")
    if not (is_foreign(X) or is_foreign(y)):
        X, y = validate_data(estimator, X, y, reset=reset, multi_output=True, y_numeric=numeric, **_HOST)
        return _lazily(X), y
    X = check_x(estimator, X, reset=reset)
    if y is None:
        raise DataError(f"{type(estimator).__name__} requires y to be passed, but the target y is None")
    if is_foreign(y):
        _check_foreign(y, "y", y.ndim if y.ndim == 2 else 1, estimator)
    else:
        y = np.asarray(y)
    if y.shape[0] != X.shape[0]:
        raise ShapeError(f"X holds {X.shape[0]} samples and y {y.shape[0]}; they must be as many")
    return X, y


def _check_no_text(estimator: Any, y: Any) -> None:
    given = np.asarray(y)
    if given.dtype.kind in "US" or (given.dtype.kind == "O" and any(isinstance(each, str) for each in given.ravel())):
        raise DTypeError(f"{type(estimator).__name__} needs numbers in y, got text; for classes there is BPClassifier")


def _lazily(x: Any) -> Any:
    return SparseRows(x) if issparse(x) else x


def _check_foreign(x: Array, name: str, ndim: int, estimator: Any) -> None:
    xp, who = namespace(x), type(estimator).__name__
    if x.ndim != ndim:
        hint = ""
        if ndim == 2:
            hint = "; reshape it, with (-1, 1) if it has one feature, with (1, -1) if it is one sample"
        raise ShapeError(f"{who}: {name} must have {ndim} axes, got an array of shape {tuple(x.shape)}{hint}")
    if 0 in x.shape:
        raise ShapeError(f"{who}: {name} of shape {tuple(x.shape)} is empty; it needs a sample and a feature")
    if not xp.isdtype(x.dtype, ("real floating", "integral", "bool")):
        raise DTypeError(f"{who}: {name} must hold real numbers, got dtype {x.dtype}")
    check_finite(x, name)


def weights_of(sample_weight: Any, n: int) -> Any:
    """`sample_weight` as (n,) float64 on the host; None gives None, one number the same weight to all."""
    if sample_weight is None:
        return None
    weight = np.asarray(on_host(sample_weight))
    if weight.ndim == 0:
        weight = np.full(n, weight)
    if weight.ndim == 1 and len(weight) and weight.dtype.kind in "biuf" and not weight.any():
        raise DataError(f"sample_weight is zero for all {len(weight)} samples; there is nothing to learn from")
    check_weights(weight)
    if weight.shape != (n,):
        raise ShapeError(f"sample_weight must have one weight for each of the {n} samples, got {weight.shape[0]}")
    return weight.astype(np.float64)


def rows_of(x: Any, rows: Any) -> Any:
    """The rows of `x` at the host integers `rows`, in the library of `x` and on its device."""
    if isinstance(x, SparseRows):
        return SparseRows(x.matrix[rows])
    if isinstance(x, np.ndarray):
        return x[rows]
    xp = namespace(x)
    return xp.take(x, xp.asarray(rows, device=x.device), axis=0)


def dtype_for(X: Any, dtype: str) -> str:
    """The floating dtype to compute in; "auto" is that of `X`, and float64 for other numbers than float32."""
    if dtype != "auto":
        return dtype
    return "float32" if dtype_name(X.dtype) in ("float32", "float16", "bfloat16") else "float64"


def backend_for(X: Any, backend: str | None) -> Backend:
    """The backend to train on: the one asked for; where none is, the one that `X` is on, if bpnet has it."""
    if backend is None and is_foreign(X) and selection()[1] == "the default":
        ready = backend_of(X)
        names = [] if ready is None else [ready.name.partition(":")[0]]
        names.append(type(X).__module__.partition(".")[0])
        for name in names:
            found = _on_device_of(X, name)
            if found is not None:
                return found
    return get_backend(backend)


def _on_device_of(X: Any, name: str) -> Backend | None:
    if name not in backend_names():
        return None
    device = getattr(X.device, "id", X.device)  # CuPy's devices have a number
    for choice in (name, f"{name}:{device}"):
        try:
            backend = get_backend(choice)
        except BackendError:
            continue
        if isinstance(X, backend.array_type) and backend.zeros((1,), "float32").device == X.device:
            return backend
    return None


def check_same_library(estimator: Any, X: Any, fitted: tuple[str, str], method: str) -> None:
    """With scikit-learn's array API dispatch, raise ValueError unless `X` is of the library and device of the fit.

    That is scikit-learn's rule. Without dispatch every library's arrays are taken, and answered in kind.
    """
    given = library_of(X)
    if get_config()["array_api_dispatch"] and given != fitted:
        raise DataError(
            f"Inputs passed to {type(estimator).__name__}.{method}() must use the same namespace and the same device "
            f"as those passed to fit(): that was {fitted[0]} on {fitted[1]}, and this is {given[0]} on {given[1]}. "
            "Convert them, or leave out array_api_dispatch, without which bpnet takes arrays of any library"
        )
