"""A third party's backend as the tests need it: array_api_strict, registered through the public door."""

from __future__ import annotations

import array_api_strict as strict

import bpnet as bp
from bpnet.testing.strict import StrictBackend

__all__ = ["StrictBackend", "register", "strict"]


def register() -> None:
    if "strict" not in bp.backend_names():
        bp.register_backend("strict", StrictBackend)
