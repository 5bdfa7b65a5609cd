"""Work of several processes, for tests that compare it with a single process.

As a program it starts processes that are joined like torchrun's, but forked, because importing torch takes seconds.
"""

import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from scipy import sparse

from scvae_fast import cli
from scvae_fast._shares import Processes, Share, joined
from scvae_fast.commands import cluster, decode, encode, evaluate  # noqa: F401  # before processes are forked
from scvae_fast.evaluation.meters import PerceptualMeter
from scvae_fast.evaluation.rebuilding import Rebuilt
from scvae_fast.metrics import inception
from scvae_fast.metrics.inception import FeatureDistances
from scvae_fast.metrics.perceptual import PerceptualDistance
from scvae_fast.tasks.clustering import KMeansSettings, fit_kmeans
from scvae_fast.tasks.clustering.quality import examples, rate
from scvae_fast.tasks.clustering.rows import SharedPieces


def distances(processes: Processes, n: int = 7) -> list[float]:
    """FID and KID of made-up features, each process with its share; KID sees five pictures at most."""
    with mock.patch.object(inception, "KID_PICTURES", 5):
        return _distances(processes, n)


def _distances(processes: Processes, n: int) -> list[float]:
    generator = torch.Generator().manual_seed(2)
    originals, rebuilt = torch.randn(2, n, 5, generator=generator)
    own = processes.share.of(n)
    found = FeatureDistances(5)
    for first in range(own.start, own.stop, 2):
        piece = slice(first, min(first + 2, own.stop))
        found.update(originals[piece], rebuilt[piece], [f"{number}.png" for number in range(piece.start, piece.stop)])
    found.sum_over(processes)
    return processes.on_first(lambda: [found.fid(), *found.kid(seed=3), found.n_pictures, found.n_kept])


class _Distance(torch.nn.Module):
    """Replaces LPIPS's network."""

    def forward(self, x_hat: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return (x_hat - x).abs().mean((1, 2, 3), keepdim=True)


def perceptual(processes: Processes, n: int = 5) -> list[float]:
    """Mean LPIPS, and the number of pictures; one of them is too small."""
    generator = torch.Generator().manual_seed(6)
    with mock.patch("scvae_fast.metrics.perceptual._network", return_value=_Distance()):
        meter = PerceptualMeter(PerceptualDistance("alex", Path("unused")))
    pictures = [torch.rand(2, 1, 3, 31 - (number == 2), 40, generator=generator) for number in range(n)]
    for number in processes.share.of(n):
        meter.update(Rebuilt([str(number)], *pictures[number], tiled=False))
    meter.sum_over(processes)
    return [meter.figures("lpips-alex")[name] for name in ("mean", "n")] + [len(meter.figures("")["warnings"])]


def clusters(processes: Processes) -> dict[str, Any]:
    """K-means over more made-up rows than the sample holds."""
    dice = np.random.default_rng(4)
    rows = sparse.csr_array(dice.normal(size=(230, 6)) * (dice.random((230, 6)) < 0.4))
    own = processes.share.of(230)
    pieces = SharedPieces(lambda: (rows[i : min(i + 30, own.stop)] for i in range(own.start, own.stop, 30)), processes)
    settings = KMeansSettings(scale="unit", sample=64, passes=3, tolerance=0, seed=1)
    fits = fit_kmeans(pieces, [2, 3], settings)
    return {
        "centres": [fit.centres.tolist() for fit in fits],
        "means": [fit.means.tolist() for fit in fits],
        "counts": [fit.counts.tolist() for fit in fits],
        "inertia": [fit.inertia for fit in fits],
        "quality": rate(pieces, fits, settings),
        "examples": [each.tolist() for each in examples(pieces, fits[1], settings, 4)],
    }


def _work(rank: int, size: int, commands: list[list[str]], ports: list[int], out: Path) -> None:
    os.environ.update({"RANK": str(rank), "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1"})
    for arguments, port in zip(commands, ports, strict=False):
        os.environ["MASTER_PORT"] = str(port)
        assert cli.main([each.replace("{N}", str(size)) for each in arguments]) == 0, arguments
    os.environ["MASTER_PORT"] = str(ports[-1])
    with joined() as processes:
        assert processes.share == Share(rank + 1, size)
        found = {"distances": distances(processes), "few": distances(processes, 2), "clusters": clusters(processes)}
        found["perceptual"] = perceptual(processes)
    if rank == 0:
        out.write_text(json.dumps(found), encoding="utf-8")


def _forked(rank: int, size: int, commands: list[list[str]], ports: list[int], out: Path) -> int:
    child = os.fork()
    if child:
        return child
    try:
        _work(rank, size, commands, ports, out)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    sys.stdout.flush()
    os._exit(0)


def _main(sizes: str, commands: str, ports: str, out: str) -> None:
    torch.set_num_threads(1)
    ports_of = json.loads(ports)
    for size in json.loads(sizes):
        own = [ports_of.pop() for _ in range(1 + len(json.loads(commands)))]
        children = [
            _forked(rank, size, json.loads(commands), own, Path(out, f"found-{size}.json")) for rank in range(size)
        ]
        assert [os.waitpid(child, 0)[1] for child in children] == [0] * size


if __name__ == "__main__":
    _main(*sys.argv[1:])
