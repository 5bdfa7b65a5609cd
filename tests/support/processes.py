"""Programs that tests start."""

import os
import re
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
OF_OPERATIONS = (
    *(f"ops/test_{name}" for name in ("fused", "fuzz", "lista", "sparse_code", "decode", "trial")),
    "transforms/test_autograd",
)


def run(*command, **options):
    """Run a program that must succeed, and return its output."""
    done = subprocess.run(command, capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def run_tests_of_kernels(backend, *flags, **environment):
    """Run the operations' tests of a backend's kernels in one process, because each start takes seconds."""
    files = [f"tests/{name}.py" for name in (*OF_OPERATIONS, f"ops/test_{backend}")]
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-k", backend, *flags, *files]
    printed = run(*command, env={**os.environ, **environment}, cwd=TESTS.parent)
    for file in files:
        assert re.search(rf"^{re.escape(file)} \.", printed, re.MULTILINE), f"{file} has no test of {backend}"
    assert "skipped" not in printed
