"""The user's own files: CSV with every refusal's line and column, .npz, and memory maps that stay on the disk."""

from __future__ import annotations

import csv
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bpnet as bp
from bpnet.data import memmap, read_csv, read_npz
from bpnet.data.rows import read_rows

FLOWERS = """length,width,species
5.1,3.5,setosa
6.2,2.9,"versicolor"
4.9,3.0,setosa
"""


def write(folder: Path, text: str, name: str = "data.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8", newline="")
    return path


def test_text_becomes_classes_in_sorted_order(tmp_path: Path) -> None:
    data = read_csv(write(tmp_path, FLOWERS, "flowers.csv"), target="species")
    assert data.x.tolist() == [[5.1, 3.5], [6.2, 2.9], [4.9, 3.0]]
    assert (data.y.tolist(), data.y.dtype) == ([0, 1, 0], np.int64)
    assert (data.classes, data.name) == (("setosa", "versicolor"), "flowers")


def test_classes_can_be_given_in_the_order_of_another_file(tmp_path: Path) -> None:
    path = write(tmp_path, FLOWERS)
    data = read_csv(path, target="species", classes=["virginica", "versicolor", "setosa"])
    assert data.y.tolist() == [2, 1, 2]
    assert data.classes == ("virginica", "versicolor", "setosa")


@pytest.mark.parametrize("target", [2, -1, "species"])
def test_the_target_is_a_name_or_a_number(target: Any, tmp_path: Path) -> None:
    assert read_csv(write(tmp_path, FLOWERS), target=target).y.tolist() == [0, 1, 0]


def test_the_target_may_stand_anywhere_and_columns_be_dropped(tmp_path: Path) -> None:
    path = write(tmp_path, "id,y,a,b\nx1,1,2,3\nx2,0,4,5\n")
    data = read_csv(path, target="y", drop=["id"])
    assert data.x.tolist() == [[2, 3], [4, 5]]
    assert data.y.tolist() == [1, 0]
    assert read_csv(path, target=1, drop=0).x.tolist() == [[2, 3], [4, 5]]
    assert read_csv(path, target="y", drop="id").x.tolist() == [[2, 3], [4, 5]]


def test_without_a_target_every_column_is_input_and_target(tmp_path: Path) -> None:
    path = write(tmp_path, "id,a,b\n1,2,3\n2,4,5\n")
    data = read_csv(path, target=None, drop="id")
    assert data.y is data.x
    assert (data.x.tolist(), data.classes) == ([[2, 3], [4, 5]], ())
    for more in ({"values": True}, {"classes": ["a"]}):
        with pytest.raises(bp.ConfigError, match="without a target there are no classes and no values; leave them out"):
            read_csv(path, target=None, **more)  # type: ignore[arg-type]


def test_whole_numbers_are_labels_others_values_and_values_what_is_asked_for(tmp_path: Path) -> None:
    path = write(tmp_path, "1,10\n2,20\n")
    assert (read_csv(path, target=1).y.tolist(), read_csv(path, target=1).y.dtype) == ([10, 20], np.int64)
    assert read_csv(path, target=1, values=True).y.tolist() == [[10.0], [20.0]]
    path = write(tmp_path, "1,10\n2,20.5\n")
    assert read_csv(path, target=1).y.tolist() == [[10.0], [20.5]]
    assert read_csv(path, target=1).classes == ()


def test_delimiters_quotes_blank_lines_and_a_byte_order_mark(tmp_path: Path) -> None:
    text = '\ufeffa;"the; target";b\r\n\r\n1,0;2;3\r\n'
    with pytest.raises(bp.DataError, match=r"line 3, column 1 \('a'\) holds '1,0', which is no number"):
        read_csv(write(tmp_path, text), target="the; target", delimiter=";")
    text = text.replace("1,0", '"1.0"')
    data = read_csv(write(tmp_path, text), target="the; target", delimiter=";")
    assert data.x.tolist() == [[1.0, 3.0]]
    assert data.y.tolist() == [2]


def test_a_header_is_told_from_a_sample(tmp_path: Path) -> None:
    text = write(tmp_path, "1,a\n2,b\n")
    assert len(read_csv(text, target=1)) == 2
    named = write(tmp_path, "x,y\n2,b\n")
    assert len(read_csv(named, target=1)) == 1
    years = write(tmp_path, "2019,2020\n1,2\n3,4\n")
    assert len(read_csv(years, target="2020")) == 2
    assert len(read_csv(years, target=1)) == 3
    assert len(read_csv(years, target=1, header=True)) == 2


def test_a_first_line_that_counts_is_neither_taken_for_names_nor_for_a_sample(tmp_path: Path) -> None:
    path = write(tmp_path, "0,1,2\n5,6,1\n7,8,0\n")  # as pandas writes a table without names
    for read in (lambda: read_csv(path, target=-1), lambda: read_rows(path)):
        with pytest.raises(bp.DataError, match="begins with the line 0, 1, 2, ..., which may be a sample or names"):
            read()
    assert read_csv(path, target=-1, header=True).x.tolist() == [[5.0, 6.0], [7.0, 8.0]]
    assert read_csv(path, target="2").x.tolist() == [[5.0, 6.0], [7.0, 8.0]]
    assert read_csv(path, target=-1, header=False).x.tolist() == [[0.0, 1.0], [5.0, 6.0], [7.0, 8.0]]
    assert read_csv(write(tmp_path, "0,1\n2,0\n"), target=-1).x.tolist() == [[0.0], [2.0]]


def test_a_column_without_a_name_is_no_feature_by_accident(tmp_path: Path) -> None:
    path = write(tmp_path, ",size,kind\n0,5,a\n1,7,b\n")  # as pandas writes a table with its index
    with pytest.raises(bp.DataError, match=r"column 1 has no name; if it numbers .* leave it out with drop=\[0\]"):
        read_csv(path, target="kind")
    assert read_csv(path, target="kind", drop=[0]).x.tolist() == [[5.0], [7.0]]


@pytest.mark.parametrize("option", ["header", "values"])
def test_a_text_is_no_truth_value_of_read_csv(option: str, tmp_path: Path) -> None:
    with pytest.raises(bp.ConfigError, match=f"^{option} must be True or False, got 'no'$"):
        read_csv(write(tmp_path, FLOWERS), target=0, **{option: "no"})  # type: ignore[arg-type]


@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(
        st.tuples(
            st.floats(allow_nan=False, allow_infinity=False), st.sampled_from(["a b", 'q"uote', "x,y", "new\nline"])
        ),
        min_size=1,
        max_size=8,
    ),
    delimiter=st.sampled_from(",;\t|"),
)
def test_what_the_csv_module_writes_is_read_to_the_bit(
    rows: list[tuple[float, str]], delimiter: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("csv") / "x.csv"
    with path.open("w", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows([("value", "kind"), *rows])
    data = read_csv(path, target="kind", delimiter=delimiter)
    assert data.x[:, 0].tolist() == [value for value, _ in rows]
    assert [data.classes[label] for label in data.y] == [kind for _, kind in rows]


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("", {}, "holds no samples: it holds nothing"),
        ("\n\n", {}, "holds no samples: it holds nothing"),
        ("a,b\n", {}, "holds no samples: it holds a header alone"),
        ("a,b\n1,2\n3\n", {}, "line 3 has 1 columns, its header 2"),
        ("1,2\n3,4,5\n", {}, "line 2 has 3 columns, the first sample 2"),
        ("a,b,a\n1,2,3\n", {}, "has more than one column named 'a'; give each a name of its own"),
        ("a,b\n1,2\ntext,4\n", {}, "line 3, column 1 ('a') holds 'text', which is no number; numbers alone can be"),
        (
            "a,b\n1,2\n,4\n",
            {},
            "line 3, column 1 ('a') holds '', which is no number but a missing value; remove",
        ),
        ("a,b\n1,2\nNA,4\n", {}, "line 3, column 1 ('a') holds 'NA', which is no number but a missing value"),
        ("1,2\nnan,4\n", {}, "line 2, column 1 holds 'nan', which is no number but a missing value"),
        ("1,2\ninf,4\n", {}, "line 2, column 1 holds 'inf', which is not finite"),
        ("1,2\n1_0,4\n", {}, "line 2, column 1 holds '1_0', which is no number"),
        ("a,b\n1,x\n2,\n", {}, "line 3, column 2 ('b') holds '', which is a missing value"),
        ("a,b\n1,1\n2,\n", {}, "line 3, column 2 ('b') holds '', which is no number but a missing value"),
        (
            "a,b\n1,1\n2,x\n",
            {},
            "line 3, column 2 ('b') holds 'x', which is no number, as the target's other cells",
        ),
        ("a,b\n1,x\n", {"values": True}, "line 2, column 2 ('b') holds 'x', which is no number"),
        (
            "a,b\n1,cta\n",
            {"classes": ["cat", "dog"]},
            "holds 'cta', which is none of the classes cat, dog; did",
        ),
        ('a,b\n1,"x\n', {}, "as csv: line 2: unexpected end of data"),
        ("a\n1\n", {}, "has no column of features; the columns are a; is another delimiter= needed?"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_with_its_place(
    text: str, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = write(tmp_path, text)
    with pytest.raises(bp.DataError) as caught:
        read_csv(path, target=-1, **options)
    assert message in str(caught.value)
    assert repr(str(path)) in str(caught.value)


def test_the_line_is_that_of_the_file_where_quotes_hold_several(tmp_path: Path) -> None:
    path = write(tmp_path, 'a,b\n1,"two\nlines"\nx,c\n')
    with pytest.raises(bp.DataError, match=r"line 4, column 1 \('a'\) holds 'x'"):
        read_csv(path, target="b")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"target": "specis"},
            "has no column 'specis'; the columns are length, width, species; did you mean 'species'?",
        ),
        ({"target": "species", "drop": ["widht"]}, "drop: "),
        ({"target": 3}, "target must be in 0 ... 2, got 3; the columns are length, width, species"),
        ({"target": -4}, "target must be in 0 ... 2, got -4"),
        ({"target": True}, "target must be a column's name or its number from 0, got True"),
        ({"target": 1.0}, "target must be a column's name or its number from 0, got 1.0"),
        ({"target": "species", "header": False}, "columns have names only with a header"),
        ({"target": 2, "classes": ["a"], "values": True}, "pass classes or values=True, not both"),
        ({"target": 2, "classes": "ab"}, "classes must be names, each once, as in ['cat', 'dog'], got 'ab'"),
        ({"target": 2, "classes": ["a", "a"]}, "classes must be names, each once"),
        ({"target": 2, "classes": []}, "classes must be names, each once"),
        ({"target": 2, "delimiter": ",,"}, "delimiter must be one character, such as ',' or '\\t', got ',,'"),
        ({"target": 2, "delimiter": '"'}, "delimiter must be one character"),
        ({"target": "species", "delimiter": ";"}, "is another delimiter= needed?"),
    ],
)
def test_settings_that_cannot_be_are_refused(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(bp.ConfigError) as caught:
        read_csv(write(tmp_path, FLOWERS), **options)
    assert message in str(caught.value)


def test_a_file_that_is_not_there_is_no_text_or_is_a_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(bp.DataError, match="cannot read '.*none.csv': No such file or directory"):
        read_csv(tmp_path / "none.csv", target=0)
    with pytest.raises(bp.DataError, match="Is a directory"):
        read_csv(tmp_path, target=0)
    (tmp_path / "x.csv").write_bytes(b"1,\xff\n")
    with pytest.raises(bp.DataError, match="cannot read '.*x.csv' as csv: it is no text in UTF-8"):
        read_csv(tmp_path / "x.csv", target=0)


def test_samples_to_predict_may_stand_in_quotes(tmp_path: Path) -> None:
    x, y = read_rows(write(tmp_path, '"a","b"\n"1","2"\n'))
    assert x.tolist() == [[1.0, 2.0]]
    assert y is None


# --- npz ---


def test_an_npz_gives_its_x_and_y(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=np.eye(3), y=np.array([0, 1, 2]))
    data = read_npz(tmp_path / "d.npz")
    assert data.x.tolist() == np.eye(3).tolist()
    assert (data.y.tolist(), data.name) == ([0, 1, 2], "d")


@pytest.mark.parametrize(
    ("arrays", "error", "message"),
    [
        ({"x": np.eye(3)}, bp.DataError, "must hold the arrays 'x' and 'y'"),
        ({"a": np.eye(3), "b": np.eye(3)}, bp.DataError, "it holds a, b"),
        ({"x": np.eye(3), "y": np.zeros(2)}, bp.ShapeError, "holds 3 samples and y 2"),
        ({"x": np.array([[np.nan]]), "y": np.zeros(1)}, bp.DataError, "holds 1 NaN"),
        ({"x": np.array([["a"]]), "y": np.zeros(1)}, bp.DataError, "must hold numbers"),
        ({"x": np.eye(2), "y": np.array(["a", "b"])}, bp.DTypeError, "y must hold numbers"),
    ],
)
def test_an_npz_without_what_is_needed_is_refused(
    arrays: dict[str, Any], error: type[Exception], message: str, tmp_path: Path
) -> None:
    np.savez(tmp_path / "d.npz", **arrays)
    with pytest.raises(error, match=message):
        read_npz(tmp_path / "d.npz")


def test_another_kind_of_file_is_no_npz(tmp_path: Path) -> None:
    with pytest.raises(bp.DataError, match="must be a .npz file"):
        read_npz(tmp_path / "d.npy")
    with pytest.raises(bp.DataError, match="No such file"):
        read_npz(tmp_path / "d.npz")


# --- memory maps ---


def test_a_memory_map_is_read_only_and_equal(tmp_path: Path) -> None:
    x = np.arange(12, dtype=np.float32).reshape(4, 3)
    np.save(tmp_path / "x.npy", x)
    mapped = memmap(tmp_path / "x.npy")
    assert isinstance(mapped, np.memmap)
    assert not mapped.flags.writeable
    np.testing.assert_array_equal(mapped, x)


def test_shuffled_batches_of_a_memory_map_are_those_of_the_array(tmp_path: Path) -> None:
    x, y = np.random.default_rng(0).normal(size=(53, 2, 3)), np.arange(53)
    np.save(tmp_path / "x.npy", x)
    on_disk = bp.Dataset(memmap(tmp_path / "x.npy"), y)
    in_memory = bp.Dataset(x, y)
    for shuffle in (True, False):
        pairs = zip(
            on_disk.batches(10, seed=3, epoch=1, shuffle=shuffle),
            in_memory.batches(10, seed=3, epoch=1, shuffle=shuffle),
            strict=True,
        )
        for (x_disk, y_disk), (x_memory, y_memory) in pairs:
            np.testing.assert_array_equal(x_disk, x_memory)
            np.testing.assert_array_equal(y_disk, y_memory)
            if shuffle:
                assert type(x_disk) is np.ndarray


@pytest.mark.parametrize("shuffle", [True, False])
def test_an_epoch_over_a_file_of_400_megabytes_takes_few(shuffle: bool, tmp_path: Path) -> None:
    path = tmp_path / "large.npy"
    np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(400_000, 250)).flush()  # all holes
    mapped = memmap(path)
    data = bp.Dataset(mapped, np.zeros(len(mapped), dtype=np.int64))
    part = data[100_000:300_000]
    assert isinstance(part.x, np.memmap)
    tracemalloc.start()
    try:
        for number, (x, _) in enumerate(part.batches(256, shuffle=shuffle)):
            assert float(x[0, 0]) == 0.0
            if number > 60:
                break
        mean, std = bp.data.mean_and_std(part[:50_000])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (mean.max(), std.min()) == (0.0, 1.0)
    assert peak < 40e6  # bytes


def test_a_model_is_trained_from_the_disk_as_from_memory(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(3.0, 2.0, size=(200, 6)).astype(np.float32)
    y = (x[:, 0] > 3).astype(np.int64)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", y)
    found = []
    for data in (bp.Dataset(x, y), bp.Dataset(memmap(tmp_path / "x.npy"), memmap(tmp_path / "y.npy"))):
        model = bp.Sequential(bp.Normalize(6).fit(data), bp.Dense(6, 2))
        bp.Trainer(model, bp.SoftmaxCrossEntropy(), bp.Adam(0.01), seed=4).fit(data, epochs=3, progress=False)
        found.append(bp.to_numpy(model.store.values).copy())
    assert np.array_equal(*found)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no .npy file that numpy.save wrote"),
        (b"PK\x03\x04zip", "is no .npy file that numpy.save wrote"),
        (None, "No such file or directory"),
    ],
)
def test_what_cannot_be_mapped_is_refused(content: bytes | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "x.npy").write_bytes(content)
    with pytest.raises(bp.DataError, match=message):
        memmap(tmp_path / "x.npy")


def test_truncated_files_objects_and_text_are_not_mapped(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    np.save(path, np.ones((10, 10)))
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(bp.DataError, match="cannot map '.*x.npy': mmap length is greater than file size"):
        memmap(path)
    np.save(path, np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(bp.DataError, match="cannot map"):
        memmap(path)
    np.save(path, np.array(["a"]))
    with pytest.raises(bp.DataError, match="must hold numbers, found dtype <U1"):
        memmap(path)
