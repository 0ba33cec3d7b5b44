"""The instantiations of images.cu, norms.cu, tables.cu and features.cu, as `names` has those of kernels.cu."""

from __future__ import annotations

from typing import Any

_REALS = ("float", "double")
_ELEMENTS = (*_REALS, "unsigned short")
_LABELS = ("int", "long long")
_FLAGS = ("false", "true")
_LANES = (8, 32)  # columns, or threads of a row
_WIDTHS = (*_LANES, 256)


def instances(activations: tuple[str, ...]) -> dict[str, tuple[tuple[Any, ...], ...]]:
    """For every kernel what its template's parameters may be. activations : the structs that may follow a sum"""
    return {
        "gather_windows": (_ELEMENTS,),
        "add_windows": (_REALS, activations),
        "depthwise": (_REALS, activations),
        "depthwise_back": (_REALS, activations),
        "depthwise_weight": (_REALS, _LANES),
        "max_pool": (_REALS,),
        "max_pool_winners": (_REALS,),
        "max_pool_backward": (_REALS,),
        "avg_pool": (_REALS,),
        "avg_pool_backward": (_REALS,),
        "global_avg_pool": (_REALS, _LANES),
        "global_avg_pool_backward": (_REALS,),
        "global_max_pool": (_REALS, _LANES),
        "global_max_pool_backward": (_REALS, _LANES),
        "swap_axes": (_ELEMENTS,),
        "transpose_tiles": (_ELEMENTS,),
        "keep_channels": (_REALS,),
        "layer_norm": (_REALS, _WIDTHS, _FLAGS),
        "layer_norm_backward": (_REALS, _WIDTHS, _FLAGS),
        "gain_sums": (_REALS, _LANES),
        "column_mean": (_REALS, _LANES, _FLAGS),
        "normalize": (_REALS,),
        "norm_sums": (_REALS, _LANES),
        "normalize_backward": (_REALS, _FLAGS),
        "group_norm": (_REALS, _WIDTHS),
        "group_norm_backward": (_REALS, _WIDTHS),
        "blend": (_REALS,),
        "commit": (_REALS,),
        "take_rows": (_REALS, _LABELS),
        "sort_tiles": (_LABELS,),
        "merge_tiles": ((0,),),
        "sum_rows": (_REALS,),
        "activation_with_slope": (_REALS, ("Gelu", "GeluTanh")),
        "swiglu": (_REALS,),
        "swiglu_backward": (_REALS,),
        "add_table": (_REALS,),
        "rotate": (_REALS,),
    }


USUAL = (
    "gather_windows<float>",
    "add_windows<float, Identity>",
    "max_pool<float>",
    "max_pool_winners<float>",
    "max_pool_backward<float>",
    "column_mean<float, 32, false>",
    "column_mean<float, 32, true>",
    "normalize<float>",
    "norm_sums<float, 32>",
    "normalize_backward<float, false>",
    "blend<float>",
    "commit<float>",
)
"""What most nets for images need, compiled together."""
