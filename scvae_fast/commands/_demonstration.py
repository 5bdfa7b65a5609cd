"""The pictures of the demonstration, drawn from an evaluation."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from scvae_fast._files import write_atomically
from scvae_fast.evaluation.photographs import Evaluation
from scvae_fast.models import SCVAE
from scvae_fast.models.atoms import decode_atoms
from scvae_fast.plotting import figures


def draw_report(
    folder: Path,
    model: SCVAE,
    held_out: Evaluation,
    training: Evaluation,
    history: Sequence[Mapping[str, float]],
) -> list[Path]:
    """Draw what a model has learned, as PNG files.

    Args:
        folder: where they go; made if it doesn't exist.
        model: in evaluation mode.
        held_out: its evaluation on photographs that it was not trained on.
        training: and on those that it was.
        history: rows of a `training.callbacks.History`.

    Returns:
        The files: held_out, training (originals above reconstructions), atoms, usage, density and, where there is a
        history, losses.
    """
    names = [photograph.name for photograph in held_out.photographs]
    originals = [photograph.picture for photograph in held_out.photographs]
    active = [result.active for result in held_out.rebuilt]
    n_codes = [sum(result.active.numel() for result in each.rebuilt) for each in (held_out, training)]
    drawn = {
        "held_out": _rebuilt("Held-out photographs, never trained on", held_out),
        "training": _rebuilt("Training photographs", training),
        "atoms": figures.atom_patches(decode_atoms(model), held_out.usage + training.usage),
        "usage": figures.atom_usage(held_out.usage, training.usage, (n_codes[0], n_codes[1])),
        "density": figures.density_overlay(
            names, originals, active, stride=model.config.stride, n_atoms=model.config.n_atoms
        ),
    }
    if history:
        drawn["losses"] = figures.loss_curves(history)
    paths = []
    for name, figure in drawn.items():
        paths.append(folder / f"{name}.png")
        write_atomically(paths[-1], partial(figure.savefig, bbox_inches="tight", pad_inches=0.1))
    return paths


def _rebuilt(title: str, evaluation: Evaluation) -> figures.Figure:
    rating = evaluation.figures
    photographs, rebuilt = evaluation.photographs[:4], evaluation.rebuilt[:4]
    captions = [
        f"{rating['pictures'][photograph.name]['psnr']:.1f} dB, "
        f"{rating['pictures'][photograph.name]['density']:.0%} of the code not zero"
        for photograph in photographs
    ]
    return figures.reconstructions(
        title,
        [photograph.name for photograph in photographs],
        [photograph.picture for photograph in photographs],
        [result.x_hat for result in rebuilt],
        captions,
    )
