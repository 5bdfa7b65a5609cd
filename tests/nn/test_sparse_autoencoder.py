"""The layer SparseAutoencoder: its numbers, its one-layer form, its k codes, and layers made of a given encoder."""

import copy
import pickle

import pytest
import torch
from problems import BACKENDS, bytes_kept, unrolled_autoencoder
from torch.func import functional_call, stack_module_state, vmap
from torch.nn.utils import parametrizations

import scvae_fast
from scvae_fast import SparseAutoencoder

n, K, T = 6, 20, 4
F64 = torch.float64


def layer_of(n_iter=T, **settings):
    """With parameters away from their starts."""
    layer = SparseAutoencoder(n, K, n_iter, **{"lmbda": 0.05, "dtype": F64, **settings})
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.03 * torch.randn_like(parameter))
        layer.b_enc.sub_(0.2)
    return layer


def tensors_of(layer):
    """Copies of its parameters under the names of the plain form."""
    named = {name: p.detach().clone() for name, p in layer.named_parameters()}
    nothing = {"lmbda": torch.zeros(K, dtype=F64), "step": torch.zeros(0, dtype=F64), "momentum": torch.zeros(0)}
    return nothing | named


def given_encoder(dtype=F64):
    """W_enc, b_enc, W_dec, b_dec of a sparse autoencoder with atoms of any norm."""
    W_dec = torch.randn(n, K, dtype=F64)
    W_enc = 0.5 * W_dec.T + 0.1 * torch.randn(K, n, dtype=F64)
    return [t.to(dtype) for t in (W_enc, 0.3 * torch.randn(K, dtype=F64), W_dec, torch.randn(n, dtype=F64))]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("k", [None, 1, 5, K])
@pytest.mark.parametrize("n_iter", [0, 1, T])
def test_numbers_and_gradients(n_iter, k, backend):
    layer = layer_of(n_iter, k=k, backend=backend)
    x = torch.randn(2, 7, n, dtype=F64, requires_grad=True)
    plain = {name: t.requires_grad_() for name, t in {"x": x.detach().clone(), **tensors_of(layer)}.items()}
    expected, found = unrolled_autoencoder(**plain, k=k), layer(x)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    assert found[0].shape == (2, 7, K)
    assert (found[0] >= 0).all()
    torch.testing.assert_close(layer.encode(x), found[0])
    torch.testing.assert_close(layer.decode(found[0]), found[1])
    for results in (found, expected):
        sum((r * torch.linspace(0.1, 1, r.numel(), dtype=F64).view(r.shape)).sum() for r in results).backward()
    torch.testing.assert_close(x.grad, plain["x"].grad)
    for name, parameter in layer.named_parameters():
        torch.testing.assert_close(parameter.grad, plain[name].grad)


def test_without_iterations_it_is_the_usual_autoencoder_bit_by_bit():
    x = torch.randn(50, n)
    W_enc, b_enc, W_dec, b_dec = given_encoder(torch.float32)
    linear = torch.nn.functional.linear
    expected = linear(x - b_dec, W_enc, b_enc).relu()
    z, x_hat = SparseAutoencoder.from_encoder(W_enc, b_enc, W_dec, b_dec)(x)
    assert torch.equal(z, expected)
    torch.testing.assert_close(x_hat, linear(expected, W_dec) + b_dec)
    uncentred = SparseAutoencoder.from_encoder(W_enc, b_enc, W_dec, b_dec, subtract_b_dec=False)
    assert torch.equal(uncentred.encode(x), linear(x, W_enc, b_enc).relu())


@pytest.mark.parametrize("subtract_b_dec", [True, False])
def test_iterations_find_the_non_negative_lasso(subtract_b_dec):
    """From any start, with both kinds of steps: the optimality conditions hold, not only another formula."""
    encoder = given_encoder()
    lmbda = 0.1 + torch.rand(K, dtype=F64)
    for momentum in (True, False):
        layer = SparseAutoencoder.from_encoder(
            *encoder, 5000, lmbda=lmbda, momentum=momentum, subtract_b_dec=subtract_b_dec
        )
        x = 3 * torch.randn(5, n, dtype=F64)
        z, x_hat = layer(x)
        correlation = (x - x_hat) @ layer.dictionary
        assert (correlation <= lmbda + 1e-8).all()
        assert ((correlation - lmbda)[z > 0].abs() < 1e-8).all()
        torch.testing.assert_close(layer(x, z0=torch.zeros_like(z))[1], x_hat)
        few = SparseAutoencoder.from_encoder(*encoder, 3, lmbda=lmbda, momentum=momentum)
        torch.testing.assert_close(few(x, z0=z)[0], z)


def test_own_penalty_codes_the_same_atoms_as_a_tied_encoder():
    """λ = −b_enc for W_enc = Dᵀ; and a scale of encoder rows or atoms changes no decision."""
    _, b_enc, D, b_dec = given_encoder()
    tied = SparseAutoencoder.from_encoder(D.T, b_enc, D, b_dec, 1)
    torch.testing.assert_close(tied.lmbda.detach(), (-b_enc).relu())
    s, a = 0.5 + torch.rand(K, dtype=F64), 0.5 + torch.rand(K, dtype=F64)
    scaled = SparseAutoencoder.from_encoder(s[:, None] * D.T, s * b_enc, D * a, b_dec, 1, momentum=False)
    x = torch.randn(100, n, dtype=F64)
    start = torch.zeros(100, K, dtype=F64)
    held = b_enc < 0  # λ is at least 0
    assert torch.equal((scaled(x, z0=start)[0] > 0)[:, held], (tied.encode(x, z0=start) > 0)[:, held])
    assert torch.equal((scaled(x, z0=start)[0] > 0)[:, held], ((x - b_dec) @ D + b_enc > 0)[:, held])
    threshold = torch.rand(K, dtype=F64) - 0.3
    for jump in (threshold, None):
        off = SparseAutoencoder.from_encoder(D.T, b_enc, D, b_dec, 1, threshold=jump, subtract_b_dec=False)
        bound = -b_enc if jump is None else threshold.relu() - b_enc
        torch.testing.assert_close(off.lmbda.detach(), (bound - b_dec @ D).relu())
    assert (
        SparseAutoencoder.from_encoder(torch.zeros(K, n), -torch.ones(K), D.float(), b_dec.float(), 1).lmbda == 0
    ).all()


def test_jump_keeps_what_exceeds_the_threshold():
    encoder, x = given_encoder(), torch.randn(40, n, dtype=F64)
    W_enc, b_enc, _, b_dec = encoder
    u = (x - b_dec) @ W_enc.T + b_enc
    threshold = torch.randn(K, dtype=F64)
    threshold[0] = u[3, 0]  # a tie: not above
    layer = SparseAutoencoder.from_encoder(*encoder, threshold=threshold)
    expected = torch.where(u > threshold, u.relu(), 0)
    torch.testing.assert_close(layer.encode(x), expected)
    assert layer.encode(x[3])[0] == 0
    assert (layer.encode(x * float("nan"))).isnan().all()
    refined = SparseAutoencoder.from_encoder(*encoder, 3, threshold=threshold)
    torch.testing.assert_close(refined(x)[0], refined(x, z0=expected)[0])
    assert "threshold" in refined.state_dict()
    assert "threshold" not in dict(refined.named_parameters())


@pytest.mark.parametrize("n_iter", [0, 3])
@pytest.mark.parametrize("leading", [(), (4,), (2, 3), (0,), (2, 0)])
def test_values_and_indices_are_the_dense_codes(n_iter, leading):
    layer = layer_of(n_iter, k=5)
    x = torch.randn(*leading, n, dtype=F64)
    values, indices = layer.encode_topk(x)
    assert values.shape == indices.shape == (*leading, 5)
    assert indices.dtype == torch.int64
    z, x_hat = layer(x)
    assert torch.equal(torch.zeros_like(z).scatter(-1, indices, values), z)
    assert (values.diff() <= 0).all()
    assert x_hat.shape == x.shape
    assert ((z > 0).sum(-1) <= 5).all()
    every = layer_of(n_iter, k=K)
    torch.testing.assert_close(every.encode_topk(x).values, every.encode(x).sort(-1, descending=True).values)


def test_ties_and_rows_with_fewer_codes():
    """Of equal codes exactly k are kept; of fewer than k positive ones all, and zeros."""
    ones = torch.ones(K, 1, dtype=F64)
    layer = SparseAutoencoder.from_encoder(ones, ones[:, 0] - 1, ones.T, torch.zeros(1, dtype=F64), k=7)
    z = layer.encode(torch.tensor([[2.0], [-1.0]], dtype=F64))
    assert (z[0] == 2).sum() == 7
    assert (z != 0).sum() == 7
    values, indices = layer.encode_topk(torch.tensor([[2.0], [-1.0]], dtype=F64))
    assert (values[0] == 2).all()
    assert (values[1] == 0).all()
    assert len(set(indices[0].tolist())) == 7


def test_gradients_reach_the_codes_that_are_kept_alone():
    layer = layer_of(0, k=3)
    z = layer.encode(torch.randn(1, n, dtype=F64))
    z.sum().backward()
    kept = z[0] > 0
    assert torch.equal(layer.b_enc.grad, kept.to(F64))
    assert (layer.W_enc.grad[~kept] == 0).all()


def test_starts():
    layer = SparseAutoencoder(n, K, 6, lmbda=0.3, dtype=F64)
    D = layer.dictionary
    torch.testing.assert_close(D.norm(dim=0), torch.ones(K, dtype=F64))
    torch.testing.assert_close(layer.W_enc, D.T)
    assert torch.equal(layer.b_enc.detach(), torch.full((K,), -0.3, dtype=F64))
    assert (layer.b_dec == 0).all()
    squared_norm = torch.linalg.matrix_norm(D, 2) ** 2
    torch.testing.assert_close(layer.step.detach(), (1 / squared_norm).expand(6).detach(), rtol=1e-3, atol=0)
    tau = [1.0]
    for _ in range(6):
        tau.append((1 + (1 + 4 * tau[-1] ** 2) ** 0.5) / 2)
    expected = [0.0] + [(tau[t - 1] - 1) / tau[t] for t in range(1, 6)]
    torch.testing.assert_close(layer.momentum.detach(), torch.tensor(expected, dtype=F64))
    assert SparseAutoencoder(n, K, 6, momentum=False).momentum is None
    for lmbda in (torch.rand(K), torch.full((1, 1), 0.4)):
        of_each = SparseAutoencoder(n, K, 2, lmbda=lmbda)
        assert torch.equal(of_each.lmbda.detach(), lmbda.reshape(-1).expand(K))
        assert torch.equal(of_each.b_enc, -of_each.lmbda)
    assert {name for name, _ in SparseAutoencoder(n, K, 0).named_parameters()} == {"W_enc", "b_enc", "b_dec", "atoms"}
    given = 5 * torch.randn(n, K)
    torch.testing.assert_close(SparseAutoencoder(n, K, 1, dictionary=given).dictionary, given / given.norm(dim=0))
    assert torch.equal(SparseAutoencoder(n, K, 1, dictionary=given, unit_norm=False).dictionary, given)
    first, second = (SparseAutoencoder(n, K, 1, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first.dictionary, second.dictionary)


def test_atoms_keep_their_norm_in_training_and_fits_get_better():
    layer = SparseAutoencoder(n, K, 2, k=3)
    x = torch.randn(200, n)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.02)
    losses = []
    for _ in range(60):
        loss = (layer(x)[1] - x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        torch.testing.assert_close(layer.dictionary.norm(dim=0), torch.ones(K))
    assert losses[-1] < 0.6 * losses[0]


def test_dictionary_is_that_of_the_atoms_now():
    layer = layer_of()
    with torch.no_grad():
        layer.atoms.copy_(torch.randn(n, K))
        torch.testing.assert_close(layer.dictionary, layer.atoms / layer.atoms.norm(dim=0))
        layer.atoms[:, 3] = 0
    assert layer.dictionary[:, 3].isnan().all()
    with pytest.raises((AttributeError, KeyError), match="dictionary"):
        layer.dictionary = torch.nn.Parameter(torch.ones(n, K))
    x = torch.randn(3, n, dtype=F64)
    layer = parametrizations.weight_norm(layer_of(), "W_enc")
    plain = tensors_of(layer) | {"W_enc": layer.W_enc}
    plain = {name: t for name, t in plain.items() if "." not in name}
    torch.testing.assert_close(layer(x)[0], unrolled_autoencoder(x, **plain)[0])


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_are_whole(duplicate):
    layer = layer_of(k=4).eval()
    layer.b_dec.requires_grad_(False)
    other = duplicate(layer)
    assert type(other) is SparseAutoencoder
    assert list(other.state_dict()) == list(layer.state_dict())
    assert [p.requires_grad for p in other.parameters()] == [p.requires_grad for p in layer.parameters()]
    assert not other.training
    assert (other.k, other.n_iter) == (4, T)
    x = torch.randn(3, n, dtype=F64)
    assert all(torch.equal(a, b) for a, b in zip(other(x), layer(x), strict=True))


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("k", [None, 4])
@pytest.mark.parametrize("n_iter", [0, 3])
def test_autocast_keeps_codes_in_float32(n_iter, k, compiled):
    layer = layer_of(n_iter, k=k, dtype=torch.float32)
    x = torch.randn(5, n)
    expected = layer(x)

    def mixed(x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return layer(x), layer(x @ torch.eye(n)), layer.encode(x)

    found, rounded, z = (torch.compile(mixed, fullgraph=True, backend="aot_eager") if compiled else mixed)(x)
    assert all(t.dtype == torch.float32 for t in (*found, *rounded, z))
    for ours, theirs in zip((*found, z), (*expected, expected[0]), strict=True):
        torch.testing.assert_close(ours, theirs)
    rounded[1].sum().backward()
    assert layer.W_enc.grad.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sixteen_bits(dtype):
    layer = layer_of(dtype=torch.float32)
    x = torch.randn(50, n)
    expected = layer(x)
    found = layer.to(dtype)(x.to(dtype))
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == dtype
        assert (ours.float() - theirs).norm() < 0.03 * theirs.norm()
    found[1].sum().backward()
    assert all(p.grad.dtype == dtype for p in layer.parameters())
    assert SparseAutoencoder(n, K, 2, dtype=dtype)(x.to(dtype))[0].dtype == dtype


def test_no_matrix_of_atoms_by_atoms():
    """Neither kept nor formed: it would hold 6.4 GB."""
    atoms = 40_000
    layer = SparseAutoencoder(3, atoms, 2, k=4)
    x = torch.randn(5, 3, requires_grad=True)
    kept = bytes_kept(lambda: layer(x)[1].square().sum().backward())
    assert kept < 400 * atoms
    assert x.grad.abs().sum() > 0


def test_ensembles():
    layers = [layer_of(k=4) for _ in range(3)]
    parameters, buffers = stack_module_state(layers)
    x = torch.randn(5, n, dtype=F64)
    found = vmap(lambda p, b: functional_call(layers[0], (p, b), (x,)))(parameters, buffers)
    for i, layer in enumerate(layers):
        for ours, theirs in zip(found, layer(x), strict=True):
            torch.testing.assert_close(ours[i], theirs)


def test_number_of_iterations_is_that_of_the_steps():
    layer = layer_of()
    assert (layer.n_iter, layer_of(0).n_iter) == (T, 0)
    with pytest.raises(AttributeError, match="n_iter"):
        layer.n_iter = 2


def test_expanded_and_transposed_rows():
    layer = layer_of()
    x = torch.randn(n, dtype=F64)
    torch.testing.assert_close(layer(x.expand(3, 4, n))[0], layer(x)[0].expand(3, 4, K))
    torch.testing.assert_close(layer(torch.randn(n, 9, dtype=F64).T)[0].shape, torch.Size([9, K]))


MADE = {
    "n_atoms must be at least 1, got 0": {"n_atoms": 0},
    "n_features must be an int, got float": {"n_features": 2.0},
    "n_iter must be at least 0, got -1": {"n_iter": -1},
    "k must be at least 1, got 0": {"k": 0},
    "k must be at most n_atoms = 20, got 21": {"k": 21},
    "k must be an int, got float": {"k": 2.0},
    "lmbda must be finite and >= 0, got -0.1": {"lmbda": -0.1},
    "lmbda must be finite and >= 0, got nan": {"lmbda": float("nan")},
    "lmbda must be a number or a torch.Tensor, got str": {"lmbda": "1"},
    "dictionary must be a torch.Tensor, got list": {"dictionary": [[1.0]]},
    r"dictionary must be \(n_features, n_atoms\) = \[6, 20\], got \[20, 6\]": {"dictionary": torch.ones(K, n)},
    "dictionary must be float32, float64, bfloat16 or float16, got torch.int64": {
        "dictionary": torch.ones(n, K, dtype=torch.int64)
    },
    "dictionary must be finite, with no atom of zeros": {"dictionary": torch.eye(n, K)},
    r"dictionary must be finite and not zero, got ‖D‖₂² = nan": {
        "dictionary": torch.zeros(n, K),
        "unit_norm": False,
    },
}


@pytest.mark.parametrize("message", MADE)
def test_bad_settings(message):
    with pytest.raises((TypeError, ValueError), match=f"^SparseAutoencoder: {message}"):
        SparseAutoencoder(**{"n_features": n, "n_atoms": K, "n_iter": 2, **MADE[message]})


GIVEN = {
    "W_enc must be a torch.Tensor, got NoneType": {"W_enc": None},
    r"W_enc must be \(K, n\), got \[20\]": {"W_enc": torch.ones(K)},
    r"b_enc must be \(K,\), with \(K, n\) that of W_enc, = \[20\], got \[6\]": {"b_enc": torch.ones(n)},
    r"W_dec must be \(n, K\), with \(K, n\) that of W_enc, = \[6, 20\], got \[20, 6\]": {"W_dec": torch.ones(K, n)},
    r"b_dec must be \(n,\), with \(K, n\) that of W_enc, = \[6\], got \[20\]": {"b_dec": torch.ones(K)},
    r"threshold must be \(K,\), with \(K, n\) that of W_enc, = \[20\], got \[\]": {"threshold": torch.tensor(0.1)},
    "b_dec must have the dtype of W_enc, torch.float32, got torch.float64": {"b_dec": torch.ones(n, dtype=F64)},
    "W_enc must be float32, float64, bfloat16 or float16, got torch.int64": {"W_enc": torch.ones(K, n).long()},
    "lmbda must be finite and >= 0": {"lmbda": torch.tensor([-1.0])},
    "n_iter must be at least 0, got -1": {"n_iter": -1},
    "W_dec must be finite and not zero where n_iter > 0": {"W_dec": torch.zeros(n, K)},
    r"lmbda must be one value or \(K,\) = \[20\], got \[6\]": {"lmbda": torch.ones(n)},
}


@pytest.mark.parametrize("message", GIVEN)
def test_bad_encoders(message):
    given = dict(zip(("W_enc", "b_enc", "W_dec", "b_dec"), given_encoder(torch.float32), strict=True))
    with pytest.raises((TypeError, ValueError), match=f"^SparseAutoencoder.from_encoder: {message}"):
        SparseAutoencoder.from_encoder(**{**given, "n_iter": 1, **GIVEN[message]})


CALLED = {
    "x must be a torch.Tensor, got list": [1.0],
    r"x must be \(..., n\) with n = 6, got \[3, 5\]": torch.ones(3, 5),
    r"x must be \(..., n\) with n = 6, got \[\]": torch.tensor(1.0),
    "x must have the dtype of W_enc, torch.float32, got torch.float64": torch.ones(3, n, dtype=F64),
    "x must have the dtype of W_enc, torch.float32, got torch.int64": torch.ones(3, n, dtype=torch.int64),
}


@pytest.mark.parametrize("message", CALLED)
@pytest.mark.parametrize("n_iter", [0, 2])
def test_bad_calls(message, n_iter):
    with pytest.raises((TypeError, ValueError), match=f"^SparseAutoencoder: {message}"):
        SparseAutoencoder(n, K, n_iter)(CALLED[message])


def test_what_needs_a_k_and_a_start_says_so():
    layer = SparseAutoencoder(n, K, 0)
    with pytest.raises(ValueError, match="SparseAutoencoder: encode_topk needs a layer with a k, got k = None"):
        layer.encode_topk(torch.ones(n))
    with pytest.raises(ValueError, match=r"z0 must be \(\.\.\., K\)"):
        layer(torch.ones(2, n), z0=torch.ones(2, n))
    z0 = torch.rand(2, K)
    assert torch.equal(layer.encode(torch.ones(2, n), z0=z0), z0)


def test_it_is_offered_and_prints_its_sizes():
    assert scvae_fast.nn.SparseAutoencoder is scvae_fast.SparseAutoencoder
    assert scvae_fast.nn.load_saelens is scvae_fast.load_saelens
    assert "n_features=6, n_atoms=20, n_iter=4, k=3, unit_norm=True" in repr(layer_of(k=3))
