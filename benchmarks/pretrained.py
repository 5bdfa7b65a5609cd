"""`python -m benchmarks.pretrained TRAINING`: make the model that comes with the package from a training run.

The weights are rounded to float16, and the rounded model is evaluated on the held-out photographs. Its card has the
training record and this evaluation.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from scvae_fast._files import write_json
from scvae_fast.commands.evaluate import evaluate_checkpoint
from scvae_fast.evaluation.settings import EvaluationSettings
from scvae_fast.models._hub import RECORD_FILE, SHIPPED, WEIGHTS_FILE
from scvae_fast.models.loading import load_model

_METRICS = ("psnr", "ssim", "codes", "block-means")


def ship(training: Path, folder: Path, origin: str) -> None:
    """Write the model of a training run into `folder`, with its record, its evaluation and its card.

    Args:
        training: the folder that `scvae-fast train` wrote.
        folder: of the model; a card that is there is replaced.
        origin: how it was trained, a sentence or two for the card.
    """
    record = json.loads((training / RECORD_FILE).read_text(encoding="utf-8"))
    record = {key: value for key, value in record.items() if key != "history"} | {"origin": origin}
    model = load_model(training).half()
    settings = EvaluationSettings(metrics=_METRICS)
    with tempfile.TemporaryDirectory() as out:
        rounded = Path(out, folder.name)
        model.save_pretrained(rounded)
        record["evaluation"] = evaluate_checkpoint(rounded, "photographs", Path(out), settings, resize=None)
        (folder / "README.md").unlink(missing_ok=True)
        model.save_pretrained(folder, record=record)
        # The file of which the evaluation has the digest: safetensors writes its metadata in any order.
        shutil.copyfile(rounded / WEIGHTS_FILE, folder / WEIGHTS_FILE)
    written = json.loads((folder / RECORD_FILE).read_text(encoding="utf-8"))
    # The record belongs to the weights in float32, which is what the model has once it is loaded.
    write_json(folder / RECORD_FILE, {**written, "weights": model.float().fingerprint()})


def main(arguments: Sequence[str] | None = None) -> int:
    """Ship the model of a training run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pretrained", description=__doc__)
    parser.add_argument("training", type=Path, help="folder that scvae-fast train wrote")
    parser.add_argument("--origin", required=True, help="how and where it was trained, for the card")
    parser.add_argument("--name", default="pictures64", help="default: %(default)s")
    options = parser.parse_args(arguments)
    folder = SHIPPED / options.name
    ship(options.training, folder, f"{options.origin} The weights are rounded to float16.")
    print((folder / "README.md").read_text(encoding="utf-8"))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
