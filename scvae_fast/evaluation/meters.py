"""The metrics of an evaluation, which all get the same batches."""

from collections.abc import Callable, Collection, Mapping
from typing import Any, Protocol

from torch import Tensor

from scvae_fast._shares import Processes
from scvae_fast.dictionaries import coherence
from scvae_fast.evaluation.rebuilding import Rebuilt
from scvae_fast.evaluation.settings import EvaluationSettings
from scvae_fast.metrics import CodeSparsity, CodeStatistics, PictureQuality, block_means, weights
from scvae_fast.metrics.inception import FEWEST_FOR_FID, FeatureDistances, InceptionFeatures
from scvae_fast.metrics.perceptual import BACKBONES, Net, PerceptualDistance, heads
from scvae_fast.metrics.weights import UnavailableError, WeightsFile
from scvae_fast.models import SCVAE


class Meter(Protocol):
    """Computes one or several metrics."""

    def update(self, rebuilt: Rebuilt) -> None:
        """Add a batch."""

    def sum_over(self, processes: Processes) -> None:
        """Combine with the results of the other processes; every process calls this once, at the end."""

    def figures(self, metric: str) -> dict[str, Any]:
        """The figures of a metric; `n`, the number of pictures behind them; `warnings`, if there are any.

        Raises:
            UnavailableError: the figures can't be computed; the message says why.
        """


class Meters:
    """All requested metrics. Those that can't be computed are known at once, with the reason.

    `unavailable` gives the reason by metric, `weights` the files of the metrics that need some.

    Args:
        settings: which metrics, and how.
        others: functions that make the meters for metrics that need more than pictures and reconstructions, by name.
        processes: the processes that evaluate together; if one can't compute a metric, it is unavailable in all.
    """

    def __init__(
        self,
        settings: EvaluationSettings,
        others: Mapping[str, Callable[[], Meter]] | None = None,
        processes: Processes | None = None,
    ) -> None:
        self.unavailable: dict[str, str] = {}
        self.weights: dict[str, list[WeightsFile]] = {}
        self.quality = QualityMeter("ssim" in settings.metrics)
        self._settings, self._others = settings, others or {}
        # PSNR also selects the pictures to show.
        self._by_metric: dict[str, Meter] = {"psnr": self.quality, "ssim": self.quality}
        for metric in settings.metrics:
            if metric not in self._by_metric:
                try:
                    self._add(metric)
                except UnavailableError as reason:
                    self.unavailable[metric] = str(reason)
        for lacking in (processes or Processes()).gather(self.unavailable):
            self.unavailable = lacking | self.unavailable
        for metric in self.unavailable:
            self._by_metric.pop(metric, None)
        self._meters = list({id(meter): meter for meter in self._by_metric.values()}.values())

    def _add(self, metric: str) -> None:
        settings = self._settings
        if metric in ("lpips-alex", "lpips-vgg"):
            net: Net = "alex" if metric == "lpips-alex" else "vgg"
            backbone = weights.locate(BACKBONES[net], settings.weights, download=settings.download)
            self._by_metric[metric] = PerceptualMeter(PerceptualDistance(net, backbone.path, settings.device))
            self.weights[metric] = [backbone, heads(net)]
        elif metric in ("fid", "kid"):
            inception = weights.locate(weights.INCEPTION, settings.weights, download=settings.download)
            which = [name for name in settings.metrics if name in ("fid", "kid")]
            meter = SetsMeter(InceptionFeatures(inception.path).to(settings.device), which)
            self._by_metric |= dict.fromkeys(which, meter)
            self.weights |= {name: [inception] for name in which}
        else:
            self._by_metric[metric] = self._others[metric]()

    def update(self, rebuilt: Rebuilt) -> None:
        """Add a batch; a `CodesMeter` must have received its codes already."""
        for meter in self._meters:
            meter.update(rebuilt)

    def sum_over(self, processes: Processes) -> None:
        """Combine with the results of the other processes; afterwards the first one has the figures."""
        for meter in self._meters:
            meter.sum_over(processes)

    def figures(self) -> dict[str, dict[str, Any]]:
        """The figures of each available metric; afterwards `unavailable` has the others."""
        figures = {}
        for metric in self._settings.metrics:
            if metric in self.unavailable:
                continue
            try:
                figures[metric] = self._by_metric[metric].figures(metric)
            except UnavailableError as reason:
                self.unavailable[metric] = str(reason)
                continue
            for file in self.weights.get(metric, []):
                if not file.published:
                    _warn(
                        figures[metric],
                        f"{file.path} is not the published file: the figure is not comparable with published ones",
                    )
        return figures


class QualityMeter:
    """PSNR and SSIM; `psnr` holds the values of the last batch's pictures."""

    def __init__(self, structure: bool) -> None:
        self.psnr: list[float] = []
        self._quality = PictureQuality(rate_structure=structure)

    def update(self, rebuilt: Rebuilt) -> None:
        """Add a batch."""
        self.psnr = self._quality.update_batch(rebuilt.x_hat, rebuilt.x)["psnr"].tolist()

    def sum_over(self, processes: Processes) -> None:
        """See `Meter`."""
        self._quality.sum_over(processes)

    def figures(self, metric: str) -> dict[str, Any]:
        """See `Meter`."""
        quality = self._quality
        if metric == "psnr":
            return {"pooled": quality.psnr(), "mean": quality.mean_psnr(), "n": quality.n_pictures}
        return _mean(quality.ssim(), quality.n_structures, quality.n_pictures, 11)


class PerceptualMeter:
    """LPIPS with one network."""

    def __init__(self, distance: PerceptualDistance) -> None:
        self._distance = distance
        self._seen = 0

    def update(self, rebuilt: Rebuilt) -> None:
        """Add a batch."""
        self._seen += len(rebuilt.x)
        self._distance.update(rebuilt.x_hat, rebuilt.x)

    def sum_over(self, processes: Processes) -> None:
        """See `Meter`."""
        self._distance.sum_over(processes)
        self._seen = sum(processes.gather(self._seen))

    def figures(self, metric: str) -> dict[str, Any]:
        """See `Meter`."""
        return _mean(self._distance.mean, self._distance.rated, self._seen, self._distance.least_side)


class SetsMeter:
    """FID and KID, from features that are computed once."""

    def __init__(self, network: InceptionFeatures, which: Collection[str]) -> None:
        self._network = network
        self._distances = FeatureDistances(network.num_features, which)

    def update(self, rebuilt: Rebuilt) -> None:
        """Add a batch."""
        self._distances.update(self._network(rebuilt.x), self._network(rebuilt.x_hat), rebuilt.names)

    def sum_over(self, processes: Processes) -> None:
        """See `Meter`."""
        self._distances.sum_over(processes)

    def figures(self, metric: str) -> dict[str, Any]:
        """See `Meter`."""
        n = self._distances.n_pictures
        if metric == "kid":
            kid = {**self._distances.kid()._asdict(), "n": n}
            if self._distances.n_kept < n:
                _warn(kid, f"its subsets are drawn from {self._distances.n_kept} of the {n} pictures")
            return kid
        figures = {"value": self._distances.fid(), "n": n}
        if n < FEWEST_FOR_FID:
            _warn(
                figures,
                f"{n} pictures are fewer than {FEWEST_FOR_FID}: the estimate is strongly biased and not comparable",
            )
        return figures


class BlockMeansMeter:
    """PSNR and SSIM of block means, with as many blocks as codes, and with four times as many."""

    def __init__(self, stride: int) -> None:
        sizes = [size for size in (stride, stride // 2) if size > 1]
        if not sizes:
            raise UnavailableError(f"the model has a code for every {stride} x {stride} pixels, there are no blocks")
        self._quality = {size: PictureQuality() for size in sizes}

    def update(self, rebuilt: Rebuilt) -> None:
        """Add a batch."""
        for size, quality in self._quality.items():
            quality.update_batch(block_means(rebuilt.x, size), rebuilt.x)

    def sum_over(self, processes: Processes) -> None:
        """See `Meter`."""
        for quality in self._quality.values():
            quality.sum_over(processes)

    def figures(self, metric: str) -> dict[str, Any]:
        """See `Meter`."""
        rated = {f"{size}x{size}": {"psnr": q.psnr(), "ssim": q.ssim()} for size, q in self._quality.items()}
        return {**rated, "n": next(iter(self._quality.values())).n_pictures}


class CodesMeter:
    """All statistics of codes, and the coherence of the dictionary."""

    def __init__(self, model: SCVAE, value_bits: float) -> None:
        self._dictionary = model.bottleneck.dictionary
        self._usage = CodeStatistics(model.config.n_atoms)
        self._sparsity = CodeSparsity(model.config.n_atoms, value_bits)
        self._pictures = self._pixels = 0

    def take(self, codes: Tensor) -> None:  # (..., K)
        """Add codes."""
        self._usage.update(codes)
        self._sparsity.update(codes)

    def update(self, rebuilt: Rebuilt) -> None:
        """Count the pictures that the codes belong to."""
        self.count(len(rebuilt.x), len(rebuilt.x) * rebuilt.x[0, 0].numel())

    def count(self, pictures: int, pixels: int) -> None:
        """Count pictures and their pixels."""
        self._pictures += pictures
        self._pixels += pixels

    def sum_over(self, processes: Processes) -> None:
        """See `Meter`."""
        self._usage.sum_over(processes)
        self._sparsity.sum_over(processes)
        self._pictures, self._pixels = map(sum, zip(*processes.gather((self._pictures, self._pixels)), strict=True))

    def figures(self, metric: str) -> dict[str, Any]:
        """See `Meter`."""
        usage, sparsity = self._usage, self._sparsity
        return {
            "density": usage.density,
            "hoyer": sparsity.hoyer,
            "hoyer_of_all": sparsity.hoyer_of_all,
            "atoms": len(usage.usage),
            "atoms_in_use": usage.atoms_in_use,
            "dead_atoms": usage.dead_atoms,
            "usage_entropy": usage.usage_entropy,
            "usage_perplexity": usage.usage_perplexity,
            "coherence": coherence(self._dictionary),
            "bits_per_picture": sparsity.bits / self._pictures,
            "bits_per_pixel": sparsity.bits / self._pixels,
            "value_bits": sparsity.value_bits,
            "codes": usage.n_codes,
            "zero_codes": sparsity.zero_codes,
            "n": self._pictures,
        }


def _mean(mean: float, rated: int, seen: int, least_side: int) -> dict[str, Any]:
    if not rated:
        raise UnavailableError(f"needs pictures of at least {least_side} x {least_side} pixels, and there are none")
    figures = {"mean": mean, "n": rated}
    if rated < seen:
        _warn(figures, f"left out, for sides under {least_side} pixels: {seen - rated} of {seen} pictures")
    return figures


def _warn(figures: dict[str, Any], warning: str) -> None:
    figures.setdefault("warnings", []).append(warning)
