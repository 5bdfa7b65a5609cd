"""Which model it was: a short text that another configuration or other weights change."""

import hashlib
import json

import torch

from scvae_fast.models.scvae import SCVAE


def fingerprint(model: SCVAE) -> str:
    """SHA-256, in hexadecimal, of a model's configuration and weights.

    Device, memory format, compilation and the mode of the model don't change it; its dtype does.
    """
    digest = hashlib.sha256(json.dumps(model.config.to_dict(), sort_keys=True).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"\n{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
