"""`scvae-fast evaluate`: evaluates a checkpoint on pictures, and writes the result to a folder."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from scvae_fast._files import claim_folder
from scvae_fast._shares import joined
from scvae_fast.codes.storage import CodeFile
from scvae_fast.commands._inputs import check_outside
from scvae_fast.commands._results import write_results
from scvae_fast.data.stream import PictureStream, check_arrangement
from scvae_fast.evaluation.extremes import Shown
from scvae_fast.evaluation.record import record, table, warnings_of
from scvae_fast.evaluation.run import Evaluation, evaluate, evaluate_codes
from scvae_fast.evaluation.settings import EvaluationSettings
from scvae_fast.models.loading import load_model
from scvae_fast.plotting import figures


def evaluate_checkpoint(
    checkpoint: str | os.PathLike[str],
    data: str | os.PathLike[str] | None,
    out: Path,
    settings: EvaluationSettings,
    *,
    codes: Path | None = None,
    layout: str = "auto",
    split: str | None = None,
    resize: int | Literal["model"] | None = "model",
) -> dict[str, Any]:
    """Evaluate a checkpoint on pictures, print the figures, and write them to a folder.

    Under torchrun, the processes divide the pictures; the figures are those of a single process, up to rounding.

    The folder gets `metrics.json` (see `record`), `metrics.md` (the table) and, unless codes are evaluated,
    `pictures/best.png` and `pictures/worst.png` (originals above reconstructions). They are written once everything is
    computed; until then, an older result is kept.

    Args:
        checkpoint: see `load_model`.
        data: see `PictureStream`, also for layout and split. None with codes.
        out: the folder; created if it doesn't exist.
        settings: what to compute, and how.
        codes: a file or a folder written by `scvae-fast encode`; only the metric "codes" can be computed then.
        layout: how the data is arranged.
        split: for layouts with splits.
        resize: side of the squares that pictures are resized and cropped to, "model" for the model's resolution; None
            keeps them whole.

    Returns:
        The content of `metrics.json`.

    Raises:
        UsageError: an argument can't be used; or as `evaluate`.
    """
    check_arrangement(layout, split)
    if data is not None:
        check_outside(out, data)
    claim_folder(out)
    model = load_model(checkpoint, settings.device)
    source: PictureStream | CodeFile
    with joined() as processes:
        if codes is not None:
            source = CodeFile(codes)
            evaluation = evaluate_codes(model, source, settings, processes=processes)
        else:
            assert data is not None  # the command line requires either data or codes
            side = model.config.resolution if resize == "model" else resize
            stream = PictureStream(data, layout=layout, split=split, resize=side, limit=settings.limit)  # type: ignore[arg-type]
            source = stream if processes.alone else stream.part(processes.share)
            warn = _warn if processes.first else None
            evaluation = evaluate(model, source, settings, warn=warn, processes=processes)
            source.gather_skipped(processes)
        content = record(checkpoint, model.config, source, settings, evaluation, processes.share.parts)
        if processes.first:
            _write(out, content, evaluation)
        # torchrun ends all processes once one exits with a status other than 0, for example for a missing metric.
        processes.wait()
    return content


def _write(out: Path, content: dict[str, Any], evaluation: Evaluation) -> None:
    for metric, warning in warnings_of(content):
        _warn(f"{metric}: {warning}")
    older = [out / "pictures" / "best.png", out / "pictures" / "worst.png"]
    written = write_results(out, content, table(content), _sheets(evaluation), older=older)
    # The notes were already printed on stderr.
    print(f"{table(content, notes=False)}\n\n{', '.join(map(str, written))}")


def _sheets(evaluation: Evaluation) -> dict[str, figures.Figure]:
    drawn = {"best": evaluation.extremes.best, "worst": evaluation.extremes.worst}
    return {
        f"pictures/{name}": _sheet(f"The {name} of {evaluation.n_pictures} reconstructions, by PSNR", shown)
        for name, shown in drawn.items()
        if shown
    }


def _sheet(title: str, shown: Sequence[Shown]) -> figures.Figure:
    return figures.reconstructions(
        title,
        [Path(each.name).name for each in shown],
        [each.x for each in shown],
        [each.x_hat for each in shown],
        [f"{each.psnr:.2f} dB" for each in shown],
    )


def _warn(message: str) -> None:
    print(f"scvae-fast evaluate: warning: {message}", file=sys.stderr)
