"""A trained model, from whatever a command was given as its checkpoint."""

import os
import pickle
from pathlib import Path
from typing import Any

import torch

from scvae_fast.errors import UsageError
from scvae_fast.models._hub import CONFIG_FILE, uncompiled
from scvae_fast.models.config import SCVAEConfig
from scvae_fast.models.scvae import SCVAE

# What a training keeps in its folder.
STATE_FILE = "last.ckpt"
MODEL_FOLDER = "model"


def load_model(checkpoint: str | os.PathLike[str], device: str | torch.device = "cpu") -> SCVAE:
    """The model of a checkpoint, in evaluation mode.

    Args:
        checkpoint: a folder that `SCVAE.save_pretrained` wrote, the folder of a training (its model, or the state that
            it has come to), the state of a training (`last.ckpt`; averaged weights, if it has them), or a repository on
            the hub.
        device: where the model is to be.

    Raises:
        UsageError: it can't be loaded.
        ImportError: huggingface_hub or safetensors is not installed.
    """
    path = Path(checkpoint)
    if path.is_dir() and not (path / CONFIG_FILE).exists():
        path = next((kept for name in (MODEL_FOLDER, STATE_FILE) if (kept := path / name).exists()), path)
    try:
        if path.is_file():
            return _from_training(path).to(device).eval()
        return SCVAE.from_pretrained(path if path.exists() else checkpoint, device=device)
    except (OSError, ValueError) as error:
        raise UsageError(f"the checkpoint {os.fspath(checkpoint)} can't be loaded: {error}") from error


def read_training_state(path: Path) -> dict[str, Any]:
    """What `scvae-fast train` keeps in its `last.ckpt`: `network`, `state_dict` and more. Tensors stay on disk.

    Raises:
        OSError: the file can't be read.
        ValueError: it is no such file.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        missing = {"network", "state_dict"} - state.keys()
    # torch reports files that are no checkpoints in many ways.
    except (RuntimeError, AttributeError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(f"{path} is not the state of a training") from error
    if missing:
        raise ValueError(f"{path} is not the state of a training: it has no {', '.join(sorted(missing))}")
    return dict(state)


def _from_training(path: Path) -> SCVAE:
    state = read_training_state(path)
    names = uncompiled(state["state_dict"])
    weights = {name.removeprefix("model."): value for name, value in names.items() if name.startswith("model.")}
    model = SCVAE(SCVAEConfig.from_dict(state["network"]), dictionary=weights.get("bottleneck.dictionary"))
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"{path} does not hold its network's weights: {error}") from error
    return model
