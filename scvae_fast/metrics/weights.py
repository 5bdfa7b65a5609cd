"""Weights of the networks that metrics use: where they are, and whether they are the published ones."""

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
    """A metric can't be computed with what is here; the message says why, and what to do about it."""


@dataclass(frozen=True)
class PublishedWeights:
    """A file of weights that others have published, and that their figures were computed with.

    Args:
        network: what it is, in words.
        url: where it is published.
        digest: the first digits of its SHA-256.
        other_names: what else the same file is called.
    """

    network: str
    url: str
    digest: str
    other_names: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What torch.hub calls the file."""
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
    """A file of weights that was found."""

    path: Path
    sha256: str
    published: bool  # whether it is the published one, by its digest

    def to_dict(self) -> dict[str, Any]:
        """As it goes into a record."""
        return {"path": str(self.path), "sha256": self.sha256, "published": self.published}


def locate(weights: PublishedWeights, folder: Path | None = None, *, download: bool = False) -> WeightsFile:
    """Find the file of weights in `folder`, then in torch hub's folder of checkpoints.

    Args:
        weights: which.
        folder: a folder to look into first.
        download: whether to fetch a file that is in neither, into `folder` or else torch hub's. Nothing is fetched
            without it.

    Raises:
        UnavailableError: it is in neither, or can't be fetched; the message has the paths, and how to provide it.
    """
    folders = [*([folder] if folder else []), Path(torch.hub.get_dir()) / "checkpoints"]
    paths = [each / name for each in folders for name in (weights.name, *weights.other_names)]
    for path in paths:
        if path.is_file():
            return inspect(path, weights.digest)
    if not download:
        raise UnavailableError(
            f"needs the weights of {weights.network}; looked for {', '.join(map(str, paths))}. "
            f"Put {weights.url} there, or name a folder that has it (weights), or have it fetched (download)"
        )
    try:
        folders[0].mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(weights.url, str(paths[0]), weights.digest, progress=False)
    except (OSError, RuntimeError) as error:  # of the network or the disk; or the file has another digest
        raise UnavailableError(
            f"the weights of {weights.network} can't be fetched from {weights.url}: {error}"
        ) from error
    return inspect(paths[0], weights.digest)


def inspect(path: Path, digest: str) -> WeightsFile:
    """The file at `path`, with its SHA-256, and whether that begins with `digest`.

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
    """What an error says, in one line: torch lists all the weights of a network."""
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
        raise UnavailableError(f"{path} holds no state dict but a {type(state).__name__}")
    return state
