"""The one wiring of the operations: registration with torch.library, derivatives, vmap.

An operation is described by its `Problem`: a named tuple of its arguments, tensors first. A problem checks itself,
brings its tensors into rows, and knows the shapes of the results. From that and the siblings, `Operation` makes

- two functions of torch.library, the forward and the backward pass. torch.compile, torch.export, modes and subclasses
  see these two functions, and nothing inside them.
- two autograd.Functions that call them. Eager calls go through these where a gradient is needed, also under transforms
  of torch.func. The backward pass is a Function too, so it can be differentiated again.

Forward mode and derivatives of the backward pass run the specification, the eager sibling. It is plain PyTorch, so
every mode and every transform can differentiate it. A call that only autograd can see skips the dispatcher
(`_dispatch.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import torch
from torch.overrides import has_torch_function

from scvae_fast.ops import _backend, _checks
from scvae_fast.ops._batching import Dims, batched
from scvae_fast.ops._dispatch import in_forward_mode, is_bare, needs_gradient
from scvae_fast.ops._registered import Registered, apply_bare, autocast_is_on, in_float32

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


def one_value(tensor: _T) -> _T:
    """A tensor of one element without dimensions, any other as it is."""
    return tensor if tensor is None or tensor.dim() == 0 or tensor.numel() != 1 else tensor.reshape(())


def _shaped(tensor: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """A sibling's result in another shape; to autograd no view, so that callers may change it in place."""
    return tensor if tensor.shape == shape else torch.ops.aten._unsafe_view(tensor, shape)


class Operation:
    """Registers `scvae_fast::name` and `scvae_fast::name_backward`; calling it calls the first.

    Args:
        name: the operation's.
        arguments: the problem's fields as in a schema: "Tensor b, Tensor S, …, SymInt n_iter".
        problem: its class.
        rows: names of the tensors that have a row for each row of the results. All rows share the other tensors.
        results: number of results.
        siblings: for each backend's name its implementation; "eager" is the specification.
        keeps_codes: whether the backward pass takes the first result, the codes.
    """

    def __init__(
        self,
        name: str,
        arguments: str,
        problem: type[Any],
        rows: tuple[str, ...],
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
        self._of_rows = [field in rows for field in problem._fields[: self.tensors]]
        self._recorded, self._recorded_backward = self._functions()
        returned = "Tensor" if results == 1 else f"({', '.join(['Tensor'] * results)})"
        self._dispatched = Registered(
            name,
            f"({arguments}, str? backend) -> {returned}",
            kernel=self._forward,
            fake=self._fake,
            recorded=lambda *given: self._recorded.apply(*given, False),
            plain=self._plain,
            vmap=lambda info, dims, *given: self._vmap(self._dispatched, info.batch_size, dims, given),
        )
        grads = "".join(f"Tensor? grad_{i}, " for i in range(results)) + ("Tensor codes, " if keeps_codes else "")
        self._dispatched_backward = Registered(
            f"{name}_backward",
            f"({grads}{arguments}, bool[] needed, str? backend) -> ({', '.join(['Tensor'] * self.tensors)})",
            kernel=lambda *given: self._filled(self._gradients(*given), given),
            fake=self._fake_backward,
            recorded=self._recorded_backward.apply,
            plain=lambda *given: self._filled(self._plain_gradients(*given), given),
            vmap=lambda info, dims, *given: self._vmap_backward(
                self._dispatched_backward, info.batch_size, dims, given
            ),
        )

    def __call__(self, *arguments: Any) -> Any:
        """The operation's results; arguments as in its schema."""
        tensors = [t for t in arguments[: self.tensors] if t is not None]
        if is_bare(tensors):
            if needs_gradient(tensors):
                return apply_bare(self._recorded, *arguments, True)
            return self._forward(*arguments)
        # Here and not only in the dispatcher: there a transform of torch.func, when it calls the next one, undoes what
        # autocast's rule has done.
        if autocast_is_on(tensors[0].device.type):
            return in_float32(tensors[0].device.type, self, *arguments)
        if torch.compiler.is_compiling() or torch.jit.is_tracing() or has_torch_function(tensors):
            return self._dispatched(*arguments)
        if in_forward_mode():
            return self._plain(*arguments)
        if needs_gradient(tensors):
            return self._recorded.apply(*arguments, False)
        return self._dispatched(*arguments)

    # The forward pass

    def _sibling(self, backend: str | None, like: torch.Tensor) -> Sibling:
        rows = like.numel() // max(1, like.shape[-1])
        return self.siblings[_backend.choose(self.name, backend, like.device, like.dtype, rows)]

    def _forward(self, *arguments: Any) -> Any:
        """The results, by the backend that was asked for or is chosen."""
        *fields, backend = arguments
        problem = self.problem(*fields)
        problem.check()
        return self._results(self._sibling(backend, problem[0]), problem)

    def _plain(self, *arguments: Any) -> Any:
        """The results, by the specification: differentiable in every way."""
        problem = self.problem(*arguments[:-1])
        problem.check()
        with torch.autocast(problem[0].device.type, enabled=False):
            return self._results(self.siblings["eager"], problem)

    def _results(self, sibling: Sibling, problem: Any) -> Any:
        results = sibling.forward(problem.rows())
        if self.results == 1:
            return _shaped(results, problem.result_shapes()[0])
        return tuple(map(_shaped, results, problem.result_shapes()))

    def _fake(self, *arguments: Any) -> Any:
        problem = self.problem(*arguments[:-1])
        problem.check()
        results = tuple(problem[0].new_empty(shape) for shape in problem.result_shapes())
        return results[0] if self.results == 1 else results

    # The backward pass. Its arguments: the gradients of the results, the codes where they are kept, the problem, which
    # tensors of the problem need a gradient, the backend.

    def _split(self, arguments: Sequence[Any]) -> tuple[list[Any], Any, list[bool]]:
        """Gradients and codes; the problem; what is needed."""
        *leading_and_fields, needed, _ = arguments
        leading = self.results + self.keeps_codes
        return leading_and_fields[:leading], self.problem(*leading_and_fields[leading:]), needed

    def _check_backward(self, leading: list[Any], problem: Any, needed: Sequence[bool]) -> None:
        """Raises TypeError or ValueError for arguments with which a kernel would read or write out of bounds."""
        op = f"{self.name}_backward"
        problem.check()
        shapes = problem.result_shapes()
        names = [f"grad_{i}" for i in range(self.results)] + ["codes"] * self.keeps_codes
        for name, tensor, shape in zip(names, leading, (*shapes, shapes[0]), strict=False):
            if tensor is not None:
                _checks.has_shape(op, name, tensor, shape, "of its result's shape")
                _checks.agree(op, (problem._fields[0], name), (problem[0], tensor))
        if all(tensor is None for tensor in leading[: self.results]):
            raise ValueError(f"{op}: at least one result's gradient must be given, got none")
        if len(needed) != self.tensors:
            raise ValueError(f"{op}: needed must have {self.tensors} entries, one for each tensor, got {len(needed)}")

    def _gradients(self, *arguments: Any) -> Gradients:
        """The gradients, by the backend that was asked for or is chosen; None for those that are not needed."""
        leading, problem, needed = self._split(arguments)
        self._check_backward(leading, problem, needed)
        sibling = self._sibling(arguments[-1], problem[0])
        return self._of_tensors(problem, sibling.backward(*map(rows, leading), problem.rows(), needed))

    def _plain_gradients(self, *arguments: Any) -> Gradients:
        """The gradients, by the specification: differentiable functions of the problem and of the results' gradients.

        The codes are computed again, for they depend on the problem.
        """
        leading, problem, needed = self._split(arguments)
        eager, p = self.siblings["eager"], problem.rows()
        with torch.autocast(problem[0].device.type, enabled=False):
            if self.keeps_codes:
                results = eager.forward(p)
                leading[-1] = results if self.results == 1 else results[0]
            return self._of_tensors(problem, eager.backward(*map(rows, leading), p, needed))

    def _of_tensors(self, problem: Any, gradients: Gradients) -> Gradients:
        tensors = problem[: self.tensors]
        return tuple(None if g is None else _shaped(g, t.shape) for g, t in zip(gradients, tensors, strict=True))

    def _filled(self, gradients: Gradients, arguments: Sequence[Any]) -> tuple[torch.Tensor, ...]:
        """The gradients, an empty tensor in the place of each None: a function of torch.library can't return None."""
        like = arguments[self.results + self.keeps_codes]
        return tuple(like.new_empty(0) if g is None else g for g in gradients)

    def _fake_backward(self, *arguments: Any) -> tuple[torch.Tensor, ...]:
        _, problem, needed = self._split(arguments)
        wanted = zip(problem[: self.tensors], needed, strict=True)
        return self._filled(tuple(t.new_empty(t.shape) if n else None for t, n in wanted), arguments)

    # Autograd

    def _functions(self) -> tuple[type[torch.autograd.Function], type[torch.autograd.Function]]:
        """The forward and the backward pass as Functions. The forward pass is told last whether the call is bare."""
        operation = self

        class Forward(torch.autograd.Function):
            @staticmethod
            def forward(*arguments: Any) -> Any:
                *given, bare = arguments
                return operation._forward(*given) if bare else operation._dispatched(*given)

            @staticmethod
            def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
                operation._keep(ctx, inputs, output)

            @staticmethod
            def backward(ctx: Any, *grads: torch.Tensor | None) -> Gradients:
                return operation._differentiate(ctx, grads)

            @staticmethod
            def vmap(info: Any, in_dims: Dims, *arguments: Any) -> Any:
                return operation._vmap(operation, info.batch_size, in_dims, arguments[:-1])

        class Backward(torch.autograd.Function):
            @staticmethod
            def forward(*arguments: Any) -> Any:
                return operation._dispatched_backward(*arguments)

            @staticmethod
            def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
                operation._keep_for_second(ctx, inputs)

            @staticmethod
            def backward(ctx: Any, *grads: torch.Tensor) -> Gradients:
                return operation._differentiate_again(ctx, grads)

            @staticmethod
            def vmap(info: Any, in_dims: Dims, *arguments: Any) -> Any:
                return operation._vmap_backward(operation._recorded_backward.apply, info.batch_size, in_dims, arguments)

        # Printed results show the names that the classes are made with.
        return type(self.name, (Forward,), {}), type(f"{self.name}_backward", (Backward,), {})

    def _keep(self, ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        codes = (output if self.results == 1 else output[0],) if self.keeps_codes else ()
        ctx.save_for_backward(*inputs[: self.tensors], *codes)
        ctx.rest, ctx.backend = inputs[self.tensors : -2], inputs[-2]
        ctx.set_materialize_grads(False)

    def _differentiate(self, ctx: Any, grads: tuple[torch.Tensor | None, ...]) -> Gradients:
        nothing = (None,) * (len(ctx.rest) + 2)
        if all(grad is None for grad in grads):
            return (None,) * self.tensors + nothing
        saved = ctx.saved_tensors
        needed = list(ctx.needs_input_grad[: self.tensors])
        arguments = (*grads, *saved[self.tensors :], *saved[: self.tensors], *ctx.rest, needed, ctx.backend)
        if in_forward_mode():
            return self._plain_gradients(*arguments) + nothing
        if not torch.is_grad_enabled() and is_bare([t for t in (*grads, *saved) if t is not None]):
            return self._gradients(*arguments) + nothing
        # A compiler that traces this backward pass takes no Function inside a Function.
        compiling = torch.compiler.is_compiling()
        gradients = (self._dispatched_backward if compiling else self._recorded_backward.apply)(*arguments)
        return *(g if n else None for g, n in zip(gradients, needed, strict=True)), *nothing

    def _keep_for_second(self, ctx: Any, inputs: tuple[Any, ...]) -> None:
        tensors = self.results + self.keeps_codes + self.tensors
        ctx.save_for_backward(*inputs[:tensors])
        ctx.rest = inputs[tensors:]

    def _differentiate_again(self, ctx: Any, grads: tuple[torch.Tensor, ...]) -> Gradients:
        """Gradients of the backward pass's arguments. By torch.func they are differentiable in turn, in any order."""
        saved = ctx.saved_tensors
        arguments = [*saved, *ctx.rest]
        codes = self.results if self.keeps_codes else -1
        variables = [i for i, t in enumerate(saved) if t is not None and i != codes]

        def gradients(*values: torch.Tensor) -> tuple[torch.Tensor, ...]:
            for i, value in zip(variables, values, strict=True):
                arguments[i] = value
            return self._filled(self._plain_gradients(*arguments), arguments)

        with torch.autocast(saved[variables[0]].device.type, enabled=False):
            pull_back = torch.func.vjp(gradients, *(arguments[i] for i in variables))[1]
            found = dict(zip(variables, pull_back(grads), strict=True))
        return tuple(found.get(i) for i in range(len(arguments)))

    # vmap

    def _vmap(self, call: Callable[..., Any], size: int, dims: Dims, arguments: Sequence[Any]) -> tuple[Any, Any]:
        results = batched(call, size, dims, self._of_rows, arguments, fold=True)
        return results, 0 if self.results == 1 else (0,) * self.results

    def _vmap_backward(
        self, call: Callable[..., Any], size: int, dims: Dims, arguments: Sequence[Any]
    ) -> tuple[Any, Any]:
        needed = arguments[-2]
        # The gradient of what rows share is a sum over rows: of each entry's own.
        alone = all(rows for rows, n in zip(self._of_rows, needed, strict=True) if n)
        of_rows = [True] * (self.results + self.keeps_codes) + self._of_rows
        gradients = batched(call, size, dims, of_rows, arguments, fold=alone)
        return gradients, tuple(0 if n else None for n in needed)
