"""The instantiations of sequences.cu, scores.cu and counts.cu, as `names` has those of kernels.cu."""

from __future__ import annotations

from typing import Any

_REALS = ("float", "double")
_LABELS = ("int", "long long")
_LANES = (8, 32)
_FACTORS = ("float, float", "double, double", "float, unsigned short")
"""Of a kernel's numbers, and of the factors that it makes of them: bits of bfloat16 too."""
HEAD_SIZES = (32, 64, 128)
"""The numbers of features of a head that attention is compiled for; others take the next larger one."""

_Tiles = dict[tuple[str, int], tuple[int, ...]]
_ONE_RESULT: _Tiles = {("float", 2): HEAD_SIZES, ("float", 4): HEAD_SIZES, ("double", 2): HEAD_SIZES}
_BACKWARD: _Tiles = {
    ("float", 2): HEAD_SIZES,
    ("float", 4): HEAD_SIZES[:2],
    ("double", 1): HEAD_SIZES[2:],
    ("double", 2): HEAD_SIZES[:2],
}
TILES = {
    "attention": _ONE_RESULT,
    "attention_backward_queries": _BACKWARD,
    "attention_backward_keys": _BACKWARD,
}
"""For a kernel of attention and the rows of a tile that a thread has: what sizes of heads its registers hold."""

_UNITS = ("TanhUnit", "ReluUnit")

INSTANCES: dict[str, tuple[tuple[Any, ...], ...]] = {
    "rnn_step": (_REALS, _LABELS, _UNITS),
    "rnn_step_backward": (_REALS, _LABELS, _UNITS),
    "lstm_step": (_REALS, _LABELS),
    "lstm_step_backward": (_REALS, _LABELS),
    "gru_step": (_REALS, _LABELS),
    "gru_step_backward": (_REALS, _LABELS),
    "states_before": (_FACTORS,),
    "present_steps": ((*_REALS, "unsigned short"), _LABELS),
    "last_step": (_REALS, _LABELS),
    "last_step_backward": (_REALS, _LABELS),
    "attention_inner": (_REALS, _LANES),
    **{
        kernel: (tuple(f"{kind}, {rows}, {size}" for (kind, rows), sizes in tiles.items() for size in sizes),)
        for kernel, tiles in TILES.items()
    },
    "split_heads": (("float, float", "double, double", "unsigned short, unsigned short", "unsigned short, float"),),
    "join_heads": (_REALS,),
    "softmax_scores": (_FACTORS, (*_LANES, 256)),
    "scores_backward": (_FACTORS,),
    "largest": (_REALS, _LANES),
    "above": (_REALS,),
    "count_top_k": (_REALS, _LABELS, _LANES),
    "confusion": (_LABELS,),
    "class_counts": (_LABELS,),
    "sum_log_loss": (_REALS, _LABELS, _LANES),
    "sum_errors": (_REALS,),
    "sum_deviations": (_REALS, _LANES),
    "soft_targets": (_REALS,),
    "soft_weight": (_REALS,),
    "sum_weights": (_REALS,),
    "weighted": (_REALS,),
    "multiclass_hinge_rows": (_REALS, _LANES),
    "multiclass_hinge_rows_backward": (_REALS, _LANES),
}
"""For every kernel what its template's parameters may be."""
