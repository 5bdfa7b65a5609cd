"""One iteration of the LISTA family in Triton, for a tile of rows and columns, and the start before the first one.

M rows, n features, K atoms, T iterations; columns are padded to whole tiles: KP, NP. The iteration is that of
reference.py. FORM is the source of v: "given", b is an argument; "encoded", b = x W_eᵀ is computed once; "each",
every iteration has its own W_e; "factored", there is no S. Absent parts of a problem are None or a flag that is off,
and leave nothing in the compiled kernel.

Matrices are packed by `launch.py`: see products.py.
"""

from __future__ import annotations

import triton
import triton.language as tl

from scvae_fast.ops.backends.triton.products import add_product, multiply, value_of


@triton.jit
def _threshold(u, theta, POSITIVE: tl.constexpr):
    """h_θ(u) = sign(u) max(|u| − θ, 0), or max(u − θ, 0), in float32."""
    if POSITIVE:
        return tl.maximum(u - theta, 0.0, propagate_nan=tl.PropagateNan.ALL)
    else:
        excess = tl.maximum(tl.abs(u) - theta, 0.0, propagate_nan=tl.PropagateNan.ALL)
        zero = tl.minimum(excess, 0.0, propagate_nan=tl.PropagateNan.ALL)  # 0 or NaN
        return tl.where(u > 0, excess, tl.where(u < 0, -excess, zero))


@triton.jit
def _limits(theta, column, theta_stride, K):
    """θ of some atoms (1, BLOCK_N), in float32; 0 in the padding."""
    return tl.load(theta + column * theta_stride, mask=column < K, other=0.0).to(tl.float32)[None, :]


@triton.jit
def start_tile(
    source,  # x (M, n); FORM "given": b (M, K)
    encoder,  # W_e (KP, NP) of row 0
    theta,  # of row 0
    gain,
    z0,
    drives,  # scratch, receives b if it is encoded
    codes,  # scratch, receives z_0
    points,  # scratch, receives y_0 = z_0, or None
    first,  # the first row, and the start of its scratch
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
    """A tile of z_0 = h(gain · b), of 0, or of the given z0; and of b = x W_eᵀ if requested."""
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
            z = tl.where(inside, z, 0.0)  # a negative θ makes padding nonzero
    elif z0 is not None:
        z = tl.load(z0 + first * K + (within * K + column[None, :]), mask=inside, other=0.0)
    else:
        z = tl.zeros((live.shape[0], column.shape[0]), dtype=tl.float32)
    tl.store(codes + own + (within * KP + column[None, :]), z.to(codes.dtype.element_ty))
    if points is not None:
        tl.store(points + own + (within * KP + column[None, :]), z.to(points.dtype.element_ty))


@triton.jit
def residual_tile(
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
def iterate_tile(
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
    first,  # the first row, and the start of its scratch
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
    PADDED: tl.constexpr,
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
        u *= value_of(step, t, step_stride)
    if KAPPA:
        u += tl.load(points + (within * KP + column[None, :])).to(tl.float32)
    z = _threshold(u, _limits(theta, column, theta_stride, K), POSITIVE)
    # Padding columns may contain 0 · ∞; padding rows, the effect of a negative θ or a special step on 0.
    if PADDED:
        z = tl.where((column < K)[None, :], z, 0.0)
    return tl.where(live, z, 0.0) if KAPPA or POSITIVE else z


@triton.jit
def extrapolate_tile(
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
    """A tile of y_{t+1} = z_{t+1} + β_{t+1} (z_{t+1} − z_t); y_T is never read."""
    here = tl.arange(0, live.shape[0])[:, None] * KP + column[None, :]
    beta = value_of(momentum, tl.minimum(t + 1, n_iter - 1), momentum_stride)
    y = z + beta * (z - tl.load(codes + here).to(tl.float32))
    y = tl.where(live & (column < K)[None, :], y, 0.0)
    tl.store(points + here, y.to(points.dtype.element_ty))
