"""Embeddings and positions."""

from __future__ import annotations

from typing import Any

from numba import njit

from bpnet_numpy.fused.code.intrinsics import FLAGS, int32s, int64s, matrix, real, vector, word, words


@njit(**FLAGS)
def _token(ids: Any, size: Any, i: Any) -> Any:
    return int64s(ids, i + 1)[i] if size == 8 else int32s(ids, i + 1)[i]


def embedding(p: Any) -> None:
    """Rows of W; zeros for what names none. Words: out, W, ids, an id's bytes, how many, rows of W, columns."""
    a = words(p)
    n, tokens, columns = word(a, 4), word(a, 5), word(a, 6)
    out, W = matrix(p, word(a, 0), n, columns), matrix(p, word(a, 1), tokens, columns)
    for i in range(n):
        token = _token(word(a, 2), word(a, 3), i)
        if 0 <= token < tokens:
            for j in range(columns):
                out[i, j] = W[token, j]
        else:
            for j in range(columns):
                out[i, j] = real(p, 0)


def embedding_backward(p: Any) -> None:
    """The sum of the rows of dy by token. Words: out, dy, ids, an id's bytes, how many, tokens, columns, and numbers
    between the starts of two rows of out or dy."""
    a = words(p)
    n, tokens, columns, row = word(a, 4), word(a, 5), word(a, 6), word(a, 7)
    out, dy = matrix(p, word(a, 0), tokens, row), matrix(p, word(a, 1), n, row)
    for i in range(tokens):
        for j in range(columns):
            out[i, j] = real(p, 0)
    for i in range(n):
        token = _token(word(a, 2), word(a, 3), i)
        if 0 <= token < tokens:
            for j in range(columns):
                out[token, j] += dy[i, j]


def shifted(p: Any) -> None:
    """Each row of x plus a vector. Words: out, x, vector, rows, columns."""
    a = words(p)
    rows, columns = word(a, 3), word(a, 4)
    out, x = matrix(p, word(a, 0), rows, columns), matrix(p, word(a, 1), rows, columns)
    shift = vector(p, word(a, 2), columns)
    if word(a, 0) == word(a, 1):
        for i in range(rows):
            for j in range(columns):
                out[i, j] += shift[j]
    else:
        for i in range(rows):
            for j in range(columns):
                out[i, j] = x[i, j] + shift[j]
