"""Which operations have no CUDA kernel, and why: the list is complete, and nothing stands on it that has one."""

from __future__ import annotations

import cuda_host
import pytest

from bpnet import ops
from bpnet.dispatch import Kernel

pytestmark = pytest.mark.cuda_host

VIEW = "a view, which launches nothing"
METRIC = "a sum of a metric, made once a batch of an evaluation"
WEIGHTS = "of a loss with weights of samples or classes for rows of targets, by the library"
SEQUENCES = "attention and recurrence"

WITHOUT = {
    "reshape": VIEW,
    "rows": VIEW,
    "columns": VIEW,
    "above": METRIC,
    "class_counts": METRIC,
    "confusion": METRIC,
    "count_top_k": METRIC,
    "largest": METRIC,
    "sum_deviations": METRIC,
    "sum_errors": METRIC,
    "sum_log_loss": METRIC,
    "multiclass_hinge_rows": "a rare loss, by the library",
    "multiclass_hinge_rows_backward": "a rare loss, by the library",
    "soft_targets": WEIGHTS,
    "soft_weight": WEIGHTS,
    "sum_weights": WEIGHTS,
    "weighted": WEIGHTS,
    "attention": SEQUENCES,
    "attention_backward": SEQUENCES,
    "self_attention": SEQUENCES,
    "self_attention_backward": SEQUENCES,
    "rnn": SEQUENCES,
    "rnn_backward": SEQUENCES,
    "lstm": SEQUENCES,
    "lstm_backward": SEQUENCES,
    "gru": SEQUENCES,
    "gru_backward": SEQUENCES,
    "last_step": SEQUENCES,
    "last_step_backward": SEQUENCES,
}


def test_every_operation_has_a_cuda_kernel_or_a_reason_why_not() -> None:
    public = {name for name in ops.__all__ if isinstance(getattr(ops, name), Kernel)}
    have = {kernel.name for kernel, _ in cuda_host.variants()}
    assert {name: WITHOUT.get(name, "no reason is given") for name in sorted(public - have)} == WITHOUT
