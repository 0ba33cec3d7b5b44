"""Calls without a plan: what was bound for arguments of one kind is made again for others."""

from __future__ import annotations

import threading

import numpy as np
import pytest

import bpnet as bp
from bpnet import ops
from bpnet.dispatch import MISSED, load_variants

load_variants(np.ndarray)
from bpnet_numpy import fused  # noqa: E402

if fused.why_not():
    pytest.skip(fused.why_not(), allow_module_level=True)


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def prepared(kernel: bp.dispatch.Kernel) -> object:  # type: ignore[name-defined]
    assert kernel.shortcut is not None
    kernel.shortcut.forget()
    return kernel.shortcut


def test_an_array_that_is_given_twice_is_not_taken_for_two_and_two_not_for_one() -> None:
    prepared(ops.add)
    x, y = numbers(3, 4), numbers(3, 4, seed=1)
    np.testing.assert_array_equal(ops.add(x, x), x + x)
    np.testing.assert_array_equal(ops.add(x, y), x + y)
    np.testing.assert_array_equal(ops.add(y, x), x + y)
    np.testing.assert_array_equal(ops.add(y, y), y + y)


def test_results_are_arrays_of_their_own() -> None:
    x = numbers(5, 3)
    first, second = ops.relu(x), ops.relu(x)
    assert first is not second
    assert not np.shares_memory(first, second)
    first[:] = 7
    np.testing.assert_array_equal(second, np.maximum(x, 0))


def test_every_shape_dtype_layout_and_constant_is_a_kind_of_its_own() -> None:
    for x in (
        numbers(3, 4),
        numbers(4, 3),
        numbers(12),
        numbers(3, 4).astype(float),
        numbers(4, 3).T,
        numbers(6, 4)[::2],
    ):
        for slope in (0.25, 0.5, 0, 1, True):
            np.testing.assert_array_equal(ops.leaky_relu(x, slope), np.where(x > 0, x, x.dtype.type(slope) * x))


def test_where_nothing_may_be_written_nothing_is_written() -> None:
    target, source = numbers(4), numbers(4, seed=1)
    ops.copy_(target, source)
    target.flags.writeable = False
    before = target.copy()
    with pytest.raises(ValueError, match="read-only"):
        ops.copy_(target, source + 1)
    np.testing.assert_array_equal(target, before)


def test_a_variant_that_is_registered_later_is_asked() -> None:
    x = numbers(3)
    expected = np.maximum(x, 0)
    np.testing.assert_array_equal(ops.relu(x), expected)
    variant = ops.relu.register(np.ndarray, accepts=lambda x: x.shape == (3,), name="other")(lambda x: x * 0 + 5)
    try:
        np.testing.assert_array_equal(ops.relu(x), np.full(3, 5))
    finally:
        ops.relu._registered[np.ndarray].remove(variant)
        ops.relu._clear()
    np.testing.assert_array_equal(ops.relu(x), expected)


def test_what_it_does_not_know_it_leaves_to_the_variants() -> None:
    shortcut = ops.relu.shortcut
    assert shortcut is not None
    assert shortcut(([1.0],)) is MISSED
    assert shortcut((numbers(4, 3).T,)) is MISSED
    assert shortcut((np.arange(3),)) is MISSED
    assert shortcut((numbers(3),)) is not MISSED


def test_no_more_kinds_are_kept_than_stated() -> None:
    from bpnet_numpy.fused.prepared import MOST

    shortcut = prepared(ops.relu)
    for n in range(1, MOST + 10):
        ops.relu(np.ones(n, np.float32))
    assert len(shortcut._known) <= MOST  # type: ignore[attr-defined]


def test_threads_that_make_calls_of_one_kind_do_not_meet() -> None:
    wrong = []

    def compute(seed: int) -> None:
        x, W, b = numbers(64, 64, seed=seed), numbers(64, 128, seed=seed + 9), numbers(128, seed=seed)
        expected = ops.linear(x, W, b).copy()
        for _ in range(300):
            if ops.linear(x, W, b).tobytes() != expected.tobytes():
                wrong.append(seed)

    threads = [threading.Thread(target=compute, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_training_without_a_plan_gives_the_same_bits_as_with_one() -> None:
    found = []
    for plan in (True, False):
        model = bp.Sequential(bp.Dense(5, 8), bp.Tanh(), bp.Dropout(0.2), bp.Dense(8, 3))
        trainer = bp.Trainer(model, bp.SoftmaxCrossEntropy(), bp.Adam(1e-2, clip_norm=1.0), plan=plan)
        trainer.fit(numbers(40, 5), np.arange(40) % 3, epochs=3, batch_size=8, progress=False)
        found.append(model.store.values.tobytes())
    assert found[0] == found[1]
