"""The settings of an evaluation."""

from dataclasses import dataclass, field
from pathlib import Path

from scvae_fast._devices import find_device
from scvae_fast.errors import UsageError
from scvae_fast.models.speed import SpeedSettings

METRICS = ("psnr", "ssim", "lpips-alex", "lpips-vgg", "fid", "kid", "codes", "block-means")


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """Everything that defines an evaluation, apart from the model and the pictures.

    Args:
        metrics: names in `METRICS`.
        limit: largest number of pictures; None takes all.
        batch_size: pictures of one size in a batch.
        device: where the model and the networks of the metrics run.
        speed: how the model runs; the default is float32 without any changes.
        weights: a folder with weights of the metrics' networks, searched before the folder of torch.hub.
        download: whether to download missing weights.
        value_bits: bits charged for a value of a code, see `CodeSparsity`.
        extremes: number of the best and of the worst reconstructions to keep.

    Raises:
        ValueError: an argument is out of its range; the message names it.

    Example:
        >>> from scvae_fast.evaluation import EvaluationSettings
        >>> EvaluationSettings(metrics=("psnr", "codes"), batch_size=4).metrics
        ('psnr', 'codes')
    """

    metrics: tuple[str, ...] = METRICS
    limit: int | None = None
    batch_size: int = 16
    device: str = "cpu"
    speed: SpeedSettings = field(default_factory=SpeedSettings)
    weights: Path | None = None
    download: bool = False
    value_bits: float = 16
    extremes: int = 4

    def __post_init__(self) -> None:
        unknown = [name for name in self.metrics if name not in METRICS]
        _require(bool(self.metrics) and not unknown, "metrics", f"names out of {', '.join(METRICS)}", self.metrics)
        _require(self.limit is None or self.limit > 0, "limit", "positive", self.limit)
        _require(self.batch_size > 0, "batch_size", "positive", self.batch_size)
        _require(0 <= self.value_bits < float("inf"), "value_bits", "a number, 0 or more", self.value_bits)
        _require(self.extremes >= 0, "extremes", "0 or more", self.extremes)
        _require(_usable(self.device), "device", "cpu, or a cuda device of this machine", self.device)


def _usable(device: str) -> bool:
    try:
        find_device(device)
    except UsageError:
        return False
    return True


def _require(condition: bool, name: str, expected: str, value: object) -> None:
    if not condition:
        raise ValueError(f"EvaluationSettings: {name} must be {expected}, got {value!r}")
