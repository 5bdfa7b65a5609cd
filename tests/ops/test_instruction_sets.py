"""The cpu backend's kernels for every instruction set of this processor: a process always uses the same one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from scvae_fast.ops.native import module as native

HERE = Path(__file__).resolve().parent
OPERATIONS = [
    str(HERE / f"test_{name}.py")
    for name in ("lista", "decode", "sparse_code", "options", "wide", "fuzz", "group_norm_silu", "lasso")
]
# What compiles graphs runs the same kernels as the rest; of the sizes, the largest add nothing but time.
SELECTED = (
    "(cpu or sparse_codes or coordinate_descent or scikit_learns or threads) and not opcheck and not compile "
    "and not 4097"
)

RUN_TESTS = """
import sys, pytest
from scvae_fast.ops.native import module as native
print("instruction set:", native.build_info()["instruction set"])
sys.exit(pytest.main(sys.argv[1:]))
"""

CALL = 'import torch, scvae_fast; scvae_fast.decode(torch.ones(2, 3), torch.ones(4, 3), backend="cpu")'


def run(instructions: str, *command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "SCVAE_FAST_ISA": instructions}
    return subprocess.run(
        [sys.executable, "-c", *command], env=environment, cwd=HERE.parent.parent, capture_output=True, text=True
    )


# The first is what every other test runs on.
@pytest.mark.nested
@pytest.mark.parametrize("instructions", native.instruction_sets()[1:])
def test_operations_hold_on_each(instructions):
    done = run(instructions, RUN_TESTS, "-q", "-p", "no:cacheprovider", "-k", SELECTED, *OPERATIONS)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"instruction set: {instructions}" in done.stdout.splitlines()


def test_every_processor_supports_the_portable_kernels():
    assert native.instruction_sets()[-1] == "portable"
    assert set(native.instruction_sets()) <= {"avx512", "avx2", "portable"}


@pytest.mark.processes
@pytest.mark.parametrize("instructions", ["abacus", "AVX2", "avx512 "])
def test_an_unsupported_instruction_set_is_refused_by_name(instructions):
    done = run(instructions, CALL)
    assert done.returncode != 0
    usable = ", ".join(native.instruction_sets())
    message = "SCVAE_FAST_ISA must name instructions that this processor and this build have"
    assert f"{message}, one of {usable}, got {instructions}" in done.stderr
