"""Sparse autoencoders in SAELens' layout (github.com/jbloomAus/SAELens): `cfg.json`, `sae_weights.safetensors`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import torch

from scvae_fast._extras import extra
from scvae_fast.nn.sparse_autoencoder import SparseAutoencoder

_CONFIG_FILE, _WEIGHTS_FILE = "cfg.json", "sae_weights.safetensors"
_ARCHITECTURES = ("standard", "topk", "jumprelu")
_NEWEST = 6  # newest major version whose settings are supported
_DTYPES = {f"{prefix}{name}": getattr(torch, name) for prefix in ("", "torch.") for name in
           ("float32", "float64", "float16", "bfloat16")}  # fmt: skip
# Former names of SAELens' per-code scale; only ones can be loaded.
_SCALES = ("scaling_factor", "finetuning_scaling_factor")


class _Settings(NamedTuple):
    """The settings that determine a sparse autoencoder's results, besides its weights."""

    architecture: str
    d_in: int
    d_sae: int
    dtype: torch.dtype
    k: int | None
    apply_b_dec_to_input: bool
    rescale_acts_by_decoder_norm: bool


def load_saelens(
    folder: str | os.PathLike[str],
    n_iter: int = 0,
    *,
    lmbda: float | torch.Tensor | None = None,
    momentum: bool = True,
    backend: str | None = None,
) -> SparseAutoencoder:
    """Load a sparse autoencoder that SAELens saved in a folder, as a layer on the CPU; T iterations refine its codes.

    With T = 0 the layer computes SAELens' `encode` and its reconstruction, up to rounding. The layouts up to SAELens 6
    are supported, with the architectures "standard", "topk" and "jumprelu". These settings are honoured:
    `architecture`, `activation_fn` or `activation_fn_str` ("relu", "topk") with `activation_fn_kwargs`, `k`,
    `apply_b_dec_to_input`, `dtype`, and `rescale_acts_by_decoder_norm` (for "topk": decoder norms are folded into the
    encoder, as in SAELens' `fold_W_dec_norm`). These are refused by name: every other architecture and activation,
    `normalize_activations` other than "none", a scaling factor other than 1, unknown tensors, and newer layouts.
    Training settings, and whatever SAELens itself ignores on loading, are ignored. `reshape_activations` = "hook_z"
    only concerns shapes: the layer takes flattened heads, (..., n).

    Args:
        folder: with `cfg.json` and `sae_weights.safetensors`.
        n_iter: T ≥ 0.
        lmbda: λ ≥ 0 of the iterations, one value or (K,); None takes the encoder's, see
            `SparseAutoencoder.from_encoder`, also for the following arguments.
        momentum: whether the iterations have a β.
        backend: a name of `scvae_fast.backends()`; None chooses by device and dtype.

    Raises:
        ImportError: safetensors is not installed.
        FileNotFoundError: the folder lacks one of the files.
        ValueError: a file is damaged, a key is missing or has another type or shape, or a setting is refused; the
            message names file and key.

    Example:
        >>> import json, pathlib, torch
        >>> from safetensors.torch import save_file
        >>> from scvae_fast import load_saelens
        >>> folder = pathlib.Path("sae")  # as SAELens writes it
        >>> folder.mkdir()
        >>> shapes = {"W_enc": (8, 32), "b_enc": (32,), "W_dec": (32, 8), "b_dec": (8,)}
        >>> weights = {name: torch.randn(shape) for name, shape in shapes.items()}
        >>> save_file(weights, folder / "sae_weights.safetensors")
        >>> settings = {"architecture": "standard", "d_in": 8, "d_sae": 32, "dtype": "float32"}
        >>> _ = (folder / "cfg.json").write_text(json.dumps(settings | {"metadata": {"sae_lens_version": "6.18.0"}}))
        >>> load_saelens(folder, n_iter=32)(torch.randn(4, 8))[0].shape
        torch.Size([4, 32])
    """
    with extra("load_saelens", "safetensors"):
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    config, weights = (Path(folder, name) for name in (_CONFIG_FILE, _WEIGHTS_FILE))
    for path in (config, weights):
        if not path.is_file():
            raise FileNotFoundError(f"load_saelens: {path.parent} has no {path.name}")
    settings = _settings_of(config)
    try:
        stored = load_file(weights)
    except SafetensorError as error:
        raise ValueError(f"load_saelens: {weights} is damaged: {error}") from error
    tensors = _checked_weights(weights, stored, settings)
    if settings.rescale_acts_by_decoder_norm:
        tensors |= _folded(weights, tensors)
    return SparseAutoencoder.from_encoder(
        tensors["W_enc"].T, tensors["b_enc"], tensors["W_dec"].T, tensors["b_dec"], n_iter,
        threshold=tensors.get("threshold"), k=settings.k, lmbda=lmbda, momentum=momentum,
        subtract_b_dec=settings.apply_b_dec_to_input, backend=backend,
    )  # fmt: skip


def _settings_of(path: Path) -> _Settings:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"load_saelens: {path} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"load_saelens: {path} must hold an object, got {type(config).__name__}")
    before_6 = _major_version(path, config) < 6
    given = _Given(path, _in_names_of_6(path, config) if before_6 else config)
    architecture = given.one_of("architecture", _ARCHITECTURES)
    if architecture == "topk" and before_6:
        given.one_of("activation_fn", ("topk",))
    elif before_6:
        given.one_of("activation_fn", ("relu",))
    given.one_of("normalize_activations", ("none", None, False), default="none")
    given.one_of("reshape_activations", ("none", "hook_z"), default="none")
    given.one_of("finetuning_scaling_factor", (False, None), default=False)
    rescaled = given.flag("rescale_acts_by_decoder_norm", default=False)
    if rescaled and architecture != "topk":
        given.refuse("rescale_acts_by_decoder_norm", f"False for the architecture {architecture!r}")
    d_sae = given.count("d_sae")
    k = given.count("k", most=d_sae) if architecture == "topk" else None
    dtype = _DTYPES[given.one_of("dtype", tuple(_DTYPES))]
    subtracts = given.flag("apply_b_dec_to_input", default=True)
    return _Settings(architecture, given.count("d_in"), d_sae, dtype, k, subtracts, rescaled)


def _major_version(path: Path, config: dict[str, Any]) -> int:
    """Major version of the SAELens that wrote the file; 0 if the file has none, as before version 6."""
    metadata = config.get("metadata")
    nested = metadata.get("sae_lens_version") if isinstance(metadata, dict) else None
    version = config.get("sae_lens_version") or nested
    if version is None:
        return 0
    major = str(version).split(".")[0]
    if not major.isdecimal():
        raise ValueError(f"load_saelens: {path}: sae_lens_version must be a version such as '6.0.0', got {version!r}")
    if int(major) > _NEWEST:
        raise ValueError(f"load_saelens: {path}: sae_lens_version must be at most {_NEWEST}, got {version!r}")
    return int(major)


def _in_names_of_6(path: Path, config: dict[str, Any]) -> dict[str, Any]:
    """A layout before version 6, with the names and defaults that SAELens 6 gives it on loading."""
    renamed = {"architecture": "standard", "activation_fn": "relu", **config}
    if "activation_fn_str" in config:
        renamed["activation_fn"] = config["activation_fn_str"]
    if renamed["activation_fn"] == "topk":
        if renamed["architecture"] == "standard":
            renamed["architecture"] = "topk"
        arguments = renamed.get("activation_fn_kwargs")
        if not isinstance(arguments, dict) or arguments.keys() != {"k"}:
            raise ValueError(f"load_saelens: {path}: activation_fn_kwargs must hold only k, got {arguments!r}")
        renamed["k"] = arguments["k"]
    return renamed


class _Given(NamedTuple):
    """Settings of a file, read one by one; errors name the file and the key."""

    path: Path
    config: dict[str, Any]

    def refuse(self, key: str, expected: str) -> None:
        """Raise ValueError."""
        raise ValueError(f"load_saelens: {self.path}: {key} must be {expected}, got {self.config.get(key)!r}")

    def one_of(self, key: str, values: tuple[Any, ...], **default: Any) -> Any:
        """The setting; raises unless it is one of the values."""
        value = self._value(key, **default)
        if not any(value == each and type(value) is type(each) for each in values):
            self.refuse(key, " or ".join(map(repr, values)))
        return value

    def flag(self, key: str, *, default: bool) -> bool:
        """The setting; raises unless it is a bool."""
        return bool(self.one_of(key, (True, False), default=default))

    def count(self, key: str, most: int | None = None) -> int:
        """The setting; raises unless it is an int of at least 1 and at most `most`."""
        value = self._value(key)
        if type(value) is not int or value < 1 or (most is not None and value > most):
            self.refuse(key, "an int >= 1" + (f" and <= {most}" if most is not None else ""))
        return int(value)

    def _value(self, key: str, **default: Any) -> Any:
        if key not in self.config and not default:
            raise ValueError(f"load_saelens: {self.path} has no {key}")
        return self.config.get(key, default.get("default"))


def _checked_weights(path: Path, stored: dict[str, torch.Tensor], settings: _Settings) -> dict[str, torch.Tensor]:
    """The tensors in the dtype of the settings, as in SAELens."""
    n, K = settings.d_in, settings.d_sae
    shapes = {"W_enc": (n, K), "b_enc": (K,), "W_dec": (K, n), "b_dec": (n,)}
    shapes |= {"threshold": (K,)} if settings.architecture == "jumprelu" else {}
    stored = dict(stored)
    for name in (each for each in _SCALES if each in stored):
        if not bool((stored.pop(name) == 1).all()):
            raise ValueError(f"load_saelens: {path}: {name} must be 1 everywhere: other scales are not supported")
    for name, shape in shapes.items():
        if name not in stored:
            raise ValueError(f"load_saelens: {path} has no {name}")
        tensor = stored[name]
        if tuple(tensor.shape) != shape:
            meaning = f"{list(shape)}, by the d_in and d_sae of {_CONFIG_FILE}"
            raise ValueError(f"load_saelens: {path}: {name} must be {meaning}, got {list(tensor.shape)}")
        if tensor.dtype not in _DTYPES.values():
            raise ValueError(f"load_saelens: {path}: {name} must be of a floating-point dtype, got {tensor.dtype}")
    if unknown := sorted(stored.keys() - shapes.keys()):
        raise ValueError(
            f"load_saelens: {path}: {', '.join(unknown)} don't belong to the architecture {settings.architecture!r}"
        )
    return {name: tensor.to(settings.dtype) for name, tensor in stored.items()}


def _folded(path: Path, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Encoder, its bias and decoder, with the decoder's norms moved to the first two."""
    norms = torch.linalg.vector_norm(tensors["W_dec"], dim=1)  # (K,)
    if bool((norms == 0).any()):
        raise ValueError(f"load_saelens: {path}: W_dec must have no row of zeros with rescale_acts_by_decoder_norm")
    W_enc, b_enc, W_dec = tensors["W_enc"] * norms, tensors["b_enc"] * norms, tensors["W_dec"] / norms[:, None]
    return {"W_enc": W_enc, "b_enc": b_enc, "W_dec": W_dec}
