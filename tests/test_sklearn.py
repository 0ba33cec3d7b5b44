"""The estimators for scikit-learn: its common checks, its own MLPs as the reference, and what users do with both."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
import warnings
from typing import Any

import numpy as np
import pytest
from conftest import read_only
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import TransformedTargetRegressor
from sklearn.datasets import load_digits, make_classification, make_multilabel_classification, make_regression
from sklearn.ensemble import BaggingClassifier
from sklearn.exceptions import ConvergenceWarning, DataConversionWarning, NotFittedError
from sklearn.inspection import permutation_importance
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.multioutput import MultiOutputClassifier
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_random_state
from sklearn.utils.estimator_checks import parametrize_with_checks

import bpnet as bp
from bpnet.sklearn import BPClassifier, BPRegressor

# Few epochs end before convergence, which is what a test of few epochs wants; `test_a_fit_that_...` looks at the warning.
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

def small_model(n_in: int, n_out: int) -> bp.Layer:
    return bp.Sequential(bp.Dense(n_in, 9), bp.Tanh(), bp.Dense(9, n_out))


# Beside the defaults: every kind of output, of loss and of optimizer. What makes two fits differ by its very meaning
# cannot be here: warm_start, parts of the data drawn at random (early_stopping), dropout.
CONFIGURATIONS = [
    BPClassifier(),
    BPRegressor(),
    BPClassifier((8, 8), "tanh", solver="sgd", learning_rate_init=0.05, label_smoothing=0.1, backend="numpy"),
    BPClassifier((), solver="adamw", loss="hinge", learning_rate_init=0.01),
    BPClassifier((16,), "gelu", loss="focal", learning_rate_init=0.01, max_iter=100, shuffle=False),
    BPClassifier(loss=bp.BinaryCrossEntropy(), solver=bp.Adam(0.01, clip_norm=1.0)),
    BPRegressor(20, "logistic", solver="rmsprop", loss="huber", learning_rate_init=0.01),
    BPRegressor(model=small_model, alpha=0.1, learning_rate_init=bp.Cosine(0.05, steps=200)),
    BPClassifier((5,), backend="strict", learning_rate_init=0.05, max_iter=30),
]


@parametrize_with_checks(CONFIGURATIONS)
def test_common_check(estimator: Any, check: Any) -> None:
    check(estimator)
