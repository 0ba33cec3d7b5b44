"""The estimators' parameters: checked when a fit begins, and made into a model and an optimizer."""

from __future__ import annotations

import copy
import math
import numbers
from collections.abc import Iterable
from typing import Any

from bpnet import layers, optimizers
from bpnet.callbacks import Callback
from bpnet.checks import flag
from bpnet.errors import ConfigError, did_you_mean
from bpnet.layers import Dense, Dropout, Layer, Sequential
from bpnet.layers.tree import as_size, is_number
from bpnet.losses import Loss
from bpnet.optimizers import Optimizer

ACTIVATIONS: dict[str, str | None] = {
    "identity": None,
    "logistic": "Sigmoid",
    "tanh": "Tanh",
    "relu": "ReLU",
    "leaky_relu": "LeakyReLU",
    "elu": "ELU",
    "gelu": "GELU",
    "silu": "SiLU",
    "mish": "Mish",
    "softplus": "Softplus",
    "hardswish": "Hardswish",
}
"""What `activation` may be, and the name of bpnet's layer."""

SOLVERS: dict[str, tuple[str, dict[str, str]]] = {
    "adam": ("Adam", {"beta1": "beta_1", "beta2": "beta_2", "epsilon": "epsilon"}),
    "adamw": ("AdamW", {"beta1": "beta_1", "beta2": "beta_2", "epsilon": "epsilon"}),
    "sgd": ("SGD", {"momentum": "momentum", "nesterov": "nesterovs_momentum"}),
    "rmsprop": ("RMSprop", {}),
    "adagrad": ("Adagrad", {}),
    "lion": ("Lion", {}),
}
"""What `solver` may be: bpnet's optimizer, and which of its settings which parameter gives."""

START = "glorot_uniform"  # the distribution of the first weights, as in scikit-learn's MLPs
_INFINITE = math.inf


def check_range(name: str, value: Any, low: float, high: float, *, above: bool = False, below: bool = True) -> None:
    """Raise ConfigError unless low <= value < high; above: low < value; below=False: value <= high."""
    good = is_number(value) and (low < value if above else low <= value) and (value < high if below else value <= high)
    if not good:
        ends = f"{'(' if above else '['}{low:g}, {high:g}{')' if below else ']'}"
        raise ConfigError(f"{name} must be a number in {ends}, got {value!r}")


def _count(name: str, value: Any, *, also: str = "") -> None:
    if not as_size(value):
        raise ConfigError(f"{name} must be a whole number of at least 1{also}, got {value!r}")


def _known(name: str, value: Any, known: Iterable[str], also: str) -> None:
    known = list(known)
    if value not in known:
        raise ConfigError(
            f"unknown {name} {value!r}; known are {', '.join(known)}, and {also}{did_you_mean(value, known)}"
        )


def check_settings(estimator: Any) -> None:
    """Raise ConfigError unless every parameter of `estimator` has a value that it may have."""
    e = estimator
    hidden_sizes(e.hidden_layer_sizes)
    if not isinstance(e.activation, str) or e.activation not in ACTIVATIONS:
        _known("activation", e.activation, ACTIVATIONS, "with model= any layers of bpnet")
    if isinstance(e.solver, type) and issubclass(e.solver, Optimizer):
        raise ConfigError(f"solver must be a name or an Optimizer, got the class: write {e.solver.__name__}(...)")
    if not isinstance(e.solver, Optimizer) and (not isinstance(e.solver, str) or e.solver not in SOLVERS):
        _known("solver", e.solver, SOLVERS, "any Optimizer of bpnet")
    check_range("alpha", e.alpha, 0, _INFINITE)
    if isinstance(e.batch_size, str):
        if e.batch_size != "auto":
            raise ConfigError(f'batch_size must be "auto" or a whole number of at least 1, got {e.batch_size!r}')
    else:
        _count("batch_size", e.batch_size, also=', or "auto"')
    if isinstance(e.learning_rate_init, numbers.Number) or not callable(e.learning_rate_init):
        check_range("learning_rate_init", e.learning_rate_init, 0, _INFINITE, above=True)
    for name in ("shuffle", "warm_start", "early_stopping", "nesterovs_momentum"):
        flag(name, getattr(e, name))
    if not isinstance(e.verbose, numbers.Integral) or e.verbose < 0:
        flag("verbose", e.verbose)
    _count("max_iter", e.max_iter)
    check_range("tol", e.tol, 0, _INFINITE)
    if e.n_iter_no_change != _INFINITE:
        _count("n_iter_no_change", e.n_iter_no_change, also=", or infinite")
    check_range("validation_fraction", e.validation_fraction, 0, 1, above=True)
    for name in ("momentum", "beta_1", "beta_2", "dropout"):
        check_range(name, getattr(e, name), 0, 1)
    check_range("epsilon", e.epsilon, 0, _INFINITE, above=True)
    if e.dtype not in ("auto", "float32", "float64"):
        raise ConfigError(f'dtype must be "auto", "float32" or "float64", got {e.dtype!r}')
    if e.backend is not None and not isinstance(e.backend, str):
        raise ConfigError(
            f"backend must be the name of a backend or None, so that estimators can be copied; got {e.backend!r}"
        )
    if isinstance(e.model, type) and issubclass(e.model, Layer):
        raise ConfigError(f"model must be a Layer, got the class {e.model.__name__}: write its instance")
    if e.model is not None and not callable(e.model):
        raise ConfigError(f"model must be a Layer or a function of (n_in, n_out) that makes one, got {e.model!r}")
    if e.callbacks is not None and not (
        isinstance(e.callbacks, (list, tuple)) and all(isinstance(each, Callback) for each in e.callbacks)
    ):
        raise ConfigError(f"callbacks must be a list of Callbacks or None, got {e.callbacks!r}")


def hidden_sizes(given: Any) -> tuple[int, ...]:
    """The numbers of neurons of the hidden layers: from one number, or from a sequence that may be empty."""
    each = given if isinstance(given, Iterable) and not isinstance(given, (str, dict)) else [given]
    sizes = tuple(as_size(size) for size in each)
    if not all(sizes):
        raise ConfigError(
            f"hidden_layer_sizes must be whole numbers of at least 1, as in (100,) or (64, 32), got {given!r}; "
            "() has no hidden layer"
        )
    return sizes


def make_model(estimator: Any, n_in: int, n_out: int, *, seed: int, backend: Any, dtype: str) -> Layer:
    """The model that the parameters describe, with its arrays.

    Without model=: Dense, activation and dropout for every hidden layer, and a Dense to `n_out`. A Layer is a template:
    it is copied, and its values are drawn anew with `seed`. What a function returns is taken as it is: values that it
    has stay.
    """
    given = estimator.model
    if isinstance(given, Layer):
        return copy.deepcopy(given).initialize(seed, backend, dtype)
    if given is not None:
        made = given(n_in, n_out)
        if not isinstance(made, Layer):
            raise ConfigError(f"model({n_in}, {n_out}) must return a Layer, got {made!r}")
        if not any(parameter.host_value() is not None for parameter in made.parameters().values()):
            return made.initialize(seed, backend, dtype)
        made.materialize_with(seed, backend)
        return made.to(backend, dtype)
    kind = ACTIVATIONS[estimator.activation]
    parts: list[Layer] = []
    for size in hidden_sizes(estimator.hidden_layer_sizes):
        parts.append(Dense(n_in, size, weight_initializer=START))
        if kind is not None:
            parts.append(getattr(layers, kind)())
        if estimator.dropout:
            parts.append(Dropout(estimator.dropout))
        n_in = size
    parts.append(Dense(n_in, n_out, weight_initializer=START))
    return Sequential(*parts).initialize(seed, backend, dtype)


def make_optimizer(estimator: Any) -> Optimizer:
    """The optimizer that the parameters describe; of one that is given, a copy."""
    if isinstance(estimator.solver, Optimizer):
        return copy.deepcopy(estimator.solver)
    kind, names = SOLVERS[estimator.solver]
    settings = {ours: getattr(estimator, theirs) for ours, theirs in names.items()}
    if kind == "SGD":
        settings["nesterov"] = bool(settings["nesterov"]) and settings["momentum"] > 0
    made: Optimizer = getattr(optimizers, kind)(estimator.learning_rate_init, **settings)
    return made


def make_loss(given: Any, known: dict[str, type[Loss]], **settings: Any) -> Loss:
    """The loss that is named, or a copy of one that is given."""
    if isinstance(given, Loss):
        return copy.deepcopy(given)
    if isinstance(given, type) and issubclass(given, Loss):
        raise ConfigError(f"loss must be a name or a Loss, got the class: write {given.__name__}()")
    if not isinstance(given, str) or given not in known:
        _known("loss", given, known, "any Loss of bpnet")
    return known[given](**settings)


def optimizer_key(estimator: Any) -> tuple[Any, ...]:
    """What decides the optimizer: where it has not changed, another fit goes on with the same one."""
    e = estimator
    names = () if isinstance(e.solver, Optimizer) else tuple(SOLVERS[e.solver][1].values())
    return (e.solver, e.learning_rate_init, *(getattr(e, name) for name in names))


def model_key(estimator: Any) -> dict[str, Any]:
    """What decides the model and where it is: must stay the same where training goes on."""
    e = estimator
    names = ("activation", "dropout", "model", "loss", "label_smoothing", "backend", "dtype")
    fixed = {name: getattr(e, name) for name in names if hasattr(e, name)}
    return {"hidden_layer_sizes": hidden_sizes(e.hidden_layer_sizes), **fixed}
