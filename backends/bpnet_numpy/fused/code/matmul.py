"""Matrix products by tiles in vector registers, divided among the threads of a team.

Every thread packs a chunk of the first factor's rows, in panels of the rows that a tile has; what another one has
packed would come slower from its cache. Then it takes panels of the second factor's columns, packs each where it stays
in the first-level cache, and goes down the rows with it. The sum of an element is always made in the same order,
whoever makes it: the number of threads changes no bit.
[Goto and van de Geijn 2008; Van Zee and van de Geijn 2015: BLIS]

Words of a product: team, the BLAS's function that tells its threads or 0, the body of a pass, whether the
factors are transposed, m, n, k, a, its row length, b, its row length, c, its row length, bias or 0, whether max(x, 0)
follows. Behind them a pass finds the first step of its part of the sum and their number, and into how many chunks the
rows are divided.
"""

from __future__ import annotations

from typing import Any

from numba import njit

from bpnet_numpy.fused.code.intrinsics import FLAGS, int64s, release, reserve, vector, word, words
from bpnet_numpy.fused.code.registers import width
from bpnet_numpy.fused.code.team import next_unit, shared
from bpnet_numpy.fused.code.tiles import LOOSE, ROWS, move, shift_row, tile, turn

(TEAM, THREADS, MULTIPLY, TA, TB, M, N, K, A, LDA, B, LDB, C, LDC, BIAS, RECTIFIED) = range(16)
STEP, LENGTH, CHUNKS = range(16, 19)
WORDS = 19

PIECE = 256
"""Steps of a sum that stay in registers: so long is the panel of columns that the first-level cache holds."""
STEPS = 1024
HELD = 1 << 20
"""Bytes of packed rows that stay in the second-level cache."""
TOGETHER = 16
"""Panels that are packed together from rows that lie across them: so a cache line of these is read at once."""
GRAIN = 8
"""Into how many units a product is divided at least, where it has as many panels."""
GROUP = 4
"""Panels of columns that are packed together where the sum is one piece: the product is then most of what moves, and
its lines are written beside each other."""
BLOCK = 8
"""Panels of rows that are made with each panel of a group before the next ones."""
PANEL = 64 * 2 * PIECE
"""Bytes of a packed panel of columns: two vectors of the widest kind for each step."""


@njit(**FLAGS)
def _pieces(n: Any, most: Any) -> Any:
    """Into how many parts of nearly the same length n is divided, none longer than `most`."""
    return (n + most - 1) // most


@njit(**FLAGS)
def _part(n: Any, parts: Any, i: Any) -> Any:
    """Where part i begins."""
    return n * i // parts


@njit(**FLAGS)
def _pack_rows(p: Any, a: Any, packed: Any, start: Any, rows: Any) -> None:
    """Pack the rows from `start`, for the steps of this pass."""
    panels = _pieces(rows, ROWS)
    if word(a, TA) != 0:
        for panel in range(0, panels, TOGETHER):
            _pack_turned(p, a, packed, start, rows, panels, panel, min(panel + TOGETHER, panels))
        return
    for panel in range(panels):
        first = _part(rows, panels, panel)
        _pack_panel(p, a, packed, start, rows, first, _part(rows, panels, panel + 1) - first)


@njit(**FLAGS)
def _pack_turned(p: Any, a: Any, packed: Any, row: Any, rows: Any, panels: Any, low: Any, high: Any) -> None:
    """Pack the panels from `low` to before `high` of a factor whose columns are the rows that are packed."""
    size = vector(p, word(a, A), 1).itemsize
    length, stride, lanes = word(a, LENGTH), word(a, LDA), width(p)
    pieces = _pieces(length, PIECE)
    for q in range(pieces):
        start, stop = _part(length, pieces, q), _part(length, pieces, q + 1)
        for s in range(stop - start):
            source = word(a, A) + ((word(a, STEP) + start + s) * stride + row) * size
            for panel in range(low, high):
                first = _part(rows, panels, panel)
                count = _part(rows, panels, panel + 1) - first
                out = packed + (rows * start + first * (stop - start) + s * count) * size
                for done in range(0, count, lanes):
                    some = min(count - done, lanes)
                    move(p, source + (first + done) * size, out + done * size, some, some)


@njit(**FLAGS)
def _pack_panel(p: Any, a: Any, packed: Any, row: Any, rows: Any, first: Any, high: Any) -> None:
    size = vector(p, word(a, A), 1).itemsize
    length, stride, lanes = word(a, LENGTH), word(a, LDA), width(p)
    pieces = _pieces(length, PIECE)
    for q in range(pieces):
        start, stop = _part(length, pieces, q), _part(length, pieces, q + 1)
        out = packed + (rows * start + first * (stop - start)) * size
        source = word(a, A) + ((row + first) * stride + word(a, STEP) + start) * size
        whole = (stop - start) // lanes * lanes
        for s in range(0, whole, lanes):
            done = 0
            while done < high:
                left = min(high - done, lanes)
                turn(p, source + (done * stride + s) * size, stride, left, out + (s * high + done) * size, high, left)
                done += lanes
        to, come = vector(p, out, high * (stop - start)), vector(p, source, (high - 1) * stride + stop - start)
        for s in range(whole, stop - start):
            for i in range(high):
                to[s * high + i] = come[i * stride + s]


@njit(**FLAGS)
def _pack_columns(p: Any, a: Any, out: Any, step: Any, length: Any, column: Any, columns: Any, wide: Any) -> None:
    """Pack `columns` columns as `wide` ones, a whole number of vectors."""
    stride, lanes, size = word(a, LDB), width(p), vector(p, word(a, B), 1).itemsize
    if word(a, TB) == 0:
        source = word(a, B) + (step * stride + column) * size
        if columns == 2 * lanes:
            for s in range(length):
                move(p, source + s * stride * size, out + s * wide * size, lanes, lanes)
                move(p, source + (s * stride + lanes) * size, out + (s * wide + lanes) * size, lanes, lanes)
            return
        for s in range(length):
            for done in range(0, wide, lanes):
                there, place = source + (s * stride + done) * size, out + (s * wide + done) * size
                move(p, there, place, min(columns - done, lanes), lanes)
        return
    source = word(a, B) + (column * stride + step) * size
    whole = length // lanes * lanes
    for done in range(0, wide, lanes):
        left = min(columns - done, lanes)
        for s in range(0, whole, lanes):
            turn(p, source + (done * stride + s) * size, stride, left, out + (s * wide + done) * size, wide, lanes)
        come = vector(p, source, (columns - 1) * stride + length)
        to = vector(p, out, length * wide)
        for s in range(whole, length):
            for j in range(lanes):
                to[s * wide + done + j] = come[(done + min(j, left - 1)) * stride + s]


@njit(**FLAGS)
def _pace(length: Any, rows: Any) -> Any:
    """The logarithm of the steps between two rows that are asked for, so that all are before a tile's sums are made."""
    found = 0
    while length >> (found + 1) >= max(rows, ROWS):
        found += 1
    return found


@njit(**FLAGS)
def _group(a: Any) -> Any:
    """How many panels of columns are made together."""
    return GROUP if word(a, K) <= PIECE else 1


@njit(**FLAGS)
def _loose(p: Any, a: Any) -> Any:
    """Whether the rows are read where they are: where each is multiplied with one vector of columns alone."""
    return word(a, TA) == 0 and word(a, N) <= width(p)


@njit(**FLAGS)
def _multiply_group(p: Any, a: Any, packed: Any, right: Any, row: Any, rows: Any, column: Any, towards: Any) -> None:
    """Pack one group of panels of columns, and multiply the packed rows with it.

    right : where the columns are packed; towards : 1 or -1, on which side this thread's next group will lie
    """
    size, lanes = vector(p, word(a, A), 1).itemsize, width(p)
    length, stride, wide = word(a, LENGTH), word(a, LDC), 2 * lanes
    columns = min(word(a, N) - column, _group(a) * wide)
    group = _pieces(columns, wide)
    panels, pieces, loose = _pieces(rows, ROWS), _pieces(length, PIECE), _loose(p, a)
    for q in range(pieces):
        start, stop = _part(length, pieces, q), _part(length, pieces, q + 1)
        steps, adding = stop - start, 1 if word(a, STEP) + start > 0 else 0
        for g in range(group):
            some = min(columns - g * wide, wide)
            whole = wide if some > lanes else lanes
            _pack_columns(p, a, right + g * PANEL, word(a, STEP) + start, steps, column + g * wide, some, whole)
        each, ahead, leap = 0, right, 0  # steps of what will be packed next that come into the cache with each tile
        if word(a, TB) == 0:
            each, leap = _pieces(steps, panels), word(a, LDB) * size
            if q + 1 < pieces:
                ahead = word(a, B) + (word(a, STEP) + stop) * leap + column * size
            else:
                ahead = word(a, B) + word(a, STEP) * leap + (column + towards * group * wide) * size
        pace = _pace(steps, each)
        for block in range(0, panels, BLOCK):
            for g in range(group):
                some = min(columns - g * wide, wide)
                for panel in range(block, min(block + BLOCK, panels)):
                    first, last = _part(rows, panels, panel), _part(rows, panels, panel + 1)
                    left = packed + (rows * start + first * steps) * size
                    place = word(a, C) + ((row + first) * stride + column + g * wide) * size
                    soon = ahead + panel * each * leap + g * wide * size if each > 0 else right
                    vectors = 2 if some > lanes else 1
                    if loose:
                        left = word(a, A) + ((row + first) * word(a, LDA) + word(a, STEP) + start) * size
                        soon, vectors = word(a, LDA), LOOSE
                    tile(
                        p, last - first, vectors, left, right + g * PANEL, place, steps, stride, some,
                        adding, soon, leap, pace,
                    )  # fmt: skip
    if word(a, BIAS) != 0 and word(a, STEP) + length == word(a, K):
        for i in range(rows):
            for done in range(0, columns, wide):
                place = word(a, C) + ((row + i) * stride + column + done) * size
                bias = word(a, BIAS) + (column + done) * size
                shift_row(p, place, bias, min(columns - done, wide), word(a, RECTIFIED))


def multiply(p: Any, team: Any, place: Any) -> None:
    """One thread's share of a pass: groups of panels of columns, with the chunk of rows that they belong to."""
    a = words(p)
    chunks, m, wide = word(a, CHUNKS), word(a, M), 2 * width(p) * _group(a)
    groups = _pieces(word(a, N), wide)
    held = (vector(p, word(a, A), 1).itemsize * _pieces(m, chunks) * word(a, LENGTH) + 63) // 64 * 64
    space = reserve(held + _group(a) * PANEL + 64)
    packed = (space + 63) // 64 * 64
    there, towards = -1, 1 if place % 2 == 0 else -1
    unit = next_unit(team, place)
    while unit >= 0:
        chunk = unit // groups
        row = _part(m, chunks, chunk)
        rows = _part(m, chunks, chunk + 1) - row
        if chunk != there and not _loose(p, a):
            _pack_rows(p, a, packed, row, rows)
            there = chunk
        _multiply_group(p, a, packed, packed + held, row, rows, unit % groups * wide, towards)
        unit = next_unit(team, place)
    release(space)


def tiled_product(p: Any) -> None:
    """c = a b, and bias and max(x, 0) behind it."""
    a = words(p)
    size = vector(p, word(a, A), 1).itemsize
    m, n, k = word(a, M), word(a, N), word(a, K)
    panels, passes = _pieces(n, 2 * width(p) * _group(a)), _pieces(k, STEPS)
    chunks = max(
        _pieces(m, max(ROWS, HELD // (size * _pieces(k, passes)))), min(_pieces(m, ROWS), _pieces(GRAIN, panels))
    )
    if 2 * m > n:  # two threads pack different rows, and the same columns, which takes less
        chunks = max(chunks, 2)
    own = reserve(8 * WORDS)
    now, given = int64s(own, WORDS), int64s(a, STEP)
    for i in range(STEP):
        now[i] = given[i]
    now[CHUNKS] = chunks
    for s in range(passes):
        now[STEP] = _part(k, passes, s)
        now[LENGTH] = _part(k, passes, s + 1) - now[STEP]
        shared(word(a, TEAM), word(a, THREADS), word(a, MULTIPLY), own, chunks * panels)
    release(own)
