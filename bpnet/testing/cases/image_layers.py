"""The entries of layers of images, of normalization by groups and batches, and of what goes with them."""

from __future__ import annotations

from typing import Any

import numpy as np

import bpnet as bp
from bpnet.errors import DTypeError
from bpnet.testing.cases.entries import BadArguments, BadInputs, Entry, LayerCase, exactly
from bpnet.testing.inputs import SampleInputs


def zeros(*shape: int) -> Any:
    return np.zeros(shape, "float32")


def of(*shape: int, fewest: int = 1) -> tuple[SampleInputs, ...]:
    """The inputs of a layer: one batch of samples of this shape."""
    return (SampleInputs(shape, fewest=fewest),)


NO_ARRAY = BadInputs(([[1.0, 2.0, 3.0, 4.0]],), "an? array.*got list; bring it over with model.asarray", DTypeError)


IMAGE_LAYERS: dict[str, Entry[LayerCase]] = {
    "Conv2d": Entry(
        {
            "": LayerCase(lambda: bp.Conv2d(2, 3, 2), of(3, 4, 2)),
            "of one pixel": LayerCase(lambda: bp.Conv2d(2, 3, 1, bias=False), of(2, 3, 2)),
            "of everything": LayerCase(
                lambda: bp.Conv2d(2, 4, (3, 2), stride=(2, 1), padding=((1, 0), (0, 2)), dilation=(1, 2), groups=2),
                of(4, 3, 2),
            ),
            "same": LayerCase(lambda: bp.Conv2d(1, 2, (2, 3), padding="same"), of(3, 3, 1)),
            "stride above the kernel": LayerCase(lambda: bp.Conv2d(1, 2, 2, stride=3), of(5, 4, 1)),
            "depthwise": LayerCase(lambda: bp.Conv2d(3, 3, 2, groups=3), of(3, 3, 3)),
            "channels first": LayerCase(lambda: bp.Conv2d(2, 3, 2, padding=1, channels="first"), of(2, 2, 3)),
        },
        (
            BadArguments(
                lambda: bp.Conv2d(4, 6, 3, groups=4),
                exactly("Conv2d: groups must divide the channels in and out, 4 and 6, got 4; 1, 2 would do"),
            ),
            BadArguments(
                lambda: bp.Conv2d(0, 6, 3),
                exactly("Conv2d needs at least 1 channel in, 1 out and 1 group, whole numbers: got 0, 6 and groups=1"),
            ),
            BadArguments(
                lambda: bp.Conv2d(1, 6, 0),
                exactly(
                    "Conv2d: kernel_size must be a whole number, or 2 of them (rows, columns), of at least 1, got 0"
                ),
            ),
            BadArguments(
                lambda: bp.Conv2d(1, 6, (3, 3, 3)),
                exactly(
                    "Conv2d: kernel_size must be a whole number, or 2 of them (rows, columns), of at least 1, "
                    "got (3, 3, 3)"
                ),
            ),
            BadArguments(
                lambda: bp.Conv2d(1, 6, 3, padding="smae"),
                exactly("Conv2d: padding must be \"same\", \"valid\" or numbers, got 'smae'; did you mean 'same'?"),
            ),
            BadArguments(
                lambda: bp.Conv2d(1, 6, 3, padding=-1),
                exactly(
                    'Conv2d: padding must be "same", "valid", a whole number of at least 0, or (rows, '
                    "columns), each a number "
                    "or a pair (before, after), got -1"
                ),
            ),
            BadArguments(
                lambda: bp.Conv2d(1, 6, 3, channels="middle"),
                exactly('Conv2d: channels must be "last" or "first", got \'middle\''),
            ),
        ),
        (
            NO_ARRAY,
            BadInputs(
                (zeros(2, 3, 8, 8),),
                exactly(
                    "Conv2d(3, 4, 3) needs x of shape (N, H, W, 3), got (2, 3, 8, 8); its channels seem to "
                    "come first: give "
                    'Conv2d(..., channels="first")'
                ),
                make=lambda: bp.Conv2d(3, 4, 3),
            ),
            BadInputs(
                (zeros(2, 8, 8, 3),),
                exactly(
                    "Conv2d(3, 4, 3, channels='first') needs x of shape (N, 3, H, W), got (2, 8, 8, 3); its "
                    "channels seem to "
                    'come last: give Conv2d(..., channels="last")'
                ),
                make=lambda: bp.Conv2d(3, 4, 3, channels="first"),
            ),
            BadInputs(
                (zeros(2, 8, 8, 5),),
                exactly("Conv2d(3, 4, 3) needs x of shape (N, H, W, 3), got (2, 8, 8, 5); it has 5 channels"),
                make=lambda: bp.Conv2d(3, 4, 3),
            ),
            BadInputs(
                (zeros(2, 8, 8),),
                exactly(
                    "Conv2d(1, 4, 3) needs x of shape (N, H, W, 1), got (2, 8, 8); x[..., None] gives it the "
                    "axis of its one "
                    "channel"
                ),
                make=lambda: bp.Conv2d(1, 4, 3),
            ),
            BadInputs(
                (zeros(8, 8, 3),),
                exactly(
                    "Conv2d(3, 4, 3) needs x of shape (N, H, W, 3), got (8, 8, 3); for one sample use x[None, ...]"
                ),
                make=lambda: bp.Conv2d(3, 4, 3),
            ),
            BadInputs(
                (zeros(2, 64),),
                exactly(
                    "Conv2d(1, 4, 3) needs x of shape (N, H, W, 1), got (2, 64); put a Reshape((H, W, C)) before it"
                ),
                make=lambda: bp.Conv2d(1, 4, 3),
            ),
            BadInputs(
                (zeros(2, 2, 9, 1),),
                exactly(
                    "Conv2d(1, 4, 5, padding=1): the kernel spans 5 x 5, more than the 4 x 11 of the padded "
                    "input 2 x 9; use a "
                    'smaller kernel or dilation, more padding (padding="same"), or fewer poolings before it'
                ),
                make=lambda: bp.Conv2d(1, 4, 5, padding=1),
            ),
        ),
    ),
    "Conv1d": Entry(
        {
            "": LayerCase(lambda: bp.Conv1d(2, 3, 3, padding="same", stride=2), of(5, 2)),
            "channels first": LayerCase(lambda: bp.Conv1d(2, 2, 2, channels="first", bias=False), of(2, 4)),
        },
        (
            BadArguments(
                lambda: bp.Conv1d(1, 6, 3, stride=(1, 2)),
                exactly("Conv1d: stride must be a whole number of at least 1, got (1, 2)"),
            ),
        ),
        (
            NO_ARRAY,
            BadInputs(
                (zeros(2, 4, 2),),
                exactly(
                    "Conv1d(2, 4, 5): the kernel spans 5, more than the 4 of the padded input 4; use a smaller "
                    "kernel or "
                    'dilation, more padding (padding="same"), or fewer poolings before it'
                ),
                make=lambda: bp.Conv1d(2, 4, 5),
            ),
        ),
    ),
    "ConvTranspose2d": Entry(
        {
            "": LayerCase(lambda: bp.ConvTranspose2d(2, 3, 3, stride=2, padding=1, output_padding=1), of(2, 2, 2)),
            "in groups": LayerCase(lambda: bp.ConvTranspose2d(2, 2, (1, 2), groups=2, channels="first"), of(2, 2, 2)),
        },
        (
            BadArguments(
                lambda: bp.ConvTranspose2d(1, 6, 3, padding="same"),
                exactly(
                    "ConvTranspose2d: padding must be numbers here, since several sizes would be the same; a "
                    "stride of s "
                    "doubles exactly with kernel_size=s, or with padding and output_padding"
                ),
            ),
            BadArguments(
                lambda: bp.ConvTranspose2d(1, 6, 3, output_padding=1),
                exactly(
                    "ConvTranspose2d: output_padding must be a whole number, or two of them, of at least 0 and "
                    "below the "
                    "stride, got 1"
                ),
            ),
        ),
        (
            NO_ARRAY,
            BadInputs(
                (zeros(1, 2, 2, 1),),
                exactly(
                    "ConvTranspose2d(1, 1, 1, padding=1): of an input of 2 x 2 the padding leaves 0 x 0; use "
                    "less padding"
                ),
                make=lambda: bp.ConvTranspose2d(1, 1, 1, padding=1),
            ),
        ),
    ),
    "GroupNorm": Entry(
        {
            "": LayerCase(lambda: bp.GroupNorm(2, 4), of(2, 2, 4)),
            "of rows": LayerCase(lambda: bp.GroupNorm(1, 4, affine=False), of(4)),
            "channels first": LayerCase(lambda: bp.GroupNorm(2, 4, channels="first"), of(4, 3)),
        },
        (
            BadArguments(
                lambda: bp.GroupNorm(3, 8),
                exactly("GroupNorm: n_groups must divide the 8 features, got 3; 1, 2, 4, 8 would do"),
            ),
        ),
        (
            NO_ARRAY,
            BadInputs(
                (zeros(3),),
                exactly("GroupNorm(1, 3) needs x of shape (N, ..., 3), got (3,); for one sample use x[None, :]"),
                make=lambda: bp.GroupNorm(1, 3),
            ),
        ),
    ),
    "Dropout2d": Entry(
        {
            "": LayerCase(lambda: bp.Dropout2d(0.4), of(2, 1, 3)),
            "channels first": LayerCase(lambda: bp.Dropout2d(0.4, channels="first"), of(3, 2)),
        },
        (BadArguments(lambda: bp.Dropout2d(1.0), exactly("Dropout needs a rate in [0, 1), got 1.0")),),
        (
            NO_ARRAY,
            BadInputs(
                (zeros(4),),
                exactly("Dropout2d(0.5) needs x of shape (N, ..., C), got (4,); for one sample use x[None]"),
                make=lambda: bp.Dropout2d(0.5),
            ),
        ),
    ),
    "Reshape": Entry(
        {
            "": LayerCase(lambda: bp.Reshape((2, 1, 3)), of(6)),
        },
        (
            BadArguments(
                lambda: bp.Reshape(4),  # type: ignore[arg-type]
                exactly("Reshape needs the shape of a sample, as in Reshape((28, 28, 1)), got 4"),
            ),
        ),
        (
            NO_ARRAY,
            BadInputs(
                (zeros(3, 5),),
                exactly("Reshape((2, 2)) needs x of shape (N, ...) with 4 numbers a sample, got (3, 5)"),
                make=lambda: bp.Reshape((2, 2)),
            ),
            BadInputs(
                (zeros(4),),
                exactly(
                    "Reshape((2, 2)) needs x of shape (N, ...) with 4 numbers a sample, got (4,); for one "
                    "sample use x[None, "
                    "...]"
                ),
                make=lambda: bp.Reshape((2, 2)),
            ),
        ),
    ),
    "BatchNorm": Entry(
        {
            "": LayerCase(lambda: bp.BatchNorm(3), of(3, fewest=2)),
            "of images": LayerCase(lambda: bp.BatchNorm(2, momentum=0.3, affine=False), of(2, 3, 2, fewest=2)),
            "channels first": LayerCase(lambda: bp.BatchNorm(2, channels="first", epsilon=0.1), of(2, 3, fewest=2)),
            "fixed": LayerCase(lambda: bp.BatchNorm(3, fixed=True), of(3)),
        },
        (
            BadArguments(lambda: bp.BatchNorm(0), exactly("BatchNorm needs the number of features, at least 1, got 0")),
            BadArguments(
                lambda: bp.BatchNorm(3, momentum=1.5), exactly("BatchNorm: momentum must be in [0, 1], got 1.5")
            ),
        ),
        (
            NO_ARRAY,
            BadInputs(
                (zeros(2, 3, 5),),
                exactly(
                    "BatchNorm(3) needs x of shape (N, ..., 3), got (2, 3, 5); its channels seem to come first: give "
                    'BatchNorm(..., channels="first")'
                ),
                make=lambda: bp.BatchNorm(3),
            ),
        ),
    ),
    "Recompute": Entry(
        {
            "": LayerCase(
                lambda: bp.Recompute(bp.Dense(3, 4), bp.BatchNorm(4), bp.Tanh(), bp.Dropout(0.3), bp.Dense(4, 2)),
                of(3, fewest=2),
            ),
        },
        (BadArguments(lambda: bp.Recompute(3), "item 0 is no layer"),),  # type: ignore[arg-type]
        (BadInputs((zeros(8, 5),), r"Dense\(3, 4\) needs x of shape \(N, 3\), got \(8, 5\)"),),
    ),
}
