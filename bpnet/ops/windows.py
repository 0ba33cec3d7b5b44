"""Windows that slide over images: where they stand, what they see, and the way back.

Images are (N, H, W, C), channels last. Array API has no padding, no sliding windows and no scatter: a window's element
(i, j) sees a strided slice of the padded image, and the derivative of a slice puts zeros between what came back.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from bpnet.dispatch import Array, namespace


@dataclass(frozen=True)
class Window:
    """What slides over the rows and columns of an image; pairs are (rows, columns).

    size     : of the window, at least 1
    stride   : from one place to the next
    dilation : from one of its elements to the next
    padding  : ((top, bottom), (left, right)) rows and columns around the image
    """

    size: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    padding: tuple[tuple[int, int], tuple[int, int]] = ((0, 0), (0, 0))

    @property
    def reach(self) -> tuple[int, int]:
        """The rows and columns that a window spans, gaps included."""
        return self.dilation[0] * (self.size[0] - 1) + 1, self.dilation[1] * (self.size[1] - 1) + 1

    def padded(self, height: int, width: int) -> tuple[int, int]:
        """The rows and columns of the image with its padding."""
        return height + sum(self.padding[0]), width + sum(self.padding[1])

    def places(self, height: int, width: int) -> tuple[int, int]:
        """How many places there are, down and across; 0 where the window is larger than the padded image."""
        (rows, columns), (tall, wide) = self.padded(height, width), self.reach
        return max(0, (rows - tall) // self.stride[0] + 1), max(0, (columns - wide) // self.stride[1] + 1)

    def elements(self) -> Iterator[tuple[int, int]]:
        """The window's elements, row by row."""
        for i in range(self.size[0]):
            for j in range(self.size[1]):
                yield i, j

    def slices(self, i: int, j: int, places: tuple[int, int]) -> tuple[slice, slice]:
        """The rows and columns of the padded image that element (i, j) sees at all places."""
        found = []
        for k, axis in ((i, 0), (j, 1)):
            start = k * self.dilation[axis]
            found.append(slice(start, start + (places[axis] - 1) * self.stride[axis] + 1, self.stride[axis]))
        return found[0], found[1]

    @property
    def n_elements(self) -> int:
        """The number of pixels that the window sees at one place."""
        return self.size[0] * self.size[1]

    @property
    def plain(self) -> bool:
        """Whether it is one pixel, at every place: what it sees is the image."""
        return self.size == (1, 1) and self.stride == (1, 1) and self.padding == ((0, 0), (0, 0))


def _filled(x: Array, axis: int, length: int, value: float) -> Array:
    """`length` rows of `value` that fit beside x along `axis`."""
    shape = tuple(length if i == axis else n for i, n in enumerate(x.shape))
    return namespace(x).full(shape, value, dtype=x.dtype, device=x.device)


def pad(x: Array, window: Window, value: float = 0.0) -> Array:
    """(N, H, W, C) with the window's padding around it, of `value`."""
    for axis, (before, after) in enumerate(window.padding, start=1):
        parts = [_filled(x, axis, before, value)] * bool(before) + [x] + [_filled(x, axis, after, value)] * bool(after)
        x = namespace(x).concat(parts, axis=axis) if len(parts) > 1 else x
    return x


def crop(x: Array, window: Window) -> Array:
    """The image within its padding: the derivative of `pad`."""
    (top, bottom), (left, right) = window.padding
    return in_c_order(x[:, top : x.shape[1] - bottom, left : x.shape[2] - right, :])


def in_c_order(x: Array) -> Array:
    """`x` itself, or a copy without gaps: a product of what lies otherwise in memory may end in other bits."""
    xp = namespace(x)
    return xp.reshape(xp.reshape(x, (math.prod(x.shape),)), x.shape)


def spread(y: Array, axis: int, start: int, step: int, length: int) -> Array:
    """Zeros of `length` along `axis` with y at start, start + step, ...: the derivative of taking that slice."""
    xp, n = namespace(y), y.shape[axis]
    if step > 1:
        wide = xp.expand_dims(y, axis=axis + 1)
        wide = xp.concat([wide, _filled(wide, axis + 1, step - 1, 0.0)], axis=axis + 1)
        y = xp.reshape(wide, (*y.shape[:axis], n * step, *y.shape[axis + 1 :]))
        y = y[(slice(None),) * axis + (slice(0, (n - 1) * step + 1), ...)]
    after = length - start - y.shape[axis]
    parts = [_filled(y, axis, start, 0.0)] * bool(start) + [y] + [_filled(y, axis, after, 0.0)] * bool(after)
    return xp.concat(parts, axis=axis) if len(parts) > 1 else y


def seen(padded: Array, window: Window, i: int, j: int, places: tuple[int, int]) -> Array:
    """What element (i, j) of the window sees at all places, (N, *places, C)."""
    rows, columns = window.slices(i, j, places)
    return padded[:, rows, columns, :]


def unseen(dy: Array, window: Window, i: int, j: int, padded: tuple[int, int]) -> Array:
    """The derivative of `seen`: dy where element (i, j) looked, zeros elsewhere, in the padded image."""
    dy = spread(dy, 1, i * window.dilation[0], window.stride[0], padded[0])
    return spread(dy, 2, j * window.dilation[1], window.stride[1], padded[1])
