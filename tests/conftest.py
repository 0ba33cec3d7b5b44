"""Backends for the tests: `backend` runs a test on each of them; on CuPy and PyTorch where they can run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import cuda_host
import cudnn_plans
import numpy as np
import nvrtc
import pytest
import strict_backend

import bpnet as bp

os.environ.setdefault("SCIPY_ARRAY_API", "1")  # without it scikit-learn skips its checks of array API dispatch
strict_backend.register()

BACKENDS = [
    "numpy",
    "strict",
    "strict:device1",
    pytest.param("cuda_host", marks=pytest.mark.cuda_host),
    pytest.param("torch", marks=pytest.mark.torch),
    pytest.param("cupy", marks=pytest.mark.gpu),
]


def why_not(name: str) -> str:
    """Why the backend of that name cannot run here, or '' when it can."""
    try:
        bp.get_backend(name)
    except bp.BackendError as error:
        return str(error)
    return ""


def why_no_gpu() -> str:
    """Why CuPy cannot run here, or '' when it can."""
    return why_not("cupy")


def pytest_configure(config: pytest.Config) -> None:
    kept = getattr(config, "cache", None)
    cuda_host.register(kept.mkdir("cuda_host") if kept is not None else None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for mark, name, lacking in (("gpu", "cupy", "no GPU"), ("torch", "torch", "no PyTorch")):
        marked = [item for item in items if item.get_closest_marker(mark)]
        if marked and (reason := why_not(name)):
            short = reason.partition("cannot be used: ")[2].partition("; ")[0] or reason
            for item in marked:
                item.add_marker(pytest.mark.skip(reason=f"{lacking}: {short}"))
    for mark, why in (
        ("cuda_host", cuda_host.why_not),
        ("cudnn", cudnn_plans.why_not),
        ("nvrtc", nvrtc.why_not),
    ):
        marked = [item for item in items if item.get_closest_marker(mark)]
        if marked and (reason := why()):
            for item in marked:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(autouse=True)
def strict_contracts(request: pytest.FixtureRequest) -> Iterator[None]:
    """Hold every layer and loss of every test to its contract; the marker `lenient` leaves that out."""
    if request.node.get_closest_marker("lenient"):
        yield
        return
    with bp.strict(values=False):
        yield


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> bp.Backend:
    """A ready backend."""
    return bp.get_backend(request.param)


def read_only(x: Any) -> Any:
    """A NumPy copy of `x` that cannot be written."""
    copy = np.array(x)
    copy.flags.writeable = False
    return copy
