"""Matrix products in Triton, as tiles for other kernels and as kernels; and the sums of gradients.

The right factor of a product is packed by `launch.py`: its row j holds the summands of column j of the product, padded
with zeros, so only rows of the left factor ever need masks.
"""

from __future__ import annotations

import triton
import triton.language as tl

from scvae_fast.ops.backends.triton import tiles

TOGETHER = tl.constexpr(tiles.TOGETHER)


@triton.jit
def multiply(
    left,  # the first of BLOCK_M rows, left_stride apart
    left_stride,
    right,  # rows right_stride apart
    right_stride,
    column,  # (BLOCK_N,): the rows of right
    live,  # (BLOCK_M, 1): which rows of left exist
    depth,  # length of the sums
    MASKED: tl.constexpr,  # whether left has missing rows, or its depth is not a multiple of the tile's
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """The product left · rightᵀ (BLOCK_M, BLOCK_N), summed in float32."""
    sums = tl.zeros((live.shape[0], column.shape[0]), dtype=tl.float32)
    return add_product(sums, left, left_stride, right, right_stride, column, live, depth, MASKED, BLOCK_K, PRECISION)


@triton.jit
def add_product(
    sums,  # (BLOCK_M, BLOCK_N), float32
    left,  # the others as in `multiply`
    left_stride,
    right,
    right_stride,
    column,
    live,
    depth,
    MASKED: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """The sums plus left · rightᵀ.

    Matrix units truncate what they add. In float32 they therefore add over a depth of only BLOCK_K: the three products
    of "tf32x3" start at zero, the small ones first, and Triton adds them to the sums with an ordinary addition.
    """
    inner = tl.arange(0, BLOCK_K)
    from_left = left + (tl.arange(0, live.shape[0])[:, None] * left_stride + inner[None, :])
    from_right = right + column[None, :] * right_stride + inner[:, None]
    for begin in range(0, depth, BLOCK_K):
        if MASKED:
            tile = tl.load(from_left + begin, mask=live & (begin + inner[None, :] < depth), other=0.0)
        else:
            tile = tl.load(from_left + begin)
        sums = tl.dot(tile, tl.load(from_right + begin), sums, input_precision=PRECISION)
    return sums


@triton.jit
def live_rows(first, M, BLOCK_M: tl.constexpr):
    """(BLOCK_M, 1): which rows exist in the block that starts with row `first`."""
    return tl.arange(0, BLOCK_M)[:, None] < tl.minimum(M - first, BLOCK_M).to(tl.int32)


@triton.jit
def own_tile(BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    """First row, and columns, of a program's tile, in a grid of row blocks and column blocks.

    Groups of column blocks go through all rows together, so their part of the right factor stays in the L2 cache.
    """
    j, i = tl.swizzle2d(tl.program_id(1), tl.program_id(0), tl.num_programs(1), tl.num_programs(0), TOGETHER)
    return i.to(tl.int64) * BLOCK_M, j * BLOCK_N + tl.arange(0, BLOCK_N)


@triton.jit
def value_of(values, t, stride):
    """Value t of an array with that stride, in float32."""
    return tl.load(values + t * stride).to(tl.float32)


@triton.jit(do_not_specialize=["rows", "per_split"])
def outer(
    left,  # (rows, I), rows left_stride apart
    right,  # (rows, J), rows right_stride apart
    sums,  # (splits, I, J), float32: receives leftᵀ right of every split of the rows
    rows,
    I,  # noqa: E741
    J,
    left_stride,
    right_stride,
    per_split,  # rows per split, a multiple of BLOCK_K
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    CHAIN: tl.constexpr,  # rows summed in the matrix units, which round less accurately than an addition
    PRECISION: tl.constexpr,
):
    """Sums over rows, leftᵀ right; the rows are in a fixed number of splits, each summed in order."""
    i = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    j = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    split = tl.program_id(2).to(tl.int64)
    total = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    first = split * per_split
    of_left, of_right = left + i[:, None], right + j[None, :]
    for begin in range(0, per_split, CHAIN):
        part = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
        for step in range(begin, tl.minimum(begin + CHAIN, per_split), BLOCK_K):
            row = first + step + tl.arange(0, BLOCK_K)
            here = row < rows
            a = tl.load(of_left + row[None, :] * left_stride, mask=here[None, :] & (i < I)[:, None], other=0.0)
            b = tl.load(of_right + row[:, None] * right_stride, mask=here[:, None] & (j < J)[None, :], other=0.0)
            part = tl.dot(a, b, part, input_precision=PRECISION)
        total += part
    target = sums + (split * I + i[:, None]) * J + j[None, :]
    tl.store(target, total, mask=(i < I)[:, None] & (j < J)[None, :])


@triton.jit(do_not_specialize=["M"])
def product(
    left,  # (M, depth), rows left_stride apart
    right,  # (columns in whole tiles, depth in whole tiles), rows right_stride apart
    out,  # (M, columns)
    M,
    columns,
    depth,
    left_stride,
    right_stride,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """The product left · rightᵀ."""
    first = tl.program_id(0).to(tl.int64) * BLOCK_M
    within = tl.arange(0, BLOCK_M)[:, None]
    column = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    live = live_rows(first, M, BLOCK_M)
    value = multiply(
        left + first * left_stride, left_stride, right, right_stride, column, live, depth, True, BLOCK_K, PRECISION
    )
    inside = live & (column < columns)[None, :]
    target = out + first * columns + (within * columns + column[None, :])
    tl.store(target, value.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _sign(u):
    """The sign; 0 for NaN, like torch.sign."""
    return tl.where(u > 0, 1.0, tl.where(u < 0, -1.0, 0.0))


@triton.jit
def _total(tile):
    """The sum of a tile."""
    return tl.sum(tl.sum(tile, axis=1), axis=0)


@triton.jit(do_not_specialize=["M", "n_iter", "step_stride"], do_not_specialize_on_alignment=["gain", "step"])
def collect(
    codes,  # slabs of (rows, KP): z_0 … z_T
    adjoints,  # likewise: ĝ_0 … ĝ_T
    directions,  # likewise: v_0 … v_{T−1}; None if d_step is
    point_grads,  # likewise: q_0 … q_{T−1}; None if d_momentum is
    drive,  # b, rows drive_stride apart; not read if GIVEN
    gain,  # one value, or None
    step,  # γ, one value or (T,); or None
    d_drive,  # (rows, KP): receives the gradient of b; None unless all iterations share one b
    d_theta,  # (R, blocks of rows, KP), float32: receives sums over the rows of a block; R = 1 unless EACH_THETA
    d_gain,  # (blocks of rows, blocks of columns), float32: receives sums over a tile
    d_step,  # (T, blocks of rows, blocks of columns), likewise; or None
    d_momentum,  # likewise, zeros for t = 0; or None
    M,
    K,
    KP,
    drive_stride,
    n_iter,
    slab,
    step_stride,  # 1, or 0
    GIVEN: tl.constexpr,  # whether z_0 was given or is 0: then ĝ_0 does not go through the threshold
    EACH_THETA: tl.constexpr,  # whether every iteration has its own θ
    KAPPA: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """The gradients of b, θ, gain, γ and β from the adjoints, in float32."""
    first = tl.program_id(0).to(tl.int64) * BLOCK_M
    within = tl.arange(0, BLOCK_M)[:, None]
    column = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    here = first * KP + (within * KP + column[None, :])
    of_b = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    of_theta = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    tile = tl.program_id(0) * tl.num_programs(1) + tl.program_id(1)
    tiles = tl.num_programs(0).to(tl.int64) * tl.num_programs(1)
    for after in range(1, n_iter + 1):
        t = tl.cast(after, tl.int64)
        g = tl.load(adjoints + t * slab + here).to(tl.float32)
        z = tl.load(codes + t * slab + here)
        if step is None:
            of_b += g
        else:
            of_b += tl.load(step + (t - 1) * step_stride).to(tl.float32) * g
        if EACH_THETA:
            row = (t - KAPPA) * tl.num_programs(0) + tl.program_id(0)
            tl.store(d_theta + row * KP + column, tl.sum(-_sign(z) * g, axis=0))
        else:
            of_theta -= _sign(z) * g
        if d_step is not None:
            v = tl.load(directions + (t - 1) * slab + here).to(tl.float32)
            tl.store(d_step + (t - 1) * tiles + tile, _total(v * g))
    if d_momentum is not None:
        for later in range(1, n_iter):
            t = tl.cast(later, tl.int64)
            q = tl.load(point_grads + t * slab + here).to(tl.float32)
            z = tl.load(codes + t * slab + here).to(tl.float32)
            before = tl.load(codes + (t - 1) * slab + here).to(tl.float32)
            tl.store(d_momentum + t * tiles + tile, _total(q * (z - before)))
    if not GIVEN:
        g = tl.load(adjoints + here).to(tl.float32)
        z = tl.load(codes + here)
        if EACH_THETA:
            tl.store(d_theta + tl.program_id(0) * KP + column, tl.sum(-_sign(z) * g, axis=0))
        else:
            of_theta -= _sign(z) * g
        inside = live_rows(first, M, BLOCK_M) & (column < K)[None, :]
        b = tl.load(drive + first * drive_stride + (within * drive_stride + column[None, :]), mask=inside, other=0.0)
        tl.store(d_gain + tile, _total(b.to(tl.float32) * g))
        if gain is not None:
            g = g * tl.load(gain).to(tl.float32)
        of_b += g
    if d_drive is not None:
        tl.store(d_drive + here, of_b.to(d_drive.dtype.element_ty))
    if not EACH_THETA:
        tl.store(d_theta + tl.program_id(0) * KP + column, tl.sum(of_theta, axis=0))
