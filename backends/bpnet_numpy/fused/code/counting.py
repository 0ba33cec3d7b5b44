"""Right answers, and dropout masks."""

from __future__ import annotations

from typing import Any

import numpy as np

from bpnet_numpy.fused.code.intrinsics import (
    float64s,
    int32s,
    int64s,
    matrix,
    number,
    real,
    uint8s,
    uint64s,
    upper,
    vector,
    word,
    words,
)

M0, M1 = np.uint64(0xD2E7470EE14C6C93), np.uint64(0xCA5A826395121157)
STEP0, STEP1 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBB67AE8584CAA73B)


def count_correct(p: Any) -> None:
    """Words: out, scores, labels, a label's bytes, rows, columns, whether some label is ignored, which.

    The first of equal scores stands before the others, and the first NaN before all.
    """
    a = words(p)
    rows, columns = word(a, 4), word(a, 5)
    scores, wide = matrix(p, word(a, 1), rows, columns), word(a, 3) == 8
    labels, narrow = int64s(word(a, 2), rows), int32s(word(a, 2), rows)
    ignoring, ignored = word(a, 6) != 0, word(a, 7)
    hits, counted = 0, 0
    for i in range(rows):
        label = labels[i] if wide else np.int64(narrow[i])
        if ignoring and label == ignored:
            continue
        counted += 1
        best = 0
        for j in range(1, columns):
            at, x = scores[i, best], scores[i, j]
            if x > at or (x != x and at == at):
                best = j
        if best == label:
            hits += 1
    out = float64s(word(a, 0), 2)
    out[0], out[1] = hits, counted


def keep_mask(p: Any) -> None:
    """Words: mask, n, counters, index, key (two words), threshold. [Salmon et al. 2011: Philox4x64-10]"""
    a = words(p)
    n, counters = word(a, 1), int64s(word(a, 2), word(a, 3) + 1)
    keep = uint8s(word(a, 0), n)
    micro, step = np.uint64(counters[word(a, 3)]), np.uint64(counters[0])
    key0, key1 = uint64s(a + 32, 1)[0], uint64s(a + 40, 1)[0]
    threshold = np.uint64(word(a, 6))
    low = np.uint64(0xFFFF)
    for block in range((n + 15) // 16):
        c0, c1, c2, c3 = np.uint64(block + 1), micro, step, np.uint64(0)
        k0, k1 = key0, key1
        for _ in range(10):
            h0, l0 = upper(c0, M0), c0 * M0
            h1, l1 = upper(c2, M1), c2 * M1
            c0, c1, c2, c3 = h1 ^ c1 ^ k0, l1, h0 ^ c3 ^ k1, l0
            k0, k1 = k0 + STEP0, k1 + STEP1
        first = 16 * block
        if first + 16 <= n:
            for j in range(4):
                shift = np.uint64(16 * j)
                keep[first + j] = ((c0 >> shift) & low) >= threshold
                keep[first + 4 + j] = ((c1 >> shift) & low) >= threshold
                keep[first + 8 + j] = ((c2 >> shift) & low) >= threshold
                keep[first + 12 + j] = ((c3 >> shift) & low) >= threshold
        else:
            for j in range(n - first):
                k = j // 4
                c = c0 if k == 0 else (c1 if k == 1 else (c2 if k == 2 else c3))
                keep[first + j] = ((c >> np.uint64(16 * (j % 4))) & low) >= threshold


def select(p: Any) -> None:
    """Return x scale where the mask is true, else 0. Words: out, x, mask, n, scale."""
    a = words(p)
    n, scale = word(a, 3), real(p, number(a, 4))
    y, x, keep = vector(p, word(a, 0), n), vector(p, word(a, 1), n), uint8s(word(a, 2), n)
    for i in range(n):
        y[i] = x[i] * scale if keep[i] != 0 else real(p, 0)
