"""The scripts in examples/ run, and their results agree with the documentation."""

import re
import runpy
import sys
from pathlib import Path

import pytest
import torch

from examples import patches, task_driven, unrolled

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


@pytest.mark.slow
def test_unrolled_writes_its_page(tmp_path):
    few = ["--method", "ALISTA", "--method", "LISTA-CPSS"]
    unrolled.main(["--out", str(tmp_path), "--steps", "1", "--seconds", "0.01", *few])
    page = (tmp_path / "unrolled.md").read_text(encoding="utf-8")
    pictures = re.findall(r"\]\((images/[^)]+)\)", page)
    assert len(pictures) == 3
    assert all((tmp_path / picture).stat().st_size > 10_000 for picture in pictures)
    for name in ("ISTA", "FISTA", "ALISTA", "LISTA-CPSS", "LISTACP", "TiLISTA", "SLISTA"):
        assert re.search(rf"^\| {name} +\|", page, re.MULTILINE), name


def test_a_network_of_the_example_is_its_layer():
    """Leaf by leaf, and iteration by iteration, it gives what the layer gives."""
    problem = unrolled.Problem()
    x, _ = problem.draw(5)
    for network in unrolled.networks(problem.D):
        if network.selects:
            continue
        with torch.no_grad():
            z, expected, with_a_layer_less = network(x, unrolled.T), network.layer(x), network(x, unrolled.T - 1)
        assert unrolled.nmse(z, expected) < -100
        assert unrolled.nmse(with_a_layer_less, expected) > -60


@pytest.mark.slow
def test_sparse_autoencoder(monkeypatch, capsys):
    """Over the true dictionary, iterations lower the error with no more codes, and find more of the true support."""
    settings = ["--features", "32", "--active", "4", "--steps", "60"]
    monkeypatch.setattr(sys, "argv", ["sparse_autoencoder.py", *settings])
    runpy.run_path(str(EXAMPLES / "sparse_autoencoder.py"), run_name="__main__")
    printed = capsys.readouterr().out
    tables = printed.split("Learned dictionary")
    assert len(tables) == 2
    for table in tables:
        rows = re.findall(r"^\| (.*?) \| (\S+) \| (\S+) \| (\S+)% \| (\S+)% \|", table, re.MULTILINE)
        ratings = {T: [*map(float, figures)] for T, *figures in rows}
        assert [T for T in ratings if T.isdigit()] == ["0", "1", "2", "4", "8", "16", "32", "64"]
        if table is tables[0]:
            (error, codes, found, _), (error_of_64, codes_of_64, found_of_64, _) = ratings["0"], ratings["64"]
            assert error_of_64 < 0.9 * error
            assert codes_of_64 <= codes
            assert found_of_64 > found + 5
            assert ratings["8, trained"][0] < ratings["8"][0]


@pytest.mark.slow
def test_task_driven(capsys):
    """A dictionary that learns the task classifies no worse than one that is kept; iterations keep more memory."""
    task_driven.main(["--atoms", "48", "--epochs", "12", "--seeds", "1"])
    rows = re.findall(r"^\| (.*?) \| (\S+)% \| .*? \| \S+ \| (\S+) \|$", capsys.readouterr().out, re.MULTILINE)
    found = {name: (float(accuracy), float(kept)) for name, accuracy, kept in rows}
    assert list(found) == ["lasso, D kept", "lasso", "LISTA, T = 5", "LISTA, T = 16", "LISTA, T = 30"]
    assert found["lasso"][0] > 90
    assert found["lasso"][0] >= found["lasso, D kept"][0] - 1
    assert found["lasso"][1] < found["LISTA, T = 5"][1] < found["LISTA, T = 30"][1]


def test_patches_prints_its_table_and_draws(tmp_path, capsys):
    """The optimum is the sparsest code and rebuilds best; LISTA comes closer to it than as many iterations of ISTA."""
    patches.main(["--out", str(tmp_path), "--crops", "6", "--epochs", "4"])
    rows = re.findall(
        r"^\| (.+?) +\| +([\d.]+) \| +([\d.]+) % \| ([\d.]+) dB \|$", capsys.readouterr().out, re.MULTILINE
    )
    assert len(rows) == 12
    for i in range(0, 12, 3):
        (lasso, alpha, *optimum), (lista, its_alpha, *learned), (ista, _, *plain) = rows[i : i + 3]
        assert (lasso.partition(",")[0], lista.partition(",")[0], ista.partition(",")[0]) == ("lasso", "LISTA", "ISTA")
        assert alpha == its_alpha
        assert float(optimum[0]) < float(learned[0]) < float(plain[0])
        assert float(optimum[1]) > float(plain[1])
    assert (tmp_path / "patches.png").stat().st_size > 10_000
