"""The mathematics of bpnet: pairs `f` and `f_backward`, stateless, in the vocabulary of the Array API standard.

A backward returns the gradients in the order of its forward's array inputs. `dX` is the derivative of the loss with
respect to X and has X's shape. No op writes into an argument, except where its name ends in an underscore.
"""

from bpnet.ops.activations import (
    leaky_relu,
    leaky_relu_backward,
    relu,
    relu_backward,
    sigmoid,
    sigmoid_backward,
    softmax,
    softmax_backward,
    tanh,
    tanh_backward,
)
from bpnet.ops.arrays import add, add_, concatenate, copy, copy_, fill_, increment_, reshape, split
from bpnet.ops.atomic import mul, mul_backward, sum_backward, sum_terms
from bpnet.ops.counting import accumulate_, count_correct, count_correct_binary
from bpnet.ops.linear import linear, linear_backward
from bpnet.ops.losses import (
    binary_cross_entropy,
    binary_cross_entropy_backward,
    categorical_cross_entropy,
    categorical_cross_entropy_backward,
    mean_absolute_error,
    mean_absolute_error_backward,
    mean_squared_error,
    mean_squared_error_backward,
    sigmoid_binary_cross_entropy,
    sigmoid_binary_cross_entropy_backward,
    softmax_cross_entropy,
    softmax_cross_entropy_backward,
    softmax_cross_entropy_gradient,
)
from bpnet.ops.random import dropout, dropout_backward, philox
from bpnet.ops.update import adam_, advance_, check_finite_, sgd_, sgd_momentum_

__all__ = [
    "accumulate_",
    "adam_",
    "add",
    "add_",
    "advance_",
    "binary_cross_entropy",
    "binary_cross_entropy_backward",
    "categorical_cross_entropy",
    "categorical_cross_entropy_backward",
    "check_finite_",
    "concatenate",
    "copy",
    "copy_",
    "count_correct",
    "count_correct_binary",
    "dropout",
    "dropout_backward",
    "fill_",
    "increment_",
    "leaky_relu",
    "leaky_relu_backward",
    "linear",
    "linear_backward",
    "mean_absolute_error",
    "mean_absolute_error_backward",
    "mean_squared_error",
    "mean_squared_error_backward",
    "mul",
    "mul_backward",
    "philox",
    "relu",
    "relu_backward",
    "reshape",
    "sgd_",
    "sgd_momentum_",
    "sigmoid",
    "sigmoid_backward",
    "sigmoid_binary_cross_entropy",
    "sigmoid_binary_cross_entropy_backward",
    "softmax",
    "softmax_backward",
    "softmax_cross_entropy",
    "softmax_cross_entropy_backward",
    "softmax_cross_entropy_gradient",
    "split",
    "sum_backward",
    "sum_terms",
    "tanh",
    "tanh_backward",
]
