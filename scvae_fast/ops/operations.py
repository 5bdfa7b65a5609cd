"""lista, ista, sparse_code and decode as operations of torch.library, whichever backend runs them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from scvae_fast.ops import backends, checks
from scvae_fast.ops.problem import Decoding, Gradients, Incoming, Needed, Problem, matrix_of
from scvae_fast.ops.registration import Keeps, Operation, OptionalTensors, Outcome, Results


class _ByBackend:
    """A `Computation` that a backend does. Its last argument is the backend's name, or None.

    Args:
        name: the operation's.
        record: makes the record of a call from the arguments before the backend's name.
        fields: the record's field for each tensor among the arguments.
        results: computes the results of a record in matrices.
        gradients: computes the gradients of a record in matrices.
    """

    def __init__(
        self,
        name: str,
        record: Callable[..., Problem | Decoding],
        fields: Sequence[str],
        results: Callable[[Any, Any], Results],
        gradients: Callable[[Any, Any, Outcome, Needed], Gradients],
    ) -> None:
        self._name, self._record, self._fields = name, record, tuple(fields)
        self._results, self._gradients = results, gradients

    def _checked(self, arguments: Sequence[Any]) -> Problem | Decoding:
        record = self._record(*arguments[:-1])
        record.check()
        return record

    def _backend(self, record: Problem | Decoding, backend: str | None) -> backends.Computes:
        first = record[0]
        rows = first.numel() // max(1, first.shape[-1])
        chosen = backends.choose(self._name, backend, first.device, first.dtype, rows, record.options)
        return backends.BACKENDS[chosen].computes

    def forward(self, *arguments: Any) -> Results:
        """By the backend that was asked for or is chosen."""
        record = self._checked(arguments)
        results = self._results(self._backend(record, arguments[-1]), record.in_matrices())
        return tuple(map(_shaped, results, record.result_shapes()))

    def plain(self, *arguments: Any) -> Results:
        """By the reference, which is differentiable in every way."""
        record = self._checked(arguments)
        with torch.autocast(arguments[0].device.type, enabled=False):
            results = self._results(backends.REFERENCE, record.in_matrices())
        return tuple(map(_shaped, results, record.result_shapes()))

    def fake(self, *arguments: Any) -> Results:
        """Empty tensors."""
        return tuple(arguments[0].new_empty(shape) for shape in self._checked(arguments).result_shapes())

    def backward(self, outcome: Outcome, arguments: Sequence[Any], needed: Sequence[bool]) -> OptionalTensors:
        """By the backend that was asked for or is chosen."""
        record = self._checked(arguments)
        self._check_backward(outcome, record, arguments, needed)
        outcome = Outcome([matrix_of(grad) for grad in outcome.grads], matrix_of(outcome.kept))
        names = self._needed(arguments, needed)
        found = self._gradients(self._backend(record, arguments[-1]), record.in_matrices(), outcome, names)
        return self._of_arguments(found, arguments)

    def plain_backward(self, outcome: Outcome, arguments: Sequence[Any], needed: Sequence[bool]) -> OptionalTensors:
        """By the reference. The codes depend on the arguments, so they are computed again."""
        record = self._record(*arguments[:-1]).in_matrices()
        with torch.autocast(arguments[0].device.type, enabled=False):
            kept = None if outcome.kept is None else self._results(backends.REFERENCE, record)[0]
            outcome = Outcome([matrix_of(grad) for grad in outcome.grads], kept)
            found = self._gradients(backends.REFERENCE, record, outcome, self._needed(arguments, needed))
        return self._of_arguments(found, arguments)

    def fake_backward(self, arguments: Sequence[Any], needed: Sequence[bool]) -> OptionalTensors:
        """Empty tensors."""
        wanted = zip(arguments, needed, strict=False)
        return tuple(t.new_empty(t.shape) if n and t is not None else None for t, n in wanted)

    def _check_backward(
        self, outcome: Outcome, record: Problem | Decoding, arguments: Sequence[Any], needed: Sequence[bool]
    ) -> None:
        """Raises TypeError or ValueError for arguments with which a kernel would read or write out of bounds."""
        op = f"{self._name}_backward"
        shapes = record.result_shapes()
        given = [(f"grad_{i}", *each) for i, each in enumerate(zip(outcome.grads, shapes, strict=True))]
        for name, tensor, shape in (*given, ("codes", outcome.kept, shapes[0])):
            if tensor is not None:
                checks.has_shape(op, name, tensor, shape, "of its result's shape")
                checks.agree(op, (self._fields[0], name), (arguments[0], tensor))
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
        return tuple(_shaped(found[field], t.shape) if field in found else None for field, t in fields)


def _shaped(tensor: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """A result in another shape; to autograd no view, so that callers may change it in place."""
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


def _code(backend: backends.Computes, p: Problem) -> Results:
    return backend.code(p)


def _code_backward(backend: backends.Computes, p: Problem, outcome: Outcome, needed: Needed) -> Gradients:
    assert outcome.kept is not None
    grad_z, grad_x_hat = (*outcome.grads, None)[:2]
    return backend.code_backward(p, Incoming(grad_z, grad_x_hat, outcome.kept), needed)


def _decode(backend: backends.Computes, p: Decoding) -> Results:
    return (backend.decode(p),)


def _decode_backward(backend: backends.Computes, p: Decoding, outcome: Outcome, needed: Needed) -> Gradients:
    (grad,) = outcome.grads
    assert grad is not None
    return backend.decode_backward(p, grad, needed)


LISTA = Operation(
    "lista",
    "Tensor b, Tensor S, Tensor theta, Tensor? gain, Tensor? z0, SymInt n_iter, bool positive, str? backend",
    _ByBackend("lista", _lista, ("x", "S", "theta", "gain", "z0"), _code, _code_backward),
    results=1,
    keeps=Keeps(0, "codes"),
    rows=("b", "z0"),
)

ISTA = Operation(
    "ista",
    "Tensor b, Tensor G, Tensor theta, Tensor? step, Tensor? momentum, Tensor? z0, SymInt n_iter, bool positive, "
    "str? backend",
    _ByBackend("ista", _ista, ("x", "S", "theta", "step", "momentum", "z0"), _code, _code_backward),
    results=1,
    keeps=Keeps(0, "codes"),
    rows=("b", "z0"),
)

SPARSE_CODE = Operation(
    "sparse_code",
    "Tensor x, Tensor W_e, Tensor? S, Tensor theta, Tensor D, Tensor? gain, Tensor? z0, Tensor? step, "
    "Tensor? momentum, SymInt n_iter, bool positive, str? backend",
    _ByBackend(
        "sparse_code",
        _sparse_code,
        ("x", "W_e", "S", "theta", "D", "gain", "z0", "step", "momentum"),
        _code,
        _code_backward,
    ),
    results=2,
    keeps=Keeps(0, "codes"),
    rows=("x", "z0"),
)

DECODE = Operation(
    "decode",
    "Tensor z, Tensor D, str? backend",
    _ByBackend("decode", Decoding, ("z", "D"), _decode, _decode_backward),
    results=1,
    rows=("z",),
)
