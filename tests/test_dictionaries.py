"""Dictionaries."""

import pytest
import torch

from scvae_fast import DictionaryLISTA, dictionaries


def test_dct_is_scvaes():
    D = dictionaries.dct(256, 512, dtype=torch.float64)
    assert D.shape == (256, 512)
    norms = torch.linalg.vector_norm(D, dim=0)
    torch.testing.assert_close(norms, torch.ones_like(norms))
    spectrum = torch.linalg.svdvals(D)
    assert int((spectrum > 1e-9).sum()) == 256
    assert abs(float(spectrum[0] ** 2) - 7.417) < 1e-3
    coherence = (D.T @ D).fill_diagonal_(0).abs().max()
    assert abs(float(coherence) - 0.861) < 1e-3


def test_dct_atoms_are_separable_and_have_no_mean_but_the_first():
    D = dictionaries.dct(16, 25, dtype=torch.float64)
    assert torch.linalg.matrix_rank(D[:, 7].reshape(4, 4)) == 1
    torch.testing.assert_close(D[:, 0], torch.full((16,), 0.25, dtype=torch.float64))
    assert D[:, 1:].sum(0).abs().max() < 1e-12
    # The first frequency runs down the rows.
    first = D[:, 1].reshape(4, 4)
    torch.testing.assert_close(first, first[:, :1].expand(4, 4))


def test_dct_has_twice_as_many_atoms_as_features_unless_told():
    assert dictionaries.dct(16).shape == (16, 32)


def test_dct_needs_a_square():
    with pytest.raises(ValueError, match=r"dct: n_features must be a square number, .* got 10"):
        dictionaries.dct(10, 20)


def test_dct_names_the_size_that_makes_atoms_coincide():
    with pytest.raises(ValueError, match=r"dct\(4, 8\): 7 atoms are duplicates of another: atoms 1, 2, 3, 4, 5, …"):
        dictionaries.dct(4, 8)


def test_orthogonal_dct():
    D = dictionaries.orthogonal_dct(10, dtype=torch.float64)
    torch.testing.assert_close(D.T @ D, torch.eye(10, dtype=torch.float64))


def test_random_atoms_follow_the_generator():
    first, second = (dictionaries.random_unit(5, 9, generator=torch.Generator().manual_seed(1)) for _ in "ab")
    assert torch.equal(first, second)
    assert first.dtype == torch.float32


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_learned_dictionary_suits_its_data_better_than_a_random_one(dtype):
    atoms = dictionaries.random_unit(8, 12, dtype=dtype)
    x = torch.randn(400, 12, dtype=dtype) * (torch.rand(400, 12) < 0.15) @ atoms.T
    D = dictionaries.learned(x, 12, lmbda=0.05, max_iter=20)
    assert D.shape == (8, 12)
    assert D.dtype == dtype

    def objective(dictionary):
        z, x_hat = DictionaryLISTA(dictionary, 300, 0.05).eval()(x)
        return float((0.5 * (x - x_hat).square().sum() + 0.05 * z.abs().sum()).detach())

    assert objective(D) < 0.8 * objective(dictionaries.random_unit(8, 12, dtype=dtype))


def test_learned_dictionary_takes_numpy():
    assert dictionaries.learned(torch.randn(60, 4).numpy(), 5, max_iter=2).shape == (4, 5)


@pytest.mark.parametrize("data", [torch.zeros(3), torch.zeros(3, 4).long(), torch.full((3, 4), float("nan"))])
def test_learned_dictionary_needs_a_finite_matrix(data):
    with pytest.raises(ValueError, match="learned: data must be a finite floating-point"):
        dictionaries.learned(data, 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda D: D.__setitem__((slice(None), 2), 0), "1 atoms are zero: atoms 2"),
        (lambda D: D[:, 1:3].mul_(2), "2 atoms are not unit vectors: atoms 1, 2"),
        (
            lambda D: D.__setitem__((slice(None), 3), -D[:, 0]),
            "2 atoms are duplicates of another: atoms 0, 3",
        ),
        (lambda D: D.__setitem__((0, 0), float("nan")), "1 atoms are not unit vectors: atoms 0"),
    ],
)
def test_check_names_bad_atoms(change, message):
    D = dictionaries.random_unit(5, 8)
    assert dictionaries.check(D) is D
    change(D)
    with pytest.raises(ValueError, match=message):
        dictionaries.check(D)


def test_check_needs_a_matrix():
    with pytest.raises(ValueError, match=r"dictionary must be a floating-point \(n, K\) matrix"):
        dictionaries.check(torch.ones(3))


@pytest.mark.parametrize("make", [dictionaries.dct, dictionaries.random_unit])
def test_sizes_must_be_positive(make):
    with pytest.raises(ValueError, match="n_features and n_atoms must be at least 1"):
        make(4, 0)


def test_coherence() -> None:
    assert dictionaries.coherence(dictionaries.orthogonal_dct(16)) == pytest.approx(0, abs=1e-6)
    D = torch.tensor([[1.0, 0.0, 3.0, 0.0], [0.0, -2.0, 4.0, 0.0]])  # a zero atom beside three others
    assert dictionaries.coherence(D) == pytest.approx(0.8)
    assert dictionaries.coherence(D[:, :1]) == 0
    assert dictionaries.coherence(dictionaries.dct(256)) == pytest.approx(0.861, abs=1e-3)
    with pytest.raises(ValueError, match=r"coherence: dictionary must be \(n, K\), got \(3,\)"):
        dictionaries.coherence(torch.ones(3))


def test_learned_dictionary_takes_arrays_of_any_strides():
    data = torch.randn(60, 4).numpy()
    expected = dictionaries.learned(data, 5, max_iter=2)
    for given in (data[::-1][::-1], data[:, ::-1][:, ::-1]):
        assert torch.equal(dictionaries.learned(given, 5, max_iter=2), expected)
