"""What both estimators share: a fit, from the parameters and the data to the fitted attributes."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Self

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from bpnet.data.dataset import Dataset
from bpnet.errors import ConfigError, DataError, ShapeError
from bpnet.layers import Dense
from bpnet.losses import Loss
from bpnet.sklearn import inputs, settings
from bpnet.sklearn.training import Convergence, Training
from bpnet.trainer import Trainer


class Task(NamedTuple):
    """What the model is to learn, as a subclass has made it of y.

    target  : what the loss takes; truth : y on the host, as scores take it
    weight  : (N,) on the host, or None; strata : labels to keep the shares of in a split, or None
    n_out   : what the model must give for a sample
    """

    target: Any
    truth: Any
    weight: Any
    strata: Any
    n_out: int

    def rows(self, rows: Any) -> Task:
        """The same of some samples."""
        arrays = (self.target, self.truth, self.weight, self.strata)
        target, truth, weight, strata = (None if each is None else inputs.rows_of(each, rows) for each in arrays)
        return Task(target, truth, weight, strata, self.n_out)


class BaseBP(BaseEstimator):  # type: ignore[misc]
    """Base of the estimators; a subclass says what y means."""

    _training: Training
    _optimizer_key: tuple[Any, ...]
    n_outputs_: int

    def _task(self, y: Any, sample_weight: Any, *, classes: Any, partial: bool, going_on: bool) -> Task:
        """What is to be learned of y; sets what a subclass keeps of it."""
        raise NotImplementedError

    def _make_loss(self) -> Loss:
        """The loss that the parameters describe, for the latest task."""
        raise NotImplementedError

    def _check_subclass(self) -> None:
        """Raise ConfigError unless the parameters that this class alone has are good ones."""
        raise NotImplementedError

    def _score_of(self, outputs: Any, truth: Any, weight: Any) -> float:
        """The score of the model's outputs, as `score` would tell it."""
        raise NotImplementedError

    # --- a fit ---

    def _fit(self, X: Any, y: Any, sample_weight: Any, *, classes: Any = None, partial: bool = False) -> Self:
        with self._whole_or_not_at_all():
            settings.check_settings(self)
            self._check_subclass()
            going_on = hasattr(self, "_training") and (partial or self.warm_start)
            if partial and self.early_stopping:
                raise ConfigError("partial_fit trains for one epoch, which early_stopping=True cannot end; use fit")
            if going_on:
                self._check_same_model()
            X, y = inputs.check_x_y(self, X, y, reset=not going_on, numeric=not hasattr(self, "class_weight"))
            library = inputs.library_of(X)
            weight = inputs.weights_of(sample_weight, X.shape[0])
            task = self._task(y, weight, classes=classes, partial=partial, going_on=going_on)
            X, task = _without_zero_weights(X, task)
            self._train(X, task, going_on=going_on, partial=partial)
            self._library = library
        return self

    def _train(self, X: Any, task: Task, *, going_on: bool, partial: bool) -> None:
        if going_on:
            training, seed = self._training, self._training.ready().seed
        else:
            seed = int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max))
        held_out = None
        if self.early_stopping:
            (X, task), held_out = self._split(X, task, seed)
        if not going_on:
            training = self._begin(X, task, seed)
        self._training, trainer = training, training.ready()
        self._renew_optimizer(trainer, going_on)
        n = int(X.shape[0])
        size = min(n, 200 if self.batch_size == "auto" else int(self.batch_size))
        training.penalize(self.alpha / (2 * size * (1 if task.weight is None else float(task.weight.mean()))))
        watch = Convergence(self.tol, self.n_iter_no_change, held_out and self._scorer(*held_out))
        history = trainer.fit(
            Dataset(X, task.target, weight=task.weight),
            validation_data=held_out and Dataset(held_out[0], held_out[1].target, weight=held_out[1].weight),
            epochs=1 if partial else int(self.max_iter),
            batch_size=size,
            shuffle=bool(self.shuffle),
            progress=bool(self.verbose),
            callbacks=[watch, *(self.callbacks or ())],
        )
        watch.restore_best(trainer)
        self._keep(watch, history, n * len(history), going_on)
        complete = len(history) == int(self.max_iter) and not (history.stopped or history.interrupted)
        if complete and not partial:
            warnings.warn(
                f"{type(self).__name__}: max_iter={self.max_iter} epochs were made, and the training has not converged "
                f"(n_iter_no_change={self.n_iter_no_change} epochs that improve by less than tol={self.tol:g})",
                ConvergenceWarning,
                stacklevel=4,
            )

    def _begin(self, X: Any, task: Task, seed: int) -> Training:
        backend = inputs.backend_for(X, self.backend)
        dtype = inputs.dtype_for(X, self.dtype)
        n_in = int(X.shape[1])
        model = settings.make_model(self, n_in, task.n_out, seed=seed, backend=backend, dtype=dtype)
        trainer = Trainer(model, self._make_loss(), settings.make_optimizer(self), seed=seed)
        self._check_outputs(trainer.predict(X[:1, ...]).shape, task)
        return Training(trainer)

    def _check_outputs(self, shape: tuple[int, ...], task: Task) -> None:
        if tuple(shape[1:]) != (task.n_out,):
            raise ShapeError(
                f"{type(self).__name__} needs a model whose outputs have shape (N, {task.n_out}) for this y, and the "
                f"model given gives (N, {', '.join(map(str, shape[1:]))})"
            )

    def _renew_optimizer(self, trainer: Trainer, going_on: bool) -> None:
        """Give the Trainer another optimizer where the parameters ask for one; the same goes on with its state."""
        key = settings.optimizer_key(self)
        if going_on and key != self._optimizer_key:
            trainer.optimizer = settings.make_optimizer(self)
        self._optimizer_key = key

    def _check_same_model(self) -> None:
        now = settings.model_key(self)
        for name, value in self._model_key.items():
            if now[name] is not value and now[name] != value:
                raise ConfigError(
                    f"{name} was {value!r} when the training began, and is {now[name]!r} now: it cannot change where "
                    "partial_fit or warm_start=True goes on; set it back, or clone the estimator"
                )

    def _split(self, X: Any, task: Task, seed: int) -> tuple[tuple[Any, Task], tuple[Any, Task]]:
        n = int(X.shape[0])
        train, test = train_test_split(
            np.arange(n), test_size=self.validation_fraction, stratify=task.strata, random_state=seed
        )
        if len(test) < 2:
            raise DataError(
                f"early stopping needs at least 2 samples to validate on, and validation_fraction="
                f"{self.validation_fraction:g} of {n} samples is {len(test)}; increase it, or bring more samples"
            )
        return (inputs.rows_of(X, train), task.rows(train)), (inputs.rows_of(X, test), task.rows(test))

    def _scorer(self, X: Any, task: Task) -> Callable[[Trainer], float]:
        return lambda trainer: self._score_of(trainer.predict(X), task.truth, task.weight)

    def _keep(self, watch: Convergence, history: Any, seen: int, going_on: bool) -> None:
        """Set what a fit leaves behind."""
        before = self if going_on else None
        self._model_key = settings.model_key(self)
        self.model_ = self._training.ready().model
        self.history_ = history
        self.n_iter_ = len(history)
        self.t_ = getattr(before, "t_", 0) + seen
        self.loss_curve_ = [*getattr(before, "loss_curve_", ()), *watch.losses]
        self.loss_ = self.loss_curve_[-1] if self.loss_curve_ else None
        self.best_loss_ = None if self.early_stopping else min(self.loss_curve_, default=None)
        self.validation_scores_ = watch.scores if self.early_stopping else None
        self.best_validation_score_ = watch.best if self.early_stopping else None
        self.n_layers_ = len(self._dense) + 1

    @contextlib.contextmanager
    def _whole_or_not_at_all(self) -> Iterator[None]:
        """When the block raises, give the estimator the attributes that it had."""
        before = dict(vars(self))
        try:
            yield
        except BaseException:
            self.__dict__.clear()
            self.__dict__.update(before)
            raise

    # --- a fitted estimator ---

    def _outputs(self, X: Any, method: str) -> Any:
        """The model's outputs for `X`, in its library."""
        check_is_fitted(self)
        inputs.check_same_library(self, X, self._library, method)
        return self._training.ready().predict(inputs.check_x(self, X, reset=False))

    @property
    def _dense(self) -> list[Dense]:
        check_is_fitted(self)
        return [layer for _, layer in self.model_.walk() if isinstance(layer, Dense)]

    @property
    def coefs_(self) -> list[Any]:
        """Copies of the weights of the model's Dense layers, (n_in, n_out) each, first layer first."""
        copy = self.model_.backend.xp.asarray
        return [copy(layer.weight.value, copy=True) for layer in self._dense]

    @property
    def intercepts_(self) -> list[Any]:
        """Copies of the biases of the model's Dense layers, (n_out,) each; None where a layer has none."""
        copy = self.model_.backend.xp.asarray
        return [None if layer.bias is None else copy(layer.bias.value, copy=True) for layer in self._dense]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.array_api_support = True
        tags.input_tags.sparse = True
        return tags


def _without_zero_weights(X: Any, task: Task) -> tuple[Any, Task]:
    """Without the samples that weigh nothing, so that they are not there, for batches as for the loss."""
    if task.weight is None or task.weight.all():
        return X, task
    rows = np.flatnonzero(task.weight)
    return inputs.rows_of(X, rows), task.rows(rows)
