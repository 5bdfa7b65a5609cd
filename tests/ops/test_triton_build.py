"""Every Triton kernel with every tile of the table, compiled ahead of time: no spills, shared memory within the card's.

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

from scvae_fast.ops.backends.triton.tiles import CHAIN, COLLECTED, Tile, tiles

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
    *("M", "n", "K", "NP", "KP", "n_iter", "steps", "slab", "theta_stride", "drive_stride", "rows", "I", "J"),
    *("left_stride", "right_stride", "per_split", "columns", "depth", "after_rows", "after_columns"),
}
UNALIGNED = {
    "M",
    "n_iter",
    "steps",
    "rows",
    "per_split",
    "after_rows",
}  # the others are multiples of 16 where K and n are
FLOAT32 = {"d_theta", "d_gain", "sums"}


class Kind(NamedTuple):
    """A kernel as one operation calls it."""

    kernel: str
    absent: tuple[str, ...] = ()
    flags: tuple[tuple[str, bool], ...] = ()


KINDS = {
    "sparse_code": Kind("forward", ("z0",), (("ENCODE", True), ("DECODE", True), ("KEEP", False))),
    "lista": Kind(
        "forward",
        ("z0", "encoder", "decoder", "drives", "x_hat"),
        (("ENCODE", False), ("DECODE", False), ("KEEP", False)),
    ),
    "recompute": Kind("forward", ("decoder", "z_out", "x_hat"), (("ENCODE", True), ("DECODE", False), ("KEEP", True))),
    "adjoint": Kind("adjoint"),
    "encoded start": Kind("start", ("z0",), (("ENCODE", True),)),
    "start": Kind("start", ("z0", "encoder", "drives"), (("ENCODE", False),)),
    "encoded step": Kind("step", (), (("ENCODE", True),)),
    "step": Kind("step", ("drives",), (("ENCODE", False),)),
    "step back": Kind("step_back"),
    "product": Kind("product"),
    "outer": Kind("outer"),
    "collect": Kind("collect", (), (("GIVEN", False),)),
}


def cases() -> list[Any]:
    found = []
    for arch in SHARED:
        for dtype in NAMES:
            table = tiles((arch // 10, 0), dtype.itemsize)
            # The halves are compiled alike: of float16 the largest tile stands for all.
            for tile in table[:1] if dtype == torch.float16 else table:
                for name in KINDS:
                    if name == "collect" or (name == "outer" and tile != table[0]):
                        continue
                    found.append((arch, dtype, name, tile))
            found.append((arch, dtype, "collect", COLLECTED))
    return [
        pytest.param(*case, id=f"sm_{case[0]}-{NAMES[case[1]]}-{case[2]}-{'x'.join(map(str, case[3]))}")
        for case in found
    ]


def compiled(arch: int, dtype: torch.dtype, kind: Kind, tile: Tile) -> Any:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from scvae_fast.ops.backends.triton import kernels, products

    function = getattr(kernels, kind.kernel, None) or getattr(products, kind.kernel)
    if kind.kernel == "outer":
        tile = tile._replace(rows=min(tile.rows, tile.columns), columns=min(tile.rows, tile.columns))
    constants: dict[str, Any] = {
        **dict(kind.flags),
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
            signature[argument] = "i64" if argument == "slab" else "i32"
        else:
            signature[argument] = "*fp32" if argument in FLOAT32 else f"*{NAMES[dtype]}"
        if argument not in UNALIGNED:
            aligned[(place,)] = [["tt.divisibility", 16]]
    options = {"num_warps": tile.warps, "num_stages": tile.stages}
    source = ASTSource(function, signature, known, aligned)
    return triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)


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
    assert kernel.metadata.shared <= tile.shared_bytes(dtype.itemsize) + 4096, "the table's own figure is too small"
    if name not in ("collect", "start"):
        # 64 rows are the fewest for the matrix units of a whole warp group.
        assert matrix == [MATRIX[arch] if tile.rows >= 64 else "HMMA"]
