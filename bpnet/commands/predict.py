"""`bpnet predict`: what a saved model says of samples."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
import typer

from bpnet import ops
from bpnet.commands import common
from bpnet.commands.evaluate import data_of, split_seed_of
from bpnet.commands.settings import PredictSettings, validated
from bpnet.data import Dataset, available, check_labels, load
from bpnet.data.named import find
from bpnet.data.rows import read_rows
from bpnet.errors import ConfigError, DataError, NonFiniteError, ShapeError
from bpnet.inference import predict as outputs_of
from bpnet.layers import Layer


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
    """Print the class that a saved model sees in each sample, and its probability."""
    settings = validated(PredictSettings, model=model, input=input_file, sample=sample or None, backend=backend)
    if (settings.input is None) == (not settings.sample):
        raise ConfigError("give either --input FILE (samples of your own) or --sample N (of the model's test data)")
    loaded = common.open_model(settings.model, settings.backend)
    name = loaded.info.get("data")
    trained_on = _training_part(name) if settings.input is not None else None
    classes = find(str(name)).classes if name in available() else ()
    if settings.input is None:
        numbers = settings.sample
        x, labels = _test_samples(loaded, settings.model, numbers)
    else:
        x, labels = read_rows(settings.input)
        numbers = list(range(len(x)))
        _note_range(trained_on, x)
    try:
        outputs = np.asarray(outputs_of(loaded, x), dtype=np.float64)
    except ShapeError as error:
        hint = "; as rows, x.reshape(len(x), -1), it may" if x.ndim > 2 else ""
        raise ShapeError(f"this model cannot take samples of shape {x.shape[1:]}{hint}: {error}") from error
    if not np.isfinite(outputs).all():
        raise NonFiniteError(
            "the model's outputs are NaN or infinite: its parameters are, or the samples are too large"
        )

    probabilities = _probabilities(loaded, outputs)
    if probabilities is None:
        rows = [{"sample": n, "output": output.tolist()} for n, output in zip(numbers, outputs, strict=True)]
    else:
        if labels is not None:
            check_labels(labels, probabilities.shape[1])
        rows = _answers(numbers, probabilities, labels)
    for row in rows:
        print(_line(row, classes))
    if labels is not None and probabilities is not None and len(rows) > 1:
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


def _test_samples(model: Layer, path: str, numbers: list[int]) -> tuple[Any, Any]:
    name = data_of(model, path)
    test = load(name, split_seed=split_seed_of(model, name, None))[1]
    wrong = [number for number in numbers if number >= len(test)]
    if wrong:
        raise DataError(
            f"--sample must be in 0 ... {len(test) - 1}, the test part of {name}; got {', '.join(map(str, wrong))}"
        )
    return test.x[numbers], test.y[numbers]


def _training_part(name: Any) -> Dataset | None:
    """What the model was trained on, where that is known and is here."""
    try:
        return load(name)[0] if name in available() else None
    except DataError:
        return None


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


def _probabilities(model: Layer, outputs: Any) -> Any:
    """(N, C) probabilities, or None where the model is not known to be a classifier."""
    if outputs.ndim != 2:
        return None
    if common.ends_in_softmax(model):
        return outputs
    loss = model.info.get("loss")
    if loss is None:
        common.note('the file names no loss, so these are plain outputs; model.save(path, loss="SoftmaxCrossEntropy")')
    return ops.softmax(outputs) if loss == "SoftmaxCrossEntropy" else None


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
        return f"sample {row['sample']}  output {row['output']}"
    text = f"sample {row['sample']}  class {name(row['class'])}  probability {row['probability']:.4f}"
    if "label" not in row:
        return text
    return f"{text}  label {name(row['label'])}" + ("" if row["class"] == row["label"] else "  (wrong)")
