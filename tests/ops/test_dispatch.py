"""Calls that skip torch's dispatcher: the same results and errors, and modes still see the operations."""

import sys
from typing import ClassVar

import pytest
import torch
from problems import BACKENDS, keywords, lista_problem, results_and_gradients, sparse_code_problem
from processes import run
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from scvae_fast import decode, lista, sparse_code
from scvae_fast.ops import registration
from scvae_fast.ops.dispatch import can_skip_dispatcher

EVERY_BACKEND = pytest.mark.parametrize("backend", BACKENDS)


def decode_problem(M, K, n):
    return {"z": torch.randn(M, K, dtype=torch.float64).relu(), "D": torch.randn(n, K, dtype=torch.float64)}


# Each operation with a problem and its further arguments.
CASES = {
    "lista": (lista, lambda: lista_problem(3, 5), {"n_iter": 2}),
    "lista from z0": (lista, lambda: lista_problem(3, 5, start="z0"), {"n_iter": 2}),
    "decode": (decode, lambda: decode_problem(3, 5, 4), {}),
    "sparse_code": (sparse_code, lambda: sparse_code_problem(3, 5, 4), {"n_iter": 2}),
}
EVERY_OPERATION = pytest.mark.parametrize("case", CASES)


@pytest.fixture
def through_the_dispatcher(monkeypatch):
    """A function that stops all calls from skipping the dispatcher."""
    return lambda: monkeypatch.setattr(registration, "can_skip_dispatcher", lambda tensors, cast: False)


@EVERY_BACKEND
@EVERY_OPERATION
def test_results_and_gradients_are_the_dispatchers(case, backend, through_the_dispatcher):
    op, problem, settings = CASES[case]
    p = problem()
    direct = results_and_gradients(op, p, **settings, backend=backend)
    with torch.no_grad():
        unrecorded = op(**keywords(p), **settings, backend=backend)
    through_the_dispatcher()
    dispatched = results_and_gradients(op, p, **settings, backend=backend)
    assert direct.keys() == dispatched.keys()
    assert all(torch.equal(direct[name], t) for name, t in dispatched.items())
    first = unrecorded[0] if isinstance(unrecorded, tuple) else unrecorded
    assert torch.equal(first, dispatched["result 0"])


@pytest.mark.parametrize(
    ("op", "bad"),
    [
        (lista, {"b": torch.zeros(3, 0), "S": torch.zeros(2, 2), "theta": 0.1, "n_iter": 1}),
        (lista, {"b": torch.zeros(3, 2), "S": torch.zeros(2, 2).double(), "theta": 0.1, "n_iter": 1}),
        (lista, {"b": torch.zeros(3, 2), "S": torch.zeros(2, 3), "theta": 0.1, "n_iter": 1}),
        (lista, {"b": torch.zeros(3, 2), "S": torch.zeros(2, 2).to_sparse(), "theta": 0.1, "n_iter": 1}),
        (decode, {"z": torch.zeros(3, 2), "D": torch.zeros(4, 3)}),
        (decode, {"z": torch.zeros(3, 2).double(), "D": torch.zeros(4, 2).double(), "backend": "triton"}),
    ],
)
def test_errors_are_the_dispatchers(op, bad, through_the_dispatcher):
    with pytest.raises((TypeError, ValueError, RuntimeError)) as direct:
        op(**bad)
    through_the_dispatcher()
    with pytest.raises(direct.type) as dispatched:
        op(**bad)
    assert str(direct.value) == str(dispatched.value)


class DispatchLog(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen.append(func)
        return func(*args, **(kwargs or {}))


class FunctionLog(TorchFunctionMode):
    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.seen.append(func)
        return func(*args, **(kwargs or {}))


def test_modes_see_the_operations():
    p = {k: t.requires_grad_() for k, t in keywords(lista_problem(3, 5)).items()}
    with DispatchLog() as log:
        lista(**p, n_iter=2).sum().backward()
    assert torch.ops.scvae_fast.lista.default in log.seen
    assert torch.ops.scvae_fast.lista_backward.default in log.seen
    z = lista(**p, n_iter=2)
    with DispatchLog() as log:
        z.sum().backward()
    assert torch.ops.scvae_fast.lista_backward.default in log.seen
    with FunctionLog() as log:
        lista(**p, n_iter=2)
    assert any("scvae_fast.lista" in str(func) or "scvae_fast::lista" in str(func) for func in log.seen)


def test_fake_tensors_are_not_computed():
    with FakeTensorMode() as mode:
        z = lista(torch.empty(3, 5), torch.empty(5, 5), 0.1, 2)
    fake = mode.from_tensor(torch.zeros(3, 5))
    outside = lista(fake, mode.from_tensor(torch.zeros(5, 5)), mode.from_tensor(torch.tensor(0.1)), 2)
    for found in (z, outside):
        assert isinstance(found, FakeTensor)
        assert found.shape == (3, 5)


def test_tracing_records_the_operation():
    p = lista_problem(3, 5, start="plain")
    graph = make_fx(lambda b, S, theta: lista(b, S, theta, 2))(p["b"], p["S"], p["theta"]).graph
    assert torch.ops.scvae_fast.lista.default in [node.target for node in graph.nodes]


class Logged(torch.Tensor):
    """A subclass that counts the calls with it."""

    seen: ClassVar[list[str]] = []

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        cls.seen.append(str(func))
        return super().__torch_function__(func, types, args, kwargs or {})


def test_subclasses_see_the_operation():
    p = lista_problem(3, 5, start="plain")
    z = lista(p["b"].as_subclass(Logged), p["S"], p["theta"], 2)
    assert isinstance(z, Logged)
    assert any("lista" in name for name in Logged.seen)


@pytest.mark.filterwarnings("ignore:Warning. Profiler clears events:UserWarning")  # by torch 2.10, of itself
def test_profiler_sees_the_operation():
    p = keywords(lista_problem(3, 5))
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        lista(**p, n_iter=2)
    assert "scvae_fast::lista" in [event.key for event in profile.key_averages()]


def test_vmap_is_a_loop_over_rows():
    p = lista_problem(4, 5, start="plain")
    mapped = torch.vmap(lambda b: lista(b, p["S"], p["theta"], 2))(p["b"])
    torch.testing.assert_close(mapped, lista(p["b"], p["S"], p["theta"], 2))


def test_lazily_negated_input():
    b = torch.view_as_complex(torch.randn(3, 5, 2, dtype=torch.float64)).conj().imag
    assert b.is_neg()
    S = torch.zeros(5, 5, dtype=torch.float64)
    assert torch.equal(lista(b, S, 0.1, 1), lista(b.resolve_neg(), S, 0.1, 1))


@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize("shape", [(5,), (2, 3, 5)])
def test_results_are_no_views(shape, direct, through_the_dispatcher):
    if not direct:
        through_the_dispatcher()
    p = lista_problem(1, 5, start="plain")
    b = torch.randn(shape, dtype=torch.float64)
    with torch.no_grad():
        kept = lista(b, p["S"], p["theta"], 2)
    assert not kept._is_view()
    kept.add_(torch.ones(shape, dtype=torch.float64, requires_grad=True))
    recorded = decode(b.requires_grad_(), p["S"])
    assert not recorded._is_view()
    recorded.mul_(2).sum().backward()
    torch.testing.assert_close(b.grad, 2 * p["S"].sum(0).expand(shape))


def test_inside_another_operations_kernel_nothing_is_recorded():
    with torch.library._scoped_library("scvae_fast_tests", "DEF") as library:
        library.define("double_decode(Tensor z, Tensor D) -> Tensor")
        library.impl("double_decode", lambda z, D: 2 * decode(z, D), "CompositeExplicitAutograd")
        torch.library.register_autograd(
            "scvae_fast_tests::double_decode", lambda ctx, grad: (grad.sum() * torch.ones(3, 5), None), lib=library
        )
        z = torch.ones(3, 5, requires_grad=True)
        torch.ops.scvae_fast_tests.double_decode(z, torch.ones(4, 5)).sum().backward()
        assert torch.equal(z.grad, torch.full((3, 5), 12.0))


def test_plain_tensors_are_bare_in_every_grad_mode():
    tensors = [torch.ones(2), torch.nn.Parameter(torch.ones(2))]
    assert can_skip_dispatcher(tensors)
    with torch.no_grad():
        assert can_skip_dispatcher(tensors)
    with torch.inference_mode():
        assert can_skip_dispatcher([*tensors, torch.ones(2)])


def test_what_the_dispatcher_must_see_is_not_bare():
    plain = torch.ones(2)
    assert not can_skip_dispatcher([plain, torch.ones(2, device="meta")])
    assert not can_skip_dispatcher([torch.eye(2).to_sparse()])
    with torch.autocast("cpu"):
        assert not can_skip_dispatcher([plain])
    found = []
    torch.vmap(lambda t: found.append(can_skip_dispatcher([t])) or t)(plain)
    torch.func.grad(lambda t: found.append(can_skip_dispatcher([t])) or t.sum())(plain)
    assert found == [False, False]


@EVERY_OPERATION
def test_small_compiled_graph_holds_the_operation(case):
    op, problem, settings = CASES[case]
    targets = []

    def record(graph, _):
        targets.extend(str(node.target) for node in graph.graph.nodes)
        return graph.forward

    torch.compile(lambda **p: op(**p, **settings), fullgraph=True, backend=record)(**keywords(problem()))
    assert any(f"scvae_fast.{op.__name__}" in target for target in targets)


WITHOUT = """
import importlib, sys, torch
module, _, name = sys.argv[1].rpartition(".")
module = importlib.import_module(module)
value = getattr(module, name)
delattr(module, name)
import scvae_fast
from scvae_fast.models import SCVAE
from scvae_fast.ops import dispatch
setattr(module, name, value)  # torch's own modules read it as well, some of them later
b, S = torch.randn(3, 5, requires_grad=True), 0.1 * torch.randn(5, 5)
def plain(b):
    z = scvae_fast.soft_threshold(b, 0.1)
    for _ in range(3):
        z = scvae_fast.soft_threshold(b + z @ S.T, 0.1)
    return z
def ours(b):
    return scvae_fast.lista(b, S, 0.1, 3)
found = []
for f in (ours, plain):
    z = f(b)
    (g,) = torch.autograd.grad(z.square().sum(), b, create_graph=True)
    (second,) = torch.autograd.grad(g.square().sum(), b)
    tangent = torch.func.jvp(f, (b.detach(),), (torch.ones(3, 5),))[1]
    mapped = torch.func.vmap(torch.func.grad(lambda row: f(row).sum()))(b.detach())
    with torch.no_grad():
        found.append([z, g, second, tangent, mapped, f(b)])
for a, e in zip(*found):
    torch.testing.assert_close(a, e)
layer = scvae_fast.DictionaryLISTA(scvae_fast.dictionaries.random_unit(5, 7), 2, 0.1).eval()
with torch.no_grad():
    layer(b)
    layer.dictionary.data.mul_(0.5)
    assert layer._kept._last is None or dispatch._PRIVATE is not None
print("right", dispatch._PRIVATE is None)
"""


@pytest.mark.processes
@pytest.mark.parametrize(
    ("name", "off"),
    [
        ("torch._C._dispatch_keys", True),
        ("torch._C._dispatch_tls_local_include_set", True),
        ("torch._C._dispatch_tls_local_exclude_set", True),
        ("torch.autograd._profiler_enabled", True),
        ("torch._C._AutoDispatchBelowAutograd", False),
        ("torch.utils._pytree._register_namedtuple", False),
    ],
)
def test_a_torch_without_a_private_name(name, off):
    """Results are correct without the shortcut, which is then off."""
    assert run(sys.executable, "-W", "ignore", "-c", WITHOUT, name) == f"right {off}\n"
