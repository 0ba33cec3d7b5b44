"""Compiled bodies whose work is divided: the parts together mean what the reference means, whoever runs them."""

from __future__ import annotations

import copy
import math
import sys
import threading
from typing import Any

import numpy as np
import pytest

import bpnet as bp
from bpnet import ops
from bpnet.dispatch import Kernel, load_variants
from bpnet.ops.windows import Window
from bpnet.testing.kernels import assert_close, call

load_variants(np.ndarray)
from bpnet_numpy import fused  # noqa: E402

pytestmark = pytest.mark.skipif(bool(fused.why_not()), reason=fused.why_not())
Array = Any


@pytest.fixture(params=[2, 3])
def threads(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """As many parts as on a machine with so many threads."""
    from bpnet_numpy.fused import parts

    monkeypatch.setattr(parts, "wanted", lambda: request.param)
    return int(request.param)


def compiled(op: Kernel, args: tuple[Any, ...]) -> Any:
    """The compiled variant, which must be the one that runs."""
    variant = op.choose(args)
    assert variant.name == "fused"
    return variant


def agree(op: Kernel, *args: Any) -> None:
    """Hold the compiled body to the reference, also where it writes into places that hold something else."""
    variant = compiled(op, args)
    expected, _ = call(op.reference.body, args)
    found, after = call(variant.body, args)
    dtype = str(next(a for a in args if isinstance(a, np.ndarray) and a.dtype.kind == "f").dtype)
    assert_close(found, expected, dtype)
    for given, own in zip(args, after, strict=True):
        if isinstance(given, np.ndarray):
            np.testing.assert_array_equal(given, own)
    places = copy.deepcopy(found)
    for each in places if isinstance(places, tuple) else (places,):
        if each is not None:
            each[...] = 77
    with np.errstate(all="ignore"):
        variant.into(places, *args)
    pairs = zip(*(each if isinstance(each, tuple) else (each,) for each in (places, found)), strict=True)
    assert all((a is None and b is None) or a.tobytes() == b.tobytes() for a, b in pairs)


def normal(dtype: str, *shape: int) -> Array:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_norms_divided_by_rows(threads: int, dtype: str) -> None:
    x, gain, bias = normal(dtype, 7, 41, 200), normal(dtype, 200), normal(dtype, 200)
    agree(ops.layer_norm, x, gain, bias, 1e-5)
    agree(ops.rms_norm, x, gain, 1e-5)
    _, h, r = ops.layer_norm(x, gain, bias, 1e-5)
    for needs in ((True, True, True), (False, True, False), (True, False, True)):
        agree(ops.layer_norm_backward, normal(dtype, 41, 7, 200).reshape(x.shape), h, r, gain, *needs)
    agree(ops.rms_norm_backward, normal(dtype, 41, 7, 200).reshape(x.shape), h, r, gain, True, True)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_gelu_by_tanh_divided(threads: int, dtype: str) -> None:
    x = np.concatenate((normal(dtype, 60_000) * 3, np.array([0, -0.0, 40, -40, 1e4, -1e4, np.nan, np.inf], dtype)))
    agree(ops.gelu_tanh, x[:-1])
    agree(ops.gelu_tanh_with_slope, x[:-2])
    agree(ops.gelu_tanh_backward, normal(dtype, x.size - 2), x[:-2])
    agree(ops.mul, x, x[::-1].copy())


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("masking", "rate"), [(False, 0.0), (True, 0.3)])
@pytest.mark.parametrize("kept", [True, False])
def test_attention_divided_by_samples(
    threads: int, dtype: str, causal: bool, masking: bool, rate: float, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not kept:
        monkeypatch.setattr(sys.modules["bpnet.ops.attention"], "KEPT", 0)
    n, length, heads, width = 7, 45, 3, 24
    rng = np.random.default_rng(0)
    mask = rng.random((n, length)) < 0.8 if masking else None
    if mask is not None:
        mask[2] = False  # nobody sees anything
        mask[3, :5] = False  # of a causal one, the first queries see nothing
    keep = rng.random((n, heads, length, length)) < 1 - rate if rate else None
    qkv, dy = normal(dtype, n, length, 3 * width), normal(dtype, n, length, width)
    settings = (mask, keep, heads, causal, rate)
    agree(ops.self_attention, qkv, *settings)
    y, saved = ops.self_attention(qkv, *settings)
    agree(ops.self_attention_backward, dy, y, qkv, saved, *settings)
    q, k, v = (normal(dtype, n, each, width) for each in (length - 8, length, length))
    if keep is not None:
        settings = (mask, keep[:, :, 8:].copy(), heads, causal, rate)
    agree(ops.attention, q, k, v + 1, *settings)
    y, saved = ops.attention(q, k, v + 1, *settings)
    agree(ops.attention_backward, y + 1, y, q, k, v + 1, saved, *settings)


def test_attention_keeps_what_is_not_a_number_where_it_is_seen(threads: int) -> None:
    qkv = normal("float32", 4, 32, 3 * 64)
    qkv[1, 20, 64:128] = np.nan  # a key
    y, _ = ops.self_attention(qkv, None, None, 4, True, 0.0)
    missing = np.isnan(y).any(axis=2)
    assert missing[1, 20:].all()
    assert not missing[1, :20].any()
    assert not missing[[0, 2, 3]].any()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_embeddings_divided_by_columns_and_rows(threads: int, dtype: str) -> None:
    ids = np.random.default_rng(0).integers(-2, 12, (30, 40))  # some name no token
    W, dy = normal(dtype, 10, 70), normal(dtype, 30, 40, 70)
    for given in (ids, ids.astype(np.int32)):
        agree(ops.embedding, given, W)
        agree(ops.embedding_backward, dy, given, 10)
    table = normal(dtype, 50, 70)
    agree(ops.add_positions, dy, table, 5)
    agree(ops.add_positions_backward, dy, 50)
    agree(ops.unembed, dy, W)
    agree(ops.unembed_backward, normal(dtype, 30, 40, 10), dy, W)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("reverse", [False, True])
def test_an_lstm_divided_by_samples(threads: int, dtype: str, reverse: bool) -> None:
    n, steps, n_in, width = 25, 6, 10, 48
    x, b = normal(dtype, n, steps, n_in), normal(dtype, 4 * width)
    W, U = normal(dtype, n_in, 4 * width) * 0.3, normal(dtype, width, 4 * width) * 0.1
    agree(ops.lstm, x, W, U, b, None, reverse)
    y, gates, cells = ops.lstm(x, W, U, b, None, reverse)
    dy = normal(dtype, n, steps, width)
    for needs in ((True, True), (False, True), (True, False)):
        agree(ops.lstm_backward, dy, y, x, W, U, gates, cells, None, reverse, *needs)
    agree(ops.lstm, x[:, :1].copy(), W, U, b)
    agree(ops.lstm, x, W, U, b, None, reverse, normal(dtype, n, width), normal(dtype, width, n).T.copy())


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("reverse", [False, True])
def test_recurrent_networks_divided_by_samples(threads: int, dtype: str, reverse: bool) -> None:
    n, steps, n_in, width = 29, 5, 12, 40
    x, h = normal(dtype, n, steps, n_in), normal(dtype, n, width)
    W, U = normal(dtype, n_in, 3 * width) * 0.3, normal(dtype, width, 3 * width) * 0.1
    b, b_n = normal(dtype, 3 * width), normal(dtype, width)
    agree(ops.gru, x, W, U, b, b_n, None, reverse, h)
    y, gates = ops.gru(x, W, U, b, b_n, None, reverse)
    dy = normal(dtype, n, steps, width)
    for needs in ((True, True), (False, True), (True, False)):
        agree(ops.gru_backward, dy, y, x, W, U, gates, None, reverse, *needs)
    W, U = W[:, :width].copy(), U[:, :width].copy()
    for activation in ("tanh", "relu"):
        agree(ops.rnn, x, W, U, b_n, activation, None, reverse, h)
        y = ops.rnn(x, W, U, b_n, activation, None, reverse)
        for needs in ((True, True), (False, True), (True, False)):
            agree(ops.rnn_backward, dy, y, x, W, U, activation, None, reverse, *needs)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_what_is_behind_the_end_of_a_sequence_is_never_seen(threads: int, reverse: bool, dtype: Any) -> None:
    n, steps, n_in, width = 24, 5, 12, 40
    lengths = (np.arange(n) % (steps + 3) - 1).astype(dtype)  # negative ones and longer ones, too
    x, dy = normal("float64", n, steps, n_in), normal("float64", n, steps, width)
    W, U = normal("float64", n_in, 4 * width) * 0.3, normal("float64", width, 4 * width) * 0.1
    b = normal("float64", 4 * width)
    W3, U3 = W[:, : 3 * width].copy(), U[:, : 3 * width].copy()
    W1, U1 = W[:, :width].copy(), U[:, :width].copy()
    gone = np.arange(steps) >= lengths[:, None]
    found = []
    for garbage in (0.0, np.nan):
        own = np.where(gone[:, :, None], garbage, x)
        y, *kept = ops.lstm(own, W, U, b, lengths, reverse)
        of_lstm = (y, *ops.lstm_backward(dy, y, own, W, U, *kept, lengths, reverse))
        y, gates = ops.gru(own, W3, U3, b[: 3 * width].copy(), b[:width].copy(), lengths, reverse)
        of_gru = (y, *ops.gru_backward(dy, y, own, W3, U3, gates, lengths, reverse))
        y = ops.rnn(own, W1, U1, b[:width].copy(), "tanh", lengths, reverse)
        found.append((*of_lstm, *of_gru, y, *ops.rnn_backward(dy, y, own, W1, U1, "tanh", lengths, reverse)))
        if not garbage:
            agree(ops.lstm_backward, dy, of_lstm[0], own, W, U, *kept, lengths, reverse)
            agree(ops.gru_backward, dy, of_gru[0], own, W3, U3, gates, lengths, reverse)
    assert all(np.isfinite(each).all() for each in found[1])
    assert [each.tobytes() for each in found[0]] == [each.tobytes() for each in found[1]]


WINDOWS = [
    Window((3, 3), (1, 1), (1, 1), ((1, 1), (1, 1))),
    Window((3, 2), (2, 1), (1, 2), ((2, 0), (0, 3))),
    Window((1, 4), (1, 3), (1, 1), ((0, 0), (3, 3))),
    Window((2, 2), (3, 3), (1, 1), ((0, 0), (0, 0))),
]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("channels", [(1, 16), (9, 5)])
@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_convolutions_divided_by_samples(threads: int, dtype: str, channels: tuple[int, int], window: Window) -> None:
    c, n_out = channels
    x, W, b = normal(dtype, 33, 29, 23, c), normal(dtype, *window.size, c, n_out), normal(dtype, n_out)
    W *= 0.2  # so that tanh does not see the rounding of large sums
    for activation in ((), (ops.relu,), (ops.tanh,)):
        agree(ops.conv2d, x, W, b, window, 1, *activation)
    agree(ops.conv2d, x, W, None, window, 1)
    dy = normal(dtype, 33, *window.places(29, 23), n_out)
    for needs in ((True, True, True), (False, True, True), (True, False, False)):
        agree(ops.conv2d_backward, dy, x, W, window, 1, *needs)
    agree(ops.max_pool2d, x, window)
    agree(ops.max_pool2d_backward, normal(dtype, 33, *window.places(29, 23), c), x, window)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("channels", [(3, 33), (17, 2), (5, 70)])
@pytest.mark.parametrize("band", [1, 300, 1 << 20])
def test_convolutions_by_bands_of_rows_and_panels_of_channels(
    threads: int, dtype: str, channels: tuple[int, int], band: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bpnet_numpy.fused.variants import windows

    monkeypatch.setattr(windows, "BAND", band)
    c, n_out = channels
    for window in (*WINDOWS, Window((3, 3), (2, 3), (2, 1), ((2, 1), (1, 2)))):
        x, W, b = normal(dtype, 5, 11, 9, c), normal(dtype, *window.size, c, n_out), normal(dtype, n_out)
        agree(ops.conv2d, x, W, b, window, 1, ops.relu)
        dy = normal(dtype, 5, *window.places(11, 9), n_out)
        agree(ops.conv2d_backward, dy, x, W, window, 1, True, True, True)


def test_a_convolution_keeps_what_is_not_a_number_where_a_window_sees_it(threads: int) -> None:
    window = Window((3, 3), padding=((1, 1), (1, 1)))
    x, W, b = normal("float32", 8, 9, 9, 4), normal("float32", 3, 3, 4, 20), normal("float32", 20)
    x[3, 0, 8] = np.nan
    missing = np.isnan(ops.conv2d(x, W, b, window, 1, ops.relu)).all(axis=3)
    assert np.argwhere(missing).tolist() == [[3, 0, 7], [3, 0, 8], [3, 1, 7], [3, 1, 8]]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_smooth_activations_divided(threads: int, dtype: str) -> None:
    ends = np.array([0, -0.0, 40, -40, 1e4, -1e4, 1e-30, -1e-30, 3, -3], dtype)
    x = np.concatenate((normal(dtype, 60_000) * 6, ends))
    dy = normal(dtype, x.size)
    for op in (ops.gelu, ops.gelu_with_slope, ops.normal_cdf, ops.silu, ops.softplus, ops.mish, ops.hardswish):
        agree(op, x)
    agree(ops.elu, x, 0.7)
    agree(ops.elu_backward, dy, x, 0.7)
    for op in (ops.gelu_backward, ops.silu_backward, ops.softplus_backward, ops.mish_backward, ops.hardswish_backward):
        agree(op, dy, x)
    rows = x[:60_000].reshape(-1, 2 * 75)
    for op, back in ((ops.swiglu, ops.swiglu_backward), (ops.glu, ops.glu_backward)):
        agree(op, rows)
        agree(back, dy[: rows.size // 2].reshape(-1, 75), rows)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_softplus_and_the_normal_distribution_keep_their_tails(dtype: str) -> None:
    x = np.linspace(-8, -2, 101).astype(dtype)
    exact = x.astype(np.float64)
    bound = 2e-6 if dtype == "float32" else 2e-14
    np.testing.assert_allclose(ops.softplus(x), np.log1p(np.exp(exact)), rtol=bound)
    below = [0.5 * math.erfc(-each / math.sqrt(2)) for each in exact]
    np.testing.assert_allclose(ops.normal_cdf(x), below, rtol=4 * bound)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_cross_entropy_divided_by_rows(threads: int, dtype: str) -> None:
    logits, labels = normal(dtype, 1500, 65) * 4, np.random.default_rng(0).integers(0, 65, 1500)
    agree(ops.softmax_cross_entropy, logits, labels, 1500)
    agree(ops.softmax_cross_entropy_gradient, logits, labels, 1500, 0.5)
    loss, p = ops.softmax_cross_entropy(logits, labels, 1500)
    one, slopes = ops.softmax_cross_entropy_gradient(logits, labels, 1500, 0.5)
    assert loss.tobytes() == one.tobytes()
    assert ops.softmax_cross_entropy_backward(p, labels, 1500, 0.5).tobytes() == slopes.tobytes()


def test_who_runs_the_parts_changes_no_bit(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from bpnet_numpy.fused import parts

    x, gain = normal("float32", 300, 200), normal("float32", 200)
    helped = ops.rms_norm(x, gain, 1e-5)
    monkeypatch.setattr(parts, "team", lambda: (0, 0))  # nobody helps
    alone = ops.rms_norm(x, gain, 1e-5)
    assert [a.tobytes() for a in helped] == [a.tobytes() for a in alone]


def test_programs_of_several_threads_of_python_do_not_disturb_each_other(threads: int) -> None:
    x, gain = normal("float32", 400, 300), normal("float32", 300)
    expected = [ops.rms_norm(x * k, gain, 1e-5)[0] for k in range(4)]
    wrong: list[int] = []

    def work(k: int) -> None:
        for _ in range(50):
            if ops.rms_norm(x * k, gain, 1e-5)[0].tobytes() != expected[k].tobytes():
                wrong.append(k)

    workers = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for each in workers:
        each.start()
    for each in workers:
        each.join()
    assert not wrong


def test_a_gpt_and_an_lstm_learn_by_plans_what_they_learn_without(threads: int) -> None:
    ids = np.random.default_rng(0).integers(0, 9, (8, 40))
    block = bp.TransformerBlock(32, 4, causal=True, activation="gelu_tanh")
    models = {
        "gpt": (bp.Embedding(9, 32), bp.LearnedPositions(40, 32), block, bp.LayerNorm(32), bp.Unembedding(9, 32)),
        "lstm": (bp.Embedding(9, 32), bp.LSTM(32, 40), bp.Unembedding(9, 40)),
    }
    for layers in models.values():
        values = []
        for plan in (True, False):
            model = bp.Sequential(*copy.deepcopy(layers)).initialize(seed=0, dtype="float32")
            trainer = bp.Trainer(model, bp.SoftmaxCrossEntropy(), bp.AdamW(1e-2), plan=plan)
            for _ in range(5):
                trainer.step(ids, (ids + 1) % 9)
            values.append(model.store.values.tobytes())
        assert values[0] == values[1]
