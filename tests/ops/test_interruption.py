"""Ctrl-C ends a call that would take hours."""

import signal
import subprocess
import sys

import pytest
from problems import BACKENDS

pytestmark = pytest.mark.processes

CALL = """
import signal, sys, torch, scvae_fast
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background jobs ignore
torch.set_num_threads(int(sys.argv[3]))
b, S, D = torch.ones(int(sys.argv[4]), 8), torch.zeros(8, 8), torch.ones(4, 8)
x, forever = torch.ones(len(b), 4), 2**31 - 1
call = {
    "lista": lambda: scvae_fast.lista(b, S, 0.1, forever, backend=sys.argv[2]),
    "sparse_code": lambda: scvae_fast.sparse_code(x, D.T, S, 0.1, D, forever, backend=sys.argv[2]),
}[sys.argv[1]]
try:
    print("begun", flush=True)
    call()
except KeyboardInterrupt:
    z = scvae_fast.lista(b, S, 0.1, 3, backend=sys.argv[2])
    print("interrupted", bool((z == 0.9).all()))
"""


def assert_interrupted(words):
    """A program that is interrupted after its start must end, and report that a later call was correct."""
    process = subprocess.Popen([sys.executable, "-c", *words], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    process.send_signal(signal.SIGINT)
    try:
        printed, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert printed == "interrupted True\n"


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("op", ["lista", "sparse_code"])
@pytest.mark.parametrize(("threads", "rows"), [(1, 1), (2, 300)])
def test_interrupted_call_ends(op, backend, threads, rows):
    """The next call must be correct."""
    assert_interrupted([CALL, op, backend, str(threads), str(rows)])


LASSO = """
import signal, torch, scvae_fast
signal.signal(signal.SIGINT, signal.default_int_handler)
x, D = torch.randn(1_000_000, 32), scvae_fast.dictionaries.random_unit(32, 128)
try:
    print("begun", flush=True)
    scvae_fast.lasso(x, D, 1e-3, tol=1e-6)
except KeyboardInterrupt:
    print("interrupted", bool((scvae_fast.lasso(x[:3], D, 0.5).gap <= 1e-4).all()))
"""


def test_an_interrupted_lasso_ends():
    assert_interrupted([LASSO])
