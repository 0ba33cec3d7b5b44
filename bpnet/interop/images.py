"""The order of features where images become rows, or rows images: channels first in PyTorch, channels last here.

PyTorch flattens (C, H, W), bpnet (H, W, C). So the features that a product behind a Flatten sees, and those that one
before a Reshape makes, stand in another order. Only C need be known for that, which the layers say.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from bpnet.errors import ConfigError
from bpnet.layers import (
    BatchNorm,
    Concatenate,
    Dense,
    Dropout,
    Flatten,
    GroupNorm,
    Layer,
    LayerNorm,
    PReLU,
    Recompute,
    Reshape,
    Residual,
    Sequential,
)
from bpnet.layers.activations import Activation
from bpnet.layers.batch_norm import Normalization
from bpnet.layers.convolution import Convolution
from bpnet.layers.images import Spatial
from bpnet.layers.pooling import GlobalPool


@dataclass
class Order:
    """The channels of the flattened images that a layer's inputs, and its outputs, are; 0 where they are none."""

    inputs: int = 0
    outputs: int = 0


@dataclass(frozen=True)
class _State:
    """What flows: `kind` "rows", "image" (channels last, `channels` of them, 0: unknown) or "flat" (such an image)."""

    kind: str = "rows"
    channels: int = 0


def orders(model: Layer) -> dict[str, Order]:
    """The orders of the layers whose features are flattened images, by path.

    Raises ConfigError where they cannot be followed.
    """
    found: dict[str, Order] = {}
    _follow(_items(model, ""), _State(), found)
    return {path: order for path, order in found.items() if order.inputs > 1 or order.outputs > 1}


def _items(layer: Layer, path: str) -> list[tuple[str, Layer]]:
    """(path, layer) of what follows one another, those in Sequential and Recompute by themselves."""
    if not isinstance(layer, (Sequential, Recompute)) or isinstance(layer, Residual):
        return [(path, layer)]
    return [
        item
        for index, each in enumerate(layer.layers)
        for item in _items(each, f"{path}.{index}" if path else f"{index}")
    ]


def _follow(items: list[tuple[str, Layer]], state: _State, found: dict[str, Order]) -> _State:
    for index, (path, layer) in enumerate(items):
        if state.kind == "flat" and state.channels > 1:
            state = _behind_flatten(path, layer, state, found)
        elif isinstance(layer, Flatten) or (isinstance(layer, Reshape) and len(layer.shape) == 1):
            state = _State("flat", state.channels) if state.kind == "image" else _State()
            if state.kind == "flat" and not state.channels:
                raise _unknown(path, layer, "the channels of the images that it flattens are not known from the layers")
        elif isinstance(layer, Reshape):
            state = _reshaped(index, items, found)
        else:
            state = _through(path, layer, state, found)
    return state


def _through(path: str, layer: Layer, state: _State, found: dict[str, Order]) -> _State:
    """What flows behind a layer that neither flattens nor reshapes."""
    if isinstance(layer, GlobalPool):
        return _State()
    if isinstance(layer, Spatial):
        if layer.channels == "first":
            return _State()
        return _State("image", layer.n_out if isinstance(layer, Convolution) else state.channels)
    if isinstance(layer, Dense):
        return _State(state.kind, layer.n_out) if state.kind == "image" else _State()
    if isinstance(layer, Normalization) and state.kind == "image":
        return _State("image", layer.n_features)
    if isinstance(layer, Residual):
        after = _follow(
            [item for i, each in enumerate(layer.layers) for item in _items(each, f"{path}.{i}")], state, found
        )
        return after if after.kind == "image" else state
    if isinstance(layer, Concatenate):
        ways = [_follow(_items(each, f"{path}.{i}"), state, found) for i, each in enumerate(layer.layers)]
        if any(way.kind == "flat" and way.channels > 1 for way in ways):
            raise _unknown(path, layer, "it joins flattened images")
        if all(way.kind == "image" for way in ways):
            known = all(way.channels for way in ways) and layer.axis in (-1, 3)
            return _State("image", sum(way.channels for way in ways) if known else 0)
        return _State()
    return state if state.kind == "image" else _State()


def _behind_flatten(path: str, layer: Layer, state: _State, found: dict[str, Order]) -> _State:
    """Go on with rows that are flattened images; up to the product that ends them, features keep their places."""
    if isinstance(layer, Dense):
        found[path] = Order(inputs=state.channels)
        return _State()
    if _by_feature(layer):
        found[path] = Order(state.channels, state.channels)
        return state
    if _without_order(layer):
        return state
    raise _unknown(path, layer, "the order of the features of a flattened image cannot be followed through it")


def _reshaped(index: int, items: list[tuple[str, Layer]], found: dict[str, Order]) -> _State:
    """What a Reshape to images makes of rows; the product that made these rows has outputs in PyTorch's order."""
    layer = items[index][1]
    assert isinstance(layer, Reshape)
    behind = next(
        (
            each
            for _, item in items[index + 1 :]
            for _, each in item.walk()
            if isinstance(each, (Spatial, Normalization))
        ),
        None,
    )
    if len(layer.shape) < 2 or behind is None or behind.channels == "first":
        return _State()
    channels = layer.shape[-1]
    if channels == 1 or channels == math.prod(layer.shape):
        return _State("image", channels)
    passed: list[str] = []
    for path, before in reversed(items[:index]):
        if isinstance(before, Dense):
            order = found.setdefault(path, Order())
            order.outputs = channels
            found.update({each: Order(channels, channels) for each in passed})
            break
        if _by_feature(before):
            passed.append(path)
        elif not _without_order(before):
            raise _unknown(path, before, "the order of the features that become an image cannot be followed through it")
    return _State("image", channels)


def _by_feature(layer: Layer) -> bool:
    """Whether it has parameters of single features, and does nothing else to their order."""
    if isinstance(layer, GroupNorm):
        return layer.n_groups in (1, layer.n_features)
    return isinstance(layer, (BatchNorm, LayerNorm)) or (isinstance(layer, PReLU) and layer.n > 1)


def _without_order(layer: Layer) -> bool:
    return isinstance(layer, (Activation, Dropout, Flatten)) or (isinstance(layer, PReLU) and layer.n == 1)


def _unknown(path: str, layer: Layer, why: str) -> ConfigError:
    return ConfigError(
        f"{layer!r} at {path!r}: {why}, and PyTorch flattens images as (C, H, W), bpnet as (H, W, C); give "
        'images="NHWC" if the tensors are in the order (H, W, C) already, or make these layers with channels="first"'
    )
