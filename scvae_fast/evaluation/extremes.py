"""The best and the worst reconstructions, for figures."""

from typing import NamedTuple

from torch import Tensor

from scvae_fast._shares import Processes
from scvae_fast.evaluation.rebuilding import Rebuilt


class Shown(NamedTuple):
    """A picture, its reconstruction, and its PSNR in dB."""

    name: str
    psnr: float
    x: Tensor  # (3, H, W)
    x_hat: Tensor  # (3, H, W)


class Extremes:
    """Keeps the reconstructions with the highest and the lowest PSNR, and no others.

    Args:
        count: number of each.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self.best: list[Shown] = []  # highest PSNR first
        self.worst: list[Shown] = []  # lowest PSNR first

    def update(self, rebuilt: Rebuilt, psnr: list[float]) -> None:
        """Consider a batch, given the PSNR of each of its pictures."""
        for i, name in enumerate(rebuilt.names):
            shown = Shown(name, psnr[i], rebuilt.x[i], rebuilt.x_hat[i])
            self.best = self._insert(self.best, shown, -1)
            self.worst = self._insert(self.worst, shown, 1)

    def gather(self, processes: Processes) -> None:
        """Combine the pictures kept by all processes, on the first one."""
        for other in processes.gather_on_first((self.best, self.worst))[1:]:
            for shown in other[0]:
                self.best = self._insert(self.best, shown, -1)
            for shown in other[1]:
                self.worst = self._insert(self.worst, shown, 1)

    def _insert(self, kept: list[Shown], shown: Shown, sign: int) -> list[Shown]:
        ordered = sorted([*kept, shown], key=lambda each: sign * each.psnr)[: self._count]
        # Copies, because a view would keep its whole batch in memory.
        return [_copied(each) if each is shown else each for each in ordered]


def _copied(shown: Shown) -> Shown:
    return shown._replace(x=shown.x.cpu().clone(), x_hat=shown.x_hat.cpu().clone())
