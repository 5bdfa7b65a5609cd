"""The Triton kernels in the form that `fused.Fused` uses: all iterations in one launch, or one launch each."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch

from scvae_fast.ops.backends.fused import Collected, Iterates, Padding, chunk_rows
from scvae_fast.ops.backends.triton import autotune, backward_kernels, forward_kernels, launch, products
from scvae_fast.ops.backends.triton.launch import Choice, Launch, packed
from scvae_fast.ops.backends.triton.tiles import COLLECTED, FEW_SUMS, REGISTERS, Card
from scvae_fast.ops.problem import Needed, Problem

Results = tuple[torch.Tensor, torch.Tensor | None]  # z (M, K), x̂ (M, n)
Arguments = dict[str, Any]  # of a kernel, by name


@contextlib.contextmanager
def on_device_of(tensor: torch.Tensor) -> Iterator[TritonKernels]:
    """The kernels for the tensor's dtype, on its device and that device's current stream."""
    with launch.on_device_of(tensor) as card:
        yield TritonKernels(card)


class TritonKernels:
    """Implements `fused.Kernels`."""

    def __init__(self, card: Card) -> None:
        self.card = card
        self._chosen: Choice | None = None  # for the backward pass

    def _choice(self, p: Problem, direction: str, run: autotune.Run, needed: Needed = frozenset()) -> Choice:
        n = 0 if p.W_e is None else p.x.shape[1]
        purpose = ", ".join((direction, *p.options))
        factored, momentum = p.S is None, p.momentum is not None
        # In one launch these would need too many registers.
        way = {"factored": factored, "launches": momentum and (factored or direction == "backward")}
        problem = direction, "step" in needed, _compiled_for(p)
        return autotune.choice(self.card, purpose, p.x.dtype, len(p.x), p.n_atoms, n, problem, run, **way)

    def _plan(self, p: Problem, chosen: Choice) -> Launch:
        size = p.x.dtype.itemsize
        slabs = 2 + _has_drives(p) + 2 * (p.momentum is not None)
        sizes = len(p.x), p.n_atoms, p.x.shape[1]
        return launch.launch(self.card, chosen, *sizes, atom_bytes=slabs * size, feature_bytes=(p.S is None) * size)

    def forward(self, p: Problem, z: torch.Tensor, x_hat: torch.Tensor | None) -> None:
        """One launch, or one launch per iteration for each chunk of rows."""
        run = partial(self._forward, p, (z, x_hat))
        run(self._choice(p, "forward", run))

    def _forward(self, p: Problem, results: Results, chosen: Choice) -> None:
        plan, (z, x_hat) = self._plan(p, chosen), results
        rows = chunk_rows(_padding(plan), plan.row_bytes) if plan.by_iteration else len(p.x)
        for begin in range(0, len(p.x), rows):
            end = begin + rows
            own = z[begin:end], None if x_hat is None else x_hat[begin:end]
            self._forward_chunk(p.rows(begin, end), own, chosen)

    def _forward_chunk(self, p: Problem, results: Results, chosen: Choice) -> None:
        plan, (z, x_hat) = self._plan(p, chosen), results
        scratch = _Scratch.in_flight(p, plan)
        # Two more products in the same launch would need too many registers.
        decodes = not plan.by_iteration and _form(p) == "encoded"
        if plan.by_iteration:
            _iterate_by_launches(p, plan, scratch, z, p.n_iter)
        else:
            _iterate_in_one_launch(p, plan, scratch, (z, x_hat if decodes else None), p.n_iter)
        if x_hat is not None and p.D is not None and not decodes:
            launch.product(z, p.D, self.card, out=x_hat)

    def prepare_backward(self, p: Problem, needed: Needed, first_chunk: Callable[[], object]) -> None:
        """Chooses the tile, and whether each iteration is a separate launch."""

        def run(chosen: Choice) -> None:
            self._chosen = chosen
            first_chunk()

        self._chosen = self._choice(p, "backward", run, needed)

    def _backward_plan(self, p: Problem) -> Launch:
        assert self._chosen is not None
        return self._plan(p, self._chosen)

    def padding(self, p: Problem) -> Padding:
        """The padding of iterates."""
        return _padding(self._backward_plan(p))

    def iterates(self, p: Problem, found: Iterates) -> torch.Tensor | None:
        """Writes every z_t; the known last one is recomputed only if something else of its iteration is needed."""
        plan = self._backward_plan(p)
        drives = found.codes.new_empty(found.codes.shape[1:]) if _has_drives(p) else None
        points = None if p.momentum is None else found.points
        scratch = _Scratch(drives, found.codes, points, found.directions, found.residuals)
        # The last code is known, but other parts of its iteration may be needed.
        whole = p.momentum is not None or found.directions is not None or found.residuals is not None
        n_iter = p.n_iter if whole else p.n_iter - 1
        if plan.by_iteration:
            _iterate_by_launches(p, plan, scratch, None, n_iter)
        else:
            _iterate_in_one_launch(p, plan, scratch, None, n_iter)
        return p.x if p.W_e is None else drives

    def adjoints(self, p: Problem, found: Iterates) -> None:
        """One launch, or one launch per product."""
        plan = self._backward_plan(p)
        # The gradient of a z_0 that is 0 is never needed.
        earliest = 1 if p.kappa and p.z0 is None and p.S is not None else 0
        back = _step_back_by_launches if plan.by_iteration else _step_back_in_one_launch
        back(p, plan, found, earliest)

    def collect(self, p: Problem, drive: torch.Tensor | None, found: Iterates, needed: Needed) -> Collected:
        """Gradients of b, of θ per atom, of gain, γ and β."""
        (_, rows, KP), M, K = found.codes.shape, len(p.x), p.n_atoms
        grid = (rows // COLLECTED.rows, KP // COLLECTED.columns)
        each_theta, starts = p.is_for_each("theta"), p.z0 is None and not p.kappa

        def sums(*shape: int) -> torch.Tensor:
            return p.x.new_zeros(*shape, dtype=torch.float32)

        d_drive = p.x.new_empty(rows, KP) if _form(p) in ("given", "encoded") else None
        d_theta = sums(p.n_rows if each_theta else 1, grid[0], KP)
        d_gain = sums(*grid) if starts else None
        d_step = sums(p.n_iter, *grid) if "step" in needed else None
        d_momentum = sums(p.n_iter, *grid) if "momentum" in needed else None
        launch.run(
            products.collect,
            grid,
            self.card,
            *(found.codes, found.adjoints, found.directions, found.point_grads),
            *(drive, p.gain, p.step, d_drive, d_theta, d_gain, d_step, d_momentum),
            *(M, K, KP, None if drive is None else drive.stride(0), p.n_iter, found.codes.stride(0), _stride(p.step)),
            GIVEN=not starts,
            EACH_THETA=each_theta,
            KAPPA=p.kappa,
            BLOCK_M=COLLECTED.rows,
            BLOCK_N=COLLECTED.columns,
            num_warps=COLLECTED.warps,
        )
        theta = d_theta.sum(1)[:, :K]
        return Collected(
            drive=None if d_drive is None else d_drive[:M, :K],
            theta=theta if each_theta else theta[0],
            gain=None if d_gain is None else d_gain.sum(),
            step=None if d_step is None else d_step.sum((1, 2)),
            momentum=None if d_momentum is None else d_momentum.sum((1, 2)),
        )

    def outer(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        """leftᵀ · right in float32."""
        return launch.outer(left, right, self.card)

    def product(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        """The product left · rightᵀ."""
        return launch.product(left, right, self.card)


def _compiled_for(p: Problem) -> Hashable:
    """The properties of the problem that determine which kernels are compiled."""
    several = p.theta.dim() > 0 and p.theta.shape[-1] > 1, p.n_iter > 1
    arguments = p.x, p.W_e, p.S, p.theta, p.D, p.gain, p.z0, p.step, p.momentum
    sizes = p.n_atoms, p.x.shape[1]
    return p.op, p.positive, several, sizes, launch.precision(p.x.dtype), launch.compiled_for(*arguments)


def _padding(plan: Launch) -> Padding:
    return Padding(plan.rows, plan.tile.rows, plan.KP, plan.NP)


class _Scratch(NamedTuple):
    """Scratch that the iterations write, with one slab for each kept iterate."""

    drives: torch.Tensor | None  # (rows, KP), if b is encoded before the iterations
    codes: torch.Tensor  # (slabs, rows, KP)
    points: torch.Tensor | None  # likewise: y_t, with momentum
    directions: torch.Tensor | None  # (T, rows, KP), if they are kept
    residuals: torch.Tensor | None  # (slabs, rows, NP), in the factored form

    @classmethod
    def in_flight(cls, p: Problem, plan: Launch) -> _Scratch:
        """Scratch of the forward pass."""
        codes = p.x.new_empty(2, plan.in_flight, plan.KP)
        return cls(
            drives=torch.empty_like(codes[0]) if _has_drives(p) else None,
            codes=codes,
            points=None if p.momentum is None else torch.empty_like(codes),
            directions=None,
            residuals=p.x.new_empty(1, plan.in_flight, plan.NP) if p.S is None else None,
        )


def _form(p: Problem) -> str:
    """The source of v: see iteration.py."""
    if p.W_e is None:
        return "given"
    if p.S is None:
        return "factored"
    return "each" if p.is_for_each("W_e") else "encoded"


def _has_drives(p: Problem) -> bool:
    """Whether b is encoded before the iterations, either for all of them or only for z_0."""
    return _form(p) == "encoded" or (_form(p) == "each" and p.z0 is None and not p.kappa)


def _stride(values: torch.Tensor | None) -> int | None:
    """Stride between the values of iterations: 0 for a single value."""
    return None if values is None else values.dim()


def _slab(matrices: torch.Tensor | None) -> int | None:
    """Stride between the matrices of iterations; None if they share one."""
    return None if matrices is None or matrices.dim() == 2 else matrices.stride(0)


def _of(matrices: torch.Tensor | None, place: int) -> torch.Tensor | None:
    """The matrix of an iteration."""
    return matrices if matrices is None or matrices.dim() == 2 else matrices[place]


def _packed(matrices: torch.Tensor | None, rows: int, columns: int, p: Problem) -> torch.Tensor | None:
    return None if matrices is None else packed(matrices, rows, columns, p.x.dtype)


def _arguments(p: Problem, plan: Launch) -> Arguments:
    """Arguments common to the launches of `_iterate_by_launches` and the single launch."""
    return {
        "source": p.x,
        "step": p.step,
        "momentum": p.momentum,
        "M": len(p.x),
        "n": p.x.shape[1],
        "K": p.n_atoms,
        "NP": plan.NP,
        "KP": plan.KP,
        "theta_stride": int(p.theta.dim() > 0 and p.theta.shape[-1] > 1),
        "step_stride": _stride(p.step),
        "momentum_stride": _stride(p.momentum),
        "FORM": _form(p),
        "KAPPA": p.kappa,
        "NEGATIVE": p.op == "ista",
        "POSITIVE": p.positive,
        "PADDED": p.n_atoms < plan.KP,
        **plan.options(p.x.dtype),
    }


def _iterate_in_one_launch(
    p: Problem,
    plan: Launch,
    scratch: _Scratch,
    results: Results | None,  # None: every z_t stays in the scratch
    n_iter: int,
) -> None:
    z, x_hat = results or (None, None)
    encoder, inhibition = _packed(p.W_e, plan.KP, plan.NP, p), _packed(p.S, plan.KP, plan.KP, p)
    launch.run(
        forward_kernels.forward,
        (plan.programs,),
        plan.card,
        **_arguments(p, plan),
        **scratch._asdict(),
        encoder=encoder,
        inhibition=inhibition,
        theta=p.theta,
        gain=p.gain,
        z0=p.z0,
        decoder=None if x_hat is None and p.S is not None else _packed(p.D, plan.NP, plan.KP, p),
        z_out=z,
        x_hat=x_hat,
        n_iter=n_iter,
        slab=scratch.codes.stride(0),
        residual_slab=None if scratch.residuals is None else scratch.residuals.stride(0),
        encoder_slab=_slab(encoder),
        inhibition_slab=_slab(inhibition),
        theta_row=p.theta.stride(0) if p.is_for_each("theta") else None,
        DECODE=x_hat is not None,
        KEEP=results is None,
        **({"maxnreg": REGISTERS} if plan.tile.rows * plan.tile.columns <= FEW_SUMS and _form(p) != "given" else {}),
    )


def _iterate_by_launches(
    p: Problem,
    plan: Launch,
    scratch: _Scratch,
    z: torch.Tensor | None,  # (M, K), receives z_T; None: every z_t stays in the scratch
    n_iter: int,
) -> None:
    arguments, (drives, codes, points, directions, residuals) = _arguments(p, plan), scratch
    encoder, inhibition = _packed(p.W_e, plan.KP, plan.NP, p), _packed(p.S, plan.KP, plan.KP, p)
    decoder = _packed(p.D, plan.NP, plan.KP, p) if residuals is not None else None
    start = _launcher(forward_kernels.start, plan.grid, plan.card, arguments)
    rebuild = _launcher(forward_kernels.residual, plan.feature_grid, plan.card, arguments)
    iterate = _launcher(forward_kernels.iterate, plan.grid, plan.card, arguments)
    start(
        encoder=_of(encoder, 0),
        theta=p.threshold(0),
        gain=p.gain,
        z0=p.z0,
        drives=drives,
        codes=codes[0],
        points=None if points is None else points[0],
    )
    for t in range(n_iter):
        now, later = t % len(codes), (t + 1) % len(codes)
        residual = None if residuals is None else residuals[t % len(residuals)]
        if residual is not None:
            rebuild(decoder=decoder, points=(codes if points is None else points)[now], residuals=residual)
        after = codes[later] if z is None or t + 1 < n_iter else z
        iterate(
            codes=codes[now],
            points=None if points is None else points[now],
            residuals=residual,
            drives=drives,
            directions=None if directions is None else directions[t],
            after=after,
            later_points=None if points is None else points[later],
            encoder=_of(encoder, p.row(t)),
            inhibition=_of(inhibition, t),
            theta=p.threshold(p.row(t)),
            t=t,
            n_iter=n_iter,
            after_rows=after.shape[0],
            after_columns=after.shape[1],
        )


def _launcher(kernel: Any, grid: tuple[int, int], card: Card, arguments: Arguments) -> Callable[..., None]:
    """Launches the kernel with those of the arguments that it has, and further ones."""
    own = {name: value for name, value in arguments.items() if name in kernel.arg_names or name.startswith("num_")}
    return partial(launch.run, kernel, grid, card, **own)


def _backward_arguments(p: Problem, plan: Launch) -> Arguments:
    """Arguments common to the launches of `_step_back_by_launches` and the single launch."""
    return {
        "step": p.step,
        "M": len(p.x),
        "n": p.x.shape[1],
        "K": p.n_atoms,
        "NP": plan.NP,
        "KP": plan.KP,
        "n_iter": p.n_iter,
        "step_stride": _stride(p.step),
        "GIVEN": p.z0 is not None,
        "FACTORED": p.S is None,
        "KAPPA": p.kappa,
        "NEGATIVE": p.op == "ista",
        **plan.options(p.x.dtype),
    }


def _transposed(p: Problem, plan: Launch) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """W_eᵀ in the factored form; and Sᵀ, or Dᵀ in the factored form."""
    if p.S is not None:
        return None, packed(p.S.mT, plan.KP, plan.KP, p.x.dtype)
    assert p.W_e is not None
    assert p.D is not None
    return packed(p.W_e.mT, plan.NP, plan.KP, p.x.dtype), packed(p.D.mT, plan.KP, plan.NP, p.x.dtype)


def _step_back_in_one_launch(p: Problem, plan: Launch, found: Iterates, earliest: int) -> None:
    encoder, inhibition = _transposed(p, plan)
    launch.run(
        backward_kernels.adjoint,
        (plan.programs,),
        plan.card,
        **_backward_arguments(p, plan),
        encoder=encoder,
        inhibition=inhibition,
        codes=found.codes,
        adjoints=found.adjoints,
        residual_grads=found.residual_grads,
        steps=p.n_iter - earliest,
        slab=found.codes.stride(0),
        residual_slab=None if found.residual_grads is None else found.residual_grads.stride(0),
        encoder_slab=_slab(encoder),
        inhibition_slab=_slab(inhibition),
    )


def _step_back_by_launches(p: Problem, plan: Launch, found: Iterates, earliest: int) -> None:
    arguments, (encoder, inhibition) = _backward_arguments(p, plan), _transposed(p, plan)
    codes, adjoints, point_grads, residual_grads = found.codes, found.adjoints, found.point_grads, found.residual_grads
    filter_back = _launcher(backward_kernels.filter_back, plan.feature_grid, plan.card, arguments)
    step_back = _launcher(backward_kernels.step_back, plan.grid, plan.card, arguments)
    for t in reversed(range(earliest, p.n_iter)):
        e = None if residual_grads is None else residual_grads[t]
        if e is not None:
            filter_back(after=adjoints[t + 1], encoder=_of(encoder, t), residual_grads=e, t=t)
        step_back(
            after=adjoints[t + 1],
            residual_grads=e,
            inhibition=_of(inhibition, t),
            codes=codes[t],
            adjoints=adjoints[t],
            momentum=p.momentum,
            momentum_stride=_stride(p.momentum),
            point_grads=None if point_grads is None else point_grads[t],
            later_grads=None if point_grads is None else point_grads[min(t + 1, p.n_iter - 1)],
            t=t,
        )
