"""Every layer's parameters in PyTorch's names and layouts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from bpnet.layers import (
    BatchNorm,
    Dense,
    Embedding,
    GroupNorm,
    Layer,
    LayerNorm,
    LearnedPositions,
    MultiHeadAttention,
    Normalize,
    PReLU,
    RMSNorm,
    TransformerBlock,
    Unembedding,
)
from bpnet.layers.base import _INTERNAL
from bpnet.layers.convolution import Convolution
from bpnet.layers.recurrence import Recurrent
from bpnet.layers.recurrent import GRU
from bpnet.layers.tree import held
from bpnet.parameter import Parameter

Arrays = tuple[Any, ...]


@dataclass(frozen=True)
class Piece:
    """One parameter of ours and the tensors of PyTorch's that it is made of.

    ours, theirs : names below the layer; shapes : of theirs
    load   : ours from theirs; save : contributions to theirs from ours, which add up over the pieces
    done   : what `load` does, in words
    matrix : whether theirs are (outputs, inputs), which a Conv1D of GPT-2 has the other way round
    shared : whether several pieces have parts of one of theirs
    """

    ours: str
    theirs: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    load: Callable[..., Any]
    save: Callable[[Any], Arrays]
    done: str
    matrix: bool = False
    shared: bool = False

    def untransposed(self) -> Piece:
        """The same of tensors that are (inputs, outputs)."""
        return replace(
            self,
            shapes=tuple(shape[::-1] for shape in self.shapes),
            load=lambda *theirs: self.load(*(each.T for each in theirs)),
            save=lambda ours: tuple(each.T for each in self.save(ours)),
            done=self.done.replace("transposed", "as it is (Conv1D)"),
        )

    def reordered(self, axis: int, channels: int, what: str) -> Piece:
        """The same where features on this axis of theirs are places of images, channels first there and last here."""

        def load(*theirs: Any) -> Any:
            return self.load(*(_reordered(each, axis, (channels, -1)) for each in theirs))

        def save(ours: Any) -> Arrays:
            return tuple(_reordered(each, axis, (-1, channels)) for each in self.save(ours))

        return replace(self, load=load, save=save, done=f"{self.done}, {what} from channels first to last")


@dataclass(frozen=True)
class Form:
    """One way in which PyTorch's module may name what a layer has.

    pieces : the layer's own parameters, or those of layers below that are fused or divided
    below  : the layers below, by path, and their names there; several that are one of ours as a tuple
    kept   : parameters that PyTorch's module has not
    """

    pieces: tuple[Piece, ...] = ()
    below: dict[str, str | tuple[str, ...]] = field(default_factory=dict)
    kept: dict[str, str] = field(default_factory=dict)


def _reordered(x: Any, axis: int, split: tuple[int, int]) -> Any:
    """`x` whose axis is two in one, with the two in the other order."""
    apart = x.reshape(*x.shape[:axis], *split, *x.shape[axis + 1 :])
    return np.swapaxes(apart, axis, axis + 1).reshape(x.shape)


def _same(ours: str, theirs: str, shape: tuple[int, ...]) -> Piece:
    return Piece(ours, (theirs,), (shape,), lambda x: x, lambda x: (x,), "as it is")


def _turned(ours: str, theirs: str, shape: tuple[int, ...], axes: tuple[int, ...]) -> Piece:
    """ours = theirs with `axes` in this order."""
    back = tuple(int(i) for i in np.argsort(axes))
    return Piece(
        ours,
        (theirs,),
        (tuple(shape[i] for i in back),),
        lambda x: x.transpose(axes),
        lambda x: (x.transpose(back),),
        "transposed" if axes == (1, 0) else f"axes {axes}",
    )


def _matrices(ours: str, theirs: tuple[str, ...], n_in: int, n_out: int) -> Piece:
    """ours (n_in, n_out) is the transpose of theirs (n_out, n_in), of several with their outputs side by side."""
    n, more = len(theirs), ", side by side" if len(theirs) > 1 else ""
    return Piece(
        ours,
        theirs,
        ((n_out // n, n_in),) * n,
        lambda *each: np.concatenate(each, axis=0).T,
        lambda x: tuple(np.split(x.T, n, axis=0)),
        f"transposed{more}",
        matrix=True,
    )


def _vectors(ours: str, theirs: tuple[str, ...], n_out: int) -> Piece:
    n = len(theirs)
    if n == 1:
        return _same(ours, theirs[0], (n_out,))
    return Piece(
        ours,
        theirs,
        ((n_out // n,),) * n,
        lambda *each: np.concatenate(each),
        lambda x: tuple(np.split(x, n)),
        "side by side",
    )


def _rows(ours: str, theirs: str, shape: tuple[int, ...], start: int, stop: int) -> Piece:
    """ours is some rows of theirs, transposed where these are matrices."""

    def save(x: Any) -> Arrays:
        whole = np.zeros(shape, x.dtype)
        whole[start:stop] = x.T
        return (whole,)

    turned = "transposed" if len(shape) > 1 else "as they are"
    return Piece(
        ours, (theirs,), (shape,), lambda x: x[start:stop].T, save, f"rows {start} to {stop - 1}, {turned}", shared=True
    )


def dense(layer: Dense, names: tuple[str, ...] = ("",)) -> Form:
    """A product, whose outputs may be those of several of PyTorch's side by side. names : of these"""
    weights, biases = (tuple(f"{n}.{kind}" if n else kind for n in names) for kind in ("weight", "bias"))
    pieces = [_matrices("weight", weights, layer.n_in, layer.n_out)]
    if layer.bias is not None:
        pieces.append(_vectors("bias", biases, layer.n_out))
    return Form(tuple(pieces))


def _convolution(layer: Convolution) -> Form:
    axes = (2, 1, 0) if layer.axes == 1 else (2, 3, 1, 0)
    pieces = [_turned("weight", "weight", layer.weight.shape, axes)]
    if layer.bias is not None:
        pieces.append(_same("bias", "bias", layer.bias.shape))
    return Form(tuple(pieces))


def _recurrent(layer: Recurrent) -> Iterator[Form]:
    """As a module with biases, without, and as a cell."""
    n, ends = len(layer.weight), []
    for index in range(n):
        depth, back = divmod(index, layer.n_directions)
        ends.append(f"_l{depth}{'_reverse' * back}")
    yield Form(tuple(_gates(layer, ends, True)))
    yield Form(tuple(_gates(layer, ends, False)))
    if n == 1:
        yield Form(tuple(_gates(layer, [""], True)))
        yield Form(tuple(_gates(layer, [""], False)))


def _gates(layer: Recurrent, ends: list[str], biased: bool) -> Iterator[Piece]:
    for index, end in enumerate(ends):
        W, U, b = layer.weight[index].shape, layer.recurrent[index].shape, layer.bias[index].shape
        yield _turned(f"weight.{index}", f"weight_ih{end}", W, (1, 0))
        yield _turned(f"recurrent.{index}", f"weight_hh{end}", U, (1, 0))
        names = (f"bias_ih{end}", f"bias_hh{end}")
        if not biased:
            yield _zeros(f"bias.{index}", b)
            if isinstance(layer, GRU):
                yield _zeros(f"bias_n.{index}", (layer.n_hidden,))
        elif isinstance(layer, GRU):
            yield from _gru_biases(index, names, layer.n_hidden)
        else:
            yield Piece(
                f"bias.{index}", names, (b, b), lambda ih, hh: ih + hh, lambda x: (x, np.zeros_like(x)), "added"
            )


def _zeros(ours: str, shape: tuple[int, ...]) -> Piece:
    return Piece(ours, (), (), lambda: np.zeros(shape), lambda x: (), "zeros, since there are no biases")


def _gru_biases(index: int, names: tuple[str, str], width: int) -> Iterator[Piece]:
    """Those of r and z add up; of n, the one of the recurrent part stays by itself, since r multiplies it."""
    both = 2 * width

    def add(ih: Any, hh: Any) -> Any:
        return np.concatenate((ih[:both] + hh[:both], ih[both:]))

    def own(x: Any) -> Arrays:
        return (np.concatenate((np.zeros(both, x.dtype), x)),)

    shape = (3 * width,)
    what = "those of r and z added, of n the input's"
    yield Piece(f"bias.{index}", names, (shape, shape), add, lambda x: (x, np.zeros_like(x)), what, shared=True)
    yield Piece(f"bias_n.{index}", names[1:], (shape,), lambda hh: hh[both:], own, "that of n", shared=True)


def _attention(layer: MultiHeadAttention) -> Iterator[Form]:
    D, C = layer.n_features, layer.n_context
    biased = layer.output.bias is not None
    if C is None:
        fused = _matrices("qkv.weight", ("in_proj_weight",), D, 3 * D)
        biases = [_same("qkv.bias", "in_proj_bias", (3 * D,))] if biased else []
        yield Form((replace(fused, matrix=False), *biases), {"output": "out_proj"})
        yield Form((), {"qkv": "c_attn", "output": "c_proj"})
        for last in ("out_proj", "o_proj"):
            yield Form((), {"qkv": ("q_proj", "k_proj", "v_proj"), "output": last})
        yield Form((), {"qkv": "qkv", "output": "output"})
        return
    biases = []
    if biased:
        biases = [
            _rows("query.bias", "in_proj_bias", (3 * D,), 0, D),
            _rows("key_value.bias", "in_proj_bias", (3 * D,), D, 3 * D),
        ]
    one = (
        _rows("query.weight", "in_proj_weight", (3 * D, D), 0, D),
        _rows("key_value.weight", "in_proj_weight", (3 * D, D), D, 3 * D),
    )
    apart = (
        replace(_matrices("query.weight", ("q_proj_weight",), D, D), matrix=False),
        replace(_matrices("key_value.weight", ("k_proj_weight", "v_proj_weight"), C, 2 * D), matrix=False),
    )
    yield Form((*(one if C == D else apart), *biases), {"output": "out_proj"})
    if C == D:
        yield Form((*apart, *biases), {"output": "out_proj"})
    yield Form((), {"query": "q_proj", "key_value": ("k_proj", "v_proj"), "output": "out_proj"})
    yield Form((), {"query": "query", "key_value": "key_value", "output": "output"})


def _block(layer: TransformerBlock) -> Iterator[Form]:
    """As nn.TransformerEncoderLayer, as GPT-2, as Llama where it is gated, or by our own names."""
    last = max(index for index, each in enumerate(layer.feed.layers) if isinstance(each, Dense))
    ours = ("attention", "feed.0", f"feed.{last}", "attention_norm", "feed_norm")
    several: tuple[str, ...] = ("mlp.gate_proj", "mlp.up_proj")
    for theirs in (
        ("self_attn", "linear1", "linear2", "norm1", "norm2"),
        ("attn", "mlp.c_fc", "mlp.c_proj", "ln_1", "ln_2"),
        ("self_attn", several, "mlp.down_proj", "input_layernorm", "post_attention_layernorm"),
        ours,
    ):
        yield Form((), dict(zip(ours, theirs, strict=True)))


def _own(layer: Layer) -> Iterator[tuple[str, Parameter]]:
    """The parameters that the layer's own attributes hold."""
    for name, value in vars(layer).items():
        if name not in _INTERNAL:
            yield from held(Parameter, name, value)


_PLAIN: dict[type[Layer], dict[str, str]] = {
    BatchNorm: {"weight": "weight", "bias": "bias", "running_mean": "running_mean", "running_variance": "running_var"},
    **{kind: {"weight": "weight", "bias": "bias"} for kind in (GroupNorm, LayerNorm)},
    **{kind: {"weight": "weight"} for kind in (RMSNorm, Embedding, Unembedding, LearnedPositions)},
    PReLU: {"slope": "weight"},
}


def forms(layer: Layer) -> list[Form]:
    """The ways in which PyTorch may name what the layer has, PyTorch's own first.

    A layer that bpnet does not know has its own names, and its arrays are taken as they are.
    """
    plain = next((names for kind, names in _PLAIN.items() if isinstance(layer, kind)), None)
    if plain is not None:
        return [Form(tuple(_same(ours, plain[ours], p.shape) for ours, p in _own(layer)))]
    if isinstance(layer, Dense):
        return [dense(layer)]
    if isinstance(layer, Convolution):
        return [_convolution(layer)]
    if isinstance(layer, Recurrent):
        return list(_recurrent(layer))
    if isinstance(layer, MultiHeadAttention):
        return list(_attention(layer))
    if isinstance(layer, TransformerBlock):
        return list(_block(layer))
    own = [_same(path, path, parameter.shape) for path, parameter in _own(layer)]
    by_name = Form(tuple(own), {name: name for name, _ in layer.children()})
    if isinstance(layer, Normalize):
        return [Form(kept={piece.ours: "PyTorch has no such layer" for piece in own}), by_name]
    return [by_name]
