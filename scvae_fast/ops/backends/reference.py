"""The specification, in plain PyTorch: readable, exact in float64, never optimised.

    κ = 0:  z_0 = h_{θ_0}(gain · b_0)      κ = 1:  z_0 = 0      either: a given z0
    y_t = z_t + β_t (z_t − z_{t−1}),       y_0 = z_0
    v_t = b_t + y_t S_tᵀ                   or without S, the factored form:  v_t = (x − y_t Dᵀ) W_tᵀ
    u_t = κ y_t + γ_t v_t
    z_{t+1} = h_θ(u_t)                     t = 0 … T−1

It also provides the operations' forward mode and the derivatives of their gradients, so it must not change any tensor
in place. `half.py` computes 16-bit problems with it in float32.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

import torch

from scvae_fast.ops.problem import Decoding, Gradients, Incoming, Needed, Problem


def shrink(u: torch.Tensor, theta: torch.Tensor, positive: bool = False) -> torch.Tensor:
    """sign(u)·max(|u| − θ, 0), or max(u − θ, 0). relu's derivative is 0 at a tie, and it keeps a NaN.

    h_θ(0) = 0 for every θ except NaN; for θ = −∞, sign(0)·∞ counts as 0. Otherwise infinities follow the formula: ∞ − ∞
    is NaN, for |u| = θ = ∞ and, in max(u − θ, 0), for u = θ = ±∞.
    """
    if positive:
        return torch.relu(u - theta)
    excess = torch.relu(u.abs() - theta)
    return torch.sign(u) * torch.where((u == 0) & excess.isinf(), 0, excess)


def iterates(p: Problem) -> Iterator[torch.Tensor]:
    """z_0 … z_T, each (M, K)."""
    drive = drives(p)
    z = before = _start(p, drive)
    yield z
    for t in range(p.n_iter):
        y = extrapolated(p, t, z, before)
        v = direction(p, t, y, drive)
        step = p.step_of(t)
        u = v if step is None else step * v
        before, z = z, shrink(y + u if p.kappa else u, p.threshold(p.row(t)), p.positive)
        yield z


Drives = Callable[[int], torch.Tensor]


def drives(p: Problem) -> Drives:
    """The drive b (M, K) by row; computed once if all iterations share it."""
    if p.is_for_each("W_e") or p.S is None:
        return p.drive
    b = p.drive(0)
    return lambda _: b


def _start(p: Problem, drive: Drives) -> torch.Tensor:
    if p.z0 is not None:
        return p.z0
    if p.kappa:
        return p.x.new_zeros(*p.x.shape[:-1], p.n_atoms)
    b = drive(0)
    return shrink(b if p.gain is None else p.gain * b, p.threshold(0), p.positive)


def extrapolated(p: Problem, t: int, z: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
    """y_t."""
    momentum = p.momentum_of(t)
    return z if momentum is None else z + momentum * (z - before)


def direction(p: Problem, t: int, y: torch.Tensor, drive: Drives) -> torch.Tensor:
    """v_t."""
    if p.S is None:
        return _residual(p, y) @ p.filter(p.row(t)).T
    b, through = drive(p.row(t)), y @ p.inhibition(t).T
    return b - through if p.op == "ista" else b + through


def _residual(p: Problem, y: torch.Tensor) -> torch.Tensor:
    assert p.D is not None
    return p.x - y @ p.D.T


def code(p: Problem) -> tuple[torch.Tensor, ...]:
    """Codes z_T (M, K), and the reconstruction x̂ (M, n) if there is a dictionary."""
    (z,) = deque(iterates(p), maxlen=1)
    if z is p.z0:  # for T = 0: a result must not share memory with an argument
        z = z.clone()
    return (z,) if p.D is None else (z, z @ p.D.T)


class _Sums:
    """The needed gradients, summed over iterations; gradients of per-iteration tensors are summed separately."""

    def __init__(self, p: Problem, needed: Needed) -> None:
        self._p, self._needed = p, needed
        self._found: dict[str, dict[int, torch.Tensor]] = {name: {} for name in needed}

    def add(self, name: str, place: int, value: Callable[[], torch.Tensor]) -> None:
        """Add a value; `place` is the row for W_e and θ, otherwise the iteration."""
        if name in self._needed:
            found, key = self._found[name], place if self._p.is_for_each(name) else 0
            found[key] = found[key] + value() if key in found else value()

    def gradient(self, name: str) -> torch.Tensor:
        like, found = getattr(self._p, name), self._found[name]
        if found and self._p.is_for_each(name):
            return torch.stack([found.get(i, torch.zeros_like(like[i])) for i in range(len(like))])
        return found.get(0, torch.zeros_like(like))


def code_backward(p: Problem, given: Incoming, needed: Needed) -> Gradients:
    """Gradients of the tensors of p."""
    g, sums = given.grad_z, _Sums(p, needed)
    if p.D is not None and given.grad_x_hat is not None:
        grad, D = given.grad_x_hat, p.D
        sums.add("D", 0, lambda: grad.T @ given.z)
        g = grad @ D if g is None else g + grad @ D
    if g is not None and (needed != {"D"} or p.S is None):
        _through_iterations(p, g, given.z, sums)
    return {name: sums.gradient(name) for name in needed}


def _through_iterations(p: Problem, g: torch.Tensor, z: torch.Tensor, sums: _Sums) -> None:
    """Add the gradients of all tensors, for g = ∂L/∂z_T, z = z_T."""
    codes = [*iterates(p._replace(n_iter=p.n_iter - 1)), z] if p.n_iter > 0 else [z]
    drive, d_b = drives(p), _DriveSums(p, sums)
    carried = torch.zeros_like(g)  # the part of ∂L/∂z_t through the momentum of iteration t + 1
    for t in reversed(range(p.n_iter)):
        y = extrapolated(p, t, codes[t], codes[max(t - 1, 0)])
        g = _through_threshold(p, p.row(t), codes[t + 1], g, sums)
        r = _through_step(p, t, y, g, drive, sums)
        if p.S is None:
            q = _through_residual(p, t, y, r, sums)
        else:
            d_b.add(p.row(t), r)
            q = _through_inhibition(p, t, y, r, sums)
        by_momentum = _through_momentum(p, t, codes, q + g if p.kappa else q, sums)
        g, carried = carried + by_momentum[0], by_momentum[1]
    if p.z0 is not None:
        sums.add("z0", 0, lambda: g)
    elif not p.kappa:
        b, g = drive(0), _through_threshold(p, 0, codes[0], g, sums)
        sums.add("gain", 0, lambda: (b * g).sum())
        d_b.add(0, g if p.gain is None else p.gain * g)
    d_b.finish()


def _through_step(p: Problem, t: int, y: torch.Tensor, g: torch.Tensor, drive: Drives, sums: _Sums) -> torch.Tensor:
    """The gradient r = ∂L/∂v_t for g = ∂L/∂u_t."""
    step = p.step_of(t)
    if step is None:
        return g
    sums.add("step", t, lambda: (direction(p, t, y, drive) * g).sum())
    return step * g


def _through_momentum(
    p: Problem, t: int, codes: list[torch.Tensor], q: torch.Tensor, sums: _Sums
) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradients that z_t and z_{t−1} get from q = ∂L/∂y_t."""
    momentum = p.momentum_of(t)
    if momentum is None:
        return q, torch.zeros_like(q)
    sums.add("momentum", t, lambda: (q * (codes[t] - codes[t - 1])).sum())
    return q + momentum * q, -momentum * q


def _through_threshold(p: Problem, r: int, code: torch.Tensor, g: torch.Tensor, sums: _Sums) -> torch.Tensor:
    """ĝ."""
    g = torch.where(code != 0, g, 0)
    theta = p.threshold(r)
    if theta.numel() > 1:
        sums.add("theta", r, lambda: -(torch.sign(code) * g).sum(0))
    else:
        sums.add("theta", r, lambda: -(torch.sign(code) * g).sum().reshape(theta.shape))
    return g


def _through_inhibition(p: Problem, t: int, y: torch.Tensor, r: torch.Tensor, sums: _Sums) -> torch.Tensor:
    """∂L/∂y_t for r = ∂L/∂v_t."""
    sign = -1 if p.op == "ista" else 1
    sums.add("S", t, lambda: sign * (r.T @ y))
    return sign * (r @ p.inhibition(t))


def _through_residual(p: Problem, t: int, y: torch.Tensor, r: torch.Tensor, sums: _Sums) -> torch.Tensor:
    """∂L/∂y_t for r = ∂L/∂v_t, in the factored form."""
    assert p.D is not None
    e = r @ p.filter(p.row(t))
    sums.add("W_e", p.row(t), lambda: r.T @ _residual(p, y))
    sums.add("x", 0, lambda: e)
    sums.add("D", 0, lambda: -(e.T @ y))
    return -(e @ p.D)


class _DriveSums:
    """∂L/∂b. If all iterations share one b, its gradient is summed first and then passed on to x and W_e."""

    def __init__(self, p: Problem, sums: _Sums) -> None:
        self._p, self._sums = p, sums
        self._sum: torch.Tensor | None = None

    def add(self, row: int, d_b: torch.Tensor) -> None:
        if self._p.is_for_each("W_e"):
            self._hand_on(row, d_b)
        else:
            self._sum = d_b if self._sum is None else self._sum + d_b

    def finish(self) -> None:
        if self._sum is not None:
            self._hand_on(0, self._sum)

    def _hand_on(self, row: int, d_b: torch.Tensor) -> None:
        p = self._p
        self._sums.add("x", 0, lambda: d_b if p.W_e is None else d_b @ p.filter(row))
        self._sums.add("W_e", row, lambda: d_b.T @ p.x)


def decode(p: Decoding) -> torch.Tensor:
    """x̂ (M, n)."""
    return p.z @ p.D.T


def decode_backward(p: Decoding, grad: torch.Tensor, needed: Needed) -> Gradients:
    """Gradients of z and D for grad = ∂L/∂x̂ (M, n)."""
    gradients = {}
    if "z" in needed:
        gradients["z"] = grad @ p.D
    if "D" in needed:
        gradients["D"] = grad.T @ p.z
    return gradients
