"""The Triton kernels of the iterations: all of them in one launch, or one launch each.

`forward`: a program takes BLOCK_M rows through all iterations. It writes their codes to its own scratch (`codes`, slab
after slab) and reads them back through the second-level cache; a barrier separates writes from the following reads.
`start`, `residual` and `iterate`: the same code for a tile of rows and columns, with one launch per product. Symbols,
and the meaning of FORM: iteration.py.

Triton recompiles a kernel for every new combination of integers that are 1 or multiples of 16, and of addresses that
are multiples of 16. Widths and row strides use this specialisation, which loads of 16 bytes need. It is turned off for
M, numbers of iterations, the addresses and strides of single values, and the start of an iteration's thresholds.
"""

from __future__ import annotations

import triton
import triton.language as tl

from scvae_fast.ops.backends.triton.iteration import extrapolate_tile, iterate_tile, residual_tile, start_tile
from scvae_fast.ops.backends.triton.products import live_rows, multiply, own_tile


@triton.jit(
    do_not_specialize=["M", "n_iter", "step_stride", "momentum_stride"],
    do_not_specialize_on_alignment=["gain", "step", "momentum"],
)
def forward(
    source,  # x (M, n); FORM "given": b (M, K)
    encoder,  # W_e (KP, NP), or one for each row of it
    inhibition,  # S (KP, KP), or one for each iteration; None if FORM is "factored"
    theta,  # (K,), or one value; or rows of it
    gain,  # one value, or None
    z0,  # (M, K), or None
    step,  # γ, one value or (T,); or None
    momentum,  # β, one value or (T,); or None
    decoder,  # D (NP, KP), if DECODE or FORM "factored", not both
    drives,  # scratch (rows, KP), if b is encoded
    codes,  # scratch, slabs of (rows, KP)
    points,  # likewise: y_t; None without momentum, where it is z_t
    directions,  # likewise: receives v_t, or None
    residuals,  # FORM "factored": scratch, slabs of (rows, NP), or one unless KEEP
    z_out,  # (M, K); not written if KEEP
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
    PADDED: tl.constexpr,  # K < KP: the last columns are padding
    DECODE: tl.constexpr,
    KEEP: tl.constexpr,  # every z_t in a slab of its own, for the rows of all programs
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """z_0, then T times z_{t+1} = h(κ y_t + γ_t v_t); x̂ = z Dᵀ if requested."""
    within = tl.arange(0, BLOCK_M)[:, None]
    for block in range(tl.program_id(0), tl.cdiv(M, BLOCK_M), tl.num_programs(0)):
        first = tl.cast(block, tl.int64) * BLOCK_M
        live = live_rows(first, M, BLOCK_M)
        scratch_row = first if KEEP else tl.program_id(0).to(tl.int64) * BLOCK_M
        own = scratch_row * KP
        for begin in range(0, KP, BLOCK_N):
            column = begin + tl.arange(0, BLOCK_N)
            start_tile(
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
                    residual_tile(
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
                z = iterate_tile(
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
                    PADDED,
                    BLOCK_K,
                    PRECISION,
                )
                tl.store(after + own + (within * KP + column[None, :]), z.to(codes.dtype.element_ty))
                if momentum is not None:
                    extrapolate_tile(
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


@triton.jit(do_not_specialize=["M"], do_not_specialize_on_alignment=["theta", "gain"])
def start(
    source,  # x (M, n); FORM "given": b (M, K)
    encoder,  # W_e (KP, NP) of row 0
    theta,  # (K,), or one value, of row 0
    gain,  # one value, or None
    z0,  # (M, K), or None
    drives,  # (rows, KP), receives b if it is encoded
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
    """The start of `forward`; one tile per program."""
    first, column = own_tile(BLOCK_M, BLOCK_N)
    live = live_rows(first, M, BLOCK_M)
    start_tile(
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


@triton.jit(do_not_specialize=["M"])
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
    """The first part of an iteration in the factored form; one tile per program."""
    first, feature = own_tile(BLOCK_M, BLOCK_N)
    residual_tile(
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


@triton.jit(
    do_not_specialize=["t", "n_iter", "M", "after_rows", "step_stride", "momentum_stride"],
    do_not_specialize_on_alignment=["theta", "step", "momentum"],  # those of an iteration start at any address
)
def iterate(
    codes,  # (rows, KP): z_t
    points,  # likewise: y_t; None without momentum, where it is z_t
    residuals,  # FORM "factored": (rows, NP): x − y_t Dᵀ
    drives,  # FORM "encoded": (rows, KP): b
    directions,  # (rows, KP), receives v_t; or None
    after,  # (after_rows, after_columns), receives z_{t+1}
    later_points,  # (rows, KP), receives y_{t+1}, with momentum
    source,  # x (M, n); FORM "given": b (M, K)
    encoder,  # W_e (KP, NP) of this iteration, if FORM is "each" or "factored"
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
    PADDED: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """An iteration of `forward`; one tile per program."""
    first, column = own_tile(BLOCK_M, BLOCK_N)
    live = live_rows(first, M, BLOCK_M)
    own = first * KP
    z = iterate_tile(
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
        PADDED,
        BLOCK_K,
        PRECISION,
    )
    here = tl.arange(0, BLOCK_M)[:, None] * after_columns + column[None, :]
    inside = live_rows(first, after_rows, BLOCK_M) & (column < after_columns)[None, :]
    tl.store(after + first * after_columns + here, z.to(after.dtype.element_ty), mask=inside)
    if momentum is not None:
        extrapolate_tile(z, codes + own, later_points + own, momentum, momentum_stride, t, n_iter, column, live, K, KP)
