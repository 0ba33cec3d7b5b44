"""The entries of layers and containers."""

from __future__ import annotations

from typing import Any

import numpy as np

import bpnet as bp
from bpnet.errors import DTypeError, StateError
from bpnet.testing.cases.entries import BadArguments, BadInputs, Entry, LayerCase, all_cases
from bpnet.testing.cases.image_layers import IMAGE_LAYERS
from bpnet.testing.cases.pool_layers import POOL_LAYERS
from bpnet.testing.cases.recurrent_layers import RECURRENT_LAYERS
from bpnet.testing.cases.sequence_layers import SEQUENCE_LAYERS
from bpnet.testing.inputs import SampleInputs


def zeros(*shape: int, dtype: str = "float32") -> Any:
    return np.zeros(shape, dtype)


def samples() -> Any:
    """What a Normalize is fitted to."""
    return np.random.default_rng(0).normal(2.0, 3.0, size=(50, 4))


NO_ARRAY = BadInputs(([[1.0, 2.0, 3.0, 4.0]],), "an? array.*got list; bring it over with model.asarray", DTypeError)


LAYERS: dict[str, Entry[LayerCase]] = {
    "Dense": Entry(
        {
            "": LayerCase(lambda: bp.Dense(4, 3)),
            "without bias": LayerCase(lambda: bp.Dense(4, 3, bias=False)),
        },
        (
            BadArguments(lambda: bp.Dense(0, 5), r"at least 1 input and 1 neuron, whole numbers: got Dense\(0, 5\)"),
            BadArguments(lambda: bp.Dense(5, 0), "at least 1"),
            BadArguments(lambda: bp.Dense(5, 2.5), "at least 1"),  # type: ignore[arg-type]
            BadArguments(lambda: bp.Dense(4, True), "whole numbers"),
            BadArguments(
                lambda: bp.Dense(2, 2, weight_initializer="he"), "unknown initializer 'he'; known are glorot_normal"
            ),
            BadArguments(
                lambda: bp.Dense(2, 2, weight_initializer=3),  # type: ignore[arg-type]
                "must be a function of .stream, shape. or a name, got 3",
            ),
            BadArguments(
                lambda: bp.Dense(2),  # type: ignore[call-arg]
                "Dense: missing a required argument: 'n_out'; it takes",
                TypeError,
            ),
            BadArguments(
                lambda: bp.Dense(3, 2, activation="relu"),  # type: ignore[call-arg]
                "Dense: got an unexpected keyword",
                TypeError,
            ),
        ),
        (
            BadInputs((zeros(5, 3),), r"Dense\(4, 3\) needs x of shape \(N, 4\), got \(5, 3\)$"),
            BadInputs((zeros(5, 2, 2),), r"got \(5, 2, 2\); put a Flatten\(\) before it"),
            BadInputs((zeros(4),), r"got \(4,\); for one sample use x\[None, :\]"),
            BadInputs((zeros(),), r"got \(\)"),
            BadInputs(
                (zeros(5, 4, dtype="float64"),),
                r"Dense\(4, 3\) computes in float32, got x of float64; use model.asarray",
                DTypeError,
            ),
            BadInputs((zeros(5, 4, dtype="int64"),), "got x of int64", DTypeError),
            BadInputs(([[1, 2, 3, 4]],), "arrays, got list; bring it over", DTypeError),
        ),
    ),
    "ReLU": Entry({"": LayerCase(lambda: bp.ReLU())}, (), (NO_ARRAY,)),
    "LeakyReLU": Entry(
        {"": LayerCase(lambda: bp.LeakyReLU(0.1))},
        (BadArguments(lambda: bp.LeakyReLU(-1), "slope above 0, got -1"),),
        (NO_ARRAY,),
    ),
    "Sigmoid": Entry({"": LayerCase(lambda: bp.Sigmoid())}, (), (NO_ARRAY,)),
    "Tanh": Entry({"": LayerCase(lambda: bp.Tanh())}, (), (NO_ARRAY,)),
    "Softmax": Entry(
        {"": LayerCase(lambda: bp.Softmax())},
        (BadArguments(lambda: bp.Softmax(axis=1), "Softmax: got an unexpected keyword", TypeError),),  # type: ignore[call-arg]
        (
            NO_ARRAY,
            BadInputs((zeros(2, 0),), "last axis of at least 1"),
            BadInputs((zeros(),), "last axis of at least 1"),
        ),
    ),
    "LogSoftmax": Entry(
        {"": LayerCase(lambda: bp.LogSoftmax())}, (), (NO_ARRAY, BadInputs((zeros(2, 0),), "last axis of at least 1"))
    ),
    "ELU": Entry(
        {"": LayerCase(lambda: bp.ELU(1.5))},
        (BadArguments(lambda: bp.ELU(0), "ELU needs an alpha above 0, got 0"),),
        (NO_ARRAY,),
    ),
    "GELU": Entry(
        {"": LayerCase(lambda: bp.GELU()), "by tanh": LayerCase(lambda: bp.GELU("tanh"))},
        (BadArguments(lambda: bp.GELU("erf"), "approximate must be 'none' or 'tanh', got 'erf'"),),
        (NO_ARRAY,),
    ),
    "SiLU": Entry({"": LayerCase(lambda: bp.SiLU())}, (), (NO_ARRAY,)),
    "Softplus": Entry({"": LayerCase(lambda: bp.Softplus())}, (), (NO_ARRAY,)),
    "Mish": Entry({"": LayerCase(lambda: bp.Mish())}, (), (NO_ARRAY,)),
    "Hardswish": Entry({"": LayerCase(lambda: bp.Hardswish())}, (), (NO_ARRAY,)),
    "PReLU": Entry(
        {"": LayerCase(lambda: bp.PReLU()), "a slope a feature": LayerCase(lambda: bp.PReLU(4, a=0.1))},
        (
            BadArguments(lambda: bp.PReLU(True), "whole number of slopes, at least 1, got True"),
            BadArguments(lambda: bp.PReLU(0), "whole number of slopes, at least 1, got 0"),
        ),
        (
            BadInputs(
                (zeros(8, 4),),
                r"PReLU\(3, 0.25\) needs x of shape \(..., 3\), got \(8, 4\)",
                make=lambda: bp.PReLU(3),
            ),
        ),
    ),
    "GLU": Entry(
        {"": LayerCase(lambda: bp.GLU())},
        (),
        (NO_ARRAY, BadInputs((zeros(8, 3),), r"must be even and at least 2, got \(8, 3\)")),
    ),
    "Normalize": Entry(
        {
            "": LayerCase(lambda: bp.Normalize(4).fit(samples())),
            "all features alike": LayerCase(lambda: bp.Normalize(1).fit(samples())),
        },
        (BadArguments(lambda: bp.Normalize(0), "at least 1"),),
        (
            BadInputs((zeros(8, 3),), "needs x of shape"),
            BadInputs((zeros(8, 4),), "fit", StateError, make=lambda: bp.Normalize(4)),
        ),
    ),
    "Dropout": Entry(
        {"": LayerCase(lambda: bp.Dropout(0.4))},
        (
            BadArguments(lambda: bp.Dropout(1.0), r"rate in \[0, 1\), got 1.0"),
            BadArguments(lambda: bp.Dropout(-0.1), "rate in"),
            BadArguments(lambda: bp.Dropout(float("nan")), "rate in"),
        ),
        (NO_ARRAY,),
    ),
    "Flatten": Entry(
        {"": LayerCase(lambda: bp.Flatten())}, (), (NO_ARRAY, BadInputs((zeros(),), "Flatten needs x of shape"))
    ),
    "Sequential": Entry(
        {
            "": LayerCase(lambda: bp.Sequential(bp.Dense(4, 5), bp.Tanh(), bp.Dropout(0.2), bp.Dense(5, 2))),
            "of nothing": LayerCase(lambda: bp.Sequential()),
            "nested": LayerCase(
                lambda: bp.Sequential(
                    bp.Dense(4, 6),
                    bp.Residual(bp.Concatenate(bp.Dense(6, 2), bp.Dense(6, 4)), bp.Tanh()),
                    bp.Dense(6, 1),
                )
            ),
        },
        (
            BadArguments(lambda: bp.Sequential(bp.ReLU), "item 0 is no layer.*write its instance"),  # type: ignore[arg-type]
            BadArguments(lambda: bp.Sequential(bp.ops.relu), "item 0 is no layer"),  # type: ignore[arg-type]
            BadArguments(lambda: bp.Sequential([bp.ReLU()]), r"write Sequential\(\*layers\)"),  # type: ignore[arg-type]
        ),
        (BadInputs((zeros(5, 3),), r"Dense\(4, 5\) needs x of shape \(N, 4\), got \(5, 3\)"),),
    ),
    "Residual": Entry(
        {"": LayerCase(lambda: bp.Residual(bp.Dense(4, 4), bp.Tanh(), bp.Dense(4, 4)))},
        (BadArguments(lambda: bp.Residual(3), "item 0 is no layer"),),  # type: ignore[arg-type]
        (
            BadInputs(
                (zeros(8, 4),),
                r"their shapes must agree: got \(8, 3\) for x of \(8, 4\)",
                make=lambda: bp.Residual(bp.Dense(4, 3)),
            ),
            BadInputs((zeros(8, 3),), "needs x of shape"),
        ),
    ),
    "Concatenate": Entry(
        {
            "": LayerCase(
                lambda: bp.Concatenate(bp.Dense(4, 2), bp.Sequential(bp.Tanh(), bp.Dense(4, 3)), bp.Sigmoid())
            ),
        },
        (
            BadArguments(lambda: bp.Concatenate(), "needs at least one branch"),
            BadArguments(
                lambda: bp.Concatenate(bp.Dense(4, 2), axis="x"),  # type: ignore[arg-type]
                "axis must be an integer, got 'x'",
            ),
        ),
        (
            BadInputs(
                (zeros(8, 4),),
                r"along axis 0 needs outputs that agree elsewhere, got \(8, 3\), \(8, 2\)",
                make=lambda: bp.Concatenate(bp.Dense(4, 3), bp.Dense(4, 2), axis=0),
            ),
            BadInputs((zeros(8, 4),), "along axis 5", make=lambda: bp.Concatenate(bp.Dense(4, 3), axis=5)),
            BadInputs((zeros(8, 3),), "needs x of shape"),
        ),
    ),
}
LAYERS |= IMAGE_LAYERS | POOL_LAYERS | SEQUENCE_LAYERS | RECURRENT_LAYERS
LAYER_CASES: dict[str, LayerCase] = all_cases(LAYERS)
LAYER_CALLS: dict[str, tuple[LayerCase, SampleInputs]] = {
    f"{name}: {' '.join(map(str, inputs.shape))}": (case, inputs)
    for name, case in LAYER_CASES.items()
    for inputs in case.inputs
}
"""Every case with each of its inputs."""
