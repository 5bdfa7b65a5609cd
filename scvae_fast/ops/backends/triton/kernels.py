"""The Triton kernels of the iterations, forward and adjoint: all of them in one launch, or a launch for each.

M rows, n features, K atoms, T iterations; columns are padded to whole tiles: KP, NP. `forward` and `adjoint`: a program
takes BLOCK_M rows through all iterations; their codes go to scratch of their own (`codes`, slab after slab) and come
back from there, through the second-level cache; a barrier separates what a program writes from what it reads next.
`start`, `residual`, `iterate`, `filter_back` and `step_back`: the same text for a tile of rows and columns, and a
launch for every product.

The iteration is that of reference.py. FORM says where v comes from: "given", b is an argument; "encoded", b = x W_eᵀ is
computed once; "each", every iteration has its own W_e; "factored", there is no S. What a problem does not have is None
or a flag that is off, and leaves nothing in the compiled kernel.

Matrices are packed by `launch.py`: see products.py.
"""

from __future__ import annotations

import triton
import triton.language as tl

from scvae_fast.ops.backends.triton import tiles
from scvae_fast.ops.backends.triton.products import add_product, live_rows, multiply

TOGETHER = tl.constexpr(tiles.TOGETHER)


@triton.jit
def _threshold(u, theta, POSITIVE: tl.constexpr):
    """h_θ(u) = sign(u) max(|u| − θ, 0), or max(u − θ, 0), in float32."""
    if POSITIVE:
        return tl.maximum(u - theta, 0.0, propagate_nan=tl.PropagateNan.ALL)
    else:
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
def _value(values, t, stride):
    """Value t of some that are `stride` apart, in float32."""
    return tl.load(values + t * stride).to(tl.float32)


@triton.jit
def _start(
    source,  # x (M, n); FORM "given": b (M, K)
    encoder,  # W_e (KP, NP) of row 0
    theta,  # of row 0
    gain,
    z0,
    drives,  # scratch, receives b where it is encoded
    codes,  # scratch, receives z_0
    points,  # scratch, receives y_0 = z_0, or None
    first,  # the first row, and where its scratch begins
    own,
    column,
    live,
    n,
    K,
    NP,
    KP,
    theta_stride,
    FORM: tl.constexpr,
    KAPPA: tl.constexpr,
    POSITIVE: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """A tile of z_0 = h(gain · b), of 0, or of the given z0; and of b = x W_eᵀ where asked for."""
    within = tl.arange(0, live.shape[0])[:, None]
    inside = live & (column < K)[None, :]
    FROM_DRIVE: tl.constexpr = KAPPA == 0 and z0 is None
    if FORM == "encoded" or (FORM == "each" and FROM_DRIVE):
        b = multiply(source + first * n, n, encoder, NP, column, live, n, True, BLOCK_K, PRECISION)
        b = b.to(drives.dtype.element_ty)
        tl.store(drives + own + (within * KP + column[None, :]), b)
    elif FROM_DRIVE:
        b = tl.load(source + first * K + (within * K + column[None, :]), mask=inside, other=0.0)
    if FROM_DRIVE:
        u = b.to(tl.float32)
        if gain is not None:
            u = u * tl.load(gain).to(tl.float32)
        z = _threshold(u, _limits(theta, column, theta_stride, K), POSITIVE)
        if POSITIVE:
            z = tl.where(inside, z, 0.0)  # a negative θ switches on what there is not
    elif z0 is not None:
        z = tl.load(z0 + first * K + (within * K + column[None, :]), mask=inside, other=0.0)
    else:
        z = tl.zeros((live.shape[0], column.shape[0]), dtype=tl.float32)
    tl.store(codes + own + (within * KP + column[None, :]), z.to(codes.dtype.element_ty))
    if points is not None:
        tl.store(points + own + (within * KP + column[None, :]), z.to(points.dtype.element_ty))


@triton.jit
def _residual(
    source,  # x (M, n)
    decoder,  # D (NP, KP)
    points,  # the scratch of the block of rows: y_t
    residuals,  # likewise: receives x − y_t Dᵀ
    first,
    feature,
    live,
    n,
    NP,
    KP,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """A tile of x − y_t Dᵀ."""
    within = tl.arange(0, live.shape[0])[:, None]
    inside = live & (feature < n)[None, :]
    rebuilt = multiply(points, KP, decoder, KP, feature, live, KP, False, BLOCK_K, PRECISION)
    x = tl.load(source + first * n + (within * n + feature[None, :]), mask=inside, other=0.0).to(tl.float32)
    value = tl.where(inside, x - rebuilt, 0.0)
    tl.store(residuals + (within * NP + feature[None, :]), value.to(residuals.dtype.element_ty))


@triton.jit
def _iterate(
    points,  # the scratch of the block of rows: y_t
    residuals,  # likewise; FORM "factored": x − y_t Dᵀ
    drives,  # scratch; FORM "encoded": b
    directions,  # the scratch of the block of rows: receives v_t, or None
    source,  # x (M, n); FORM "given": b (M, K)
    encoder,  # W_e (KP, NP) of this iteration
    inhibition,  # S (KP, KP) of this iteration
    theta,  # of this iteration
    step,
    step_stride,
    t,
    first,  # the first row, and where its scratch begins
    own,
    column,
    live,
    n,
    K,
    NP,
    KP,
    theta_stride,
    FORM: tl.constexpr,
    KAPPA: tl.constexpr,
    NEGATIVE: tl.constexpr,
    POSITIVE: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """A tile of z_{t+1} = h(κ y_t + γ_t v_t), in float32."""
    within = tl.arange(0, live.shape[0])[:, None]
    inside = live & (column < K)[None, :]
    if FORM == "factored":
        u = multiply(residuals, NP, encoder, NP, column, live, NP, False, BLOCK_K, PRECISION)
    else:
        u = multiply(points, KP, inhibition, KP, column, live, KP, False, BLOCK_K, PRECISION)
        if NEGATIVE:
            u = -u
    if FORM == "each":
        u = add_product(u, source + first * n, n, encoder, NP, column, live, n, True, BLOCK_K, PRECISION)
    elif FORM == "encoded":
        u += tl.load(drives + own + (within * KP + column[None, :])).to(tl.float32)
    elif FORM == "given":
        u += tl.load(source + first * K + (within * K + column[None, :]), mask=inside, other=0.0).to(tl.float32)
    if directions is not None:
        v = tl.where(inside, u, 0.0).to(directions.dtype.element_ty)
        tl.store(directions + (within * KP + column[None, :]), v)
    if step is not None:
        u *= _value(step, t, step_stride)
    if KAPPA:
        u += tl.load(points + (within * KP + column[None, :])).to(tl.float32)
    z = _threshold(u, _limits(theta, column, theta_stride, K), POSITIVE)
    # In the padding there is 0 · ∞; in rows that there are not, what a negative θ or a special step makes of 0.
    return tl.where(inside if KAPPA or POSITIVE else (column < K)[None, :], z, 0.0)


@triton.jit
def _extrapolate(
    z,  # z_{t+1}
    codes,  # the scratch of the block of rows: z_t
    points,  # likewise: receives y_{t+1}
    momentum,
    momentum_stride,
    t,
    n_iter,
    column,
    live,
    K,
    KP,
):
    """A tile of y_{t+1} = z_{t+1} + β_{t+1} (z_{t+1} − z_t); nobody reads y_T."""
    here = tl.arange(0, live.shape[0])[:, None] * KP + column[None, :]
    beta = _value(momentum, tl.minimum(t + 1, n_iter - 1), momentum_stride)
    y = z + beta * (z - tl.load(codes + here).to(tl.float32))
    y = tl.where(live & (column < K)[None, :], y, 0.0)
    tl.store(points + here, y.to(points.dtype.element_ty))


@triton.jit
def _filter_back(
    after,  # the scratch of the block of rows: ĝ_{t+1}
    encoder,  # W_eᵀ (NP, KP) of this iteration
    step,
    step_stride,
    t,
    residual_grads,  # likewise: receives e_t
    feature,
    live,
    n,
    NP,
    KP,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """A tile of e_t = γ_t ĝ_{t+1} W_t."""
    e = multiply(after, KP, encoder, KP, feature, live, KP, False, BLOCK_K, PRECISION)
    if step is not None:
        e *= _value(step, t, step_stride)
    e = tl.where(live & (feature < n)[None, :], e, 0.0)
    here = tl.arange(0, live.shape[0])[:, None] * NP + feature[None, :]
    tl.store(residual_grads + here, e.to(residual_grads.dtype.element_ty))


@triton.jit
def _step_back(
    after,  # the scratch of the block of rows: ĝ_{t+1}
    residual_grads,  # likewise; FACTORED: e_t
    inhibition,  # Sᵀ (KP, KP) of this iteration; FACTORED: Dᵀ (KP, NP)
    codes,  # likewise: z_t
    adjoints,  # likewise: receives ĝ_t
    point_grads,  # likewise: receives q_t; None without momentum
    later_grads,  # likewise: q_{t+1}
    step,
    step_stride,
    momentum,
    momentum_stride,
    t,
    n_iter,
    column,
    live,
    K,
    NP,
    KP,
    GIVEN: tl.constexpr,
    FACTORED: tl.constexpr,
    KAPPA: tl.constexpr,
    NEGATIVE: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """A tile of ĝ_t: of g_t = (1 + β_t) q_t − β_{t+1} q_{t+1} on the support of z_t, else 0; q_t is ∂L/∂y_t."""
    here = tl.arange(0, live.shape[0])[:, None] * KP + column[None, :]
    if FACTORED:
        g = -multiply(residual_grads, NP, inhibition, NP, column, live, NP, False, BLOCK_K, PRECISION)
    else:
        g = multiply(after, KP, inhibition, KP, column, live, KP, False, BLOCK_K, PRECISION)
        if NEGATIVE:
            g = -g
        if step is not None:
            g *= _value(step, t, step_stride)
    if KAPPA:
        g += tl.load(after + here).to(tl.float32)
    if point_grads is not None:
        inside = live & (column < K)[None, :]
        q = tl.where(inside, g, 0.0)
        tl.store(point_grads + here, q.to(point_grads.dtype.element_ty))
        later = tl.load(later_grads + here, mask=inside & (t + 1 < n_iter), other=0.0).to(tl.float32)
        from_later = _value(momentum, tl.minimum(t + 1, n_iter - 1), momentum_stride) * later
        g = q + tl.where(t > 0, _value(momentum, t, momentum_stride) * q, 0.0)
        g -= tl.where(t + 1 < n_iter, from_later, 0.0)
    on = tl.load(codes + here) != 0
    if GIVEN:
        on = on | (t == 0)  # a given z0 has no threshold
    tl.store(adjoints + here, tl.where(on, g, 0.0).to(adjoints.dtype.element_ty))


@triton.jit
def forward(
    source,  # x (M, n); FORM "given": b (M, K)
    encoder,  # W_e (KP, NP), or one for each row of it
    inhibition,  # S (KP, KP), or one for each iteration; None where FORM is "factored"
    theta,  # (K,), or one value; or rows of it
    gain,  # one value, or None
    z0,  # (M, K), or None
    step,  # γ, one value or (T,); or None
    momentum,  # β, one value or (T,); or None
    decoder,  # D (NP, KP), where DECODE or FORM "factored", not both
    drives,  # scratch (rows, KP), where b is encoded
    codes,  # scratch, slabs of (rows, KP)
    points,  # likewise: y_t; None without momentum, where it is z_t
    directions,  # likewise: receives v_t, or None
    residuals,  # FORM "factored": scratch, slabs of (rows, NP), or one where not KEEP
    z_out,  # (M, K); not written where KEEP
    x_hat,  # DECODE: (M, n)
    M,
    n,
    K,
    NP,
    KP,
    n_iter,
    slab,  # elements between slabs of codes
    residual_slab,  # and of residuals
    encoder_slab,  # elements between the W_e of iterations, or None
    inhibition_slab,  # and of S
    theta_row,  # elements between rows of θ, or None
    theta_stride,  # 1, or 0
    step_stride,  # likewise
    momentum_stride,  # likewise
    FORM: tl.constexpr,
    KAPPA: tl.constexpr,
    NEGATIVE: tl.constexpr,  # S is given as G = −S
    POSITIVE: tl.constexpr,
    DECODE: tl.constexpr,
    KEEP: tl.constexpr,  # every z_t in a slab of its own, for the rows of all programs
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """z_0, then T times z_{t+1} = h(κ y_t + γ_t v_t); x̂ = z Dᵀ where asked for."""
    within = tl.arange(0, BLOCK_M)[:, None]
    for block in range(tl.program_id(0), tl.cdiv(M, BLOCK_M), tl.num_programs(0)):
        first = tl.cast(block, tl.int64) * BLOCK_M
        live = live_rows(first, M, BLOCK_M)
        scratch_row = first if KEEP else tl.program_id(0).to(tl.int64) * BLOCK_M
        own = scratch_row * KP
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
                points,
                first,
                own,
                column,
                live,
                n,
                K,
                NP,
                KP,
                theta_stride,
                FORM,
                KAPPA,
                POSITIVE,
                BLOCK_K,
                PRECISION,
            )
        tl.debug_barrier()
        for t in range(n_iter):
            at = tl.cast(t, tl.int64)
            now = (at if KEEP else at % 2) * slab
            later = (at + 1 if KEEP else (at + 1) % 2) * slab
            before, after = codes + now, codes + later
            at_points = before if points is None else points + now
            row = at + 1 - KAPPA
            if FORM == "factored":
                own_residuals = residuals + ((at * residual_slab if KEEP else 0) + scratch_row * NP)
                for begin in range(0, NP, BLOCK_N):
                    feature = begin + tl.arange(0, BLOCK_N)
                    _residual(
                        source,
                        decoder,
                        at_points + own,
                        own_residuals,
                        first,
                        feature,
                        live,
                        n,
                        NP,
                        KP,
                        BLOCK_K,
                        PRECISION,
                    )
                tl.debug_barrier()
            for begin in range(0, KP, BLOCK_N):
                column = begin + tl.arange(0, BLOCK_N)
                z = _iterate(
                    at_points + own,
                    own_residuals if FORM == "factored" else None,
                    drives,
                    directions + (at * slab + own) if directions is not None else None,
                    source,
                    encoder if encoder_slab is None else encoder + row * encoder_slab,
                    inhibition if inhibition_slab is None else inhibition + at * inhibition_slab,
                    theta if theta_row is None else theta + row * theta_row,
                    step,
                    step_stride,
                    t,
                    first,
                    own,
                    column,
                    live,
                    n,
                    K,
                    NP,
                    KP,
                    theta_stride,
                    FORM,
                    KAPPA,
                    NEGATIVE,
                    POSITIVE,
                    BLOCK_K,
                    PRECISION,
                )
                tl.store(after + own + (within * KP + column[None, :]), z.to(codes.dtype.element_ty))
                if momentum is not None:
                    _extrapolate(
                        z,
                        before + own,
                        points + later + own,
                        momentum,
                        momentum_stride,
                        t,
                        n_iter,
                        column,
                        live,
                        K,
                        KP,
                    )
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
    source,  # x (M, n); FORM "given": b (M, K)
    encoder,  # W_e (KP, NP) of row 0
    theta,  # (K,), or one value, of row 0
    gain,  # one value, or None
    z0,  # (M, K), or None
    drives,  # (rows, KP), receives b where it is encoded
    codes,  # (rows, KP), receives z_0
    points,  # likewise, or None
    M,
    n,
    K,
    NP,
    KP,
    theta_stride,  # 1, or 0
    FORM: tl.constexpr,
    KAPPA: tl.constexpr,
    POSITIVE: tl.constexpr,
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
        points,
        first,
        first * KP,
        column,
        live,
        n,
        K,
        NP,
        KP,
        theta_stride,
        FORM,
        KAPPA,
        POSITIVE,
        BLOCK_K,
        PRECISION,
    )


@triton.jit
def residual(
    source,  # x (M, n)
    decoder,  # D (NP, KP)
    points,  # (rows, KP): y_t
    residuals,  # (rows, NP), receives x − y_t Dᵀ
    M,
    n,
    NP,
    KP,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """What an iteration of the factored form begins with, a tile a program."""
    first, feature = _own_tile(BLOCK_M, BLOCK_N)
    _residual(
        source,
        decoder,
        points + first * KP,
        residuals + first * NP,
        first,
        feature,
        live_rows(first, M, BLOCK_M),
        n,
        NP,
        KP,
        BLOCK_K,
        PRECISION,
    )


@triton.jit(do_not_specialize=["t", "n_iter"])
def iterate(
    codes,  # (rows, KP): z_t
    points,  # likewise: y_t; None without momentum, where it is z_t
    residuals,  # FORM "factored": (rows, NP): x − y_t Dᵀ
    drives,  # FORM "encoded": (rows, KP): b
    directions,  # (rows, KP), receives v_t; or None
    after,  # (after_rows, after_columns), receives z_{t+1}
    later_points,  # (rows, KP), receives y_{t+1} where there is momentum
    source,  # x (M, n); FORM "given": b (M, K)
    encoder,  # W_e (KP, NP) of this iteration, where FORM is "each" or "factored"
    inhibition,  # S (KP, KP) of this iteration
    theta,  # (K,), or one value, of this iteration
    step,  # γ, one value or (T,); or None
    momentum,  # β, likewise
    t,
    n_iter,
    M,
    n,
    K,
    NP,
    KP,
    after_rows,
    after_columns,
    theta_stride,  # 1, or 0
    step_stride,  # likewise
    momentum_stride,  # likewise
    FORM: tl.constexpr,
    KAPPA: tl.constexpr,
    NEGATIVE: tl.constexpr,
    POSITIVE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """An iteration of `forward`, a tile a program."""
    first, column = _own_tile(BLOCK_M, BLOCK_N)
    live = live_rows(first, M, BLOCK_M)
    own = first * KP
    z = _iterate(
        codes + own if points is None else points + own,
        residuals + first * NP if FORM == "factored" else None,
        drives,
        directions + own if directions is not None else None,
        source,
        encoder,
        inhibition,
        theta,
        step,
        step_stride,
        t,
        first,
        own,
        column,
        live,
        n,
        K,
        NP,
        KP,
        theta_stride,
        FORM,
        KAPPA,
        NEGATIVE,
        POSITIVE,
        BLOCK_K,
        PRECISION,
    )
    here = tl.arange(0, BLOCK_M)[:, None] * after_columns + column[None, :]
    inside = live_rows(first, after_rows, BLOCK_M) & (column < after_columns)[None, :]
    tl.store(after + first * after_columns + here, z.to(after.dtype.element_ty), mask=inside)
    if momentum is not None:
        _extrapolate(z, codes + own, later_points + own, momentum, momentum_stride, t, n_iter, column, live, K, KP)


@triton.jit
def adjoint(
    encoder,  # FACTORED: W_eᵀ (NP, KP), or one for each iteration
    inhibition,  # Sᵀ (KP, KP), or one for each iteration; FACTORED: Dᵀ (KP, NP)
    step,  # γ, one value or (T,); or None
    codes,  # slabs of (rows, KP): z_0 … z_T
    adjoints,  # likewise: holds ĝ_T, receives those before
    residual_grads,  # FACTORED: slabs of (rows, NP), receives e_t
    M,
    n,
    K,
    NP,
    KP,
    n_iter,
    steps,  # back from T
    slab,  # elements between slabs of codes
    residual_slab,  # and of e_t
    encoder_slab,  # elements between the W_eᵀ of iterations, or None
    inhibition_slab,  # and of Sᵀ
    step_stride,  # 1, or 0
    GIVEN: tl.constexpr,  # whether z_0 was given: ĝ_0 is its gradient, and on no support
    FACTORED: tl.constexpr,
    KAPPA: tl.constexpr,
    NEGATIVE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """The adjoint recurrence, from ĝ_T back. With momentum it needs more registers than there are: see `step_back`."""
    for block in range(tl.program_id(0), tl.cdiv(M, BLOCK_M), tl.num_programs(0)):
        first = tl.cast(block, tl.int64) * BLOCK_M
        live = live_rows(first, M, BLOCK_M)
        own = first * KP
        for back in range(1, steps + 1):
            t = tl.cast(n_iter - back, tl.int64)
            after = adjoints + (t + 1) * slab + own
            if FACTORED:
                own_grads = residual_grads + (t * residual_slab + first * NP)
                for begin in range(0, NP, BLOCK_N):
                    feature = begin + tl.arange(0, BLOCK_N)
                    _filter_back(
                        after,
                        encoder if encoder_slab is None else encoder + t * encoder_slab,
                        step,
                        step_stride,
                        t,
                        own_grads,
                        feature,
                        live,
                        n,
                        NP,
                        KP,
                        BLOCK_K,
                        PRECISION,
                    )
                tl.debug_barrier()
            for begin in range(0, KP, BLOCK_N):
                column = begin + tl.arange(0, BLOCK_N)
                _step_back(
                    after,
                    own_grads if FACTORED else None,
                    inhibition if inhibition_slab is None else inhibition + t * inhibition_slab,
                    codes + t * slab + own,
                    adjoints + t * slab + own,
                    None,
                    None,
                    step,
                    step_stride,
                    None,
                    None,
                    t,
                    n_iter,
                    column,
                    live,
                    K,
                    NP,
                    KP,
                    GIVEN,
                    FACTORED,
                    KAPPA,
                    NEGATIVE,
                    BLOCK_K,
                    PRECISION,
                )
            tl.debug_barrier()


@triton.jit(do_not_specialize=["t"])
def filter_back(
    after,  # (rows, KP): ĝ_{t+1}
    encoder,  # W_eᵀ (NP, KP) of this iteration
    step,  # γ, one value or (T,); or None
    residual_grads,  # (rows, NP), receives e_t
    t,
    M,
    n,
    NP,
    KP,
    step_stride,  # 1, or 0
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """What an iteration of the factored form's adjoint begins with, a tile a program."""
    first, feature = _own_tile(BLOCK_M, BLOCK_N)
    _filter_back(
        after + first * KP,
        encoder,
        step,
        step_stride,
        t,
        residual_grads + first * NP,
        feature,
        live_rows(first, M, BLOCK_M),
        n,
        NP,
        KP,
        BLOCK_K,
        PRECISION,
    )


@triton.jit(do_not_specialize=["t", "n_iter"])
def step_back(
    after,  # (rows, KP): ĝ_{t+1}
    residual_grads,  # FACTORED: (rows, NP): e_t
    inhibition,  # Sᵀ (KP, KP) of this iteration; FACTORED: Dᵀ (KP, NP)
    codes,  # (rows, KP): z_t
    adjoints,  # (rows, KP), receives ĝ_t
    point_grads,  # (rows, KP), receives q_t; None without momentum
    later_grads,  # (rows, KP): q_{t+1}
    step,  # γ, one value or (T,); or None
    momentum,  # β, likewise
    t,
    n_iter,
    M,
    K,
    NP,
    KP,
    step_stride,  # 1, or 0
    momentum_stride,  # likewise
    GIVEN: tl.constexpr,
    FACTORED: tl.constexpr,
    KAPPA: tl.constexpr,
    NEGATIVE: tl.constexpr,
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
        residual_grads + first * NP if FACTORED else None,
        inhibition,
        codes + own,
        adjoints + own,
        point_grads + own if point_grads is not None else None,
        later_grads + own if point_grads is not None else None,
        step,
        step_stride,
        momentum,
        momentum_stride,
        t,
        n_iter,
        column,
        live_rows(first, M, BLOCK_M),
        K,
        NP,
        KP,
        GIVEN,
        FACTORED,
        KAPPA,
        NEGATIVE,
        BLOCK_K,
        PRECISION,
    )
