"""The entries of the layers that pool, over images and over signals."""

from __future__ import annotations

import bpnet as bp
from bpnet.testing.cases.entries import BadArguments, BadInputs, Entry, LayerCase, exactly
from bpnet.testing.cases.image_layers import NO_ARRAY, of, zeros

POOL_LAYERS: dict[str, Entry[LayerCase]] = {
    "MaxPool2d": Entry(
        {
            "": LayerCase(lambda: bp.MaxPool2d(2), of(4, 5, 2)),
            "overlapping": LayerCase(lambda: bp.MaxPool2d(3, stride=2, padding=1, channels="first"), of(2, 4, 3)),
        },
        (
            BadArguments(
                lambda: bp.MaxPool2d(2, padding=2),
                exactly(
                    "MaxPool2d: padding must be smaller than the kernel, or some windows would see nothing "
                    "else: got padding 2 "
                    "for a kernel of 2"
                ),
            ),
        ),
        (
            NO_ARRAY,
            BadInputs(
                (zeros(2, 1, 1, 3),),
                exactly(
                    "MaxPool2d(2): the kernel spans 2 x 2, more than the 1 x 1 of the padded input 1 x 1; use "
                    "a smaller kernel "
                    'or dilation, more padding (padding="same"), or fewer poolings before it'
                ),
                make=lambda: bp.MaxPool2d(2),
            ),
            BadInputs(
                (zeros(2, 9),),
                exactly("MaxPool2d(2) needs x of shape (N, H, W, C), got (2, 9); put a Reshape((H, W, C)) before it"),
                make=lambda: bp.MaxPool2d(2),
            ),
        ),
    ),
    "AvgPool2d": Entry(
        {
            "": LayerCase(lambda: bp.AvgPool2d(2), of(4, 5, 2)),
            "of pixels alone": LayerCase(
                lambda: bp.AvgPool2d(3, stride=2, padding="same", count_padding=False), of(4, 3, 2)
            ),
        },
        (BadArguments(lambda: bp.AvgPool2d(2, count_padding="no"), "AvgPool2d: count_padding must be True or False"),),  # type: ignore[arg-type]
        (NO_ARRAY,),
    ),
    "GlobalAveragePool2d": Entry(
        {
            "": LayerCase(lambda: bp.GlobalAveragePool2d(), of(2, 3, 2)),
            "channels first": LayerCase(lambda: bp.GlobalAveragePool2d(channels="first"), of(2, 2, 3)),
        },
        (BadArguments(lambda: bp.GlobalAveragePool2d(channels="C"), 'channels must be "last" or "first", got .C.$'),),
        (NO_ARRAY,),
    ),
    "GlobalMaxPool2d": Entry(
        {
            "": LayerCase(lambda: bp.GlobalMaxPool2d(), of(2, 3, 2)),
            "channels first": LayerCase(lambda: bp.GlobalMaxPool2d(channels="first"), of(2, 2, 3)),
        },
        (BadArguments(lambda: bp.GlobalMaxPool2d(channels="C"), 'channels must be "last" or "first", got .C.$'),),
        (NO_ARRAY,),
    ),
    "MaxPool1d": Entry(
        {
            "": LayerCase(lambda: bp.MaxPool1d(2), of(5, 2)),
            "overlapping": LayerCase(lambda: bp.MaxPool1d(3, stride=2, padding=1, channels="first"), of(3, 6)),
            "dilated": LayerCase(lambda: bp.MaxPool1d(2, stride=1, dilation=2, padding="same"), of(4, 2)),
        },
        (
            BadArguments(
                lambda: bp.MaxPool1d(2, padding=2),
                exactly(
                    "MaxPool1d: padding must be smaller than the kernel, or some windows would see nothing "
                    "else: got padding 2 for a kernel of 2"
                ),
            ),
            BadArguments(
                lambda: bp.MaxPool1d((2, 2)),
                exactly("MaxPool1d: kernel_size must be a whole number of at least 1, got (2, 2)"),
            ),
        ),
        (
            NO_ARRAY,
            BadInputs(
                (zeros(2, 1, 3),),
                exactly(
                    "MaxPool1d(2): the kernel spans 2, more than the 1 of the padded input 1; use a smaller kernel "
                    'or dilation, more padding (padding="same"), or fewer poolings before it'
                ),
                make=lambda: bp.MaxPool1d(2),
            ),
            BadInputs(
                (zeros(2, 4, 4, 3),),
                exactly("MaxPool1d(2) needs x of shape (N, L, C), got (2, 4, 4, 3)"),
                make=lambda: bp.MaxPool1d(2),
            ),
        ),
    ),
    "AvgPool1d": Entry(
        {
            "": LayerCase(lambda: bp.AvgPool1d(2), of(5, 2)),
            "of positions alone": LayerCase(
                lambda: bp.AvgPool1d(3, stride=2, padding="same", count_padding=False, channels="first"), of(2, 4)
            ),
        },
        (BadArguments(lambda: bp.AvgPool1d(2, count_padding="no"), "AvgPool1d: count_padding must be True or False"),),  # type: ignore[arg-type]
        (NO_ARRAY,),
    ),
    "GlobalAveragePool1d": Entry(
        {
            "": LayerCase(lambda: bp.GlobalAveragePool1d(), of(3, 2)),
            "channels first": LayerCase(lambda: bp.GlobalAveragePool1d(channels="first"), of(2, 3)),
        },
        (BadArguments(lambda: bp.GlobalAveragePool1d(channels="C"), 'channels must be "last" or "first", got .C.$'),),
        (
            NO_ARRAY,
            BadInputs(
                (zeros(2, 4, 4, 3),), exactly("GlobalAveragePool1d() needs x of shape (N, L, C), got (2, 4, 4, 3)")
            ),
        ),
    ),
    "GlobalMaxPool1d": Entry(
        {
            "": LayerCase(lambda: bp.GlobalMaxPool1d(), of(3, 2)),
            "channels first": LayerCase(lambda: bp.GlobalMaxPool1d(channels="first"), of(2, 3)),
        },
        (BadArguments(lambda: bp.GlobalMaxPool1d(channels="C"), 'channels must be "last" or "first", got .C.$'),),
        (NO_ARRAY,),
    ),
}
