"""Group norm, a sample at a time: sums over places by channel, of which means of a group of channels are made."""

from __future__ import annotations

from typing import Any

from numba import njit

from bpnet_numpy.fused.code.columns import (
    add_deviations,
    add_gradients,
    add_rows,
    clear,
    differentiate,
    normalize,
    scale_of,
)
from bpnet_numpy.fused.code.intrinsics import FLAGS, number, real, vector, word, words


@njit(**FLAGS)
def _mean_of_groups(p: Any, sums: Any, to: Any, c: Any, groups: Any, places: Any) -> None:
    """to[g] = the mean of a group, of the sums of its channels; which then are that mean, each."""
    each, by_channel, by_group = c // groups, vector(p, sums, c), vector(p, to, groups)
    share = real(p, 1 / (places * each))
    for g in range(groups):
        total = real(p, 0)
        for j in range(g * each, (g + 1) * each):
            total += by_channel[j]
        total = total * share
        by_group[g] = total
        for j in range(g * each, (g + 1) * each):
            by_channel[j] = total


def group_norm(p: Any) -> None:
    """Words: y, mean, variance, x, weight or 0, bias or 0, room for four numbers a channel, samples, places, channels,
    groups, epsilon."""
    a = words(p)
    room, samples, places, c, groups, epsilon = (
        word(a, 6),
        word(a, 7),
        word(a, 8),
        word(a, 9),
        word(a, 10),
        number(a, 11),
    )
    size = vector(p, room, 1).itemsize
    mean, spread, scale, rest = room, room + size * c, room + 2 * size * c, room + 3 * size * c
    for s in range(samples):
        x, own = word(a, 3) + size * s * places * c, size * s * groups
        clear(p, mean, c)
        add_rows(p, mean, x, places, c)
        _mean_of_groups(p, mean, word(a, 1) + own, c, groups, places)
        clear(p, spread, c)
        clear(p, rest, c)
        add_deviations(p, spread, rest, x, mean, places, c)
        _mean_of_groups(p, spread, word(a, 2) + own, c, groups, places)
        scale_of(p, scale, spread, word(a, 4), c, epsilon)
        normalize(p, word(a, 0) + size * s * places * c, x, mean, scale, word(a, 5), places, c)


def group_norm_backward(p: Any) -> None:
    """dx = (g - mean(g) - n mean(g n)) / s with g = dy weight, and the sums of dy n and dy over these samples.

    Words: dx or 0, both sums, dy, x, mean, variance, weight or 0, room for six numbers a channel and one a group,
    samples, places, channels, groups, epsilon.
    """
    a = words(p)
    room, samples, places, c, groups, epsilon = (
        word(a, 8),
        word(a, 9),
        word(a, 10),
        word(a, 11),
        word(a, 12),
        number(a, 13),
    )
    dweight, dbias = vector(p, word(a, 1), c), vector(p, word(a, 2), c)
    size, each = dweight.itemsize, c // groups
    along, total, mean = vector(p, room, c), vector(p, room + size * c, c), vector(p, room + 2 * size * c, c)
    inverse, scale = vector(p, room + 3 * size * c, c), vector(p, room + 4 * size * c, c)
    variance, group = room + 5 * size * c, room + 6 * size * c
    weight = vector(p, word(a, 7) if word(a, 7) != 0 else room, c)
    clear(p, word(a, 1), c)
    clear(p, word(a, 2), c)
    for s in range(samples):
        at = size * s * places * c
        means, variances = (
            vector(p, word(a, 5) + size * s * groups, groups),
            vector(p, word(a, 6) + size * s * groups, groups),
        )
        spread = vector(p, variance, c)
        for g in range(groups):
            for j in range(g * each, (g + 1) * each):
                mean[j] = means[g]
                spread[j] = variances[g]
        scale_of(p, room + 3 * size * c, variance, 0, c, epsilon)
        clear(p, room, c)
        clear(p, room + size * c, c)
        add_gradients(p, room, room + size * c, word(a, 3) + at, word(a, 4) + at, room + 2 * size * c, places, c)
        for j in range(c):
            along[j] = along[j] * inverse[j]
            dweight[j] += along[j]
            dbias[j] += total[j]
        if word(a, 0) == 0:
            continue
        for j in range(c):
            scale[j] = inverse[j]
        if word(a, 7) != 0:
            for j in range(c):
                scale[j] = scale[j] * weight[j]
                along[j] = along[j] * weight[j]
                total[j] = total[j] * weight[j]
        _mean_of_groups(p, room, group, c, groups, places)
        _mean_of_groups(p, room + size * c, group, c, groups, places)
        for j in range(c):
            along[j] = along[j] * inverse[j] * inverse[j]
            total[j] = total[j] * inverse[j]
        differentiate(
            p, word(a, 0) + at, word(a, 3) + at, word(a, 4) + at, room + 2 * size * c, room, room + size * c,
            room + 4 * size * c, places, c,
        )  # fmt: skip
