"""Matrix products by tiles in vector registers, divided among the threads of a team.

Every thread packs a chunk of the first factor's rows, in panels of the rows that a tile has; what another one has
packed would come slower from its cache. Then it takes panels of the second factor's columns, packs each where it stays
in the first-level cache, and goes down the rows with it. The sum of an element is always made in the same order,
whoever makes it: the number of threads changes no bit.
[Goto and van de Geijn 2008; Van Zee and van de Geijn 2015: BLIS]

Words of a product: team, the BLAS's function that tells its threads or 0, the body of a pass, whether the
factors are transposed, m, n, k, a, its row length, b, its row length, c, its row length, bias or 0, whether max(x, 0)
follows, an array that lies as c does, or 0: where that is not above 0, c becomes 0. Behind them a pass finds the first
step of its part of the sum and their number, and into how many chunks the rows are divided.
"""

from __future__ import annotations

from typing import Any

from numba import njit

from bpnet_numpy.fused.code.intrinsics import FLAGS, int64s, release, reserve, vector, word, words
from bpnet_numpy.fused.code.registers import width
from bpnet_numpy.fused.code.team import next_unit, see, shared
from bpnet_numpy.fused.code.tiles import LOOSE, ROWS, fetch, gate_row, move, shift_row, tile, turn
from bpnet_numpy.fused.state import TAKEN, UNITS

(TEAM, THREADS, MULTIPLY, TA, TB, M, N, K, A, LDA, B, LDB, C, LDC, BIAS, RECTIFIED, GATE) = range(17)
STEP, LENGTH, CHUNKS = range(17, 20)
WORDS = 20

PIECE = 256
"""Steps of a sum that stay in registers: so long is the panel of columns that the first-level cache holds."""
STEPS = 1024
HELD = 1 << 20
"""Bytes of packed rows that stay in the second-level cache."""
TOGETHER = 16
"""Panels that are packed together from rows that lie across them: so a cache line of these is read at once."""
ROWS_AHEAD = 4
"""How many rows before its turn such a row is asked for."""
GRAIN = 8
"""Into how many units a product is divided at least, where it has as many panels."""
GROUP = 4
"""Panels of columns that are packed together where the sum is one piece: the product is then most of what moves, and
its lines are written beside each other."""
BLOCK = 8
"""Panels of rows that are made with each panel of a group before the next ones."""
AHEAD = 8
"""A thread takes its next unit before it makes one, so as to pack for it, until this part of a product is left."""
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
            for line in range(_part(rows, panels, low) * size, _part(rows, panels, high) * size, 64):
                fetch(p, source + ROWS_AHEAD * stride * size + line)
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
def _share(p: Any, a: Any, length: Any, parts: Any, i: Any) -> Any:
    """Where part i of packing so many steps of a panel begins: anywhere, or at whole squares that are turned."""
    start = _part(length, parts, i)
    return start if word(a, TB) == 0 or i == parts else start // width(p) * width(p)


@njit(**FLAGS)
def _pack_panels(p: Any, a: Any, out: Any, step: Any, column: Any, low: Any, high: Any, first: Any, last: Any) -> None:
    """Pack the steps from `low` to before `high`, counted from `step`, of some panels, counted from `column`."""
    size, lanes = vector(p, word(a, B), 1).itemsize, width(p)
    wide = 2 * lanes
    for g in range(first, last):
        some = min(word(a, N) - column - g * wide, wide)
        whole = wide if some > lanes else lanes
        _pack_columns(
            p, a, out + g * PANEL + low * whole * size, step + low, high - low, column + g * wide, some, whole
        )


@njit(**FLAGS)
def _multiply_group(
    p: Any, a: Any, packed: Any, right: Any, other: Any, sums: Any, row: Any, rows: Any, column: Any, ready: Any,
    following: Any,
) -> None:  # fmt: skip
    """Multiply the packed rows with one group of panels of columns.

    Each tile packs a part of what comes next, which the one before it has asked the memory for. Where many rows of the
    second factor lie a power of two apart, a cache holds few of them at a time.

    right, other : where columns are packed, in turn; sums : where the sums of a panel lie until its last piece
    ready : whether the first piece is packed; following : this thread's next column, -1 where that is not known
    """
    size, lanes = vector(p, word(a, A), 1).itemsize, width(p)
    length, stride, wide = word(a, LENGTH), word(a, LDC), 2 * lanes
    columns = min(word(a, N) - column, _group(a) * wide)
    group = _pieces(columns, wide)
    panels, pieces, loose = _pieces(rows, ROWS), _pieces(length, PIECE), _loose(p, a)
    if not ready:
        _pack_panels(p, a, right, word(a, STEP), column, 0, _part(length, pieces, 1), 0, group)
    for q in range(pieces):
        start, stop = _part(length, pieces, q), _part(length, pieces, q + 1)
        steps, last_piece = stop - start, q + 1 == pieces
        finished = last_piece and word(a, STEP) + stop == word(a, K)
        step, coming, next_column, next_group = word(a, STEP), 0, following, 0
        if not last_piece:
            step, coming, next_column, next_group = step + stop, _part(length, pieces, q + 2) - stop, column, group
        elif following >= 0:
            coming, next_group = _part(length, pieces, 1), min(_pieces(word(a, N) - following, wide), _group(a))
        leap = word(a, LDB) * size
        asked = _pieces(coming, panels) if word(a, TB) == 0 else wide
        pace = _pace(steps, asked)
        for block in range(0, panels, BLOCK):
            for g in range(group):
                some = min(columns - g * wide, wide)
                for panel in range(block, min(block + BLOCK, panels)):
                    first, last = _part(rows, panels, panel), _part(rows, panels, panel + 1)
                    left = packed + (rows * start + first * steps) * size
                    place = word(a, C) + ((row + first) * stride + column + g * wide) * size
                    behind = _share(p, a, coming, panels, panel)
                    soon, jump = right, 0
                    if g < next_group and coming > 0:
                        there, jump = next_column + g * wide, leap
                        if word(a, TB) == 0:
                            soon = word(a, B) + (step + behind) * leap + there * size
                        else:
                            soon = word(a, B) + there * leap + (step + behind) * size
                    vectors = 2 if some > lanes else 1
                    if loose:
                        left = word(a, A) + ((row + first) * word(a, LDA) + word(a, STEP) + start) * size
                        soon, vectors = word(a, LDA), LOOSE
                    own = sums + first * wide * size
                    to, to_stride = (place, stride) if last_piece else (own, wide)
                    before, before_stride = (own, wide) if q > 0 else (place if word(a, STEP) > 0 else 0, stride)
                    tile(
                        p, last - first, vectors, left, right + g * PANEL, to, steps, to_stride, some,
                        before, before_stride, soon, jump, pace,
                    )  # fmt: skip
                    if word(a, BIAS) != 0 and finished:
                        bias = word(a, BIAS) + (column + g * wide) * size
                        for i in range(last - first):
                            shift_row(p, place + i * stride * size, bias, some, word(a, RECTIFIED))
                    if word(a, GATE) != 0 and finished:
                        gate = word(a, GATE) - word(a, C)
                        for i in range(last - first):
                            gate_row(p, place + i * stride * size, place + i * stride * size + gate, some)
                    if g < next_group and coming > 0:
                        low = _share(p, a, coming, panels, max(panel - 1, 0))
                        high = coming if panel + 1 == panels else behind
                        _pack_panels(p, a, other, step, next_column, low, high, g, g + 1)
        _pack_panels(p, a, other, step, next_column, 0, coming, group, next_group)
        right, other = other, right


def multiply(p: Any, team: Any, place: Any) -> None:
    """One thread's share of a pass: groups of panels of columns, with the chunk of rows that they belong to."""
    a = words(p)
    chunks, m, wide = word(a, CHUNKS), word(a, M), 2 * width(p) * _group(a)
    groups, units = _pieces(word(a, N), wide), word(team, UNITS)
    size, high = vector(p, word(a, A), 1).itemsize, _pieces(m, chunks)
    held = (size * high * word(a, LENGTH) + 63) // 64 * 64
    sums = size * high * 2 * width(p) if word(a, LENGTH) > PIECE else 0
    turns = _pieces(word(a, LENGTH), PIECE)
    space = reserve(held + 2 * _group(a) * PANEL + sums + 64)
    packed = (space + 63) // 64 * 64
    right, other = packed + held, packed + held + _group(a) * PANEL
    there, ready = -1, False
    unit = next_unit(team, place)
    while unit >= 0:
        chunk = unit // groups
        row = _part(m, chunks, chunk)
        rows = _part(m, chunks, chunk + 1) - row
        if chunk != there and not _loose(p, a):
            _pack_rows(p, a, packed, row, rows)
            there = chunk
        early = AHEAD * (units - see(team, TAKEN)) > units
        after = next_unit(team, place) if early else -1
        following = after % groups * wide if after >= 0 else -1
        _multiply_group(
            p, a, packed, right, other, packed + held + 2 * _group(a) * PANEL, row, rows, unit % groups * wide, ready,
            following,
        )  # fmt: skip
        if turns % 2 == 1:
            right, other = other, right
        unit, ready = after if early else next_unit(team, place), following >= 0
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
