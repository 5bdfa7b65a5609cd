"""The one autograd wiring: how an operation and its siblings are registered with torch.library.

An operation is described by its `Problem`, a named tuple of its arguments, tensors first, that can check itself, bring
its tensors into rows, and say what its results look like. From that and the siblings this module derives the schemas,
the implementation, the fake, the backward pass (an operation too, so that torch.compile sees through neither) and the
autocast rule. Arguments of the schemas are positional. A call that nobody but autograd can see skips the dispatcher and
runs the same functions (`_dispatch.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, TypeVar

import torch

from scvae_fast.ops import _backend
from scvae_fast.ops._dispatch import below_autograd, is_bare

_NAMESPACE = "scvae_fast"
_LIBRARY = torch.library.Library(_NAMESPACE, "DEF")

Gradients = tuple[torch.Tensor | None, ...]


class Problem(Protocol):
    """The arguments of an operation, in the order of its schema, tensors first."""

    def check(self) -> None:
        """Raises TypeError or ValueError unless this is a valid call."""

    def rows(self) -> Any:
        """The same problem as matrices with packed rows: what siblings take."""

    def result_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shape of every result."""


class Sibling(Protocol):
    """A backend's implementation of an operation, on a problem in rows; results are packed and own their memory.

    `forward(problem)` returns the result or the tuple of results; `backward(*grads, [codes,] problem, needed)` the
    gradients of the problem's tensors, None where one is not needed, packed.
    """

    @property
    def forward(self) -> Any: ...

    @property
    def backward(self) -> Any: ...


_T = TypeVar("_T", torch.Tensor, torch.Tensor | None)


def rows(tensor: _T) -> _T:
    """(..., K) as (M, K) with packed rows that don't overlap; copies only where strides demand it."""
    if tensor is None or (tensor.dim() == 2 and tensor.is_contiguous()):
        return tensor
    return tensor.reshape(-1, tensor.shape[-1]).contiguous()


def packed(tensor: _T) -> _T:
    """The tensor with packed elements; copies only where strides demand it."""
    return None if tensor is None else tensor.contiguous()


def _shaped(tensor: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """A sibling's result in another shape; to autograd no view, so that callers may change it in place."""
    return tensor if tensor.shape == shape else torch.ops.aten._unsafe_view(tensor, shape)


def _placeholder(like: torch.Tensor) -> torch.Tensor:
    """What stands for a gradient that nobody needs: an operation can't return None."""
    return like.new_empty(0)


def _in_float32(name: str, device_type: str) -> Any:
    """The rule of autocast: the operation in float32, and nothing inside it cast any further.

    torch.library.register_autocast would do, but under torch.compile torch 2.10 confuses the rules of two devices.
    """

    def cast(value: Any) -> Any:
        eligible = isinstance(value, torch.Tensor) and value.device.type == device_type and value.is_floating_point()
        return value.float() if eligible and value.dtype != torch.float64 else value

    def kernel(*arguments: Any) -> Any:
        with torch.autocast(device_type, enabled=False):
            return getattr(torch.ops.scvae_fast, name)(*map(cast, arguments))

    return kernel


class Operation:
    """Registers `scvae_fast::name` and `scvae_fast::name_backward`; calling it calls the first.

    Args:
        name: the operation's.
        arguments: the problem's fields as in a schema: "Tensor b, Tensor S, …, SymInt n_iter".
        problem: its class.
        results: number of results.
        siblings: for each backend's name its implementation.
        keeps_codes: whether the backward pass takes the first result, the codes.
    """

    def __init__(
        self,
        name: str,
        arguments: str,
        problem: type[Any],
        results: int,
        siblings: Mapping[str, Sibling],
        keeps_codes: bool,
    ) -> None:
        self.name = name
        self.problem = problem
        self.results = results
        self.siblings = siblings
        self.keeps_codes = keeps_codes
        self.tensors = arguments.count("Tensor")
        returned = "Tensor" if results == 1 else f"({', '.join(['Tensor'] * results)})"
        grads = "".join(f"Tensor? grad_{i}, " for i in range(results)) + ("Tensor codes, " if keeps_codes else "")
        gradients = ", ".join(["Tensor"] * self.tensors)
        self._define(name, f"({arguments}, str? backend) -> {returned}", self._forward, self._fake)
        self._define(
            f"{name}_backward",
            f"({grads}{arguments}, bool[] needed, str? backend) -> ({gradients})",
            self._backward,
            self._fake_backward,
        )
        qualified = f"{_NAMESPACE}::{name}"
        torch.library.register_autograd(qualified, self._autograd, setup_context=self._setup_context, lib=_LIBRARY)
        torch.library.register_autograd(f"{qualified}_backward", self._differentiate_twice, lib=_LIBRARY)
        self._dispatched = getattr(torch.ops.scvae_fast, name)
        self._dispatched_backward = getattr(torch.ops.scvae_fast, f"{name}_backward")
        self._recorded = self._recording()

    def __call__(self, *arguments: Any) -> Any:
        """The operation's results; arguments as in its schema."""
        tensors = [t for t in arguments[: self.tensors] if t is not None]
        if not is_bare(tensors):
            return self._dispatched(*arguments)
        if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
            return self._recorded(*arguments)
        with below_autograd():
            return self._forward(*arguments)

    def _recording(self) -> Any:
        """The forward pass as autograd records it where the dispatcher is skipped."""

        class Recorded(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, *arguments: Any) -> Any:
                with below_autograd():
                    output = self._forward(*arguments)
                self._setup_context(ctx, arguments, output)
                return output

            @staticmethod
            def backward(ctx: Any, *grads: torch.Tensor | None) -> Gradients:
                return self._autograd(ctx, *grads)

        return Recorded.apply

    @staticmethod
    def _define(name: str, schema: str, implementation: Any, fake: Any) -> None:
        _LIBRARY.define(name + schema, tags=(torch.Tag.pt2_compliant_tag,))
        _LIBRARY.impl(name, implementation, "CompositeExplicitAutograd")
        torch.library.register_fake(f"{_NAMESPACE}::{name}", fake, lib=_LIBRARY)
        for device_type in ("cpu", "cuda"):
            _LIBRARY.impl(name, _in_float32(name, device_type), f"Autocast{device_type.upper()}")

    def _sibling(self, backend: str | None, like: torch.Tensor) -> Sibling:
        rows = like.numel() // max(1, like.shape[-1])
        return self.siblings[_backend.choose(self.name, backend, like.device, like.dtype, rows)]

    def _forward(self, *arguments: Any) -> Any:
        *fields, backend = arguments
        problem = self.problem(*fields)
        problem.check()
        sibling = self._sibling(backend, problem[0])
        results = sibling.forward(problem.rows())
        if self.results == 1:
            return _shaped(results, problem.result_shapes()[0])
        return tuple(map(_shaped, results, problem.result_shapes()))

    def _fake(self, *arguments: Any) -> Any:
        problem = self.problem(*arguments[:-1])
        problem.check()
        results = tuple(problem[0].new_empty(shape) for shape in problem.result_shapes())
        return results[0] if self.results == 1 else results

    def _split(self, arguments: tuple[Any, ...]) -> tuple[list[Any], Any, list[bool], str | None]:
        """Gradients (and codes), the problem, what is needed, the backend: the backward operation's arguments."""
        *leading_and_fields, needed, backend = arguments
        leading = self.results + self.keeps_codes
        return leading_and_fields[:leading], self.problem(*leading_and_fields[leading:]), needed, backend

    def _gradients(self, *arguments: Any) -> Gradients:
        leading, problem, needed, backend = self._split(arguments)
        sibling = self._sibling(backend, problem[0])
        gradients = sibling.backward(*map(rows, leading), problem.rows(), needed)
        tensors = problem[: self.tensors]
        return tuple(None if g is None else _shaped(g, t.shape) for g, t in zip(gradients, tensors, strict=True))

    def _backward(self, *arguments: Any) -> tuple[torch.Tensor, ...]:
        like = arguments[self.results + self.keeps_codes]
        return tuple(_placeholder(like) if g is None else g for g in self._gradients(*arguments))

    def _fake_backward(self, *arguments: Any) -> tuple[torch.Tensor, ...]:
        _, problem, needed, _ = self._split(arguments)
        return tuple(
            t.new_empty(t.shape) if n else _placeholder(problem[0])
            for t, n in zip(problem[: self.tensors], needed, strict=True)
        )

    def _setup_context(self, ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        tensors = inputs[: self.tensors]
        codes = (output if self.results == 1 else output[0]) if self.keeps_codes else None
        ctx.save_for_backward(*tensors, *([codes] if self.keeps_codes else []))
        ctx.rest = inputs[self.tensors : -1]
        ctx.backend = inputs[-1]
        ctx.set_materialize_grads(False)

    def _autograd(self, ctx: Any, *grads: torch.Tensor | None) -> Gradients:
        if all(grad is None for grad in grads):
            return (None,) * (self.tensors + len(ctx.rest) + 1)
        saved = ctx.saved_tensors
        needed = list(ctx.needs_input_grad[: self.tensors])
        arguments = (*grads, *saved[self.tensors :], *saved[: self.tensors], *ctx.rest, needed, ctx.backend)
        tensors = [t for t in (*grads, *saved) if t is not None]
        if torch.is_grad_enabled() or not is_bare(tensors):
            gradients = self._dispatched_backward(*arguments)
        else:
            with below_autograd():
                gradients = self._gradients(*arguments)
        kept = (g if n else None for g, n in zip(gradients, needed, strict=True))
        return *kept, *(None for _ in ctx.rest), None

    def _differentiate_twice(self, ctx: Any, *grads: torch.Tensor) -> None:
        raise RuntimeError(
            f"{_NAMESPACE}.{self.name}: its gradient can't be differentiated again (create_graph=True); "
            "write the iterations in plain PyTorch where second derivatives are needed"
        )
