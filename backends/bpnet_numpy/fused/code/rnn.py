"""The plain recurrent network over a whole sequence, for some of its samples, as in `lstm`."""

from __future__ import annotations

from typing import Any

from numba import njit

from bpnet_numpy.fused.code.functions import tangent
from bpnet_numpy.fused.code.intrinsics import FLAGS, word, words
from bpnet_numpy.fused.code.recurrent import begin, clear, length_of, step_product
from bpnet_numpy.fused.code.simd import load, numbers, spread, store, where_at_most, where_less


@njit(**FLAGS)
def _advance(
    p: Any, z: Any, product: Any, b: Any, y: Any, h: Any, width: Any, item: Any, rectified: Any, there: Any
) -> None:
    """One step of one sample."""
    for j in range(0, width, numbers(p)):
        left, at = width - j, item * j
        state = spread(p, 0)
        if there:
            x = load(p, z + at, left) + load(p, b + at, left) + load(p, product + at, left)
            state = where_at_most(x, 0, 0, x) if rectified else tangent(x)
        store(state, y + at, left)
        store(state, h + at, left)


def rnn(p: Any) -> None:
    """Words: y, x W, U, b, tables, scratch, h to go on from or 0, lengths or 0, bytes of a length, whether max(x, 0)
    and not tanh, these samples, T, H, whether from the last position to the first, gemm, bits of its sizes, bytes of a
    number. scratch : states and their products"""
    a = words(p)
    samples, steps, width, item = word(a, 10), word(a, 11), word(a, 12), word(a, 16)
    row = item * width
    states = word(a, 5)
    products = states + samples * row
    begin(p, states, word(a, 6), samples * width)
    clear(p, products, samples * width)
    for step in range(steps):
        t = steps - 1 - step if word(a, 13) != 0 else step
        if step > 0 or word(a, 6) != 0:
            step_product(
                p, word(a, 14), word(a, 15), word(a, 4), samples, width, width, states, word(a, 2), products, item
            )
        for s in range(samples):
            place = (s * steps + t) * row
            _advance(
                p, word(a, 1) + place, products + s * row, word(a, 3), word(a, 0) + place, states + s * row, width,
                item, word(a, 9) != 0, t < length_of(word(a, 7), word(a, 8), s, steps),
            )  # fmt: skip


@njit(**FLAGS)
def _go_back(p: Any, dz: Any, out: Any, dy: Any, dh: Any, y: Any, width: Any, item: Any, rectified: Any) -> None:
    """One step of one sample."""
    for j in range(0, width, numbers(p)):
        left, at = width - j, item * j
        h, d = load(p, y + at, left), load(p, dh + at, left) + load(p, dy + at, left)
        found = where_less(0, h, d, 0) if rectified else d * (1 - h * h)
        store(found, dz + at, left)
        store(found, out + at, left)


def rnn_backward(p: Any) -> None:
    """Words: dz, states before or 0, dy, y, U^T, tables, scratch, lengths or 0, bytes of a length, whether it was
    max(x, 0) and not tanh, these samples, T, H, whether the sequence is made from its last position, gemm, bits of its
    sizes, bytes of a number. scratch : dh, and dz of a step"""
    a = words(p)
    samples, steps, width, item = word(a, 10), word(a, 11), word(a, 12), word(a, 16)
    row = item * width
    dhs = word(a, 6)
    dzs = dhs + samples * row
    clear(p, dhs, samples * width)
    for step in range(steps):
        last = step == steps - 1
        t = step if word(a, 13) != 0 else steps - 1 - step
        before = t + 1 if word(a, 13) != 0 else t - 1
        for s in range(samples):
            place = (s * steps + t) * row
            there = t < length_of(word(a, 7), word(a, 8), s, steps)
            if there:
                _go_back(
                    p, dzs + s * row, word(a, 0) + place, word(a, 2) + place, dhs + s * row, word(a, 3) + place, width,
                    item, word(a, 9) != 0,
                )  # fmt: skip
            else:
                clear(p, dzs + s * row, width)
                clear(p, word(a, 0) + place, width)
            if word(a, 1) != 0:
                begin(p, word(a, 1) + place, 0 if last or not there else word(a, 3) + (s * steps + before) * row, width)
        if not last:
            step_product(p, word(a, 14), word(a, 15), word(a, 5), samples, width, width, dzs, word(a, 4), dhs, item)
