"""Recipes as TOML text. The standard library reads TOML (tomllib) and does not write it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

WIDTH = 100


def write(settings: Mapping[str, Any]) -> str:
    """TOML that `tomllib` reads back as `settings`: plain values, then a table for each mapping; None is left out."""
    plain = [f"{key} = {value_of(value)}" for key, value in settings.items() if _is_plain(value)]
    tables = [
        "\n".join([f"[{name}]", *(f"{_key(k)} = {value_of(v)}" for k, v in table.items() if v is not None)])
        for name, table in settings.items()
        if isinstance(table, Mapping)
    ]
    return "\n\n".join(["\n".join(plain), *tables] if plain else tables) + "\n"


def _is_plain(value: Any) -> bool:
    return value is not None and not isinstance(value, Mapping)


def _key(key: str) -> str:
    return key if key and all(c.isascii() and (c.isalnum() or c in "-_") for c in key) else _text(key)


def _text(text: str) -> str:
    # JSON's escapes are TOML's, but for DEL, which TOML wants escaped.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def value_of(value: Any) -> str:
    """One value as TOML."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        if math.isfinite(value):
            return repr(value)
        return "nan" if math.isnan(value) else ("inf" if value > 0 else "-inf")
    if isinstance(value, (list, tuple)):
        items = [value_of(each) for each in value]
        line = f"[{', '.join(items)}]"
        return line if len(line) <= WIDTH else "[\n" + "".join(f"    {item},\n" for item in items) + "]"
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_key(k)} = {value_of(v)}" for k, v in value.items()) + " }" if value else "{}"
    raise TypeError(f"TOML has no {type(value).__name__}")
