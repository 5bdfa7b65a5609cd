"""FID and KID: distances between the sets of originals and reconstructions, in the features of Inception v3."""

import hashlib
import warnings
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from scvae_fast import _torchvision
from scvae_fast._extras import extra
from scvae_fast._shares import Processes
from scvae_fast.metrics import weights
from scvae_fast.metrics._sums import computed, sync

_torchvision.make_importable()
with extra("scvae_fast.metrics", "torchmetrics"):
    from torchmetrics.image import FrechetInceptionDistance, KernelInceptionDistance

N_FEATURES = 2048
# With fewer pictures than features, no covariance has full rank, and the bias of FID is large.
FEWEST_FOR_FID = N_FEATURES
KID_SUBSETS = 100
KID_SUBSET_SIZE = 1000
# Largest number of pictures from which subsets are drawn: 0.8 GB of features, twice that for a moment.
KID_PICTURES = 50_000


class InceptionFeatures(nn.Module):
    """The 2048 features of the last pooling of Inception v3, as torch-fidelity computes them.

    Pictures are rounded to 8 bits and stretched to 299 x 299 bilinearly as in TensorFlow 1, without antialiasing, as
    for published FIDs. The network runs in float32.

    Args:
        path: the weights, see `weights.INCEPTION`.

    Raises:
        UnavailableError: torch-fidelity is not installed, or the file does not hold such weights.
    """

    num_features = N_FEATURES

    def __init__(self, path: Path) -> None:
        super().__init__()
        try:
            from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
        except ImportError as error:
            raise weights.UnavailableError('needs torch-fidelity: pip install "scvae_fast[train]"') from error
        weights.load(path)  # torch-fidelity would run code that a file contains; this refuses such a file
        try:
            self.network = FeatureExtractorInceptionV3(
                "inception-v3-compat", [str(N_FEATURES)], feature_extractor_weights_path=str(path)
            )
        except RuntimeError as error:
            raise weights.UnavailableError(
                f"{path} holds no weights of Inception v3: {weights.brief(error)}"
            ) from error

    @torch.no_grad()
    def forward(self, pictures: Tensor) -> Tensor:  # (B, 3, H, W) in −1 … 1 -> (B, 2048)
        """Features of pictures; values beyond −1 … 1 are clipped."""
        levels = ((pictures.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
        features: Tensor = self.network(levels)[0]
        return features


class KernelDistance(NamedTuple):
    """KID, and the spread over its subsets."""

    mean: float
    std: float  # standard deviation between the subsets
    subsets: int
    subset_size: int


class FeatureDistances:
    """FID and KID of features, accumulated over updates; both use the same features.

    FID keeps sums in float64. KID needs the features themselves, 16 KiB per picture and its reconstruction; it keeps
    those of at most `KID_PICTURES` pictures, selected by digests of their names.

    Sources: M. Heusel et al., "GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium",
    NeurIPS 2017; M. Bińkowski et al., "Demystifying MMD GANs", ICLR 2018.

    Args:
        n_features: length of a feature vector.
        which: what to compute, "fid", "kid" or both.
    """

    def __init__(self, n_features: int = N_FEATURES, which: Collection[str] = ("fid", "kid")) -> None:
        self.n_pictures = self.n_kept = 0  # pictures, and those of them that KID uses
        self._keys: list[np.ndarray] = []
        given = _Given(n_features)
        self._metrics: dict[str, Any] = {}
        if "fid" in which:
            fid = FrechetInceptionDistance(feature=given, sync_on_compute=False).set_dtype(torch.float64)
            fid.orig_dtype = torch.float64  # set by `update`, which a process without pictures never calls
            self._metrics["fid"] = fid
        if "kid" in which:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Metric `Kernel Inception Distance` will save all")
                self._metrics["kid"] = KernelInceptionDistance(
                    feature=given, subsets=KID_SUBSETS, sync_on_compute=False
                )

    def update(self, originals: Tensor, rebuilt: Tensor, names: Sequence[str] | None = None) -> None:
        """Add the features (B, n_features) of pictures and their reconstructions; names are for KID's selection."""
        self.n_pictures += len(originals)
        self.n_kept += len(originals)
        for name, metric in self._metrics.items():
            for features, real in ((originals, True), (rebuilt, False)):
                metric.update(features.double().cpu() if name == "fid" else features.float().cpu(), real=real)
        if "kid" in self._metrics:
            named = names or [str(number) for number in range(self.n_pictures - len(originals), self.n_pictures)]
            self._keys.append(_keys(named))
            if self.n_kept >= 2 * KID_PICTURES:
                self._keep(self._last_key(self._keys))

    def sum_over(self, processes: Processes) -> None:
        """Combine with the results of the other processes; all call it once, at the end.

        The first process gets all of KID's features, in the order of the processes, and can compute the distances.
        """
        if "fid" in self._metrics:
            sync(self._metrics["fid"], processes)
        if "kid" in self._metrics and not processes.alone:
            kid = self._metrics["kid"]
            self._keep(self._last_key(processes.gather(np.concatenate([np.empty(0, np.uint64), *self._keys]))))
            self._keys = processes.gather(np.concatenate([np.empty(0, np.uint64), *self._keys]))
            for features in (kid.real_features, kid.fake_features):
                gathered = processes.gather_on_first([each.numpy() for each in features])
                features[:] = [torch.from_numpy(each) for part in gathered for each in part]
        self.n_pictures, self.n_kept = processes.sum(torch.tensor([self.n_pictures, self.n_kept])).tolist()

    def fid(self) -> float:
        """Fréchet distance ‖μ − μ'‖² + tr(Σ + Σ' − 2 (Σ Σ')^½) of the two sets, in float64.

        Raises:
            UnavailableError: there are fewer than two pictures.
        """
        self._require_two()
        return computed(self._metrics["fid"])

    def kid(self, seed: int = 0) -> KernelDistance:
        """Squared maximum mean discrepancy with the kernel (⟨a, b⟩ / d + 1)³, unbiased, in float64.

        Averaged over 100 random subsets of 1000 pictures; with fewer pictures, all are used, and nothing is random.

        Args:
            seed: of the subsets; the state of the global generator is restored.

        Raises:
            UnavailableError: there are fewer than two pictures.
        """
        self._require_two()
        metric = self._metrics["kid"].set_dtype(torch.float64)
        self._keep(self._last_key(self._keys))
        metric.subset_size = min(KID_SUBSET_SIZE, self.n_kept)
        metric.subsets = 1 if metric.subset_size == self.n_kept else KID_SUBSETS
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # only that of the CPU, which torchmetrics uses
            mean, std = metric.compute()
        return KernelDistance(float(mean), float(std), metric.subsets, metric.subset_size)

    def _last_key(self, keys: list[np.ndarray]) -> int | None:
        """The largest key that is kept; None if all are."""
        together = np.concatenate(keys)
        return int(np.partition(together, KID_PICTURES - 1)[KID_PICTURES - 1]) if len(together) > KID_PICTURES else None

    def _keep(self, last: int | None) -> None:
        """Discard the features of pictures with larger keys."""
        if last is None:
            return
        keys, kid = np.concatenate([np.empty(0, np.uint64), *self._keys]), self._metrics["kid"]
        kept = torch.from_numpy(keys <= np.uint64(last))
        for features in (kid.real_features, kid.fake_features):
            features[:] = [torch.cat(features)[kept]] if features else []
        self._keys, self.n_kept = [keys[kept.numpy()]], int(kept.sum())

    def _require_two(self) -> None:
        if self.n_pictures < 2:
            raise weights.UnavailableError(f"needs at least two pictures, got {self.n_pictures}")


def _keys(names: Sequence[str]) -> np.ndarray:  # -> (B,) uint64
    digests = (hashlib.blake2b(name.encode(errors="surrogateescape"), digest_size=8).digest() for name in names)
    return np.frombuffer(b"".join(digests), np.uint64)


class _Given(nn.Module):
    """Replaces the network of torchmetrics: features are computed once, for both metrics."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features
