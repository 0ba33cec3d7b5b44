"""Which operations have no CUDA kernel, and why: the list is complete, and nothing stands on it that has one."""

from __future__ import annotations

import cuda_host
import pytest

from bpnet import ops
from bpnet.dispatch import Kernel

pytestmark = pytest.mark.cuda_host

VIEW = "a view, which launches nothing"

WITHOUT = {
    "reshape": VIEW,
    "rows": VIEW,
    "columns": VIEW,
}


def test_every_operation_has_a_cuda_kernel_or_a_reason_why_not() -> None:
    public = {name for name in ops.__all__ if isinstance(getattr(ops, name), Kernel)}
    have = {kernel.name for kernel, _ in cuda_host.variants()}
    assert {name: WITHOUT.get(name, "no reason is given") for name in sorted(public - have)} == WITHOUT
