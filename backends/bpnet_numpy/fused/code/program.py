"""The way from Python to compiled bodies."""

from __future__ import annotations

from typing import Any

from bpnet_numpy.fused.code.intrinsics import call, with_interpreter, without_interpreter, word

HEAD = object.__basicsize__
"""Where, in an ndarray, NumPy's part begins: the address of the data, the number of axes, the address of the shape.
Every extension that is compiled for NumPy reads them there."""


def execute(module: Any, words: Any) -> Any:
    """A function of Python's C interface, for one array of words: run the instructions, one behind the other.

    An instruction is the address of its body, its number of words, and these.
    """
    start, size = word(words + HEAD, 0), word(word(words + HEAD, 2), 0)
    thread = without_interpreter()
    i = 0
    while i < size:
        call(word(start, i), start + 8 * (i + 2))
        i += word(start, i + 1) + 2
    return with_interpreter(thread)
