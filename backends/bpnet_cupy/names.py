"""The instantiations of the kernels: what is compiled, and what a variant may launch."""

from __future__ import annotations

from functools import cache
from itertools import product
from typing import Any

import numpy as np

from bpnet_cupy import names_images, names_sequences

TYPES = {
    np.dtype("float32"): "float",
    np.dtype("float64"): "double",
    np.dtype("int32"): "int",
    np.dtype("int64"): "long long",
    np.dtype("bool"): "bool",
    np.dtype("uint16"): "unsigned short",  # bits of bfloat16
}
"""The C++ name of a dtype."""

REALS = ("float", "double")
LABELS = ("int", "long long")
LANES = (8, 32)
WIDTHS = (*LANES, 256)
FLAGS = ("false", "true")
ONLY = ((0,),)  # where nothing varies

ACTIVATIONS = {
    "relu": "Relu",
    "leaky_relu": "LeakyRelu",
    "sigmoid": "Sigmoid",
    "tanh": "Tanh",
    "gelu": "Gelu",
    "gelu_tanh": "GeluTanh",
    "elu": "Elu",
    "silu": "Silu",
    "softplus": "Softplus",
    "mish": "Mish",
    "hardswish": "Hardswish",
}
"""The struct of kernels.cu for an elementwise op that has an op `name_backward`."""

LOSSES = {
    "mean_squared_error": "SquaredError",
    "mean_absolute_error": "AbsoluteError",
    "sigmoid_binary_cross_entropy": "SigmoidCrossEntropy",
    "binary_cross_entropy": "BinaryCrossEntropy",
}
"""The struct of kernels.cu for a loss summed in one pass."""

SINGLE_LOSSES = {
    "squared_error": "SquaredError",
    "absolute_error": "AbsoluteError",
    "huber": "Huber",
    "log_cosh": "LogCosh",
    "poisson": "Poisson",
    "sigmoid_cross_entropy": "SigmoidCrossEntropy",
    "probability_cross_entropy": "BinaryCrossEntropy",
    "binary_focal": "BinaryFocal",
    "hinge": "Hinge",
}
"""The same for a loss of single elements."""

ROW_LOSSES = {
    "soft_cross_entropy_rows": "CrossEntropyRow",
    "focal_rows": "FocalRow",
    "probability_cross_entropy_rows": "ProbabilityRow",
    "negative_log_likelihood_rows": "LogProbabilityRow",
    "kl_divergence_rows": "DivergenceRow",
}
"""The same for a loss of rows."""

# For every kernel, what its template's parameters may be.
_INSTANCES: dict[str, tuple[tuple[Any, ...], ...]] = {
    "activation": (REALS, (*ACTIVATIONS.values(), "NormalCdf")),
    "activation_backward": (REALS, tuple(ACTIVATIONS.values())),
    "bias_activation": (REALS, ("Identity", *ACTIVATIONS.values(), "NormalCdf")),
    "prelu": (REALS,),
    "prelu_backward": (REALS,),
    "glu": (REALS,),
    "glu_backward": (REALS,),
    "copy": ((*REALS, "long long", "bool"),),
    "combine": (REALS, ("Sum", "Product")),
    "fill": ((*REALS, "bool"),),
    "column_sum": (REALS, ("Term", "ScaledTerm"), LANES),
    "column_sum_bf16": (LANES,),
    "slope_sum": (REALS,),
    "softmax": (REALS, WIDTHS),
    "softmax_backward": (REALS, WIDTHS),
    "log_softmax": (REALS, WIDTHS),
    "log_softmax_backward": (REALS, WIDTHS),
    "softmax_cross_entropy": (REALS, LABELS, WIDTHS, FLAGS),
    "softmax_cross_entropy_backward": (REALS, LABELS),
    "soft_cross_entropy": (REALS, WIDTHS, FLAGS),
    "soft_cross_entropy_backward": (REALS, WIDTHS),
    "categorical_cross_entropy": (REALS, LABELS),
    "categorical_cross_entropy_backward": (REALS, LABELS),
    "loss_sum": (REALS, tuple(LOSSES.values())),
    "loss_slope": (REALS, tuple(LOSSES.values())),
    "loss_each": (REALS, tuple(SINGLE_LOSSES.values())),
    "loss_each_backward": (REALS, tuple(SINGLE_LOSSES.values())),
    "loss_rows": (REALS, WIDTHS, tuple(ROW_LOSSES.values())),
    "focal_rows_backward": (REALS, WIDTHS),
    "target_rows_backward": (REALS,),
    "copy_columns": (REALS,),
    "standardize": (REALS,),
    "philox": ONLY,
    "keep_mask": ONLY,
    "dropout": (REALS,),
    "dropout_backward": (REALS,),
    "to_bf16": ONLY,
    "activation_bf16": (tuple(ACTIVATIONS.values()),),
    "from_bf16": ONLY,
    "sgd": (REALS,),
    "sgd_momentum": (REALS,),
    "adam": (REALS, FLAGS),
    "adagrad": (REALS,),
    "rmsprop": (REALS, FLAGS, FLAGS),
    "lion": (REALS,),
    "average": (REALS,),
    "penalty_gradient": (REALS,),
    "penalty": (REALS,),
    "convert": (REALS,),
    "clip_value": (REALS,),
    "norm_scale": (REALS,),
    "scale_all": (REALS,),
    "check_finite": (REALS,),
    "advance": ONLY,
    "increment": ONLY,
    "accumulate": (REALS, REALS),
    "scale_rate": ONLY,
    "set_rate": ONLY,
    "count_correct": (REALS, LABELS, LANES),
    "count_correct_binary": (REALS,),
    "label_targets": (REALS, LABELS),
    "label_weight": (REALS, LABELS),
    "weighted_sum": (REALS,),
    "weighted_sum_backward": (REALS,),
    **names_images.instances(("Identity", *ACTIVATIONS.values(), "NormalCdf")),
    **names_sequences.INSTANCES,
}


def instance(kernel: str, *parameters: Any) -> str:
    """The name of an instance: instance("adam", "float", "true") is "adam<float, true>"."""
    return f"{kernel}<{', '.join(map(str, parameters))}>" if parameters else kernel


@cache
def name_expressions(kind: str = "") -> tuple[str, ...]:
    """The names of all instances; of the kind "double" those with it among their parameters, of "float" the others."""
    names = [instance(kernel, *each) for kernel, choices in _INSTANCES.items() for each in product(*choices)]
    return tuple(name for name in names if not kind or ("double" in name) == (kind == "double"))


USUAL = (
    "fill<bool>",
    "fill<float>",
    "copy<float>",
    "combine<float, Sum>",
    "bias_activation<float, Identity>",
    "bias_activation<float, Relu>",
    "activation<float, Relu>",
    "activation_backward<float, Relu>",
    "column_sum<float, Term, 8>",
    "column_sum<float, Term, 32>",
    "dropout<float>",
    "dropout_backward<float>",
    "softmax_cross_entropy<float, long long, 8, false>",
    "softmax_cross_entropy<float, long long, 8, true>",
    "softmax_cross_entropy_backward<float, long long>",
    "count_correct<float, long long, 8>",
    "check_finite<float>",
    "set_rate<0>",
    "norm_scale<float>",
    "scale_all<float>",
    "sgd<float>",
    "sgd_momentum<float>",
    "adam<float, false>",
    "advance<0>",
    "increment<0>",
    "accumulate<float, double>",
)
"""What most trainings need, compiled together in about a second; all instances would take ten."""


def compiled_together(name: str) -> tuple[str, ...]:
    """The names that are compiled when this one is asked for, so that a first step does not wait for all."""
    return next((group for group in (USUAL, names_images.USUAL) if name in group), (name,))
