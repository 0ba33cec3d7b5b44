"""The CUDA kernels of sequences on the host: tiles of every size, rows that see nothing, views, whole models."""

from __future__ import annotations

import importlib
from typing import Any

import cuda_host
import numpy as np
import pytest
from cuda_cases import ATTENTION, SIZES, cases_of, of_attention

from bpnet import ops
from bpnet.dispatch import Kernel, Variant
from bpnet.testing.kernels import assert_close, call
from bpnet_cupy.host.arrays import HostArray
from bpnet_cupy.kernels import attention as bodies

pytestmark = pytest.mark.cuda_host


def variant_of(name: str) -> tuple[Kernel, Variant]:
    return next((k, v) for k, v in cuda_host.variants() if k.name == name)


def hold(name: str, args: tuple[Any, ...], dtype: str, orders: tuple[int, ...] = (0, 1, 5)) -> set[str]:
    """Hold the variant to the reference in these orders of threads; return the kernels that were launched."""
    op, variant = variant_of(name)
    own = cuda_host.brought(args)
    assert variant.accepts is not None
    assert variant.accepts(*own)
    cuda_host.driver().launches.clear()
    with cuda_host.mode(orders=orders):
        found = cuda_host.back(variant.body(*own))
    assert_close(found, call(op.reference.body, args)[0], dtype)
    return {each.name for each in cuda_host.driver().launches}


@pytest.fixture
def few_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Probabilities are kept of next to nothing: what is done where there are too many of them."""
    monkeypatch.setattr(importlib.import_module("bpnet.ops.attention"), "KEPT", 4)
    monkeypatch.setattr(importlib.import_module("bpnet.ops.attention"), "BLOCK", 1 << 12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ATTENTION)
def test_attention_makes_its_probabilities_again(name: str, dtype: str, few_kept: None) -> None:
    compared = 0
    for args in cases_of(name, dtype):
        if 0 not in args[0].shape:
            compared += 1
            hold(name, args, dtype)
    assert compared > 10


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("name", ATTENTION)
def test_attention_in_larger_tiles(
    name: str, kept: bool, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    if not kept:
        request.getfixturevalue("few_kept")
    monkeypatch.setattr(bodies, "MANY", 1)
    launched: set[str] = set()
    for args in of_attention(name, SIZES)(np.random.default_rng(1), "float32"):
        launched |= hold(name, args, "float32", orders=(0, 3))
    assert any("<float, 4, 64>" in each for each in launched)


def test_attention_takes_keys_and_values_that_lie_side_by_side() -> None:
    """As one product makes them: views with gaps, whose gradients have none; no copy is made of them."""
    rng = np.random.default_rng(2)
    q, kv = rng.normal(size=(2, 5, 6)).astype(np.float32), rng.normal(size=(2, 7, 12)).astype(np.float32)
    own_q, own_kv = cuda_host.brought((q, kv))
    views = (own_q, own_kv[..., :6], own_kv[..., 6:])
    settings = (None, None, 2, False, 0.0)
    assert ops.attention.choose((*views, *settings)).name == "bpnet_cupy"
    with cuda_host.mode(orders=(0, 1, 5)):
        y, kept = ops.attention(*views, *settings)
        dy = HostArray(np.ones((2, 5, 6), np.float32))
        found = ops.attention_backward(dy, y, *views, kept, *settings)
    expected = ops.attention(q, kv[..., :6], kv[..., 6:], *settings)
    assert_close(cuda_host.back((y, kept)), expected, "float32")
    slopes = ops.attention_backward(dy.array, expected[0], q, kv[..., :6], kv[..., 6:], expected[1], *settings)
    assert_close(cuda_host.back(found), slopes, "float32")
    assert all(each.flags.c_contiguous for each in found)


def test_heads_of_more_features_than_a_tile_holds_go_to_the_reference() -> None:
    x = HostArray(np.ones((1, 2, 3 * 129), np.float32))
    for heads, body in ((1, "reference"), (3, "bpnet_cupy")):
        assert ops.attention.choose((x, x, x, None, None, heads, False, 0.0)).name == body
    assert ops.self_attention.choose((x, None, None, 1, False, 0.0)).name == "reference"


def test_a_value_that_nobody_sees_is_not_looked_at(few_kept: None) -> None:
    """Behind the tiles that a causal query sees there may be anything."""
    rng = np.random.default_rng(3)
    qkv = rng.normal(size=(1, 70, 12)).astype(np.float32)
    whole, _ = ops.self_attention(HostArray(qkv.copy()), None, None, 1, True, 0.0)
    qkv[0, 64:] = np.nan
    y, _ = ops.self_attention(HostArray(qkv), None, None, 1, True, 0.0)
    assert y.array[0, :64].tobytes() == whole.array[0, :64].tobytes()
    assert np.isnan(y.array[0, 64:]).all()
