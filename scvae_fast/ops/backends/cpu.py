"""The C++ kernels of csrc/cpu. They support float32 and float64, and skip the zeros of codes."""

from __future__ import annotations

from typing import Any

import torch

from scvae_fast.ops import native
from scvae_fast.ops.native import address, threads
from scvae_fast.ops.problem import Decoding, Gradients, Incoming, Needed, Problem


def unusable() -> str | None:
    """Why no call can run on these kernels here; None if some can."""
    return native.missing


def declines(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why they decline a call on that device in that dtype; None if they don't."""
    return None if device.type == "cpu" else f"it runs on CPU tensors, got a tensor on {device}"


def _empty(p: Problem | Decoding, needed: Needed) -> Gradients:
    return {name: torch.empty_like(getattr(p, name)) for name in needed}


def _options(p: Problem) -> tuple[bool | int, ...] | None:
    """The problem's options beyond LISTA with shared weights, as kernel arguments; None without options."""
    if p.is_plain:
        return None
    K, width = p.n_atoms, p.x.shape[1]
    return (
        K * K if p.is_for_each("S") else 0,
        p.theta.shape[1] if p.is_for_each("theta") else 0,
        K * width if p.is_for_each("W_e") else 0,
        address(p.step),
        p.is_for_each("step"),
        address(p.momentum),
        p.is_for_each("momentum"),
        p.kappa == 1,
        p.S is None,
        p.op == "ista",
        p.positive,
    )


def _arguments(p: Problem) -> tuple[Any, ...]:
    """The problem as kernel arguments."""
    M, width = p.x.shape
    gain = 1.0 if p.gain is None else p.gain.item()
    theta = p.theta.data_ptr(), p.theta.dim() > 0 and p.theta.shape[-1] > 1
    shared = p.x.dtype is torch.float64, M, p.n_atoms, p.n_iter, _options(p)
    if p.W_e is None or p.D is None:
        return (*shared, p.x.data_ptr(), address(p.S), *theta, gain, address(p.z0))
    matrices = p.W_e.data_ptr(), address(p.S)
    return (*shared, width, p.x.data_ptr(), *matrices, *theta, p.D.data_ptr(), gain, address(p.z0))


def code(p: Problem, iterates: torch.Tensor | None = None) -> tuple[torch.Tensor, ...]:
    """Codes z_T (M, K), and the reconstruction x̂ (M, n) if there is a dictionary.

    If `iterates` (M, T − 1, K) is given, z_1 … z_{T−1} are written to it.
    """
    z = p.x.new_empty(p.x.shape[0], p.n_atoms)
    codes = z.data_ptr(), address(iterates)
    if p.D is None:
        native.module.lista_forward(*_arguments(p), *codes, threads())
        return (z,)
    x_hat = torch.empty_like(p.x)
    native.module.sparse_code_forward(*_arguments(p), *codes, x_hat.data_ptr(), threads())
    return z, x_hat


_OF_LISTA = ("x", "S", "theta", "gain", "z0", "step", "momentum")
_OF_SPARSE_CODE = ("x", "W_e", "S", "theta", "D", "gain", "z0", "step", "momentum")


def code_backward(p: Problem, given: Incoming, needed: Needed) -> Gradients:
    """Gradients of the tensors of p."""
    gradients = _empty(p, needed)
    arguments = *_arguments(p), given.z.data_ptr(), address(given.iterates), address(given.grad_z)
    if p.D is None:
        out = (address(gradients.get(name)) for name in _OF_LISTA)
        native.module.lista_backward(*arguments, *out, threads())
    else:
        out = (address(gradients.get(name)) for name in _OF_SPARSE_CODE)
        native.module.sparse_code_backward(*arguments, address(given.grad_x_hat), *out, threads())
    return gradients


# When decode is faster than PyTorch's product, measured on two cores of an Intel Xeon.
LEAST_ROWS_TO_DECODE = 512
_LEAST_DICTIONARY = 1 << 16  # elements
_MOST_DENSE, _MOST_DENSE_BACKWARD = 0.3, 0.15


def decodes_fast(dictionary: int, density: float, backward: bool) -> bool:
    """Whether these kernels decode codes of that density with a D of that size faster than PyTorch's product."""
    return dictionary >= _LEAST_DICTIONARY and density <= (_MOST_DENSE_BACKWARD if backward else _MOST_DENSE)


def density(z: torch.Tensor) -> float:
    """The share of nonzero entries of z (M, K), estimated from every sixteenth row."""
    seen = z[::16]
    return int(seen.count_nonzero()) / max(1, seen.numel())


def _decoding(p: Decoding) -> tuple[bool | int, ...]:
    """The problem as kernel arguments."""
    z, D = p
    return (z.dtype is torch.float64, *z.shape, D.shape[0], z.data_ptr(), D.data_ptr())


def decode(p: Decoding) -> torch.Tensor:
    """x̂ (M, n)."""
    x_hat = p.z.new_empty(p.z.shape[0], p.D.shape[0])
    native.module.decode_forward(*_decoding(p), x_hat.data_ptr(), threads())
    return x_hat


def decode_backward(p: Decoding, grad: torch.Tensor, needed: Needed) -> Gradients:
    """Gradients of z and D for grad = ∂L/∂x̂ (M, n)."""
    gradients = _empty(p, needed)
    out = (address(gradients.get(name)) for name in p._fields)
    native.module.decode_backward(*_decoding(p), grad.data_ptr(), *out, threads())
    return gradients
