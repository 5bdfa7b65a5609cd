"""What autograd keeps, and what a call adds at its peak."""

import json
import mmap
import sys

import pytest
import torch

from benchmarks import memory, resident
from benchmarks.kept import Kept, kept_for_backward


def test_storages_count_once_and_by_their_kind():
    x, w = torch.randn(8, 4, requires_grad=True), torch.randn(4, 6, requires_grad=True)
    # matmul keeps x and w (twice), relu its result, the square the same one
    kept = kept_for_backward(lambda: ((x @ w).relu().square(), x[:2] @ w), {"x": x, "w": w}, data="x")
    assert kept == Kept(made=8 * 6 * 4, input=8 * 4 * 4, parameters=4 * 6 * 4)


def test_cpu_keeps_the_codes_alone_and_eager_every_iterate():
    codes = 16 * 512 * 4
    for n_iter in (1, 3):
        assert memory.kept("lista", "cpu", 16, n_iter) == Kept(codes, codes, (512 * 512 + 1) * 4)
        assert memory.kept("sparse_code", "cpu", 16, n_iter).made == codes
        assert memory.kept("sparse_code", "released formula", 16, n_iter).made > 3 * n_iter * codes


def test_peak_counts_what_is_freed_again():
    def call():
        for size in (64, 48):  # past the allocator, which may still hold what other tests gave back
            with mmap.mmap(-1, size * memory.MIB) as block:
                for page in range(0, len(block), mmap.PAGESIZE):
                    block[page] = 1

    assert 60 < resident.added_at_peak(call) / memory.MIB < 80


def test_peak_needs_linux(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(resident.NoCountError, match="resident: needs Linux's /proc/self/status, this is darwin"):
        resident.added_at_peak(lambda: None)


def test_prints_and_writes_a_line_for_each_number_of_iterations(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(memory, "subjects", lambda: [("lista", "cpu")])
    words = ["--rows", "1024", "--n-iter", "1", "--threads", "1", "--json", str(tmp_path / "out.json")]
    threads = torch.get_num_threads()
    assert memory.main(words) == 0
    torch.set_num_threads(threads)
    (result,) = json.loads((tmp_path / "out.json").read_text())["results"]
    assert result["kept"]["made"] == 2 * memory.MIB
    # The codes, the gradient of the drive and the one that is given, at 2 MiB each, are made at least.
    assert result["added at peak"] > 5.5 * memory.MIB
    assert "lista, cpu" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--rows", "0"], "--rows and --threads must be at least 1"),
        (["--n-iter", "-1"], "--n-iter at least 0"),
        (["--peak-of", "lista", "nobody", "--n-iter", "5"], "an operation and a contestant of [('lista', "),
        (["--peak-of", "lista", "cpu"], "--peak-of takes one --n-iter"),
    ],
)
def test_bad_words_are_refused(words, message, capsys):
    with pytest.raises(SystemExit):
        memory.main(words)
    assert message in capsys.readouterr().err
