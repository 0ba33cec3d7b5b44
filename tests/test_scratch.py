"""What bodies write on the way: the calls of a plan share it, those of an eager step and of other threads do not."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

import bpnet as bp
from bpnet_numpy.scratch import SMALL, borrow, borrow_like, shared

X = np.ones((64, 64), np.float32)


def test_what_one_kernel_borrowed_the_next_one_borrows_again() -> None:
    with shared() as between:
        between()
        a, b = borrow((64, 64), np.float32, X), borrow_like(X)
        assert not np.shares_memory(a, b)
        between()
        c, d = borrow(5000, np.uint8, X), borrow((2, 4096), np.float32, X)
        assert np.shares_memory(c, a) or np.shares_memory(c, b)
        assert not any(np.shares_memory(d, each) for each in (a, b, c))
        between()
        e = borrow((32, 128), np.int32, X)
        assert np.shares_memory(e, a) or np.shares_memory(e, b)  # and not the larger piece
        assert (e.shape, e.dtype, e.flags.c_contiguous) == ((32, 128), np.dtype("int32"), True)
    assert not np.shares_memory(borrow((64, 64), np.float32, X), a)


def test_small_arrays_and_those_of_another_layout_are_made_for_themselves() -> None:
    with shared() as between:
        between()
        small = borrow(SMALL, np.uint8, X)
        turned = borrow_like(np.asfortranarray(X))
        between()
        again = [borrow(SMALL, np.uint8, X), borrow_like(X)]
    assert turned.flags.f_contiguous
    assert not any(np.shares_memory(a, b) for a in (small, turned) for b in again)


def test_blocks_lie_inside_of_each_other_and_belong_to_their_thread() -> None:
    found: list[Any] = []
    with shared() as between:
        between()
        outer = borrow_like(X)
        with shared() as inner_between:
            inner_between()
            inner = borrow_like(X)
        between()
        thread = threading.Thread(target=lambda: found.append(borrow_like(X)))
        thread.start()
        thread.join()
        assert np.shares_memory(outer, borrow_like(X))
    assert not np.shares_memory(outer, inner)
    assert not np.shares_memory(outer, found[0])


def network() -> bp.Layer:
    return bp.Sequential(
        bp.Conv2d(1, 8, 3, padding="same"),
        bp.GELU(),
        bp.MaxPool2d(3, stride=2),
        bp.Conv2d(8, 8, 3, stride=2),
        bp.BatchNorm(8),
        bp.Sigmoid(),
        bp.Dropout(0.3),
        bp.Reshape((9, 8)),
        bp.LSTM(8, 12),
        bp.GRU(12, 12),
        bp.TransformerBlock(12, 2, n_hidden=16),
        bp.Flatten(),
        bp.Dense(108, 10),
        bp.Tanh(),
        bp.Dense(10, 10),
    )


@pytest.mark.lenient
def test_a_plan_whose_calls_share_gives_the_bits_of_eager_steps() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((5, 32, 18, 18, 1)).astype("float32"), rng.integers(0, 10, (5, 32))
    trainers = [
        bp.Trainer(network(), bp.SoftmaxCrossEntropy(), bp.Adam(1e-3), seed=2, plan=plan) for plan in (True, False)
    ]
    for _ in range(2):
        for some, labels in zip(x, y, strict=True):
            planned, eager = (float(trainer.step(some, labels)) for trainer in trainers)
            assert planned == eager
    assert "planned" in trainers[0].plan_report()
    for one, other in zip(*(trainer.model.parameters().values() for trainer in trainers), strict=True):
        np.testing.assert_array_equal(one.value, other.value)


def test_the_calls_of_a_plan_hold_no_more_than_an_eager_step_beside_its_buffers() -> None:
    layers = [each for _ in range(6) for each in (bp.Dense(64, 64), bp.Sigmoid())]
    deep, shallow = (
        bp.Sequential(*layers[:n]).memory(4096, loss=bp.MeanSquaredError(), optimizer=bp.SGD(0.1)) for n in (12, 2)
    )
    array = 4096 * 64 * 4
    extra = deep.peaks.replayed - deep.peaks.eager - (shallow.peaks.replayed - shallow.peaks.eager)
    assert extra < 2 * array  # not two for each of five activations more, and one for each of their derivatives
