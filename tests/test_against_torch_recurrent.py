"""Recurrent layers against PyTorch's in float64, values and gradients, to 1e-10; runs where torch is installed.

Weights are (n_in, gates H) here and the transpose there. PyTorch has two biases, whose sum is the one here; only the
new part of a GRU keeps its second one, `bias_n`. Padded batches go there as packed sequences.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import bpnet as bp

torch = pytest.importorskip("torch", reason="compares with PyTorch where it is installed: pip install torch==2.13.0")

RNG = np.random.default_rng(8)
CLOSE = {"rtol": 1e-10, "atol": 1e-10}
LENGTHS = [4, 1, 6, 2, 6]
KINDS = {
    "tanh": (lambda *a, **k: bp.RNN(*a, **k), lambda *a, **k: torch.nn.RNN(*a, **k)),
    "relu": (
        lambda *a, **k: bp.RNN(*a, activation="relu", **k),
        lambda *a, **k: torch.nn.RNN(*a, nonlinearity="relu", **k),
    ),
    "lstm": (lambda *a, **k: bp.LSTM(*a, **k), lambda *a, **k: torch.nn.LSTM(*a, **k)),
    "gru": (lambda *a, **k: bp.GRU(*a, **k), lambda *a, **k: torch.nn.GRU(*a, **k)),
}


def names(layer: Any) -> list[str]:
    """The ends of PyTorch's names, in the order of our lists."""
    ways = ("", "_reverse") if layer.bidirectional else ("",)
    return [f"l{k}{way}" for k in range(layer.n_layers) for way in ways]


def give_theirs_ours(layer: Any, theirs: Any) -> None:
    """Draw our parameters, and copy them; of each bias a random part goes to the second one."""
    for parameter in layer.parameters().values():
        parameter.value = 0.5 * RNG.normal(size=parameter.shape)
    with torch.no_grad():
        for index, end in enumerate(names(layer)):
            bias = bp.to_numpy(layer.bias[index].value)
            second = RNG.normal(size=bias.shape)
            if isinstance(layer, bp.GRU):
                second[2 * layer.n_hidden :] = 0
            hidden = second.copy()
            if isinstance(layer, bp.GRU):
                hidden[2 * layer.n_hidden :] = bp.to_numpy(layer.bias_n[index].value)
            for name, value in (
                ("weight_ih", bp.to_numpy(layer.weight[index].value).T),
                ("weight_hh", bp.to_numpy(layer.recurrent[index].value).T),
                ("bias_ih", bias - second),
                ("bias_hh", hidden),
            ):
                getattr(theirs, f"{name}_{end}").copy_(torch.tensor(np.array(value)))


def check_gradients(layer: Any, theirs: Any) -> None:
    for index, end in enumerate(names(layer)):
        found = {name: getattr(theirs, f"{name}_{end}").grad.numpy() for name in ("weight_ih", "weight_hh", "bias_ih")}
        np.testing.assert_allclose(bp.to_numpy(layer.weight[index].grad), found["weight_ih"].T, **CLOSE)
        np.testing.assert_allclose(bp.to_numpy(layer.recurrent[index].grad), found["weight_hh"].T, **CLOSE)
        np.testing.assert_allclose(bp.to_numpy(layer.bias[index].grad), found["bias_ih"], **CLOSE)
        if isinstance(layer, bp.GRU):
            hidden = getattr(theirs, f"bias_hh_{end}").grad.numpy()
            np.testing.assert_allclose(bp.to_numpy(layer.bias_n[index].grad), hidden[2 * layer.n_hidden :], **CLOSE)


@pytest.mark.parametrize("backend", ["numpy", "torch"])
@pytest.mark.parametrize("padded", [False, True], ids=["whole", "padded"])
@pytest.mark.parametrize("bidirectional", [False, True], ids=["one way", "both ways"])
@pytest.mark.parametrize("n_layers", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_outputs_and_gradients(kind: str, n_layers: int, bidirectional: bool, padded: bool, backend: str) -> None:
    ours, make = KINDS[kind]
    layer = ours(3, 4, n_layers=n_layers, bidirectional=bidirectional).initialize(backend=backend, dtype="float64")
    theirs = make(3, 4, n_layers, bidirectional=bidirectional, batch_first=True, dtype=torch.float64)
    give_theirs_ours(layer, theirs)
    x = RNG.normal(size=(5, 6, 3))
    lengths = LENGTHS if padded else None
    y = layer.forward(layer.asarray(x), lengths=lengths)
    given = torch.tensor(x, requires_grad=True)
    pack, unpack = torch.nn.utils.rnn.pack_padded_sequence, torch.nn.utils.rnn.pad_packed_sequence
    if padded:
        packed, _ = theirs(pack(given, torch.tensor(LENGTHS), batch_first=True, enforce_sorted=False))
        expected = unpack(packed, batch_first=True, total_length=6)[0]
    else:
        expected, _ = theirs(given)
    np.testing.assert_allclose(bp.to_numpy(y), expected.detach().numpy(), **CLOSE)
    dy = RNG.normal(size=tuple(y.shape))
    dx = layer.backward(layer.asarray(dy))
    expected.backward(torch.tensor(dy))
    np.testing.assert_allclose(bp.to_numpy(dx), given.grad.numpy(), **CLOSE)
    check_gradients(layer, theirs)


@pytest.mark.parametrize("bidirectional", [False, True], ids=["one way", "both ways"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_last_output_is_the_top_layers_last_state(kind: str, bidirectional: bool) -> None:
    ours, make = KINDS[kind]
    layer = ours(3, 4, n_layers=2, bidirectional=bidirectional, last=True).initialize(dtype="float64")
    theirs = make(3, 4, 2, bidirectional=bidirectional, batch_first=True, dtype=torch.float64)
    give_theirs_ours(layer, theirs)
    x = RNG.normal(size=(5, 6, 3))
    given = torch.tensor(x, requires_grad=True)
    packed = torch.nn.utils.rnn.pack_padded_sequence(
        given, torch.tensor(LENGTHS), batch_first=True, enforce_sorted=False
    )
    state = theirs(packed)[1]
    state = state[0] if isinstance(state, tuple) else state
    expected = torch.cat([state[-2], state[-1]], -1) if bidirectional else state[-1]
    y = layer.forward(x, lengths=LENGTHS)
    np.testing.assert_allclose(y, expected.detach().numpy(), **CLOSE)
    dy = RNG.normal(size=y.shape)
    dx = layer.backward(dy)
    expected.backward(torch.tensor(dy))
    np.testing.assert_allclose(dx, given.grad.numpy(), **CLOSE)
    check_gradients(layer, theirs)


@pytest.mark.parametrize("kind", KINDS)
def test_the_states_of_a_step_are_pytorchs(kind: str) -> None:
    ours, make = KINDS[kind]
    layer = ours(3, 4, n_layers=2).initialize(dtype="float64")
    theirs = make(3, 4, 2, batch_first=True, dtype=torch.float64)
    give_theirs_ours(layer, theirs)
    x, more = RNG.normal(size=(5, 6, 3)), RNG.normal(size=(5, 2, 3))
    _, state = theirs(torch.tensor(x))
    expected, state = theirs(torch.tensor(more), state)
    _, cache = layer.step(x)
    y, cache = layer.step(more, cache)
    np.testing.assert_allclose(y, expected.detach().numpy(), **CLOSE)
    for k, own in enumerate(cache):
        for ours_k, theirs_k in zip(own, state if isinstance(state, tuple) else (state,), strict=True):
            np.testing.assert_allclose(ours_k, theirs_k[k].detach().numpy(), **CLOSE)
