"""Layers whose weights were changed by any route: in eval mode too they use the current weights."""

import copy
import threading

import pytest
import torch
from problems import BACKENDS, unrolled_autoencoder, unrolled_ista, unrolled_lista, unrolled_sparse_code
from torch.func import functional_call
from torch.nn.utils import parametrizations, parametrize

from scvae_fast import (
    ALISTA,
    LISTA,
    LISTACP,
    SLISTA,
    DictionaryLISTA,
    SparseAutoencoder,
    TiLISTA,
    dictionaries,
)

N, K, T = 8, 12, 3


def tied_formula(layer, x):
    D, c = layer.dictionary, layer.c
    S = torch.eye(K, dtype=D.dtype) - D.T @ D / c
    if layer.inhibition_dtype:
        S = S.bfloat16().to(D.dtype)
    gain = c if layer.compat == "official" else None
    return unrolled_sparse_code(x, D.T / c, S, layer.lmbda / c, D, T, gain=gain)[0]


def untied_formula(layer, x):
    S = layer.S.bfloat16().to(layer.S.dtype) if layer.inhibition_dtype else layer.S
    return unrolled_lista(x @ layer.W_e.T, S, layer.theta, T)


def autoencoder_formula(layer, x):
    step = () if layer.step is None else layer.step
    of_iterations = {"lmbda": layer.lmbda, "step": step, "momentum": layer.momentum}
    of_one_layer = {name: getattr(layer, name) for name in ("W_enc", "b_enc", "atoms", "b_dec")}
    return unrolled_autoencoder(x, **of_one_layer, **of_iterations, k=layer.k)[0]


def codes(layer, x):
    results = layer(x)
    return results[0] if isinstance(results, tuple) else results


def each_formula(layer, x):
    S = layer.S.bfloat16().to(layer.S.dtype) if layer.inhibition_dtype else layer.S
    return unrolled_sparse_code(x, layer.W_e, S, layer.theta, layer.dictionary, T)[0]


def coupled_formula(layer, x):
    W, step = getattr(layer, "W", None), getattr(layer, "step", None)
    if W is None:
        D = layer.dictionary
        W = D.T @ torch.linalg.inv(D @ D.T)
        W = W / (W * D.T).sum(1, keepdim=True)
    return unrolled_sparse_code(x, W, None, layer.theta, layer.dictionary, T, step=step)[0]


def steps_formula(layer, x):
    D = layer.dictionary
    return unrolled_ista(x @ D, D.T @ D, 0.2 * layer.step.unsqueeze(1), T, step=layer.step)


def over(make, backend=None):
    """A layer over a learned dictionary."""
    return make(dictionaries.random_unit(N, K), T, 0.2, learn_dictionary=True, backend=backend)


LAYERS = {
    "thresholds of each iteration": (
        lambda **s: LISTA(N, K, T, lmbda=0.2, per_iteration="thresholds", **s),
        untied_formula,
    ),
    "weights of each iteration": (lambda **s: LISTA(N, K, T, lmbda=0.2, per_iteration="all", **s), each_formula),
    "LISTA-CP": (lambda **s: over(LISTACP, **s), coupled_formula),
    "TiLISTA": (lambda **s: over(TiLISTA, **s), coupled_formula),
    "ALISTA": (lambda **s: over(ALISTA, **s), coupled_formula),
    "SLISTA": (lambda **s: over(SLISTA, **s), steps_formula),
    "paper": (lambda **s: DictionaryLISTA(dictionaries.random_unit(N, K), T, 0.2, "paper", **s), tied_formula),
    "official": (lambda **s: DictionaryLISTA(dictionaries.random_unit(N, K), T, 0.2, "official", **s), tied_formula),
    "inhibition in bfloat16": (
        lambda **s: DictionaryLISTA(dictionaries.random_unit(N, K), T, 0.2, inhibition_dtype=torch.bfloat16, **s),
        tied_formula,
    ),
    "untied": (lambda **s: LISTA(N, K, T, lmbda=0.2, **s), untied_formula),
    "untied, inhibition in bfloat16": (
        lambda **s: LISTA(N, K, T, lmbda=0.2, inhibition_dtype=torch.bfloat16, **s),
        untied_formula,
    ),
    "autoencoder": (lambda **s: SparseAutoencoder(N, K, T, **s), autoencoder_formula),
    "TopK autoencoder": (lambda **s: SparseAutoencoder(N, K, T, k=5, **s), autoencoder_formula),
    "one-layer autoencoder": (lambda **s: SparseAutoencoder(N, K, 0, **s), autoencoder_formula),
}


@pytest.fixture(params=LAYERS)
def kind(request):
    return request.param


@pytest.fixture(params=BACKENDS)
def layer(request, kind):
    """In eval mode, after a first call that may have filled its cache."""
    torch.manual_seed(0)
    layer = LAYERS[kind][0](backend=request.param).eval()
    with torch.no_grad():
        layer(torch.randn(70, N))
    return layer


@pytest.fixture
def x():
    return torch.randn(70, N, generator=torch.Generator().manual_seed(5))


def assert_current(layer, kind, x):
    """Codes equal the formula with the layer's current tensors, and those of a copy with an empty cache."""
    with torch.no_grad():
        found = codes(layer, x)
        torch.testing.assert_close(found, LAYERS[kind][1](layer, x), rtol=1e-4, atol=1e-5)
        assert torch.equal(found, codes(copy.deepcopy(layer), x))


def half_of(parameter):
    return parameter.detach().clone() * 0.5


WRITES = {
    "in place": lambda p: p.mul_(0.5),
    ".data in place": lambda p: p.data.mul_(0.5),
    ".data copied to": lambda p: p.data.copy_(half_of(p)),
    ".data assigned": lambda p: setattr(p, "data", half_of(p)),
    ".data assigned, same address": lambda p: setattr(p, "data", p.data.copy_(half_of(p))),
    "detached": lambda p: p.detach().copy_(half_of(p)),
    "NumPy": lambda p: p.detach().numpy().__imul__(0.5),
    "set_": lambda p: p.set_(half_of(p)),
    "foreach": lambda p: torch._foreach_mul_([p], 0.5),
    "inference mode": lambda p: torch.inference_mode()(lambda: p.mul_(0.5))(),
    "one bit": lambda p: p.detach().view(-1)[0].view(torch.int32).bitwise_xor_(1 << 22),
}


@pytest.mark.parametrize("route", WRITES)
def test_writes(layer, kind, x, route):
    with torch.no_grad():
        for parameter in layer.parameters():
            WRITES[route](parameter)
            assert_current(layer, kind, x)


@pytest.mark.processes
def test_writes_of_another_process(layer, kind, x):
    layer.share_memory()
    assert_current(layer, kind, x)
    context = torch.multiprocessing.get_context("spawn")
    writer = context.Process(target=_halve, args=(list(layer.parameters()),))
    writer.start()
    writer.join(120)
    assert writer.exitcode == 0
    assert_current(layer, kind, x)


def _halve(parameters):
    for parameter in parameters:
        parameter.data.mul_(0.5)


def test_writes_of_another_thread(layer, kind, x):
    """For any interleaving of a call and a write, the cache afterwards belongs to the current values."""
    stop = threading.Event()

    def write():
        while not stop.is_set():
            for parameter in layer.parameters():
                parameter.data.mul_(1.0001)

    writer = threading.Thread(target=write)
    writer.start()
    with torch.no_grad():
        for _ in range(50):
            layer(x)
    stop.set()
    writer.join()
    assert_current(layer, kind, x)


OPTIMISERS = {
    "fused": lambda p: torch.optim.AdamW(p, lr=0.05, fused=True),
    "foreach": lambda p: torch.optim.AdamW(p, lr=0.05, foreach=True),
    "single": lambda p: torch.optim.AdamW(p, lr=0.05, foreach=False),
    "fused SGD": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, fused=True),
    "LBFGS": lambda p: torch.optim.LBFGS(p, lr=0.01, max_iter=2),
}


@pytest.mark.parametrize("kind", ["paper", "untied", "autoencoder"], indirect=True)
@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_evaluations_between_optimiser_steps(layer, kind, x, optimiser):
    optimizer = OPTIMISERS[optimiser](list(layer.parameters()))

    def loss():
        optimizer.zero_grad()
        value = (codes(layer, x) - 0.1).square().mean()
        value.backward()
        return value

    for _ in range(3):
        layer.train()
        before = [p.detach().clone() for p in layer.parameters()]
        optimizer.step(loss)
        assert all(not torch.equal(a, b) for a, b in zip(before, layer.parameters(), strict=True))
        assert_current(layer.eval(), kind, x)


def test_averaged_weights_swapped_in_and_out(layer, kind, x):
    own = [p.detach().clone() for p in layer.parameters()]
    for swap in (lambda p, v: p.data.copy_(v), lambda p, v: setattr(p, "data", v.clone())):
        for values in ([v * 0.7 for v in own], own):
            for parameter, value in zip(layer.parameters(), values, strict=True):
                swap(parameter, value)
            assert_current(layer, kind, x)
    average = torch.optim.swa_utils.AveragedModel(layer)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.mul_(0.9)
    average.update_parameters(layer)
    assert_current(average.module.eval(), kind, x)


def test_functional_call_with_tensors_at_reused_addresses(layer, kind, x):
    """New tensors each time, at the places of the old ones, and none of them ever changed in place."""
    own = {n: p.detach().numpy().copy() for n, p in layer.named_parameters()}
    places, addresses = {n: value.copy() for n, value in own.items()}, set()
    with torch.no_grad():
        for i in range(50):
            for n, value in own.items():
                places[n][...] = value * (1 + 0.01 * i)
            given = {n: torch.from_numpy(place) for n, place in places.items()}
            addresses.add(next(iter(given.values())).data_ptr())
            results = functional_call(layer, given, (x,))
            found = results[0] if isinstance(results, tuple) else results
            fresh = copy.deepcopy(layer)
            fresh.load_state_dict(given)
            assert torch.equal(found, codes(fresh, x))
    assert len(addresses) == 1


@pytest.mark.parametrize("kind", ["paper", "official"], indirect=True)
@pytest.mark.filterwarnings("ignore:DictionaryLISTA. the step constant:UserWarning")
def test_parametrised_dictionary(layer, kind, x):
    class UnitColumns(torch.nn.Module):
        def forward(self, D):
            return D / D.norm(dim=0)

    parametrize.register_parametrization(layer, "dictionary", UnitColumns())
    with torch.no_grad():
        for _ in range(10):
            assert_current(layer, kind, x)
            layer.parametrizations.dictionary.original.add_(torch.randn(N, K) * 0.1)
        with parametrize.cached():
            assert_current(layer, kind, x)
    layer.train()
    codes(layer, x).sum().backward()
    assert layer.parametrizations.dictionary.original.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("kind", "weight"), [("paper", "dictionary"), ("untied", "W_e"), ("autoencoder", "atoms")], indirect=["kind"]
)
@pytest.mark.parametrize("norm", [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_normalised_weights(layer, kind, weight, norm, x):
    norm(layer, weight)
    for _ in range(5):
        assert_current(layer.eval(), kind, x)
        layer.train()
        codes(layer, x).square().sum().backward()
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.data.mul_(1 - 0.05 * parameter.grad.sign())
                parameter.grad = None


@pytest.mark.parametrize("assign", [False, True])
def test_loaded_weights(layer, kind, x, assign):
    for factor in (0.5, 0.8):
        layer.load_state_dict({n: v * factor for n, v in layer.state_dict().items()}, assign=assign)
        assert_current(layer, kind, x)
    if isinstance(layer, DictionaryLISTA):
        layer.load_state_dict({**layer.state_dict(), "c": torch.tensor(9.0)}, assign=assign)
        assert layer.c.shape == (1,)
        assert_current(layer, kind, x)


def test_replaced_parameters_and_settings(layer, kind, x):
    for name, parameter in list(layer.named_parameters()):
        setattr(layer, name, torch.nn.Parameter(parameter.detach() * 0.6))
        assert_current(layer, kind, x)
    vector = torch.nn.utils.parameters_to_vector(layer.parameters()).detach() * 0.9
    torch.nn.utils.vector_to_parameters(vector, layer.parameters())
    assert_current(layer, kind, x)
    if hasattr(layer, "inhibition_dtype"):
        layer.inhibition_dtype = None if layer.inhibition_dtype else torch.bfloat16
    assert_current(layer, kind, x)


def test_dtypes_change(layer, kind, x):
    with torch.no_grad():
        for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float32):
            layer.to(dtype)
            found = codes(layer, x.to(dtype))
            assert found.dtype == dtype
            assert torch.equal(found, codes(copy.deepcopy(layer), x.to(dtype)))


def test_cached_weights_are_reused():
    layer = DictionaryLISTA(dictionaries.random_unit(N, K), T, 0.2).eval()
    x = torch.randn(5, N)
    with torch.no_grad():
        layer(x)
        kept = layer._kept._last
        layer(x)
        assert layer._kept._last is kept
        layer.dictionary.data.copy_(layer.dictionary.clone())  # the same values: nothing to form again
        layer(x)
        assert layer._kept._last is kept
        layer.c.data.mul_(2)
        layer(x)
        assert layer._kept._last is not kept


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_nothing_is_cached_under_modes_and_transforms():
    def fresh():
        return DictionaryLISTA(dictionaries.random_unit(N, K), T, 0.2).eval()

    x = torch.randn(5, N)
    training, recording = fresh().train(), fresh()
    training(x)
    recording(x)
    with torch.inference_mode():
        made_there = fresh()
        made_there(x)
    traced = fresh()
    with torch.no_grad():
        torch.jit.trace(traced, (x,), check_trace=False)
        subclassed = fresh()
        subclassed.dictionary = torch.nn.Parameter(subclassed.dictionary.as_subclass(Sub))
        subclassed(x)
        transformed = fresh()
        torch.func.vmap(lambda row: transformed(row)[0])(x)
        meta = fresh().to("meta")
        meta(x.to("meta"))
    for layer in (training, recording, made_there, traced, subclassed, transformed, meta):
        assert layer._kept._last is None


class Sub(torch.Tensor):
    """A subclass that computes as tensors do."""


def test_bits_are_compared():
    D = dictionaries.random_unit(N, K)
    layer = DictionaryLISTA(D, T, 0.2).eval()
    x = torch.randn(5, N)
    with torch.no_grad():
        layer.dictionary[0, 0] = 0.0
        layer(x)
        kept = layer._kept._last
        layer.dictionary.data[0, 0] = -0.0
        layer(x)
        assert layer._kept._last is not kept
        layer.dictionary.data[0, 0] = float("nan")
        layer(x)
        kept = layer._kept._last
        layer(x)
        assert layer._kept._last is kept


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("atoms", [3, 4])
def test_dictionaries_of_any_size_and_place(dtype, atoms):
    """Neither their size nor their place need be a multiple of 8 bytes; nor need they be contiguous."""
    layer = DictionaryLISTA(torch.randn(3, atoms, dtype=dtype), T, 0.2).eval()
    x = torch.ones(2, 3, dtype=dtype)
    places = torch.randn(3 * atoms + 1, dtype=dtype)[1:].view(3, atoms), torch.randn(atoms, 3, dtype=dtype).T
    with torch.no_grad():
        for place in places:
            layer.dictionary.data = place
            layer(x)
            kept = layer._kept._last
            layer(x)
            assert layer._kept._last is kept
            layer.dictionary.data[2, 2] += 1
            assert torch.equal(layer(x)[0], copy.deepcopy(layer)(x)[0])
            assert layer._kept._last is not kept
