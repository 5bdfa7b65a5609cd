"""lista, ista, sparse_code and decode as operations of torch.library, on any backend."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from inspect import signature
from typing import Any

import torch

from scvae_fast.ops import backends, checks
from scvae_fast.ops.backends import cpu
from scvae_fast.ops.problem import Decoding, Gradients, Incoming, Needed, Problem, matrix_of
from scvae_fast.ops.registration import Keeps, Operation, OptionalTensors, Outcome, Results

MOST_KEPT = 16 << 20
"""Largest number of bytes of iterates that are kept for the backward pass."""


class _ByBackend(ABC):
    """A `Computation` by a backend. The argument after those of the record is the backend's name, or None.

    Args:
        name: of the operation.
        record: creates the record of a call.
        fields: the record's field for each tensor among the arguments.
    """

    def __init__(self, name: str, record: Callable[..., Problem | Decoding], fields: Sequence[str]) -> None:
        self._name, self._record, self._fields = name, record, tuple(fields)
        self._size = len(signature(record).parameters)  # number of arguments of a record

    def _checked(self, arguments: Sequence[Any]) -> Any:
        record = self._record(*arguments[: self._size])
        record.check()
        return record

    def _backend(self, record: Any, arguments: Sequence[Any], backward: bool = False) -> backends.Backend:
        first = record[0]
        rows = first.numel() // max(1, first.shape[-1])
        asked = arguments[self._size]
        sizes = record.n_atoms, record.n_features
        chosen = backends.choose(self._name, asked, first.device, first.dtype, rows, record.options, sizes)
        return backends.BACKENDS[chosen]

    @abstractmethod
    def _compute(self, backend: backends.Backend, record: Any, told: Sequence[Any]) -> Results:
        """The results; `told` holds the arguments after the backend's name."""

    @abstractmethod
    def _keep_again(self, record: Any) -> Sequence[torch.Tensor]:
        """What a record in matrices keeps for its backward pass, recomputed by the reference."""

    @abstractmethod
    def _gradients(self, backend: backends.Backend, record: Any, outcome: Outcome, needed: Needed) -> Gradients:
        """The gradients of a record in matrices."""

    def forward(self, *arguments: Any) -> Results:
        """By the requested or chosen backend."""
        record = self._checked(arguments)
        return self._compute(self._backend(record, arguments), record, arguments[self._size + 1 :])

    def plain(self, *arguments: Any) -> Results:
        """By the reference, which is differentiable in every way."""
        record = self._checked(arguments)
        with torch.autocast(arguments[0].device.type, enabled=False):
            return self._compute(backends.REFERENCE, record, arguments[self._size + 1 :])

    def backward(self, outcome: Outcome, arguments: Sequence[Any], needed: Sequence[bool]) -> OptionalTensors:
        """By the requested or chosen backend."""
        record = self._checked(arguments)
        self._check_backward(outcome, record, arguments, needed)
        outcome = Outcome([matrix_of(grad) for grad in outcome.grads], outcome.kept)
        names = self._needed(arguments, needed)
        backend = self._backend(record, arguments, backward=True)
        found = self._gradients(backend, record.in_matrices(), outcome, names)
        return self._of_arguments(found, arguments)

    def plain_backward(self, outcome: Outcome, arguments: Sequence[Any], needed: Sequence[bool]) -> OptionalTensors:
        """By the reference. What was kept depends on the arguments, so it is recomputed."""
        record = self._record(*arguments[: self._size]).in_matrices()
        with torch.autocast(arguments[0].device.type, enabled=False):
            outcome = Outcome([matrix_of(grad) for grad in outcome.grads], self._keep_again(record))
            found = self._gradients(backends.REFERENCE, record, outcome, self._needed(arguments, needed))
        return self._of_arguments(found, arguments)

    def fake_backward(self, arguments: Sequence[Any], needed: Sequence[bool]) -> OptionalTensors:
        """Empty tensors."""
        wanted = zip(arguments, needed, strict=False)
        return tuple(t.new_empty(t.shape) if n and t is not None else None for t, n in wanted)

    def _check_backward(self, outcome: Outcome, record: Any, arguments: Sequence[Any], needed: Sequence[bool]) -> None:
        """Raise TypeError or ValueError for arguments with which a kernel would read or write out of bounds."""
        op = f"{self._name}_backward"
        for i, (grad, shape) in enumerate(zip(outcome.grads, record.result_shapes(), strict=True)):
            if grad is not None:
                checks.has_shape(op, f"grad_{i}", grad, shape, "of its result's shape")
                checks.agree(op, (self._fields[0], f"grad_{i}"), (arguments[0], grad))
        if all(tensor is None for tensor in outcome.grads):
            raise ValueError(f"{op}: at least one result's gradient must be given, got none")
        if len(needed) != len(self._fields):
            raise ValueError(
                f"{op}: needed must have {len(self._fields)} entries, one for each tensor, got {len(needed)}"
            )

    def _needed(self, arguments: Sequence[Any], needed: Sequence[bool]) -> Needed:
        fields = zip(self._fields, arguments, needed, strict=False)
        return frozenset(field for field, tensor, is_needed in fields if is_needed and tensor is not None)

    def _of_arguments(self, found: Gradients, arguments: Sequence[Any]) -> OptionalTensors:
        fields = zip(self._fields, arguments, strict=False)
        return tuple(shaped(found[field], t.shape) if field in found else None for field, t in fields)


def shaped(tensor: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """A result in another shape; autograd does not see it as a view, so that callers may change it in place."""
    return tensor if tensor.shape == shape else torch.ops.aten._unsafe_view(tensor, shape)


def _lista(
    b: torch.Tensor,
    S: torch.Tensor,
    theta: torch.Tensor,
    gain: torch.Tensor | None,
    z0: torch.Tensor | None,
    n_iter: int,
    positive: bool,
) -> Problem:
    return Problem(b, None, S, theta, None, gain, z0, None, None, n_iter, positive, "lista")


def _ista(
    b: torch.Tensor,
    G: torch.Tensor,
    theta: torch.Tensor,
    step: torch.Tensor | None,
    momentum: torch.Tensor | None,
    z0: torch.Tensor | None,
    n_iter: int,
    positive: bool,
) -> Problem:
    return Problem(b, None, G, theta, None, None, z0, step, momentum, n_iter, positive, "ista")


def _sparse_code(
    x: torch.Tensor,
    W_e: torch.Tensor,
    S: torch.Tensor | None,
    theta: torch.Tensor,
    D: torch.Tensor,
    gain: torch.Tensor | None,
    z0: torch.Tensor | None,
    step: torch.Tensor | None,
    momentum: torch.Tensor | None,
    n_iter: int,
    positive: bool,
) -> Problem:
    return Problem(x, W_e, S, theta, D, gain, z0, step, momentum, n_iter, positive, "sparse_code")


class _Coding(_ByBackend):
    """A `Problem`. The last result is its iterates, which are kept if they fit `MOST_KEPT`; otherwise it is empty.

    The last argument, after the backend's name, is whether a backward pass may follow.
    """

    def _kept(self, p: Problem, backend: backends.Backend, recorded: bool) -> int:
        """Number of kept iterates, T − 1 or 0; it depends only on shapes, so that compilers know it."""
        if not recorded or backend.keeps is None or p.n_iter < 2:
            return 0
        bytes_of_each = math.prod(p.result_shapes()[0]) * (4 if checks.is_half(p.x.dtype) else p.x.element_size())
        return p.n_iter - 1 if (p.n_iter - 1) * bytes_of_each <= MOST_KEPT else 0

    def _compute(self, backend: backends.Backend, record: Problem, told: Sequence[Any]) -> Results:
        iterates = record.iterates(self._kept(record, backend, told[0]))
        if backend.keeps is not None and iterates.shape[-2] > 0:
            results = backend.keeps.code(record.in_matrices(), iterates)
        else:
            results = backend.computes.code(record.in_matrices())
        return *map(shaped, results, record.result_shapes()), iterates

    def fake(self, *arguments: Any) -> Results:
        """Empty tensors."""
        p = self._checked(arguments)
        on_cpu = p.x.device.type == "cpu"  # elsewhere nothing is kept, and choosing might start a trial
        iterates = p.iterates(self._kept(p, self._backend(p, arguments), arguments[-1]) if on_cpu else 0)
        return *(p.x.new_empty(shape) for shape in p.result_shapes()), iterates

    def _keep_again(self, record: Problem) -> Sequence[torch.Tensor]:
        return backends.REFERENCE.computes.code(record)[0], record.iterates(0)

    def _gradients(self, backend: backends.Backend, record: Problem, outcome: Outcome, needed: Needed) -> Gradients:
        codes, iterates = outcome.kept
        grad_z, grad_x_hat = (*outcome.grads, None)[:2]
        between = matrix_of(iterates).view(len(record.x), -1, record.n_atoms) if iterates.numel() > 0 else None
        return backend.computes.code_backward(record, Incoming(grad_z, grad_x_hat, matrix_of(codes), between), needed)

    def _check_backward(self, outcome: Outcome, record: Any, arguments: Sequence[Any], needed: Sequence[bool]) -> None:
        super()._check_backward(outcome, record, arguments, needed)
        op, first = f"{self._name}_backward", self._fields[0]
        (codes, iterates), (rows, K) = outcome.kept, (record.x.shape[:-1], record.n_atoms)
        checks.has_shape(op, "codes", codes, (*rows, K), "of its result's shape")
        checks.agree(op, (first, "codes"), (arguments[0], codes))
        if iterates.numel() > 0:
            checks.has_shape(op, "iterates", iterates, (*rows, record.n_iter - 1, K), "(..., T − 1, K), or be empty,")
            checks.agree(op, (first, "iterates"), (arguments[0], iterates), may_be_float32=("iterates",))


class _Decoding(_ByBackend):
    """A `Decoding`. Only its arguments are kept."""

    def _backend(self, record: Decoding, arguments: Sequence[Any], backward: bool = False) -> backends.Backend:
        backend = super()._backend(record, arguments, backward)
        if arguments[-1] is None and backend is backends.BACKENDS["cpu"]:
            z, D = record.in_matrices()
            if not cpu.decodes_fast(D.numel(), cpu.density(z), backward):
                return backends.REFERENCE
        return backend

    def _compute(self, backend: backends.Backend, record: Decoding, told: Sequence[Any]) -> Results:
        return (shaped(backend.computes.decode(record.in_matrices()), *record.result_shapes()),)

    def fake(self, *arguments: Any) -> Results:
        """An empty tensor."""
        p = self._checked(arguments)
        return (p.z.new_empty(*p.result_shapes()),)

    def _keep_again(self, record: Decoding) -> Sequence[torch.Tensor]:
        return ()

    def _gradients(self, backend: backends.Backend, record: Decoding, outcome: Outcome, needed: Needed) -> Gradients:
        (grad,) = outcome.grads
        assert grad is not None
        return backend.computes.decode_backward(record, grad, needed)


LISTA = Operation(
    "lista",
    "Tensor b, Tensor S, Tensor theta, Tensor? gain, Tensor? z0, SymInt n_iter, bool positive, str? backend, "
    "bool recorded",
    _Coding("lista", _lista, ("x", "S", "theta", "gain", "z0")),
    results=2,
    differentiable=1,
    keeps=(Keeps(0, "codes"), Keeps(1, "iterates")),
    rows=("b", "z0"),
)

ISTA = Operation(
    "ista",
    "Tensor b, Tensor G, Tensor theta, Tensor? step, Tensor? momentum, Tensor? z0, SymInt n_iter, bool positive, "
    "str? backend, bool recorded",
    _Coding("ista", _ista, ("x", "S", "theta", "step", "momentum", "z0")),
    results=2,
    differentiable=1,
    keeps=(Keeps(0, "codes"), Keeps(1, "iterates")),
    rows=("b", "z0"),
)

SPARSE_CODE = Operation(
    "sparse_code",
    "Tensor x, Tensor W_e, Tensor? S, Tensor theta, Tensor D, Tensor? gain, Tensor? z0, Tensor? step, "
    "Tensor? momentum, SymInt n_iter, bool positive, str? backend, bool recorded",
    _Coding("sparse_code", _sparse_code, ("x", "W_e", "S", "theta", "D", "gain", "z0", "step", "momentum")),
    results=3,
    differentiable=2,
    keeps=(Keeps(0, "codes"), Keeps(2, "iterates")),
    rows=("x", "z0"),
)

DECODE = Operation(
    "decode",
    "Tensor z, Tensor D, str? backend",
    _Decoding("decode", Decoding, ("z", "D")),
    results=1,
    rows=("z",),
)
