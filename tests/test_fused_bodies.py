"""Compiled bodies of norms, convolutions, pools and losses where they are divided, and against the mathematics."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import bpnet as bp
from bpnet import ops
from bpnet.dispatch import Kernel, load_variants
from bpnet.ops.windows import Window
from bpnet.testing.kernels import assert_close

load_variants(np.ndarray)
from bpnet_numpy import fused  # noqa: E402

pytestmark = pytest.mark.skipif(bool(fused.why_not()), reason=fused.why_not())
Array = Any


def normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def positive(*shape: int) -> Array:
    return np.abs(normal(*shape, seed=5)) + np.float32(0.5)


def framed(size: tuple[int, int], stride: int, padding: int) -> Window:
    return Window(size, (stride, stride), (1, 1), ((padding, padding), (padding, padding)))


ROWS, IMAGES = (2100, 33), (9, 14, 13, 40)
STRIDED, SAME = framed((3, 3), 2, 1), framed((3, 3), 1, 1)
PLACES = (9, *STRIDED.places(14, 13))
LARGE: dict[str, tuple[Kernel, Callable[[], tuple[Any, ...]]]] = {
    "batch norm": (ops.batch_norm, lambda: (3 + normal(*ROWS), normal(33), normal(33), 1e-5)),
    "batch norm, backward": (
        ops.batch_norm_backward,
        lambda: (normal(*ROWS), normal(*ROWS, seed=1), normal(33), positive(33), normal(33), 1e-5),
    ),
    "scale and shift, backward": (
        ops.scale_shift_backward,
        lambda: (normal(*ROWS), normal(*ROWS, seed=1), normal(33), positive(33), normal(33), 1e-5),
    ),
    "group norm": (ops.group_norm, lambda: (normal(*IMAGES), normal(40), normal(40), 5, 1e-5)),
    "group norm, backward": (
        ops.group_norm_backward,
        lambda: (normal(*IMAGES), normal(*IMAGES, seed=1), normal(9, 5), positive(9, 5), normal(40), 5, 1e-5),
    ),
    "PReLU, backward": (ops.prelu_backward, lambda: (normal(*ROWS), normal(*ROWS, seed=1), normal(33))),
    "PReLU of one slope, backward": (ops.prelu_backward, lambda: (normal(*ROWS), normal(*ROWS, seed=1), normal(1))),
    "log-softmax": (ops.log_softmax, lambda: (20 * normal(17, 3000),)),
    "log-softmax, backward": (ops.log_softmax_backward, lambda: (normal(17, 3000), -np.abs(normal(17, 3000)))),
    "mean squared error": (ops.mean_squared_error, lambda: (normal(*ROWS), normal(*ROWS, seed=1), 2100.0)),
    "mean absolute error": (ops.mean_absolute_error, lambda: (normal(*ROWS), normal(*ROWS, seed=1), 2100.0)),
    "binary cross-entropy": (
        ops.sigmoid_binary_cross_entropy,
        lambda: (9 * normal(*ROWS), np.abs(np.tanh(normal(*ROWS, seed=1))), 2100.0),
    ),
    "sum": (ops.weighted_sum, lambda: (normal(*ROWS), None, 10.0)),
    "max pool": (ops.max_pool2d, lambda: (normal(*IMAGES), STRIDED)),
    "max pool, backward": (ops.max_pool2d_backward, lambda: (normal(*PLACES, 40), normal(*IMAGES), STRIDED)),
    "mean pool, backward": (ops.avg_pool2d_backward, lambda: (normal(*PLACES, 40), STRIDED, (14, 13), False)),
    "global max pool, backward": (ops.global_max_pool_backward, lambda: (normal(9, 40), normal(*IMAGES))),
    "strided": (
        ops.conv2d_backward,
        lambda: (normal(*PLACES, 24), normal(*IMAGES), normal(3, 3, 40, 24), STRIDED, 1, True, False, False),
    ),
    "grouped": (ops.conv2d, lambda: (normal(*IMAGES), normal(3, 3, 8, 60), normal(60), SAME, 5)),
    "depthwise": (ops.conv2d, lambda: (normal(*IMAGES), normal(3, 3, 1, 40), normal(40), STRIDED, 40, ops.relu)),
    "transposed": (
        ops.conv_transpose2d,
        lambda: (normal(*PLACES, 24), normal(3, 3, 40, 24), normal(40), STRIDED, 1, (14, 13), ops.relu),
    ),
}


@pytest.mark.parametrize("name", LARGE)
def test_what_is_divided_means_what_the_reference_means(name: str) -> None:
    kernel, make = LARGE[name]
    args = make()
    variant = kernel.choose(args)
    assert variant.name == "fused"
    assert_close(variant.body(*args), kernel.reference.body(*args), "float32")


BITS = """
import hashlib, sys, numpy as np
sys.path.insert(0, sys.argv[1])
import test_fused_bodies as tests
for name, (kernel, make) in tests.LARGE.items():
    found = kernel(*make())
    for each in found if isinstance(found, tuple) else (found,):
        if each is not None:
            print(name, hashlib.sha256(np.asarray(each).tobytes()).hexdigest())
"""


def test_the_number_of_threads_changes_no_bit() -> None:
    found = []
    for threads in ("1", "2", "3"):
        environment = os.environ | {"BPNET_THREADS": threads, "PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run(
            [sys.executable, "-c", BITS, os.path.dirname(__file__)],
            capture_output=True, text=True, timeout=120, env=environment,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        found.append(done.stdout.splitlines())
    assert found[0] == found[1] == found[2]


def test_statistics_of_a_batch_far_from_0_are_exact() -> None:
    x = (np.random.default_rng(0).standard_normal((20000, 3)) + np.array([1e4, -3e3, 0])).astype(np.float32)
    y, mean, variance = ops.batch_norm(x, None, None, 0.0)
    exact = x.astype(np.float64)
    np.testing.assert_allclose(mean, exact.mean(0), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(variance, exact.var(0), rtol=2e-6)
    np.testing.assert_allclose(y, (exact - exact.mean(0)) / exact.std(0), atol=2e-3)


@pytest.mark.parametrize(
    ("n", "k", "stride", "dilation", "before", "after"),
    [
        (7, 3, 2, 1, 1, 1),
        (5, 2, 3, 1, 0, 0),
        (6, 4, 2, 3, 4, 5),
        (9, 3, 4, 2, 0, 3),
        (1, 1, 2, 1, 0, 0),
        (4, 3, 6, 4, 5, 4),
    ],
)
def test_parts_of_the_way_back_name_every_line_and_who_looked_at_it(
    n: int, k: int, stride: int, dilation: int, before: int, after: int
) -> None:
    from bpnet_numpy.fused.variants import windows

    window = Window((k, 1), (stride, 1), (dilation, 1), ((before, after), (0, 0)))
    places = window.places(n, 1)[0]
    expected = {
        (place * stride + i * dilation - before, place, i)
        for place in range(places)
        for i in range(k)
        if 0 <= place * stride + i * dilation - before < n
    }
    found = set()
    for part in windows.backward(window, (n, 1)):
        own = part.window
        for row in range(own.places(places, 1)[0]):
            for e, i in enumerate(part.elements):
                place = row + e * own.dilation[0] - own.padding[0][0]
                if 0 <= place < places:
                    found.add((part.first[0] + row * part.apart[0], place, i))
    assert found == expected


def test_a_step_with_norms_pools_and_convolutions_is_one_call() -> None:
    model = bp.Sequential(
        bp.Conv2d(1, 4, 3, padding=1), bp.BatchNorm(4), bp.PReLU(4), bp.MaxPool2d(3, stride=2),
        bp.GlobalAveragePool2d(), bp.Dense(4, 3),
    )  # fmt: skip
    trainer = bp.Trainer(model, bp.SoftmaxCrossEntropy(), bp.Adam(1e-3))
    x, y = normal(6, 9, 9, 1), np.arange(6) % 3
    for _ in range(3):
        trainer.step(x, y)
    (plan,) = trainer._planner.plans().values()  # type: ignore[union-attr]
    assert len(plan) == 1, trainer.plan_report()
