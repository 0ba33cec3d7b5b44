"""The layers of sequences against PyTorch's in float64, values and gradients, to 1e-10; runs where torch is installed.

Where the two differ, the test says so and brings PyTorch's to ours:
- weights are (n_in, n_out) here and (n_out, n_in) there;
- a mask is True where there is a token here, PyTorch's key_padding_mask is True where there is none;
- a query that sees no key gives 0 here, and NaN in PyTorch's softmax, so no mask hides everything;
- causal attention of fewer queries than keys is aligned to the last key here, PyTorch's is_causal to the first.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import bpnet as bp

torch = pytest.importorskip("torch", reason="compares with PyTorch where it is installed: pip install torch==2.13.0")
F = torch.nn.functional

RNG = np.random.default_rng(5)
CLOSE = {"rtol": 1e-10, "atol": 1e-10}


def tensor(x: Any, grad: bool = True) -> Any:
    return torch.tensor(np.array(x), requires_grad=grad and np.asarray(x).dtype.kind == "f")


def both(layer: bp.Layer, theirs: Any, x: Any, **side: Any) -> tuple[bp.Layer, Any]:
    """One forward and backward of both, with one random dy; y and dx must agree."""
    y = layer.forward(x, **side)
    given = tensor(x)
    expected = theirs(given)
    np.testing.assert_allclose(y, expected.detach().numpy(), **CLOSE)
    dy = RNG.normal(size=y.shape)
    dx = layer.backward(dy)
    expected.backward(torch.tensor(dy))
    if dx is not None:
        np.testing.assert_allclose(dx, given.grad.numpy(), **CLOSE)
    return layer, given


@pytest.mark.parametrize("shape", [(3, 5), (2, 4, 6), (1, 1, 2), (2, 3, 4, 1)], ids=str)
@pytest.mark.parametrize("bias", [True, False])
def test_layer_norm(shape: tuple[int, ...], bias: bool) -> None:
    n = shape[-1]
    layer = bp.LayerNorm(n, epsilon=1e-3, bias=bias).initialize(dtype="float64")
    theirs = torch.nn.LayerNorm(n, eps=1e-3, bias=bias, dtype=torch.float64)
    layer.gain.value = RNG.normal(size=n)
    with torch.no_grad():
        theirs.weight.copy_(torch.tensor(layer.gain.value))
        if bias:
            assert layer.bias is not None
            layer.bias.value = RNG.normal(size=n)
            theirs.bias.copy_(torch.tensor(layer.bias.value))
    both(layer, theirs, 3 + 2 * RNG.normal(size=shape))
    np.testing.assert_allclose(layer.gain.grad, theirs.weight.grad.numpy(), **CLOSE)
    if bias:
        assert layer.bias is not None
        np.testing.assert_allclose(layer.bias.grad, theirs.bias.grad.numpy(), **CLOSE)


@pytest.mark.parametrize("shape", [(3, 5), (2, 4, 6)], ids=str)
def test_rms_norm(shape: tuple[int, ...]) -> None:
    layer = bp.RMSNorm(shape[-1], epsilon=1e-3).initialize(dtype="float64")
    theirs = torch.nn.RMSNorm(shape[-1], eps=1e-3, dtype=torch.float64)
    layer.gain.value = RNG.normal(size=shape[-1])
    with torch.no_grad():
        theirs.weight.copy_(torch.tensor(layer.gain.value))
    both(layer, theirs, RNG.normal(size=shape))
    np.testing.assert_allclose(layer.gain.grad, theirs.weight.grad.numpy(), **CLOSE)


@pytest.mark.parametrize(("n_tokens", "shape"), [(7, (3, 5)), (1, (2, 1)), (400, (4, 9)), (300, (1, 300))], ids=str)
def test_embedding(n_tokens: int, shape: tuple[int, ...]) -> None:
    layer = bp.Embedding(n_tokens, 3).initialize(dtype="float64")
    theirs = torch.nn.Embedding(n_tokens, 3, dtype=torch.float64)
    with torch.no_grad():
        theirs.weight.copy_(torch.tensor(layer.weight.value))
    both(layer, theirs, RNG.integers(0, n_tokens, size=shape))
    np.testing.assert_allclose(layer.weight.grad, theirs.weight.grad.numpy(), **CLOSE)


def test_swiglu_and_both_forms_of_gelu() -> None:
    x = 2 * RNG.normal(size=(4, 6))
    both(bp.Sequential(bp.SwiGLU()).initialize(dtype="float64"), lambda t: F.silu(t[:, :3]) * t[:, 3:], x)
    both(bp.Sequential(bp.GELU()).initialize(dtype="float64"), F.gelu, x)
    both(bp.Sequential(bp.GELU("tanh")).initialize(dtype="float64"), lambda t: F.gelu(t, approximate="tanh"), x)


@pytest.mark.parametrize("sizes", [(2, 5, 5, 2, 3), (1, 1, 1, 1, 1), (3, 4, 7, 1, 4), (2, 40, 40, 4, 8)], ids=str)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("causal", [False, True])
def test_scaled_dot_product_attention(sizes: tuple[int, ...], masked: bool, causal: bool) -> None:
    n, n_queries, n_keys, heads, size = sizes
    q, k, v = (RNG.normal(size=(n, length, heads * size)) for length in (n_queries, n_keys, n_keys))
    seen = np.ones((n, 1, n_queries, n_keys), bool)
    mask = None
    if masked:
        mask = np.arange(n_keys)[None, :] < RNG.integers(1, n_keys + 1, size=(n, 1))
        seen &= mask[:, None, None, :]
    if causal:
        seen &= np.tri(n_queries, n_keys, n_keys - n_queries, dtype=bool)
    y, kept = bp.ops.attention(q, k, v, mask, None, heads, causal, 0.0)
    given = [tensor(each) for each in (q, k, v)]
    split = [t.reshape(n, -1, heads, size).transpose(1, 2) for t in given]
    expected = F.scaled_dot_product_attention(*split, attn_mask=torch.tensor(seen)).transpose(1, 2).reshape(y.shape)
    np.testing.assert_allclose(y, expected.detach().numpy(), **CLOSE)
    dy = RNG.normal(size=y.shape)
    expected.backward(torch.tensor(dy))
    found = bp.ops.attention_backward(dy, y, q, k, v, kept, mask, None, heads, causal, 0.0)
    for a, b in zip(found, given, strict=True):
        np.testing.assert_allclose(a, b.grad.numpy(), **CLOSE)


def test_attention_that_makes_its_probabilities_again() -> None:
    n_queries, n_keys = 1100, 2000
    assert not bp.ops.attention.__wrapped__.__globals__["keeps_probabilities"](1, 2, n_queries, n_keys)
    q, k, v = (RNG.normal(size=(1, length, 6)) for length in (n_queries, n_keys, n_keys))
    y, kept = bp.ops.attention(q, k, v, None, None, 2, True, 0.0)
    assert kept.shape == (1, 2, n_queries)
    given = [tensor(each) for each in (q, k, v)]
    split = [t.reshape(1, -1, 2, 3).transpose(1, 2) for t in given]
    seen = torch.tensor(np.tri(n_queries, n_keys, n_keys - n_queries, dtype=bool))
    expected = F.scaled_dot_product_attention(*split, attn_mask=seen).transpose(1, 2).reshape(y.shape)
    np.testing.assert_allclose(y, expected.detach().numpy(), **CLOSE)
    dy = RNG.normal(size=y.shape)
    expected.backward(torch.tensor(dy))
    for a, b in zip(bp.ops.attention_backward(dy, y, q, k, v, kept, None, None, 2, True, 0.0), given, strict=True):
        np.testing.assert_allclose(a, b.grad.numpy(), **CLOSE)


def give_attention(ours: bp.MultiHeadAttention, theirs: Any) -> None:
    """Copy our weights, of random biases, into a torch.nn.MultiheadAttention."""
    for parameter in ours.parameters().values():
        if len(parameter.shape) == 1:
            parameter.value = RNG.normal(size=parameter.shape)
    with torch.no_grad():
        if ours.n_context is None:
            weight, bias = ours.qkv.weight.value.T, ours.qkv.bias.value  # type: ignore[union-attr]
        else:
            weight = np.concatenate((ours.query.weight.value, ours.key_value.weight.value), axis=1).T
            bias = np.concatenate((ours.query.bias.value, ours.key_value.bias.value))  # type: ignore[union-attr]
        theirs.in_proj_weight.copy_(torch.tensor(weight.copy()))
        theirs.in_proj_bias.copy_(torch.tensor(bias))
        theirs.out_proj.weight.copy_(torch.tensor(ours.output.weight.value.T.copy()))
        theirs.out_proj.bias.copy_(torch.tensor(ours.output.bias.value))  # type: ignore[union-attr]


def compare_attention(ours: bp.MultiHeadAttention, theirs: Any) -> None:
    np.testing.assert_allclose(ours.output.weight.grad.T, theirs.out_proj.weight.grad.numpy(), **CLOSE)
    if ours.n_context is None:
        weight, bias = ours.qkv.weight.grad, ours.qkv.bias.grad  # type: ignore[union-attr]
    else:
        weight = np.concatenate((ours.query.weight.grad, ours.key_value.weight.grad), axis=1)
        bias = np.concatenate((ours.query.bias.grad, ours.key_value.bias.grad))  # type: ignore[union-attr]
    np.testing.assert_allclose(weight.T, theirs.in_proj_weight.grad.numpy(), **CLOSE)
    np.testing.assert_allclose(bias, theirs.in_proj_bias.grad.numpy(), **CLOSE)


@pytest.mark.parametrize(("width", "heads", "length"), [(6, 2, 5), (4, 4, 1), (8, 1, 3)])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_multi_head_attention(width: int, heads: int, length: int, causal: bool, masked: bool) -> None:
    ours = bp.MultiHeadAttention(width, heads, causal=causal).initialize(dtype="float64", seed=1)
    theirs = torch.nn.MultiheadAttention(width, heads, batch_first=True, dtype=torch.float64)
    give_attention(ours, theirs)
    mask = np.arange(length)[None, :] < np.array([[length], [1], [max(1, length - 1)]])
    padding = torch.tensor(~mask) if masked else None
    hidden = torch.tensor(~np.tri(length, dtype=bool)) if causal else None

    def their(t: Any) -> Any:
        return theirs(t, t, t, key_padding_mask=padding, attn_mask=hidden, need_weights=False)[0]

    both(ours, their, RNG.normal(size=(3, length, width)), **({"mask": mask} if masked else {}))
    compare_attention(ours, theirs)


@pytest.mark.parametrize("masked", [False, True])
def test_attention_to_a_context(masked: bool) -> None:
    ours = bp.MultiHeadAttention(6, 2, n_context=6).initialize(dtype="float64", seed=1)
    theirs = torch.nn.MultiheadAttention(6, 2, batch_first=True, dtype=torch.float64)
    give_attention(ours, theirs)
    x, context = RNG.normal(size=(2, 3, 6)), RNG.normal(size=(2, 5, 6))
    mask = np.array([[True] * 5, [True, True, False, False, False]])
    tx, tc = tensor(x), tensor(context)
    expected, _ = theirs(tx, tc, tc, key_padding_mask=torch.tensor(~mask) if masked else None, need_weights=False)
    y = ours.forward(x, context, mask=mask if masked else None)
    np.testing.assert_allclose(y, expected.detach().numpy(), **CLOSE)
    dy = RNG.normal(size=y.shape)
    expected.backward(torch.tensor(dy))
    dx, dcontext = ours.backward(dy)
    np.testing.assert_allclose(dx, tx.grad.numpy(), **CLOSE)
    np.testing.assert_allclose(dcontext, tc.grad.numpy(), **CLOSE)
    compare_attention(ours, theirs)


@pytest.mark.parametrize("pre_norm", [True, False])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("length", [1, 4])
def test_transformer_block(pre_norm: bool, activation: str, length: int) -> None:
    ours = bp.TransformerBlock(6, 2, n_hidden=10, activation=activation, pre_norm=pre_norm, epsilon=1e-4)
    ours.initialize(dtype="float64", seed=1)
    theirs = torch.nn.TransformerEncoderLayer(
        6, 2, 10, dropout=0.0, activation=activation, layer_norm_eps=1e-4, batch_first=True, norm_first=pre_norm,
        dtype=torch.float64,
    )  # fmt: skip
    give_attention(ours.attention, theirs.self_attn)
    pairs = [
        (ours.feed[0].weight, theirs.linear1.weight),
        (ours.feed[0].bias, theirs.linear1.bias),
        (ours.feed[2].weight, theirs.linear2.weight),
        (ours.feed[2].bias, theirs.linear2.bias),
        (ours.attention_norm.gain, theirs.norm1.weight),
        (ours.attention_norm.bias, theirs.norm1.bias),
        (ours.feed_norm.gain, theirs.norm2.weight),
        (ours.feed_norm.bias, theirs.norm2.bias),
    ]
    for mine, their in pairs:
        mine.value = mine.value + 0.1 * RNG.normal(size=mine.shape)
        with torch.no_grad():
            their.copy_(torch.tensor(mine.value.T.copy()))
    mask = np.arange(length)[None, :] < np.array([[length], [max(1, length - 2)]])
    both(
        ours, lambda t: theirs(t, src_key_padding_mask=torch.tensor(~mask)), RNG.normal(size=(2, length, 6)), mask=mask
    )
    for mine, their in pairs:
        np.testing.assert_allclose(mine.grad.T, their.grad.numpy(), **CLOSE)
    compare_attention(ours.attention, theirs.self_attn)
