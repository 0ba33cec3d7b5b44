"""A third party's backend as the tests need it: array_api_strict, registered through the public door."""

from __future__ import annotations

import array_api_strict as strict

from bpnet.testing.strict import StrictBackend, register

__all__ = ["StrictBackend", "register", "strict"]
