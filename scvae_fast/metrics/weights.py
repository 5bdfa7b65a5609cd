"""Weights of the networks that metrics use: finding the files, and checking that they are the published ones."""

import hashlib
import os
import pickle
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch

_BLOCK = 2**20


class UnavailableError(RuntimeError):
    """A metric can't be computed in this installation; the message says why, and what to do about it."""


@dataclass(frozen=True)
class PublishedWeights:
    """A published file of weights, with which published figures were computed.

    Args:
        network: name of the network.
        url: of the file.
        digest: the first digits of its SHA-256.
        other_names: further names of the same file.
    """

    network: str
    url: str
    digest: str
    other_names: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The file's name in torch.hub."""
        return os.path.basename(urlparse(self.url).path)


ALEXNET = PublishedWeights(
    "AlexNet trained on ImageNet", "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth", "7be5be79"
)
VGG16 = PublishedWeights(
    "VGG-16 trained on ImageNet", "https://download.pytorch.org/models/vgg16-397923af.pth", "397923af"
)
INCEPTION = PublishedWeights(
    "Inception v3 of 2015, as FID and KID are defined with it",
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
    "6726825d",
    ("pt_inception-2015-12-05-6726825d.pth",),
)


@dataclass(frozen=True)
class WeightsFile:
    """An existing file of weights."""

    path: Path
    sha256: str
    published: bool  # whether its digest is that of the published file

    def to_dict(self) -> dict[str, Any]:
        """For a record."""
        return {"path": str(self.path), "sha256": self.sha256, "published": self.published}


def locate(weights: PublishedWeights, folder: Path | None = None, *, download: bool = False) -> WeightsFile:
    """Find the file of weights in `folder`, then in torch hub's folder of checkpoints.

    Args:
        weights: the file to find.
        folder: searched first.
        download: whether to download a missing file, to `folder` or otherwise torch hub's folder. Without it, nothing
            is downloaded.

    Raises:
        UnavailableError: it is in neither, or can't be downloaded; the message has the paths and the remedy.
    """
    folders = [*([folder] if folder else []), Path(torch.hub.get_dir()) / "checkpoints"]
    paths = [each / name for each in folders for name in (weights.name, *weights.other_names)]
    for path in paths:
        if path.is_file():
            return inspect(path, weights.digest)
    if not download:
        raise UnavailableError(
            f"needs the weights of {weights.network}; looked for {', '.join(map(str, paths))}. "
            f"Put {weights.url} there, or give a folder that has it (weights), or let it be downloaded (download)"
        )
    try:
        folders[0].mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(weights.url, str(paths[0]), weights.digest, progress=False)
    except (OSError, RuntimeError) as error:  # of the network, the disk, or the digest
        raise UnavailableError(
            f"the weights of {weights.network} can't be fetched from {weights.url}: {error}"
        ) from error
    return inspect(paths[0], weights.digest)


def inspect(path: Path, digest: str) -> WeightsFile:
    """The file at `path`, with its SHA-256 and whether that starts with `digest`.

    Raises:
        UnavailableError: the file can't be read.
    """
    sha256 = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                sha256.update(block)
    except OSError as error:
        raise UnavailableError(f"{path} can't be read: {error}") from error
    return WeightsFile(path, sha256.hexdigest(), sha256.hexdigest().startswith(digest))


def brief(error: Exception) -> str:
    """The message of an error in one line: torch lists all the weights of a network."""
    return textwrap.shorten(str(error), 200, placeholder=" …")


def load(path: Path) -> dict[str, Any]:
    """The state dict in a file of weights; nothing in the file is executed.

    Raises:
        UnavailableError: the file is damaged, or no state dict.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise UnavailableError(f"{path} can't be read as weights: {brief(error)}") from error
    if not isinstance(state, dict):
        raise UnavailableError(f"{path} holds a {type(state).__name__}, not a state dict")
    return state
