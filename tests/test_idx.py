"""IDX files: what is read, and what is refused with which words."""

from __future__ import annotations

import gzip
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

import bpnet as bp
from bpnet.data import read_idx
from bpnet.data.idx import DTYPES, read_checked
from bpnet.data.mnist import as_idx

CODES = {np.dtype(name): code for code, name in DTYPES.items()}
SMALL = b"\0\0\x08\x02" + struct.pack(">2I", 2, 3) + bytes(range(6))


def idx(array: Any) -> bytes:
    """The content of the IDX file of an array, written as the format's definition says."""
    big = np.asarray(array, array.dtype.newbyteorder(">"))
    header = struct.pack(f">2x2B{array.ndim}I", CODES[np.dtype(big.dtype)], array.ndim, *array.shape)
    return header + big.tobytes()


@settings(max_examples=60, deadline=None)
@given(
    array=st.sampled_from(["u1", "i1", "i2", "i4", "f4", "f8"]).flatmap(
        lambda dtype: arrays(dtype, array_shapes(max_dims=4, min_side=0, max_side=5))
    ),
    packed=st.booleans(),
)
def test_every_dtype_and_shape_comes_back(array: Any, packed: bool, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("idx") / "x-idx"
    path.write_bytes(gzip.compress(idx(array)) if packed else idx(array))
    found = read_idx(path)
    assert found.dtype == array.dtype
    assert found.dtype.isnative
    np.testing.assert_array_equal(found, array)
    found[...] = 0  # an array of one's own


def test_the_writer_of_bytes_agrees_with_the_definition() -> None:
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    assert as_idx(array) == idx(array)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x", b"", "is truncated: its first four bytes take 4 bytes, found 0"),
        ("x", b"\0\0\x08", "its first four bytes take 4 bytes, found 3"),
        ("x", b"\x89PNG....", "is no IDX file: it must begin with the bytes 00 00, found 89 50"),
        ("x", b"\0\0\x07\x01", "names its dtype, one of 08, 09, 0b, 0c, 0d, 0e; found 07"),
        ("x", b"\0\0\x08\x00", "must have 1 to 64 axes, its fourth byte says 0"),
        ("x", b"\0\0\x08\xff", "must have 1 to 64 axes, its fourth byte says 255"),
        ("x", SMALL[:7], "the lengths of its 2 axes take 8 bytes, found 3"),
        ("x", SMALL[:-1], r"the values of shape \(2, 3\) take 6 bytes, found 5"),
        ("x", SMALL + b"!", r"must end after the 6 bytes of its values of shape \(2, 3\), found 1 bytes more"),
        ("x", SMALL + bytes(1 << 20), "found at least 1048576 bytes more"),
        ("x", b"\0\0\x08\x03" + b"\xff" * 12, "is truncated: the values of shape"),
        ("x.gz", SMALL, "must be compressed by gzip and begin with the bytes 1f 8b, found 00 00"),
        ("x.gz", b"<html>", "begin with the bytes 1f 8b, found 3c 68"),
        ("x.gz", b"", "begin with the bytes 1f 8b, found nothing"),
        ("x.gz", gzip.compress(SMALL)[:-9], "is truncated: its gzip stream has no end"),
        ("x.gz", gzip.compress(SMALL)[:-8] + bytes(8), "is damaged: its gzip stream cannot be unpacked"),
        ("x.gz", b"\x1f\x8b\x08\0\0\0\0\0\0\0" + b"\xff" * 20, "is damaged: its gzip stream cannot be unpacked"),
    ],
)
def test_what_is_no_whole_idx_file_is_refused(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(bp.DataError, match=message) as caught:
        read_idx(tmp_path / name)
    assert repr(str(tmp_path / name)) in str(caught.value)


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    for name, content in (("x", SMALL), ("x.gz", gzip.compress(SMALL))):
        for length in range(len(content)):
            (tmp_path / name).write_bytes(content[:length])
            with pytest.raises(bp.DataError):
                read_idx(tmp_path / name)


def test_a_file_that_is_not_there_or_a_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(bp.DataError, match="cannot read '.*none': No such file or directory"):
        read_idx(tmp_path / "none")
    with pytest.raises(bp.DataError, match="cannot read .*: Is a directory"):
        read_idx(tmp_path)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read every file")
def test_a_file_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(SMALL)
    (tmp_path / "x").chmod(0)
    with pytest.raises(bp.DataError, match="cannot read .*: Permission denied"):
        read_idx(tmp_path / "x")


def test_the_checksum_is_that_of_the_unpacked_content(tmp_path: Path) -> None:
    import hashlib

    digest = hashlib.sha256(SMALL).hexdigest()
    for name, content in (("x", SMALL), ("fast.gz", gzip.compress(SMALL, 1)), ("best.gz", gzip.compress(SMALL, 9))):
        (tmp_path / name).write_bytes(content)
        assert read_checked(tmp_path / name, digest).tolist() == [[0, 1, 2], [3, 4, 5]]
    (tmp_path / "x").write_bytes(SMALL[:-1] + b"\xff")
    with pytest.raises(bp.DataError, match=f"SHA-256 must be {digest[:16]}..., found [0-9a-f]{{16}}...; get it anew"):
        read_checked(tmp_path / "x", digest)
