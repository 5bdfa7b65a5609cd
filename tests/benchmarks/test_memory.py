"""Memory that autograd keeps, and that a call adds at its peak."""

import json
import mmap
import sys

import pytest
import torch

from benchmarks import environment, memory, problems, rivals
from benchmarks.cases import BOTH, Case, MemoryCase
from benchmarks.memory import Kept, kept_for_backward
from benchmarks.rivals import CLEAN, RELEASED
from scvae_fast.ops import operations

pytestmark = pytest.mark.slow

MIB = 2**20


def test_storages_count_once_and_by_their_kind():
    x, w = torch.randn(8, 4, requires_grad=True), torch.randn(4, 6, requires_grad=True)
    # matmul keeps x and w (twice), relu its result, the square the same one
    kept = kept_for_backward(lambda: ((x @ w).relu().square(), x[:2] @ w), {"x": x, "w": w})
    assert kept == Kept(made=8 * 6 * 4, given=8 * 4 * 4 + 4 * 6 * 4)


def test_our_kernels_keep_the_codes_alone_and_eager_every_iterate(monkeypatch):
    monkeypatch.setattr(operations, "MOST_KEPT", 0)  # iterates of small calls are kept
    codes = 16 * 128 * 4
    for n_iter in (1, 3):
        case = Case("sparse_code", BOTH, rows=16, n_iter=n_iter, atoms=128)
        entered = rivals.entrants(case, problems.problem(case))
        kept = {name: kept_for_backward(one.results, one.leaves).made for name, one in entered.items()}
        assert kept["cpu"] <= codes + 8
        assert kept[CLEAN] >= (n_iter + 1) * codes
        assert kept[RELEASED] > 3 * n_iter * codes


def test_peak_counts_what_is_freed_again():
    def call():
        for size in (64, 48):  # past the allocator, which may still hold what other tests gave back
            with mmap.mmap(-1, size * MIB) as block:
                for page in range(0, len(block), mmap.PAGESIZE):
                    block[page] = 1

    assert 60 < memory.resident_at_peak(call) / MIB < 80


def test_peak_needs_linux(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(memory.NoCountError, match="memory: needs Linux's /proc/self/status, this is darwin"):
        memory.resident_at_peak(lambda: None)


def test_elsewhere_the_case_is_left_out(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    found = memory.measure(MemoryCase("lista", rows=64, n_iter=1))
    assert found == {"left out": {"everyone": "resident memory is counted only on Linux, this is darwin"}}


def test_a_contestant_alone_prints_what_it_needs():
    threads = str(torch.get_num_threads())
    words = ["--op", "lista", "--rows", "1024", "--n-iter", "1", "--threads", threads, "--contestant", "cpu"]
    # A fresh process: this one holds what other tests gave back.
    found = json.loads(environment.start("benchmarks.memory", words, memory.EXACT, capture=True).stdout)
    assert found["made"] == 2 * MIB  # the codes
    # The codes, the gradient of the drive and the one that is given, at 2 MiB each, are made at least.
    assert found["peak"] > 5.5 * MIB


def test_every_contestant_has_a_process_of_its_own():
    found = memory.measure(MemoryCase("lista", rows=64, n_iter=1))
    assert set(found["memory"]) == {RELEASED, CLEAN, "cpu"}
    assert all(line["made"] > 0 and line["peak"] >= 0 for line in found["memory"].values())
    assert found["chosen"] == "cpu"
