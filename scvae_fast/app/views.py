"""Computes what the page shows of a picture, independently of the page."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from scvae_fast.codes import SparseCodes
from scvae_fast.codes.tiling import decode_tiled, encode_tiled
from scvae_fast.data.pictures import OpenPicture, PictureError, to_bytes, to_tensor
from scvae_fast.metrics import CodeSparsity, PictureQuality
from scvae_fast.models import SCVAE
from scvae_fast.models.atoms import decode_atoms
from scvae_fast.plotting.figures import HEAT

MEBI, MEGA = 2**20, 10**6
MOST_CLUSTERS = 12
VALUE_BITS = 16
# Colours that most people can tell apart, from P. Tol's schemes.
PALETTE = (
    "#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377",
    "#ee7733", "#009988", "#332288", "#ddaa33", "#882255", "#777777",
)  # fmt: skip
_CELLS_FOR_MEANS = 8192  # largest number of cells to fit K-means to; the others go to the nearest centre
_ATOM_SIDE = 96  # side in pixels of an atom's picture on the page


class Limits(NamedTuple):
    """The largest picture that is accepted."""

    mebibytes: float = 16
    megapixels: float = 4


class View(NamedTuple):
    """A picture, its codes over K atoms (one for each of h x w cells), and its reconstruction."""

    picture: Tensor  # (3, H, W), in −1 … 1
    x_hat: Tensor  # (3, H, W)
    codes: SparseCodes
    psnr: float  # dB
    bits: float  # of all codes, see `CodeSparsity`

    @property
    def bits_per_pixel(self) -> float:
        """Bits of the codes for each pixel of the picture."""
        return self.bits / (self.picture.shape[1] * self.picture.shape[2])


class Codes(NamedTuple):
    """The part of a view that is kept between two requests: a byte per pixel, and the codes."""

    grey: np.ndarray  # (H, W) uint8
    codes: SparseCodes


def kept(view: View) -> Codes:
    """The part of a view that `cluster_map` needs."""
    return Codes(to_bytes(view.picture.mean(0, keepdim=True).expand(3, -1, -1))[..., 0].copy(), view.codes)


def read_picture(path: Path, limits: Limits) -> Tensor:  # -> (3, H, W)
    """Read a picture file within the limits; larger ones are refused before they are decoded.

    Raises:
        PictureError: the file is too large, or can't be read as a picture.
    """
    size = path.stat().st_size
    if size > limits.mebibytes * MEBI:
        raise PictureError(path.name, f"has {size / MEBI:.1f} MiB; at most {limits.mebibytes:g} MiB are allowed")
    with OpenPicture(path, path.name, most=limits.megapixels * MEGA) as opened:
        return to_tensor(opened.decode())


def look(model: SCVAE, picture: Tensor) -> View:
    """Code a picture (3, H, W) of any size and reconstruct it on the model's device; the view is on the CPU."""
    sparsity = CodeSparsity(model.config.n_atoms, VALUE_BITS)
    codes = encode_tiled(model, picture, on_codes=sparsity.update)
    x_hat = decode_tiled(model, codes, (picture.shape[1], picture.shape[2])).float().cpu()
    quality = PictureQuality(rate_structure=False)
    return View(picture, x_hat, codes, quality.update(x_hat, picture)["psnr"], sparsity.bits)


def density_map(view: View, stride: int) -> np.ndarray:  # -> (H, W, 3) uint8
    """The grey picture, overlaid with the number of entries of each code: dark red for few, yellow for many."""
    counts = view.codes.counts.reshape(view.codes.h, view.codes.w).astype(float)
    colours = torch.from_numpy(HEAT(counts / max(np.quantile(counts, 0.995), 1))).float()  # (h, w, 4)
    return _painted(kept(view), stride, colours[..., :3], colours[..., 3:], dim=0.6)


def cluster(codes: SparseCodes, n_clusters: int) -> np.ndarray:  # -> (h, w)
    """K-means on the codes of a picture's cells; clusters are numbered by size, the largest is 0.

    There are fewer clusters if there are fewer distinct codes. Equal codes give equal clusters.

    Raises:
        ValueError: n_clusters is not 1 … `MOST_CLUSTERS`.
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    if not 1 <= n_clusters <= MOST_CLUSTERS:
        raise ValueError(f"cluster: n_clusters must be 1 … {MOST_CLUSTERS}, got {n_clusters}")
    rows = codes.csr()
    seen = rows
    if rows.shape[0] > _CELLS_FOR_MEANS:
        seen = rows[np.sort(np.random.default_rng(0).choice(rows.shape[0], _CELLS_FOR_MEANS, replace=False))]
    means = KMeans(min(n_clusters, rows.shape[0]), n_init=2, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # there may be fewer distinct codes than clusters
        labels = means.fit(seen).predict(rows)
    order = np.bincount(labels, minlength=MOST_CLUSTERS).argsort(kind="stable")[::-1]
    return order.argsort()[labels].reshape(codes.h, codes.w)


def cluster_map(view: Codes, stride: int, labels: np.ndarray) -> np.ndarray:  # -> (H, W, 3) uint8
    """The grey picture, with each cell in the colour of `PALETTE` for its label (h, w)."""
    palette = torch.tensor([[int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)] for colour in PALETTE])
    return _painted(view, stride, palette[torch.from_numpy(labels)], torch.tensor(0.6), dim=1.0)


def atom_pictures(model: SCVAE, atoms: Tensor) -> list[np.ndarray]:
    """Each of these atoms (N,) decoded on its own in grey, scaled individually; (side, side, 3) uint8."""
    patches = decode_atoms(model, atoms).float().cpu()
    patches = patches / patches.abs().amax((1, 2, 3), keepdim=True).clamp_min(1e-9)
    enlarged = F.interpolate(patches, scale_factor=max(1, _ATOM_SIDE // patches.shape[-1]), mode="nearest")
    return [to_bytes(patch) for patch in enlarged]


def _painted(view: Codes, stride: int, colours: Tensor, opacity: Tensor, *, dim: float) -> np.ndarray:
    """Colours (h, w, 3) with opacity (h, w, 1), 0 … 1, over the grey picture, which is dimmed by `dim`."""
    height, width = view.grey.shape
    grey = torch.from_numpy(view.grey)[None].float() / 255 * dim  # (1, H, W)
    colours, opacity = (
        each.expand(view.codes.h, view.codes.w, -1)
        .permute(2, 0, 1)
        .repeat_interleave(stride, 1)
        .repeat_interleave(stride, 2)[:, :height, :width]
        for each in (colours.float(), opacity.reshape(-1, 1, 1) if opacity.dim() == 0 else opacity)
    )
    return to_bytes(2 * (grey * (1 - opacity) + colours * opacity) - 1)
