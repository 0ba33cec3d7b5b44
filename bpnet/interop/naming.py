"""Names of one side by names of the other: rules from our paths to theirs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from bpnet.errors import ConfigError, did_you_mean

Name = str | tuple[str, ...] | None  # of theirs; several that are one of ours; None: ours stays as it is
_PLACE = re.compile(r"\{([A-Za-z_]\w*)\}")
_PUT = re.compile(r"\{([A-Za-z_]\w*)([+-]\d+)?\}")


def join(prefix: str, name: str) -> str:
    """'a' and 'b' as 'a.b', where neither is empty."""
    return f"{prefix}.{name}" if prefix and name else prefix or name


class Names:
    """Rules: our path, or a pattern of them, to what theirs is called.

    In a pattern `{name}` stands for one part of a path, between dots. In what it is called, `{name}` is that part,
    `{name+2}` and `{name-2}` are numbers beside it; where there is no such number, the pattern does not fit. Plain
    paths come before patterns, patterns in their order.
    """

    def __init__(self, names: Mapping[str, Name] | None) -> None:
        if names is not None and not isinstance(names, Mapping):
            raise ConfigError(f"names must be a mapping of our paths to PyTorch's, got {names!r:.80}")
        self._plain: dict[str, Name] = {}
        self._patterns: dict[str, tuple[re.Pattern[str], Name]] = {}
        self._used: set[str] = set()
        for ours, theirs in (names or {}).items():
            self._check(ours, theirs)
            if _PLACE.search(ours):
                self._patterns[ours] = (self._compile(ours), theirs)
            else:
                self._plain[ours] = theirs

    @staticmethod
    def _check(ours: Any, theirs: Any) -> None:
        each = theirs if isinstance(theirs, tuple) else (theirs,)
        fine = isinstance(ours, str) and (theirs is None or (each and all(isinstance(name, str) for name in each)))
        if not fine:
            raise ConfigError(
                f"names must have texts on our side, and on PyTorch's a text, a tuple of texts, or None: got "
                f"{ours!r:.80}: {theirs!r:.80}"
            )
        known = set(_PLACE.findall(ours))
        for name in each if theirs is not None else ():
            unknown = {place for place, _ in _PUT.findall(name)} - known
            if unknown or "{" in _PUT.sub("", name):
                raise ConfigError(
                    f"names: {name!r:.80} asks for what {ours!r:.80} does not have; write {{i}} on our side, and on "
                    "PyTorch's {i}, {i+1} or {i-1}"
                )

    @staticmethod
    def _compile(pattern: str) -> re.Pattern[str]:
        parts = _PLACE.split(pattern)  # text, name, text, name, ... text
        seen: set[str] = set()
        made = ""
        for index, part in enumerate(parts):
            if index % 2 == 0:
                made += re.escape(part)
            else:
                made += f"(?P={part})" if part in seen else f"(?P<{part}>[^.]+)"
                seen.add(part)
        return re.compile(made)

    def has(self, path: str) -> bool:
        """Whether some rule is for exactly this path."""
        return self._find(path) is not None

    def of(self, path: str) -> Name:
        """What theirs is called; only where `has`."""
        found = self._find(path)
        assert found is not None
        key, name = found
        self._used.add(key)
        return name

    def _find(self, path: str) -> tuple[str, Name] | None:
        if path in self._plain:
            return path, self._plain[path]
        for key, (pattern, theirs) in self._patterns.items():
            match = pattern.fullmatch(path)
            if match is None:
                continue
            if theirs is None:
                return key, None
            made = tuple(_filled(name, match) for name in ((theirs,) if isinstance(theirs, str) else theirs))
            if None not in made:
                return key, made[0] if isinstance(theirs, str) else made  # type: ignore[return-value]
        return None

    def check_used(self, paths: list[str]) -> None:
        """Raise ConfigError where some rule was for none of our paths: a slip of the pen."""
        unused = [key for key in (*self._plain, *self._patterns) if key not in self._used]
        if unused:
            raise ConfigError(
                f"names: the model has nothing at {unused[0]!r:.80} that is loaded{did_you_mean(unused[0], paths)}; "
                f"it has {len(paths)} paths, such as {', '.join(map(repr, paths[:6]))}"
            )


def _filled(name: str, match: re.Match[str]) -> str | None:
    """The name with the parts of the path put in; None where a number lacks, or would be negative."""
    made, end = "", 0
    for place in _PUT.finditer(name):
        part, beside = match[place[1]], place[2]
        if beside:
            if not part.isdecimal() or int(part) + int(beside) < 0:
                return None
            part = str(int(part) + int(beside))
        made += name[end : place.start()] + part
        end = place.end()
    return made + name[end:]
