"""Triton kernels compiled ahead of time: no spills, shared memory within the card's. Every tile of the table for LISTA
with shared weights, the extreme ones for the options.

`pytest -s tests/ops/test_triton_build.py` prints registers, shared memory and the matrix instructions found.
"""

import importlib.util
import os
import re
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from scvae_fast.ops.backends.triton.tiles import CHAIN, COLLECTED, FEW_SUMS, REGISTERS, Tile, tiles

pytestmark = [
    pytest.mark.compiles,
    pytest.mark.skipif(
        importlib.util.find_spec("triton") is None or os.environ.get("TRITON_INTERPRET") == "1",
        reason="kernels are compiled by triton, in a process that does not interpret them",
    ),
]

# What a block may have, in bytes, by compute capability times ten; and the matrix instructions of a dense tile.
SHARED = {80: 166_912, 90: 232_448, 100: 232_448}
MATRIX = {80: "HMMA", 90: "HGMMA", 100: "UTCHMMA"}
NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}

INTEGERS = {
    *("M", "n", "K", "NP", "KP", "n_iter", "steps", "slab", "drive_stride", "rows", "I", "J", "t"),
    *("left_stride", "right_stride", "per_split", "columns", "depth", "after_rows", "after_columns"),
    *("residual_slab", "encoder_slab", "inhibition_slab", "theta_row", "step_stride", "momentum_stride"),
}
FLOAT32 = {"d_theta", "d_gain", "d_step", "d_momentum", "sums"}

# What only some problems have; a plain one has None, and flags that are off.
EACH = {"encoder_slab", "inhibition_slab", "theta_row", "step", "step_stride"}
MOMENTUM = {"momentum", "momentum_stride", "points", "later_points", "point_grads", "later_grads", "d_momentum"}
RESIDUALS = {"residuals", "residual_slab", "residual_grads"}
DIRECTIONS = {"directions", "d_step"}
FLAGS = ("KAPPA", "NEGATIVE", "POSITIVE", "FACTORED", "GIVEN", "EACH_THETA", "KEEP", "DECODE")


class Kind(NamedTuple):
    """A kernel as one operation calls it."""

    kernel: str
    absent: set[str]
    flags: dict[str, Any]


def kind(kernel: str, without: str = "", having: set[str] | None = None, **flags: Any) -> Kind:
    """`without` names arguments that are None; `having` names optional parts that the problem has."""
    optional = EACH | MOMENTUM | RESIDUALS | DIRECTIONS
    absent = optional - (having or set()) | set(without.split())
    return Kind(kernel, absent, {**dict.fromkeys(FLAGS, 0), "PADDED": 1, **flags})


NO_ENDS = "z0 encoder encoder_slab decoder drives x_hat"
ISTA = {"KAPPA": 1, "NEGATIVE": 1}
KINDS = {
    "sparse_code": kind("forward", "z0", FORM="encoded", DECODE=1),
    "lista": kind("forward", NO_ENDS, FORM="given"),
    "recompute": kind("forward", "decoder z_out x_hat", FORM="encoded", KEEP=1),
    "adjoint": kind("adjoint", "encoder"),
    "encoded start": kind("start", "z0", FORM="encoded"),
    "start": kind("start", "z0 encoder drives", FORM="given"),
    "encoded step": kind("iterate", "encoder", FORM="encoded"),
    "step": kind("iterate", "encoder drives", FORM="given"),
    "step back": kind("step_back"),
    "product": kind("product"),
    "outer": kind("outer"),
    "collect": kind("collect"),
    "positive lista": kind("forward", NO_ENDS, FORM="given", POSITIVE=1),
    "even lista": kind("forward", NO_ENDS, FORM="given", PADDED=0),
    "ista of each": kind("forward", NO_ENDS, EACH | MOMENTUM, FORM="given", **ISTA),
    "lista of each": kind("forward", "z0 step step_stride decoder x_hat", EACH, FORM="each"),
    "factored": kind("forward", "gain drives x_hat", EACH | RESIDUALS, FORM="factored", KAPPA=1),
    "ista recompute": kind("forward", f"{NO_ENDS} z_out", EACH | DIRECTIONS, FORM="given", KEEP=1, **ISTA),
    "factored recompute": kind(
        *("forward", "gain drives z_out x_hat", EACH | RESIDUALS | DIRECTIONS),
        **{"FORM": "factored", "KAPPA": 1, "KEEP": 1},
    ),
    "ista adjoint": kind("adjoint", "encoder encoder_slab", EACH, **ISTA),
    "factored adjoint": kind("adjoint", "", EACH | RESIDUALS, FACTORED=1, KAPPA=1, GIVEN=1),
    "residual": kind("residual", "", RESIDUALS | MOMENTUM),
    "ista step": kind("iterate", "encoder drives", EACH | MOMENTUM | DIRECTIONS, FORM="given", **ISTA),
    "even ista step": kind("iterate", "encoder drives", EACH | MOMENTUM, FORM="given", PADDED=0, **ISTA),
    "step of each": kind("iterate", "drives step step_stride", EACH, FORM="each"),
    "factored step": kind("iterate", "drives", EACH | RESIDUALS, FORM="factored", KAPPA=1),
    "filter back": kind("filter_back", "", EACH | RESIDUALS),
    "ista step back": kind("step_back", "", EACH | MOMENTUM, **ISTA),
    "factored step back": kind("step_back", "", EACH | RESIDUALS, FACTORED=1, KAPPA=1),
    "ista collect": kind("collect", "", EACH | MOMENTUM | DIRECTIONS, KAPPA=1, GIVEN=1, EACH_THETA=1),
}


PLAIN = list(KINDS)[: list(KINDS).index("positive lista")]


def _for_options() -> list[tuple[int, torch.dtype, Tile]]:
    """Tiles for which kernels with options are compiled: the largest, and on Hopper also the smallest.

    All tiles would take ten minutes more.
    """
    found = []
    for arch, dtypes in {80: [torch.bfloat16], 90: [torch.bfloat16, torch.float32], 100: [torch.bfloat16]}.items():
        for dtype in dtypes:
            table = tiles((arch // 10, 0), dtype.itemsize)
            found += [(arch, dtype, tile) for tile in ({table[0], table[-1]} if arch == 90 else table[:1])]
    return found


FOR_OPTIONS = _for_options()


def cases() -> list[Any]:
    found = []
    for arch in SHARED:
        for dtype in NAMES:
            table = tiles((arch // 10, 0), dtype.itemsize)
            # The halves are compiled alike: of float16 the largest tile stands for all.
            for tile in table[:1] if dtype == torch.float16 else table:
                for name in KINDS:
                    if KINDS[name].kernel == "collect" or (name == "outer" and tile != table[0]):
                        continue
                    if name in PLAIN or (arch, dtype, tile) in FOR_OPTIONS:
                        found.append((arch, dtype, name, tile))
            found.extend((arch, dtype, name, COLLECTED) for name in ("collect", "ista collect"))
    return [
        pytest.param(*case, id=f"sm_{case[0]}-{NAMES[case[1]]}-{case[2]}-{'x'.join(map(str, case[3]))}")
        for case in found
    ]


def compiled(arch: int, dtype: torch.dtype, kind: Kind, tile: Tile) -> Any:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from scvae_fast.ops.backends.triton import backward_kernels, forward_kernels, products

    homes = (forward_kernels, backward_kernels, products)
    function = next(getattr(home, kind.kernel) for home in homes if hasattr(home, kind.kernel))
    if kind.kernel == "outer":
        tile = tile._replace(rows=min(tile.rows, tile.columns), columns=min(tile.rows, tile.columns))
    constants: dict[str, Any] = {
        **kind.flags,
        **dict.fromkeys(kind.absent),
        "BLOCK_M": tile.rows,
        "BLOCK_N": tile.columns,
        "BLOCK_K": tile.depth,
        "CHAIN": CHAIN,
        "PRECISION": "tf32x3" if dtype == torch.float32 else "tf32",
        "theta_stride": 1,
    }
    signature, known, aligned = {}, {}, {}
    for place, argument in enumerate(function.arg_names):
        if argument in constants:
            signature[argument], known[(place,)] = "constexpr", constants[argument]
            continue
        if argument in INTEGERS:
            signature[argument] = "i64" if argument in ("slab", "residual_slab") else "i32"
        else:
            signature[argument] = "*fp32" if argument in FLOAT32 else f"*{NAMES[dtype]}"
        # Multiples of 16 where K and n are, unless the kernel is not compiled for that.
        asked = function.params[place]
        if not (asked.do_not_specialize or asked.do_not_specialize_on_alignment):
            aligned[(place,)] = [["tt.divisibility", 16]]
    options = {"num_warps": tile.warps, "num_stages": tile.stages}
    if kind.kernel == "forward" and tile.rows * tile.columns <= FEW_SUMS and kind.flags["FORM"] != "given":
        options["maxnreg"] = REGISTERS
    source = ASTSource(function, signature, known, aligned)
    return triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)


def assert_long_sums_are_rounded(text: str) -> None:
    """The first of three TF32 products starts at zero: their result is added to long sums by ordinary additions."""
    zeros = re.findall(r"(%\w+) = arith\.constant dense<0\.0+e\+00>", text)
    # In registers a sum is the third operand; in tensor memory the fourth says whether there is one yet.
    begun = re.findall(
        r"(?:tt\.dot|warp_group_dot) [^,]+, [^,]+, ([^ ,]+)|tc_gen5_mma [^,]+, [^,]+, [^,]+, ([^ ,]+)", text
    )
    false = re.findall(r"(%\w+) = arith\.constant false", text)
    fresh = sum(sums in zeros or there in false for sums, there in begun)
    assert len(begun) == 3 * fresh
    assert len(re.findall(r"arith\.addf .*#(?:mma|linear)", text)) >= fresh


def disassembled(path: Path, *flags: str) -> str:
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    return subprocess.run([tool, *flags, path], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(("arch", "dtype", "name", "tile"), cases())
def test_compiles_without_spills_and_fits(arch, dtype, name, tile, tmp_path):
    kernel = compiled(arch, dtype, KINDS[name], tile)
    path = tmp_path / "kernel.cubin"
    path.write_bytes(kernel.asm["cubin"])
    usage = re.search(r"REG:(\d+) STACK:(\d+)", disassembled(path, "-res-usage"))
    code = disassembled(path, "-sass")
    assert usage is not None
    registers, stack = map(int, usage.groups())
    spills = len(re.findall(r"\b(?:STL|LDL)\b", code))
    matrix = sorted(set(re.findall(r"\b(?:HGMMA|UTCHMMA|HMMA)\b", code)))
    print(
        f"{registers} registers, {stack} B stack, {kernel.metadata.shared} B shared, {', '.join(matrix) or 'no matrix'}"
    )
    assert (stack, spills) == (0, 0)
    assert kernel.metadata.shared <= SHARED[arch]
    # The figure that a choice begins with; what is compiled decides. Triton 3.8 keeps one more tile of the left factor.
    assert kernel.metadata.shared <= tile.shared_bytes(dtype.itemsize) + 8192, "the table's own figure is too small"
    if dtype == torch.float32:
        assert_long_sums_are_rounded(kernel.asm["ttgir"])
    if name not in ("collect", "ista collect", "start"):
        # 64 rows are the fewest for the matrix units of a whole warp group.
        assert matrix == [MATRIX[arch] if tile.rows >= 64 else "HMMA"]
