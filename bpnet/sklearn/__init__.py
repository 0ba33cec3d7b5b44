"""Estimators for scikit-learn: `BPClassifier` and `BPRegressor`, trained by bpnet on any of its backends.

Needs the extra `sklearn`; `import bpnet` alone does not import scikit-learn.
"""

from bpnet.errors import MissingExtraError

try:
    import sklearn
except ImportError as error:
    raise MissingExtraError(
        f'bpnet.sklearn needs scikit-learn ({error}); install it with pip install "bpnet-xp[sklearn]"'
    ) from error
if tuple(int(part) for part in sklearn.__version__.split(".")[:2]) < (1, 7):
    raise MissingExtraError(
        f"bpnet.sklearn needs scikit-learn 1.7 or newer, and this is {sklearn.__version__}; "
        'install it with pip install "bpnet-xp[sklearn]"'
    )

from bpnet.sklearn.classifier import BPClassifier
from bpnet.sklearn.regressor import BPRegressor

__all__ = ["BPClassifier", "BPRegressor"]
