"""The subjects of the tests in this folder: every operation and layer, with its formula in plain
PyTorch, which autograd differentiates.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from problems import (
    EMULATED,
    FLOAT32_BACKENDS,
    INTERPRETED,
    lista_problem,
    sparse_code_problem,
    suited,
    takers,
    unrolled_autoencoder,
    unrolled_ista,
    unrolled_lista,
    unrolled_sparse_code,
    variant,
)
from torch import Tensor
from torch.func import functional_call
from torch.utils._pytree import tree_leaves

from scvae_fast import (
    ALISTA,
    LISTA,
    LISTACP,
    SLISTA,
    DictionaryLISTA,
    SparseAutoencoder,
    TiLISTA,
    decode,
    dictionaries,
    lasso,
    lista,
    soft_threshold,
    sparse_code,
)
from scvae_fast.functional import group_norm_silu
from scvae_fast.ops import normalisation

Tensors = dict[str, Tensor]


class Subject(NamedTuple):
    """A function of named tensors, and the same function written in plain PyTorch."""

    call: Callable[..., tuple[Tensor, ...]]
    plain: Callable[..., tuple[Tensor, ...]]
    make: Callable[[], Tensors]
    rows: tuple[str, ...]  # of the tensors, those of which every row is computed by itself

    def tensors(self, seed: int = 0) -> Tensors:
        """Arguments; others for another seed."""
        torch.manual_seed(seed)
        return self.make()


def _as_tuple(results: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return results if isinstance(results, tuple) else (results,)


def _operation(op: Callable, plain: Callable, problem: Callable[[], dict], backend: str, **settings: Any) -> Subject:
    def make() -> Tensors:
        return {name: t for name, t in suited(backend, problem()).items() if t is not None}

    rows = tuple(name for name in ("b", "x", "z", "z0") if name in make())
    return Subject(
        lambda **tensors: _as_tuple(op(**tensors, **settings, backend=backend)),
        lambda **tensors: _as_tuple(plain(**tensors, **settings)),
        make,
        rows,
    )


# With every option among them.
_VARIANTS = ("non-negative ista", "everything of each iteration", "fista, z0", "non-negative LISTA-CP")


def _variant(name: str, backend: str) -> Subject:
    op, _, settings = variant(name, 3, 5, 4, 2)
    plain = {"lista": unrolled_lista, "ista": unrolled_ista, "sparse_code": unrolled_sparse_code}[op.__name__]
    return _operation(op, plain, lambda: variant(name, 3, 5, 4, 2)[1], backend, **settings)


def _decode_problem() -> dict[str, Tensor]:
    return {"z": torch.randn(3, 5, dtype=torch.float64).relu(), "D": torch.randn(4, 5, dtype=torch.float64)}


def _dictionary() -> Tensor:
    return dictionaries.random_unit(4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def _untied(backend: str) -> Subject:
    layer = LISTA(4, 6, 3, dictionary=_dictionary(), lmbda=0.3, backend=backend, dtype=torch.float64)

    def make() -> Tensors:
        W_e, S, theta = (p.detach() + 0.05 * torch.randn_like(p) for p in layer.parameters())
        return suited(backend, {"x": torch.randn(3, 4), "W_e": W_e, "S": S, "theta": theta.abs()})

    return Subject(
        lambda x, **parameters: (functional_call(layer, parameters, (x,)),),
        lambda x, W_e, S, theta: (unrolled_lista(x @ W_e.T, S, theta, 3),),
        make,
        ("x",),
    )


def _tied(backend: str, compat: str) -> Subject:
    layer = DictionaryLISTA(_dictionary(), 3, 0.4, compat, backend=backend)

    def plain(x: Tensor, dictionary: Tensor, c: Tensor) -> tuple[Tensor, ...]:
        D = dictionary
        S = torch.eye(6, dtype=D.dtype, device=D.device) - D.T @ D / c
        return unrolled_sparse_code(x, D.T / c, S, 0.4 / c, D, 3, gain=c if compat == "official" else None)

    def make() -> Tensors:
        D = layer.dictionary.detach() + 0.05 * torch.randn(4, 6)
        return suited(backend, {"x": torch.randn(3, 4), "dictionary": D, "c": layer.c.detach() * 1.5})

    return Subject(lambda x, **parameters: functional_call(layer, parameters, (x,)), plain, make, ("x",))


def _unrolled(make: Callable[..., torch.nn.Module], plain: Callable[..., tuple[Tensor, ...]], backend: str) -> Subject:
    """A layer over a learned dictionary; `plain` takes x, D and the other parameters by name."""
    layer = make(_dictionary(), 3, 0.3, learn_dictionary=True, backend=backend)

    def arguments() -> Tensors:
        moved = {name: p.detach() * (1 + 0.05 * torch.rand_like(p)) for name, p in layer.named_parameters()}
        return suited(backend, {"x": torch.randn(3, 4), **moved})

    return Subject(
        lambda x, **parameters: (functional_call(layer, parameters, (x,)),),
        lambda x, dictionary, **more: plain(x, dictionary, **more)[:1],
        arguments,
        ("x",),
    )


def _plain_alista(x: Tensor, D: Tensor, step: Tensor, theta: Tensor) -> tuple[Tensor, ...]:
    W = D.T @ torch.linalg.inv(D @ D.T)
    W = W / (W * D.T).sum(1, keepdim=True)
    return unrolled_sparse_code(x, W, None, theta, D, 3, step=step)


UNROLLED = {
    "LISTACP": (LISTACP, lambda x, D, W, theta: unrolled_sparse_code(x, W, None, theta, D, 3)),
    "TiLISTA": (TiLISTA, lambda x, D, W, step, theta: unrolled_sparse_code(x, W, None, theta, D, 3, step=step)),
    "ALISTA": (ALISTA, _plain_alista),
    "SLISTA": (
        SLISTA,
        lambda x, D, step: (unrolled_ista(x @ D, D.T @ D, 0.3 * step.unsqueeze(1), 3, step=step),),
    ),
}


def _untied_of_each(backend: str) -> Subject:
    layer = LISTA(
        4, 6, 3, dictionary=_dictionary(), lmbda=0.3, per_iteration="all", backend=backend, dtype=torch.float64
    )
    layer.to(suited(backend, {"x": torch.empty(0)})["x"])  # the dictionary, which is no parameter here

    def make() -> Tensors:
        moved = {name: p.detach() + 0.05 * torch.randn_like(p) for name, p in layer.named_parameters()}
        return suited(backend, {"x": torch.randn(3, 4), **moved})

    D = _dictionary()

    def plain(x: Tensor, W_e: Tensor, S: Tensor, theta: Tensor) -> tuple[Tensor, ...]:
        return unrolled_sparse_code(x, W_e, S, theta, D.to(x), 3)[:1]

    return Subject(
        lambda x, **parameters: (functional_call(layer, parameters, (x,)),),
        plain,
        make,
        ("x",),
    )


def _autoencoder(backend: str, k: int | None) -> Subject:
    layer = SparseAutoencoder(4, 6, 2, k=k, lmbda=0.1, dictionary=_dictionary(), backend=backend, dtype=torch.float64)

    def plain(**tensors: Tensor) -> tuple[Tensor, ...]:
        return unrolled_autoencoder(**tensors, k=k)

    def make() -> Tensors:
        parameters = {n: p.detach() + 0.05 * torch.randn_like(p) for n, p in layer.named_parameters()}
        return suited(backend, {"x": torch.randn(3, 4), **parameters, "atoms": 1.3 * parameters["atoms"]})

    return Subject(lambda x, **parameters: functional_call(layer, parameters, (x,)), plain, make, ("x",))


def _normalisation() -> Subject:
    def plain(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
        return (F.silu(F.group_norm(x, 2, weight, bias, 1e-6)),)

    def make() -> Tensors:
        return {"x": torch.randn(3, 4, 3, 2), "weight": 1 + torch.rand(4), "bias": torch.randn(4)}

    return Subject(lambda x, weight, bias: (group_norm_silu(x, weight, bias, 2),), plain, make, ("x",))


def _lasso(**settings: Any) -> Subject:
    """The optimum, and enough iterations of ISTA to reach it."""

    def plain(x: Tensor, D: Tensor, alpha: Tensor) -> tuple[Tensor, ...]:
        z = x @ D
        for _ in range(150):
            u = z + 0.7 * (x - z @ D.T) @ D
            z = (u - 0.7 * alpha).relu() if settings.get("positive") else u.sign() * (u.abs() - 0.7 * alpha).relu()
        return (z,)

    def make() -> Tensors:
        D = torch.eye(6, 5, dtype=torch.float64) + 0.15 * torch.randn(6, 5, dtype=torch.float64)
        x = 2 * torch.randn(3, 6, dtype=torch.float64)
        return {"x": x, "D": D, "alpha": 0.5 + 0.2 * torch.rand(5, dtype=torch.float64)}

    return Subject(lambda x, D, alpha: (lasso(x, D, alpha, tol=0, **settings).codes,), plain, make, ("x",))


def _threshold() -> Subject:
    def make() -> Tensors:
        return {"u": torch.randn(3, 5, dtype=torch.float64), "theta": torch.rand(5, dtype=torch.float64)}

    def plain(u: Tensor, theta: Tensor) -> tuple[Tensor, ...]:
        return (torch.where(u.abs() > theta, u - theta * u.sign(), torch.zeros_like(u)),)

    return Subject(lambda u, theta: (soft_threshold(u, theta),), plain, make, ("u",))


def _subjects() -> dict[str, Subject]:
    found = {"soft_threshold": _threshold(), "group_norm_silu": _normalisation()}
    found |= {"lasso": _lasso(), "non-negative lasso": _lasso(positive=True)}
    for backend in FLOAT32_BACKENDS:
        for start in ("plain", "gain", "z0"):
            found[f"lista from {start}, {backend}"] = _operation(
                lista, unrolled_lista, lambda start=start: lista_problem(3, 5, start=start), backend, n_iter=3
            )
        found[f"lista of one threshold, {backend}"] = _operation(
            lista, unrolled_lista, lambda: lista_problem(3, 5, theta="scalar"), backend, n_iter=2
        )
        if backend != "eager":  # which is the formula
            found |= {f"{name}, {backend}": _variant(name, backend) for name in _VARIANTS if backend in takers(name)}
        found[f"sparse_code, {backend}"] = _operation(
            sparse_code, unrolled_sparse_code, lambda: sparse_code_problem(3, 5, 4), backend, n_iter=3
        )
        found[f"decode, {backend}"] = _operation(decode, lambda z, D: z @ D.T, _decode_problem, backend)
        found[f"LISTA, {backend}"] = _untied(backend)
        if backend in ("triton", "cuda") and (INTERPRETED or EMULATED):
            continue  # slow; one layer stands for those that call the same operations
        if backend in takers("everything of each iteration"):
            found[f"LISTA of each iteration, {backend}"] = _untied_of_each(backend)
        for name, (make, plain) in UNROLLED.items():
            if backend in takers("non-negative LISTA-CP" if name != "SLISTA" else "non-negative ista"):
                found[f"{name}, {backend}"] = _unrolled(make, plain, backend)
        for compat in ("paper", "official"):
            found[f"DictionaryLISTA {compat}, {backend}"] = _tied(backend, compat)
        if backend in takers("autoencoder"):
            found[f"SparseAutoencoder, {backend}"] = _autoencoder(backend, None)
            found[f"SparseAutoencoder of k codes, {backend}"] = _autoencoder(backend, 3)
    return found


SUBJECTS = _subjects()


@contextmanager
def small_inputs_taken() -> Iterator[None]:
    """Within this context, the kernels of group_norm_silu also run for small inputs."""
    before, normalisation._WORTHWHILE = normalisation._WORTHWHILE, 0
    try:
        yield
    finally:
        normalisation._WORTHWHILE = before


def in_float64(tensors: Tensors) -> Tensors:
    """On the CPU."""
    return {name: t.detach().cpu().double() for name, t in tensors.items()}


def weighted_sum(results: tuple[Tensor, ...]) -> Tensor:
    """A smooth function () of results that has second derivatives."""
    return sum((r * torch.linspace(0.5, 1.5, r.numel()).to(r).view(r.shape) + 0.3 * r.square()).sum() for r in results)


def assert_same(found: Any, expected: Any, single_rtol: float = 1e-3) -> None:
    """Two trees of tensors are equal up to rounding in float32, relative to the size of the whole tensor."""
    found, expected = tree_leaves(found), tree_leaves(expected)
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        a, b, single = a.detach().cpu().double(), b.detach().cpu().double(), a.dtype == torch.float32
        if single:
            assert a.shape == b.shape
            assert (a - b).norm() <= single_rtol * b.norm() + 1e-4
        else:
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)
