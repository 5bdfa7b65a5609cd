"""LISTA-CP, TiLISTA, ALISTA and SLISTA: their numbers, where they start, and the analytic weight."""

import math

import pytest
import torch

from scvae_fast import ALISTA, LISTACP, SLISTA, TiLISTA, dictionaries, ista, soft_threshold

N, K, T = 6, 10, 4
LAYERS = (LISTACP, TiLISTA, ALISTA, SLISTA)


@pytest.fixture
def D():
    return dictionaries.random_unit(N, K, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.fixture
def x():
    return torch.randn(2, 5, N, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def moved(layer):
    """The layer, away from its start."""
    with torch.no_grad():
        for p in layer.parameters():
            p.mul_(1 + 0.3 * torch.rand(p.shape, generator=torch.Generator().manual_seed(3), dtype=p.dtype))
    return layer


def written_out(layer, x, z=None):
    """The network as its paper writes it, iteration by iteration."""
    D = layer.dictionary
    z = x.new_zeros(*x.shape[:-1], D.shape[1]) if z is None else z
    for t in range(layer.n_iter):
        left = x - z @ D.T
        if isinstance(layer, SLISTA):
            u, theta = z + layer.step[t] * left @ D, layer.lmbda * layer.step[t]
        else:
            theta = layer.theta[t]
            if isinstance(layer, LISTACP):
                u = z + left @ layer.W[t].T
            else:
                W = dictionaries.analytic_weights(D) if isinstance(layer, ALISTA) else layer.W
                u = z + layer.step[t] * left @ W.T
        z = (u - theta).relu() if layer.positive else soft_threshold(u, theta)
    return z


@pytest.mark.parametrize("positive", [False, True])
@pytest.mark.parametrize("make", LAYERS)
def test_numbers_and_gradients(make, positive, D, x):
    layer = moved(make(D, T, 0.2, positive=positive, learn_dictionary=True))
    z0 = torch.rand(2, 5, K, dtype=torch.float64)
    for start in (None, z0):
        found, expected = layer(x, start), written_out(layer, x, start)
        torch.testing.assert_close(found, expected)
        assert 0 < (found != 0).double().mean() < 1
        of_ours, of_theirs = (
            torch.autograd.grad(z.square().sum(), list(layer.parameters())) for z in (found, expected)
        )
        for ours, theirs in zip(of_ours, of_theirs, strict=True):
            torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(layer.decode(found), found @ layer.dictionary.T)


@pytest.mark.parametrize("make", [LISTACP, TiLISTA, SLISTA])
def test_they_start_as_ista(make, D, x):
    c = torch.linalg.matrix_norm(D, 2) ** 2
    torch.testing.assert_close(make(D, 1, 0.3)(x), soft_threshold(x @ D / c, 0.3 / c))
    torch.testing.assert_close(make(D, 50, 0.3)(x), ista(x @ D, D.T @ D, 0.3 / c, 50, step=1 / c))


def test_alista_starts_as_its_authors_code_does(D, x):
    layer = ALISTA(D, 3, 0.3)
    c = torch.linalg.matrix_norm(D, 2) ** 2
    assert torch.equal(layer.step, torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(layer.theta, (0.3 / c).expand(3, 1))
    assert [name for name, _ in layer.named_parameters()] == ["step", "theta"]


@pytest.mark.parametrize("make", LAYERS)
def test_feature_maps(make, D):
    maps = torch.randn(2, N, 3, 5, dtype=torch.float64)
    layer, of_maps = make(D, T, 0.1), make(D, T, 0.1, dim=1)
    z = layer(maps.permute(0, 2, 3, 1))
    assert torch.equal(of_maps(maps), z.permute(0, 3, 1, 2))
    torch.testing.assert_close(of_maps.decode(of_maps(maps)), layer.decode(z).permute(0, 3, 1, 2))


@pytest.mark.parametrize("make", LAYERS)
def test_no_iteration_and_no_row(make, D, x):
    assert torch.equal(make(D, 0)(x), torch.zeros(2, 5, K, dtype=torch.float64))
    assert make(D, T)(x[:0]).shape == (0, 5, K)


@pytest.mark.parametrize("make", LAYERS)
def test_state_dicts_carry_the_dictionary(make, D, x):
    layer, other = moved(make(D, T, 0.2)), make(torch.flip(D, (0,)), T, 0.2)
    assert "dictionary" in layer.state_dict()
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(x), layer(x))


@pytest.mark.parametrize("make", LAYERS)
@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"dictionary": torch.zeros(3, 4)}, ValueError, "dictionary must be finite and not zero"),
        ({"dictionary": torch.full((3, 4), math.nan)}, ValueError, "dictionary must be finite and not zero"),
        ({"dictionary": torch.ones(3)}, ValueError, r"dictionary must be \(n, K\), got \[3\]"),
        ({"dictionary": [[1.0]]}, TypeError, "dictionary must be a floating-point torch.Tensor"),
        ({"n_iter": -1}, ValueError, "n_iter must be at least 0, got -1"),
        ({"n_iter": 2.0}, TypeError, "n_iter must be an int"),
        ({"lmbda": -1.0}, ValueError, "lmbda must be a finite number >= 0"),
    ],
)
def test_wrong_arguments_are_named(make, settings, error, message):
    with pytest.raises(error, match=f"{make.__name__}: {message}"):
        make(**{"dictionary": torch.eye(4), "n_iter": 2, **settings})


@pytest.mark.parametrize("shape", [(20, 40), (30, 30), (16, 50)])
def test_the_analytic_weight_minimises_coherence(shape):
    D = dictionaries.random_unit(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    W = dictionaries.analytic_weights(D)
    product, gram = W @ D, D.T @ D
    torch.testing.assert_close(product.diagonal(), torch.ones(shape[1], dtype=torch.float64))
    assert product.norm() <= gram.norm() + 1e-9
    if shape[1] > shape[0]:  # else both are the identity at best
        largest = [(m - torch.diag(m.diagonal())).abs().max() for m in (product, gram)]
        assert largest[0] < largest[1]
    # A minimum: any other W with that diagonal has a larger norm.
    for seed in range(5):
        V = torch.randn(W.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 0.01
        V -= (V * D.T).sum(1, keepdim=True) * D.T
        assert ((W + V) @ D).norm() >= product.norm()


def test_the_analytic_weight_of_a_dictionary_without_full_rank():
    D = torch.randn(8, 3, dtype=torch.float64) @ torch.randn(3, 12, dtype=torch.float64)
    W = dictionaries.analytic_weights(D)
    torch.testing.assert_close((W @ D).diagonal(), torch.ones(12, dtype=torch.float64))
    torch.testing.assert_close(dictionaries.analytic_weights(D.float()), W.float(), rtol=1e-3, atol=1e-3)


def test_the_analytic_weight_says_what_does_not_fit():
    D = torch.eye(4)
    D[1, 1] = 0
    with pytest.raises(ValueError, match="analytic_weights: 1 atoms are zero or not finite: atoms 1"):
        dictionaries.analytic_weights(D)
    with pytest.raises(ValueError, match="analytic_weights: 1 atoms are zero or not finite: atoms 1"):
        ALISTA(D, 2)
    with pytest.raises(ValueError, match="analytic_weights: dictionary must be a floating-point"):
        dictionaries.analytic_weights(torch.ones(3, dtype=torch.int64))


def test_alista_follows_its_dictionary(D, x):
    """W follows every change of the dictionary, and is formed once per dictionary."""
    layer = ALISTA(D, T, 0.1)
    before = layer(x)
    kept = layer._kept._last
    assert torch.equal(layer(x), before)
    assert layer._kept._last is kept
    layer.dictionary.data.copy_(D.flip(1))
    assert not torch.equal(layer(x), before)
    torch.testing.assert_close(layer(x), written_out(layer, x))
