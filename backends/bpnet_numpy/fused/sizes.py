"""Sizes that compiled bodies and those who bind them agree on. Imports nothing."""

from __future__ import annotations

TURNED = 256
"""The most steps of the sums of a direct product whose second factor is transposed: so much of it is kept turned."""
