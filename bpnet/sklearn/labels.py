"""Classes of any kind (text, numbers, truth values, sets of labels) and the numbers that a loss takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import column_or_1d

from bpnet.backend import to_numpy
from bpnet.dispatch import namespace
from bpnet.errors import ConfigError, DataError
from bpnet.sklearn.inputs import is_foreign


@dataclass
class Labels:
    """The classes of a classifier.

    classes    : sorted, on the host; of sets of labels the numbers of the columns
    multilabel : whether y is an indicator, (N, L) of 0 and 1, in which several labels may hold
    """

    classes: Any
    multilabel: bool

    def __len__(self) -> int:
        return len(self.classes)

    def like(self, y: Any) -> Any:
        """The classes in the library of y and on its device."""
        return namespace(y).asarray(self.classes, device=y.device) if is_foreign(y) else self.classes

    def numbers(self, y: Any) -> Any:
        """y as integers, in its library: (N,) positions in `classes`, or the indicator itself."""
        if self.multilabel:
            return y
        values, numbers = _unique(y)
        places = np.minimum(np.searchsorted(self.classes, values), len(self) - 1)
        unknown = values[self.classes[places] != values]
        if len(unknown):
            raise DataError(
                f"y holds classes that were not there when the training began: {_shown(unknown)}; known are "
                f"{_shown(self.classes)}. partial_fit takes all that will ever come as classes= in its first call"
            )
        if np.array_equal(places, np.arange(len(places))):
            return numbers
        if isinstance(numbers, np.ndarray):
            return places[numbers]
        xp = namespace(numbers)
        return xp.take(xp.asarray(places, device=numbers.device), numbers)

    def names(self, numbers: Any) -> Any:
        """The classes of numbers, in their library where that can hold them, else as a NumPy array."""
        if self.multilabel:
            return numbers
        if isinstance(numbers, np.ndarray) or self.classes.dtype.kind not in "biuf":
            return self.classes[to_numpy(numbers)]
        xp = namespace(numbers)
        return xp.take(xp.asarray(self.classes, device=numbers.device), numbers)


def read_labels(y: Any, classes: Any = None) -> tuple[Labels, Any]:
    """The classes of y, or those that are said, and y as those classes name it, (N,) or (N, L).

    Raises what scikit-learn's `check_classification_targets` raises, DataError, ConfigError.
    """
    y = _one_axis(y)
    if _is_indicator(y):
        if classes is not None and len(classes) != y.shape[1]:
            raise ConfigError(f"classes has {len(classes)} entries, and y {y.shape[1]} columns of labels")
        return Labels(np.arange(y.shape[1]), True), y
    return Labels(_unique(y)[0] if classes is None else np.unique(np.asarray(classes)), False), y


def read_again(y: Any, labels: Labels) -> Any:
    """y where the classes are known: (N,), or (N, L) where it was so before."""
    y = _one_axis(y)
    columns = y.shape[1] if _is_indicator(y) else 0
    if columns != (len(labels) if labels.multilabel else 0):
        was = f"{len(labels)} columns of labels" if labels.multilabel else "one class a sample"
        is_now = f"{columns} columns" if columns else "one class a sample"
        raise DataError(f"y had {was} when the training began, and has {is_now} now")
    return y


def _one_axis(y: Any) -> Any:
    """y with one axis where it has one column; truth values in columns as 0 and 1."""
    if y.ndim == 2 and y.shape[1] == 1:
        return namespace(y).reshape(y, (-1,)) if is_foreign(y) else column_or_1d(y, warn=True)
    if y.ndim == 2 and is_foreign(y) and namespace(y).isdtype(y.dtype, "bool"):
        return namespace(y).astype(y, namespace(y).int64)
    return y


def _is_indicator(y: Any) -> bool:
    """Whether y, which must hold classes, holds sets of labels."""
    if not is_foreign(y):
        check_classification_targets(y)
        kind = type_of_target(y, input_name="y")
        if kind == "multiclass-multioutput":
            raise DataError(
                f"y of shape {y.shape} holds several classes a sample, which BPClassifier does not predict; several "
                "labels are an indicator of 0 and 1, and several classes one classifier each (MultiOutputClassifier)"
            )
        return bool(kind == "multilabel-indicator")
    xp = namespace(y)
    if y.ndim == 2 and not bool(xp.all((y == 0) | (y == 1))):
        raise DataError(f"y of shape {tuple(y.shape)} must be an indicator of 0 and 1; one class a sample is (N,)")
    if xp.isdtype(y.dtype, "real floating") and not bool(xp.all(y == xp.floor(y))):
        raise DataError("Unknown label type: continuous. BPClassifier needs classes in y; for numbers use BPRegressor")
    return bool(y.ndim == 2)


def _unique(y: Any) -> tuple[Any, Any]:
    """The sorted values of y on the host, and for every element the place of its value, in its library."""
    if not is_foreign(y):
        values, numbers = np.unique(y, return_inverse=True)
        return values, numbers
    values, numbers = namespace(y).unique_inverse(y)
    return to_numpy(values), numbers


def class_weights(given: Any, labels: Labels, numbers: Any, sample_weight: Any, partial: bool) -> Any:
    """(N,) weights of the samples on the host: what their class weighs times what they weigh.

    given : "balanced": every class of y has the same share of the whole; or a dict that names all classes. Of sets of
            labels "balanced" is the product over the labels, as scikit-learn's `compute_sample_weight` has it.
    """
    host = to_numpy(numbers)
    own = np.ones(len(host)) if sample_weight is None else sample_weight
    if isinstance(given, str) and given == "balanced":
        if partial:
            raise ConfigError(
                'partial_fit sees a part of the data, so that class_weight="balanced" has no meaning there; give a '
                "dict, as sklearn.utils.class_weight.compute_class_weight makes it of all classes"
            )
        columns = host.T.astype(np.int64) if labels.multilabel else host[None, :]
        return np.prod([_balanced(column, own) for column in columns], axis=0) * own
    if not isinstance(given, dict):
        raise ConfigError(f'class_weight must be None, "balanced" or a dict of all classes, got {given!r}')
    if labels.multilabel:
        raise ConfigError('for sets of labels class_weight is None or "balanced"; use sample_weight for others')
    names = labels.classes.tolist()
    missing = [name for name in names if name not in given]
    if missing:
        raise ConfigError(
            f"class_weight must weigh all {len(names)} classes, and names {len(names) - len(missing)} of them; "
            f"missing: {_shown(missing)}"
        )
    each = np.asarray([given[name] for name in names], dtype=np.float64)
    if not (np.isfinite(each).all() and (each >= 0).all() and each[host].any()):
        raise ConfigError(f"class_weight must hold finite numbers of at least 0, not all 0, got {given!r}")
    return each[host] * own


def _balanced(numbers: Any, weight: Any) -> Any:
    """(N,): for every sample the factor that gives its class the same share of the whole weight as each other."""
    sums = np.bincount(numbers, weights=weight)
    there = sums > 0
    return np.where(there, weight.sum() / (there.sum() * np.where(there, sums, 1)), 0)[numbers]


def _shown(names: Any) -> str:
    shown = [repr(name.item() if isinstance(name, np.generic) else name) for name in list(names)[:10]]
    return ", ".join(shown) + (", ..." if len(names) > 10 else "")
