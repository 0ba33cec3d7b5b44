"""Damaged and hostile checkpoints, made of a whole one: `python tests/checkpoint_mutations.py [N]` tries N of them.

Some keep the digest of the file as it was, so that it shows the damage; others have it made anew, as an attacker would.
Each must be refused with an error of bpnet, or give what the whole one gives (or, with a new digest, anything that an
honest file could say), in a process whose memory is limited and without anything of it being run.
"""

from __future__ import annotations

import copy
import json
import random
import time
import tracemalloc
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bpnet as bp
from bpnet import files

SECONDS, MEMORY, LONGEST = 20.0, 64 << 20, 5000  # more than any takes: also in characters of a message
NAMES = (
    "../../etc/passwd",
    "__class__",
    "store/",
    "store/slot/average",
    "\x00",
    "a" * 5000,
    "store/grads",
    "__reduce__",
)
VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 2**63, 10**30, 1e308, float("nan"), "", "x" * 10000, [], {}, [[]], {"array:": "store/values"},
    {"array:": ["a"]}, {"array:": "none"}, "__import__('os').system('touch hacked')", {"__reduce__": ["os.system"]},
)  # fmt: skip


def mutations(path: str, folder: Path, seed: int, n: int, attempt: Callable[[str], bytes]) -> Counter[str]:
    """Make `n` mutants of the file at `path` and try them; count what became of them. Raises where one was not refused
    as it must be.
    """
    rng = random.Random(seed)
    content = Path(path).read_bytes()
    expected = attempt(path)
    outcomes: Counter[str] = Counter()
    target = folder / "mutant.safetensors"
    for index in range(n):
        kind = rng.choice(KINDS)
        mutant, sealed = kind(rng, content)
        target.write_bytes(mutant)
        what = f"mutant {index} of seed {seed}, {kind.__name__}"
        tracemalloc.start()
        start = time.monotonic()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a hostile environment makes a note
                found = attempt(str(target))
        except bp.BpnetError as error:
            if len(str(error)) > LONGEST:
                raise AssertionError(
                    f"{what}: a message of {len(str(error))} characters: {str(error)[:300]}"
                ) from error
            outcomes["refused"] += 1
        except Exception as error:
            raise AssertionError(f"{what}: {error!r}") from error
        else:
            assert sealed or found == expected, f"{what} was taken, and is another"
            outcomes["as the whole one" if found == expected else "another honest state"] += 1
        finally:
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
        assert time.monotonic() - start < SECONDS, what
        assert peak < MEMORY, f"{what}: {peak} bytes"
        assert not Path("hacked").exists(), what
    return outcomes


def _flip(rng: random.Random, content: bytes) -> tuple[bytes, bool]:
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 5, 100))):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed), False


def _flip_in_header(rng: random.Random, content: bytes) -> tuple[bytes, bool]:
    changed = bytearray(content)
    changed[rng.randrange(8 + int.from_bytes(content[:8], "little"))] ^= 1 << rng.randrange(8)
    return bytes(changed), False


def _truncate(rng: random.Random, content: bytes) -> tuple[bytes, bool]:
    return content[: rng.randrange(len(content))], False


def _extend(rng: random.Random, content: bytes) -> tuple[bytes, bool]:
    return content + rng.randbytes(rng.choice((1, 8, 4096))), False


def _swap(rng: random.Random, content: bytes) -> tuple[bytes, bool]:
    a, b, c = sorted(rng.randrange(len(content)) for _ in range(3))
    return content[:a] + content[b:c] + content[a:b] + content[c:], False


def _zero(rng: random.Random, content: bytes) -> tuple[bytes, bool]:
    start = rng.randrange(len(content))
    stop = min(len(content), start + rng.choice((1, 512, 4096)))
    return content[:start] + b"\0" * (stop - start) + content[stop:], False


def _noise(rng: random.Random, content: bytes) -> tuple[bytes, bool]:
    return rng.randbytes(rng.randrange(5000)), False


def _length(rng: random.Random, content: bytes) -> tuple[bytes, bool]:
    size = rng.choice((0, 1, 2**31, 2**40, 2**63, 2**64 - 1, len(content), rng.randrange(len(content))))
    return size.to_bytes(8, "little") + content[8:], False


def _offsets(rng: random.Random, content: bytes) -> tuple[bytes, bool]:
    """A header whose shapes, dtypes and places lie."""
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    name = rng.choice([key for key in header if key != "__metadata__"])
    entry = header[name]
    change = rng.randrange(5)
    if change == 0:
        entry["shape"] = rng.choice(([2**40], [2**62, 4], [-1], [0], [0, 2**60], [[]], "x"))
    elif change == 1:
        entry["dtype"] = rng.choice(("F64", "BF16", "F8_E4M3", "O", "BOOL", "I8", ""))
    elif change == 2:
        entry["data_offsets"] = rng.choice(([0, 2**50], [5, 1], [-8, 8], [0], [0, 0]))
    elif change == 3:
        header[rng.choice(NAMES)] = header.pop(name)
    else:
        header["__metadata__"] = rng.choice(({}, None, [], {"format": 1}, {"a": {"b": "c"}}, "x" * 100000))
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + content[8 + size :], False


def _deep(rng: random.Random, content: bytes) -> tuple[bytes, bool]:
    """A header, or the state in it, that is nested without end."""
    depth = rng.choice((200, 5000, 200000))
    if rng.random() < 0.5:
        text = b'{"a":' * depth
        return len(text).to_bytes(8, "little") + text + content[:100], False
    return _sealed(content, lambda state: rng.choice(("[", '{"a":')) * depth)


def _state(rng: random.Random, content: bytes) -> tuple[bytes, bool]:
    """A state in which some value is another, with a right digest."""

    def change(state: str) -> str:
        table = json.loads(state)
        for _ in range(rng.choice((1, 1, 3))):
            _change(rng, table)
        return json.dumps(table)

    return _sealed(content, change)


def _change(rng: random.Random, table: Any) -> None:
    while True:
        keys = list(table) if isinstance(table, dict) else list(range(len(table)))
        if not keys:
            return
        key = rng.choice(keys)
        if isinstance(table[key], (dict, list)) and table[key] and rng.random() < 0.8:
            table = table[key]
            continue
        action = rng.random()
        if action < 0.7:
            table[key] = copy.deepcopy(rng.choice(VALUES))
        elif action < 0.85:
            del table[key]
        elif isinstance(table, dict):
            table[rng.choice(NAMES)] = copy.deepcopy(rng.choice(VALUES))
        return


def _arrays(rng: random.Random, content: bytes) -> tuple[bytes, bool]:
    """Arrays that are missing, exchanged, of another shape or dtype, or under other names, with a right digest."""
    arrays, metadata = _read(content)
    one, other = rng.choice(sorted(arrays)), rng.choice(sorted(arrays))
    change = rng.randrange(5)
    if change == 0:
        del arrays[one]
    elif change == 1:
        arrays[one], arrays[other] = arrays[other], arrays[one]
    elif change == 2:
        arrays[one] = arrays[one].reshape(-1)[: rng.randrange(4)]
    elif change == 3:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numbers that the other dtype cannot hold
            arrays[one] = arrays[one].astype(rng.choice(("float16", "int8", "float64", "uint64")))
    else:
        arrays[rng.choice(NAMES)] = arrays.pop(one)
    return files.pack(arrays, metadata), True


def _sealed(content: bytes, change: Callable[[str], str]) -> tuple[bytes, bool]:
    arrays, metadata = _read(content)
    return files.pack(arrays, metadata | {"state": change(metadata["state"])}), True


def _read(content: bytes) -> tuple[dict[str, Any], dict[str, str]]:
    from safetensors.numpy import load

    size = int.from_bytes(content[:8], "little")
    return load(content), json.loads(content[8 : 8 + size])["__metadata__"]


KINDS = (
    _flip, _flip_in_header, _truncate, _extend, _swap, _zero, _noise, _length, _offsets, _deep, _state, _state, _state,
    _arrays,
)  # fmt: skip


if __name__ == "__main__":
    import sys
    import tempfile

    import test_checkpoint as tests

    from bpnet.callbacks import EarlyStopping
    from bpnet.checkpoint import newest

    with tempfile.TemporaryDirectory() as place:
        run = Path(place) / "run"
        tests.killed(tests.made(), 15, EarlyStopping(patience=9), checkpoint=bp.Checkpoint(run, every_steps=7))
        total = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
        began = time.monotonic()
        counted = mutations(newest(run).path, Path(place), 1, total, tests.try_all)
        print(f"{total} mutants in {time.monotonic() - began:.0f} s: {dict(counted)}")
