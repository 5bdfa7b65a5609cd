"""lista: learned iterative soft-thresholding."""

from __future__ import annotations

import torch

from scvae_fast.ops import _backend, _checks
from scvae_fast.ops.lista._autograd import OPERATION


def lista(
    b: torch.Tensor,
    S: torch.Tensor,
    theta: torch.Tensor | float,
    n_iter: int,
    *,
    gain: torch.Tensor | float = 1.0,
    z0: torch.Tensor | None = None,
    backend: str | None = None,
) -> torch.Tensor:
    """Sparse codes of a drive by T unrolled iterations of LISTA (Gregor & LeCun 2010, section 3.2).

        z_0     = h_θ(γ b), or the given z0
        z_{t+1} = h_θ(b + z_t Sᵀ),  t = 0 … T−1,    h_θ(u) = sign(u)·max(|u| − θ, 0)

    With S = I − DᵀD/c, b = xD/c, θ = λ/c and c ≥ ‖D‖₂² this is ISTA on ½‖x − Dz‖² + λ‖z‖₁. Differentiable with respect
    to b, S, θ, γ and z0. The backward pass keeps b, z and z0, however many iterations there are. Forward mode, second
    and higher derivatives run the iterations in plain PyTorch.

    Args:
        b: (..., K) drive; float32, float64, bfloat16 or float16 (16-bit types are computed in float32).
        S: (K, K) mutual inhibition. Beside a float32 b it may be kept in bfloat16, for inference: the result is that of
            S.float(), so all that is lost is S's own rounding (2⁻⁹ of each entry). It then gets no gradient.
        theta: threshold, one value or (K,); may be negative. May be float32 where b is a 16-bit type.
        n_iter: number of iterations, 0 ≤ T < 2³¹; with 0 the start z_0 is returned.
        gain: γ, one value. May be float32 where b is a 16-bit type.
        z0: (..., K) codes to start from (a warm start), instead of h_θ(γ b). Excludes `gain`.
        backend: a name of `backends()`; None chooses by device and dtype.

    Returns:
        (..., K) codes z_T, in b's dtype. Under autocast the operation runs in float32.

    Raises:
        TypeError: an argument is of the wrong type or dtype.
        ValueError: shapes, devices, n_iter or the backend's name don't fit, both gain and z0 were given, or a bfloat16
            S beside a float32 b needs a gradient.
        RuntimeError: the backend asked for can't take this call.
    """
    op = "lista"
    _checks.are_tensors(op, b=b, S=S, **({} if z0 is None else {"z0": z0}))
    n_iter = _checks.count(op, "n_iter", n_iter)
    _checks.is_constant_if_narrowed(op, "S", S, "b", b)
    _backend.check_name(op, backend)
    threshold = _checks.scalar_tensor(op, "theta", theta, b)
    return OPERATION(b, S, threshold, start_gain(op, gain, z0, b), z0, n_iter, backend)


def start_gain(op: str, gain: torch.Tensor | float, z0: torch.Tensor | None, like: torch.Tensor) -> torch.Tensor | None:
    """The gain as the operation takes it: None stands for 1; raises ValueError where z0 takes its place."""
    if not isinstance(gain, torch.Tensor) and gain == 1:
        return None
    if z0 is not None:
        raise ValueError(f"{op}: gain scales the start that z0 replaces: give one of them, not both")
    return _checks.scalar_tensor(op, "gain", gain, like)
