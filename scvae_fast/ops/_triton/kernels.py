"""The Triton kernels: all iterations of a block of rows in one launch, their adjoints, and sums of outer products.

M rows, n features, K atoms, T iterations; columns are padded to whole tiles: KP, NP. A program takes BLOCK_M rows
through all iterations; their codes go to scratch of their own (`codes`, slab after slab) and come back from there,
through the second-level cache. A barrier separates what a program writes from what it reads next.

The right factor of every product is packed by `launch.py`: its row j holds what column j of the product is summed from,
padded with zeros, so that only rows of the left factor are ever masked.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _sign(u):
    """0 for a NaN, as torch.sign has it."""
    return tl.where(u > 0, 1.0, tl.where(u < 0, -1.0, 0.0))


@triton.jit
def _threshold(u, theta):
    """h_θ(u) = sign(u) max(|u| − θ, 0), in float32."""
    excess = tl.maximum(tl.abs(u) - theta, 0.0, propagate_nan=tl.PropagateNan.ALL)
    return tl.where(u > 0, excess, tl.where(u < 0, -excess, 0.0 * excess))


@triton.jit
def _multiply(
    left,  # the first of BLOCK_M rows, left_stride apart
    left_stride,
    right,  # rows right_stride apart
    right_stride,
    column,  # (BLOCK_N,): the rows of right
    live,  # (BLOCK_M, 1): rows of left that there are
    depth,  # length of the sums
    MASKED: tl.constexpr,  # whether left has rows that there are not, or is no whole number of tiles deep
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """The product left · rightᵀ (BLOCK_M, BLOCK_N), summed in float32."""
    inner = tl.arange(0, BLOCK_K)
    from_left = left + (tl.arange(0, live.shape[0])[:, None] * left_stride + inner[None, :])
    from_right = right + column[None, :] * right_stride + inner[:, None]
    sums = tl.zeros((live.shape[0], column.shape[0]), dtype=tl.float32)
    for begin in range(0, depth, BLOCK_K):
        if MASKED:
            tile = tl.load(from_left + begin, mask=live & (begin + inner[None, :] < depth), other=0.0)
        else:
            tile = tl.load(from_left + begin)
        sums = tl.dot(tile, tl.load(from_right + begin), sums, input_precision=PRECISION)
    return sums


@triton.jit
def forward(
    source,  # ENCODE: x (M, n); else b (M, K)
    encoder,  # ENCODE: W_e (KP, NP)
    inhibition,  # S (KP, KP)
    theta,  # (K,), or one value
    gain,  # one value, or None
    z0,  # (M, K), or None
    decoder,  # DECODE: D (NP, KP)
    drives,  # ENCODE: scratch (rows, KP)
    codes,  # scratch, slabs of (rows, KP)
    z_out,  # (M, K); not written where KEEP
    x_hat,  # DECODE: (M, n)
    M,
    n,
    K,
    NP,
    KP,
    n_iter,
    slab,  # elements between slabs of codes
    theta_stride,  # 1, or 0
    ENCODE: tl.constexpr,
    DECODE: tl.constexpr,
    KEEP: tl.constexpr,  # every z_t in a slab of its own, for the rows of all programs
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """z_0 = h(γ b), or the given z0; z_{t+1} = h(b + S z_t), T times; b = W_e x and x̂ = D z where asked for."""
    within = tl.arange(0, BLOCK_M)[:, None]
    for block in range(tl.program_id(0), tl.cdiv(M, BLOCK_M), tl.num_programs(0)):
        first = tl.cast(block, tl.int64) * BLOCK_M
        live = within < tl.minimum(M - first, BLOCK_M).to(tl.int32)
        own = (first if KEEP else tl.program_id(0).to(tl.int64) * BLOCK_M) * KP
        for begin in range(0, KP, BLOCK_N):
            column = begin + tl.arange(0, BLOCK_N)
            inside = live & (column < K)[None, :]
            if ENCODE:
                b = _multiply(source + first * n, n, encoder, NP, column, live, n, True, BLOCK_K, PRECISION)
                b = b.to(drives.dtype.element_ty)
                tl.store(drives + own + (within * KP + column[None, :]), b)
            else:
                b = tl.load(source + first * K + (within * K + column[None, :]), mask=inside, other=0.0)
            if z0 is not None:
                z = tl.load(z0 + first * K + (within * K + column[None, :]), mask=inside, other=0.0)
            else:
                u = b.to(tl.float32)
                if gain is not None:
                    u = u * tl.load(gain).to(tl.float32)
                limit = tl.load(theta + column * theta_stride, mask=column < K, other=0.0).to(tl.float32)
                z = _threshold(u, limit[None, :])
            tl.store(codes + own + (within * KP + column[None, :]), z.to(codes.dtype.element_ty))
        tl.debug_barrier()
        for t in range(n_iter):
            step = tl.cast(t, tl.int64)
            before = codes + (step if KEEP else step % 2) * slab
            after = codes + (step + 1 if KEEP else (step + 1) % 2) * slab
            for begin in range(0, KP, BLOCK_N):
                column = begin + tl.arange(0, BLOCK_N)
                u = _multiply(before + own, KP, inhibition, KP, column, live, KP, False, BLOCK_K, PRECISION)
                if ENCODE:
                    u += tl.load(drives + own + (within * KP + column[None, :])).to(tl.float32)
                else:
                    inside = live & (column < K)[None, :]
                    u += tl.load(source + first * K + (within * K + column[None, :]), mask=inside, other=0.0).to(
                        tl.float32
                    )
                limit = tl.load(theta + column * theta_stride, mask=column < K, other=0.0).to(tl.float32)
                z = tl.where((column < K)[None, :], _threshold(u, limit[None, :]), 0.0)  # 0 · ∞ in the padding
                tl.store(after + own + (within * KP + column[None, :]), z.to(codes.dtype.element_ty))
            tl.debug_barrier()
        if not KEEP:
            last = codes + tl.cast(n_iter % 2, tl.int64) * slab
            for begin in range(0, KP, BLOCK_N):
                column = begin + tl.arange(0, BLOCK_N)
                z = tl.load(last + own + (within * KP + column[None, :]))
                tl.store(z_out + first * K + (within * K + column[None, :]), z, mask=live & (column < K)[None, :])
            if DECODE:
                for begin in range(0, NP, BLOCK_N):
                    feature = begin + tl.arange(0, BLOCK_N)
                    value = _multiply(last + own, KP, decoder, KP, feature, live, KP, False, BLOCK_K, PRECISION)
                    inside = live & (feature < n)[None, :]
                    tl.store(
                        x_hat + first * n + (within * n + feature[None, :]),
                        value.to(x_hat.dtype.element_ty),
                        mask=inside,
                    )
            tl.debug_barrier()


@triton.jit
def adjoint(
    inhibition,  # Sᵀ (KP, KP)
    codes,  # slabs of (rows, KP): z_0 … z_T
    adjoints,  # likewise: holds ĝ_T, receives ĝ_0 … ĝ_{T−1}
    M,
    KP,
    n_iter,
    slab,
    GIVEN: tl.constexpr,  # whether z_0 was given: then ĝ_0 is its gradient, on no support
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """The adjoint recurrence: ĝ_{t−1} = ĝ_t S on the support of z_{t−1}, else 0."""
    within = tl.arange(0, BLOCK_M)[:, None]
    for block in range(tl.program_id(0), tl.cdiv(M, BLOCK_M), tl.num_programs(0)):
        first = tl.cast(block, tl.int64) * BLOCK_M
        live = within < tl.minimum(M - first, BLOCK_M).to(tl.int32)
        own = first * KP
        for back in range(1, n_iter + 1):
            t = tl.cast(n_iter - back, tl.int64)
            for begin in range(0, KP, BLOCK_N):
                column = begin + tl.arange(0, BLOCK_N)
                g = _multiply(
                    adjoints + (t + 1) * slab + own, KP, inhibition, KP, column, live, KP, False, BLOCK_K, PRECISION
                )
                here = within * KP + column[None, :]
                z = tl.load(codes + t * slab + own + here)
                kept = z != 0
                if GIVEN:
                    kept = kept | (t == 0)
                g = tl.where(kept, g, 0.0)
                tl.store(adjoints + t * slab + own + here, g.to(adjoints.dtype.element_ty))
            tl.debug_barrier()


@triton.jit
def collect(
    codes,  # slabs of (rows, KP): z_0 … z_T
    adjoints,  # likewise: ĝ_0 … ĝ_T
    drive,  # b, rows drive_stride apart; not read where GIVEN
    gain,  # one value, or None
    d_drive,  # (rows, KP): receives the gradient of b
    d_theta,  # (blocks of rows, KP), float32: receives sums over the rows of a block
    d_gain,  # (blocks of rows, blocks of columns), float32: receives sums over a tile
    M,
    K,
    KP,
    drive_stride,
    n_iter,
    slab,
    GIVEN: tl.constexpr,  # whether z_0 was given: then ĝ_0 does not go through the threshold
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """What the adjoints add up to for b, θ and γ, in float32."""
    first = tl.program_id(0).to(tl.int64) * BLOCK_M
    within = tl.arange(0, BLOCK_M)[:, None]
    column = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    here = first * KP + (within * KP + column[None, :])
    of_b = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    of_theta = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for step in range(1, n_iter + 1):
        t = tl.cast(step, tl.int64)
        g = tl.load(adjoints + t * slab + here).to(tl.float32)
        z = tl.load(codes + t * slab + here)
        of_b += g
        of_theta -= _sign(z) * g
    if not GIVEN:
        g = tl.load(adjoints + here).to(tl.float32)
        z = tl.load(codes + here)
        of_theta -= _sign(z) * g
        inside = (within < tl.minimum(M - first, BLOCK_M).to(tl.int32)) & (column < K)[None, :]
        b = tl.load(drive + first * drive_stride + (within * drive_stride + column[None, :]), mask=inside, other=0.0)
        share = tl.sum(tl.sum(b.to(tl.float32) * g, axis=1), axis=0)
        tl.store(d_gain + tl.program_id(0) * tl.num_programs(1) + tl.program_id(1), share)
        if gain is not None:
            g = g * tl.load(gain).to(tl.float32)
        of_b += g
    tl.store(d_drive + here, of_b.to(d_drive.dtype.element_ty))
    tl.store(d_theta + tl.program_id(0) * KP + column, tl.sum(of_theta, axis=0))


@triton.jit
def outer(
    left,  # (rows, I), rows left_stride apart
    right,  # (rows, J), rows right_stride apart
    sums,  # (splits, I, J), float32: receives leftᵀ right of every split of the rows
    rows,
    I,  # noqa: E741
    J,
    left_stride,
    right_stride,
    per_split,  # rows of a split, a multiple of BLOCK_K
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    CHAIN: tl.constexpr,  # rows that the matrix units sum up: they round less well than an addition does
    PRECISION: tl.constexpr,
):
    """Sums over rows, left^T right; the rows in a fixed number of splits, each summed in order."""
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


@triton.jit
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
    live = within < tl.minimum(M - first, BLOCK_M).to(tl.int32)
    column = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    value = _multiply(
        left + first * left_stride, left_stride, right, right_stride, column, live, depth, True, BLOCK_K, PRECISION
    )
    inside = live & (column < columns)[None, :]
    target = out + first * columns + (within * columns + column[None, :])
    tl.store(target, value.to(out.dtype.element_ty), mask=inside)
