"""Loading a trained model from any kind of checkpoint that a command accepts."""

import difflib
import json
import os
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from scvae_fast._files import printable
from scvae_fast.errors import UsageError
from scvae_fast.models._hub import (
    CONFIG_FILE,
    HUB,
    RECORD_FILE,
    WEIGHTS_FILE,
    shipped_models,
    uncompiled,
    with_weights,
)
from scvae_fast.models.config import SCVAEConfig
from scvae_fast.models.scvae import SCVAE

# Names in the folder of a training run.
STATE_FILE = "last.ckpt"
MODEL_FOLDER = "model"


def load_model(checkpoint: str | os.PathLike[str], device: str | torch.device = "cpu") -> SCVAE:
    """Load the model of a checkpoint, in float32 and in evaluation mode.

    Args:
        checkpoint: one of: a folder written by `SCVAE.save_pretrained`; the folder of a training run (its model, or its
            state if that is newer); the state of a run (`last.ckpt`; its averaged weights, if it has them);
            "pictures64", the model that comes with the package, unless a file or folder has this name; "hf:user/name",
            a repository on the hub. Any other name is a local path, never one on the hub.
        device: device for the model.

    Raises:
        UsageError: the checkpoint can't be loaded; if another one seems to be meant, the message names it.
        ImportError: huggingface_hub or safetensors is not installed.
    """
    name, path = os.fspath(checkpoint), checkpoint_path(checkpoint)
    if name.startswith(HUB) and not path.exists():
        return _loaded(name, name, device)
    if path == shipped_models().get(name):
        print(f"using {name}, the model that comes with the package", file=sys.stderr)
    if not path.exists() or path.name in (CONFIG_FILE, WEIGHTS_FILE, RECORD_FILE) or not _is_checkpoint(path):
        what = "no such file or folder" if not path.exists() else "there is no model or training run under this name"
        if name in shipped_models():
            what += ", and it hides the model of this name that comes with the package"
        meant = "".join(f"; did you mean {found}?" for found in list(_meant(path))[:1])
        hub = f"; a name on the hub is {HUB}{name}" if not path.exists() and name.count("/") == 1 else ""
        raise UsageError(f"the checkpoint {name} can't be loaded: {what}{meant}{hub}")
    if printable(str(path)) != str(path):
        reason = "PyTorch and safetensors can't open names that are not UTF-8: rename it"
        raise UsageError(f"the checkpoint {name} can't be loaded: {reason}")
    return _loaded(name, path, device)


def checkpoint_path(checkpoint: str | os.PathLike[str]) -> Path:
    """The path of a checkpoint's model: in the folder of a training run, in the package, or the given path itself."""
    path = Path(checkpoint)
    if path.is_dir() and not (path / CONFIG_FILE).exists():
        return _newest(path)
    return path if path.exists() else shipped_models().get(os.fspath(checkpoint), path)


def _loaded(name: str, source: str | Path, device: str | torch.device) -> SCVAE:
    try:
        if isinstance(source, Path) and source.is_file():
            return _from_training(source).to(device).float().eval()
        return SCVAE.from_pretrained(source, device=device).float()
    except (OSError, ValueError) as error:
        raise UsageError(f"the checkpoint {name} can't be loaded: {error}") from error


def _newest(training: Path) -> Path:
    """The model in the folder of a training run, or the state if it is newer; without either, the folder itself."""
    model, state = training / MODEL_FOLDER, training / STATE_FILE
    if not (model.exists() and state.exists()):
        return next((kept for kept in (model, state) if kept.exists()), training)
    try:
        steps = json.loads((model / RECORD_FILE).read_text(encoding="utf-8"))["steps"]
        return state if read_training_state(state)["global_step"] > steps else model
    except (OSError, ValueError, KeyError, TypeError):  # no comparison: one of the files is missing or damaged
        return model


def _is_checkpoint(path: Path) -> bool:
    return path.is_file() or any((path / each).exists() for each in (CONFIG_FILE, WEIGHTS_FILE))


def _meant(path: Path) -> Iterator[Path]:
    """Checkpoints that may be meant by this path: the folder around it, folders in it, and similar names."""
    around = path.parent
    siblings = [each.name for each in around.iterdir()] if around.is_dir() else []
    inside = sorted(each for each in path.iterdir() if each.is_dir()) if path.is_dir() else []
    for each in (around, *inside, *(around / name for name in difflib.get_close_matches(path.name, siblings))):
        kept = (each, each / MODEL_FOLDER, each / STATE_FILE)
        if each != path and any(_is_checkpoint(found) for found in kept if found.exists()):
            yield each
    yield from map(Path, difflib.get_close_matches(os.fspath(path), shipped_models()))


def read_training_state(path: Path) -> dict[str, Any]:
    """The content of the `last.ckpt` of `scvae-fast train`: `network`, `state_dict` and more. Tensors stay on disk.

    Raises:
        OSError: the file can't be read.
        ValueError: the file is not the state of a training run.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        missing = {"network", "state_dict"} - state.keys()
    # torch raises many kinds of errors for files that are not checkpoints.
    except (RuntimeError, AttributeError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(f"{path} is not a training state") from error
    if missing:
        raise ValueError(f"{path} is not a training state: it has no {', '.join(sorted(missing))}")
    return dict(state)


def _from_training(path: Path) -> SCVAE:
    state = read_training_state(path)
    names = uncompiled(state["state_dict"])
    weights = {name.removeprefix("model."): value for name, value in names.items() if name.startswith("model.")}
    try:
        return with_weights(SCVAE, SCVAEConfig.from_dict(state["network"]), weights, assign=False)
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"{path} does not hold its network's weights: {error}") from error
