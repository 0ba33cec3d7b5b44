"""What a layer keeps from its forward for its backward, and the checks of what either is handed."""

from __future__ import annotations

import math
from typing import Any

from bpnet.backend import check_no_mask, type_name
from bpnet.dispatch import Array, dtype_name
from bpnet.errors import DTypeError, ShapeError, StateError


class Checked:
    """The one slot of every layer, and the methods that refuse what it cannot take."""

    _kept: tuple[Any, ...] | None = None

    def keep(self, *values: Any) -> None:
        """Keep `values` for the backward of this forward, in the layer's one slot."""
        vars(self)["_kept"] = values

    def kept(self) -> tuple[Any, ...]:
        """Take what `keep` kept; StateError when there is nothing."""
        values = self._kept
        if values is None:
            raise StateError(
                f"{type(self).__name__}.backward: nothing saved; call forward first, once for every backward: "
                "`layer(x)` is inference and saves nothing"
            )
        self._kept = None
        return values

    def check_input(self, x: Any, width: int, like: Array) -> None:
        """Raise unless `x` is an array of the model's library, device and dtype with a last axis of `width`."""
        if type(x) is not type(like):
            if not isinstance(x, type(like)):
                raise DTypeError(
                    f"{self!r} holds {type_name(like)} arrays, got {type_name(x)}; bring it over with "
                    "model.asarray(x), or move the model with model.to(...)"
                )
            check_no_mask(x, "x")
            if type(x).__name__ == "matrix":
                raise DTypeError(f"{self!r} got a {type_name(x)}, whose * is no product of elements; use np.asarray(x)")
        shape = x.shape
        if len(shape) < 2 or shape[-1] != width:
            hint = ""
            if len(shape) == 1 and shape[0] == width:
                hint = "; for one sample use x[None, :]"
            elif len(shape) > 2 and math.prod(shape[1:]) == width:
                hint = "; put a Flatten() before it"
            raise ShapeError(f"{self!r} needs x of shape (N, {width}), got {tuple(shape)}{hint}")
        if x.dtype != like.dtype:
            dtype = dtype_name(like.dtype)
            found = dtype_name(x.dtype)
            raise DTypeError(f"{self!r} computes in {dtype}, got x of {found}; use model.asarray(x, dtype={dtype!r})")
        if x.device != like.device:
            raise DTypeError(f"{self!r} is on device {like.device}, got x on {x.device}; use model.asarray(x)")

    def shape_of(self, x: Any) -> tuple[int, ...]:
        """The shape of `x`; DTypeError where it is no array."""
        shape = getattr(x, "shape", None)
        if shape is None:
            raise DTypeError(f"{self!r} needs an array, got {type_name(x)}; bring it over with model.asarray(x)")
        return tuple(shape)

    def check_gradient(self, dy: Any, shape: tuple[int, ...], dtype: Any, *kept: Any) -> None:
        """Raise unless `dy` has the output's shape and dtype (None: any); what was kept is then kept again.

        Where an array was kept first, dy must be of its library.
        """
        if not hasattr(dy, "shape"):
            self.keep(*kept)
            raise DTypeError(f"{self!r}.backward needs an array, got {type_name(dy)}")
        if kept and type(dy) is not type(kept[0]) and hasattr(kept[0], "dtype") and not isinstance(dy, type(kept[0])):
            self.keep(*kept)
            raise DTypeError(
                f"{self!r}.backward needs dy as a {type_name(kept[0])}, got {type_name(dy)}; bring it over with "
                "model.asarray(dy)"
            )
        if dy.shape == shape and (dtype is None or dy.dtype == dtype):
            return
        self.keep(*kept)
        if tuple(dy.shape) != tuple(shape):
            raise ShapeError(f"{self!r}.backward needs dy of the output's shape {tuple(shape)}, got {tuple(dy.shape)}")
        raise DTypeError(f"{self!r}.backward needs dy of {dtype_name(dtype)}, got {dtype_name(dy.dtype)}")
