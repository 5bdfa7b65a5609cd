"""torch.compile, torch.export, torch.jit.trace and make_fx: the operation is one node, and correct or refused."""

import contextlib
import sys

import pytest
import torch
from problems import BACKENDS, lista_problem
from processes import run
from torch.func import grad, hessian, jacrev, jvp, vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_leaves

from scvae_fast import DictionaryLISTA, SparseAutoencoder, dictionaries, lista
from transforms.subjects import SUBJECTS, assert_same, in_float64, weighted_sum

pytestmark = [
    pytest.mark.compiles,
    pytest.mark.filterwarnings("ignore:`torch.jit"),
    pytest.mark.filterwarnings("ignore:Attempted to insert a get_attr Node:UserWarning"),
    pytest.mark.filterwarnings("ignore:Converting a tensor to a Python boolean"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"),
]
EVERY_SUBJECT = pytest.mark.parametrize("name", SUBJECTS)
# Options change what is computed inside an operation, which no compiler sees: for transforms two kinds of them do, and
# of the layers those that form weights. Transforms of the lasso take minutes to compile.
_ALIKE = ("everything of each", "fista", "LISTA of each", "LISTACP", "TiLISTA", "lasso")
TRANSFORMED = [name for name in SUBJECTS if not any(alike in name for alike in _ALIKE)]


@pytest.fixture(autouse=True)
def nothing_compiled_before():
    torch.compiler.reset()


def compiled(function, **options):
    return torch.compile(function, fullgraph=True, **{"backend": "aot_eager", **options})


def in_float32(tensors):
    return {name: t.float() for name, t in tensors.items()}


def of_values(name, function):
    names = list(SUBJECTS[name].tensors())
    return lambda *values: function(**dict(zip(names, values, strict=True)))


@EVERY_SUBJECT
def test_training_step(name):
    subject = SUBJECTS[name]
    step = compiled(of_values(name, subject.call))
    for seed in range(2):
        leaves = [t.requires_grad_() for t in subject.tensors(seed).values()]
        exact = [t.requires_grad_() for t in in_float64(subject.tensors(seed)).values()]
        results, expected = step(*leaves), of_values(name, subject.plain)(*exact)
        found = torch.autograd.grad(weighted_sum(results), leaves)
        assert_same([*results, *found], [*expected, *torch.autograd.grad(weighted_sum(expected), exact)])


@pytest.mark.parametrize("backend", BACKENDS)
def test_any_number_of_rows_and_iterations_in_one_graph(backend):
    graphs = []

    def count(graph, _):
        graphs.append(graph)
        return graph.forward

    call = torch.compile(
        lambda b, S, theta, n_iter: lista(b, S, theta, n_iter, backend=backend),
        fullgraph=True,
        backend=count,
        dynamic=True,
    )
    for M, n_iter in ((3, 4), (7, 2), (5, 9)):
        p = lista_problem(M, 6, start="plain")
        found = call(p["b"], p["S"], p["theta"], n_iter)
        assert torch.equal(found, lista(p["b"], p["S"], p["theta"], n_iter, backend=backend))
    assert len(graphs) == 1


def refused_or(call):
    """What the call gives, or None if torch refuses it. Refusing is not wrong; callers check returned values."""
    with contextlib.suppress(RuntimeError, NotImplementedError):  # torch._dynamo's errors are RuntimeErrors
        return call()


TRANSFORMS = {
    "jvp": lambda f, n: lambda *t: jvp(f, t, tuple(torch.ones_like(x) for x in t)),
    "grad": lambda f, n: grad(lambda *t: weighted_sum(f(*t)), argnums=tuple(range(n))),
    "hessian": lambda f, n: hessian(lambda *t: weighted_sum(f(*t)), argnums=tuple(range(n))),
    "jacrev": lambda f, n: jacrev(f, argnums=tuple(range(n))),
    "jvp of grad": lambda f, n: (
        lambda *t: jvp(grad(lambda *u: weighted_sum(f(*u))), t, tuple(torch.ones_like(x) for x in t))
    ),
}


# The wiring is the same for every backend. Hessians take longest: of layers, whose names begin with a capital, `jvp of
# grad` shows the same order.
@pytest.mark.parametrize(
    ("transform", "name"),
    [
        (transform, name)
        for transform in TRANSFORMS
        for name in TRANSFORMED
        if "one threshold" not in name and not name.endswith("eager") and (transform != "hessian" or name[0].islower())
    ],
)
def test_compiled_transforms(transform, name):
    subject, make = SUBJECTS[name], TRANSFORMS[transform]
    tensors, exact = tuple(subject.tensors().values()), tuple(in_float64(subject.tensors()).values())
    plain = make(of_values(name, subject.plain), len(exact))

    def found():
        return compiled(make(of_values(name, subject.call), len(tensors)))(*tensors)

    # torch 2.10 compiles no jacrev, of the formula neither.
    if refused_or(lambda: compiled(plain)(*exact)) is None:
        assert refused_or(found) is None
    else:
        assert_same(found(), plain(*exact))


@pytest.mark.parametrize("name", [n for n in SUBJECTS if n.endswith("cpu") and ("lista from" in n or "sparse" in n)])
@pytest.mark.parametrize("transform", ["plain", "jvp", "grad"])
def test_autocast_around_compiled_transforms(name, transform):
    """The results are computed in float32 all the same. `grad` differentiates PyTorch's formula, whose backward pass
    autocast computes in bfloat16, as it does with PyTorch's own operations.
    """
    subject = SUBJECTS[name]
    tensors, exact = (tuple(make(subject.tensors()).values()) for make in (in_float32, in_float64))
    make = {"plain": lambda f, n: f, **TRANSFORMS}[transform]
    with torch.autocast(tensors[0].device.type):
        found = compiled(make(of_values(name, subject.call), len(tensors)))(*tensors)
    rtol = 2e-2 if transform == "grad" else 1e-3
    assert_same(found, make(of_values(name, subject.plain), len(exact))(*exact), single_rtol=rtol)
    assert all(t.dtype == torch.float32 for t in tree_leaves(found))


@pytest.mark.parametrize("name", [n for n in TRANSFORMED if n != "group_norm_silu"])
@pytest.mark.parametrize("inner", ["call", "grad"])
def test_compiled_vmap(name, inner):
    subject = SUBJECTS[name]
    tensors = subject.tensors()
    dims = ({n: 0 if n in subject.rows else None for n in tensors},)

    def of(function):
        if inner == "call":
            return vmap(lambda t: function(**t), in_dims=dims)
        return vmap(grad(lambda t: weighted_sum(function(**t))), in_dims=dims)

    assert_same(compiled(of(subject.call))(tensors), of(subject.plain)(in_float64(tensors)))


@EVERY_SUBJECT
def test_transforms_of_compiled_functions_are_right_or_refused(name):
    """Torch refuses most of them itself; none may lose a derivative."""
    subject = SUBJECTS[name]
    tensors, exact = tuple(subject.tensors().values()), tuple(in_float64(subject.tensors()).values())
    ones, exact_ones = (tuple(torch.ones_like(x) for x in t) for t in (tensors, exact))
    function, plain = compiled(of_values(name, subject.call)), of_values(name, subject.plain)
    if (found := refused_or(lambda: jvp(function, tensors, ones))) is not None:
        assert_same(found, jvp(plain, exact, exact_ones))

    def dual():
        with torch.autograd.forward_ad.dual_level():
            duals = map(torch.autograd.forward_ad.make_dual, tensors, ones)
            return [torch.autograd.forward_ad.unpack_dual(r).tangent for r in function(*duals)]

    if (found := refused_or(dual)) is not None:
        assert_same(found, jvp(plain, exact, exact_ones)[1])
    if (found := refused_or(lambda: grad(lambda *t: weighted_sum(function(*t)))(*tensors))) is not None:
        assert_same(found, grad(lambda *t: weighted_sum(plain(*t)))(*exact))


@EVERY_SUBJECT
def test_second_derivative_of_compiled_code_is_right_or_refused(name):
    subject = SUBJECTS[name]
    leaves = [t.requires_grad_() for t in subject.tensors().values()]
    exact = [t.requires_grad_() for t in in_float64(subject.tensors()).values()]

    def second(function, variables):
        first = torch.autograd.grad(weighted_sum(function(*variables)), variables, create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in first), variables)

    if (found := refused_or(lambda: second(compiled(of_values(name, subject.call)), leaves))) is not None:
        assert_same(found, second(of_values(name, subject.plain), exact))


@EVERY_SUBJECT
def test_make_fx_records_operations_and_their_gradients(name):
    subject = SUBJECTS[name]
    tensors = tuple(subject.tensors().values())

    def step(*values):
        leaves = [v.detach().requires_grad_() for v in values]
        results = of_values(name, subject.call)(*leaves)
        return [*results, *torch.autograd.grad(weighted_sum(results), leaves)]

    graph = make_fx(step)(*tensors)
    other = tuple(subject.tensors(1).values())
    assert_same(graph(*other), step(*other))
    if name not in ("soft_threshold", "decode, eager"):  # these are PyTorch's own operations
        targets = [str(node.target) for node in graph.graph.nodes]
        assert any(t.startswith("scvae_fast.") and t.endswith("_backward.default") for t in targets)


@pytest.mark.parametrize("backend", BACKENDS)
def test_compiled_autograd(backend):
    """The backward pass, compiled while it runs."""
    p = {n: t.requires_grad_() for n, t in lista_problem(3, 5, start="gain").items() if t is not None}
    expected = torch.autograd.grad(lista(**p, n_iter=3, backend=backend).square().sum(), list(p.values()))
    with torch._dynamo.config.patch(compiled_autograd=True):
        torch.compile(lambda loss: loss.backward(), backend="aot_eager")(
            lista(**p, n_iter=3, backend=backend).square().sum()
        )
    assert_same([t.grad for t in p.values()], expected)


LAYERS = {
    "paper": lambda **s: DictionaryLISTA(dictionaries.random_unit(6, 10, **s), 3, 0.1, "paper"),
    "official": lambda **s: DictionaryLISTA(dictionaries.random_unit(6, 10, **s), 3, 0.1, "official"),
    "autoencoder": lambda **s: SparseAutoencoder(6, 10, 3, **s),
    "TopK autoencoder": lambda **s: SparseAutoencoder(6, 10, 3, k=3, **s),
    "one-layer autoencoder": lambda **s: SparseAutoencoder(6, 10, 0, **s),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_inductor(kind):
    x = torch.randn(5, 6, dtype=torch.float64)
    layer = LAYERS[kind](dtype=torch.float64)
    found = []
    for function in (torch.compile(layer, fullgraph=True), layer):
        layer.zero_grad()
        results = function(x)
        weighted_sum(results).backward()
        found.append([*results, *(p.grad.clone() for p in layer.parameters())])
    assert_same(*found)


def warm_layer(kind="official"):
    """In eval mode, with a filled cache of weights if it has one."""
    torch.manual_seed(0)
    layer = LAYERS[kind]().eval()
    with torch.no_grad():
        layer(torch.randn(2, 6))
    return layer


LOAD = """
import scvae_fast, sys, torch
kind, path, inputs, outputs = sys.argv[1:]
call = torch.export.load(path).module() if kind == "export" else torch.jit.load(path)
with torch.no_grad():
    torch.save(call(torch.load(inputs)), outputs)
"""


@pytest.mark.parametrize("of", ["official", "TopK autoencoder"])
@pytest.mark.parametrize("kind", ["export", "export, not strict", "trace"])
def test_saved_program_in_a_new_process(tmp_path, kind, of):
    layer, x = warm_layer(of), torch.randn(7, 6)
    path, inputs, outputs = (str(tmp_path / name) for name in ("program.pt2", "x.pt", "z.pt"))
    torch.save(x, inputs)
    if kind == "trace":
        with torch.no_grad():
            torch.jit.trace(layer, (torch.randn(3, 6),)).save(path)
    else:
        rows = torch.export.Dim("rows")
        shapes = ({0: rows},)
        program = torch.export.export(layer, (torch.randn(3, 6),), dynamic_shapes=shapes, strict=kind == "export")
        torch.export.save(program, path)
    run(sys.executable, "-W", "ignore", "-c", LOAD, kind.partition(",")[0], path, inputs, outputs)
    assert_same(torch.load(outputs), layer(x))


@pytest.mark.parametrize("kind", ["official", "autoencoder"])
def test_traced_layer_follows_its_weights(kind):
    """Also if its cache was filled when it was traced."""
    layer, x = warm_layer(kind), torch.randn(3, 6)
    with torch.no_grad():
        traced = torch.jit.trace(layer, (x,))
        for parameter in layer.parameters():
            parameter.mul_(0.9)
        assert_same(traced(x), layer(x))
        frozen = torch.jit.freeze(traced.eval())
        assert_same(frozen(x), layer(x))


# torch can't trace functional_call, by which the layers are called here.
@pytest.mark.parametrize("name", [n for n in SUBJECTS if "LISTA" not in n and "Autoencoder" not in n])
def test_traced_gradients(name):
    subject = SUBJECTS[name]
    leaves = [t.requires_grad_() for t in subject.tensors().values()]
    traced = torch.jit.trace(of_values(name, subject.call), leaves)
    other = [t.requires_grad_() for t in subject.tensors(1).values()]
    found = torch.autograd.grad(weighted_sum(traced(*other)), other)
    expected = torch.autograd.grad(weighted_sum(of_values(name, subject.call)(*other)), other)
    assert_same(found, expected)
