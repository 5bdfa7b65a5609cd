"""The Triton kernels of the adjoint recurrence: all iterations in one launch, or a launch for each product.

Built like the kernels of forward_kernels.py. Symbols: iteration.py, and `Iterates` of fused.py.
"""

from __future__ import annotations

import triton
import triton.language as tl

from scvae_fast.ops.backends.triton.products import live_rows, multiply, own_tile, value_of


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
        e *= value_of(step, t, step_stride)
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
    """A tile of ĝ_t: g_t = (1 + β_t) q_t − β_{t+1} q_{t+1} on the support of z_t, else 0; q_t is ∂L/∂y_t."""
    here = tl.arange(0, live.shape[0])[:, None] * KP + column[None, :]
    if FACTORED:
        g = -multiply(residual_grads, NP, inhibition, NP, column, live, NP, False, BLOCK_K, PRECISION)
    else:
        g = multiply(after, KP, inhibition, KP, column, live, KP, False, BLOCK_K, PRECISION)
        if NEGATIVE:
            g = -g
        if step is not None:
            g *= value_of(step, t, step_stride)
    if KAPPA:
        g += tl.load(after + here).to(tl.float32)
    if point_grads is not None:
        inside = live & (column < K)[None, :]
        q = tl.where(inside, g, 0.0)
        tl.store(point_grads + here, q.to(point_grads.dtype.element_ty))
        later = tl.load(later_grads + here, mask=live & (t + 1 < n_iter), other=0.0).to(tl.float32)
        from_later = value_of(momentum, tl.minimum(t + 1, n_iter - 1), momentum_stride) * later
        g = q + tl.where(t > 0, value_of(momentum, t, momentum_stride) * q, 0.0)
        g -= tl.where(t + 1 < n_iter, from_later, 0.0)
    on = tl.load(codes + here) != 0
    if GIVEN:
        on = on | (t == 0)  # a given z0 has no threshold
    tl.store(adjoints + here, tl.where(on, g, 0.0).to(adjoints.dtype.element_ty))


@triton.jit(
    do_not_specialize=["M", "n", "K", "n_iter", "steps", "step_stride"], do_not_specialize_on_alignment=["step"]
)
def adjoint(
    encoder,  # FACTORED: W_eᵀ (NP, KP), or one for each iteration
    inhibition,  # Sᵀ (KP, KP), or one for each iteration; FACTORED: Dᵀ (KP, NP)
    step,  # γ, one value or (T,); or None
    codes,  # slabs of (rows, KP): z_0 … z_T
    adjoints,  # likewise: holds ĝ_T, receives the earlier ones
    residual_grads,  # FACTORED: slabs of (rows, NP), receives e_t
    M,
    n,
    K,
    NP,
    KP,
    n_iter,
    steps,  # number of steps back from T
    slab,  # elements between slabs of codes
    residual_slab,  # and of e_t
    encoder_slab,  # elements between the W_eᵀ of iterations, or None
    inhibition_slab,  # and of Sᵀ
    step_stride,  # 1, or 0
    GIVEN: tl.constexpr,  # whether z_0 was given: ĝ_0 is its gradient, not masked by a support
    FACTORED: tl.constexpr,
    KAPPA: tl.constexpr,
    NEGATIVE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """The adjoint recurrence, from ĝ_T back. With momentum it would need too many registers: see `step_back`."""
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


@triton.jit(do_not_specialize=["t", "M", "n", "step_stride"], do_not_specialize_on_alignment=["step"])
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
    """The first part of an adjoint iteration in the factored form; one tile per program."""
    first, feature = own_tile(BLOCK_M, BLOCK_N)
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


@triton.jit(
    do_not_specialize=["t", "n_iter", "M", "K", "step_stride", "momentum_stride"],
    do_not_specialize_on_alignment=["step", "momentum"],
)
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
    """An iteration of `adjoint`; one tile per program."""
    first, column = own_tile(BLOCK_M, BLOCK_N)
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
