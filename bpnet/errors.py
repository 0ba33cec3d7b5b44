"""The errors of bpnet. Each is a `BpnetError` and the built-in exception it refines."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

ELSEWHERE = {
    "Linear": "Dense",
    "BatchNorm1d": "BatchNorm",
    "BatchNorm2d": "BatchNorm",
    "BatchNormalization": "BatchNorm",
    "GroupNormalization": "GroupNorm",
    "LayerNormalization": "LayerNorm",
    "MultiheadAttention": "MultiHeadAttention",
    "TransformerEncoderLayer": "TransformerBlock",
    "CrossEntropyLoss": "SoftmaxCrossEntropy",
    "CrossEntropy": "SoftmaxCrossEntropy",
    "SparseCategoricalCrossentropy": "SoftmaxCrossEntropy",
    "NLLLoss": "CategoricalCrossEntropy",
    "BCELoss": "BinaryCrossEntropy",
    "BCEWithLogitsLoss": "BinaryCrossEntropy",
    "MSELoss": "MeanSquaredError",
    "L1Loss": "MeanAbsoluteError",
    "HuberLoss": "Huber",
    "RMSProp": "RMSprop",
    "Swish": "SiLU",
    "CosineAnnealingLR": "Cosine",
}
"""What other libraries call a class, and its name here, where the two do not look alike."""


class BpnetError(Exception):
    """Base of every error that bpnet raises on purpose."""


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the nearest known one, or '' where none is near."""
    from difflib import get_close_matches

    spelled = {each.lower(): each for each in known}
    near = get_close_matches(str(name).lower(), list(spelled), n=1)
    return f"; did you mean {spelled[near[0]]!r}?" if near else ""


def missing_name(name: str, known: Iterable[str]) -> str:
    """The end of a message about a name that `bpnet` does not have: what it is called here, or the nearest name."""
    if name in ELSEWHERE:
        return f"; it is called {ELSEWHERE[name]} here"
    if name.startswith(("Layer_", "Activation_", "Loss_", "Optimizer_")):
        return "; the classes of NNFS are in bpnet.nnfs"
    return did_you_mean(name, known)


class ShapeError(BpnetError, ValueError):
    """An array has a shape that the operation cannot take."""


class DTypeError(BpnetError, TypeError):
    """An array has a data type, or is of an array library, that the operation cannot take."""


class DataError(BpnetError, ValueError):
    """Values that cannot be trained on: NaN, labels out of range, an empty data set."""


class ConfigError(BpnetError, ValueError):
    """A setting outside its allowed range, or two settings that contradict each other."""


class StateError(BpnetError, RuntimeError):
    """A call at the wrong time, such as `backward` without `forward`."""


class ContractError(BpnetError, RuntimeError):
    """In strict mode: a layer or a loss breaks a promise, such as not to write into its arguments."""


class NonFiniteError(BpnetError, ArithmeticError):
    """The loss became NaN or infinite, and the parameters are those before that step; or, in strict mode, an output.

    bundle      : where a fit has stopped, the step that failed, a `bpnet.Bundle`; else None
    bundle_path : the file that it has been written to, or None
    """

    bundle: Any = None
    bundle_path: str | None = None

    def save_bundle(self, path: str | os.PathLike[str], **info: Any) -> None:
        """Write the step that failed to a file, for `bpnet.load_bundle` and `bpnet explain --bundle`.

        info : JSON values to keep in it, such as where the data are from
        Raises StateError where there is none to write; CheckpointError where the file cannot be written.
        """
        if self.bundle is None:
            raise StateError("this error has no bundle: the step that failed could not be made again, or was no fit's")
        self.bundle.write(path, **info)
        self.bundle_path = os.fsdecode(path)


class BackendError(BpnetError, RuntimeError):
    """A backend is unknown or cannot run here; the message has the reason and the remedy."""


class OutOfMemoryError(BpnetError, MemoryError):
    """The device, or the host, has no memory left for a step; the message says who asked for how much."""


class CheckpointError(BpnetError, ValueError):
    """A file that cannot be read as a model, or does not fit the model it is read into."""


class MissingExtraError(BpnetError, ImportError):
    """An optional dependency is not installed; the message names the extra that brings it."""
