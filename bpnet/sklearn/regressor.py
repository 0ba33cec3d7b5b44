"""The regressor."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from sklearn.base import RegressorMixin
from sklearn.metrics import r2_score
from sklearn.utils.validation import column_or_1d

from bpnet import losses
from bpnet.backend import to_numpy
from bpnet.dispatch import namespace
from bpnet.errors import ShapeError
from bpnet.losses import Loss
from bpnet.sklearn import inputs, settings
from bpnet.sklearn.base import BaseBP, Task

LOSSES: dict[str, type[Loss]] = {
    "squared_error": losses.MeanSquaredError,
    "absolute_error": losses.MeanAbsoluteError,
    "huber": losses.Huber,
    "log_cosh": losses.LogCosh,
    "poisson": losses.PoissonNLL,
}
"""What `loss` may be."""


class BPRegressor(RegressorMixin, BaseBP):  # type: ignore[misc]
    """A neural network for regression, of one or several outputs.

    hidden_layer_sizes : neurons of every hidden layer; a number, a sequence, or () for none
    activation    : of the hidden layers: "relu", "tanh", "logistic", "identity", "leaky_relu", "elu", "gelu", "silu",
                    "mish", "softplus" or "hardswish"
    loss          : "squared_error", "absolute_error", "huber", "log_cosh", "poisson" (the outputs are logarithms),
                    or a Loss of bpnet, of which a copy is used
    solver        : "adam", "adamw", "sgd", "rmsprop", "adagrad", "lion", or an Optimizer, of which a copy is used
                    and which brings its own learning rate
    alpha         : alpha / 2 times the sum of squared weights, divided by a batch's weight, is added to the loss
    batch_size    : samples a step, N at most; "auto" is 200
    learning_rate_init : a number, or a Schedule
    max_iter      : epochs at most; without convergence before, a ConvergenceWarning
    random_state  : of the first weights, the order of samples, dropout and the validation part
    tol, n_iter_no_change : the training ends when for more than n_iter_no_change epochs the training loss has not
                    fallen by tol; with early_stopping the validation score has not risen by it
    early_stopping, validation_fraction : hold out a part of the data, drawn at random,
                    and come back to the weights of the best score on it
    warm_start    : fit goes on from where the last fit ended, the optimizer's state included
    momentum, nesterovs_momentum : of "sgd"; beta_1, beta_2, epsilon : of "adam" and "adamw"
    dropout       : the share of activations dropped in training, after every hidden layer
    model         : a Layer, which is copied and drawn anew, or a function of (n_in, n_out) that returns one, whose
                    values stay if it has any; replaces hidden_layer_sizes, activation and dropout
    callbacks     : Callbacks of bpnet, told of every fit
    backend       : the name of the backend to train on; None is that of X's library where bpnet has one for it, else
                    bpnet's own choice
    dtype         : "float32", "float64", or "auto", that of X; as in scikit-learn float64 for all but float32
    verbose       : whether to show the progress

    After a fit: `model_`, `history_`, `n_features_in_`,
    `feature_names_in_`, `n_outputs_`, `n_layers_`, `n_iter_` (epochs of this fit), `t_` (samples seen), `coefs_`,
    `intercepts_`, `out_activation_`, `loss_curve_` (of all epochs since the training began), `loss_`, `best_loss_`;
    with early_stopping `validation_scores_` and `best_validation_score_`.
    """

    def __init__(
        self,
        hidden_layer_sizes: Any = (100,),
        activation: str = "relu",
        *,
        loss: Any = "squared_error",
        solver: Any = "adam",
        alpha: float = 0.0001,
        batch_size: Any = "auto",
        learning_rate_init: Any = 0.001,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: Any = None,
        tol: float = 1e-4,
        verbose: bool = False,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: float = 10,
        dropout: float = 0.0,
        model: Any = None,
        callbacks: Any = None,
        backend: str | None = None,
        dtype: str = "auto",
    ) -> None:
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.loss = loss
        self.solver = solver
        self.alpha = alpha
        self.batch_size = batch_size
        self.learning_rate_init = learning_rate_init
        self.max_iter = max_iter
        self.shuffle = shuffle
        self.random_state = random_state
        self.tol = tol
        self.verbose = verbose
        self.warm_start = warm_start
        self.momentum = momentum
        self.nesterovs_momentum = nesterovs_momentum
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.n_iter_no_change = n_iter_no_change
        self.dropout = dropout
        self.model = model
        self.callbacks = callbacks
        self.backend = backend
        self.dtype = dtype

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train on X, (N, n_features), and y, (N,) or (N, n_outputs); sample_weight : (N,) or None."""
        return self._fit(X, y, sample_weight)

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train for one epoch, from where the training stands."""
        return self._fit(X, y, sample_weight, partial=True)

    def predict(self, X: Any) -> Any:
        """The predictions for X: (N,), or (N, n_outputs) where y had columns; in the library of X."""
        return self._answers(self._outputs(X, "predict"))

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """R2 of the predictions for X: 1 for all right, 0 for the mean of y; of several outputs the mean of theirs."""
        truth, answer, weight = (inputs.on_host(each) for each in (y, self.predict(X), sample_weight))
        return float(r2_score(truth, answer, sample_weight=weight))

    # --- what y means ---

    def _check_subclass(self) -> None:
        self._make_loss()

    def _make_loss(self) -> Loss:
        return settings.make_loss(self.loss, LOSSES)

    def _task(self, y: Any, sample_weight: Any, *, classes: Any, partial: bool, going_on: bool) -> Task:
        if y.ndim == 2 and y.shape[1] == 1 and isinstance(y, np.ndarray):
            y = column_or_1d(y, warn=True)
        two_axes = y.ndim == 2
        target = y if two_axes else namespace(y).reshape(y, (-1, 1))
        n_out = int(target.shape[1])
        if going_on and n_out != self.n_outputs_:
            raise ShapeError(f"y has {n_out} outputs, and had {self.n_outputs_} when the training began")
        self._two_axes = two_axes
        self.n_outputs_ = n_out
        return Task(target, to_numpy(y) if self.early_stopping else None, sample_weight, None, n_out)

    @property
    def out_activation_(self) -> str:
        """What makes predictions of the model's outputs: "identity", or "exponential" for a Poisson loss."""
        return "exponential" if isinstance(self._training.loss, losses.PoissonNLL) else "identity"

    def _answers(self, outputs: Any) -> Any:
        if self.out_activation_ == "exponential":
            outputs = namespace(outputs).exp(outputs)
        return outputs if self._two_axes else outputs[:, 0]

    def _score_of(self, outputs: Any, truth: Any, weight: Any) -> float:
        return float(r2_score(truth, to_numpy(self._answers(outputs)), sample_weight=weight))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
