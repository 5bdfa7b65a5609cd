"""lista and sparse_code on the Triton kernels: all iterations in one launch, or a launch for each.

The backward pass goes by chunks of rows: their iterates again, then the adjoints, then the sums that gradients are.
"""

from __future__ import annotations

import itertools
from functools import partial
from typing import NamedTuple

import torch

from scvae_fast.ops._triton import autotune, kernels, products
from scvae_fast.ops._triton.launch import Choice, Launch, chunk_rows, launch, on_device_of, outer, packed, product
from scvae_fast.ops._triton.tiles import COLLECTED, Card
from scvae_fast.ops.lista import _contract as lista_contract


class Bottleneck(NamedTuple):
    """sparse_code; or lista, where W_e and D are None and x is its drive b. Matrices have packed rows; T ≥ 1."""

    x: torch.Tensor  # (M, n), or b (M, K)
    W_e: torch.Tensor | None  # (K, n)
    S: torch.Tensor  # (K, K)
    theta: torch.Tensor  # one value or (K,)
    D: torch.Tensor | None  # (n, K)
    gain: torch.Tensor | None  # one value
    z0: torch.Tensor | None  # (M, K)
    n_iter: int

    def rows(self, begin: int, end: int) -> Bottleneck:
        """Some of the rows."""
        return self._replace(x=self.x[begin:end], z0=None if self.z0 is None else self.z0[begin:end])

    def chosen(self, card: Card, direction: str, run: autotune.Run) -> Choice:
        """The tile and the way that it is computed by."""
        n = 0 if self.W_e is None else self.x.shape[1]
        return autotune.choice(card, direction, self.x.dtype, len(self.x), self.S.shape[0], n, run)

    def plan(self, card: Card, chosen: Choice) -> Launch:
        """How it is dealt out."""
        return launch(card, chosen, len(self.x), self.S.shape[0], self.x.shape[1])


def lista(p: lista_contract.Problem) -> Bottleneck:
    """A bottleneck whose drive is given, and that is not decoded."""
    return Bottleneck(p.b, None, p.S, p.theta, None, p.gain, p.z0, p.n_iter)


class Gradients(NamedTuple):
    """Of the tensors of a `Bottleneck`, in their dtypes; None where one is not needed."""

    x: torch.Tensor | None
    W_e: torch.Tensor | None
    S: torch.Tensor | None
    theta: torch.Tensor | None
    D: torch.Tensor | None
    gain: torch.Tensor | None
    z0: torch.Tensor | None


class Incoming(NamedTuple):
    """What the backward pass starts from."""

    grad_z: torch.Tensor | None  # (M, K)
    grad_x_hat: torch.Tensor | None  # (M, n)
    z: torch.Tensor  # (M, K)

    def rows(self, begin: int, end: int) -> Incoming:
        """Some of the rows."""
        return Incoming._make(None if t is None else t[begin:end] for t in self)


Results = tuple[torch.Tensor, torch.Tensor | None]  # z (M, K), x̂ (M, n)


def _iterate(
    p: Bottleneck,
    plan: Launch,
    drives: torch.Tensor | None,  # (rows, KP), where there is W_e
    codes: torch.Tensor,  # (slabs, rows, KP)
    results: Results | None,  # None: every z_t stays in codes
) -> None:
    iterate = _iterate_by_launches if plan.by_iteration else _iterate_in_one_launch
    iterate(p, plan, drives, codes, results)


def _iterate_in_one_launch(
    p: Bottleneck, plan: Launch, drives: torch.Tensor | None, codes: torch.Tensor, results: Results | None
) -> None:
    dtype = p.x.dtype
    z, x_hat = results or (None, None)
    kernels.forward[(plan.programs,)](
        p.x,
        None if p.W_e is None else packed(p.W_e, plan.KP, plan.NP, dtype),
        packed(p.S, plan.KP, plan.KP, dtype),
        p.theta,
        p.gain,
        p.z0,
        None if x_hat is None or p.D is None else packed(p.D, plan.NP, plan.KP, dtype),
        drives,
        codes,
        z,
        x_hat,
        len(p.x),
        p.x.shape[1],
        p.S.shape[0],
        plan.NP,
        plan.KP,
        # Where every iterate is kept, the last one is known.
        p.n_iter if results else p.n_iter - 1,
        codes.stride(0),
        int(p.theta.numel() > 1),
        ENCODE=p.W_e is not None,
        DECODE=x_hat is not None,
        KEEP=results is None,
        **plan.options(dtype),
    )


def _iterate_by_launches(
    p: Bottleneck, plan: Launch, drives: torch.Tensor | None, codes: torch.Tensor, results: Results | None
) -> None:
    (M, n), K, dtype = p.x.shape, p.S.shape[0], p.x.dtype
    theta_stride = int(p.theta.numel() > 1)
    options = {"ENCODE": p.W_e is not None, **plan.options(dtype)}
    encoder = None if p.W_e is None else packed(p.W_e, plan.KP, plan.NP, dtype)
    kernels.start[plan.grid](
        *(p.x, encoder, p.theta, p.gain, p.z0, drives, codes[0], M, n, K, plan.NP, plan.KP, theta_stride), **options
    )
    S = packed(p.S, plan.KP, plan.KP, dtype)
    iterates = [codes[t % len(codes)] for t in range(p.n_iter)] + ([results[0]] if results else [])
    for before, after in itertools.pairwise(iterates):
        kernels.step[plan.grid](
            *(before, S, p.x, p.theta, drives, after, M, K, plan.KP, *after.shape, theta_stride), **options
        )


def forward(p: Bottleneck) -> Results:
    """Codes z (M, K); and the reconstruction x̂ (M, n) where there is a dictionary."""
    results = p.x.new_empty(len(p.x), p.S.shape[0]), None if p.D is None else torch.empty_like(p.x)
    with on_device_of(p.x) as card:
        run = partial(_forward, p, results, card)
        run(p.chosen(card, "forward", run))
    return results


def _forward(p: Bottleneck, results: Results, card: Card, chosen: Choice) -> None:
    plan, (z, x_hat) = p.plan(card, chosen), results
    rows = chunk_rows(plan, 3, p.x.dtype.itemsize) if plan.by_iteration else max(1, len(p.x))
    for begin in range(0, len(p.x), rows):
        end = begin + rows
        _forward_chunk(p.rows(begin, end), (z[begin:end], None if x_hat is None else x_hat[begin:end]), card, chosen)


def _forward_chunk(p: Bottleneck, results: Results, card: Card, chosen: Choice) -> None:
    plan, (z, x_hat) = p.plan(card, chosen), results
    drives = None if p.W_e is None else p.x.new_empty(plan.in_flight, plan.KP)
    _iterate(p, plan, drives, p.x.new_empty(2, plan.in_flight, plan.KP), results)
    if plan.by_iteration and x_hat is not None and p.D is not None:
        product(z, p.D, card, out=x_hat)


def _adjoints(
    p: Bottleneck, plan: Launch, card: Card, grad: torch.Tensor, z: torch.Tensor, codes: torch.Tensor
) -> torch.Tensor:
    """ĝ_0 … ĝ_T (T + 1, rows, KP), zero where there are no rows or atoms; completes the codes with z_T."""
    adjoints = torch.empty_like(codes)
    M, K = z.shape
    for slab, last in ((codes[-1], z), (adjoints[-1], torch.where(z != 0, grad, 0))):
        slab.zero_()
        slab[:M, :K] = last
    transposed, options = packed(p.S.T, plan.KP, plan.KP, p.x.dtype), plan.options(p.x.dtype)
    earliest = 0 if p.z0 is None else 1
    if plan.by_iteration:
        for t in reversed(range(earliest, p.n_iter)):
            kernels.step_back[plan.grid](*(adjoints[t + 1], transposed, codes[t], adjoints[t], M, plan.KP), **options)
    else:
        steps = p.n_iter - earliest
        kernels.adjoint[(plan.programs,)](
            *(transposed, codes, adjoints, M, plan.KP, p.n_iter, steps, codes.stride(0)), **options
        )
    if p.z0 is not None:  # ĝ_0 is its gradient, and on no support
        product(adjoints[1], transposed, card, out=adjoints[0])
    return adjoints


def _collect(
    p: Bottleneck, plan: Launch, drive: torch.Tensor, codes: torch.Tensor, adjoints: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of b (M, K), of θ for each atom (K,), of the gain."""
    M, K = len(p.x), p.S.shape[0]
    grid = (plan.rows // COLLECTED.rows, plan.KP // COLLECTED.columns)
    d_drive = p.x.new_empty(plan.rows, plan.KP)
    d_theta = p.x.new_empty(grid[0], plan.KP, dtype=torch.float32)
    d_gain = p.x.new_empty(grid, dtype=torch.float32)
    products.collect[grid](
        codes,
        adjoints,
        drive,
        p.gain,
        d_drive,
        d_theta,
        d_gain,
        M,
        K,
        plan.KP,
        drive.stride(0),
        p.n_iter,
        codes.stride(0),
        GIVEN=p.z0 is not None,
        BLOCK_M=COLLECTED.rows,
        BLOCK_N=COLLECTED.columns,
        num_warps=COLLECTED.warps,
    )
    return d_drive[:M, :K], d_theta.sum(0)[:K], d_gain.sum()


def _grad_of_codes(p: Bottleneck, given: Incoming, card: Card) -> torch.Tensor:
    """Through both results."""
    if given.grad_x_hat is None or p.D is None:
        return torch.zeros_like(given.z) if given.grad_z is None else given.grad_z
    through = product(given.grad_x_hat, p.D.T, card)
    return through if given.grad_z is None else given.grad_z + through


class _Iterates(NamedTuple):
    """Of a chunk of rows."""

    plan: Launch
    drive: torch.Tensor  # b (M, K) where it was given, else (rows, KP)
    codes: torch.Tensor  # z_0 … z_T (T + 1, rows, KP)
    adjoints: torch.Tensor  # likewise


def _recompute(p: Bottleneck, given: Incoming, card: Card, chosen: Choice) -> _Iterates:
    plan = p.plan(card, chosen)
    codes = p.x.new_empty(p.n_iter + 1, plan.rows, plan.KP)
    drives = None if p.W_e is None else p.x.new_empty(plan.rows, plan.KP)
    _iterate(p, plan, drives, codes, None)
    adjoints = _adjoints(p, plan, card, _grad_of_codes(p, given, card), given.z, codes)
    return _Iterates(plan, p.x if drives is None else drives, codes, adjoints)


class _Backward:
    """Sums of the gradients of what all rows share, in float32; and the gradients of the rows themselves."""

    def __init__(self, p: Bottleneck, needed: list[bool], card: Card) -> None:
        self.card = card
        fields = zip(p._fields[:7], p[:7], needed, strict=True)
        wanted = {name: tensor for name, tensor, is_needed in fields if is_needed and tensor is not None}
        self.rows: dict[str, torch.Tensor] = {
            name: torch.empty_like(wanted.pop(name)) for name in ("x", "z0") if name in wanted
        }
        self.sums = {name: torch.zeros_like(tensor, dtype=torch.float32) for name, tensor in wanted.items()}

    def add(self, p: Bottleneck, given: Incoming, begin: int, chosen: Choice) -> None:
        """The rows of a chunk, of which the first is row `begin`."""
        M, K = len(p.x), p.S.shape[0]
        plan, drive, codes, adjoints = _recompute(p, given, self.card, chosen)
        d_drive, d_theta, d_gain = _collect(p, plan, drive, codes, adjoints)
        own = slice(begin, begin + M)
        if "z0" in self.rows:
            self.rows["z0"][own] = adjoints[0, :M, :K]
        if "x" in self.rows:
            self.rows["x"][own] = d_drive if p.W_e is None else product(d_drive, p.W_e.T, self.card)
        if "theta" in self.sums:
            per_atom = p.theta.numel() > 1
            self.sums["theta"] += (d_theta if per_atom else d_theta.sum()).reshape(p.theta.shape)
        if "gain" in self.sums:
            self.sums["gain"] += d_gain
        if "S" in self.sums:
            every_t = adjoints[1:].flatten(0, 1), codes[:-1].flatten(0, 1)
            self.sums["S"] += outer(*every_t, self.card)[:K, :K]
        if "W_e" in self.sums:
            self.sums["W_e"] += outer(d_drive, p.x, self.card)
        if "D" in self.sums and given.grad_x_hat is not None:
            self.sums["D"] += outer(given.grad_x_hat, given.z, self.card)

    def gradients(self, p: Bottleneck) -> Gradients:
        shared = {name: total.to(getattr(p, name).dtype) for name, total in self.sums.items()}
        return Gradients._make(self.rows.get(name, shared.get(name)) for name in Gradients._fields)


def backward(p: Bottleneck, given: Incoming, needed: list[bool]) -> Gradients:
    """Gradients of the tensors of p, of which those of `needed` are computed."""
    with on_device_of(p.x) as card:
        slabs, itemsize = 2 * (p.n_iter + 2), p.x.dtype.itemsize

        def first_chunk(chosen: Choice) -> None:
            end = chunk_rows(p.plan(card, chosen), slabs, itemsize)
            _recompute(p.rows(0, end), given.rows(0, end), card, chosen)

        chosen = p.chosen(card, "backward", first_chunk)
        rows = chunk_rows(p.plan(card, chosen), slabs, itemsize)
        gathered = _Backward(p, needed, card)
        for begin in range(0, len(p.x), rows):
            gathered.add(p.rows(begin, begin + rows), given.rows(begin, begin + rows), begin, chosen)
        return gathered.gradients(p)
