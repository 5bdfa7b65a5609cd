"""Copies, other processes and threads, and training that is spread over processes."""

import concurrent.futures
import copy
import os
import pickle
import sys
import threading

import pytest
import torch
from processes import run

from scvae_fast import (
    ALISTA,
    LISTA,
    LISTACP,
    SLISTA,
    DictionaryLISTA,
    SparseAutoencoder,
    TiLISTA,
    dictionaries,
)
from transforms.subjects import SUBJECTS, assert_same, in_float64, weighted_sum

pytestmark = pytest.mark.processes

N, K, T = 8, 12, 3


def layers():
    """One of each kind, in eval mode, after a call that may have filled its cache."""
    torch.manual_seed(0)
    made = [
        LISTA(N, K, T),
        SparseAutoencoder(N, K, T, k=5),
        DictionaryLISTA(dictionaries.random_unit(N, K), T, 0.1),
        DictionaryLISTA(dictionaries.random_unit(N, K), T, 0.1, "official", inhibition_dtype=torch.bfloat16),
        LISTA(N, K, T, per_iteration="all"),
        *(
            make(dictionaries.random_unit(N, K), T, learn_dictionary=True)
            for make in (LISTACP, TiLISTA, ALISTA, SLISTA)
        ),
    ]
    with torch.no_grad():
        for layer in made:
            layer.eval()(torch.randn(70, N))
    return made


def codes(layer, x):
    with torch.no_grad():
        results = layer(x)
    return results[0] if isinstance(results, tuple) else results


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies(duplicate):
    x = torch.randn(70, N)
    for layer in layers():
        other = duplicate(layer)
        assert torch.equal(codes(other, x), codes(layer, x))
        with torch.no_grad():
            next(other.parameters()).data.mul_(0.5)
        assert torch.equal(codes(other, x), codes(copy.deepcopy(other), x))
        assert torch.equal(codes(layer, x), codes(copy.deepcopy(layer), x))


def test_whole_layers_in_a_file(tmp_path):
    x = torch.randn(70, N)
    for layer in layers():
        torch.save(layer, tmp_path / "layer.pt")
        assert torch.equal(codes(torch.load(tmp_path / "layer.pt", weights_only=False), x), codes(layer, x))


def _code(layer, x, results):
    torch.set_num_threads(1)
    results.put(codes(layer, x).numpy())


def test_spawned_process():
    context = torch.multiprocessing.get_context("spawn")
    x = torch.randn(70, N)
    for layer in layers()[:3]:
        results = context.SimpleQueue()
        process = context.Process(target=_code, args=(layer, x, results))
        process.start()
        found = results.get()
        process.join(120)
        assert process.exitcode == 0
        torch.testing.assert_close(torch.from_numpy(found), codes(layer, x))


FORK = """
import os, sys, threading, torch, scvae_fast
from scvae_fast import DictionaryLISTA, LISTA, SparseAutoencoder, dictionaries
torch.set_num_threads(2)
x, b, S = torch.randn(4096, 64), torch.randn(4096, 64), 0.05 * torch.randn(64, 64)
layers = [
    DictionaryLISTA(dictionaries.random_unit(64, 96), 3, 0.1), LISTA(64, 96, 3), SparseAutoencoder(64, 96, 3, k=20)
]
def work():
    results = [scvae_fast.lista(b, S, 0.1, 3, backend="cpu"), x @ x.T]
    for layer in layers:
        z = layer(x)
        z = z[0] if isinstance(z, tuple) else z
        z.sum().backward()
        results += [z.detach()] + [p.grad.clone() for p in layer.parameters()]
        layer.zero_grad()
    return results
expected = work()
def child():
    return all(torch.equal(a, b) for a, b in zip(work(), expected))
def forked():
    pid = os.fork()
    if pid == 0:
        ok = False
        try:
            ok = child()
        finally:
            os._exit(0 if ok else 1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
codes = [forked(), forked()]
thread = threading.Thread(target=lambda: codes.append(forked()))
work()
thread.start(); thread.join()
print(codes, child(), torch.get_num_threads())
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")
def test_forked_process():
    """A process that ran on several threads, and its children, from its main thread and from another one."""
    assert run(sys.executable, "-W", "ignore", "-c", FORK, timeout=120).split("\n")[0] == "[0, 0, 0] True 2"


def test_two_threads_at_once():
    """Each with its own grad mode and its own gradients, on the same layers."""
    made = layers()
    inputs = [torch.randn(70, N) for _ in range(2)]
    expected = [[codes(layer, x) for layer in made] for x in inputs]
    failures = []

    def work(own):
        try:
            for _ in range(30):
                for layer, z in zip(made, expected[own], strict=True):
                    assert torch.equal(codes(layer, inputs[own]), z)
                    x = inputs[own].clone().requires_grad_(own == 1)
                    results = layer(x)
                    loss = (results[0] if isinstance(results, tuple) else results).sum()
                    torch.autograd.grad(loss, next(layer.parameters()))
        except BaseException as error:
            failures.append(error)
            raise

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_forward_mode_in_one_thread_only():
    name = next(n for n in SUBJECTS if n.startswith("sparse_code"))
    subject = SUBJECTS[name]
    tensors, exact = subject.tensors(), in_float64(subject.tensors())
    inside, outside = threading.Event(), threading.Event()
    found = []

    def differentiate():
        with torch.autograd.forward_ad.dual_level():
            inside.set()
            outside.wait(60)

    thread = threading.Thread(target=differentiate)
    thread.start()
    inside.wait(60)
    leaves = {n: t.requires_grad_() for n, t in tensors.items()}
    found = torch.autograd.grad(weighted_sum(subject.call(**leaves)), list(leaves.values()))
    outside.set()
    thread.join()
    leaves = {n: t.requires_grad_() for n, t in exact.items()}
    assert_same(found, torch.autograd.grad(weighted_sum(subject.plain(**leaves)), list(leaves.values())))


def test_data_parallel():
    """Without GPUs it calls the layer itself."""
    x = torch.randn(70, N)
    for layer in layers():
        assert torch.equal(codes(torch.nn.DataParallel(layer), x), codes(layer, x))


SPREAD = """
import copy, os, sys, torch, torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from scvae_fast import DictionaryLISTA, LISTA, SparseAutoencoder, dictionaries
kind, store, rank, size = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size)
torch.manual_seed(0)
x = torch.randn(8, 8)
for make in (
    lambda: DictionaryLISTA(dictionaries.random_unit(8, 12), 3, 0.1, c=20.0),
    lambda: LISTA(8, 12, 3),
    lambda: SparseAutoencoder(8, 12, 3),
):
    torch.manual_seed(1)
    alone = torch.nn.Sequential(torch.nn.Linear(8, 8), make())
    spread = copy.deepcopy(alone)
    if kind == "ddp":
        wrapped = DistributedDataParallel(spread)
    elif kind == "fsdp":
        from torch.distributed.fsdp import FullyShardedDataParallel
        wrapped = FullyShardedDataParallel(spread, device_id=torch.device("cpu"), use_orig_params=True)
    else:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard
        mesh = init_device_mesh("cpu", (size,))
        fully_shard(spread[1], mesh=mesh)
        wrapped = fully_shard(spread, mesh=mesh)
    def codes(model, x):
        z = model(x)
        return z[0] if isinstance(z, tuple) else z
    def loss(model, x):
        return (codes(model, x) - 0.1).square().sum(1).mean()
    optimizers = [torch.optim.AdamW(m.parameters(), lr=0.05) for m in (alone, wrapped)]
    mine = x[rank::size]
    for step in range(3):
        for model, optimizer, given in ((alone, optimizers[0], x), (wrapped, optimizers[1], mine)):
            model.train()
            optimizer.zero_grad()
            loss(model, given).backward()
            optimizer.step()
            model.eval()
        with torch.no_grad():
            torch.testing.assert_close(codes(wrapped, mine), codes(alone, mine), rtol=1e-4, atol=1e-5)
    if kind == "fully_shard":
        for module in (spread[1], wrapped):
            module.reshard()
        for name, p in wrapped.named_parameters():
            torch.testing.assert_close(p.full_tensor(), alone.get_parameter(name), rtol=1e-4, atol=1e-5)
        if hasattr(spread[1], "raise_c"):
            with torch.no_grad():
                for layer in (spread[1], alone[1]):
                    layer.c.mul_(0.1)
                    layer.raise_c()
            torch.testing.assert_close(spread[1].c.full_tensor(), alone[1].c, rtol=1e-4, atol=1e-5)
dist.destroy_process_group()
print("done", flush=True)
os._exit(0)  # threads of gloo may be at work still, which ends a process of torch 2.10 by an abort
"""


@pytest.mark.parametrize(("kind", "processes"), [("ddp", 2), ("fully_shard", 1), ("fully_shard", 2), ("fsdp", 1)])
def test_training_spread_over_processes(tmp_path, kind, processes):
    """Three steps, an evaluation after each: the numbers of one process that holds everything."""
    command = [sys.executable, "-W", "ignore", "-c", SPREAD, kind, str(tmp_path / "store")]
    with concurrent.futures.ThreadPoolExecutor(processes) as pool:
        printed = pool.map(lambda rank: run(*command, str(rank), str(processes), timeout=240), range(processes))
        assert [each.split()[-1] for each in printed] == ["done"] * processes
