"""The results of a comparison as one table, for JSON, CSV and Markdown."""

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from scvae_fast._markdown import markdown_table
from scvae_fast.comparison.diagnosis import ACTIVE_VARIANCE
from scvae_fast.comparison.folder import ComparisonFolder, read_json
from scvae_fast.comparison.methods import COMMON, REGISTRY
from scvae_fast.evaluation.record import head

_COLUMNS = (
    "method",
    "PSNR, dB",
    "SSIM",
    "LPIPS (alex)",
    "LPIPS (vgg)",
    "rFID",
    "bits per pixel",
    "bits per picture",
    "parameters",
    "seconds per step",
    "use of the code",
)
_RATED = (("psnr", ".2f"), ("ssim", ".3f"), ("lpips-alex", ".4f"), ("lpips-vgg", ".4f"), ("fid", ".2f"))


def collect(folder: ComparisonFolder) -> dict[str, Any]:
    """All results in a folder, for the methods that are trained and rated.

    Raises:
        UsageError: a file in the folder can't be read.
    """
    timing = read_json(folder.timing) if folder.timing.exists() else {"seconds": {}}
    rows = []
    for name in folder.trained():
        kept, method = folder.method(name), REGISTRY[name]
        if not kept.rating.exists():
            continue
        training = read_json(kept.trained)
        history = training.pop("history")
        row = {
            **training,
            "title": method.title,
            "source": method.source,
            "here": method.here,
            "seconds_a_step": timing["seconds"].get(name),
            "rating": read_json(kept.rating),
            "psnr_in_training": [[entry["step"], entry["psnr"]] for entry in history if "psnr" in entry],
        }
        rows.append(row)
    return {
        **head(None, "lightning", "vector-quantize-pytorch"),
        "settings": read_json(folder.settings),
        "timing": {key: value for key, value in timing.items() if key != "seconds"},
        "rows": rows,
    }


def abridged(content: Mapping[str, Any]) -> dict[str, Any]:
    """The same results without long lists and without local paths, for a page."""
    rows = []
    for row in content["rows"]:
        rating = dict(row["rating"])
        rating["unavailable"] = {name: reason.split(";")[0] for name, reason in rating["unavailable"].items()}
        long = ("kl_nats_per_unit", "variance_of_means", "shares")
        rating["diagnosis"] = {key: value for key, value in rating["diagnosis"].items() if key not in long}
        rows.append({**{k: v for k, v in row.items() if k != "psnr_in_training"}, "rating": rating})
    return {**content, "rows": rows}


def markdown(content: Mapping[str, Any]) -> str:
    """The table, the meaning of its columns, and how each method differs from its source."""
    rows = [_cells(row, content["rows"]) for row in content["rows"]]
    left = (0, len(_COLUMNS) - 1)
    return "\n".join(
        [markdown_table(_COLUMNS, rows, left=left, aligned=False), "", *_legend(content), "", *_notes(content)]
    )


def as_csv(content: Mapping[str, Any]) -> str:
    """One line for each method, with unrounded numbers."""
    flat = [dict(_flat(row)) for row in content["rows"]]
    names = list(dict.fromkeys(name for row in flat for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return text.getvalue()


def _cells(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    rating = row["rating"]
    ours = next((other["seconds_a_step"] for other in rows if other["method"] == "sc-vae"), None)
    seconds = "not timed"
    if row["seconds_a_step"] is not None:
        seconds = f"{row['seconds_a_step']:.3f}"
        seconds += f" ({row['seconds_a_step'] / ours:.2f} ×)" if ours else ""
    return [
        row["title"],
        *(_rated(rating, name, form) for name, form in _RATED),
        f"{rating['bits_per_pixel']:.3f}",
        f"{rating['bits_per_picture']:,.0f}",
        f"{row['parameters'] / 1e6:.2f} M",
        seconds,
        _in_use(rating["diagnosis"]),
    ]


def _rated(rating: Mapping[str, Any], name: str, form: str) -> str:
    if name in rating:
        value = rating[name]
        return f"{value:{form}}" if math.isfinite(value) else str(value)
    return "unavailable"


def _in_use(found: Mapping[str, Any]) -> str:
    if found["kind"] == "posterior":
        kl = found["kl_nats_per_position"]
        return f"{found['active_units']} of {found['units']} units active, KL {kl:.1f} nats per position"
    if found["kind"] == "codebook":
        return f"{found['in_use']} of {found['codebook_size']} codes, perplexity {found['perplexity']:.0f}"
    return (
        f"{found['in_use']} of {found['atoms']} atoms, perplexity {found['perplexity']:.0f}, "
        f"{found['entries_per_position']:.1f} in each code"
    )


def _legend(content: Mapping[str, Any]) -> Iterator[str]:
    if not content["rows"]:
        return
    first, timing = content["rows"][0], content["timing"]
    rating = first["rating"]
    height, width = rating["size"]
    yield (
        f"{first['steps']} steps of each method, {first['precision']} on {first['device']}, rated on "
        f"{rating['pictures']} held-out squares of {height} x {width} pixels. PSNR is computed from the mean squared "
        "error over all squares. Bits are the information that a decoder needs: for quantisers the indices, without "
        f"entropy coding; for SC-VAE the positions of the nonzero entries and {content['settings']['value_bits']} bits "
        "for each of their values, as the plain coder of `scvae-fast evaluate` counts them; for Gaussian latents the "
        "KL divergence to the prior, which is the cost of bits-back coding for a sample of z. The table's PSNR is that "
        "of the mean of z; the notes give that of samples. Parameters include codebooks. A unit is active if its mean "
        f"has a variance above {ACTIVE_VARIANCE} over all positions. Perplexity is 2 to the entropy of the frequencies "
        "of codes or atoms."
    )
    if timing:
        yield ""
        yield (
            f"Seconds are medians of {timing['rounds']} steps of {timing['batch_size']} pictures, measured in one "
            f"process (threads: {timing['threads']}), all methods in turn; ratios to SC-VAE are in brackets."
        )


def _notes(content: Mapping[str, Any]) -> Iterator[str]:
    yield COMMON
    yield ""
    for row in content["rows"]:
        yield f"- {row['title']} ({row['source']}): {row['here']}.{_extra(row)}"
    missing = {
        f"{name} is unavailable: {reason}"
        for row in content["rows"]
        for name, reason in row["rating"]["unavailable"].items()
    }
    warned = {
        f"{name}: {warning}"
        for row in content["rows"]
        for name, warnings in row["rating"]["warnings"].items()
        for warning in warnings
    }
    yield from (f"- {note}." for note in [*sorted(missing), *sorted(warned)])


def _extra(row: Mapping[str, Any]) -> str:
    rating = row["rating"]
    found, raw = rating["diagnosis"], rating["raw_bits_per_picture"]
    parts = []
    if rating["psnr_of_samples"] is not None:
        parts.append(f"samples of z give {rating['psnr_of_samples']:.2f} dB")
    if raw is not None:
        parts.append(f"the latent vectors without coding would take {raw:,} bits per picture")
    if found["kind"] == "codebook" and found["codes_per_position"] > 1:
        parts.append(
            "vectors in use, by code of a position: "
            + ", ".join(
                f"{used} (perplexity {even:.0f})"
                for used, even in zip(found["in_use_by_level"], found["perplexity_by_level"], strict=True)
            )
        )
    return f" Here {'; '.join(parts)}." if parts else ""


def _flat(row: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in row.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        elif not isinstance(value, list):
            yield f"{prefix}{name}", value
