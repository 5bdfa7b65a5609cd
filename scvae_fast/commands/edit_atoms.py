"""`scvae-fast edit atoms`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scvae_fast._markdown import markdown_table
from scvae_fast.codes import SparseCodes
from scvae_fast.codes.tiling import decode_tiled, encode_tiled
from scvae_fast.commands._editing import Checkpoint, check_inputs, decibels, finish, read, start
from scvae_fast.errors import ArgumentError, UsageError
from scvae_fast.metrics.psnr import psnr
from scvae_fast.models import SCVAE
from scvae_fast.models.atoms import decode_atoms
from scvae_fast.plotting.figures import Figure
from scvae_fast.plotting.sheets import picture_grid
from scvae_fast.tasks.editing.atoms import atom_energies, scale_atoms

_TOO_LARGE = "--factor must leave the codes and the picture finite in float32: choose smaller factors"
_RESULTS = ("reconstruction.png", "edited.png", "difference.png", "atoms.png", "sheet.png")


def edit_atoms(
    checkpoint: Checkpoint,
    picture: Path,
    out: Path,
    *,
    factors: Mapping[int, float] | None = None,
    keep: Sequence[int] = (),
    keep_top: int | None = None,
    top: int = 16,
    device: str | None = None,
) -> dict[str, Any]:
    """Rank the atoms of a picture by their energy, and decode its codes with some of them changed.

    The folder gets reconstruction.png, edited.png, difference.png (grey: no change), atoms.png, sheet.png, metrics.md
    and metrics.json.

    Args:
        checkpoint: see `load_model`.
        picture: a picture file of any size.
        out: the folder; created if it doesn't exist.
        factors: multiply the entries of single atoms, by index; 0 removes an atom.
        keep: atoms to keep; if there are any, all others that have no factor are removed.
        keep_top: likewise keeps this many of the atoms with the highest energies.
        top: number of atoms to list and draw.
        device: where the model runs.

    Raises:
        UsageError: there is no such atom, the picture is a file in `out` that would be replaced, a factor is so large
            that the codes or the picture overflow, or another argument can't be used.
    """
    factors = dict(factors or {})
    _check_factors(factors, keep)
    check_inputs([picture], out, _RESULTS)
    original = read(picture)
    model = start(checkpoint, out, device)
    n_atoms = model.config.n_atoms
    for atom in [*factors, *keep]:
        if not 0 <= atom < n_atoms:
            raise UsageError(f"atoms must be 0 … {n_atoms - 1}, got {atom}")
    codes = encode_tiled(model, original)
    energies = atom_energies(codes, model.bottleneck.dictionary)
    order = [int(atom) for atom in energies.argsort(descending=True, stable=True)]
    kept = [*keep, *order[: keep_top or 0]]
    edited = _scaled(codes, dict.fromkeys(kept, 1.0) | factors, others=0.0 if keep or keep_top else 1.0)
    size = (original.shape[1], original.shape[2])
    rebuilt, result = (decode_tiled(model, each, size).cpu() for each in (codes, edited))
    if factors and not result.isfinite().all():
        raise UsageError(_TOO_LARGE)
    ranking = _ranking(codes, energies, order[:top])
    content = {
        "picture": str(picture),
        "factors": {str(atom): factor for atom, factor in factors.items()},
        "kept": kept,
        "atoms": ranking,
        "psnr_reconstruction": psnr(rebuilt, original),
        "psnr_edited": psnr(result, original),
        "entries": [codes.n_entries, edited.n_entries],
    }
    table = _atom_table(content)
    pictures = {"reconstruction": rebuilt, "edited": result, "difference": (result - rebuilt) / 2}
    figures = {"atoms": _atom_sheet(model, ranking), "sheet": _edit_sheet(original, pictures, content)}
    return finish(out, checkpoint, content, table, figures, pictures)


def _check_factors(factors: Mapping[int, float], keep: Sequence[int]) -> None:
    for atom, factor in factors.items():
        if not torch.tensor(factor, dtype=torch.float32).isfinite():
            raise ArgumentError(f"--factor must be finite in float32, got {atom}={factor:g}")
        if factor == 0 and atom in keep:
            raise ArgumentError(f"--keep must not name atoms that --remove or a factor of 0 removes, got {atom}")


def _scaled(codes: SparseCodes, factors: Mapping[int, float], *, others: float) -> SparseCodes:
    try:
        return scale_atoms(codes, factors, others=others)
    except ValueError as error:  # atoms and factors were checked before
        raise UsageError(_TOO_LARGE) from error


def _ranking(codes: SparseCodes, energies: Tensor, order: Sequence[int]) -> list[dict[str, Any]]:
    cells = codes.h * codes.w
    used = codes.usage()
    total = float(energies.sum()) or 1.0
    return [{"atom": atom, "energy": float(energies[atom]) / total, "used": int(used[atom]) / cells} for atom in order]


def _atom_sheet(model: SCVAE, ranking: Sequence[Mapping[str, Any]], columns: int = 8) -> Figure:
    patches = decode_atoms(model, torch.tensor([each["atom"] for each in ranking])).cpu()
    patches = patches / patches.abs().amax((1, 2, 3), keepdim=True).clamp_min(1e-9)
    captioned = [(f"{each['atom']}: {each['energy']:.1%}", patch) for each, patch in zip(ranking, patches, strict=True)]
    lines = [("", captioned[first : first + columns]) for first in range(0, len(captioned), columns)]
    return picture_grid("The atoms with the most energy in the codes, and their share of it", lines, width=1.1)


def _edit_sheet(original: Tensor, pictures: Mapping[str, Tensor], content: Mapping[str, Any]) -> Figure:
    captions = {
        "reconstruction": f"reconstruction, {decibels(content['psnr_reconstruction'])}",
        "edited": f"edited, {decibels(content['psnr_edited'])}",
        "difference": "difference (grey: none)",
    }
    line = [("original", original), *((captions[name], picture) for name, picture in pictures.items())]
    return picture_grid("Atoms changed", [("", line)], width=2.6)


def _atom_table(content: Mapping[str, Any]) -> str:
    rows = [(str(each["atom"]), f"{each['energy']:.1%}", f"{each['used']:.1%}") for each in content["atoms"]]
    before, after = content["entries"]
    about = (
        f"{before:,} nonzero entries in the codes, {after:,} after the change; PSNR "
        f"{decibels(content['psnr_reconstruction'])} reconstructed, {decibels(content['psnr_edited'])} edited."
    )
    return markdown_table(("atom", "energy", "cells that use it"), rows) + f"\n\n{about}"
