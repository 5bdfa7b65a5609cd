"""The phases of a comparison: train, rate, time, write; each reuses what its folder already holds."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from scvae_fast._devices import find_device
from scvae_fast._extras import extra
from scvae_fast._files import locked, make_folder, write_atomically, write_json
from scvae_fast._shares import Share
from scvae_fast.comparison.folder import ComparisonFolder, MethodFolder
from scvae_fast.comparison.methods import REGISTRY
from scvae_fast.comparison.page import write_page
from scvae_fast.comparison.rating import rate
from scvae_fast.comparison.settings import ComparisonSettings
from scvae_fast.comparison.table import as_csv, collect, markdown
from scvae_fast.comparison.timing import time_steps
from scvae_fast.comparison.training import model_of, train_method, trained_module
from scvae_fast.errors import UsageError
from scvae_fast.plotting import comparison as figures
from scvae_fast.plotting.figures import save
from scvae_fast.training.bar import clock
from scvae_fast.training.data import PictureData

with extra("scvae_fast.comparison", "lightning"):
    from lightning.pytorch.callbacks import Callback

Phase = Literal["evaluation", "timing", "table"]

_ROUNDS = 10


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A comparison and its folder.

    Args:
        settings: of the comparison.
        data: makes new data for every use.
        folder: where everything is kept; must be claimed already.
        methods: names in `METHODS`. Each has its own folder, in which one process at a time works.
        weights: folder with the weights of the metrics' networks.
        download: whether to fetch those that are missing.
    """

    settings: ComparisonSettings
    data: Callable[[], PictureData]
    folder: ComparisonFolder
    methods: Sequence[str]
    weights: Path | None = None
    download: bool = False

    def train(self, *others: Callback) -> int | None:
        """Train all methods that are not trained yet; returns the number of the signal that stopped this, or None."""
        for name in self.methods:
            kept = self.folder.method(name)
            make_folder(kept.path)
            with locked(kept.path):
                if kept.trained.exists():
                    continue
                print(f"{REGISTRY[name].title}: {'continuing' if kept.state.exists() else 'training'}", flush=True)
                signal = train_method(name, self.settings, self.data(), kept, *others)
            if signal is not None:
                return signal
        return None

    def part(self, share: Share) -> "Comparison":
        """The same comparison, with the methods of one part of several."""
        return replace(self, methods=[self.methods[number] for number in share.of(len(self.methods))])

    def missing(self) -> list[str]:
        """The methods that are not trained and evaluated yet."""
        kept = {name: self.folder.method(name) for name in self.methods}
        return [name for name, each in kept.items() if not (each.trained.exists() and each.rating.exists())]

    def rate(self, *, anew: bool) -> None:
        """Rate the trained methods that are not rated yet, or all of them if `anew`.

        Raises:
            UsageError: see `rating.rate`.
        """
        device = find_device(None)
        for name in self._trained():
            kept = self.folder.method(name)
            with locked(kept.path):
                if anew or not kept.rating.exists() or self._may_complete(kept):
                    self._rate(name, kept, device)

    def _may_complete(self, kept: MethodFolder) -> bool:
        """Whether a rating lacks metrics, and this call says where their weights are."""
        if self.weights is None and not self.download:
            return False
        return bool(json.loads(kept.rating.read_text(encoding="utf-8"))["unavailable"])

    def _rate(self, name: str, kept: MethodFolder, device: Any) -> None:
        print(f"{REGISTRY[name].title}: rating", flush=True)
        data = self.data()
        data.setup("validate")
        batches: Any = data.val_dataloader()
        if not batches:
            raise UsageError("the data have no pictures to rate the methods on")
        model = model_of(trained_module(name, self.settings, kept)).to(device)
        record, originals, rebuilt = rate(model, batches, self.settings, weights=self.weights, download=self.download)
        arrays = {"originals": originals.numpy(), "rebuilt": rebuilt.numpy()}
        write_atomically(kept.pictures, partial(_save_arrays, arrays))
        write_json(kept.rating, record)

    def time(self, *, anew: bool) -> None:
        """Time a step of all trained methods, unless the same methods were timed before."""
        names = self._trained()
        done = collect(self.folder)["rows"]
        if not names or (not anew and all(row["seconds_a_step"] is not None for row in done)):
            return
        print("timing the training steps of all methods", flush=True)
        device = find_device(None)
        names = self.folder.trained()
        modules = {name: trained_module(name, self.settings, self.folder.method(name)).to(device) for name in names}
        data = self.data()
        data.setup("fit")
        batch = data.first_samples(data.batch_size).to(device)
        write_json(self.folder.timing, time_steps(modules, batch, self.settings, rounds=_ROUNDS))

    def write(self, page: Path | None = None) -> dict[str, Any]:
        """Write the table as JSON, CSV and Markdown, and the figures; returns the JSON's content.

        Raises:
            UsageError: nothing is trained and rated yet, or the page has no place for the table.
        """
        content = collect(self.folder)
        if not content["rows"]:
            raise UsageError(f"{self.folder.path} holds no method that is trained and rated yet")
        path = self.folder.path
        drawn = self._draw(content)
        for name, figure in drawn.items():
            save(path / "figures" / f"{name}.png", figure, dpi=110)
        for suffix, text in (("csv", as_csv(content)), ("md", markdown(content) + "\n")):
            write_atomically(path / f"comparison.{suffix}", partial(Path.write_text, data=text, encoding="utf-8"))
        write_json(self.folder.results, content)
        if page is not None:
            write_page(page, content, drawn)
        seconds = sum(row["seconds"] for row in content["rows"])
        print(f"\n{markdown(content)}\n\n{path / 'comparison.md'}; all training runs together took {clock(seconds)}")
        return content

    def again(self, phase: Phase) -> None:
        """Repeat a phase for the trained methods; the table needs no repeating, as it is always written."""
        if phase == "evaluation":
            self.rate(anew=True)
        elif phase == "timing":
            self.time(anew=True)

    def _trained(self) -> list[str]:
        return [name for name in self.folder.trained() if name in self.methods]

    def _draw(self, content: dict[str, Any]) -> dict[str, figures.Figure]:
        rows = content["rows"]
        rebuilt, originals = {}, None
        for row in rows:
            with np.load(self.folder.method(row["method"]).pictures) as arrays:
                originals = arrays["originals"]
                label = f"{row['title']}\n{row['rating']['psnr']:.1f} dB"
                rebuilt[row["method"]] = (label, arrays["rebuilt"])
        assert originals is not None
        return {
            "reconstructions": figures.reconstruction_rows(originals, rebuilt),
            "quality": figures.rate_and_quality(rows),
            "collapse": figures.collapse(rows),
            "training": figures.training_curves(rows),
        }


def _save_arrays(arrays: dict[str, np.ndarray], path: Path) -> None:
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]
