"""The lasso's optimum as an operation of torch.library, with derivatives by the implicit function theorem.

On the support S of the codes, with their signs s, the optimum is z_S = (D_SᵀD_S)⁻¹ (D_Sᵀx − α_S s_S), and zero
elsewhere. Away from changes of the support that formula holds in a neighbourhood. With g the gradient that has reached
z, v_S = (D_SᵀD_S)⁻¹ g_S and v = 0 elsewhere,

    ∂x = D v;    ∂D = (x − Dz) vᵀ − (D v) zᵀ;    ∂α = −s ∘ v

(Mairal, Bach & Ponce, "Task-driven dictionary learning", IEEE PAMI 2012, proposition 1). If D_SᵀD_S is singular, its
pseudo-inverse replaces the inverse, which gives the smallest of the possible changes of the codes. A row with α = 0 has
the codes of least norm, z = D⁺x, and then ∂D has one more term, (D⁺)ᵀz ((I − D⁺D) g)ᵀ (Golub & Pereyra 1973, eq. 4.12).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from scvae_fast.ops import checks
from scvae_fast.ops.lasso_solver import Lasso, is_finite, solve, warn_of_unfinished
from scvae_fast.ops.operations import shaped
from scvae_fast.ops.registration import Keeps, Operation, OptionalTensors, Outcome, Results

_NAME = "lasso"
_MOST_GATHERED = 64 << 20  # bytes of the atoms in a block's supports


class _Arguments(NamedTuple):
    """Arguments of the operation. Exactly one of alpha, for all rows, and alpha_rows, with one per row, is given."""

    x: Tensor  # (..., n)
    D: Tensor  # (n, K)
    alpha: Tensor | None  # () or (K,)
    alpha_rows: Tensor | None  # (..., 1) or (..., K)
    z0: Tensor | None  # (..., K)
    positive: bool
    tol: float
    max_iter: Any
    algorithm: str | None

    def check(self) -> None:
        """Raise TypeError or ValueError if shapes, dtypes or devices don't fit."""
        x, D = self.x, self.D
        names = ("x", "D", "alpha", "alpha", "z0")
        if checks.is_half(x.dtype):
            raise TypeError(f"{_NAME}: x must be float32 or float64, got {x.dtype}")
        checks.agree(_NAME, names, self[:5])
        n = checks.has_rows(_NAME, "x", x, "(..., n)")
        if D.dim() != 2 or D.shape[0] != n or D.shape[1] == 0:
            raise ValueError(f"{_NAME}: D must be (n, K) with {n} rows, got {list(D.shape)}")
        K, rows = D.shape[1], x.shape[:-1]
        if self.alpha is not None and self.alpha.shape not in ((), (K,)):
            raise ValueError(
                f"{_NAME}: alpha must be one value, (K,), (..., 1) or (..., K), got {list(self.alpha.shape)}"
            )
        if self.alpha_rows is not None and self.alpha_rows.shape not in ((*rows, 1), (*rows, K)):
            raise ValueError(
                f"{_NAME}: alpha must be one value, (K,) = [{K}], (..., 1) = {[*rows, 1]} or (..., K) = {[*rows, K]}, "
                f"got {list(self.alpha_rows.shape)}"
            )
        if self.z0 is not None:
            checks.has_shape(_NAME, "z0", self.z0, (*rows, K), "(..., K)")

    def check_values(self) -> None:
        """Raises ValueError for numbers that make no problem; `solve` looks at those of D."""
        for name, tensor in (("x", self.x), ("z0", self.z0), ("alpha", self._alpha)):
            if tensor is not None:
                is_finite(name, tensor)
        if bool((self._alpha < 0).any()):
            raise ValueError(f"{_NAME}: alpha must be at least 0, got {float(self._alpha.min())}")

    @property
    def _alpha(self) -> Tensor:
        alpha = self.alpha if self.alpha_rows is None else self.alpha_rows
        assert alpha is not None
        return alpha

    @property
    def result_shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Shapes of codes and gaps."""
        return (*self.x.shape[:-1], self.D.shape[1]), tuple(self.x.shape[:-1])

    def rows(self) -> tuple[Lasso, Tensor, Tensor | None]:
        """The problem, and x and z0 as matrices."""
        shared = self.alpha_rows is None
        problem = Lasso(self.D, self._alpha if shared else _matrix(self._alpha), positive=self.positive)
        return problem, _matrix(self.x), None if self.z0 is None else _matrix(self.z0)

    def solution(self, codes: Tensor) -> Tensor:  # (..., K) -> (..., K)
        """The formula above as a differentiable function of x, D and alpha; the codes only determine the support."""
        support = (codes != 0).to(codes.dtype)
        gram = (self.D.T @ self.D) * support[..., None] * support[..., None, :]
        null, kept = _null_space(gram, support)
        target = support * (self.x @ self.D) - self._alpha * codes.sign()
        full = gram + torch.diag_embed(1 - support) + null
        # linalg.solve is not used, because its backward pass loses tangents (torch 2.13).
        found = (kept @ (torch.linalg.inv(full) @ target[..., None])).squeeze(-1)
        if self.positive:
            return found
        # Without a penalty, the codes of least norm also follow D out of the null space.
        free = (self._alpha == 0).expand(codes.shape).all(-1, keepdim=True)
        return torch.where(free, self.x @ torch.linalg.pinv(self.D).mT, found)


def _matrix(tensor: Tensor) -> Tensor:
    return tensor.reshape(-1, tensor.shape[-1])


def _null_space(gram: Tensor, support: Tensor) -> tuple[Tensor, Tensor]:  # (..., K, K), (..., K)
    """Projections onto the null space of a Gram matrix on its support, and onto the rest of the support; constants."""
    gram = gram.detach()
    sizes, vectors = torch.linalg.eigh(
        gram + torch.diag_embed(1 - support) * gram.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
    )
    null = (vectors * (sizes <= _cutoff(sizes, gram.shape[-1]))[..., None, :]) @ vectors.mT
    inside = support[..., None] * support[..., None, :]
    return null * inside, torch.diag_embed(support) - null * inside


def _cutoff(sizes: Tensor, count: int) -> Tensor:
    """The limit up to which ascending eigenvalues (..., k) count as zero."""
    return sizes[..., -1:].clamp_min(torch.finfo(sizes.dtype).tiny) * count * torch.finfo(sizes.dtype).eps


class _Optimum:
    """The lasso, as a `Computation`. Its results are codes and gaps."""

    def forward(self, *arguments: Any) -> Results:
        """By `solve`."""
        given = _Arguments(*arguments)
        given.check()
        given.check_values()
        problem, x, z0 = given.rows()
        with torch.no_grad():
            codes, gap = solve(problem, x, algorithm=given.algorithm, max_iter=given.max_iter, tol=given.tol, z0=z0)
        warn_of_unfinished(gap, given.tol, given.max_iter)
        shapes = given.result_shapes
        return shaped(codes, shapes[0]), shaped(gap.to(codes.dtype), shapes[1])

    def fake(self, *arguments: Any) -> Results:
        """Empty tensors."""
        given = _Arguments(*arguments)
        given.check()
        return tuple(given.x.new_empty(shape) for shape in given.result_shapes)

    def plain(self, *arguments: Any) -> Results:
        """The optimum, with the derivatives of `solution`."""
        given = _Arguments(*arguments)
        constants = (None if t is None else t.detach() for t in given[:5])
        codes, gap = torch.ops.scvae_fast.lasso(*constants, *given[5:])  # not OPERATION, which would call this again
        solution = given.solution(codes)
        return codes + (solution - solution.detach()), gap

    def backward(self, outcome: Outcome, arguments: Sequence[Any], needed: Sequence[bool]) -> OptionalTensors:
        """By one Cholesky factorisation per row."""
        given = _Arguments(*arguments)
        grad, codes = self._checked(given, outcome, needed)
        problem, x, _ = given.rows()
        grad, codes = _matrix(grad), _matrix(codes)
        v = _solved(problem.D, codes, grad)
        into_x = v @ problem.D.T
        of_D = None
        if needed[1]:
            of_D = (x - codes @ problem.D.T).T @ v - into_x.T @ codes
            if not given.positive:
                free = (given._alpha == 0).expand(*given.x.shape[:-1], codes.shape[-1]).all(-1).reshape(-1)
                of_D = of_D + _out_of_null_space(problem.D, codes[free], grad[free])
        found: list[Tensor | None] = [into_x, of_D, None, None, None]
        if needed[2] or needed[3]:
            of_alpha = -codes.sign() * v
            found[2] = None if given.alpha is None else of_alpha.sum_to_size(given.alpha.shape or (1,))
            rows = given.alpha_rows
            found[3] = None if rows is None else of_alpha if rows.shape[-1] == of_alpha.shape[-1] else of_alpha.sum(1)
        if needed[4]:
            found[4] = torch.zeros_like(codes)  # the optimum does not depend on the starting point
        wanted = zip(found, arguments, needed, strict=False)
        return tuple(shaped(g, t.shape) if n and g is not None else None for g, t, n in wanted)

    def _checked(self, given: _Arguments, outcome: Outcome, needed: Sequence[bool]) -> tuple[Tensor, Tensor]:
        """∂L/∂codes and codes; raises TypeError or ValueError if they don't fit."""
        op, ((grad,), (codes,)) = f"{_NAME}_backward", outcome
        given.check()
        if grad is None:
            raise ValueError(f"{op}: the gradient of the codes must be given, got none")
        for name, tensor in (("grad_0", grad), ("codes", codes)):
            checks.has_shape(op, name, tensor, given.result_shapes[0], "of its result's shape")
            checks.agree(op, ("x", name), (given.x, tensor))
        if len(needed) != 5:
            raise ValueError(f"{op}: needed must have 5 entries, one for each tensor, got {len(needed)}")
        return grad, codes

    def plain_backward(self, outcome: Outcome, arguments: Sequence[Any], needed: Sequence[bool]) -> OptionalTensors:
        """By differentiating `solution`."""
        given = _Arguments(*arguments)
        (grad,), (codes,) = outcome
        assert grad is not None
        at = [i for i in range(4) if arguments[i] is not None]

        def at_tensors(*tensors: Tensor) -> Tensor:
            values = list(given)
            for i, tensor in zip(at, tensors, strict=True):
                values[i] = tensor
            return _Arguments(*values).solution(codes.detach())

        found = dict(zip(at, torch.func.vjp(at_tensors, *(arguments[i] for i in at))[1](grad), strict=True))
        if given.z0 is not None:
            found[4] = torch.zeros_like(given.z0)
        return tuple(found.get(i) if n else None for i, n in enumerate(needed))

    def fake_backward(self, arguments: Sequence[Any], needed: Sequence[bool]) -> OptionalTensors:
        """Empty tensors."""
        wanted = zip(arguments, needed, strict=False)
        return tuple(t.new_empty(t.shape) if n and t is not None else None for t, n in wanted)


def _solved(D: Tensor, codes: Tensor, grad: Tensor) -> Tensor:  # (n, K), (M, K), (M, K) -> (M, K)
    """The v of the module's docstring; the small systems are solved in float64."""
    v = torch.zeros_like(grad)
    sizes = (codes != 0).sum(1)
    largest = int(sizes.max()) if len(sizes) else 0
    if largest == 0:
        return v
    order = torch.argsort(sizes, stable=True)  # rows in a block then have supports of similar sizes
    block = max(1, _MOST_GATHERED // (8 * largest * D.shape[0]))
    atoms = D.T.double().contiguous()
    for rows in order.split(block):
        width = int(sizes[rows].max())
        if width:
            index = torch.argsort((codes[rows] == 0).to(torch.int8), dim=1, stable=True)[:, :width]
            inside = torch.arange(width, device=D.device) < sizes[rows, None]
            solved = _solve_small(
                atoms[index] * inside[..., None], inside, grad[rows].gather(1, index).double() * inside
            )
            v[rows] = v[rows].scatter(1, index, solved.to(v.dtype))
    return v


def _out_of_null_space(D: Tensor, codes: Tensor, grad: Tensor) -> Tensor:  # (n, K), (M, K), (M, K) -> (n, K)
    """The last term of the module's docstring, summed over rows with the codes of least norm."""
    if not len(codes):
        return torch.zeros_like(D)
    wide, z, g = D.double(), codes.double(), grad.double()
    inverse = torch.linalg.pinv(wide, rtol=max(D.shape) * torch.finfo(D.dtype).eps)
    return ((z @ inverse).T @ (g - g @ inverse @ wide)).to(D.dtype)


def _solve_small(atoms: Tensor, inside: Tensor, g: Tensor) -> Tensor:  # (m, w, n), (m, w), (m, w) -> (m, w)
    """Solutions of D_SᵀD_S v = g, by the pseudo-inverse if the matrix is singular; zero outside a support."""
    gram = atoms @ atoms.mT
    full = gram + torch.diag_embed((~inside).double())
    factor, failed = torch.linalg.cholesky_ex(full)
    pivots = torch.where(inside, factor.diagonal(dim1=-2, dim2=-1).square(), torch.inf).amin(1)
    scale = gram.diagonal(dim1=-2, dim2=-1).amax(1) * gram.shape[1] ** 2 * torch.finfo(gram.dtype).eps
    singular = (failed != 0) | ~(pivots > scale)
    solved = torch.cholesky_solve(g[..., None], factor).squeeze(-1)
    if bool(singular.any()):
        null, kept = _null_space(gram[singular], inside[singular].double())
        rest = torch.linalg.solve(full[singular] + null, g[singular][..., None])
        solved[singular] = (kept @ rest).squeeze(-1)
    return solved * inside


OPERATION = Operation(
    _NAME,
    "Tensor x, Tensor D, Tensor? alpha, Tensor? alpha_rows, Tensor? z0, bool positive, float tol, SymInt max_iter, "
    "str? algorithm",
    _Optimum(),
    results=2,
    differentiable=1,
    keeps=(Keeps(0, "codes"),),
    rows=("x", "alpha_rows", "z0"),
)
