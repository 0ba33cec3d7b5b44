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
    memory = np.empty(3 * 64 * 64 * 4, np.uint8)
    with shared() as scratch:
        scratch.lend(memory)
        a, b = borrow((64, 64), np.float32, X), borrow_like(X)
        assert not np.shares_memory(a, b)
        assert all(np.shares_memory(each, memory) for each in (a, b))
        scratch.lend(memory)
        c = borrow((32, 128), np.int32, X)
        assert np.shares_memory(c, a)
        assert (c.shape, c.dtype, c.flags.c_contiguous) == ((32, 128), np.dtype("int32"), True)
    assert not np.shares_memory(borrow((64, 64), np.float32, X), memory)


def test_what_is_asked_for_is_added_up_in_cache_lines_and_found_where_it_is_lent() -> None:
    shapes = [((5001,), "uint8"), ((64, 65), "float32"), ((3, 5, 700), "float64")]
    with shared() as scratch:
        scratch.lend(None)
        alone = [borrow(shape, dtype, X) for shape, dtype in shapes]
        assert scratch.asked == 5056 + 64 * 65 * 4 + 3 * 5 * 700 * 8 + 32  # each a multiple of 64
        memory = np.empty(scratch.asked, np.uint8)
        scratch.lend(memory)
        assert scratch.asked == 0
        found = [borrow(shape, dtype, X) for shape, dtype in shapes]
        beyond = borrow(2 * SMALL, np.uint8, X)
    assert not any(np.shares_memory(each, memory) for each in (*alone, beyond))
    assert all(np.shares_memory(each, memory) for each in found)
    starts = [each.ctypes.data - memory.ctypes.data for each in found]
    assert starts == [0, 5056, 5056 + 64 * 65 * 4]
    assert [(each.shape, each.dtype.name) for each in found] == shapes


def test_small_arrays_and_those_of_another_layout_are_made_for_themselves() -> None:
    memory = np.empty(1 << 20, np.uint8)
    with shared() as scratch:
        scratch.lend(memory)
        small = borrow(SMALL, np.uint8, X)
        turned = borrow_like(np.asfortranarray(X))
        assert scratch.asked == 0
    assert turned.flags.f_contiguous
    assert not any(np.shares_memory(each, memory) for each in (small, turned))


def test_blocks_lie_inside_of_each_other_and_belong_to_their_thread() -> None:
    found: list[Any] = []
    first, second = np.empty((2, 1 << 20), np.uint8)
    with shared() as outer:
        outer.lend(first)
        with shared() as inner:
            inner.lend(second)
            assert np.shares_memory(borrow_like(X), second)
        thread = threading.Thread(target=lambda: found.append(borrow_like(X)))
        thread.start()
        thread.join()
        assert np.shares_memory(borrow_like(X), first)
    assert not any(np.shares_memory(found[0], each) for each in (first, second))


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
