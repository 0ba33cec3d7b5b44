"""Random numbers: Philox to the bit, distributions, and the same draws everywhere."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bpnet as bp
from bpnet.ops.random import philox
from bpnet.random import HostStream, check_seed, normal_quantile

WORD = st.integers(0, 2**64 - 1)


@settings(max_examples=60, deadline=None)
@given(key=st.tuples(WORD, WORD), step=st.integers(0, 2**63 - 1), micro=st.integers(0, 2**63 - 1), n=st.integers(0, 33))
@pytest.mark.parametrize("name", ["numpy", "strict", "strict:device1", pytest.param("torch", marks=pytest.mark.torch)])
def test_philox_is_numpys_to_the_bit(name: str, key: tuple[int, int], step: int, micro: int, n: int) -> None:
    backend = bp.get_backend(name)
    counters = backend.asarray(np.array([step, micro], dtype=np.int64))
    generator = np.random.Philox(
        key=np.array(key, dtype=np.uint64), counter=np.array([0, micro, step, 0], dtype=np.uint64)
    )
    expected = generator.random_raw(n) if n else np.zeros(0, np.uint64)
    for body in (philox, philox.reference.body):
        words = bp.to_numpy(body(counters, 1, key, n))
        assert words.dtype == np.uint64
        assert np.array_equal(words, expected)


def test_the_first_words_are_pinned() -> None:
    assert HostStream(0, "pinned").words(3).tolist() == [
        7162012368559342663,
        13714516859669779351,
        11827115965997604047,
    ]


def test_initial_values_are_pinned_to_the_bit() -> None:
    """These numbers must never change: a seed stands for one model in every version and on every machine."""
    model = bp.Sequential(bp.Dense(3, 2)).initialize(seed=7, dtype="float64")
    found = [x.hex() for x in model[0].weight.value.reshape(-1).tolist()]  # type: ignore[attr-defined]
    assert found == PINNED_WEIGHTS


PINNED_WEIGHTS = [
    "0x1.a7ab8f31c3389p-1",
    "0x1.2edd1adf2ba2ap+0",
    "-0x1.15a62069fe24cp+0",
    "0x1.a2d417bc6a1f1p-1",
    "0x1.3ac1127847264p-2",
    "0x1.68080b8db77b9p-2",
]


def test_normals_have_the_right_moments_and_tails() -> None:
    z = HostStream(3, "moments").normal((1000, 1000))
    assert abs(z.mean()) < 4e-3
    assert abs(z.std() - 1) < 3e-3
    assert abs((z**3).mean()) < 1e-2
    assert abs((z**4).mean() - 3) < 3e-2
    assert 4.2 < np.abs(z).max() < 6.5


@pytest.mark.parametrize("p", [1e-300, 1e-20, 1e-9, 0.01, 0.0749, 0.2, 0.5, 0.8, 0.999, 1 - 1e-12])
def test_the_normal_quantile_inverts_the_distribution_function(p: float) -> None:
    z = float(normal_quantile(np.array([p]))[0])
    back = 0.5 * math.erfc(-z / math.sqrt(2))
    assert back == pytest.approx(p, rel=2e-12 if p > 1e-100 else 1e-10)


def test_uniforms_are_never_0_or_1() -> None:
    u = HostStream(0, "u").uniform((100_000,))
    assert 0 < u.min() < 1e-4
    assert 1 - 1e-4 < u.max() < 1
    assert abs(u.mean() - 0.5) < 3e-3


def test_purposes_and_seeds_give_independent_streams() -> None:
    streams = [HostStream(seed, purpose).words(4).tolist() for seed in (0, 1) for purpose in ("a", "b")]
    assert len({tuple(s) for s in streams}) == 4


@given(n=st.integers(0, 200), seed=st.integers(0, 2**64 - 1))
@settings(max_examples=30, deadline=None)
def test_a_permutation_has_every_number_once(n: int, seed: int) -> None:
    assert sorted(HostStream(seed, "p").permutation(n).tolist()) == list(range(n))


@pytest.mark.parametrize("seed", [-1, 2**64, 1.5, "0", None])
def test_bad_seeds_are_refused(seed: object) -> None:
    with pytest.raises(bp.ConfigError, match="seed must"):
        check_seed(seed)
    with pytest.raises(bp.ConfigError, match="seed must"):
        bp.Sequential(bp.Dense(1, 1)).initialize(seed=seed)  # type: ignore[arg-type]


def test_weights_and_masks_are_equal_to_the_bit_on_every_backend(backend: bp.Backend) -> None:
    def weights_and_masks(chosen: object) -> list[np.ndarray]:
        model = bp.Sequential(bp.Dense(9, 33), bp.Dropout(0.3), bp.Dense(33, 5), bp.Dropout(0.6))
        model.initialize(seed=11, backend=chosen)  # type: ignore[arg-type]
        found = [bp.to_numpy(p.value) for p in model.parameters().values()]
        x = model.asarray(np.ones((7, 9), np.float32))
        for _ in range(3):
            model.forward(x)
            for layer in (model[1], model[3]):
                found.append(bp.to_numpy(layer._kept[0]))  # type: ignore[index]
            model.backward(model.asarray(np.ones((7, 5), np.float32)))
        return found

    for a, b in zip(weights_and_masks(backend), weights_and_masks("numpy"), strict=True):
        assert a.dtype == b.dtype
        assert a.tobytes() == b.tobytes()
