"""Sizes that compiled bodies and those who bind them agree on. Imports nothing."""

from __future__ import annotations

TURNED = 256
"""The most steps of the sums of a direct product whose second factor is transposed: so much of it is kept turned."""


def strip_height(vector: int) -> int:
    """The most rows of a strip of a convolution's product, where vectors have so many bytes.

    Its sums, one number of every row in all lanes, and a row of the second factor have room in the registers at once,
    since that is how LLVM orders the loads; and as many pointers have.
    """
    return 9 if vector == 64 else 4
