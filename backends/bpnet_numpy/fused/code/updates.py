"""The optimizers, each in one pass over its part of the store; what clips, checks and counts around them.

Nothing changes where the flag `ok` is down. Moments that are about to become denormal are set to 0 as they are written:
each would cost the processor a hundred times as much as another number, for ever.
Words that all updates share: ok, learning rate (float64), counters (int64), n, then arrays, then numbers.
"""

from __future__ import annotations

import math
from typing import Any

from numba import njit

from bpnet_numpy.fused.code.intrinsics import (
    ANY_ORDER,
    FLAGS,
    float64s,
    int64s,
    number,
    real,
    uint8s,
    vector,
    word,
    words,
)
from bpnet_numpy.fused.code.quotients import adam_elements


@njit(**FLAGS)
def _up(a: Any) -> Any:
    return uint8s(word(a, 0), 1)[0] != 0


@njit(**FLAGS)
def _rate(a: Any) -> Any:
    return float64s(word(a, 1), 1)[0]


@njit(**FLAGS)
def _steps(a: Any) -> Any:
    return int64s(word(a, 2), 1)[0]


def sgd(p: Any) -> None:
    """Words after n: value, grad; weight decay."""
    a = words(p)
    if not _up(a):
        return
    n, rate, decay = word(a, 3), real(p, _rate(a)), real(p, number(a, 6))
    w, g = vector(p, word(a, 4), n), vector(p, word(a, 5), n)
    if decay == 0:
        for i in range(n):
            w[i] -= rate * g[i]
    else:
        for i in range(n):
            w[i] -= rate * (g[i] + decay * w[i])


def sgd_momentum(p: Any) -> None:
    """Words after n: value, grad, velocity; weight decay, momentum, Nesterov's (1 or 0), smallest."""
    a = words(p)
    if not _up(a):
        return
    n, rate = word(a, 3), real(p, _rate(a))
    w, g, v = vector(p, word(a, 4), n), vector(p, word(a, 5), n), vector(p, word(a, 6), n)
    decay, mu, tiny = real(p, number(a, 7)), real(p, number(a, 8)), real(p, number(a, 10))
    ahead = word(a, 9) != 0
    if decay == 0:
        for i in range(n):
            new = mu * v[i] + g[i]
            new = real(p, 0) if abs(new) < tiny else new
            w[i] -= rate * (g[i] + mu * new if ahead else new)
            v[i] = new
    else:
        for i in range(n):
            slope = g[i] + decay * w[i]
            new = mu * v[i] + slope
            new = real(p, 0) if abs(new) < tiny else new
            w[i] -= rate * (slope + mu * new if ahead else new)
            v[i] = new


def adam(p: Any) -> None:
    """Words after n: value, grad, m, v; beta1, beta2, epsilon, weight decay, smallest m, smallest v."""
    a = words(p)
    if not _up(a):
        return
    rate, t = _rate(a), _steps(a) + 1
    beta1, beta2 = number(a, 8), number(a, 9)
    c = math.sqrt(1 - beta2**t)
    factor, floor = real(p, rate * c / (1 - beta1**t)), real(p, number(a, 10) * c)
    rest1, rest2 = real(p, 1 - beta1), real(p, 1 - beta2)
    keep = real(p, 1 - rate * number(a, 11))
    tiny1, tiny2 = real(p, number(a, 12)), real(p, number(a, 13))
    adam_elements(
        p, word(a, 3), word(a, 4), word(a, 5), word(a, 6), word(a, 7), rest1, rest2, keep, factor, floor, tiny1, tiny2
    )  # fmt: skip


def amsgrad(p: Any) -> None:
    """Words after n: value, grad, m, v, v_max; beta1, beta2, epsilon, weight decay, smallest m, smallest v."""
    a = words(p)
    if not _up(a):
        return
    n, rate, t = word(a, 3), _rate(a), _steps(a) + 1
    w, g = vector(p, word(a, 4), n), vector(p, word(a, 5), n)
    m, v, top = vector(p, word(a, 6), n), vector(p, word(a, 7), n), vector(p, word(a, 8), n)
    beta1, beta2 = number(a, 9), number(a, 10)
    c = math.sqrt(1 - beta2**t)
    factor, floor = real(p, rate * c / (1 - beta1**t)), real(p, number(a, 11) * c)
    rest1, rest2 = real(p, 1 - beta1), real(p, 1 - beta2)
    keep = real(p, 1 - rate * number(a, 12))
    tiny1, tiny2 = real(p, number(a, 13)), real(p, number(a, 14))
    zero = real(p, 0)
    for i in range(n):
        g_i = g[i]
        m_i = m[i] + rest1 * (g_i - m[i])
        v_i = v[i] + rest2 * (g_i * g_i - v[i])
        m_i = zero if abs(m_i) < tiny1 else m_i
        v_i = zero if v_i < tiny2 else v_i
        m[i] = m_i
        v[i] = v_i
        top_i = top[i] if top[i] >= v_i or top[i] != top[i] else v_i  # NaN stays
        top[i] = top_i
        w[i] = keep * w[i] - factor * (m_i / (math.sqrt(top_i) + floor))


def adagrad(p: Any) -> None:
    """Words after n: value, grad, total; initial, epsilon, weight decay."""
    a = words(p)
    if not _up(a):
        return
    n, rate = word(a, 3), real(p, _rate(a))
    w, g, s = vector(p, word(a, 4), n), vector(p, word(a, 5), n), vector(p, word(a, 6), n)
    start, floor, decay = real(p, number(a, 7)), real(p, number(a, 8)), real(p, number(a, 9))
    for i in range(n):
        slope = g[i] if decay == 0 else g[i] + decay * w[i]
        total = s[i] + slope * slope
        s[i] = total
        w[i] -= rate * (slope / (math.sqrt(total + start) + floor))


def rmsprop(p: Any) -> None:
    """Words after n: value, grad, square, mean or 0, velocity or 0; rho, epsilon, momentum, weight decay, smallest
    square, smallest velocity."""
    a = words(p)
    if not _up(a):
        return
    n, rate = word(a, 3), real(p, _rate(a))
    w, g, s = vector(p, word(a, 4), n), vector(p, word(a, 5), n), vector(p, word(a, 6), n)
    centered, moving = word(a, 7) != 0, word(a, 8) != 0
    mean = vector(p, word(a, 7) if centered else word(a, 6), n)
    velocity = vector(p, word(a, 8) if moving else word(a, 6), n)
    rest, floor, mu = real(p, 1 - number(a, 9)), real(p, number(a, 10)), real(p, number(a, 11))
    decay, tiny, tiny_v, zero = real(p, number(a, 12)), real(p, number(a, 13)), real(p, number(a, 14)), real(p, 0)
    for i in range(n):
        slope = g[i] if decay == 0 else g[i] + decay * w[i]
        square = s[i] + rest * (slope * slope - s[i])
        square = zero if square < tiny else square
        spread = square
        if centered:
            middle = mean[i] + rest * (slope - mean[i])
            middle = zero if abs(middle) < tiny else middle
            mean[i] = middle
            spread = square - middle * middle
            spread = zero if spread < 0 else spread  # rounding may bring it below 0; NaN stays
        u = slope / (math.sqrt(spread) + floor)
        if moving:
            u = mu * velocity[i] + u
            u = zero if abs(u) < tiny_v else u
            velocity[i] = u
        s[i] = square
        w[i] -= rate * u


def lion(p: Any) -> None:
    """Words after n: value, grad, m; beta1, beta2, weight decay, smallest normal, limit of what fades, period."""
    a = words(p)
    if not _up(a):
        return
    n, rate, t = word(a, 3), _rate(a), _steps(a) + 1
    w, g, m = vector(p, word(a, 4), n), vector(p, word(a, 5), n), vector(p, word(a, 6), n)
    rest1, rest2 = real(p, 1 - number(a, 7)), real(p, 1 - number(a, 8))
    keep, size = real(p, 1 - rate * number(a, 9)), real(p, rate)
    tiny = real(p, number(a, 10))
    faded = real(p, number(a, 11)) if t % word(a, 12) == 0 else real(p, 0)
    for i in range(n):
        old = real(p, 0) if abs(m[i]) < faded else m[i]
        difference = g[i] - old
        c = old + rest1 * difference
        w[i] = keep * w[i] - size * (c / (abs(c) + tiny))
        m[i] = old + rest2 * difference


def average(p: Any) -> None:
    """Words: ok, nothing, counters, n, average, value; decay, smallest."""
    a = words(p)
    if not _up(a):
        return
    n, rest, tiny = word(a, 3), real(p, 1 - number(a, 6)), real(p, number(a, 7))
    average, w = vector(p, word(a, 4), n), vector(p, word(a, 5), n)
    if _steps(a) == 0:
        for i in range(n):
            average[i] = w[i]
    else:
        for i in range(n):
            new = average[i] + rest * (w[i] - average[i])
            average[i] = real(p, 0) if abs(new) < tiny else new


@njit(**ANY_ORDER)
def _squares(x: Any, n: Any, scale: Any) -> Any:
    """The sum of (scale x)^2 in float64."""
    total = 0.0
    for i in range(n):
        each = scale * float(x[i])
        total += each * each
    return total


def clip_norm(p: Any) -> None:
    """Words: ok, grads, n, limit."""
    a = words(p)
    n, limit = word(a, 2), number(a, 3)
    g = vector(p, word(a, 1), n)
    square = _squares(g, n, 1.0)
    norm = math.sqrt(square)
    if not (1e-270 < square < 1e300):  # float64 gradients whose squares have left the range, and what is not finite
        peak = 0.0
        for i in range(n):
            size = abs(float(g[i]))
            if size > peak or size != size:
                peak = size
            if size != size:
                break
        norm = peak
        if peak != 0 and peak - peak == 0:
            norm = peak * math.sqrt(_squares(g, n, 1 / peak)) if peak > 1e-300 else peak * math.sqrt(float(n))
    if norm - norm != 0:  # NaN for NaN and for an infinity
        uint8s(word(a, 0), 1)[0] = 0
    elif norm > limit:
        scale = real(p, limit / norm)
        for i in range(n):
            g[i] *= scale


def clip_value(p: Any) -> None:
    """Words: grads, n, limit."""
    a = words(p)
    n, limit = word(a, 1), real(p, number(a, 2))
    g = vector(p, word(a, 0), n)
    for i in range(n):
        x = g[i]
        x = limit if x > limit else x
        g[i] = -limit if x < -limit else x


def penalty_gradient(p: Any) -> None:
    """Words: grad, value, n, l1, 2 l2."""
    a = words(p)
    n, one, two = word(a, 2), real(p, number(a, 3)), real(p, number(a, 4))
    g, w = vector(p, word(a, 0), n), vector(p, word(a, 1), n)
    if one != 0:
        for i in range(n):
            sign = one if w[i] > 0 else (-one if w[i] < 0 else one * w[i])  # NaN stays NaN
            g[i] += sign
    if two != 0:
        for i in range(n):
            g[i] += two * w[i]


def check_finite(p: Any) -> None:
    """Words: ok, value."""
    a = words(p)
    x = vector(p, word(a, 1), 1)[0]
    if x - x != 0:
        uint8s(word(a, 0), 1)[0] = 0


def advance(p: Any) -> None:
    """Words: counters, n, ok."""
    a = words(p)
    n = word(a, 1)
    counters = int64s(word(a, 0), n)
    if uint8s(word(a, 2), 1)[0] != 0:
        counters[0] += 1
    for i in range(1, n):
        counters[i] = 0


def increment(p: Any) -> None:
    """Words: counters, index."""
    a = words(p)
    int64s(word(a, 0), word(a, 1) + 1)[word(a, 1)] += 1


def scale_rate(p: Any) -> None:
    """Words: target, learning rate, scale."""
    a = words(p)
    float64s(word(a, 0), 1)[0] = float64s(word(a, 1), 1)[0] * number(a, 2)


def accumulate(p: Any) -> None:
    """Words: total, value, address of the weight."""
    a = words(p)
    total, weight = float64s(word(a, 0), 2), float64s(word(a, 2), 1)[0]
    total[0] += float(vector(p, word(a, 1), 1)[0]) * weight
    total[1] += weight
