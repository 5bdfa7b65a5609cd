"""`scvae-fast segment`: segments pictures that have masks, and writes masks and scores to a folder."""

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from scvae_fast._files import FreeNames, claim_folder, temporary_folder, writing_to
from scvae_fast._markdown import markdown_table
from scvae_fast.commands._inputs import InferenceOptions, check_outside, tell, with_progress
from scvae_fast.commands._results import write_results
from scvae_fast.data.masks import CLASS_COUNTS, MaskedFiles, MaskedPictures, MaskLayout
from scvae_fast.data.mosaics import Mosaics
from scvae_fast.data.stream import comes_with_the_package
from scvae_fast.errors import ArgumentError, UsageError
from scvae_fast.evaluation.record import head
from scvae_fast.plotting.figures import Figure
from scvae_fast.plotting.segmentation import palette, segmentations
from scvae_fast.tasks.segmentation.experiment import Method, Segmented, Task, run
from scvae_fast.tasks.segmentation.features import Feature

MOSAICS = "mosaics"
_SHOWN = 4
_SCORES = ("miou", "dice", "accuracy")
_OWN_KEYS = {"segmented", "method", "runs"}  # only this command's metrics.json has all of them


@dataclass(frozen=True, kw_only=True)
class Labels:
    """The pictures to segment, and how many masks to learn from.

    Args:
        data: a folder, see `MaskedFiles`; or "mosaics", see `Mosaics`.
        layout: how the folder is arranged.
        classes: number of classes, 2 … 255, for a folder with images/ and masks/; None stands for 2.
        labelled: number of pictures with masks to learn from, or 0. In a folder, they are drawn at random and not
            segmented; mosaics to learn from show the other halves of the textures.
        limit: largest number of pictures to segment; None stands for all, or for 16 mosaics.
        fit: largest number of pictures, evenly spread, in which clusters are found.

    Raises:
        ArgumentError: classes is out of range, or layout or classes are given for mosaics.
    """

    data: str | os.PathLike[str]
    layout: MaskLayout = "auto"
    classes: int | None = None
    labelled: int = 0
    limit: int | None = None
    fit: int = 64

    def __post_init__(self) -> None:
        for option, given in (("--layout", self.layout != "auto"), ("--classes", self.classes is not None)):
            if given and self.are_mosaics:
                raise ArgumentError(f"{option} can't be used with --data {MOSAICS}, which have classes of their own")
        if self.classes is not None and self.classes not in CLASS_COUNTS:
            raise ArgumentError(f"--classes must be {CLASS_COUNTS[0]} … {CLASS_COUNTS[-1]}, got {self.classes}")

    def task(self, seed: int) -> Task:
        """The pictures and masks for a seed.

        Raises:
            UsageError: the data can't be used, or no pictures remain to be segmented besides the labelled ones.
        """
        pictures: MaskedPictures
        if self.are_mosaics:
            pictures = self._mosaics("val", self.limit or 16, seed)
            learned = self._mosaics("train", max(self.labelled, 1), seed)
            labelled = [learned[index] for index in range(self.labelled)]
            scored = np.arange(len(pictures))
        else:
            pictures = self._files
            if len(pictures) <= self.labelled:
                raise UsageError(
                    f"--labels {self.labelled}: {self.data} has {len(pictures)} pictures with masks, but at least "
                    "one must remain to be segmented"
                )
            drawn = np.random.default_rng(seed).permutation(len(pictures))
            labelled = [pictures[int(index)] for index in np.sort(drawn[: self.labelled])]
            scored = np.sort(drawn[self.labelled :])[: self.limit]
        chosen = scored[np.unique(np.linspace(0, len(scored) - 1, min(self.fit, len(scored))).round().astype(int))]
        return Task(pictures, scored.tolist(), labelled, chosen.tolist())

    def used(self) -> dict[str, Any]:
        """These settings for a record, without those that have no effect."""
        found: dict[str, Any] = {"data": str(self.data)}
        if not self.are_mosaics:
            found |= {"layout": self._files.layout, "classes": len(self._files.classes)}
        found |= {"labelled": self.labelled, "limit": self.limit}
        return found if self.labelled else found | {"fit": self.fit}

    @cached_property
    def are_mosaics(self) -> bool:
        """Whether the data are mosaics, not files."""
        return comes_with_the_package(self.data, MOSAICS)

    @cached_property
    def _files(self) -> MaskedFiles:
        return MaskedFiles(self.data, layout=self.layout, classes=self.classes or 2)

    @staticmethod
    def _mosaics(split: Literal["train", "val"], count: int, seed: int) -> Mosaics:
        return Mosaics(split=split, count=count, seed=seed)


def segment_pictures(
    checkpoint: str | os.PathLike[str],
    labels: Labels,
    out: Path,
    method: Method,
    *,
    features: Sequence[Feature] = ("codes",),
    plain: bool = False,
    repeats: int = 1,
    inference: InferenceOptions | None = None,
) -> dict[str, Any]:
    """Segment pictures, score them, and write masks, overlays, `metrics.json` and a table (`metrics.md`) to a folder.

    Masks are palette images `masks/NAME.png`, from the first feature and the first seed; `NAME-2.png` if pictures
    differ only in their suffix. Everything is computed before the results of an earlier run are replaced.

    Args:
        checkpoint: see `load_model`.
        labels: pictures and masks.
        out: the folder; created if it doesn't exist.
        method: how to segment; each of `features` in turn replaces its feature.
        features: features of cells; if there are several, the table compares them.
        plain: whether the table also has K-means (or the classifier) on single cells, without words and smoothing.
        repeats: number of seeds, starting with the method's. They change mosaics, drawn labels, words and clusters.
        inference: where the model runs.

    Returns:
        The content of `metrics.json`.

    Raises:
        UsageError: an argument can't be used, or `masks` already exists and is not a result of an earlier run.
    """
    if repeats < 1:
        raise ArgumentError(f"--repeats must be 1 or more, got {repeats}")
    check_outside(out, labels.data)
    claim_folder(out)
    _check_masks(out)
    model, _ = (inference or InferenceOptions()).load(checkpoint)
    first = method.features.seed
    found: list[dict[str, Any]] = []
    shown: list[Segmented] = []
    free = FreeNames(Path.exists)
    with writing_to(out), temporary_folder(out) as folder:
        for seed in range(first, first + repeats):
            task = labels.task(seed)
            for feature in features:
                for bare in (False, True) if plain else (False,):
                    keeps = seed == first and feature == features[0] and not bare
                    keep = partial(_keep, folder, free, shown) if keeps else None
                    tell(f"seed {seed}, {feature}{', single cells' if bare else ''}")
                    scores = run(model, task, method.of(feature, seed, plain=bare), keep, progress=with_progress)
                    found.append({"feature": feature, "plain": bare, "seed": seed, **scores})
        content = _record(checkpoint, model.fingerprint(), labels, method, task, found)
        _write(out, folder, content, segmentations(shown, list(task.pictures.classes)))
    return content


def _check_masks(out: Path) -> None:
    """Check that `masks` doesn't exist, or is an earlier result, which may be replaced."""
    if (out / "masks").exists() and not _is_own(out / "metrics.json"):
        raise UsageError(
            f"{out / 'masks'} already exists and is not a result of an earlier run of segment: choose another --out"
        )


def _is_own(record: Path) -> bool:
    """Whether a metrics.json was written by this command."""
    try:
        content = json.loads(record.read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and content.keys() >= _OWN_KEYS


def _keep(folder: Path, free: FreeNames, shown: list[Segmented], segmented: Segmented) -> None:
    path = free((folder / "masks" / segmented.picture.name).with_suffix(".png"))
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(segmented.classes)
    image.putpalette(palette())  # turns a grey image into a palette image
    image.save(path)
    if len(shown) < _SHOWN:
        shown.append(segmented)


def _record(
    checkpoint: str | os.PathLike[str],
    fingerprint: str,
    labels: Labels,
    method: Method,
    task: Task,
    found: list[dict[str, Any]],
) -> dict[str, Any]:
    return {
        **head(checkpoint, "scikit-learn", "scikit-image"),
        "fingerprint": fingerprint,
        "data": labels.used(),
        "classes": list(task.pictures.classes),
        "segmented": len(task.scored),
        "method": _used(method, labels, task),
        "runs": found,
    }


def _used(method: Method, labels: Labels, task: Task) -> dict[str, Any]:
    """A method for a record, without settings that have no effect; each run records its own feature."""
    found = asdict(method)
    del found["features"]["feature"], found["clusters" if labels.labelled else "classifier"]
    if not labels.labelled:
        found["clusters"] = method.clusters or len(task.pictures.classes)
    return found


def table(content: dict[str, Any]) -> str:
    """A Markdown table of the scores of each method: mean and standard deviation over the seeds."""
    method = content["method"]
    labelled = content["data"]["labelled"]
    way = f"{method['classifier']}, {labelled} labelled pictures" if labelled else "K-means, no labels"
    rows = []
    window = f"{method['features']['words']} words, window of {method['features']['pool']:g}"
    for key in dict.fromkeys((each["feature"], each["plain"]) for each in content["runs"]):
        runs = [each for each in content["runs"] if (each["feature"], each["plain"]) == key]
        scores = (_mean([each[score] for each in runs]) for score in _SCORES)
        rows.append([key[0], "single cells" if key[1] else window, *scores])
    seeds = sorted({each["seed"] for each in content["runs"]})
    lines = [markdown_table((way, "", "mIoU", "Dice", "pixel accuracy"), rows, left=(0, 1))]
    lines += ["", f"{content['segmented']} pictures of {content['data']['data']}, {len(content['classes'])} classes."]
    lines.append(
        f"Seeds {seeds[0]} … {seeds[-1]}: mean ± standard deviation." if len(seeds) > 1 else f"Seed {seeds[0]}."
    )
    return "\n".join(lines)


def _mean(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "–"
    return f"{np.mean(known):.3f}" + (f" ± {np.std(known, ddof=1):.3f}" if len(known) > 1 else "")


def _write(out: Path, folder: Path, content: dict[str, Any], figure: Figure) -> None:
    with writing_to(out):
        if (out / "masks").exists():
            shutil.move(out / "masks", folder / "older")
        shutil.move(folder / "masks", out / "masks")
    written = write_results(out, content, table(content), {"overlays": figure})
    print(f"{table(content)}\n\n{', '.join(map(str, [out / 'masks', *written]))}")
