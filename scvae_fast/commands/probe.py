"""`scvae-fast probe`: trains classifiers on descriptors of labelled pictures, and writes the result."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scvae_fast._files import claim_folder
from scvae_fast._markdown import markdown_table
from scvae_fast.commands._inputs import InferenceOptions, check_outside, tell, with_progress
from scvae_fast.commands._labelled import (
    LabelledData,
    ReadablePictures,
    check_read,
    check_two_classes,
    content_of,
    finish,
    labels_of,
    parse_descriptors,
    usable,
)
from scvae_fast.data.labelled import LabelledPictures
from scvae_fast.errors import ArgumentError, UsageError
from scvae_fast.tasks.descriptors import Described, Descriptor, describe
from scvae_fast.tasks.probe import ProbeResult, ProbeSettings, Split, make_splits, probe


def probe_checkpoint(
    checkpoint: str | os.PathLike[str],
    data: LabelledData,
    out: Path,
    *,
    descriptors: Sequence[str] | None = None,
    repeats: int = 5,
    folds: int = 3,
    inference: InferenceOptions | None = None,
) -> dict[str, Any]:
    """Train classifiers on descriptors of pictures, print a table, and write it to a folder with `metrics.json`.

    Args:
        checkpoint: see `load_model`.
        data: the labelled pictures.
        out: the folder; created if it doesn't exist.
        descriptors: see `Descriptor.parse`; `DEFAULTS` by default.
        repeats: see `ProbeSettings`.
        folds: see `ProbeSettings`.
        inference: how the model is run.

    Returns:
        The content of `metrics.json`.

    Raises:
        UsageError: an argument can't be used, for example because there is only one class, or a class has too few
            pictures; or no picture could be read.
    """
    chosen = parse_descriptors(descriptors)
    settings = usable(lambda: ProbeSettings(repeats=repeats, folds=folds, seed=data.seed), ArgumentError)
    inference = inference or InferenceOptions()
    check_outside(out, data.data)
    claim_folder(out)
    model, speed = inference.load(checkpoint)
    pictures = data.open(model.config)
    _splits(pictures, list(pictures.labels), settings)  # raises its errors before the work, not after it
    readable = ReadablePictures(pictures.pictures)
    described = describe(model, readable, chosen, batch_size=inference.batch_size, speed=speed)
    check_read(described, pictures.data)
    labels, splits = labels_of(pictures, described.names), _splits(pictures, described.names, settings)
    tell(f"fitting {_counted(len(splits), 'classifier')} to each of {_counted(len(chosen), 'descriptor')}")
    fitted = with_progress(described.rows.items(), len(chosen), "descriptors")
    results = {each: probe(rows, labels, splits, settings) for each, rows in fitted}
    content = content_of(checkpoint, pictures, data, len(labels)) | {
        "repeats": settings.repeats,
        "folds": settings.folds,
        **_figures(described, labels, splits, results),
    }
    finish(out, content, _table(content), {})
    return content


def _figures(
    described: Described, labels: np.ndarray, splits: list[Split], results: dict[Descriptor, ProbeResult]
) -> dict[str, Any]:
    largest = [np.bincount(labels[test]).max() / len(test) for _, test in splits]
    return {
        "n_train": [len(train) for train, _ in splits],
        "n_test": [len(test) for _, test in splits],
        "share_of_largest_class": float(np.mean(largest)),
        "descriptors": {
            str(each): {
                "dimension": described.rows[each].shape[1],
                "accuracy": result.mean,
                "deviation": result.deviation,
                "accuracies": result.accuracies,
                "C": result.strengths,
            }
            for each, result in results.items()
        },
    }


def _splits(pictures: LabelledPictures, names: list[str], settings: ProbeSettings) -> list[Split]:
    parts = None if pictures.parts is None else np.array([pictures.parts[name] for name in names])
    labels = labels_of(pictures, names)
    check_two_classes(labels, pictures.data)
    try:
        return make_splits(labels, settings, parts=parts, exchangeable=pictures.exchangeable, classes=pictures.classes)
    except ValueError as error:
        raise UsageError(f"{pictures.data}: {str(error).removeprefix('make_splits: ')}") from error


def _table(content: dict[str, Any]) -> str:
    several = content["repeats"] > 1  # a single split has no deviation
    rows = [
        (name, str(found["dimension"]), f"{_percent(found['accuracy'], found['deviation'] if several else None)} %")
        for name, found in content["descriptors"].items()
    ]
    learned, tested = (_range(content[name]) for name in ("n_train", "n_test"))
    splits = _counted(content["repeats"], "split") + (" (± their standard deviation)" if several else "")
    about = (
        f"{content['data']}: {len(content['classes'])} classes; {learned} training pictures, {tested} test pictures, "
        f"{splits}. Always predicting the largest class is right for {_percent(content['share_of_largest_class'])} %."
    )
    return markdown_table(("descriptor", "dimension", "accuracy"), rows) + f"\n\n{about}"


def _percent(share: float, deviation: float | None = None) -> str:
    return f"{100 * share:.1f}" + ("" if deviation is None else f" ± {100 * deviation:.1f}")


def _counted(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def _range(counts: list[int]) -> str:
    return str(counts[0]) if len(set(counts)) == 1 else f"{min(counts)} … {max(counts)}"
