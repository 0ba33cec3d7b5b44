"""Models as files: the architecture as JSON, the values as tensors. No pickle, no code."""

from __future__ import annotations

import json
import os
from typing import Any

from bpnet import initializers
from bpnet.backend import FLOATING_DTYPES, Backend, get_backend, to_numpy
from bpnet.errors import BpnetError, CheckpointError, ConfigError
from bpnet.files import SEAL, read, write
from bpnet.layers import (
    activations,
    attention,
    batch_norm,
    containers,
    convolution,
    dense,
    dropout,
    embedding,
    flatten,
    layer_norm,
    normalize,
    parametric,
    pooling,
    positions,
    recurrent,
    transformer,
)
from bpnet.layers.base import Layer
from bpnet.layers.tree import arguments
from bpnet.random import check_seed

FORMAT = "bpnet-model"
VERSION = 2  # 1, without a digest of the file, is still read

_MODULES = (
    activations,
    batch_norm,
    containers,
    convolution,
    dense,
    dropout,
    flatten,
    normalize,
    parametric,
    pooling,
    attention,
    embedding,
    layer_norm,
    positions,
    recurrent,
    transformer,
)


def known_layers() -> dict[str, type[Layer]]:
    """bpnet's own layers by name: what a file may name without `custom`."""
    return {
        name: cls
        for module in _MODULES
        for name, cls in vars(module).items()
        if isinstance(cls, type) and issubclass(cls, Layer) and cls.__module__ == module.__name__
    }


def architecture(layer: Layer) -> dict[str, Any]:
    """The layer as JSON values: its class, whether that is one of bpnet's, and its constructor's arguments.

    Raises ConfigError when an argument is nothing that JSON can hold.
    """
    name = type(layer).__name__
    positional, keywords = arguments(layer)
    return {
        "layer": name,
        "custom": known_layers().get(name) is not type(layer),
        "args": [_encode(value, f"{name}(...)") for value in positional],
        "config": {k: _encode(v, f"{name}({k}=...)") for k, v in keywords.items()},
    }


def _encode(value: Any, where: str) -> Any:
    if isinstance(value, Layer):
        return architecture(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        return [_encode(each, where) for each in value]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {"dict": {k: _encode(v, where) for k, v in value.items()}}
    if isinstance(value, initializers.constant):
        return {"constant": value.value}
    name = getattr(value, "__name__", "")
    if initializers.INITIALIZERS.get(name) is value:
        return name
    raise ConfigError(
        f"{where} is {value!r}, which JSON cannot hold; use numbers, strings, layers, lists of them, or the name of an "
        "initializer in bpnet.initializers.INITIALIZERS"
    )


def build(description: Any, custom: tuple[type[Layer], ...] = ()) -> Layer:
    """Make the layer that `architecture` described; it holds no arrays yet.

    Raises CheckpointError when the description is malformed, names an unknown class, or the class refuses it.
    """
    try:
        return _build(description, {cls.__name__: cls for cls in custom})
    except RecursionError as error:
        raise CheckpointError("the architecture is nested too deeply") from error


def _build(description: Any, custom: dict[str, type[Layer]]) -> Layer:
    if not isinstance(description, dict) or not isinstance(description.get("config"), dict):
        raise CheckpointError(f"the architecture has {str(description)[:80]!r} in the place of a layer")
    name, positional = description.get("layer"), description.get("args", [])
    if not isinstance(name, str) or not isinstance(positional, list):
        raise CheckpointError(f"the architecture has {str(description)[:80]!r} in the place of a layer")
    cls = custom.get(name) if description.get("custom") else known_layers().get(name)
    if cls is None:
        raise CheckpointError(
            f"the file has a layer of class {name[:80]!r}, which is not one of bpnet's; in Python, pass the class: "
            f"bpnet.load(path, custom=({name[:80]},))"
        )
    args = [_decode(value, custom) for value in positional]
    keywords = {k: _decode(v, custom) for k, v in description["config"].items()}
    try:
        return cls(*args, **keywords)
    except (TypeError, OverflowError, BpnetError) as error:
        raise CheckpointError(f"the file's {name} cannot be made of {str(keywords)[:200]}: {error}") from error


def _decode(value: Any, custom: dict[str, type[Layer]]) -> Any:
    if isinstance(value, dict) and set(value) == {"dict"}:
        return {k: _decode(v, custom) for k, v in value["dict"].items()}
    if isinstance(value, dict) and set(value) == {"constant"} and isinstance(value["constant"], (int, float)):
        return initializers.constant(value["constant"])
    if isinstance(value, dict):
        return _build(value, custom)
    if isinstance(value, list):
        return [_decode(each, custom) for each in value]
    return value


def save_model(model: Layer, path: str | os.PathLike[str], info: dict[str, Any]) -> None:
    """See `Layer.save`."""
    metadata = describe(model, info)
    write(path, {name: to_numpy(p.value) for name, p in model.parameters().items()}, metadata)


def describe(model: Layer, info: dict[str, Any]) -> dict[str, str]:
    """What the model's file says beside its values; ConfigError where the model, or `info`, cannot be in one."""
    described = architecture(model)
    _check_rebuilt(model, described)
    try:
        return {
            "format": FORMAT,
            "version": str(VERSION),
            "architecture": json.dumps(described),
            "tied": json.dumps(model.tied()),
            "dtype": model.store.dtype,
            "seed": str(model.store.seed),
            "info": json.dumps(model.info | info),
            "training": json.dumps(_training(model)),
        }
    except (TypeError, ValueError, RecursionError) as error:  # the latter two of what contains itself
        raise ConfigError(f"the info given to save must be JSON values: {error}") from error


def _training(model: Layer) -> dict[str, Any]:
    """What parameters are told about training beside their constructor's default, by path."""
    parameters = model.parameters()
    return {
        "frozen": [path for path, p in parameters.items() if not p.trainable],
        "penalties": {path: [p.l1, p.l2] for path, p in parameters.items() if p.l1 or p.l2},
    }


def _set_training(model: Layer, training: Any, path: Any) -> None:
    """Tell the parameters; a file without it, as bpnet 0.1 wrote them, leaves them as they were made."""
    parameters = model.parameters()
    try:
        frozen, penalties = training.get("frozen", []), training.get("penalties", {})
        for name in frozen:
            parameters[name].trainable = False
        for name, (l1, l2) in penalties.items():
            parameters[name].l1, parameters[name].l2 = l1, l2
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{str(path)!r} has a damaged header: 'training' is no table of its parameters"
        ) from error


def _check_rebuilt(model: Layer, described: dict[str, Any]) -> None:
    """Raise ConfigError unless the description makes a model with the same parameters: a file that cannot be read back
    must not be written.
    """
    custom = {type(layer) for _, layer in model.walk()} - set(known_layers().values())
    try:
        rebuilt = build(described, tuple(custom))
        _tie(rebuilt, model.tied(), "the model")
    except CheckpointError as error:
        raise ConfigError(f"the model could not be made again of its constructors' arguments: {error}") from error
    before = {path: parameter.shape for path, parameter in model.parameters().items()}
    after = {path: parameter.shape for path, parameter in rebuilt.parameters().items()}
    if before != after:
        raise ConfigError(
            "the constructors' arguments do not make this model: they give the parameters "
            f"{sorted(set(after.items()) - set(before.items()))[:3]} in the place of "
            f"{sorted(set(before.items()) - set(after.items()))[:3]}; was a layer changed after it was made?"
        )


def load_model(
    path: str | os.PathLike[str],
    *,
    backend: str | Backend | None = None,
    custom: tuple[type[Layer], ...] | type[Layer] = (),
) -> Layer:
    """See `Layer.load`."""
    custom = (custom,) if isinstance(custom, type) else tuple(custom)
    chosen = get_backend(backend)
    tensors, metadata = read(path)
    if metadata.get("format") == "bpnet-checkpoint":
        raise CheckpointError(
            f"{str(path)!r} is a checkpoint of a training, not a model: make the Trainer and call "
            f"trainer.restore({str(path)!r})"
        )
    if metadata.get("format") != FORMAT:
        raise CheckpointError(f"{str(path)!r} is a safetensors file, but not a model that bpnet saved")
    if metadata.get("version") != "1" and SEAL not in metadata:
        raise CheckpointError(f"{str(path)!r} has a damaged header: it lacks {SEAL!r}, the digest of the file")
    return made_of(path, tensors, metadata, chosen, custom)


def made_of(
    path: Any, tensors: dict[str, Any], metadata: dict[str, str], backend: Backend, custom: tuple[type[Layer], ...]
) -> Layer:
    """The model that `describe` has described, with these values; CheckpointError where they are no such thing."""
    try:
        version, seed = int(metadata["version"]), check_seed(int(metadata["seed"]))
        described, tied = json.loads(metadata["architecture"]), json.loads(metadata["tied"])
        dtype, info = metadata["dtype"], json.loads(metadata["info"])
        training = json.loads(metadata.get("training", "{}"))
        if not isinstance(info, dict):
            raise ValueError("info is no table")
    except (KeyError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{str(path)!r} has a damaged header: {repr(error)[:200]}") from error
    if version > VERSION:
        raise CheckpointError(f"{str(path)!r} is of format {version}; this bpnet reads up to {VERSION}: update it")
    model = build(described, custom)
    _tie(model, tied, path)
    _set_training(model, training, path)
    parameters = model.parameters()
    _compare({name: p.shape for name, p in parameters.items()}, tensors, dtype, path)
    for name, parameter in parameters.items():
        parameter._pending = tensors[name]
    try:
        model._build_store(seed, backend, dtype, redraw=False)
    except ConfigError as error:
        raise CheckpointError(f"{str(path)!r}: {error}") from error
    model.info.update(info)
    return model


def _tie(model: Layer, tied: Any, path: Any) -> None:
    layers = dict(model.walk())
    parameters = model.parameters()
    if not isinstance(tied, dict):
        raise CheckpointError(f"{str(path)!r} has a damaged header: 'tied' is no table")
    for further, first in tied.items():
        owner, _, attribute = str(further).rpartition(".")
        if not isinstance(first, str) or first not in parameters or further not in parameters or owner not in layers:
            raise CheckpointError(
                f"{str(path)!r} ties {str(further)[:80]!r} to {str(first)[:80]!r}, which the architecture does not have"
            )
        setattr(layers[owner], attribute, parameters[first])


def _compare(shapes: dict[str, tuple[int, ...]], tensors: dict[str, Any], dtype: str, path: Any) -> None:
    """Raise CheckpointError unless the tensors are exactly the architecture's parameters."""
    missing, extra = sorted(set(shapes) - set(tensors)), sorted(set(tensors) - set(shapes))
    if missing or extra:
        raise CheckpointError(
            f"{str(path)!r} does not fit its own architecture: missing {missing[:5]}, left over {extra[:5]}"
        )
    for name, shape in shapes.items():
        found = tensors[name]
        if tuple(found.shape) != shape or str(found.dtype) != dtype or dtype not in FLOATING_DTYPES:
            raise CheckpointError(
                f"{str(path)!r}: {name!r} must be {dtype} of shape {shape}, found {found.dtype} of {tuple(found.shape)}"
            )
