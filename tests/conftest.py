"""Backends for the tests: `backend` runs a test on each of them, CuPy too where there is a GPU."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
import strict_backend

import bpnet as bp

os.environ.setdefault("SCIPY_ARRAY_API", "1")  # without it scikit-learn skips its checks of array API dispatch
strict_backend.register()

BACKENDS = ["numpy", "strict", "strict:device1", pytest.param("cupy", marks=pytest.mark.gpu)]


def why_no_gpu() -> str:
    """Why CuPy cannot run here, or '' when it can."""
    try:
        bp.get_backend("cupy")
    except bp.BackendError as error:
        return str(error)
    return ""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked and (reason := why_no_gpu()):
        short = reason.partition("cannot be used: ")[2].partition("; ")[0] or reason
        for item in marked:
            item.add_marker(pytest.mark.skip(reason=f"no GPU: {short}"))


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> bp.Backend:
    """A ready backend."""
    return bp.get_backend(request.param)


def read_only(x: Any) -> Any:
    """A NumPy copy of `x` that cannot be written."""
    copy = np.array(x)
    copy.flags.writeable = False
    return copy
