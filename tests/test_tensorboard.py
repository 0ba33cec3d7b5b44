"""TensorBoard's event files: read back by a reader written from the format's description, and by tensorboard."""

from __future__ import annotations

import math
import os
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import bpnet as bp
from bpnet.callbacks import TensorBoard
from bpnet.callbacks.tensorboard import crc32c, record, scalars_event

RNG = np.random.default_rng(3)
X, Y = RNG.normal(size=(40, 5)), RNG.integers(0, 3, 40)


def slow_crc32c(data: bytes) -> int:
    """CRC-32C by long division of polynomials over GF(2), most significant bit first, as in the textbook."""

    def reversed_bits(value: int, width: int) -> int:
        return int(format(value, f"0{width}b")[::-1], 2)

    bits = 0
    for byte in data:
        bits = bits << 8 | reversed_bits(byte, 8)
    size = 8 * len(data)
    dividend = (bits << 32) ^ (0xFFFFFFFF << size)
    for position in range(size + 31, 31, -1):
        if dividend >> position & 1:
            dividend ^= 0x11EDC6F41 << (position - 32)
    return reversed_bits(dividend, 32) ^ 0xFFFFFFFF


def masked(data: bytes) -> int:
    crc = slow_crc32c(data)
    rotated = crc // 2**15 + crc % 2**15 * 2**17
    return (rotated + 0xA282EAD8) % 2**32


def records(content: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(content):
        (length,) = struct.unpack_from("<Q", content, at)
        assert struct.unpack_from("<I", content, at + 8) == (masked(content[at : at + 8]),)
        data = content[at + 12 : at + 12 + length]
        assert len(data) == length
        assert struct.unpack_from("<I", content, at + 12 + length) == (masked(data),)
        yield data
        at += 16 + length


def fields(data: bytes) -> list[tuple[int, Any]]:
    """The (number, value) pairs of a protocol buffer message; what has a length stays bytes."""

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            value |= (byte & 127) << shift
            at, shift = at + 1, shift + 7
            if byte < 128:
                return value

    at, found = 0, []
    while at < len(data):
        key = varint()
        kind: Any = key & 7
        if kind == 0:
            found.append((key >> 3, varint()))
            continue
        size = {1: 8, 5: 4}[kind] if kind != 2 else varint()
        raw = data[at : at + size]
        assert len(raw) == size
        found.append((key >> 3, raw if kind == 2 else struct.unpack("<d" if kind == 1 else "<f", raw)[0]))
        at += size
    return found


def read(folder: Path) -> list[tuple[int, dict[str, float]]]:
    """(step, scalars) of every event in the folder's one file, which must begin with the version."""
    (path,) = folder.iterdir()
    assert path.name.startswith("events.out.tfevents.")
    first, *rest = (dict(fields(each)) for each in records(path.read_bytes()))
    assert first.keys() == {1, 3}
    assert first[3] == b"brain.Event:2"
    assert abs(first[1] - time.time()) < 600
    found = []
    for event in rest:
        assert event.keys() == {1, 2, 5}
        assert first[1] <= event[1] <= time.time() + 1
        values = [dict(fields(value)) for number, value in fields(event[5]) if number == 1]
        assert all(value.keys() == {1, 2} for value in values)
        found.append((event[2], {value[1].decode(): value[2] for value in values}))
    return found


def fit(folder: Any, *more: bp.callbacks.Callback, validation: bool = True) -> bp.History:
    model = bp.Sequential(bp.Dense(5, 7), bp.Tanh(), bp.Dense(7, 3)).initialize(seed=4)
    metrics = [bp.Accuracy(), bp.ConfusionMatrix(), bp.F1(average=None)]
    trainer = bp.Trainer(model, bp.SoftmaxCrossEntropy(), bp.SGD(0.1), metrics=metrics)
    data = {"validation_data": (X[30:], Y[30:])} if validation else {}
    called = [TensorBoard(folder), *more]
    return trainer.fit(X[:30], Y[:30], epochs=3, batch_size=10, progress=False, callbacks=called, **data)


def test_the_crc_is_the_standards() -> None:
    """The test vectors of RFC 3720, appendix B.4."""
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc32c(bytes(range(32))) == 0x46DD794E
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(b"") == 0


@given(st.binary(max_size=80))
def test_the_crc_is_a_division_of_polynomials(data: bytes) -> None:
    assert crc32c(data) == slow_crc32c(data)
    assert list(records(record(data) + record(b"more"))) == [data, b"more"]


@given(
    step=st.integers(0, 2**40),
    scalars=st.dictionaries(st.text(max_size=300), st.floats(width=32), max_size=5),
    now=st.floats(0, 1e12),
)
def test_an_event_holds_what_was_put_in(step: int, scalars: dict[str, float], now: float) -> None:
    event = dict(fields(scalars_event(now, step, scalars)))
    assert (event[1], event[2]) == (now, step)
    values = [dict(fields(value)) for _, value in fields(event[5])]
    np.testing.assert_array_equal([value[2] for value in values], list(scalars.values()))
    assert [value[1].decode() for value in values] == list(scalars)


def test_numbers_beyond_32_bits_become_infinite() -> None:
    event = dict(fields(scalars_event(0.0, 1, {"a": 1e39, "b": -1e39, "c": math.nan})))
    a, b, c = (dict(fields(value))[2] for _, value in fields(event[5]))
    assert (a, b) == (math.inf, -math.inf)
    assert math.isnan(c)


def test_every_epoch_is_in_the_files(tmp_path: Path) -> None:
    history = fit(tmp_path / "runs" / "a")
    training, validation = read(tmp_path / "runs" / "a" / "training"), read(tmp_path / "runs" / "a" / "validation")
    assert [step for step, _ in training] == [step for step, _ in validation] == [1, 2, 3]
    for (_, t), (_, v), row in zip(training, validation, history.rows, strict=True):
        assert t.keys() == {"loss", "accuracy", "learning_rate", "seconds"}
        assert v.keys() == {"loss", "accuracy"}
        for name, value in t.items():
            assert value == np.float32(row[name])
        for name, value in v.items():
            assert value == np.float32(row[f"val_{name}"])


def test_without_validation_there_is_one_run(tmp_path: Path) -> None:
    fit(tmp_path, validation=False)
    assert os.listdir(tmp_path) == ["training"]
    assert len(read(tmp_path / "training")) == 3


def test_every_epoch_can_be_read_while_the_fit_goes_on_and_after_an_error(tmp_path: Path) -> None:
    lengths = []

    def look(trainer: bp.Trainer, row: dict[str, Any]) -> None:
        lengths.append(len(read(tmp_path / "training")))
        if len(lengths) == 2:
            raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        fit(tmp_path, bp.callbacks.EveryEpoch(look))
    assert lengths == [1, 2]
    assert len(read(tmp_path / "validation")) == 2


def test_one_callback_serves_two_fits_with_files_of_their_own(tmp_path: Path) -> None:
    board = TensorBoard(tmp_path)
    model = bp.Dense(5, 3).initialize(0)
    trainer = bp.Trainer(model, bp.SoftmaxCrossEntropy(), bp.SGD(0.1))
    for _ in range(2):
        trainer.fit(X, Y, epochs=2, progress=False, callbacks=[board])
    assert board._files == {}
    steps = []
    for path in (tmp_path / "training").iterdir():
        _, *events = records(path.read_bytes())
        steps.append([dict(fields(event))[2] for event in events])
    assert sorted(steps) == [[1, 2], [3, 4]]


def test_a_folder_that_cannot_be_written_is_refused_before_training(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(
            bp.CheckpointError,
            match=r"TensorBoard cannot write to the folder '.*file.*': (Not a directory|File exists); name another one",
        ):
            fit(folder)


def test_a_second_run_that_cannot_be_written_leaves_no_open_file(tmp_path: Path) -> None:
    (tmp_path / "validation").write_text("")
    board = TensorBoard(tmp_path)
    with pytest.raises(bp.CheckpointError, match="cannot write to the folder"):
        board.on_fit_start(None, ("epoch", "loss", "val_loss"))  # type: ignore[arg-type]
    assert board._files == {}


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(bp.CheckpointError, match="Permission denied; name another one"):
        fit(tmp_path)


@pytest.mark.filterwarnings("ignore")
def test_tensorboard_reads_the_files(tmp_path: Path) -> None:
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="tensorboard is not installed"
    )
    history = fit(tmp_path)
    for run, prefix, tags in (
        ("training", "", {"loss", "accuracy", "learning_rate", "seconds"}),
        ("validation", "val_", {"loss", "accuracy"}),
    ):
        events = accumulator.EventAccumulator(str(tmp_path / run))
        events.Reload()
        assert set(events.Tags()["scalars"]) == tags
        assert events.file_version == 2.0
        for tag in tags:
            found = events.Scalars(tag)
            assert [each.step for each in found] == [1, 2, 3]
            assert [each.value for each in found] == [float(np.float32(v)) for v in history[prefix + tag]]
