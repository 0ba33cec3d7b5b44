"""Checks for layers and backends of one's own, to be called in tests: they raise AssertionError with a diagnosis.

>>> import bpnet as bp
>>> from bpnet.testing import check_layer
>>> check_layer(lambda: bp.Dense(4, 3))
"""

from bpnet.testing.backends import BACKEND_CHECKS, check_backend
from bpnet.testing.differences import Comparison, compare, diagnose, gradient
from bpnet.testing.inputs import SampleInputs
from bpnet.testing.kernels import check_kernel
from bpnet.testing.layer_derivatives import derivatives
from bpnet.testing.layers import check_layer

__all__ = [
    "BACKEND_CHECKS",
    "Comparison",
    "SampleInputs",
    "check_backend",
    "check_kernel",
    "check_layer",
    "compare",
    "derivatives",
    "diagnose",
    "gradient",
]
