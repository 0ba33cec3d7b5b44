from __future__ import annotations

import os

os.environ["SCIPY_ARRAY_API"] = "1"
import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from bpnet.sklearn import BPClassifier, BPRegressor


@pytest.mark.filterwarnings("ignore")
@parametrize_with_checks([BPClassifier(), BPRegressor()])
def test_check(estimator, check):
    check(estimator)
