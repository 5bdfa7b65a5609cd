"""Where models run, and where tensors hold their values."""

import os

import torch

from scvae_fast.errors import UsageError


def find_device(name: str | None) -> torch.device:
    """The device with this name. Without a name: a GPU if there is one, otherwise the CPU.

    Each of the processes that torchrun starts on a machine gets its own GPU, unless the name has a number.

    Raises:
        UsageError: this machine has no such device.
    """
    several = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) > 1
    if several and (name == "cuda" or (name is None and torch.cuda.is_available())):
        name = f"cuda:{os.environ['LOCAL_RANK']}"
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"{name!r} is not a device: use cpu, cuda, cuda:1 …") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(f"there is no device {name!r}: torch finds {torch.cuda.device_count()} CUDA devices")
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"the device must be cpu or cuda, got {name!r}")
    return device


def cuda_index(device: torch.device) -> int:
    """The number of a CUDA device; that of the current one if it has none."""
    return device.index if device.index is not None else torch.cuda.current_device()


def holds_values(tensor: torch.Tensor) -> bool:
    """Whether the tensor has values to inspect; not on the meta device, or while torch only propagates shapes."""
    return tensor.untyped_storage().device.type != "meta"
