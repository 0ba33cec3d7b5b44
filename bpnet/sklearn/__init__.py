"""Estimators for scikit-learn: `BPClassifier` and `BPRegressor`, trained by bpnet on any of its backends.

Needs the extra `sklearn`; `import bpnet` alone does not import scikit-learn.
"""

from bpnet.errors import MissingExtraError

try:
    from sklearn.utils.validation import validate_data as _  # new in scikit-learn 1.6
except ImportError as error:
    raise MissingExtraError(
        f'bpnet.sklearn needs scikit-learn 1.6 or newer ({error}); install it with pip install "bpnet-xp[sklearn]"'
    ) from error

from bpnet.sklearn.classifier import BPClassifier
from bpnet.sklearn.regressor import BPRegressor

__all__ = ["BPClassifier", "BPRegressor"]
