"""Saving and loading a model as `config.json` and `model.safetensors`, locally or on the Hugging Face hub."""

import hashlib
import json
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from scvae_fast._files import make_folder, temporary_folder, write_atomically, write_json
from scvae_fast._limits import ITERATIONS_VARIABLE, most_iterations, too_large
from scvae_fast.models.card import model_card, without_secrets
from scvae_fast.models.config import SCVAEConfig

try:
    import huggingface_hub
    from huggingface_hub import PyTorchModelHubMixin as _HubMixin
    from huggingface_hub.errors import EntryNotFoundError, HFValidationError
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import load_file, save_file
except ImportError as error:
    _missing: ImportError | None = error

    class _HubMixin:  # type: ignore[no-redef]
        """Replaces huggingface_hub's mixin if that can't be imported."""
else:
    _missing = None

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
RECORD_FILE = "training.json"

# Prefix that marks a name as a repository on the hub, not a path.
HUB = "hf:"
# The models that come with the package, each in its own folder, with weights in float16.
SHIPPED = Path(__file__).parent / "pretrained"
_ON_THE_HUB = re.compile(r"[\w.-]+/[\w.-]+")
_FILES_OF_MODELS = (".ckpt", ".pt", ".pth", ".bin", ".safetensors", ".json", ".yaml")
# Key in the weights' metadata for the digest of the configuration.
_DIGEST = "scvae_fast.config"

ModelT = TypeVar("ModelT", bound="PretrainedModel")
ValueT = TypeVar("ValueT")


def uncompiled(weights: Mapping[str, ValueT]) -> dict[str, ValueT]:
    """The weights under their names without torch.compile, which inserts `_orig_mod.` into names.

    Raises:
        ValueError: two weights would have the same name.
    """
    renamed = {name.replace("_orig_mod.", ""): tensor for name, tensor in weights.items()}
    if len(renamed) < len(weights):
        raise ValueError("weights must not appear twice, from a compiled and from a plain module")
    return renamed


class PretrainedModel(nn.Module, _HubMixin):
    """A module with huggingface_hub's `save_pretrained`, `from_pretrained` and `push_to_hub`.

    A subclass's `__init__` takes the configuration, an initial `dictionary`, and options that are not saved.

    Attributes:
        record: the record of the model's training, see `scvae_fast.models.card.model_card`; None if there is none.
            `from_pretrained` reads it from the file next to the weights.
    """

    def __init__(self, config: SCVAEConfig, **options: Any) -> None:
        super().__init__()
        self.config = config
        self.record: Mapping[str, Any] | None = None

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Load weights whether or not this model, or the one they come from, is compiled."""
        own = [name for name, _ in (*self.named_parameters(remove_duplicate=False), *self.named_buffers())]
        named = dict(zip(uncompiled(dict.fromkeys(own)), own, strict=True))
        under = {name.removeprefix(prefix): state_dict.pop(name) for name in [*state_dict] if name.startswith(prefix)}
        state_dict |= {prefix + named.get(name, name): tensor for name, tensor in uncompiled(under).items()}
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def fingerprint(self) -> str:
        """SHA-256, in hexadecimal, of configuration and weights.

        The model's dtype changes it; device, memory format, compilation and mode don't.
        """
        digest = hashlib.sha256(json.dumps(self.config.to_dict(), sort_keys=True).encode())
        for name, tensor in sorted(uncompiled(self.state_dict()).items()):
            digest.update(f"\n{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        return digest.hexdigest()

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        *,
        record: Mapping[str, Any] | None = None,
        repo_id: str | None = None,
        **options: Any,
    ) -> str | None:
        """Write `config.json`, `model.safetensors`, `training.json` and, if there is none, a model card to a folder.

        Each file is written atomically. The weights contain a digest of the configuration, so `from_pretrained` refuses
        files of two models mixed by an interruption. `training.json` and the card may be published: they contain no
        full paths, commands or keys. `push_to_hub` uploads the files that this method writes to an empty folder.

        Args:
            save_directory: the folder; created if it doesn't exist.
            record: record of the training, for `training.json` and the card; see `scvae_fast.models.card.model_card`.
                The default is the record loaded with the model, if the weights have not changed since. Without a
                record, an existing `training.json` is removed.
            repo_id: name on the hub for `push_to_hub=True`; by default the folder's name.
            options: more arguments of `huggingface_hub.ModelHubMixin.save_pretrained`, such as `push_to_hub`.

        Returns:
            The address of the commit for `push_to_hub=True`, otherwise None.

        Raises:
            ImportError: huggingface_hub or safetensors is not installed.
            OSError: the folder can't be written to.
        """
        _require_hub(type(self), "save_pretrained")
        folder = Path(save_directory)
        make_folder(folder)
        repo_id = repo_id or folder.resolve().name
        card = self._card_arguments(repo_id, record, options)
        with temporary_folder(folder) as parent:
            temporary = parent / "model"
            commit = super().save_pretrained(temporary, repo_id=repo_id, model_card_kwargs=card, **options)
            if card["record"]:
                about = {**without_secrets(card["record"]), "weights": self.fingerprint()}
                write_json(temporary / RECORD_FILE, about)
            else:
                Path(folder, RECORD_FILE).unlink(missing_ok=True)  # it describes other weights
            for written in temporary.iterdir():
                if written.name != "README.md" or not (folder / "README.md").exists():
                    write_atomically(folder / written.name, written.replace)
        return commit

    def push_to_hub(self, repo_id: str, *, record: Mapping[str, Any] | None = None, **options: Any) -> str:
        """Upload the files of `save_pretrained` to a repository on the hub, in one commit.

        This replaces the card there, unless `ignore_patterns="README.md"` is given.

        Args:
            repo_id: such as "user/name"; the repository is created if it doesn't exist.
            record: see `save_pretrained`.
            options: more arguments of `huggingface_hub.ModelHubMixin.push_to_hub`, such as `private`.

        Returns:
            The address of the commit.

        Raises:
            ImportError: huggingface_hub or safetensors is not installed.
            huggingface_hub.errors.HfHubHTTPError: the hub refuses the upload.
        """
        _require_hub(type(self), "push_to_hub")
        card = self._card_arguments(repo_id, record, options)
        return super().push_to_hub(repo_id, model_card_kwargs=card, **options)

    def _save_pretrained(self, save_directory: Path) -> None:
        """Write the weights, with the digest of the configuration; overrides huggingface_hub's method."""
        weights = {name: tensor.contiguous() for name, tensor in uncompiled(self.state_dict()).items()}
        path = Path(save_directory, WEIGHTS_FILE)
        try:
            save_file(weights, path, metadata={"format": "pt", _DIGEST: _digest(self.config)})
        except SafetensorError as error:  # safetensors reports a full disk in this way
            raise OSError(str(error)) from error
        # safetensors lets only the owner read the file. Give it the permissions that the user's umask allows.
        path.with_name("model").touch()
        path.chmod(path.with_name("model").stat().st_mode)
        path.with_name("model").unlink()

    def generate_model_card(
        self, record: Mapping[str, Any] | None = None, name: str | None = None
    ) -> "huggingface_hub.ModelCard":
        """The card that `save_pretrained` writes; see `scvae_fast.models.card.model_card`."""
        return huggingface_hub.ModelCard(model_card(self, record, name=name))

    def _card_arguments(self, name: str, record: Mapping[str, Any] | None, options: dict[str, Any]) -> dict[str, Any]:
        # huggingface_hub's two methods call each other and pass the card's arguments on.
        if passed_on := options.pop("model_card_kwargs", None):
            return dict(passed_on)
        if record is None and self.record is not None and self.record.get("weights") == self.fingerprint():
            record = self.record
        return {"record": record, "name": name}

    @classmethod
    def from_pretrained(
        cls: type[ModelT],
        pretrained_model_name_or_path: str | os.PathLike[str],
        *,
        device: str | torch.device = "cpu",
        revision: str | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
        token: str | bool | None = None,
        **options: Any,
    ) -> ModelT:
        """Load a model that `save_pretrained` wrote, in evaluation mode.

        Args:
            pretrained_model_name_or_path: a folder; "pictures64", the model that comes with the package; or a
                repository on the hub: "hf:user/name", or "user/name" if there is no folder `user` here. An existing
                folder takes precedence. Only the hub needs a network; a message on stderr says when it is used.
            device: device for the model.
            revision: revision of the repository; see `huggingface_hub.hf_hub_download`, also for the next arguments.
            cache_dir: folder for downloads.
            force_download: whether to download files that are already in the cache.
            local_files_only: whether to use only the cache.
            token: access token for the hub.
            options: keyword arguments of the class, such as `backend`.

        Raises:
            ImportError: huggingface_hub or safetensors is not installed.
            FileNotFoundError: there is no such folder or repository, or it lacks the configuration or the weights.
            ValueError: a file is damaged, or the weights don't fit the configuration.

        The weights keep the dtype in which they were saved; those of the package's model become float32.
        The content of `training.json`, if there is one, becomes `model.record`.
        """
        _require_hub(cls, "from_pretrained")
        source = str(pretrained_model_name_or_path)
        record: Path | None
        shipped = None if os.path.isdir(source) else shipped_models().get(source)
        source = source if shipped is None else str(shipped)
        if os.path.isdir(source):
            files = [_in_folder(cls, Path(source), name) for name in (CONFIG_FILE, WEIGHTS_FILE)]
            record = Path(source, RECORD_FILE) if Path(source, RECORD_FILE).is_file() else None
        else:
            source = _repository(cls, source)
            hub: dict[str, Any] = {"revision": revision, "cache_dir": cache_dir, "token": token}
            hub |= {"force_download": force_download, "local_files_only": local_files_only}
            files = [_download(cls, source, name, hub) for name in (CONFIG_FILE, WEIGHTS_FILE)]
            record = _download_record(source, hub)
        config, (weights, digest) = _read_config(cls, files[0]), _read_weights(cls, files[1])
        try:
            model = with_weights(cls, config, uncompiled(weights), assign=True, **options)
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"{cls.__name__}.from_pretrained: {files[1]} doesn't fit {files[0]}: {error}") from error
        if digest is not None and digest != _digest(config):
            raise ValueError(
                f"{cls.__name__}.from_pretrained: {files[1]} was not saved with {files[0]}: it was changed, or saving "
                "was interrupted; save the model again"
            )
        model.record = None if record is None else _read_record(cls, record)
        if shipped is not None:
            model = model.float()
        return model.to(device).eval()


def shipped_models() -> dict[str, Path]:
    """The folders of the models that come with the package, by name."""
    return {folder.name: folder for folder in sorted(SHIPPED.iterdir()) if (folder / CONFIG_FILE).is_file()}


def with_weights(
    cls: type[ModelT], config: SCVAEConfig, weights: Mapping[str, Tensor], *, assign: bool, **options: Any
) -> ModelT:
    """A model with the given weights. It is allocated only after the weights are found to fit.

    Args:
        cls: class of the model.
        config: the configuration, possibly from an untrusted source.
        weights: as `state_dict` returns them.
        assign: whether the model keeps these tensors instead of copies.
        options: keyword arguments of the class.

    Raises:
        ValueError: the weights don't fit, or the configuration exceeds the limits.
        RuntimeError: from `load_state_dict`.
    """
    if config.n_iter > most_iterations():
        raise ValueError(
            f"n_iter of {config.n_iter:,} is too large; at most {most_iterations():,} are accepted "
            f"({ITERATIONS_VARIABLE} raises that)"
        )
    if problem := too_large(config.resolution, config.resolution):
        raise ValueError(f"resolution: {problem}")
    if config.num_res_blocks * len(config.ch_mult) > len(weights):
        raise ValueError(f"num_res_blocks of {config.num_res_blocks:,} needs more than {len(weights)} weights")
    with torch.device("meta"):
        outline = cls(config, dictionary=torch.empty(config.n_features, config.n_atoms)).state_dict()
    for name in outline.keys() & weights.keys():
        if outline[name].numel() != weights[name].numel():
            raise ValueError(f"{name} must be {tuple(outline[name].shape)}, got {tuple(weights[name].shape)}")
    if missing := sorted(outline.keys() - weights.keys()):
        raise ValueError(f"weights are missing: {', '.join(missing[:5])}{' …' if len(missing) > 5 else ''}")
    model = cls(config, dictionary=weights.get("bottleneck.dictionary"), **options)  # saves computing the default D
    model.load_state_dict(dict(weights), assign=assign)
    return model


def _repository(cls: type, source: str) -> str:
    """The name of a repository on the hub.

    Raises:
        FileNotFoundError: source can only be a local path, and there is no such folder.
    """
    name = source.removeprefix(HUB)
    is_path = name == source and (Path(source).parent.is_dir() or source.endswith(_FILES_OF_MODELS))
    if is_path or not _ON_THE_HUB.fullmatch(name) or name.startswith("."):
        raise FileNotFoundError(
            f"{cls.__name__}.from_pretrained: {source} is not a folder here (a name on the hub is {HUB}user/name)"
        )
    print(f"looking up {name} on the Hugging Face Hub", file=sys.stderr)
    return name


def _digest(config: SCVAEConfig) -> str:
    return hashlib.sha256(json.dumps(config.to_dict(), sort_keys=True).encode()).hexdigest()


def _require_hub(cls: type, method: str) -> None:
    if _missing is not None:
        raise ImportError(
            f'{cls.__name__}.{method} needs huggingface_hub and safetensors: pip install "scvae_fast[train]"'
        ) from _missing


def _in_folder(cls: type, folder: Path, name: str) -> Path:
    if not (folder / name).is_file():
        raise FileNotFoundError(f"{cls.__name__}.from_pretrained: {folder} has no {name}")
    return folder / name


def _download(cls: type, repository: str, name: str, hub: dict[str, Any]) -> Path:
    try:
        return Path(huggingface_hub.hf_hub_download(repository, name, **hub))
    except (OSError, HFValidationError) as error:
        raise FileNotFoundError(
            f"{cls.__name__}.from_pretrained: {repository} is not a folder here, "
            f"and {name} could not be fetched from the hub's repository of that name: {error}"
        ) from error


def _download_record(repository: str, hub: dict[str, Any]) -> Path | None:
    """Download the training record; None if there is none. Other errors have occurred at the files before it."""
    try:
        return Path(huggingface_hub.hf_hub_download(repository, RECORD_FILE, **hub))
    except EntryNotFoundError:
        return None


def _read_record(cls: type, path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{cls.__name__}.from_pretrained: {path} is not a training record: {error}") from error


def _read_config(cls: type, path: Path) -> SCVAEConfig:
    try:
        return SCVAEConfig.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise ValueError(f"{cls.__name__}.from_pretrained: {path} is not a configuration: {error}") from error


def _read_weights(cls: type, path: Path) -> tuple[dict[str, Tensor], str | None]:
    """The weights, and the digest of the configuration if there is one."""
    try:
        with safe_open(path, framework="pt") as file:
            digest = (file.metadata() or {}).get(_DIGEST)
        return load_file(path), digest
    except SafetensorError as error:
        raise ValueError(f"{cls.__name__}.from_pretrained: {path} is damaged: {error}") from error
