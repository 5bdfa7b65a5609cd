"""Comparison of two commits: which changes count, which calls are refused, and the measuring processes."""

import argparse
import json

import pytest

from benchmarks import against, environment, timing
from benchmarks.against import AgainstError
from benchmarks.cases import BOTH, FORWARD, Case, LassoCase

pytestmark = pytest.mark.slow

SMALL = Case("lista", FORWARD, rows=8, n_iter=1, atoms=128)


def chosen(*members, ref="HEAD"):
    return argparse.Namespace(groups={"one": list(members)}, against=ref, device="cpu")


@pytest.mark.parametrize(
    ("ratios", "expected"),
    [
        ((1.01, 1.1, 1.2), "faster"),
        ((0.99, 1.1, 1.2), "noise"),  # a fifth of the rounds say the opposite
        ((1.005, 1.02, 1.03), "noise"),  # too little to matter
        ((0.8, 0.9, 0.99), "slower"),
        ((0.8, 0.9, 1.01), "noise"),
        ((0.97, 0.98, 0.99), "noise"),
    ],
)
def test_a_change_is_clear_or_noise(ratios, expected):
    assert against.verdict(*ratios) == expected


def test_quantiles():
    assert timing.spread([float(i) for i in range(11)]) == (2.0, 5.0, 8.0)


@pytest.mark.skipif(environment.commit() is None, reason="not a git checkout")
def test_compares_a_tree_with_itself(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(against, "installed", lambda commit, aside, device: environment.ROOT)
    monkeypatch.setattr(against, "ROUNDS", 3)
    monkeypatch.setattr(against, "verdict", lambda *ratios: "slower")
    assert against.compare(chosen(SMALL, SMALL._replace(direction=BOTH)), tmp_path) == 1
    found = json.loads((tmp_path / against.FILE).read_text())
    assert [result["name"] for result in found["cases"]] == [SMALL.name, SMALL._replace(direction=BOTH).name]
    for result in found["cases"]:
        assert len(result["samples"]) == 3
        assert all(sample["ours"] > 0 and sample["theirs"] > 0 for sample in result["samples"])
    printed = capsys.readouterr().out
    assert printed.count("SLOWER") == 2
    assert "2 of 2 changed beyond the noise, 2 of them slower" in printed


def test_needs_a_commit_and_an_operation(tmp_path):
    with pytest.raises(AgainstError, match="--against: no commit 'nowhere'"):
        against.compare(chosen(SMALL, ref="nowhere"), tmp_path)
    with pytest.raises(AgainstError, match="no chosen case is one of"):
        against.compare(chosen(LassoCase()), tmp_path)


def test_a_process_that_measures_something_else_or_dies_is_noticed(tmp_path):
    arguments = chosen(SMALL)
    with (
        pytest.raises(AgainstError, match=", not /"),
        against.worker([tmp_path], arguments),  # no package there: it finds this tree's
    ):
        pass
    with against.worker([], arguments) as one, pytest.raises(AgainstError, match="ended with status 1"):
        one.ask("prepare", {"colour": "red"})
