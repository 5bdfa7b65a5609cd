"""The examples run, on little data, and write what they promise."""

import re

import pytest
import torch

from examples import unrolled


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
