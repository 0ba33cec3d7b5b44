"""Weights of PyTorch's modules in bpnet's models, and back: the outputs are equal in float64 to 1e-10."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bpnet as bp
from bpnet.interop.torch import load_state_dict, save_state_dict

torch = pytest.importorskip("torch", reason="compares with PyTorch where it is installed: pip install torch==2.13.0")
nn = torch.nn
F = torch.nn.functional

RNG = np.random.default_rng(21)


def randomized(module: Any) -> Any:
    """The module in float64 and inference, with every parameter and statistic a number of its own."""
    module = module.double().eval()
    with torch.no_grad():
        for name, value in module.state_dict().items():
            if value.is_floating_point():
                values = RNG.normal(size=tuple(value.shape)) * (0.3 if value.ndim > 1 else 1)
                value.copy_(torch.tensor(np.abs(values) + 0.1 if "running_var" in name else values))
    return module


def to_file(module: Any, folder: Path) -> Path:
    """The module's weights as PyTorch's users write them; what several share is written for each."""
    from safetensors.torch import save_file

    path = folder / "theirs.safetensors"
    save_file({name: value.clone().contiguous() for name, value in module.state_dict().items()}, path)
    return path


def same(found: Any, expected: Any) -> None:
    np.testing.assert_allclose(bp.to_numpy(found), expected.detach().numpy(), rtol=1e-10, atol=1e-10)


def check(ours: bp.Layer, theirs: Any, x: Any, folder: Path, *, their_x: Any = None, **settings: Any) -> None:
    """Equal outputs from a file, and of a module that got what bpnet has written."""
    from safetensors.torch import load_file

    theirs = randomized(theirs)
    report = load_state_dict(ours.initialize(dtype="float64", seed=3), to_file(theirs, folder), **settings)
    assert report.complete
    assert {match.ours for match in report.matched} == set(ours.parameters())
    their_x = torch.tensor(x if their_x is None else their_x)
    expected = theirs(their_x)
    same(ours(ours.asarray(x)), expected)
    back = folder / "ours.safetensors"
    shapes = save_state_dict(ours, back, **settings)
    before = {name: value.clone() for name, value in theirs.state_dict().items()}
    assert shapes == {name: tuple(value.shape) for name, value in before.items()}
    randomized(theirs).load_state_dict(load_file(back))
    same(ours(ours.asarray(x)), theirs(their_x))
    summed = [name for name in before if "bias_ih" in name or "bias_hh" in name]  # only their sum is kept
    for name, value in theirs.state_dict().items():
        if name not in summed:
            torch.testing.assert_close(value, before[name], rtol=0, atol=0)


def image(*shape: int) -> tuple[Any, Any]:
    """The same images for bpnet, channels last, and for PyTorch, channels first."""
    x = RNG.normal(size=shape)
    return x, np.moveaxis(x, -1, 1).copy()


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("backend", ["numpy", "strict", "torch"])
def test_a_multilayer_perceptron(nested: bool, backend: str, tmp_path: Path) -> None:
    ours: bp.Layer
    if nested:
        ours = bp.Sequential(
            bp.Sequential(bp.Dense(5, 7), bp.ReLU()), bp.Recompute(bp.Dense(7, 7), bp.PReLU(7)), bp.Dense(7, 2)
        )
        theirs = nn.Sequential(
            nn.Sequential(nn.Linear(5, 7), nn.ReLU()), nn.Sequential(nn.Linear(7, 7), nn.PReLU(7)), nn.Linear(7, 2)
        )
    else:
        ours = bp.Sequential(bp.Dense(5, 7), bp.ReLU(), bp.Dense(7, 7, bias=False), bp.PReLU(), bp.Dense(7, 2))
        theirs = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 7, bias=False), nn.PReLU(), nn.Linear(7, 2))
    with bp.use_backend(backend):
        check(ours, theirs, RNG.normal(size=(4, 5)), tmp_path)


def test_a_single_layer_is_a_model_too(tmp_path: Path) -> None:
    check(bp.Dense(3, 4), nn.Linear(3, 4), RNG.normal(size=(2, 3)), tmp_path)
    check(bp.LSTM(3, 4), Outputs(nn.LSTM(3, 4, batch_first=True)), RNG.normal(size=(2, 5, 3)), tmp_path,
          names={"": "inner"})  # fmt: skip


@pytest.mark.parametrize("first", [False, True], ids=["channels last", "channels first"])
def test_an_image_network_with_flattened_features(first: bool, tmp_path: Path) -> None:
    c: dict[str, Any] = {"channels": "first"} if first else {}
    ours = bp.Sequential(
        bp.Conv2d(4, 6, (3, 2), groups=2, padding=1, **c),
        bp.BatchNorm(6, **c),
        bp.ReLU(),
        bp.MaxPool2d(2, **c),
        bp.Conv2d(6, 6, 3, groups=6, bias=False, **c),  # depthwise
        bp.GroupNorm(3, 6, **c),
        bp.Dropout2d(0.3, **c),
        bp.Flatten(),
        bp.BatchNorm(6 * 2 * 3),
        bp.PReLU(6 * 2 * 3),
        bp.Dropout(0.5),
        bp.Dense(6 * 2 * 3, 5),
        bp.LayerNorm(5),
    )
    theirs = nn.Sequential(
        nn.Conv2d(4, 6, (3, 2), groups=2, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 6, 3, groups=6, bias=False),
        nn.GroupNorm(3, 6),
        nn.Dropout2d(0.3),
        nn.Flatten(),
        nn.BatchNorm1d(6 * 2 * 3),
        nn.PReLU(6 * 2 * 3),
        nn.Dropout(0.5),
        nn.Linear(6 * 2 * 3, 5),
        nn.LayerNorm(5),
    )
    x, their_x = image(3, 8, 9, 4)
    check(ours, theirs, their_x if first else x, tmp_path, their_x=their_x)


def test_signals(tmp_path: Path) -> None:
    ours = bp.Sequential(bp.Conv1d(2, 6, 3, groups=2), bp.BatchNorm(6), bp.Flatten(), bp.Dense(6 * 5, 2))
    theirs = nn.Sequential(nn.Conv1d(2, 6, 3, groups=2), nn.BatchNorm1d(6), nn.Flatten(), nn.Linear(30, 2))
    x, their_x = image(3, 7, 2)
    check(ours, theirs, x, tmp_path, their_x=their_x)


@pytest.mark.parametrize("groups", [1, 2])
def test_an_autoencoder_whose_code_becomes_an_image(groups: int, tmp_path: Path) -> None:
    ours = bp.Sequential(
        bp.Conv2d(1, 4, 3, stride=2, padding=1),
        bp.Flatten(),
        bp.Dense(4 * 4 * 3, 5),
        bp.Tanh(),
        bp.Dense(5, 4 * 4 * 3),
        bp.BatchNorm(4 * 4 * 3),
        bp.ReLU(),
        bp.Reshape((4, 3, 4)),
        bp.ConvTranspose2d(4, 2, 3, stride=2, padding=1, output_padding=1, groups=groups),
    )
    theirs = nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2, padding=1),
        nn.Flatten(),
        nn.Linear(48, 5),
        nn.Tanh(),
        nn.Linear(5, 48),
        nn.BatchNorm1d(48),
        nn.ReLU(),
        nn.Unflatten(1, (4, 4, 3)),
        nn.ConvTranspose2d(4, 2, 3, stride=2, padding=1, output_padding=1, groups=groups),
    )
    x, their_x = image(2, 8, 6, 1)
    theirs = randomized(theirs)
    load_state_dict(ours.initialize(dtype="float64"), to_file(theirs, tmp_path))
    expected = theirs(torch.tensor(their_x)).permute(0, 2, 3, 1)
    same(ours(x), expected)
    save_state_dict(ours, tmp_path / "ours.safetensors")
    from safetensors.torch import load_file

    randomized(theirs).load_state_dict(load_file(tmp_path / "ours.safetensors"))
    same(ours(x), theirs(torch.tensor(their_x)).permute(0, 2, 3, 1))


def test_images_that_pytorch_has_flattened_channels_last(tmp_path: Path) -> None:
    class Last(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList([nn.Conv2d(2, 3, 2), nn.Linear(12, 2)])

        def forward(self, x: Any) -> Any:
            return self.layers[1](self.layers[0](x).permute(0, 2, 3, 1).flatten(1))

    ours = bp.Sequential(bp.Conv2d(2, 3, 2), bp.Flatten(), bp.Dense(12, 2))
    x, their_x = image(2, 3, 3, 2)
    check(ours, Last(), x, tmp_path, their_x=their_x, images="NHWC", names={"0": "layers.0", "2": "layers.1"})


def test_residual_images_by_names(tmp_path: Path) -> None:
    class Residual(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.conv, self.norm = nn.Conv2d(1, 3, 3), nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)
            self.head = nn.Linear(3 * 4 * 4, 2)

        def forward(self, x: Any) -> Any:
            x = self.stem(x)
            return self.head(torch.relu(x + self.norm(self.conv(x))).flatten(1))

    ours = bp.Sequential(
        bp.Conv2d(1, 3, 3),
        bp.Residual(bp.Conv2d(3, 3, 3, padding=1), bp.BatchNorm(3)),
        bp.ReLU(),
        bp.Flatten(),
        bp.Dense(48, 2),
    )
    x, their_x = image(2, 6, 6, 1)
    names = {"0": "stem", "1.0": "conv", "1.1": "norm", "4": "head"}
    check(ours, Residual(), x, tmp_path, their_x=their_x, names=names)


class Outputs(nn.Module):  # type: ignore[misc, name-defined]
    """A recurrent module without its states."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Any) -> Any:
        return self.inner(x)[0]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_recurrent_layers(kind: str, bidirectional: bool, bias: bool, tmp_path: Path) -> None:
    ours = bp.Sequential(getattr(bp, kind)(3, 4, n_layers=2, bidirectional=bidirectional))
    theirs = randomized(Outputs(getattr(nn, kind)(3, 4, 2, bidirectional=bidirectional, batch_first=True, bias=bias)))
    names = {"0": "inner"}
    x = RNG.normal(size=(2, 5, 3))
    if bias:
        check(ours, theirs, x, tmp_path, names=names)
        return
    report = load_state_dict(ours.initialize(dtype="float64"), to_file(theirs, tmp_path), names=names)
    same(ours(x), theirs(torch.tensor(x)))
    assert {match.done for match in report.matched if "bias" in match.ours} == {"zeros, since there are no biases"}


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_a_recurrent_cell(kind: str, tmp_path: Path) -> None:
    theirs = randomized(getattr(nn, f"{kind}Cell")(3, 4))
    ours = getattr(bp, kind)(3, 4).initialize(dtype="float64")
    load_state_dict(ours, to_file(theirs, tmp_path))
    x = RNG.normal(size=(2, 1, 3))
    y = theirs(torch.tensor(x[:, 0]))
    same(ours(x)[:, 0], y[0] if kind == "LSTM" else y)


@pytest.mark.parametrize("pre_norm", [True, False])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_a_transformer_encoder(pre_norm: bool, activation: str, tmp_path: Path) -> None:
    made: dict[str, Any] = {"n_hidden": 10, "activation": activation, "pre_norm": pre_norm}
    ours = bp.Sequential(bp.TransformerBlock(6, 2, **made), bp.TransformerBlock(6, 2, **made), bp.LayerNorm(6))
    layer = nn.TransformerEncoderLayer(
        6, 2, 10, dropout=0.0, activation=activation, batch_first=True, norm_first=pre_norm, dtype=torch.float64
    )
    theirs = nn.TransformerEncoder(layer, 2, nn.LayerNorm(6), enable_nested_tensor=False)
    check(ours, theirs, RNG.normal(size=(3, 4, 6)), tmp_path, names={"{i}": "layers.{i}", "2": "norm"})


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("width", [6, 5])
def test_attention_to_a_context(width: int, bias: bool, tmp_path: Path) -> None:
    ours = bp.MultiHeadAttention(6, 2, n_context=width, bias=bias).initialize(dtype="float64")
    theirs = randomized(nn.MultiheadAttention(6, 2, kdim=width, vdim=width, bias=bias, batch_first=True))
    load_state_dict(ours, to_file(theirs, tmp_path))
    x, context = RNG.normal(size=(2, 3, 6)), RNG.normal(size=(2, 5, width))
    to = torch.tensor(context)
    same(ours(x, context), theirs(torch.tensor(x), to, to)[0])
    save_state_dict(ours, tmp_path / "ours.safetensors")
    from safetensors.torch import load_file

    before = {name: value.clone() for name, value in theirs.state_dict().items()}
    for name, value in load_file(tmp_path / "ours.safetensors").items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


class Conv1D(nn.Module):  # type: ignore[misc, name-defined]
    """The linear layer of GPT-2, whose weight is (inputs, outputs)."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.zeros(n_in, n_out)), nn.Parameter(torch.zeros(n_out))

    def forward(self, x: Any) -> Any:
        return x @ self.weight + self.bias


class Attention(nn.Module):  # type: ignore[misc, name-defined]
    def __init__(self, width: int, heads: int, linear: Any) -> None:
        super().__init__()
        self.heads = heads
        self.c_attn, self.c_proj = linear(width, 3 * width), linear(width, width)
        self.register_buffer("bias", torch.tril(torch.ones(1, 1, 16, 16)))

    def forward(self, x: Any) -> Any:
        split = [part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.c_attn(x).chunk(3, -1)]
        return self.c_proj(F.scaled_dot_product_attention(*split, is_causal=True).transpose(1, 2).flatten(2))


class Block(nn.Module):  # type: ignore[misc, name-defined]
    def __init__(self, width: int, heads: int, linear: Any) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = Attention(width, heads, linear)
        self.mlp = nn.ModuleDict({"c_fc": linear(width, 4 * width), "c_proj": linear(4 * width, width)})

    def forward(self, x: Any) -> Any:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp["c_proj"](F.gelu(self.mlp["c_fc"](self.ln_2(x)), approximate="tanh"))


class GPT(nn.Module):  # type: ignore[misc, name-defined]
    """GPT-2's names: a small one."""

    def __init__(self, linear: Any, tied: bool) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(11, 8), nn.Embedding(16, 8)
        self.h = nn.ModuleList([Block(8, 2, linear) for _ in range(3)])
        self.ln_f, self.lm_head = nn.LayerNorm(8), nn.Linear(8, 11, bias=False)
        if tied:
            self.lm_head.weight = self.wte.weight

    def forward(self, ids: Any) -> Any:
        x = self.wte(ids) + self.wpe(torch.arange(ids.shape[1]))
        for block in self.h:
            x = block(x)
        return self.lm_head(self.ln_f(x))


GPT_NAMES = {"0": "wte", "1": "wpe", "{i}": "h.{i-2}", "5": "ln_f", "6": "lm_head"}


def our_gpt(tied: bool) -> bp.Layer:
    blocks = [bp.TransformerBlock(8, 2, causal=True, activation="gelu_tanh") for _ in range(3)]
    model = bp.Sequential(
        bp.Embedding(11, 8), bp.LearnedPositions(16, 8), *blocks, bp.LayerNorm(8), bp.Unembedding(11, 8)
    )
    if tied:
        model[6].weight = model[0].weight
    return model.initialize(dtype="float64")


@pytest.mark.parametrize("given", ["both", "the table", "the head"])
@pytest.mark.parametrize("linear", [Conv1D, nn.Linear])
def test_a_small_gpt_from_a_file(linear: Any, given: str, tmp_path: Path) -> None:
    theirs = randomized(GPT(linear, tied=True))
    state = {name: value.clone().contiguous() for name, value in theirs.state_dict().items()}
    if given == "the table":  # as safetensors.torch.save_model writes what is shared
        del state["lm_head.weight"]
    elif given == "the head":
        del state["wte.weight"]
    from safetensors.torch import save_file

    path = tmp_path / "gpt.safetensors"
    save_file(state, path)
    ours = our_gpt(tied=True)
    report = load_state_dict(ours, path, names=GPT_NAMES, conv1d=linear is Conv1D)
    assert report.ignored == {f"h.{i}.attn.bias": "a mask" for i in range(3)}
    ids = RNG.integers(0, 11, size=(2, 9))
    same(ours(ids), theirs(torch.tensor(ids)))


def test_a_gpt_whose_head_is_its_own_and_whose_square_matrices_are_named(tmp_path: Path) -> None:
    theirs = randomized(GPT(Conv1D, tied=False))
    path = to_file(theirs, tmp_path)
    ours = our_gpt(tied=False)
    ids = RNG.integers(0, 11, size=(2, 9))
    load_state_dict(ours, path, names=GPT_NAMES, conv1d=("*.c_attn.weight", "*.c_proj.weight", "*.c_fc.weight"))
    same(ours(ids), theirs(torch.tensor(ids)))
    with pytest.raises(
        bp.CheckpointError, match=r"0.attn.c_attn.weight' must be of shape \(24, 8\), found \(8, 24\), wh"
    ):
        load_state_dict(ours, path, names=GPT_NAMES)
    same(ours(ids), theirs(torch.tensor(ids)))
    with pytest.raises(bp.CheckpointError, match="must be equal to what was loaded before, since several layers share"):
        load_state_dict(our_gpt(tied=True), path, names=GPT_NAMES, conv1d=True)


def test_a_gated_block_with_rotary_positions_and_llamas_names(tmp_path: Path) -> None:
    class Llama(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.input_layernorm, self.post_attention_layernorm = nn.RMSNorm(8, 1e-6), nn.RMSNorm(8, 1e-6)
            self.self_attn = nn.ModuleDict({f"{n}_proj": nn.Linear(8, 8, bias=False) for n in "qkvo"})
            sizes = {"gate_proj": (8, 10), "up_proj": (8, 10), "down_proj": (10, 8)}
            self.mlp = nn.ModuleDict({name: nn.Linear(*size, bias=False) for name, size in sizes.items()})

        def turned(self, x: Any) -> Any:
            angle = torch.arange(x.shape[-2]).double()[:, None] / 10000 ** (torch.arange(2).double() / 2)
            cos, sin = angle.cos().repeat(1, 2), angle.sin().repeat(1, 2)
            return x * cos + torch.cat((-x[..., 2:], x[..., :2]), -1) * sin

        def forward(self, x: Any) -> Any:
            z = self.input_layernorm(x)
            q, k, v = (self.self_attn[f"{n}_proj"](z).unflatten(-1, (2, 4)).transpose(1, 2) for n in "qkv")
            a = F.scaled_dot_product_attention(self.turned(q), self.turned(k), v, is_causal=True)
            x = x + self.self_attn["o_proj"](a.transpose(1, 2).flatten(2))
            z = self.post_attention_layernorm(x)
            return x + self.mlp["down_proj"](F.silu(self.mlp["gate_proj"](z)) * self.mlp["up_proj"](z))

    theirs = randomized(Llama())
    ours = bp.TransformerBlock(
        8, 2, n_hidden=10, activation="swiglu", norm="rms", bias=False, causal=True, rotary=10000.0
    ).initialize(dtype="float64")
    load_state_dict(ours, to_file(theirs, tmp_path))
    x = RNG.normal(size=(2, 5, 8))
    same(ours(x), theirs(torch.tensor(x)))


@pytest.mark.parametrize("kind", ["file", "mapping"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_smaller_dtypes_come_over_exactly(dtype: str, kind: str, tmp_path: Path) -> None:
    theirs = nn.Linear(5, 4).to(getattr(torch, dtype))
    ours = bp.Dense(5, 4).initialize(dtype="float64")
    report = load_state_dict(ours, to_file(theirs, tmp_path) if kind == "file" else theirs.state_dict())
    np.testing.assert_array_equal(ours.weight.value, theirs.weight.detach().double().numpy().T)
    assert report.matched[0].done == f"transposed, from {dtype}"
