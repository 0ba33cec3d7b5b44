"""scikit-learn: MLPClassifier, by its public methods."""

from __future__ import annotations

from typing import Any

import numpy as np
import sklearn
from sklearn.neural_network import MLPClassifier

from benchmarks.peers.base import Peer
from benchmarks.reference import BETA1, BETA2, EPSILON, LEARNING_RATE
from benchmarks.workloads import Problem


class ScikitLearn(Peer):
    """`partial_fit`, one pass over what it is given in batches, without shuffling and without a penalty.

    One step alone is `partial_fit` on one batch; that is how its losses are compared. What is timed are passes over all
    batches, as `fit` makes them, so that the checks of the input are paid once a pass and not once a step. What differs
    from the others: epsilon is not corrected for the bias (PyTorch's is), labels become one-hot rows in every call, and
    inference gives probabilities.
    """

    infers = "probabilities"

    def versions(self) -> dict[str, str]:
        return {"scikit-learn": sklearn.__version__, "numpy": np.__version__}

    def load(self, problem: Problem) -> None:
        super().load(problem)
        self.x = problem.x.reshape(-1, problem.x.shape[-1])
        self.labels = problem.labels.reshape(-1)
        self.batch = problem.x.shape[1]

    def reset(self) -> None:
        n_classes = self.weights[-1].shape[1]
        self.model = MLPClassifier(
            [weight.shape[1] for weight in self.weights[:-1]],
            solver="adam",
            alpha=0.0,
            batch_size=self.batch,
            learning_rate_init=LEARNING_RATE,
            beta_1=BETA1,
            beta_2=BETA2,
            epsilon=EPSILON,
            shuffle=False,
        )
        self.model.partial_fit(*self.batches[0], classes=np.arange(n_classes))
        for found, weight in zip(self.model.coefs_, self.weights, strict=True):
            found[...] = weight
        for bias in self.model.intercepts_:
            bias[...] = 0
        del self.model._optimizer  # the next call makes a new one, and keeps the values

    def step(self, x: Any, labels: Any) -> float:
        return float(self.model.partial_fit(x, labels).loss_)

    def train(self, count: int) -> None:
        passes, rest = divmod(count, len(self.batches))
        for _ in range(passes):
            self.model.partial_fit(self.x, self.labels)
        if rest:
            self.model.partial_fit(self.x[: rest * self.batch], self.labels[: rest * self.batch])

    def infer(self, x: Any) -> Any:
        return self.model.predict_proba(x)
