"""The entries of losses."""

from __future__ import annotations

from functools import partial

import numpy as np

import bpnet as bp
from bpnet.errors import ConfigError, DTypeError
from bpnet.testing.cases.entries import BadArguments, BadInputs, Fit, LossCase, LossEntry, all_cases, exactly
from bpnet.testing.cases.targets import (
    BITS,
    EIGHT,
    OPTIONS,
    RNG,
    SIGNS,
    T,
    W,
    X,
    Y,
    any_labels,
    bad_options,
    bad_reduction,
    bad_smoothing,
    doubled,
    log_softmax,
    named,
    no_labels,
    not_of_one_shape,
    of_classes,
    of_elements,
    padded_labels,
    probabilities,
    same,
    signs,
    soft_rows,
    softmax,
    unit,
    values,
)

LOSSES: dict[str, LossEntry] = {
    "SoftmaxCrossEntropy": LossEntry(
        dict(of_classes(bp.SoftmaxCrossEntropy, same, smooths=True, soft=True)),
        (
            *bad_options(bp.SoftmaxCrossEntropy, "SoftmaxCrossEntropy"),
            *bad_smoothing(bp.SoftmaxCrossEntropy, "SoftmaxCrossEntropy"),
        ),
        (
            *no_labels("SoftmaxCrossEntropy")[:2],
            *no_labels("SoftmaxCrossEntropy")[3:],
            BadInputs(
                (X, EIGHT),
                exactly("SoftmaxCrossEntropy: class_weight has 3 numbers, the model's 4 outputs need 4"),
                ConfigError,
                lambda: bp.SoftmaxCrossEntropy(class_weight=[1, 2, 3]),
            ),
            BadInputs(
                (X, EIGHT),
                exactly(
                    "SoftmaxCrossEntropy: class_weight names class 4, the model's 4 outputs are the classes 0 ... 3"
                ),
                ConfigError,
                lambda: bp.SoftmaxCrossEntropy(class_weight={4: 2.0}),
            ),
            BadInputs(
                (X, X[:, :3]),
                exactly(
                    "SoftmaxCrossEntropy needs integer labels of shape (8,), or rows of probabilities of the "
                    "prediction's shape (8, 4), got (8, 3)"
                ),
            ),
            BadInputs(
                (X, X.astype(float)),
                exactly(
                    "SoftmaxCrossEntropy needs a target of the prediction's dtype float32, got float64; use "
                    "model.asarray(y, dtype='float32')"
                ),
                DTypeError,
            ),
            BadInputs(
                (X, X),
                exactly(
                    "SoftmaxCrossEntropy: ignore_index=0 is for integer labels, the targets are rows of "
                    "probabilities; give rows that count for nothing a sample_weight of 0"
                ),
                ConfigError,
                lambda: bp.SoftmaxCrossEntropy(ignore_index=0),
            ),
            BadInputs(
                (X, X.astype(int)),
                exactly(
                    "SoftmaxCrossEntropy needs labels of shape (8,), one a row, got (8, 4); for one-hot rows pass "
                    "their argmax, or make them float32"
                ),
            ),
            BadInputs(
                (X.reshape(4, 2, 4), EIGHT),
                exactly("SoftmaxCrossEntropy needs labels of shape (4, 2), one a row, got (8,)"),
            ),
        ),
        {
            "": Fit(bp.SoftmaxCrossEntropy, any_labels),
            "smoothed": Fit(lambda: bp.SoftmaxCrossEntropy(label_smoothing=0.1), any_labels),
            "all": Fit(lambda: bp.SoftmaxCrossEntropy(label_smoothing=0.1, **OPTIONS), padded_labels),
            "soft": Fit(lambda: bp.SoftmaxCrossEntropy(class_weight=[1, 2, 3, 4]), soft_rows),
            "sum": Fit(lambda: bp.SoftmaxCrossEntropy(reduction="sum", **OPTIONS), padded_labels),
        },
    ),
    "CategoricalCrossEntropy": LossEntry(
        dict(of_classes(bp.CategoricalCrossEntropy, softmax, smooths=True, soft=True)),
        (
            *bad_options(bp.CategoricalCrossEntropy, "CategoricalCrossEntropy"),
            *bad_smoothing(bp.CategoricalCrossEntropy, "CategoricalCrossEntropy"),
        ),
        no_labels("CategoricalCrossEntropy")[:2],
        {"": Fit(lambda: bp.CategoricalCrossEntropy(**OPTIONS), padded_labels, (lambda: bp.Softmax(),))},
    ),
    "NegativeLogLikelihood": LossEntry(
        dict(of_classes(bp.NegativeLogLikelihood, log_softmax, soft=True)),
        bad_options(bp.NegativeLogLikelihood, "NegativeLogLikelihood"),
        no_labels("NegativeLogLikelihood")[:2],
        {"": Fit(lambda: bp.NegativeLogLikelihood(**OPTIONS), padded_labels, (lambda: bp.LogSoftmax(),))},
    ),
    "FocalLoss": LossEntry(
        dict(of_classes(bp.FocalLoss, same)) | named("gamma 0.5", of_classes(partial(bp.FocalLoss, 0.5), same)),
        (
            *bad_options(bp.FocalLoss, "FocalLoss"),
            BadArguments(lambda: bp.FocalLoss(-1), exactly("FocalLoss: gamma must be a number of at least 0, got -1")),
        ),
        (
            *no_labels("FocalLoss"),
            BadInputs((X, X), exactly("FocalLoss needs integer labels, got float32"), DTypeError),
        ),
        {"": Fit(lambda: bp.FocalLoss(1.5, **OPTIONS), padded_labels)},
    ),
    "MulticlassHinge": LossEntry(
        dict(of_classes(bp.MulticlassHinge, doubled)),
        (
            *bad_options(bp.MulticlassHinge, "MulticlassHinge"),
            BadArguments(
                lambda: bp.MulticlassHinge(float("inf")),
                exactly("MulticlassHinge: margin must be a number above 0, got inf"),
            ),
        ),
        no_labels("MulticlassHinge"),
        {"": Fit(lambda: bp.MulticlassHinge(**OPTIONS), padded_labels)},
    ),
    "KLDivergence": LossEntry(
        dict(of_elements(bp.KLDivergence, log_softmax(Y), probabilities(5, 3), by_row=True)),
        (bad_reduction(bp.KLDivergence),),
        (
            *not_of_one_shape("KLDivergence"),
            BadInputs((W, W), exactly("KLDivergence needs predictions of shape (N, C), got (8,)")),
        ),
        {"": Fit(bp.KLDivergence, soft_rows, (lambda: bp.LogSoftmax(),))},
    ),
    "MeanSquaredError": LossEntry(
        dict(of_elements(bp.MeanSquaredError, Y, T)),
        (bad_reduction(bp.MeanSquaredError),),
        (
            *not_of_one_shape("MeanSquaredError"),
            BadInputs(
                (X[:, :1], X[:, 0]),
                r"of the prediction's shape \(8, 1\), got \(8,\); they would broadcast to every pair: reshape one",
            ),
            BadInputs(
                (X, X, X), exactly("MeanSquaredError needs a sample_weight of shape (8,), one a row, got (8, 4)")
            ),
            BadInputs((W[0, ...], W[0, ...]), exactly("MeanSquaredError needs predictions of shape (N, ...), got ()")),
        ),
        {"": Fit(bp.MeanSquaredError, values)},
    ),
    "MeanAbsoluteError": LossEntry(
        dict(of_elements(bp.MeanAbsoluteError, Y, T)),
        (bad_reduction(bp.MeanAbsoluteError),),
        not_of_one_shape("MeanAbsoluteError"),
        {"": Fit(bp.MeanAbsoluteError, values)},
    ),
    "Huber": LossEntry(
        dict(of_elements(bp.Huber, Y, T)) | named("delta 0.3", of_elements(partial(bp.Huber, 0.3), Y, T)),
        (
            bad_reduction(bp.Huber),
            BadArguments(lambda: bp.Huber(0), exactly("Huber: delta must be a number above 0, got 0")),
        ),
        (
            *not_of_one_shape("Huber"),
            BadInputs(
                (X, X, W.astype(float)),
                exactly(
                    "Huber needs a sample_weight of the prediction's dtype float32, got float64; use model.asarray(w, "
                    "dtype='float32')"
                ),
                DTypeError,
            ),
            BadInputs(
                (X, X, W.tolist()),
                exactly("Huber needs arrays, got a sample_weight of list; use model.asarray"),
                DTypeError,
            ),
        ),
        {"": Fit(bp.Huber, values)},
    ),
    "LogCosh": LossEntry(
        dict(of_elements(bp.LogCosh, Y, T)),
        (bad_reduction(bp.LogCosh),),
        not_of_one_shape("LogCosh"),
        {"": Fit(bp.LogCosh, values)},
    ),
    "PoissonNLL": LossEntry(
        dict(of_elements(bp.PoissonNLL, Y, np.floor(5 * BITS))),
        (bad_reduction(bp.PoissonNLL),),
        not_of_one_shape("PoissonNLL"),
        {"": Fit(bp.PoissonNLL, unit)},
    ),
    "BinaryCrossEntropy": LossEntry(
        dict(of_elements(bp.BinaryCrossEntropy, 3 * Y, BITS))
        | named(
            "of probabilities",
            of_elements(partial(bp.BinaryCrossEntropy, from_logits=False), RNG.uniform(0.05, 0.95, size=(5, 3)), BITS),
        ),
        (
            bad_reduction(bp.BinaryCrossEntropy),
            BadArguments(
                lambda: bp.BinaryCrossEntropy(from_logits="yes"),  # type: ignore[arg-type]
                exactly("BinaryCrossEntropy: from_logits must be True or False, got 'yes'"),
            ),
        ),
        (
            *not_of_one_shape("BinaryCrossEntropy"),
            BadInputs((X[:, 0], X[:, :1]), "they would broadcast to every pair"),
        ),
        {
            "": Fit(bp.BinaryCrossEntropy, unit),
            "of probabilities": Fit(lambda: bp.BinaryCrossEntropy(from_logits=False), unit, (lambda: bp.Sigmoid(),)),
        },
    ),
    "BinaryFocalLoss": LossEntry(
        dict(of_elements(bp.BinaryFocalLoss, Y, BITS))
        | named("balanced", of_elements(partial(bp.BinaryFocalLoss, 0.5, 0.25), Y, np.round(BITS))),
        (
            bad_reduction(bp.BinaryFocalLoss),
            BadArguments(
                lambda: bp.BinaryFocalLoss(alpha=1.5),
                exactly("BinaryFocalLoss: alpha must be a number in [0, 1] or None, got 1.5"),
            ),
        ),
        not_of_one_shape("BinaryFocalLoss"),
        {"": Fit(lambda: bp.BinaryFocalLoss(alpha=0.25), unit)},
    ),
    "Hinge": LossEntry(
        dict(of_elements(bp.Hinge, Y, SIGNS))
        | named("squared", of_elements(partial(bp.Hinge, squared=True), Y, SIGNS)),
        (
            bad_reduction(bp.Hinge),
            BadArguments(
                lambda: bp.Hinge(squared=1),  # type: ignore[arg-type]
                exactly("Hinge: squared must be True or False, got 1"),
            ),
        ),
        not_of_one_shape("Hinge"),
        {"": Fit(lambda: bp.Hinge(squared=True), signs)},
    ),
}
LOSS_CASES: dict[str, LossCase] = all_cases(LOSSES)
FITS: dict[str, Fit] = {
    f"{name}, {fit_name}" if fit_name else name: fit
    for name, entry in LOSSES.items()
    for fit_name, fit in entry.fits.items()
}
