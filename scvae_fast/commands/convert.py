"""`scvae-fast convert`: converts the authors' checkpoints into folders for `from_pretrained`, and back."""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from scvae_fast._extras import extra
from scvae_fast._files import write_atomically
from scvae_fast.errors import ArgumentError, UsageError
from scvae_fast.models._hub import CONFIG_FILE
from scvae_fast.models.config import PRESETS, SCVAEConfig
from scvae_fast.models.loading import STATE_FILE, load_model
from scvae_fast.models.official import ddconfig_of, load_official, to_official
from scvae_fast.nn.attention import AttentionName


@dataclass(frozen=True, kw_only=True)
class OfficialOptions:
    """Settings that a checkpoint of the authors' code does not contain.

    Args:
        n_iter: T, the authors' `num_soft_thresh`.
        beta: β.
        attention: the attention network that the model was trained with.
        preset: name of a published configuration, which has n_iter and the architecture.
        config: a file with the authors' configuration (these two, possibly β), or only its `ddconfig` (architecture).
    """

    n_iter: int | None = None
    beta: float | None = None
    attention: AttentionName | None = None
    preset: str | None = None
    config: Path | None = None


def convert(source: str | os.PathLike[str], out: Path, given: OfficialOptions | None = None) -> str:
    """Convert a checkpoint of the authors' code (any file but last.ckpt), or one of this package, into the other form.

    Args:
        source: the checkpoint.
        out: the folder or file to write, completely or not at all; no file or model may exist there.
        given: settings that the authors' checkpoint does not contain; none are allowed in the other direction.

    Returns:
        A message that describes the conversion.

    Raises:
        UsageError: the source can't be read or converted, a setting is missing or not allowed, or the result can't be
            written.
    """
    given, path = given or OfficialOptions(), Path(source)
    if path.is_file() and path.suffix == ".safetensors":
        raise UsageError(f"{source} holds only weights: give the folder that has {CONFIG_FILE} too")
    try:
        if path.is_file() and path.name != STATE_FILE:
            return _from_official(path, out, given)
        if unused := [f"--{name.replace('_', '-')}" for name, value in asdict(given).items() if value is not None]:
            raise ArgumentError(f"{source} is not a file of the authors' code, so {', '.join(unused)} can't be used")
        return _write_official(source, out)
    except OSError as error:
        raise UsageError(f"{out} can't be written: {error}") from error


def _from_official(source: Path, out: Path, given: OfficialOptions) -> str:
    if out.exists() and not out.is_dir():
        raise UsageError(f"{source} becomes a folder, but {out} is a file")
    if (out / CONFIG_FILE).exists():
        raise UsageError(f"{out} already holds a model: choose another folder")
    given, ddconfig = _completed(given)
    weights = _read_official(source)
    missing = [f"--{name.replace('_', '-')}" for name in ("n_iter", "beta", "attention") if not _has(given, name)]
    if missing:
        raise UsageError(
            f"a checkpoint of the authors' code lacks some settings of a model: give {', '.join(missing)} too "
            "(--preset and --config have n_iter; β and attention were options of the authors' training)"
        )
    try:
        model = load_official(
            weights,
            n_iter=given.n_iter,  # type: ignore[arg-type]
            beta=given.beta,  # type: ignore[arg-type]
            attention=given.attention,  # type: ignore[arg-type]
            ddconfig=ddconfig,
        )
    except (ValueError, TypeError) as error:
        raise UsageError(f"{source} can't be converted: {error}") from error
    checksum = hashlib.sha256(source.read_bytes()).hexdigest()
    model.save_pretrained(
        out,
        record={"origin": f"Converted from {source.name} (SHA-256 {checksum}), a checkpoint of the authors' code."},
    )
    return f"{source}, a checkpoint of the authors' code -> {out}, for SCVAE.from_pretrained"


def _write_official(source: str | os.PathLike[str], out: Path) -> str:
    if out.is_dir():
        raise UsageError(f"{source} becomes a file, but {out} is a folder")
    if out.exists():
        raise UsageError(f"{out} already exists: choose another name")
    model = load_model(source)
    try:
        state_dict = to_official(model)
    except ValueError as error:
        raise UsageError(f"{source} can't be converted: {error}") from error
    try:
        write_atomically(out, partial(torch.save, state_dict))
    except RuntimeError as error:  # torch's writer raises this if the disk is full
        raise UsageError(f"{out} can't be written: {error}") from error
    config = model.config
    return (
        f"{source} -> {out}, for the authors' Model_VAEf16. The file doesn't hold: --n-iter {config.n_iter} "
        f"--beta {config.lmbda:g} --attention {config.attention}"
    )


def _has(given: OfficialOptions, name: str) -> bool:
    return getattr(given, name) is not None


def _completed(given: OfficialOptions) -> tuple[OfficialOptions, dict[str, Any] | None]:
    """The settings, with missing ones from the preset or file, and the `ddconfig` of that; None without either."""
    if given.preset is not None and given.config is not None:
        raise ArgumentError("--preset and --config both give the architecture: pass one of them")
    if given.preset is not None:
        published = [name for name, config in PRESETS.items() if config.compat == "official"]
        if given.preset not in published:
            raise ArgumentError(f"--preset must be one of {', '.join(published)}, got {given.preset!r}")
        preset = SCVAEConfig.preset(given.preset)
        n_iter = preset.n_iter if given.n_iter is None else given.n_iter
        return replace(given, n_iter=n_iter), ddconfig_of(preset)
    if given.config is None:
        return given, None
    found = _read_config(given.config)
    arch = found["arch"] if isinstance(found.get("arch"), Mapping) else {}
    vae, latent = (arch[name] if isinstance(arch.get(name), Mapping) else {} for name in ("vae", "latent"))
    ddconfig = vae.get("ddconfig", found)
    if not isinstance(ddconfig, Mapping) or "ch_mult" not in ddconfig:
        raise UsageError(f"{given.config} neither has a ddconfig (at arch.vae.ddconfig) nor is one")
    n_iter = latent.get("num_soft_thresh") if given.n_iter is None else given.n_iter
    beta = latent.get("beta") if given.beta is None else given.beta
    return replace(given, n_iter=n_iter, beta=beta), dict(ddconfig)


def _read_config(path: Path) -> Mapping[str, Any]:
    with extra("--config", "PyYAML"):
        import yaml  # type: ignore[import-untyped]  # reads JSON too
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UsageError(f"{path} can't be read: {error}") from error
    if not isinstance(found, Mapping):
        raise UsageError(f"{path} is not a configuration: it holds {type(found).__name__}, not names and values")
    return found


def _read_official(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can make the unpickler raise any error
        raise UsageError(
            f"{path} can't be read as a checkpoint that contains only weights: {type(error).__name__}"
        ) from error
