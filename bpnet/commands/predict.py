"""`bpnet predict`: what a saved model says of samples."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
import typer

from bpnet import ops
from bpnet.commands import common
from bpnet.commands.saved import Saved
from bpnet.commands.settings import PredictSettings, validated
from bpnet.data import Dataset, available, check_labels, load
from bpnet.data.named import find
from bpnet.data.rows import read_rows
from bpnet.errors import ConfigError, DataError, NonFiniteError, ShapeError
from bpnet.inference import predict as outputs_of
from bpnet.losses import BinaryCrossEntropy, BinaryFocalLoss, FocalLoss, NegativeLogLikelihood, SoftmaxCrossEntropy


def predict(
    model: common.ModelArgument,
    input_file: Annotated[
        str | None, typer.Option("--input", metavar="FILE", help="Samples: a .npy, .npz or .csv file, one a row.")
    ] = None,
    sample: Annotated[
        list[str] | None, typer.Option(metavar="N", help="The N-th test sample of the model's data; may be repeated.")
    ] = None,
    backend: common.BackendOption = None,
    as_json: common.JsonOption = False,
) -> None:
    """Print what a saved model says of samples. That is the class and its probability, or the values."""
    settings = validated(PredictSettings, model=model, input=input_file, sample=sample or None, backend=backend)
    if (settings.input is None) == (not settings.sample):
        raise ConfigError("give either --input FILE (samples of your own) or --sample N (of the model's test data)")
    saved = Saved(settings.model, settings.backend)
    loaded = saved.model
    if isinstance(saved.info.get("vocabulary"), str):
        raise ConfigError(
            f"{settings.model!r} is a model of text: `bpnet generate {settings.model}` shows what it writes"
        )
    if settings.input is None:
        numbers = settings.sample
        x, targets = _test_samples(saved, numbers)
    else:
        x, targets = read_rows(settings.input)
        numbers = list(range(len(x)))
        _note_range(_training_part(saved), x)
    try:
        outputs = np.asarray(outputs_of(loaded, x), dtype=np.float64)
    except ShapeError as error:
        hint = "; as rows, x.reshape(len(x), -1), it may" if x.ndim > 2 else ""
        raise ShapeError(f"this model cannot take samples of shape {x.shape[1:]}{hint}: {error}") from error
    if not np.isfinite(outputs).all():
        raise NonFiniteError(
            "the model's outputs are NaN or infinite: its parameters are, or the samples are too large"
        )

    probabilities = _probabilities(saved, outputs)
    if probabilities is None:
        rows = _values(numbers, outputs, targets)
    else:
        if targets is not None:
            targets = np.asarray(targets)
            targets = targets[:, 0].astype(np.int64) if targets.ndim == 2 and targets.shape[1] == 1 else targets
            check_labels(targets, probabilities.shape[1])
        rows = _answers(numbers, probabilities, targets)
    classes = _classes(saved)
    for row in rows:
        print(_line(row, classes))
    if targets is not None and probabilities is not None and len(rows) > 1:
        print(f"{sum(row['class'] == row['label'] for row in rows)} of {len(rows)} right")
    if as_json:
        common.print_json(
            {
                "predictions": rows,
                "model": settings.model,
                "backend": loaded.backend.name,
                "device": loaded.backend.describe()["device"],
                "versions": common.versions(loaded.backend),
            }
        )


def _test_samples(saved: Saved, numbers: list[int]) -> tuple[Any, Any]:
    if saved.recipe is not None:
        test = saved.parts()[2]
    else:
        name = saved.data_name()
        test = load(name, split_seed=saved.split_seed(name, None))[1]
    wrong = [number for number in numbers if number >= len(test)]
    if wrong:
        raise DataError(
            f"--sample must be in 0 ... {len(test) - 1}, the test part of {test.name}; got {', '.join(map(str, wrong))}"
        )
    return test.x[numbers], test.y[numbers]


def _training_part(saved: Saved) -> Dataset | None:
    """What the model was trained on, where that is known and is here."""
    name = saved.info.get("data")
    try:
        if saved.recipe is not None:
            return saved.parts()[0]
        return load(str(name))[0] if name in available() else None
    except (DataError, ConfigError):
        return None


def _classes(saved: Saved) -> tuple[str, ...]:
    """The names of the classes, as far as they are known."""
    classes, name = saved.info.get("classes"), saved.info.get("data")
    if isinstance(classes, list):
        return tuple(map(str, classes))
    return find(str(name)).classes if name in available() else ()


def _note_range(trained_on: Dataset | None, x: Any) -> None:
    """Say on standard error when the samples reach far beyond the values that the model was trained on."""
    if trained_on is None:
        return
    low, high = float(trained_on.x.min()), float(trained_on.x.max())
    if x.max() > 2 * high - low or x.min() < 2 * low - high:
        common.note(
            f"the model was trained on values in {low:g} ... {high:g}, these samples have {x.min():g} ... {x.max():g}; "
            "scale them alike"
        )


def _probabilities(saved: Saved, outputs: Any) -> Any:
    """(N, C) probabilities, or None where the model is not known to give such."""
    if outputs.ndim != 2:
        return None
    if saved.ends_in_softmax:
        return outputs
    loss = saved.loss
    if isinstance(loss, (BinaryCrossEntropy, BinaryFocalLoss)) and outputs.shape[1] == 1:
        p = outputs if loss.wants == "probabilities" else ops.sigmoid(outputs)
        return np.concatenate([1 - p, p], axis=1)
    if isinstance(loss, NegativeLogLikelihood):
        return np.exp(outputs)
    if saved.info.get("loss") is None:
        common.note('the file names no loss, so these are plain outputs; model.save(path, loss="SoftmaxCrossEntropy")')
    return ops.softmax(outputs) if isinstance(loss, (SoftmaxCrossEntropy, FocalLoss)) else None


def _values(numbers: list[int], outputs: Any, targets: Any) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [
        {"sample": n, "output": output.tolist()} for n, output in zip(numbers, outputs, strict=True)
    ]
    for row, target in zip(rows, targets if targets is not None else (), strict=False):
        row["target"] = np.asarray(target).tolist()
    return rows


def _answers(numbers: list[int], probabilities: Any, labels: Any) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for i, number in enumerate(numbers):
        answer = int(probabilities[i].argmax())
        rows.append({"sample": number, "class": answer, "probability": float(probabilities[i, answer])})
        if labels is not None:
            rows[-1]["label"] = int(labels[i])
    return rows


def _line(row: dict[str, Any], classes: tuple[str, ...]) -> str:
    def name(label: int) -> str:
        return classes[label] if label < len(classes) else str(label)

    if "class" not in row:
        target = f"  target {_numbers(row['target'])}" if "target" in row else ""
        return f"sample {row['sample']}  output {_numbers(row['output'])}{target}"
    text = f"sample {row['sample']}  class {name(row['class'])}  probability {row['probability']:.4f}"
    if "label" not in row:
        return text
    return f"{text}  label {name(row['label'])}" + ("" if row["class"] == row["label"] else "  (wrong)")


def _numbers(value: Any) -> str:
    """Numbers for people, to six digits; nested lists as they are nested."""
    if not isinstance(value, list):
        return f"{value:.6g}"
    inner = ", ".join(_numbers(each) for each in value)
    return inner if len(value) == 1 and not isinstance(value[0], list) else f"[{inner}]"
