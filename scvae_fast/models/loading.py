"""A trained model, from whatever a command was given as its checkpoint."""

import os

import torch

from scvae_fast.errors import UsageError
from scvae_fast.models.scvae import SCVAE


def load_model(checkpoint: str | os.PathLike[str], device: str | torch.device = "cpu") -> SCVAE:
    """The model of a checkpoint, in evaluation mode.

    Args:
        checkpoint: a folder that `SCVAE.save_pretrained` wrote, or a repository on the hub.
        device: where the model is to be.

    Raises:
        UsageError: it can't be loaded.
        ImportError: huggingface_hub or safetensors is not installed.
    """
    try:
        return SCVAE.from_pretrained(checkpoint, device=device)
    except (OSError, ValueError) as error:
        raise UsageError(f"the checkpoint {os.fspath(checkpoint)} can't be loaded: {error}") from error
