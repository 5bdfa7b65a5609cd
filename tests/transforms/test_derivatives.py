"""Forward mode, transforms of torch.func and second derivatives, against those of the plain formula in float64."""

from functools import partial

import pytest
import torch
from torch.autograd import forward_ad
from torch.func import grad, hessian, jacfwd, jacrev, jvp, linearize, vjp, vmap

from transforms.subjects import SUBJECTS, assert_same, in_float64, weighted_sum

# torch's own forward mode and linearize load parts of torch, or build graphs, that warn.
pytestmark = [
    pytest.mark.filterwarnings("ignore:`torch.jit"),
    pytest.mark.filterwarnings("ignore:Attempted to insert a get_attr Node:UserWarning"),
]
EVERY_SUBJECT = pytest.mark.parametrize("name", SUBJECTS)


def both(name, seed=0):
    """The subject's function and its formula, of tensors in its order; its tensors, and those in float64."""
    subject = SUBJECTS[name]
    tensors = subject.tensors(seed)
    names = list(tensors)

    def ours(*values):
        return subject.call(**dict(zip(names, values, strict=True)))

    def plain(*values):
        return subject.plain(**dict(zip(names, values, strict=True)))

    return ours, plain, tuple(tensors.values()), tuple(in_float64(tensors).values())


def directions(tensors):
    """One for each tensor, the same in any dtype."""
    generator = torch.Generator().manual_seed(3)
    return tuple(torch.randn(t.shape, generator=generator, dtype=torch.float64).to(t) for t in tensors)


def scalar(function):
    return lambda *tensors: weighted_sum(function(*tensors))


@EVERY_SUBJECT
def test_results_and_gradients(name):
    ours, plain, tensors, exact = both(name)
    assert_same(ours(*tensors), plain(*exact))
    found, expected = [], []
    for function, given, out in ((ours, tensors, found), (plain, exact, expected)):
        leaves = [t.clone().requires_grad_() for t in given]
        out += torch.autograd.grad(weighted_sum(function(*leaves)), leaves)
    assert_same(found, expected)


@EVERY_SUBJECT
@pytest.mark.parametrize("recorded", [False, True])
def test_dual_tensors(name, recorded):
    ours, plain, tensors, exact = both(name)
    _, expected = jvp(plain, exact, directions(exact))
    with forward_ad.dual_level():
        duals = [
            forward_ad.make_dual(t.clone().requires_grad_(recorded), d)
            for t, d in zip(tensors, directions(tensors), strict=True)
        ]
        found = [forward_ad.unpack_dual(r) for r in ours(*duals)]
        assert_same([f.primal for f in found], plain(*exact))
        assert_same([f.tangent for f in found], expected)


@EVERY_SUBJECT
def test_dual_tensors_of_one_argument_at_a_time(name):
    ours, plain, tensors, exact = both(name)
    for i in range(len(tensors)):

        def of_one(function, given, i=i):
            return lambda t: function(*given[:i], t, *given[i + 1 :])

        _, expected = jvp(of_one(plain, exact), exact[i : i + 1], directions(exact)[i : i + 1])
        with forward_ad.dual_level():
            results = of_one(ours, tensors)(forward_ad.make_dual(tensors[i], directions(tensors)[i]))
            found = [forward_ad.unpack_dual(r).tangent for r in results]
        assert_same([torch.zeros_like(e) if f is None else f for f, e in zip(found, expected, strict=True)], expected)


@EVERY_SUBJECT
def test_forward_mode_over_a_backward_pass(name):
    ours, plain, tensors, exact = both(name)
    _, expected = jvp(grad(scalar(plain), argnums=tuple(range(len(exact)))), exact, directions(exact))
    with forward_ad.dual_level():
        duals = [
            forward_ad.make_dual(t.clone().requires_grad_(), d)
            for t, d in zip(tensors, directions(tensors), strict=True)
        ]
        gradients = torch.autograd.grad(weighted_sum(ours(*duals)), duals)
        assert_same([forward_ad.unpack_dual(g).tangent for g in gradients], expected)


TRANSFORMS = {
    "jvp": lambda f, n: lambda *t: jvp(f, t, directions(t)),
    "jvp of jvp": lambda f, n: lambda *t: jvp(lambda *u: jvp(f, u, directions(u)), t, directions(t)),
    "vjp": lambda f, n: lambda *t: vjp(scalar(f), *t)[1](t[0].new_ones(())),
    "grad": lambda f, n: grad(scalar(f), argnums=tuple(range(n))),
    "grad of grad": lambda f, n: (
        lambda *t: [
            grad(lambda *u, i=i: grad(scalar(f), argnums=i)(*u).square().sum(), argnums=tuple(range(n)))(*t)
            for i in range(n)
        ]
    ),
    "jacrev": lambda f, n: jacrev(f, argnums=tuple(range(n))),
    "jacfwd": lambda f, n: jacfwd(f, argnums=tuple(range(n))),
    "hessian": lambda f, n: hessian(scalar(f), argnums=tuple(range(n))),
    "jacrev of jacrev": lambda f, n: jacrev(jacrev(scalar(f), argnums=tuple(range(n))), argnums=tuple(range(n))),
    "jacrev of jacfwd": lambda f, n: jacrev(jacfwd(scalar(f), argnums=0), argnums=0),
    "jvp of grad": lambda f, n: lambda *t: jvp(grad(scalar(f), argnums=tuple(range(n))), t, directions(t)),
    "grad of jvp": lambda f, n: grad(lambda *t: scalar(f)(*t) + weighted_sum(jvp(f, t, directions(t))[1])),
    "vmap of jvp": lambda f, n: (
        lambda *t: vmap(partial(jvp, f, t), in_dims=(((0,) * n),))(
            tuple(torch.stack([d, 2 * d]) for d in directions(t))
        )
    ),
    "linearize": lambda f, n: lambda *t: linearize(f, *t)[1](*directions(t)),
}


@EVERY_SUBJECT
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_transforms(name, transform):
    ours, plain, tensors, exact = both(name)
    make = TRANSFORMS[transform]
    assert_same(make(ours, len(tensors))(*tensors), make(plain, len(exact))(*exact))


@EVERY_SUBJECT
@pytest.mark.parametrize("over", ["rows", "shared", "all", "each"])
def test_vmap(name, over):
    """A batch of rows, of what rows share, of both, and of one argument after the other, along any dimension."""
    subject = SUBJECTS[name]
    batches = [subject.tensors(seed) for seed in range(4)]
    chosen = {
        "rows": [subject.rows],
        "shared": [tuple(n for n in batches[0] if n not in subject.rows)],
        "all": [tuple(batches[0])],
        "each": [(n,) for n in batches[0]],
    }[over]
    for names in chosen:
        dims = {n: -1 if n in names else None for n in batches[0]}
        stacked = {n: torch.stack([b[n] for b in batches], -1) if n in names else t for n, t in batches[0].items()}
        found = vmap(lambda t: subject.call(**t), in_dims=(dims,))(stacked)
        each = [{n: b[n] if n in names else t for n, t in batches[0].items()} for b in batches]
        expected = [subject.plain(**in_float64(t)) for t in each]
        assert_same(found, [torch.stack(r) for r in zip(*expected, strict=True)])


@EVERY_SUBJECT
def test_vmap_of_vmap(name):
    """A batch of what rows share outside, of rows inside; and empty ones."""
    subject = SUBJECTS[name]
    batches = [subject.tensors(seed) for seed in range(6)]
    rows = {n: torch.stack([b[n] for b in batches]).unflatten(0, (2, 3)) for n in subject.rows}
    shared = {n: torch.stack([batches[0][n], batches[1][n]]) for n in batches[0] if n not in subject.rows}

    def mapped(function, rows, shared):
        return vmap(lambda r, s: vmap(lambda t: function(**t, **s))(r))(rows, shared)

    found = mapped(subject.call, rows, shared)
    assert_same(found, mapped(subject.plain, in_float64(rows), in_float64(shared)))
    if name != "group_norm_silu":  # PyTorch's own gives an empty batch another shape
        empty = mapped(subject.call, {n: t[:0] for n, t in rows.items()}, {n: t[:0] for n, t in shared.items()})
        assert [t.shape for t in empty] == [(0, *t.shape[1:]) for t in found]


@EVERY_SUBJECT
def test_gradients_of_every_row(name):
    """Vmap of grad, with respect to the row and to what all rows share; and in the other order."""
    subject = SUBJECTS[name]
    tensors = subject.tensors()
    dims = {n: 0 if n in subject.rows else None for n in tensors}

    def of_each(function):
        return vmap(grad(lambda t: weighted_sum(function(**t))), in_dims=(dims,))

    found, expected = (
        of_each(subject.call)(row_by_row(name, tensors)),
        of_each(subject.plain)(row_by_row(name, in_float64(tensors))),
    )
    assert_same([found[n] for n in tensors], [expected[n] for n in tensors])
    total = grad(lambda t: sum(r.sum() for r in vmap(lambda u: subject.call(**u), in_dims=(dims,))(t)))(
        row_by_row(name, tensors)
    )
    plain = grad(lambda t: sum(r.sum() for r in subject.plain(**t)))(in_float64(tensors))
    assert_same([total[n].reshape(plain[n].shape) for n in tensors], [plain[n] for n in tensors])


def row_by_row(name, tensors):
    """group_norm_silu takes pictures, a batch of them: here each is a batch of its own."""
    return {n: t.unsqueeze(1) if name == "group_norm_silu" and n == "x" else t for n, t in tensors.items()}


@EVERY_SUBJECT
def test_vmap_of_hessian(name):
    subject = SUBJECTS[name]
    tensors, exact = subject.tensors(), in_float64(subject.tensors())
    row = subject.rows[0]

    def of_rows(function, given):
        rest = {n: t[:1] if n in subject.rows else t for n, t in given.items() if n != row}
        one = row_by_row(name, {row: given[row]})[row]
        return vmap(
            hessian(lambda t: weighted_sum(function(**{row: t if name == "group_norm_silu" else t[None]}, **rest)))
        )(one)

    assert_same(of_rows(subject.call, tensors), of_rows(subject.plain, exact))


@EVERY_SUBJECT
def test_gradient_penalty(name):
    """The derivative of the norm of a gradient, as of a critic's, and one more derivative of that."""
    found = []
    for function, tensors in zip(both(name)[:2], both(name)[2:], strict=True):
        leaves = [t.clone().requires_grad_() for t in tensors]
        gradients = torch.autograd.grad(weighted_sum(function(*leaves)), leaves, create_graph=True)
        penalty = sum(g.square().sum() for g in gradients)
        second = torch.autograd.grad(penalty, leaves, create_graph=True)
        third = torch.autograd.grad(sum(g.sin().sum() for g in second), leaves)
        found.append([*gradients, *second, *third])
    assert_same(*found)


@pytest.mark.parametrize("name", [n for n in SUBJECTS if "lista" in n or n.startswith("sparse_code")])
def test_autocast_around_all_of_it(name):
    """Backward passes too: everything is computed in float32."""
    ours, plain, tensors, exact = both(name)
    tensors = [t.float().requires_grad_() for t in tensors]
    exact = [t.requires_grad_() for t in exact]
    found = []
    for function, leaves in ((ours, tensors), (plain, exact)):
        with torch.autocast(leaves[0].device.type, enabled=function is ours):
            results = function(*leaves)
            first = torch.autograd.grad(weighted_sum(results), leaves, create_graph=True)
            second = torch.autograd.grad(sum(g.square().sum() for g in first), leaves)
        found.append([*results, *first, *second])
    assert_same(*found)
    assert all(t.dtype == torch.float32 for t in found[0])


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in SUBJECTS if n.endswith(("cpu", "eager"))])
def test_finite_differences_of_the_gradients(name):
    ours, _, tensors, _ = both(name)
    if tensors[0].dtype == torch.float64:
        leaves = tuple(t.clone().requires_grad_() for t in tensors)
        assert torch.autograd.gradcheck(ours, leaves, check_forward_ad=True, check_batched_grad=True)
        assert torch.autograd.gradgradcheck(ours, leaves, check_fwd_over_rev=True, check_batched_grad=True)


@EVERY_SUBJECT
def test_functionalize(name):
    ours, plain, tensors, exact = both(name)
    assert_same(torch.func.functionalize(ours)(*tensors), plain(*exact))
