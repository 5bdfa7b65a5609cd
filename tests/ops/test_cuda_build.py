"""The compiled CUDA kernels, as nvcc left them in the module: no spills, shared memory within the cards', and the
instructions that they are written for. `pytest -s tests/ops/test_cuda_build.py` prints registers and instructions.

It needs no card, but a module that was built with nvcc, and cuobjdump, which the package triton brings.
"""

import importlib.util
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest
import sass

from scvae_fast.ops.native import module as native

pytestmark = [
    pytest.mark.compiles,
    pytest.mark.skipif(not hasattr(native, "cuda_plan"), reason="the module was built without nvcc"),
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="no triton, whose cuobjdump this uses"),
]

# What a block may have, in bytes.
SHARED = {"sm_80": 166_912, "sm_90a": 232_448, "sm_100": 232_448, "sm_120": 101_376}
CSRC = Path(__file__).resolve().parents[2] / "csrc"
REGISTERS = 65_536  # of a multiprocessor
# Two registers that one kernel lacks there. Its 64 rows are for at most 256 atoms: a block has no memory for more.
SHORT_OF_TWO = ("sm_120", "7AdjointENS0_8MmaBlockINS0_8BFloat16ELi64E")


def cuobjdump(*flags):
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    return subprocess.run([tool, *flags, native.__file__], capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def usage():
    """(architecture, kernel): (registers, bytes of stack); kernels by their mangled names."""
    found, arch, kernel = {}, "", ""
    for line in cuobjdump("-res-usage").splitlines():
        if line.startswith("arch = "):
            arch = line.removeprefix("arch = ").strip()
        elif "Function " in line:
            kernel = line.strip().removeprefix("Function ").rstrip(":")
        elif resources := re.search(r"REG:(\d+) STACK:(\d+)", line):
            found[arch, kernel] = tuple(map(int, resources.groups()))
    return found


@pytest.fixture(scope="module")
def instructions():
    """(architecture, kernel): its instructions."""
    return sass.functions(cuobjdump("-sass").splitlines())


@pytest.fixture(scope="module")
def code(instructions):
    """(architecture, kernel): how often each instruction occurs in it."""
    return {key: Counter(instruction.opcode for instruction in kernel) for key, kernel in instructions.items()}


@pytest.fixture
def hopper(instructions):
    """Kernels for Hopper cards: forward and adjoint, each of plain LISTA and of the family, bfloat16 and float16."""
    kernels = of(instructions, "sm_90a", "WgmmaBlock")
    assert len(kernels) == 8
    return kernels


def of(kernels, arch, *parts):
    """The kernels of an architecture whose names contain all of these words."""
    return {name: value for (a, name), value in kernels.items() if a == arch and all(part in name for part in parts)}


@pytest.mark.parametrize("arch", SHARED)
def test_every_kernel_is_there_and_spills_nothing(usage, code, arch):
    kernels = of(usage, arch)
    works = ("Forward", "FamilyForward", "Adjoint", "FamilyAdjoint", "Product")
    for work, rows in [(work, rows) for work in works for rows in (16, 32, 64)]:
        # Both halves; float32 as three products and as one, in 16 rows.
        count = len(of(usage, arch, f"{len(work)}{work}E", "MmaBlock", f"Li{rows}E"))
        assert count == (4 if rows == 16 else 2), (work, rows)
    for kernel, count in (("outer", 4), ("collect", 4), ("4pack", 4)):
        assert len(of(usage, arch, kernel)) >= count - 1, kernel
    for name, (registers, stack) in kernels.items():
        instructions = code[arch, name]
        print(f"{arch} {registers:>3} registers  {sum(instructions.values()):>6} instructions  {name}")
        assert stack <= (8 if arch == SHORT_OF_TWO[0] and SHORT_OF_TWO[1] in name else 0), name
        assert stack or instructions["LDL"] + instructions["STL"] == 0, name


@pytest.mark.parametrize("arch", SHARED)
def test_products_run_on_the_matrix_units(code, arch):
    kernels = {name: c for name, c in of(code, arch).items() if "MmaBlock" in name or "outer" in name}
    if arch == "sm_90a":  # 64 rows are for other cards: what is compiled of them here is empty
        kernels = {name: c for name, c in kernels.items() if "Li64E" not in name}
    assert len(kernels) == (34 if arch == "sm_90a" else 44)
    for name, instructions in kernels.items():
        assert instructions["HMMA"] > 0, name
        assert instructions["LDGSTS"] > 0, name  # the stages' copies, past the registers
        if "MmaBlock" in name:
            assert instructions["LDSM"] > 0, name


def test_hopper_kernels_use_its_own_units(usage, code, hopper):
    for name in hopper:
        instructions = code["sm_90a", name]
        assert instructions["HGMMA"] >= 2, name
        assert instructions["UBLKCP"] >= 1, name  # the copy engine's
        assert instructions["HMMA"] == 0, name
        registers, _ = usage["sm_90a", name]
        assert 384 * registers <= REGISTERS, name
        assert instructions["USETMAXREG"] == 2, name
    assert not of(code, "sm_80", "WgmmaBlock")


def test_sums_on_hopper_are_used_only_after_the_wait(hopper):
    """Products are asynchronous, unknown to the compiler: every path must wait for all products before a use."""
    for name, kernel in hopper.items():
        assert sass.touched_before_done(kernel) == [], name
        no_wait = [i._replace(name="NOP", operands="") if (i.name, i.operands) == sass.ALL_DONE else i for i in kernel]
        assert sass.touched_before_done(no_wait), f"{name}: sums are used nowhere, or on no path from a product"


def test_products_on_hopper_overlap(hopper):
    """Only the last product of a stage is marked, and some waits are not for all; serialised code differs in both."""
    for name, kernel in hopper.items():
        products = [i for i in kernel if i.opcode == "HGMMA"]
        marked = [i for i in products if i.operands.endswith("gsb0")]
        waits = Counter(i.operands for i in kernel if i.name == "WARPGROUP.DEPBAR.LE")
        assert len(marked) < len(products), name
        assert waits["gsb0, 0x0"] < waits.total(), name


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc on the PATH")
@pytest.mark.parametrize("element", ["bfloat16", "float16"])
def test_ptxas_reports_no_repairs(element, tmp_path):
    """It reports serialised products, and waits that it injects because the source lacks them."""
    target = ["-gencode=arch=compute_90a,code=sm_90a", "-DSCVAE_FAST_WITH_CUDA", "-DSCVAE_FAST_WITH_HOPPER"]
    source = CSRC / "cuda" / "hopper" / f"launch_{element}.cu"
    words = ["nvcc", "-std=c++17", "-O3", "-cubin", "-Xptxas=-v", f"-I{CSRC}", *target, "-o", tmp_path / "cubin"]
    done = subprocess.run([*words, source], capture_output=True, text=True)
    printed = done.stdout + done.stderr
    assert done.returncode == 0, printed
    assert len(re.findall(r"Compiling entry function '\w+WgmmaBlock", printed)) == 4
    assert "serialized" not in printed
    assert "injected" not in printed


def test_ptx_is_there_for_cards_to_come():
    assert "sm_100.ptx" in cuobjdump("-lptx")


@pytest.mark.parametrize("arch", SHARED)
@pytest.mark.parametrize("itemsize", [2, 4])
@pytest.mark.parametrize(("M", "K", "n"), [(65_536, 512, 256), (256, 512, 256), (1_000_000, 1000, 1000), (1, 1, 1)])
def test_plans_fit_what_was_compiled(usage, arch, itemsize, M, K, n):
    card = native.CudaCard(int(arch.strip("sm_a")) // 10, 0, SHARED[arch], 100, arch == "sm_90a")
    if (arch, itemsize, K) == ("sm_120", 4, 1000):
        with pytest.raises(ValueError, match=r"1000 atoms .* shared memory for a block, this card gives 101376"):
            native.cuda_plan(card, M, K, n, False, itemsize)
        return
    plan = native.cuda_plan(card, M, K, n, False, itemsize)
    assert plan.shared_bytes <= SHARED[arch]
    block = "WgmmaBlock" if plan.cluster > 1 else f"Li{plan.rows}E"
    element = "MmaBlockIf" if itemsize == 4 else "BFloat16"
    assert of(usage, arch, "Forward", block, element)
    assert plan.KP >= K
    assert plan.threads <= 384
    assert (plan.cluster == 2) == (arch == "sm_90a" and itemsize == 2 and M == 65_536)
