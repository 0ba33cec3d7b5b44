"""Who translates which layer into ONNX: bpnet's own layers, and those that users register."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from bpnet.errors import ConfigError, DTypeError
from bpnet.layers.base import Layer

if TYPE_CHECKING:
    from bpnet.interop.onnx.graph import Value

Translator = Callable[..., "Value"]
AnyTranslator = TypeVar("AnyTranslator", bound=Callable[..., Any])

_TRANSLATORS: dict[type[Layer], Translator] = {}
# What a subclass may define anew without doing something else in inference, beside names such as __init__.
_TRAINING = ("backward", "forward")
_HARMLESS = {*_TRAINING, "can_step", "config", "info", "input_ids", "max_positions", "output_shape", "positionwise"}
_HARMLESS |= {"side_inputs", "step"}


def translates(*layers: type[Layer]) -> Callable[[AnyTranslator], AnyTranslator]:
    """Register the function below it as the translator of these classes of layers, in the place of an earlier one.

    It is called with the `Graph`, the layer and x, a `Value`, and by keyword with the side inputs that the layer's
    `__call__` names and the export has; it returns what the layer's inference gives, as a Value.
    A class without a translator is translated as the class that it derives from, where it defines nothing anew but its
    constructor, its training and its text.
    """
    for layer in layers:
        if not (isinstance(layer, type) and issubclass(layer, Layer)):
            raise DTypeError(f"translates takes classes of layers, as in @translates(MyLayer), got {layer!r}")
    if not layers:
        raise ConfigError("translates needs a class of layers, as in @translates(MyLayer)")

    def register(translator: AnyTranslator) -> AnyTranslator:
        for layer in layers:
            _TRANSLATORS[layer] = translator
        return translator

    return register


def translator_of(layer: type[Layer]) -> Translator | None:
    """The translator of a class of layers, or None."""
    own: set[str] = set()
    for base in layer.__mro__:
        found = _TRANSLATORS.get(base)
        if found is not None:
            return found if not any(hasattr(base, name) for name in own) else None
        own |= {name for name in vars(base) if name not in _HARMLESS and (name[:2] != "__" or name == "__call__")}
    return None
