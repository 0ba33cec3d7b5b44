"""Plans of random models: whatever is built from the layers there are, planned and eager steps agree bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

import bpnet as bp

WIDTH = 6


@st.composite
def layers(draw: st.DrawFn, depth: int = 0) -> bp.Layer:
    """A layer from WIDTH to WIDTH features."""
    kind = draw(st.integers(0, 9 if depth < 2 else 6))
    if kind == 0:
        return bp.Dense(WIDTH, WIDTH, bias=draw(st.booleans()))
    if kind == 1:
        return bp.Dropout(draw(st.sampled_from([0.0, 0.25, 0.9])))
    if kind == 2:
        return bp.LeakyReLU(draw(st.sampled_from([0.1, 0.5])))
    if kind < 7:
        return [bp.ReLU(), bp.Tanh(), bp.Sigmoid(), bp.Flatten()][kind - 3]
    inner = draw(st.lists(layers(depth + 1), min_size=1, max_size=3))
    if kind == 7:
        return bp.Residual(*inner)
    if kind == 8:
        return bp.Sequential(*inner)
    return bp.Sequential(bp.Concatenate(*inner), bp.Dense(WIDTH * len(inner), WIDTH))


OPTIMIZERS = [
    lambda: bp.SGD(0.01),
    lambda: bp.SGD(0.01, momentum=0.9, nesterov=True, weight_decay=0.1),
    lambda: bp.Adam(0.01),
    lambda: bp.AdamW(0.01, weight_decay=0.1),
]


@settings(max_examples=60, deadline=None)
@given(
    middle=st.lists(layers(), max_size=5),
    optimizer=st.sampled_from(OPTIMIZERS),
    classify=st.booleans(),
    dtype=st.sampled_from(["float32", "float64"]),
    tie=st.booleans(),
    sizes=st.lists(st.sampled_from([1, 3, 8]), min_size=1, max_size=3),
    seed=st.integers(0, 99),
)
def test_planned_and_eager_steps_agree(
    middle: list[bp.Layer],
    optimizer: Any,
    classify: bool,
    dtype: str,
    tie: bool,
    sizes: list[int],
    seed: int,
) -> None:
    first, last = bp.Dense(4, WIDTH), bp.Dense(WIDTH, 3)
    square = [layer for layer in middle if isinstance(layer, bp.Dense)]
    if tie and len(square) > 1:
        square[1].weight = square[0].weight
    model = bp.Sequential(first, *middle, last).initialize(seed=seed, dtype=dtype)
    loss: Any = bp.SoftmaxCrossEntropy if classify else bp.MeanSquaredError
    rng = np.random.default_rng(seed)
    data = []
    for i in range(9):
        n = sizes[i % len(sizes)]
        y: Any = rng.integers(0, 3, n) if classify else rng.normal(size=(n, 3))
        data.append((rng.normal(size=(n, 4)), y))
    start = {name: array.copy() for name, array in model.store.arrays().items()}
    results = []
    for plan in (True, False):
        for name, array in model.store.arrays().items():
            array[...] = start.get(name, 0)
        trainer = bp.Trainer(model, loss(), optimizer(), seed=seed, plan=plan)
        with np.errstate(all="ignore"):
            losses = [trainer.step(x, y).tobytes() for x, y in data]
        results.append((losses, {name: array.tobytes() for name, array in model.store.arrays().items()}))
        if plan:
            assert "eager" not in trainer.plan_report(), trainer.plan_report()
            assert "planned, " in trainer.plan_report()
    assert results[0] == results[1]
