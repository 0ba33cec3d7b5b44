"""The classifier."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.metrics import accuracy_score
from sklearn.utils.metaestimators import available_if

from bpnet import losses, ops
from bpnet.backend import to_numpy
from bpnet.dispatch import namespace
from bpnet.errors import ConfigError
from bpnet.losses import Loss
from bpnet.sklearn import inputs, settings
from bpnet.sklearn.base import BaseBP, Task
from bpnet.sklearn.labels import Labels, class_weights, read_again, read_labels

SOFTMAX_LOSSES: dict[str, type[Loss]] = {
    "log_loss": losses.SoftmaxCrossEntropy,
    "focal": losses.FocalLoss,
    "hinge": losses.MulticlassHinge,
}
"""Losses of one score a class, of which the largest answers."""

SIGMOID_LOSSES: dict[str, type[Loss]] = {
    "log_loss": losses.BinaryCrossEntropy,
    "focal": losses.BinaryFocalLoss,
    "hinge": losses.Hinge,
}
"""Losses of a score for each yes or no: two classes, or labels of which several may hold."""


def _gives_probabilities(estimator: BPClassifier) -> bool:
    """Whether the loss makes probabilities of the model's outputs; AttributeError, for `available_if`, else."""
    loss = estimator.loss
    if loss == "hinge" or (isinstance(loss, Loss) and loss.wants == "values"):
        raise AttributeError(f"scores that were trained with loss={loss!r} are no probabilities; use decision_function")
    return True


class BPClassifier(ClassifierMixin, BaseBP):  # type: ignore[misc]
    """A neural network for classification: of two or more classes, or of labels of which several may hold.

    hidden_layer_sizes : neurons of every hidden layer; a number, a sequence, or () for none
    activation    : of the hidden layers: "relu", "tanh", "logistic", "identity", "leaky_relu", "elu", "gelu", "silu",
                    "mish", "softplus" or "hardswish"
    loss          : "log_loss", "focal", "hinge", or a Loss of bpnet, of which a copy is used
    solver        : "adam", "adamw", "sgd", "rmsprop", "adagrad", "lion", or an Optimizer, of which a copy is used
                    and which brings its own learning rate
    alpha         : alpha / 2 times the sum of squared weights, divided by a batch's weight, is added to the loss
    batch_size    : samples a step, N at most; "auto" is 200
    learning_rate_init : a number, or a Schedule
    max_iter      : epochs at most; without convergence before, a ConvergenceWarning
    random_state  : of the first weights, the order of samples, dropout and the validation part
    tol, n_iter_no_change : the training ends when for more than n_iter_no_change epochs the training loss has not
                    fallen by tol; with early_stopping the validation score has not risen by it
    early_stopping, validation_fraction : hold out a part of the data, every class in its share,
                    and come back to the weights of the best score on it
    warm_start    : fit goes on from where the last fit ended, the optimizer's state included
    momentum, nesterovs_momentum : of "sgd"; beta_1, beta_2, epsilon : of "adam" and "adamw"
    class_weight  : "balanced", which gives every class the same share of the loss, or a dict of all classes
    label_smoothing : the share of each target that all classes have alike, in [0, 1)
    dropout       : the share of activations dropped in training, after every hidden layer
    model         : a Layer, which is copied and drawn anew, or a function of (n_in, n_out) that returns one, whose
                    values stay if it has any; replaces hidden_layer_sizes, activation and dropout
    callbacks     : Callbacks of bpnet, told of every fit
    backend       : the name of the backend to train on; None is that of X's library where bpnet has one for it, else
                    bpnet's own choice
    dtype         : "float32", "float64", or "auto", that of X; as in scikit-learn float64 for all but float32
    verbose       : whether to show the progress

    After a fit: `classes_` (in the library of y), `model_`, `history_`, `n_features_in_`,
    `feature_names_in_`, `n_outputs_`, `n_layers_`, `n_iter_` (epochs of this fit), `t_` (samples seen), `coefs_`,
    `intercepts_`, `out_activation_`, `loss_curve_` (of all epochs since the training began), `loss_`, `best_loss_`;
    with early_stopping `validation_scores_` and `best_validation_score_`.
    """

    _labels: Labels

    def __init__(
        self,
        hidden_layer_sizes: Any = (100,),
        activation: str = "relu",
        *,
        loss: Any = "log_loss",
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
        class_weight: Any = None,
        label_smoothing: float = 0.0,
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
        self.class_weight = class_weight
        self.label_smoothing = label_smoothing
        self.dropout = dropout
        self.model = model
        self.callbacks = callbacks
        self.backend = backend
        self.dtype = dtype

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train on X, (N, n_features), and y, (N,) classes or (N, L) of 0 and 1; sample_weight : (N,) or None."""
        return self._fit(X, y, sample_weight)

    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> Self:
        """Train for one epoch, from where the training stands.

        classes : all classes that will ever come; needed in the first call, unless y holds sets of labels
        """
        return self._fit(X, y, sample_weight, classes=classes, partial=True)

    # --- answers ---

    def predict(self, X: Any) -> Any:
        """The classes of X, (N,), or the labels that hold, (N, L) of 0 and 1; in the library of X."""
        outputs = self._outputs(X, "predict")
        return self._labels.names(self._numbers(outputs))

    def decision_function(self, X: Any) -> Any:
        """The scores before they are probabilities: (N,) for two classes, above 0 for the second; else (N, C)."""
        scores = self._scores(self._outputs(X, "decision_function"))
        return scores[:, 0] if scores.shape[1] == 1 and len(self._labels) == 2 else scores

    @available_if(_gives_probabilities)  # type: ignore[untyped-decorator]
    def predict_proba(self, X: Any) -> Any:
        """The probabilities of the classes, (N, C), or of every label, (N, L); in the library of X."""
        return self._probabilities(self._outputs(X, "predict_proba"), log=False)

    @available_if(_gives_probabilities)  # type: ignore[untyped-decorator]
    def predict_log_proba(self, X: Any) -> Any:
        """The logarithms of the probabilities, exact also where those are too small for their dtype."""
        return self._probabilities(self._outputs(X, "predict_log_proba"), log=True)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """The share of right answers, of samples or of their weight; of sets of labels, those that are right in all."""
        truth, answer, weight = (inputs.on_host(each) for each in (y, self.predict(X), sample_weight))
        return float(accuracy_score(truth, answer, sample_weight=weight))

    # --- what y means ---

    def _check_subclass(self) -> None:
        settings.check_range("label_smoothing", self.label_smoothing, 0, 1)
        if self.label_smoothing and self.loss != "log_loss":
            raise ConfigError(f'label_smoothing is for loss="log_loss", got loss={self.loss!r}')
        settings.make_loss(self.loss, SOFTMAX_LOSSES)
        if isinstance(self.class_weight, str) and self.class_weight != "balanced":
            raise ConfigError(
                f'class_weight must be None, "balanced" or a dict of all classes, got {self.class_weight!r}'
            )

    def _make_loss(self) -> Loss:
        if self._by_row:
            smoothing = {"label_smoothing": self.label_smoothing} if self.label_smoothing else {}
            return settings.make_loss(self.loss, SOFTMAX_LOSSES, **smoothing)
        return settings.make_loss(self.loss, SIGMOID_LOSSES)

    def _task(self, y: Any, sample_weight: Any, *, classes: Any, partial: bool, going_on: bool) -> Task:
        if going_on:
            labels, y = self._labels, read_again(y, self._labels)
            if classes is not None and not np.array_equal(labels.classes, np.unique(np.asarray(classes))):
                raise ConfigError(f"classes={classes!r} is not what it was in the first call: {labels.classes!r}")
        else:
            labels, y = read_labels(y, classes)
            if partial and classes is None and not labels.multilabel:
                raise ConfigError("classes must be passed on the first call to partial_fit: all that will ever come")
        numbers = labels.numbers(y)
        if not going_on:
            self._labels, self.classes_ = labels, labels.like(y)
        self._by_row = _is_by_row(self.loss, labels)
        self.n_outputs_ = 1 if len(labels) == 2 and not (labels.multilabel or self._by_row) else len(labels)
        if self.class_weight is not None:
            sample_weight = class_weights(self.class_weight, labels, numbers, sample_weight, partial)
        truth = to_numpy(numbers) if self.early_stopping else None
        target = numbers if self._by_row else self._yes_and_no(numbers)
        return Task(target, truth, sample_weight, None if labels.multilabel else truth, self.n_outputs_)

    def _yes_and_no(self, numbers: Any) -> Any:
        """Targets of every output by itself, (N, n_outputs): 0 and 1, smoothed where that was asked for."""
        xp = namespace(numbers)
        if self._labels.multilabel:
            yes = numbers == 1
        elif self.n_outputs_ == 1:
            yes = xp.reshape(numbers, (-1, 1)) == 1
        else:
            yes = xp.reshape(numbers, (-1, 1)) == xp.arange(len(self._labels), device=numbers.device)
        no_value, yes_value = 0.5 * self.label_smoothing, 1 - 0.5 * self.label_smoothing
        if self.loss == "hinge" or isinstance(self.loss, losses.Hinge):
            no_value, yes_value = -1.0, 1.0
        full = [xp.full(yes.shape, value, dtype=xp.float64, device=yes.device) for value in (yes_value, no_value)]
        return xp.where(yes, *full)

    # --- what outputs mean ---

    @property
    def _wants(self) -> str:
        return str(self._training.loss.wants)

    @property
    def out_activation_(self) -> str:
        """What makes probabilities of the model's outputs: "softmax", "logistic", or "identity" where nothing does."""
        if self._wants != "logits":
            return "identity"
        return "softmax" if self._by_row else "logistic"

    def _scores(self, outputs: Any) -> Any:
        """(N, 1) for two classes, above 0 for the second; for labels, above 0 where they hold; else one a class."""
        if self._by_row:
            return outputs[:, 1:] - outputs[:, :1] if len(self._labels) == 2 else outputs
        return 2 * outputs - 1 if self._wants == "probabilities" else outputs

    def _numbers(self, outputs: Any) -> Any:
        """The numbers of the classes, (N,), or the indicator of the labels, (N, L), of a model's outputs."""
        scores = self._scores(outputs)
        xp = namespace(scores)
        if self._labels.multilabel or scores.shape[1] == 1 < len(self._labels):
            yes = xp.where(scores > 0, xp.ones_like(scores, dtype=xp.int64), xp.zeros_like(scores, dtype=xp.int64))
            return yes if self._labels.multilabel else yes[:, 0]
        return xp.argmax(scores, axis=1)

    def _probabilities(self, outputs: Any, *, log: bool) -> Any:
        xp, wants = namespace(outputs), self._wants
        if self._by_row:
            if wants == "logits":
                return ops.log_softmax(outputs) if log else ops.softmax(outputs)
            return outputs if (wants == "log-probabilities") == log else xp.log(outputs) if log else xp.exp(outputs)
        two = len(self._labels) == 2 and not self._labels.multilabel
        if wants == "logits" and (two or self._labels.multilabel):  # from logits, where nothing cancels
            z = xp.concat([-outputs, outputs], axis=1) if two else outputs
            return -ops.softplus(-z) if log else ops.sigmoid(z)
        p = ops.sigmoid(outputs) if wants == "logits" else outputs
        if two:
            p = xp.concat([1 - p, p], axis=1)
        elif not self._labels.multilabel:  # one against the rest, brought to a sum of 1
            p = p / xp.maximum(xp.sum(p, axis=1, keepdims=True), xp.asarray(1e-30, dtype=p.dtype, device=p.device))
        return xp.log(p) if log else p

    def _score_of(self, outputs: Any, truth: Any, weight: Any) -> float:
        return float(accuracy_score(truth, to_numpy(self._numbers(outputs)), sample_weight=weight))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags


def _is_by_row(loss: Any, labels: Any) -> bool:
    """Whether the loss judges the scores of all classes together, and not each for itself."""
    if not isinstance(loss, Loss):
        return not (labels.multilabel or len(labels) == 2)
    if loss.by_row and labels.multilabel:
        raise ConfigError(f"{loss!r} expects one class a sample, and y holds sets of labels; use BinaryCrossEntropy()")
    return loss.by_row
