"""Text as ids of characters, and a real text that every Python brings: the topics of its help."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from bpnet.backend import to_numpy
from bpnet.data.dataset import Dataset
from bpnet.errors import ConfigError, DataError

CHARACTERS = "\n" + "".join(map(chr, range(32, 127)))
"""What the text of `topics` is written in: the end of a line, and what ASCII can print."""

_PLAIN = str.maketrans({"‘": "'", "’": "'", "“": '"', "”": '"', "–": "-", "—": "-", "…": "...", "\t": " "})
TEST_SHARE = 10  # of the text, the last tenth


def check_vocabulary(vocabulary: Any) -> str:
    """Return `vocabulary`; ConfigError unless it is a text in which every character stands once."""
    if not isinstance(vocabulary, str) or not vocabulary or len(set(vocabulary)) != len(vocabulary):
        raise ConfigError(f"a vocabulary must be a text in which every character stands once, got {vocabulary!r}")
    return vocabulary


def encode(text: str, vocabulary: str) -> Any:
    """The places of the text's characters in the vocabulary, (len(text),) int64; DataError where one has none.

    >>> import bpnet as bp
    >>> bp.data.encode("abba", "abc")
    array([0, 1, 1, 0])
    """
    ids = {character: index for index, character in enumerate(check_vocabulary(vocabulary))}
    unknown = sorted(set(text) - set(ids))
    if unknown:
        raise DataError(
            f"the vocabulary of {len(ids)} characters lacks {', '.join(map(repr, unknown[:10]))}"
            f"{', ...' if len(unknown) > 10 else ''}; leave them out of the text"
        )
    return np.array([ids[character] for character in text], dtype=np.int64)


def decode(ids: Any, vocabulary: str) -> str:
    """The text of ids, the inverse of `encode`; DataError where an id has no character.

    >>> import bpnet as bp
    >>> bp.data.decode([2, 0, 1], "abc")
    'cab'
    """
    check_vocabulary(vocabulary)
    ids = np.asarray(to_numpy(ids) if hasattr(ids, "shape") else ids).reshape(-1)
    if ids.size and (ids.dtype.kind not in "iu" or ids.min() < 0 or ids.max() >= len(vocabulary)):
        raise DataError(f"ids must be integers in 0 ... {len(vocabulary) - 1}, got {ids.dtype} {ids[:10].tolist()}")
    return "".join(vocabulary[int(i)] for i in ids)


def windows(ids: Any, length: int) -> tuple[Any, Any]:
    """Cut a long text into rows of `length` ids, and the ids that follow each: x, y (N, length); what is over is left.

    y[i, t] is the id behind x[i, t].
    """
    n = (len(ids) - 1) // length
    if n < 1:
        raise DataError(f"a text of {len(ids)} ids is too short for one row of {length} and the id behind each")
    return ids[: n * length].reshape(n, length), ids[1 : n * length + 1].reshape(n, length)


def topics_text() -> str:
    """The topics of Python's help in the order of their names, in ASCII."""
    from pydoc_data.topics import topics

    return _plain(topics[name] for name in sorted(topics))


def _plain(texts: Iterable[str]) -> str:
    known = set(CHARACTERS)
    whole = "\n\n".join(texts).translate(_PLAIN)
    return "".join(character if character in known else "?" for character in whole)


def topics(seed: int, *, length: int = 64) -> tuple[Dataset, Dataset]:
    """(train, test) of Python's help: rows of `length` characters, and the characters that follow."""
    if isinstance(length, bool) or not isinstance(length, (int, np.integer)) or length < 1:
        raise ConfigError(f"topics: length must be an integer of at least 1, got {length!r}")
    ids = encode(topics_text(), CHARACTERS)
    border = len(ids) - len(ids) // TEST_SHARE
    if length >= len(ids) // TEST_SHARE:
        raise ConfigError(f"topics: length must be below {len(ids) // TEST_SHARE}, a tenth of the text, got {length}")
    parts = []
    for part, some in (("first nine tenths", ids[:border]), ("last tenth", ids[border:])):
        x, y = windows(some, int(length))
        parts.append(Dataset(x, y, name="topics", split=part, classes=tuple(CHARACTERS)))
    return parts[0], parts[1]
