"""The one wiring of the operations: registration with torch.library, derivatives, vmap.

`Computation` is the interface of an operation's computation. From it `Operation` makes

- two functions of torch.library, the forward and the backward pass. torch.compile, torch.export, modes and subclasses
  see these two functions, and nothing inside them.
- two autograd.Functions that call them. Eager calls go through these when a gradient is needed, also under transforms
  of torch.func. The backward pass is a Function too, so it can be differentiated again.

Forward mode and derivatives of the backward pass run the computation in plain PyTorch, which every mode and every
transform can differentiate. A call that only autograd can see skips the dispatcher (`dispatch.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols
from torch.overrides import has_torch_function

from scvae_fast.ops.batching import Dims, batched
from scvae_fast.ops.dispatch import can_skip_dispatcher, in_forward_mode, needs_gradient
from scvae_fast.ops.library import Registered, apply_directly, autocast_is_on, in_float32

Results = tuple[torch.Tensor, ...]
OptionalTensors = tuple[torch.Tensor | None, ...]

_RECORDED = ", bool recorded"


class Outcome(NamedTuple):
    """The input of the backward pass."""

    grads: Sequence[torch.Tensor | None]  # ∂L/∂result for each differentiable result, at least one
    kept: Sequence[torch.Tensor]  # the results that the forward pass kept


class Computation(Protocol):
    """The computation of an operation. `arguments` are those of its schema, tensors first.

    Results are packed and share no memory with arguments. Gradients are those of the tensors, packed; None if `needed`
    is False.
    """

    def forward(self, *arguments: Any) -> Results:
        """Checks the arguments and computes the results."""

    def plain(self, *arguments: Any) -> Results:
        """The same in differentiable PyTorch."""

    def fake(self, *arguments: Any) -> Results:
        """Checks the arguments and makes results of the right shape without computing them."""

    def backward(self, outcome: Outcome, arguments: Sequence[Any], needed: Sequence[bool]) -> OptionalTensors:
        """Checks the arguments and computes the gradients."""

    def plain_backward(self, outcome: Outcome, arguments: Sequence[Any], needed: Sequence[bool]) -> OptionalTensors:
        """The same as differentiable functions of grads and tensors; what was kept is recomputed."""

    def fake_backward(self, arguments: Sequence[Any], needed: Sequence[bool]) -> OptionalTensors:
        """Makes gradients of the right shape without computing them."""


class Keeps(NamedTuple):
    """A result that the backward pass uses."""

    result: int
    name: str


class Operation:
    """Registers `scvae_fast::name` and `scvae_fast::name_backward`; calling it calls the first.

    Args:
        name: of the operation.
        schema: its arguments: "Tensor b, Tensor S, …, SymInt n_iter". All tensors come first. If the last is
            "bool recorded", callers omit it: it tells the computation whether a backward pass may follow.
        computation: see `Computation`.
        results: number of results.
        differentiable: number of results with gradients, which come first. The default is all of them.
        keeps: the results that the backward pass uses.
        rows: names of the tensors that have a row for each row of the results. All rows share the other tensors.
        vmap: a rule for `torch.library.register_vmap`, instead of the one derived from `rows`.
        device: the dispatch key that the functions are registered for.
        autocast: whether autocast runs the operation in float32; otherwise autocast changes nothing.
    """

    def __init__(
        self,
        name: str,
        schema: str,
        computation: Computation,
        *,
        results: int,
        differentiable: int | None = None,
        keeps: Sequence[Keeps] = (),
        rows: Sequence[str] = (),
        vmap: Callable[..., Any] | None = None,
        device: str = "CompositeExplicitAutograd",
        autocast: bool = True,
    ) -> None:
        self.name = name
        self._computation, self._keeps, self._autocast = computation, keeps, autocast
        self._results, self._differentiable = results, results if differentiable is None else differentiable
        self._tensors = schema.count("Tensor")
        self._leading = self._differentiable + len(keeps)  # tensors that only the backward pass takes
        self._is_told = schema.endswith(_RECORDED)
        self._of_rows = [argument.split()[-1] in rows for argument in schema.split(", ")[: self._tensors]]
        self._recorded, self._recorded_backward = self._functions()
        returned = "Tensor" if results == 1 else f"({', '.join(['Tensor'] * results)})"
        self._dispatched = Registered(
            name,
            f"({schema}) -> {returned}",
            kernel=lambda *given: self._returned(computation.forward(*given)),
            fake=lambda *given: self._returned(computation.fake(*given)),
            recorded=lambda *given: self._recorded.apply(*self._foreseen(given), False),
            plain=lambda *given: self._returned(computation.plain(*given)),
            vmap=vmap or (lambda info, dims, *given: self._vmap(self._dispatched, info.batch_size, dims, given)),
            device=device,
            autocast=autocast,
        )
        leading = "".join(f"Tensor? grad_{i}, " for i in range(self._differentiable))
        leading += "".join(f"Tensor {each.name}, " for each in keeps)
        self._dispatched_backward = Registered(
            f"{name}_backward",
            f"({leading}{schema}, bool[] needed) -> ({', '.join(['Tensor'] * self._tensors)})",
            kernel=lambda *given: self._filled(computation.backward(*self._split(given)), given),
            fake=lambda *given: self._filled(computation.fake_backward(*self._split(given)[1:]), given),
            recorded=self._recorded_backward.apply,
            plain=lambda *given: self._filled(computation.plain_backward(*self._split(given)), given),
            vmap=lambda info, dims, *given: self._vmap_backward(
                self._dispatched_backward, info.batch_size, dims, given
            ),
            device=device,
            autocast=autocast,
        )

    def __call__(self, *arguments: Any) -> Any:
        """The operation's results; arguments as in its schema."""
        if not self._is_told:
            return self._call(*arguments)
        # An exported program is for inference, until autograd records it.
        exporting = torch.compiler.is_exporting() or torch.jit.is_tracing()
        return self._call(*arguments, not exporting and needs_gradient(self._given(arguments)))

    def _given(self, arguments: Sequence[Any]) -> list[torch.Tensor]:
        return [t for t in arguments[: self._tensors] if t is not None]

    def _call(self, *arguments: Any) -> Any:
        """The results; arguments as in the schema, including the last one."""
        tensors = self._given(arguments)
        if can_skip_dispatcher(tensors, cast=self._autocast):
            if needs_gradient(tensors):
                return apply_directly(self._recorded, *arguments, True)
            return self._returned(self._computation.forward(*arguments))
        # Here, and not only in the dispatcher: there, a transform of torch.func that calls the next one undoes what
        # autocast's rule has done.
        if self._autocast and autocast_is_on(tensors[0].device.type):
            return in_float32(tensors[0].device.type, self._call, *arguments)
        if torch.compiler.is_compiling() or torch.jit.is_tracing() or has_torch_function(tensors):
            return self._dispatched(*arguments)
        if in_forward_mode():
            return self._returned(self._computation.plain(*arguments))
        if needs_gradient(tensors):
            return self._recorded.apply(*arguments, False)
        return self._dispatched(*arguments)

    def _foreseen(self, arguments: Sequence[Any]) -> Sequence[Any]:
        """The arguments; if a compiler doesn't know sizes, what is kept must not depend on them."""
        if self._is_told and free_unbacked_symbols([t.shape for t in self._given(arguments)]):
            return *arguments[:-1], False
        return arguments

    def _returned(self, results: Results) -> Any:
        return results[0] if self._results == 1 else results

    # The backward pass. Its arguments: the gradients of the results, the kept results, the operation's arguments, and
    # which of its tensors need a gradient.

    def _split(self, arguments: Sequence[Any]) -> tuple[Outcome, Sequence[Any], Sequence[bool]]:
        outcome = Outcome(arguments[: self._differentiable], arguments[self._differentiable : self._leading])
        return outcome, arguments[self._leading : -1], arguments[-1]

    def _filled(self, gradients: OptionalTensors, arguments: Sequence[Any]) -> Results:
        """The gradients, with an empty tensor for each None, which a function of torch.library can't return."""
        like = arguments[self._leading]
        return tuple(like.new_empty(0) if g is None else g for g in gradients)

    # Autograd

    def _functions(self) -> tuple[type[torch.autograd.Function], type[torch.autograd.Function]]:
        """The forward and the backward pass as Functions. The forward pass ends with whether the call is bare."""
        operation = self

        class Forward(torch.autograd.Function):
            @staticmethod
            def forward(*arguments: Any) -> Any:
                *given, bare = arguments
                if bare:
                    return operation._returned(operation._computation.forward(*given))
                return operation._dispatched(*given)

            @staticmethod
            def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
                operation._keep(ctx, inputs, output)

            @staticmethod
            def backward(ctx: Any, *grads: torch.Tensor | None) -> OptionalTensors:
                return operation._differentiate(ctx, grads[: operation._differentiable])

            @staticmethod
            def vmap(info: Any, in_dims: Dims, *arguments: Any) -> Any:
                return operation._vmap(operation._call, info.batch_size, in_dims, arguments[:-1])

        class Backward(torch.autograd.Function):
            @staticmethod
            def forward(*arguments: Any) -> Any:
                return operation._dispatched_backward(*arguments)

            @staticmethod
            def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
                tensors = operation._leading + operation._tensors
                ctx.save_for_backward(*inputs[:tensors])
                ctx.rest = inputs[tensors:]

            @staticmethod
            def backward(ctx: Any, *grads: torch.Tensor) -> OptionalTensors:
                return operation._differentiate_again(ctx, grads)

            @staticmethod
            def vmap(info: Any, in_dims: Dims, *arguments: Any) -> Any:
                return operation._vmap_backward(operation._recorded_backward.apply, info.batch_size, in_dims, arguments)

        # Printed results show the names of these classes.
        return type(self.name, (Forward,), {}), type(f"{self.name}_backward", (Backward,), {})

    def _keep(self, ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        results = (output,) if self._results == 1 else output
        ctx.save_for_backward(*inputs[: self._tensors], *(results[each.result] for each in self._keeps))
        ctx.rest = inputs[self._tensors : -1]
        ctx.set_materialize_grads(False)
        if self._differentiable < self._results:
            ctx.mark_non_differentiable(*results[self._differentiable :])

    def _differentiate(self, ctx: Any, grads: tuple[torch.Tensor | None, ...]) -> OptionalTensors:
        nothing = (None,) * (len(ctx.rest) + 1)
        if all(grad is None for grad in grads):
            return (None,) * self._tensors + nothing
        saved = ctx.saved_tensors
        needed = list(ctx.needs_input_grad[: self._tensors])
        arguments = (*grads, *saved[self._tensors :], *saved[: self._tensors], *ctx.rest, needed)
        if in_forward_mode():
            return self._computation.plain_backward(*self._split(arguments)) + nothing
        tensors = [t for t in (*grads, *saved) if t is not None]
        if not torch.is_grad_enabled() and can_skip_dispatcher(tensors, cast=self._autocast):
            return self._computation.backward(*self._split(arguments)) + nothing
        # A compiler that traces this backward pass does not support a Function inside a Function.
        compiling = torch.compiler.is_compiling()
        gradients = (self._dispatched_backward if compiling else self._recorded_backward.apply)(*arguments)
        return *(g if n else None for g, n in zip(gradients, needed, strict=True)), *nothing

    def _differentiate_again(self, ctx: Any, grads: tuple[torch.Tensor, ...]) -> OptionalTensors:
        """Gradients of the backward pass's arguments. torch.func makes them differentiable in turn, in any order."""
        saved = ctx.saved_tensors
        arguments = [*saved, *ctx.rest]
        kept = range(self._differentiable, self._leading)
        variables = [i for i, t in enumerate(saved) if t is not None and i not in kept]

        def gradients(*values: torch.Tensor) -> Results:
            for i, value in zip(variables, values, strict=True):
                arguments[i] = value
            return self._filled(self._computation.plain_backward(*self._split(arguments)), arguments)

        with torch.autocast(saved[variables[0]].device.type, enabled=False):
            pull_back = torch.func.vjp(gradients, *(arguments[i] for i in variables))[1]
            found = dict(zip(variables, pull_back(grads), strict=True))
        return tuple(found.get(i) for i in range(len(arguments)))

    # vmap

    def _vmap(self, call: Callable[..., Any], size: int, dims: Dims, arguments: Sequence[Any]) -> tuple[Any, Any]:
        if self._is_told:  # a batch of calls must not keep many times what one call may keep
            arguments = (*arguments[:-1], False)
        results = batched(call, size, dims, self._of_rows, arguments, fold=True)
        return results, 0 if self._results == 1 else (0,) * self._results

    def _vmap_backward(
        self, call: Callable[..., Any], size: int, dims: Dims, arguments: Sequence[Any]
    ) -> tuple[Any, Any]:
        needed = arguments[-1]
        # The gradient of a shared tensor is a sum over rows, separate for each entry of the batch.
        alone = all(rows for rows, n in zip(self._of_rows, needed, strict=True) if n)
        of_rows = [True] * self._leading + self._of_rows
        gradients = batched(call, size, dims, of_rows, arguments, fold=alone)
        return gradients, tuple(0 if n else None for n in needed)
