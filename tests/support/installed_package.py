"""Checks an installed wheel with only torch and numpy: import, a layer, `scvae-fast doctor`, training steps.

With `--without-compiler` it also fails if there is a compiler on PATH.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import torch

import scvae_fast
from scvae_fast import LISTA, SCVAE, SCVAEConfig
from scvae_fast.models.loss import scvae_loss

REPOSITORY = Path(__file__).resolve().parents[2]
COMPILERS = ("cc", "c++", "gcc", "g++", "clang", "clang++", "nvcc")


def check_where_it_is() -> None:
    assert REPOSITORY / "scvae_fast" not in Path(scvae_fast.__file__).parents, scvae_fast.__file__
    assert scvae_fast.backends()["cpu"] is None, scvae_fast.backends()


def check_layer() -> None:
    layer, x = LISTA(6, 9, 3), torch.randn(4, 6)
    b = x @ layer.W_e.T
    expected = scvae_fast.lista(b, layer.S, layer.theta, 3, backend="eager")
    z = layer(x)
    torch.testing.assert_close(z, expected)
    z.sum().backward()
    assert layer.S.grad.abs().sum() > 0


def check_training() -> None:
    """Ten steps of Adam on a small SC-VAE make its loss smaller."""
    widths = {"resolution": 16, "ch": 8, "ch_mult": (1, 2), "num_res_blocks": 1, "attn_levels": (), "norm_groups": 4}
    model = SCVAE(SCVAEConfig(n_features=16, n_atoms=24, n_iter=3, lmbda=0.05, **widths))
    optimiser = torch.optim.Adam(model.parameters(), 1e-3)
    pictures = torch.rand(2, 3, 16, 16) * 2 - 1
    losses = []
    for _ in range(10):
        loss = scvae_loss(pictures, model(pictures), lmbda=0.05).total
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0], losses


def check_doctor() -> None:
    # Not in the source tree, which Python would import before the installed package.
    command = [sys.executable, "-m", "scvae_fast", "doctor"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=sys.prefix)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "can be used" in done.stdout, done.stdout


def check_one_openmp() -> None:
    """Torch's runtime must be the only one; only Linux lists the libraries of a process."""
    maps = Path("/proc/self/maps")
    if maps.exists():
        loaded = {line.split()[-1] for line in maps.read_text().splitlines() if "libgomp" in line}
        assert [Path(torch.__file__).parent in Path(name).parents for name in loaded] == [True], loaded


if __name__ == "__main__":
    if "--without-compiler" in sys.argv[1:]:
        found = [name for name in COMPILERS if shutil.which(name)]
        assert not found, f"there is a compiler: {found}"
    torch.manual_seed(0)
    for check in (check_where_it_is, check_layer, check_training, check_doctor, check_one_openmp):
        check()
    print(f"scvae_fast {scvae_fast.__version__} works, Python {sys.version.split()[0]}, torch {torch.__version__}")
