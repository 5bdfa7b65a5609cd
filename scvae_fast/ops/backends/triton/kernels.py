"""The Triton kernels of the iterations, forward and adjoint: all of them in one launch, or a launch for each.

M rows, n features, K atoms, T iterations; columns are padded to whole tiles: KP, NP. `forward` and `adjoint`: a program
takes BLOCK_M rows through all iterations; their codes go to scratch of their own (`codes`, slab after slab) and come
back from there, through the second-level cache; a barrier separates what a program writes from what it reads next.
`start`, `step` and `step_back`: the same text for a tile of rows and columns, and a launch for every iteration.

Matrices are packed by `launch.py`: see products.py.
"""

from __future__ import annotations

import triton
import triton.language as tl

from scvae_fast.ops.backends.triton import tiles
from scvae_fast.ops.backends.triton.products import live_rows, multiply

TOGETHER = tl.constexpr(tiles.TOGETHER)


@triton.jit
def _threshold(u, theta):
    """h_θ(u) = sign(u) max(|u| − θ, 0), in float32."""
    excess = tl.maximum(tl.abs(u) - theta, 0.0, propagate_nan=tl.PropagateNan.ALL)
    return tl.where(u > 0, excess, tl.where(u < 0, -excess, 0.0 * excess))


@triton.jit
def _own_tile(BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    """First row and columns of a program's tile, in a grid of row blocks and column blocks.

    Some column blocks go through all rows together: their part of the right factor stays in the second-level cache.
    """
    j, i = tl.swizzle2d(tl.program_id(1), tl.program_id(0), tl.num_programs(1), tl.num_programs(0), TOGETHER)
    return i.to(tl.int64) * BLOCK_M, j * BLOCK_N + tl.arange(0, BLOCK_N)


@triton.jit
def _limits(theta, column, theta_stride, K):
    """θ of some atoms (1, BLOCK_N), in float32; 0 in the padding."""
    return tl.load(theta + column * theta_stride, mask=column < K, other=0.0).to(tl.float32)[None, :]


@triton.jit
def _start(
    source,  # ENCODE: x (M, n); else b (M, K)
    encoder,  # ENCODE: W_e (KP, NP)
    theta,
    gain,
    z0,
    drives,  # ENCODE: scratch, receives b
    codes,  # scratch, receives z_0
    first,  # the first row, and where its scratch begins
    own,
    column,
    live,
    n,
    K,
    NP,
    KP,
    theta_stride,
    ENCODE: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """A tile of z_0 = h(γ b), or of the given z0; and of b = W_e x where asked for."""
    within = tl.arange(0, live.shape[0])[:, None]
    inside = live & (column < K)[None, :]
    if ENCODE:
        b = multiply(source + first * n, n, encoder, NP, column, live, n, True, BLOCK_K, PRECISION)
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
        z = _threshold(u, _limits(theta, column, theta_stride, K))
    tl.store(codes + own + (within * KP + column[None, :]), z.to(codes.dtype.element_ty))


@triton.jit
def _iterate(
    before,  # scratch: z_t
    inhibition,  # S (KP, KP)
    source,  # not ENCODE: b (M, K)
    theta,
    drives,  # ENCODE: scratch: b
    first,  # the first row, and where its scratch begins
    own,
    column,
    live,
    K,
    KP,
    theta_stride,
    ENCODE: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """A tile of z_{t+1} = h(b + S z_t), in float32."""
    within = tl.arange(0, live.shape[0])[:, None]
    u = multiply(before + own, KP, inhibition, KP, column, live, KP, False, BLOCK_K, PRECISION)
    if ENCODE:
        u += tl.load(drives + own + (within * KP + column[None, :])).to(tl.float32)
    else:
        inside = live & (column < K)[None, :]
        u += tl.load(source + first * K + (within * K + column[None, :]), mask=inside, other=0.0).to(tl.float32)
    z = _threshold(u, _limits(theta, column, theta_stride, K))
    return tl.where((column < K)[None, :], z, 0.0)  # 0 · ∞ in the padding


@triton.jit
def _step_back(
    after,  # the scratch of the block of rows: ĝ_{t+1}
    inhibition,  # Sᵀ (KP, KP)
    codes,  # likewise: z_t
    adjoints,  # likewise: receives ĝ_t
    column,
    live,
    KP,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """A tile of ĝ_t = ĝ_{t+1} S on the support of z_t, else 0."""
    g = multiply(after, KP, inhibition, KP, column, live, KP, False, BLOCK_K, PRECISION)
    here = tl.arange(0, live.shape[0])[:, None] * KP + column[None, :]
    g = tl.where(tl.load(codes + here) != 0, g, 0.0)
    tl.store(adjoints + here, g.to(adjoints.dtype.element_ty))


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
        live = live_rows(first, M, BLOCK_M)
        own = (first if KEEP else tl.program_id(0).to(tl.int64) * BLOCK_M) * KP
        for begin in range(0, KP, BLOCK_N):
            column = begin + tl.arange(0, BLOCK_N)
            _start(
                source,
                encoder,
                theta,
                gain,
                z0,
                drives,
                codes,
                first,
                own,
                column,
                live,
                n,
                K,
                NP,
                KP,
                theta_stride,
                ENCODE,
                BLOCK_K,
                PRECISION,
            )
        tl.debug_barrier()
        for t in range(n_iter):
            step = tl.cast(t, tl.int64)
            before = codes + (step if KEEP else step % 2) * slab
            after = codes + (step + 1 if KEEP else (step + 1) % 2) * slab
            for begin in range(0, KP, BLOCK_N):
                column = begin + tl.arange(0, BLOCK_N)
                z = _iterate(
                    before,
                    inhibition,
                    source,
                    theta,
                    drives,
                    first,
                    own,
                    column,
                    live,
                    K,
                    KP,
                    theta_stride,
                    ENCODE,
                    BLOCK_K,
                    PRECISION,
                )
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
                    value = multiply(last + own, KP, decoder, KP, feature, live, KP, False, BLOCK_K, PRECISION)
                    inside = live & (feature < n)[None, :]
                    tl.store(
                        x_hat + first * n + (within * n + feature[None, :]),
                        value.to(x_hat.dtype.element_ty),
                        mask=inside,
                    )
            tl.debug_barrier()


@triton.jit
def start(
    source,  # ENCODE: x (M, n); else b (M, K)
    encoder,  # ENCODE: W_e (KP, NP)
    theta,  # (K,), or one value
    gain,  # one value, or None
    z0,  # (M, K), or None
    drives,  # ENCODE: (rows, KP), receives b
    codes,  # (rows, KP), receives z_0
    M,
    n,
    K,
    NP,
    KP,
    theta_stride,  # 1, or 0
    ENCODE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """What `forward` begins with, a tile a program."""
    first, column = _own_tile(BLOCK_M, BLOCK_N)
    live = live_rows(first, M, BLOCK_M)
    _start(
        source,
        encoder,
        theta,
        gain,
        z0,
        drives,
        codes,
        first,
        first * KP,
        column,
        live,
        n,
        K,
        NP,
        KP,
        theta_stride,
        ENCODE,
        BLOCK_K,
        PRECISION,
    )


@triton.jit
def step(
    before,  # (rows, KP): z_t
    inhibition,  # S (KP, KP)
    source,  # not ENCODE: b (M, K)
    theta,  # (K,), or one value
    drives,  # ENCODE: (rows, KP): b
    after,  # (after_rows, after_columns), receives z_{t+1}
    M,
    K,
    KP,
    after_rows,
    after_columns,
    theta_stride,  # 1, or 0
    ENCODE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """An iteration of `forward`, a tile a program."""
    first, column = _own_tile(BLOCK_M, BLOCK_N)
    live = live_rows(first, M, BLOCK_M)
    z = _iterate(
        before,
        inhibition,
        source,
        theta,
        drives,
        first,
        first * KP,
        column,
        live,
        K,
        KP,
        theta_stride,
        ENCODE,
        BLOCK_K,
        PRECISION,
    )
    here = tl.arange(0, BLOCK_M)[:, None] * after_columns + column[None, :]
    inside = live_rows(first, after_rows, BLOCK_M) & (column < after_columns)[None, :]
    tl.store(after + first * after_columns + here, z.to(after.dtype.element_ty), mask=inside)


@triton.jit
def adjoint(
    inhibition,  # Sᵀ (KP, KP)
    codes,  # slabs of (rows, KP): z_0 … z_T
    adjoints,  # likewise: holds ĝ_T, receives those before
    M,
    KP,
    n_iter,
    steps,  # back from T
    slab,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """The adjoint recurrence: ĝ_t = ĝ_{t+1} S on the support of z_t, else 0."""
    for block in range(tl.program_id(0), tl.cdiv(M, BLOCK_M), tl.num_programs(0)):
        first = tl.cast(block, tl.int64) * BLOCK_M
        live = live_rows(first, M, BLOCK_M)
        own = first * KP
        for back in range(1, steps + 1):
            t = tl.cast(n_iter - back, tl.int64)
            for begin in range(0, KP, BLOCK_N):
                column = begin + tl.arange(0, BLOCK_N)
                _step_back(
                    adjoints + (t + 1) * slab + own,
                    inhibition,
                    codes + t * slab + own,
                    adjoints + t * slab + own,
                    column,
                    live,
                    KP,
                    BLOCK_K,
                    PRECISION,
                )
            tl.debug_barrier()


@triton.jit
def step_back(
    after,  # (rows, KP): ĝ_{t+1}
    inhibition,  # Sᵀ (KP, KP)
    codes,  # (rows, KP): z_t
    adjoints,  # (rows, KP), receives ĝ_t
    M,
    KP,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """An iteration of `adjoint`, a tile a program."""
    first, column = _own_tile(BLOCK_M, BLOCK_N)
    own = first * KP
    _step_back(
        after + own,
        inhibition,
        codes + own,
        adjoints + own,
        column,
        live_rows(first, M, BLOCK_M),
        KP,
        BLOCK_K,
        PRECISION,
    )
