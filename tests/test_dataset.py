"""Parts of a data set: slices, picked samples, a part held out, and the weights that go with them."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bpnet as bp
from bpnet.data import split
from bpnet.data.checks import check_finite


def numbered(n: int = 10, **options: Any) -> bp.Dataset:
    return bp.Dataset(
        np.arange(2 * n).reshape(n, 2), np.arange(n) % 3, name="numbers", classes=("a", "b", "c"), **options
    )


@pytest.mark.parametrize(
    "rows", [slice(3), slice(-3, None), slice(2, 8, 2), slice(None), slice(0, 99), slice(None, None, -1)]
)
def test_a_slice_is_a_data_set_of_views(rows: slice) -> None:
    data = numbered(weight=np.arange(10) + 1.0)
    part = data[rows]
    assert np.array_equal(part.x, data.x[rows])
    assert np.array_equal(part.y, data.y[rows])
    assert np.array_equal(part.weight, data.weight[rows])
    assert (part.name, part.classes) == ("numbers", ("a", "b", "c"))
    assert np.shares_memory(part.x, data.x)


def test_a_slice_says_what_it_is_of() -> None:
    assert numbered(split="test of official")[:3].split == "test of official [0:3]"
    assert numbered()[2:8:2].split == "[2:8:2]"
    with pytest.raises(bp.ConfigError, match=r"takes slices, as in dataset\[:100\], got 3; subset\(\[...\]\) picks"):
        numbered()[3]  # type: ignore[index]
    with pytest.raises(bp.DataError, match="x is empty"):
        numbered()[5:5]


def test_parts_are_of_the_datas_library(backend: bp.Backend) -> None:
    data = bp.Dataset(*(backend.asarray(a) for a in (np.eye(6), np.arange(6))), weight=backend.asarray(np.arange(6.0)))
    for part, expected in (
        (data[1:4], [1, 2, 3]),
        (data[4:99], [4, 5]),
        (data.subset([5, 0, 0]), [5, 0, 0]),
        (data.subset(np.arange(6) > 3), [4, 5]),
    ):
        assert isinstance(part.x, backend.array_type)
        assert bp.to_numpy(part.y).tolist() == expected
        assert bp.to_numpy(part.x).argmax(axis=1).tolist() == expected
        assert bp.to_numpy(part.weight).tolist() == expected


@pytest.mark.parametrize(
    ("indices", "error", "message"),
    [
        ([0, 10], bp.DataError, "indices must lie in 0 ... 9, got 10"),
        ([-1], bp.DataError, "indices must lie in 0 ... 9, got -1"),
        ([0.0], bp.DTypeError, "indices must be integers, or a mask of truth values, got float64"),
        ([[0]], bp.ShapeError, r"indices must have one axis, got shape \(1, 1\)"),
        (np.ones(9, bool), bp.ShapeError, "a mask must have one truth value a sample, 10, got 9"),
        ([], bp.DataError, "x is empty"),
    ],
)
def test_indices_that_cannot_be_are_refused(indices: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        numbered().subset(indices)


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(20, 200),
    n_classes=st.integers(1, 4),
    fraction=st.floats(0.2, 0.8),
    seed=st.integers(0, 99),
    stratify=st.booleans(),
)
def test_a_split_has_every_sample_once(n: int, n_classes: int, fraction: float, seed: int, stratify: bool) -> None:
    y = np.random.default_rng(seed).integers(0, n_classes, n)
    data = bp.Dataset(np.arange(n)[:, None], y, weight=np.arange(n) + 1.0)
    rest, part = split(data, fraction, seed=seed, stratify=stratify)
    assert sorted([*rest.x[:, 0], *part.x[:, 0]]) == list(range(n))
    for each in (rest, part):
        assert np.all(np.diff(each.x[:, 0]) > 0) or len(each) == 1  # in the data's order
        assert np.array_equal(each.y, y[each.x[:, 0]])
        assert np.array_equal(each.weight, each.x[:, 0] + 1.0)
    if stratify:
        for label in np.unique(y):
            assert abs(int(np.sum(part.y == label)) - fraction * int(np.sum(y == label))) <= 0.5 + 1e-9
    else:
        assert abs(len(part) - fraction * n) <= 0.5 + 1e-9


def test_a_split_is_a_function_of_its_seed_and_says_what_it_is() -> None:
    data = bp.data.load("digits")[0]
    rest, part = split(data, 0.1, seed=2)
    assert (len(rest), len(part)) == (1438 - len(part), len(part))
    assert part.split == "0.1 of train of stratified-fifth, seed 0, seed 2"
    assert rest.split == "all but 0.1 of train of stratified-fifth, seed 0, seed 2"
    assert (part.name, part.classes) == ("digits", data.classes)
    assert np.array_equal(split(data, 0.1, seed=2)[1].x, part.x)
    assert not np.array_equal(split(data, 0.1, seed=3)[1].x[:50], part.x[:50])


def test_values_are_split_without_classes() -> None:
    rest, part = split(bp.data.load("diabetes")[0], 0.25)
    assert (len(rest), len(part)) == (265, 89)


@pytest.mark.parametrize("fraction", [0, 1, -0.1, float("nan"), "half", True, 2])
def test_a_fraction_that_cannot_be_is_refused(fraction: Any) -> None:
    with pytest.raises(bp.ConfigError, match="fraction must be a number between 0 and 1, got"):
        split(numbered(), fraction)


def test_a_part_without_samples_is_refused() -> None:
    with pytest.raises(bp.ConfigError, match="0.1 of 10 samples leaves a part empty; .*, or stratify=False"):
        split(numbered(), 0.1)
    assert len(split(numbered(), 0.1, stratify=False)[1]) == 1
    with pytest.raises(bp.ConfigError, match="split needs a Dataset, got tuple"):
        split((np.ones(3), np.ones(3)), 0.5)  # type: ignore[arg-type]


class Squares(bp.data.LazyRows):
    """Row i is (i, i^2) / 100, made when it is asked for."""

    def __init__(self, n: int, bad: int | None = None) -> None:
        super().__init__((n, 2), np.dtype("float64"))
        self.bad = bad
        self.most = 0

    def take(self, rows: Any) -> Any:
        i = np.arange(self.shape[0])[rows].astype("float64")
        self.most = max(self.most, len(i))
        i[i == (-1 if self.bad is None else self.bad)] = np.nan
        return np.stack([i, i * i], axis=1) / 100


@pytest.mark.parametrize("shuffle", [True, False])
def test_rows_made_in_batches_train_and_predict_as_the_whole_array_does(shuffle: bool) -> None:
    lazy, y = Squares(100), np.arange(100) % 2
    whole = lazy.take(np.arange(100))
    lazy.most = 0
    models = [bp.Sequential(bp.Dense(2, 3), bp.ReLU(), bp.Dense(3, 2)) for _ in range(2)]
    histories = [
        bp.Trainer(model, bp.SoftmaxCrossEntropy(), bp.Adam(0.1)).fit(
            x, y, validation_data=(whole, y), epochs=3, batch_size=16, shuffle=shuffle, progress=False
        )
        for model, x in zip(models, (lazy, whole), strict=True)
    ]
    assert lazy.most == 16
    assert histories[0]["loss"] == histories[1]["loss"]
    assert histories[0]["val_loss"] == histories[1]["val_loss"]
    lazily = bp.predict(models[0], lazy, batch_size=30)
    assert isinstance(lazily, np.ndarray)
    np.testing.assert_array_equal(lazily, bp.predict(models[1], whole, batch_size=30))
    assert lazy.most == 30
    assert repr(bp.Dataset(lazy, y)) == repr(bp.Dataset(whole, y))


def test_nan_in_a_row_that_is_made_late_is_found_in_its_batch() -> None:
    model = bp.Sequential(bp.Dense(2, 2))
    with pytest.raises(bp.DataError, match="x holds 2 NaN"):
        bp.Trainer(model, bp.SoftmaxCrossEntropy(), bp.Adam()).fit(
            Squares(50, bad=40), np.zeros(50, int), progress=False
        )


def test_a_source_of_rows_must_say_how_they_are_taken() -> None:
    with pytest.raises(NotImplementedError, match="LazyRows must define take"):
        bp.data.LazyRows((3, 2), np.dtype("float32"))[0:1]


@pytest.mark.parametrize("shape", [(), (7,), (7, 3), (5, 2, 3), (0, 3), (3, 0), (1, 40)])
def test_values_are_checked_part_by_part_as_all_at_once(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...]
) -> None:
    monkeypatch.setattr("bpnet.data.checks.PART", 4)
    x = np.zeros(shape)
    check_finite(x, "x")
    for k in range(x.size):
        bad = x.copy()
        bad.flat[k] = np.nan
        place = tuple(int(i) for i in np.unravel_index(k, shape))
        words = f"x holds 1 NaN and 0 infinite values among {x.size}; the first is nan at index {place};"
        with pytest.raises(bp.DataError, match=re.escape(words)):
            check_finite(bad, "x")
