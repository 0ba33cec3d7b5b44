"""Estimators for scikit-learn: `BPClassifier` and `BPRegressor`, trained by bpnet on any of its backends.

Needs the extra `sklearn`; `import bpnet` alone does not import scikit-learn.
"""

from bpnet.errors import MissingExtraError

try:
    import sklearn.utils.validation
except ImportError as error:
    raise MissingExtraError(
        f'bpnet.sklearn needs scikit-learn ({error}); install it with pip install "bpnet-xp[sklearn]"'
    ) from error
if not hasattr(sklearn.utils.validation, "validate_data"):
    raise MissingExtraError(
        f"bpnet.sklearn needs scikit-learn 1.6 or newer, and this is {sklearn.__version__}; "
        'install it with pip install "bpnet-xp[sklearn]"'
    )

from bpnet.sklearn.classifier import BPClassifier
from bpnet.sklearn.regressor import BPRegressor

__all__ = ["BPClassifier", "BPRegressor"]
