"""What every derivative is held against: `bpnet.testing.differences`, and a whole initialized model against it."""

from __future__ import annotations

from typing import Any

import bpnet as bp
from bpnet.testing.differences import assert_gradient, gradient
from bpnet.testing.layer_derivatives import assert_derivatives

__all__ = ["assert_gradient", "check_layer", "gradient"]


def check_layer(model: bp.Layer, x: Any, seed: int = 0) -> None:
    """dx and every parameter's gradient of an initialized float64 `model`, for the loss sum(y * dy) with random dy."""
    assert_derivatives(model, x, seed=seed)
