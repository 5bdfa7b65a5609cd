"""The model card for the hub: description, training and evaluation of a model."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import PurePath, PureWindowsPath
from typing import TYPE_CHECKING, Any, Protocol

from torch import nn

from scvae_fast._extras import extra
from scvae_fast._markdown import markdown_table
from scvae_fast.models.config import SCVAEConfig

if TYPE_CHECKING:
    from huggingface_hub import ModelCardData


class Described(Protocol):
    """A model with a configuration."""

    config: SCVAEConfig

    def parameters(self) -> Iterator[nn.Parameter]:
        """As in `nn.Module`."""


_INTRODUCTION = """\
SC-VAE, a sparse-coding autoencoder for pictures: an encoder turns every {s} x {s} pixels into a vector of {n} features,
LISTA ({T} iterations of learned soft-thresholding) codes it as a sparse combination of {K} learned atoms, and a decoder
turns these combinations back into a picture. The files are those of the Python package scvae_fast.

The model is described by P. Xiao et al., *SC-VAE: Sparse Coding-based Variational Autoencoder with Learned ISTA*
([arXiv 2303.16666](https://arxiv.org/abs/2303.16666)){variant}."""

_VARIANTS = {
    "paper": ", in the form of the paper",
    "official": ", in the form that the authors' released code computes",
}

_USE = """\
    pip install "scvae_fast[train]"

```python
from scvae_fast.data import load_picture, save_picture
from scvae_fast.models import SCVAE
from scvae_fast.codes.tiling import reconstruct_tiled

model = SCVAE.from_pretrained("{name}")
picture = load_picture("picture.jpg")  # (3, H, W) in -1 ... 1, of any size
result = reconstruct_tiled(model, picture)
save_picture("rebuilt.png", result.x_hat)
print(f"{{result.active.float().mean():.0f}} of {{model.config.n_atoms}} atoms in the code of a cell")
```

Codes of many pictures, in a Parquet file, and back:

    scvae-fast encode --checkpoint {checkpoint} --data PICTURES/ --out codes.parquet
    scvae-fast decode --checkpoint {checkpoint} codes.parquet --out rebuilt/"""

_LIMITS = """\
It reconstructs pictures like those it was trained on. Other pictures, and above all fine detail and writing, may come
out changed. Encoder and decoder normalise over their whole input, so pictures larger than {resolution} x {resolution}
are coded in tiles of that size. By itself it is not a generative model: codes drawn at random do not decode to
pictures. Biases of the training data have not been studied."""

_CITATION = """\
```bibtex
@article{xiao2023scvae,
  title   = {SC-VAE: Sparse Coding-based Variational Autoencoder with Learned ISTA},
  author  = {Xiao, Pan and Qiu, Peijie and Ha, Sung Min and Bani, Abdalla and Zhou, Shuang and Sotiras, Aristeidis},
  journal = {arXiv preprint arXiv:2303.16666},
  year    = {2023}
}
```"""

# Figures of an evaluation that the hub lists: their key in the evaluation, the hub's name, and our name.
_LISTED = {
    "psnr": ("psnr", "PSNR (dB)"),
    "psnr.pooled": ("psnr", "PSNR, pooled (dB)"),
    "ssim": ("ssim", "SSIM"),
    "ssim.mean": ("ssim", "SSIM"),
    "lpips-alex.mean": ("lpips", "LPIPS (AlexNet)"),
    "lpips-vgg.mean": ("lpips", "LPIPS (VGG-16)"),
    "fid.value": ("fid", "rFID"),
    "kid.mean": ("kid", "rKID"),
}


def model_card(model: Described, record: Mapping[str, Any] | None = None, *, name: str | None = None) -> str:
    """A model card: Markdown, after a header in YAML for the hub.

    Args:
        model: the model to describe.
        record: the record of its training, JSON-serialisable; every key is optional: `data`, the training data;
            `steps`, `epochs` and `seconds`; `settings` of optimiser, precision and so on; `versions` of packages;
            `origin`, a sentence on where the weights come from, if not from a recorded training run; `credits` of
            pictures, by name, each with `author`, `licence` and `source`; `datasets`, names on the hub; `license`,
            "mit" by default; and `evaluation`, the metrics.json of `scvae-fast evaluate`. The card shows the record
            as `without_secrets` returns it.
        name: name of the repository or folder, for the title and the example.

    Raises:
        ImportError: huggingface_hub is not installed.
    """
    record, config, name = without_secrets(record or {}), model.config, name or "user/name"
    introduction = _INTRODUCTION.format(
        n=config.n_features, s=config.stride, T=config.n_iter, K=config.n_atoms, variant=_VARIANTS[config.compat]
    )
    parameters = sum(parameter.numel() for parameter in model.parameters())
    evaluation = record.get("evaluation")
    sections = {
        "Configuration": _table({**config.to_dict(), "parameters": f"{parameters:,}"}),
        "Training": _training(record),
        "Evaluation": _evaluation(evaluation) if evaluation else "No evaluation came with this model.",
        "How to use it": _USE.format(name=name, checkpoint=f"hf:{name}" if "/" in name else name),
        "Limits": _LIMITS.format(resolution=config.resolution),
        "Citation": _CITATION,
    }
    title = PurePath(name).name
    body = "\n\n".join([f"# {title}", introduction, *(f"## {head}\n\n{text}" for head, text in sections.items())])
    return f"---\n{_front_matter(record, title).to_yaml()}\n---\n\n{body}\n"


# Names of settings whose values must not be published.
_SECRET = re.compile(r"(?i)(^|_)(api|access|auth\w*|credentials?|key|passw\w*|pwd|secrets?|token)($|_)")
# A path within a text that starts at the root, the home folder or a drive.
_PATH = re.compile(r"(?<![\w.:/\\])(?:[A-Za-z]:[\\/]|~?/)[^\s'\",;:()]+")
# Keys whose values, names on the hub and credits, are public.
_NAMES = ("credits", "datasets", "license")
HIDDEN = "…"
# The credits of each picture that a model was trained on.
_CREDIT = ("author", "licence", "source")


def without_secrets(value: Any) -> Any:
    """A copy of a record for publication: only the last part of paths and addresses, and no commands or keys.

    Args:
        value: JSON-serialisable.
    """
    if isinstance(value, Mapping):
        return {
            key: each if key in _NAMES else HIDDEN if _SECRET.search(str(key)) and each else without_secrets(each)
            for key, each in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [without_secrets(each) for each in value]
    if not isinstance(value, str):
        return value
    if value.startswith("pipe:"):
        return f"pipe:{HIDDEN}"
    if not re.search(r"\s", value):
        return _last_part(value.partition("?")[0] if "://" in value else value)
    return _PATH.sub(lambda path: _last_part(path[0]), value)


def _front_matter(record: Mapping[str, Any], title: str) -> ModelCardData:
    with extra("a model card", "huggingface_hub"):
        from huggingface_hub import EvalResult, ModelCardData
    evaluation = record.get("evaluation") or {}
    figures = dict(_flat(_figures(evaluation)))
    about: dict[str, Any] = {
        "task_type": "image-to-image",
        "task_name": "image reconstruction",
        "dataset_type": str(_data(evaluation).get("layout", "pictures")),
        "dataset_name": _data(evaluation).get("data", "pictures"),
        "dataset_split": _data(evaluation).get("split"),
    }
    results = [
        EvalResult(metric_type=kind, metric_name=called, metric_value=figures[place], **about)
        for place, (kind, called) in _LISTED.items()
        if isinstance(figures.get(place), (int, float))
    ]
    return ModelCardData(
        license=record.get("license", "mit"),
        library_name="scvae_fast",
        pipeline_tag="image-to-image",
        tags=["autoencoder", "image-reconstruction", "sparse-coding", "arxiv:2303.16666"],
        datasets=record.get("datasets"),
        model_name=title,
        eval_results=results or None,
    )


def _training(record: Mapping[str, Any]) -> str:
    parts = [str(record["origin"])] if record.get("origin") else []
    facts = {key: record[key] for key in ("steps", "epochs") if record.get(key) is not None}
    if record.get("seconds") is not None:
        facts["time"] = _duration(float(record["seconds"]))
    facts |= {f"data: {key}": value for key, value in _flat(record.get("data") or {})}
    parts += [_table(facts)] if facts else []
    if credits := record.get("credits"):
        rows = [(name, *(str(credit.get(key, "")) for key in _CREDIT)) for name, credit in credits.items()]
        table = markdown_table(("picture", *_CREDIT), rows, left=tuple(range(len(_CREDIT) + 1)), aligned=False)
        parts.append(f"### Pictures\n\n{table}")
    for head, key in (("Settings", "settings"), ("Versions", "versions")):
        if record.get(key):
            parts.append(f"### {head}\n\n{_table(dict(_flat(record[key])))}")
    return "\n\n".join(parts) or "No record of the training came with this model."


def _evaluation(evaluation: Mapping[str, Any]) -> str:
    data = _data(evaluation)
    facts = {
        "pictures": evaluation.get("n_pictures"),
        "data": data.get("data"),
        "split": data.get("split"),
        "resize": evaluation.get("resize", data.get("resize")),
        "precision": evaluation.get("precision"),
    }
    weights = {f"weights of {metric}": _weights(files) for metric, files in (evaluation.get("weights") or {}).items()}
    missing = [f"- {metric} is missing: {why}" for metric, why in (evaluation.get("unavailable") or {}).items()]
    figures = {place: value for place, value in _flat(_figures(evaluation)) if _is_figure(value)}
    known = {key: value for key, value in (facts | weights).items() if value is not None}
    return "\n\n".join(filter(None, [_table(figures), _table(known) if known else "", "\n".join(missing)]))


def _figures(evaluation: Mapping[str, Any]) -> Mapping[str, Any]:
    figures = evaluation.get("figures", evaluation)
    return figures if isinstance(figures, Mapping) else {}


def _data(evaluation: Mapping[str, Any]) -> Mapping[str, Any]:
    data = evaluation.get("data", {})
    return data if isinstance(data, Mapping) else {"data": data}


def _weights(files: Any) -> str:
    """Names and checksums of weight files, as listed in an evaluation."""
    shown = []
    for file in files if isinstance(files, list) else [files]:
        found = file if isinstance(file, Mapping) else {"path": file}
        checksum = f" (SHA-256 {str(found['sha256'])[:12]}…)" if found.get("sha256") else ""
        shown.append(f"{found.get('path', '')}{checksum}")
    return ", ".join(shown)


def _flat(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Pairs of dotted keys, such as optimiser.betas, and values."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value


def _is_figure(value: Any) -> bool:
    return value is None or value == "inf" or (isinstance(value, (int, float)) and not isinstance(value, bool))


def _last_part(path: str) -> str:
    """A path's name without its folders."""
    return PureWindowsPath(path).name or path


def _duration(seconds: float) -> str:
    if seconds >= 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.1f} s"


def _table(values: Mapping[str, Any]) -> str:
    return markdown_table(
        ("", ""), [(str(key), _text(value)) for key, value in values.items()], left=(0, 1), aligned=False
    )


def _text(value: Any) -> str:
    if value is None:
        return "none"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
