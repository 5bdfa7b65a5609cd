"""lasso: the optimum over a dictionary, with a certificate, by every algorithm; and its derivatives."""

import warnings

import numpy as np
import pytest
import torch
from sklearn.decomposition import sparse_encode

from scvae_fast import dictionaries, lasso, lista
from scvae_fast.ops.lasso_solver import Lasso

ALGORITHMS = ["cd", "fista", "ista"]


def dictionary(n, K, dtype=torch.float64, seed=0):
    return dictionaries.random_unit(n, K, generator=torch.Generator().manual_seed(seed)).to(dtype)


def problem(dtype=torch.float64):
    return torch.randn(4, 5, 9, dtype=dtype), dictionary(9, 20, dtype)


def weights(kind, rows, K, dtype=torch.float64):
    """α in every possible shape."""
    shape = {"one": (), "atoms": (K,), "rows": (*rows, 1), "all": (*rows, K)}[kind]
    return 0.2 + 0.3 * torch.rand(shape, dtype=dtype)


def violation(x, D, alpha, z, positive):
    """Largest distance of Dᵀ(x − Dz) from α ∂|z|: 0 exactly at a solution."""
    x, D, z = x.double(), D.double(), z.double()
    c = (x - z @ D.T) @ D
    alpha = torch.as_tensor(alpha).double().expand(c.shape)
    outside = (c if positive else c.abs()) - alpha
    return float(torch.where(z != 0, (c - alpha * z.sign()).abs(), outside.clamp_min(0)).max())


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("positive", [False, True])
@pytest.mark.parametrize("kind", ["one", "atoms", "rows", "all"])
def test_optimality_conditions_hold(algorithm, positive, kind):
    x, D = problem()
    alpha = weights(kind, (4, 5), 20)
    codes, gap = lasso(x, D, alpha, positive=positive, tol=1e-12, max_iter=20_000, algorithm=algorithm)
    assert codes.shape == (4, 5, 20)
    assert gap.shape == (4, 5)
    assert (gap <= 1e-12).all()
    assert violation(x, D, alpha, codes, positive) <= 1e-5
    assert not positive or (codes >= 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("n", "K", "rows"),
    [
        (1, 1, 1),
        (1, 3, 4),
        (30, 1, 50),
        (9, 20, 2),
        (33, 65, 7),
        (33, 65, 40),
        (64, 256, 300),
        (16, 250, 3),
        (520, 40, 9),
    ],
)
@pytest.mark.parametrize("gram", [False, True])
def test_coordinate_descent_on_odd_sizes(monkeypatch, dtype, n, K, rows, gram):
    """With norms far from one; the certificate holds in float64."""
    monkeypatch.setattr("scvae_fast.ops.lasso_solver._MOST_GRAM", 1 << 30 if gram else 0)
    D = torch.randn(n, K, dtype=dtype) * torch.logspace(-3, 3, K, dtype=dtype)
    x, alpha = 2 * torch.randn(rows, n, dtype=dtype), weights("atoms", (), K, dtype) * D.norm(dim=0)
    tol = 1e-12 if dtype == torch.float64 else 1e-5
    codes, gap = lasso(x, D, alpha, tol=tol, algorithm="cd")
    exact = Lasso(D, alpha).relative_gap(x, codes)
    assert (gap <= tol).all()
    assert (exact <= tol + 5e-7 * (dtype == torch.float32)).all()


@pytest.mark.parametrize("positive", [False, True])
@pytest.mark.parametrize("gram", [False, True])
def test_codes_are_scikit_learns(monkeypatch, positive, gram):
    monkeypatch.setattr("scvae_fast.ops.lasso_solver._MOST_GRAM", 1 << 30 if gram else 0)
    x, D = torch.randn(40, 32, dtype=torch.float64), dictionary(32, 96)
    atoms = D.T.contiguous().numpy()
    expected = sparse_encode(x.numpy(), atoms, algorithm="lasso_cd", alpha=0.3, max_iter=200_000, positive=positive)
    codes, gap = lasso(x, D, 0.3, tol=1e-13, positive=positive, algorithm="cd")
    assert (gap <= 1e-13).all()

    def objectives(z):
        return 0.5 * np.square(x.numpy() - z @ atoms).sum(1) + 0.3 * np.abs(z).sum(1)

    ours, theirs = objectives(codes.numpy()), objectives(expected)
    assert (ours <= theirs * (1 + 1e-9)).all()
    # scikit-learn 1.7 stops earlier than later versions.
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    np.testing.assert_allclose(codes, expected, atol=2e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rows", [5, 200])
@pytest.mark.parametrize("gram", [False, True])
@pytest.mark.parametrize(("K", "size"), [(70, 1.0), (64, 1.0), (64, 5.0)])  # D is read as it is in the second alone
def test_threads_and_other_rows_change_nothing(monkeypatch, dtype, rows, gram, K, size):
    monkeypatch.setattr("scvae_fast.ops.lasso_solver._MOST_GRAM", 1 << 30 if gram else 0)
    x, D = torch.randn(rows, 24, dtype=dtype), size * dictionary(24, K, dtype)
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(lasso(x, D, 0.2))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for each in found[1:] for a, b in zip(found[0], each, strict=True))
    turned = lasso(x.flip(0), D, 0.2)
    assert torch.equal(turned.codes.flip(0), found[0].codes)
    for row in (0, rows - 1):
        assert torch.equal(lasso(x[row], D, 0.2).codes, found[0].codes[row])


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("of_x", [1e-23, 1e-10, 1e20])
@pytest.mark.parametrize("of_D", [1e-12, 1.0, 1e9])
def test_units_of_data_and_dictionary_do_not_matter(algorithm, dtype, of_x, of_D):
    x, D = torch.randn(6, 9, dtype=dtype), dictionary(9, 20, dtype)
    z, _ = lasso(x, D, 0.3, tol=1e-6, max_iter=5000, algorithm=algorithm)
    scaled = lasso(x * of_x, D * of_D, 0.3 * of_x * of_D, tol=1e-6, max_iter=5000, algorithm=algorithm)
    assert (scaled.gap <= 1e-6).all()
    torch.testing.assert_close(scaled.codes / (of_x / of_D), z, atol=5e-3, rtol=0)


@pytest.mark.parametrize("algorithm", ["cd", "fista"])
def test_the_certificate_is_reliable(algorithm):
    """The gap is 0 only at the optimum, even if squares overflow or vanish in float32."""
    x, D = torch.randn(6, 9), dictionary(9, 20, torch.float32)
    for scale in (1e-23, 1e20):
        codes, gap = lasso(x * scale, D, 0.3 * scale, max_iter=0, z0=torch.zeros(6, 20), algorithm=algorithm, tol=0)
        assert not codes.any()
        exact = Lasso(D.double(), 0.3).relative_gap(x.double(), codes.double())
        torch.testing.assert_close(gap.double(), exact, rtol=1e-4, atol=0)
        assert (exact > 0.1).all()


def test_rows_that_are_far_from_alpha():
    """Solved by codes of zero, or as good as least squares."""
    x, D = torch.randn(6, 9), dictionary(9, 20, torch.float32)
    assert not lasso(x * 1e-30, D, 0.1).codes.any()
    codes, gap = lasso(x * 1e30, D, 0.1, tol=1e-5)
    assert (gap <= 1e-5).all()
    assert ((x - (codes / 1e30) @ D.T).norm(dim=1) <= 1e-2 * x.norm(dim=1)).all()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("positive", [False, True])
def test_duplicates_of_atoms_and_correlated_ones(algorithm, positive):
    D = dictionary(9, 12)
    D = torch.cat([D, D, -D, D + 1e-9 * torch.randn(9, 12, dtype=D.dtype)], 1)
    x = torch.randn(30, 9, dtype=D.dtype)
    codes, gap = lasso(x, D, 0.1, positive=positive, tol=1e-7, max_iter=20_000, algorithm=algorithm)
    assert (gap <= 1e-7).all()
    assert (Lasso(D, 0.1, positive=positive).relative_gap(x, codes) <= 1.1e-7).all()


def test_the_gap_bounds_the_suboptimality():
    x, D = problem()

    def objective(z):
        return 0.5 * (x - z @ D.T).square().sum(-1) + 0.3 * z.abs().sum(-1)

    best = objective(lasso(x, D, 0.3, tol=1e-13, max_iter=50_000).codes)
    for n_iter in (0, 4, 40):
        for algorithm in ALGORITHMS:
            codes, gap = lasso(x, D, 0.3, tol=0, max_iter=n_iter, algorithm=algorithm)
            missing = objective(codes) - best
            assert (gap * 0.5 * x.square().sum(-1) >= missing - 1e-10).all()
            assert (missing >= -1e-10).all()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_warm_start_at_the_optimum_stays_there(algorithm):
    x, D = problem()
    best = lasso(x, D, 0.3, tol=1e-12, max_iter=50_000).codes
    codes, gap = lasso(x, D, 0.3, z0=best, tol=1e-11, max_iter=1, algorithm=algorithm)
    assert (gap <= 1e-11).all()
    torch.testing.assert_close(codes, best, atol=1e-9, rtol=0)
    elsewhere, gap = lasso(
        x, D, 0.3, z0=torch.randn(4, 5, 20).double(), tol=1e-12, max_iter=50_000, algorithm=algorithm
    )
    assert (gap <= 1e-12).all()
    torch.testing.assert_close(elsewhere, best, atol=1e-4, rtol=0)
    assert (lasso(x, D, 0.3, z0=-best, positive=True, max_iter=0, tol=0, algorithm=algorithm).codes >= 0).all()


def test_without_a_tolerance_ista_is_lista():
    x, D = problem()
    c = torch.linalg.matrix_norm(D, 2) ** 2
    expected = lista(x @ D / c, torch.eye(20, dtype=D.dtype) - D.T @ D / c, 0.3 / c, 7)
    torch.testing.assert_close(lasso(x, D, 0.3, tol=0, max_iter=7, algorithm="ista").codes, expected)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_empty_batches_and_zeros(algorithm):
    x, D = problem(torch.float32)
    codes, gap = lasso(x[:0], D, 0.3, algorithm=algorithm)
    assert codes.shape == (0, 5, 20)
    assert gap.shape == (0, 5)
    codes, gap = lasso(torch.zeros(9), D, 0.3, z0=torch.ones(20), algorithm=algorithm)
    assert not codes.any()
    assert gap == 0


@pytest.mark.parametrize("K", [6, 20])
@pytest.mark.parametrize("kind", ["one", "rows"])
def test_alpha_of_zero_is_least_squares_of_least_norm(K, kind):
    x, D = torch.randn(8, 9, dtype=torch.float64), dictionary(9, K)
    alpha = torch.zeros(()) if kind == "one" else torch.tensor([0.0, 0.3] * 4)[:, None]
    codes, gap = lasso(x, D, alpha.double())
    assert (gap <= 1e-4).all()
    expected = torch.linalg.lstsq(D, x.T, driver="gelsd").solution.T
    rows = slice(None) if kind == "one" else slice(0, None, 2)
    torch.testing.assert_close(codes[rows], expected[rows])
    if kind == "rows":
        torch.testing.assert_close(codes[1::2], lasso(x[1::2], D, 0.3, algorithm="fista").codes)


def test_some_atoms_may_be_free():
    x, D = torch.randn(8, 9, dtype=torch.float64), dictionary(9, 20)
    alpha = torch.full((20,), 0.3, dtype=torch.float64)
    alpha[3] = alpha[11] = 0
    for positive in (False, True):
        codes, gap = lasso(x, D, alpha, positive=positive, tol=1e-10, max_iter=50_000)
        assert (gap <= 1e-10).all()
        assert violation(x, D, alpha, codes, positive) <= 1e-4


def test_one_warning_counts_and_names_the_rows_that_are_not_solved():
    x, D = problem()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        _, gap = lasso(x, D, 0.01, max_iter=2, tol=1e-9)
    assert (gap > 1e-9).all()
    assert len(caught) == 1
    assert "lasso: 20 of 20 rows did not reach a duality gap of 1e-09" in str(caught[0].message)
    assert "rows 0, 1, 2, 3, 4, 5, 6, 7, …" in str(caught[0].message)


# Derivatives, beyond what tests/transforms asks of every operation


@pytest.mark.parametrize("positive", [False, True])
@pytest.mark.parametrize("kind", ["one", "atoms", "rows", "all"])
def test_derivatives_are_those_of_differences(kind, positive):
    x, D = torch.randn(2, 3, 9, dtype=torch.float64), dictionary(9, 14)
    arguments = [t.requires_grad_() for t in (x, D.clone(), weights(kind, (2, 3), 14))]

    def codes(x, D, alpha):
        return lasso(x, D, alpha, positive=positive, tol=0).codes

    assert torch.autograd.gradcheck(codes, arguments, atol=1e-4)


# torch's first use of forward mode calls its own deprecated function.
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
@pytest.mark.parametrize("K", [6, 20])
@pytest.mark.parametrize("kind", ["one", "rows"])
def test_derivatives_of_least_squares_of_least_norm(K, kind):
    x, D = torch.randn(4, 9, dtype=torch.float64), dictionary(9, K)
    alpha = torch.zeros((), dtype=torch.float64)
    if kind == "rows":
        alpha = torch.tensor([[0.0], [0.3], [0.0], [0.5]], dtype=torch.float64)

    def codes(x, D):
        return lasso(x, D, alpha, tol=1e-13, max_iter=50_000).codes

    arguments = x.requires_grad_(), D.clone().requires_grad_()
    assert torch.autograd.gradcheck(codes, arguments, atol=1e-4)
    weight = torch.randn(4, K, dtype=torch.float64)
    found = torch.autograd.grad((codes(*arguments) * weight).sum(), arguments)
    again = torch.func.grad(lambda x, D: (codes(x, D) * weight).sum(), (0, 1))(x.detach(), D)
    torch.testing.assert_close(again, found)
    _, tangent = torch.func.jvp(lambda D: codes(x.detach(), D), (D,), (torch.ones_like(D),))
    torch.testing.assert_close((tangent * weight).sum(), found[1].sum())
    hessian = torch.func.hessian(lambda D: (codes(x.detach(), D) * weight).sum())(D[:, :K])
    assert hessian.isfinite().all()


def test_gradients_in_float32_and_by_every_algorithm():
    x, D = problem()
    grads = {}
    for algorithm in ALGORITHMS:
        for dtype in (torch.float32, torch.float64):
            leaves = [t.to(dtype).clone().requires_grad_() for t in (x, D, torch.tensor(0.3))]
            tol = 1e-6 if dtype == torch.float32 else 1e-12
            codes = lasso(*leaves, tol=tol, max_iter=50_000, algorithm=algorithm).codes
            weight = torch.linspace(-1, 1, codes.numel()).view_as(codes).to(dtype)
            grads[algorithm, dtype] = torch.autograd.grad((weight * codes).sum(), leaves)
    exact = grads["cd", torch.float64]
    for (_, dtype), found in grads.items():
        for a, b in zip(found, exact, strict=True):
            assert (a.double() - b).norm() <= (2e-2 if dtype == torch.float32 else 1e-4) * b.norm()


def test_duplicates_in_a_support_share_the_gradient():
    D = dictionary(9, 8)
    x = torch.randn(5, 9, dtype=D.dtype)
    single = D.clone().requires_grad_()
    z = lasso(x, single, 0.3, tol=0).codes
    (expected,) = torch.autograd.grad((z @ single.T).square().sum(), single)
    assert (z != 0).any(0).sum() > 3
    both = torch.cat([D, D], 1).requires_grad_()
    start = torch.cat([z.detach() / 2, z.detach() / 2], 1)
    halves = lasso(x, both, 0.3, z0=start, tol=1e-9).codes
    assert torch.equal(halves[:, :8] != 0, halves[:, 8:] != 0)
    (found,) = torch.autograd.grad((halves @ both.T).square().sum(), both)
    torch.testing.assert_close(found[:, :8] + found[:, 8:], expected, atol=1e-6, rtol=1e-6)


def test_the_gap_and_the_start_get_no_gradient():
    x, D = (t.requires_grad_() for t in problem())
    z0 = torch.zeros(4, 5, 20, dtype=torch.float64, requires_grad=True)
    codes, gap = lasso(x, D, 0.3, z0=z0)
    assert not gap.requires_grad
    assert not torch.autograd.grad(codes.sum(), z0)[0].any()


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"x": [1.0]}, TypeError, "lasso: x must be a torch.Tensor"),
        (
            {"x": torch.ones(2, 9, dtype=torch.bfloat16), "D": torch.ones(9, 3, dtype=torch.bfloat16)},
            TypeError,
            "lasso: x must be float32 or float64",
        ),
        ({"D": torch.ones(8, 3, dtype=torch.float64)}, ValueError, r"lasso: D must be \(n, K\) with 9 rows"),
        (
            {"D": torch.zeros(9, 3, dtype=torch.float64)},
            ValueError,
            "lasso: D must have no atom that is zero, got column 0",
        ),
        ({"D": torch.full((9, 3), torch.inf, dtype=torch.float64)}, ValueError, "lasso: D must be finite"),
        ({"D": torch.full((9, 3), torch.nan, dtype=torch.float64)}, ValueError, "lasso: D must be finite"),
        (
            {"D": torch.zeros(9, 3, dtype=torch.float64), "algorithm": "fista"},
            ValueError,
            "lasso: D must have no atom that is zero, got column 0",
        ),
        (
            {"x": torch.ones(0, 9, dtype=torch.float64), "D": torch.zeros(9, 3, dtype=torch.float64)},
            ValueError,
            "lasso: D must have no atom that is zero, got column 0",
        ),
        ({"x": torch.full((2, 9), torch.nan, dtype=torch.float64)}, ValueError, "lasso: x must be finite"),
        ({"alpha": -0.5}, ValueError, "lasso: alpha must be at least 0, got -0.5"),
        ({"alpha": float("inf")}, ValueError, "lasso: alpha must be finite"),
        ({"alpha": "much"}, TypeError, "lasso: alpha must be a number or a torch.Tensor"),
        ({"alpha": torch.ones(3, dtype=torch.float64)}, ValueError, "lasso: alpha must be one value"),
        ({"alpha": torch.ones(4, 5, 3, dtype=torch.float64)}, ValueError, r"lasso: alpha must be .*, got \[4, 5, 3\]"),
        ({"alpha": torch.ones(20)}, TypeError, "lasso: alpha must have the dtype of x"),
        ({"alpha": 0.0, "algorithm": "cd"}, ValueError, 'lasso: algorithm "cd" needs .* every alpha > 0'),
        ({"z0": torch.ones(20, dtype=torch.float64)}, ValueError, r"lasso: z0 must be \(..., K\)"),
        ({"positive": 1}, TypeError, "lasso: positive must be a bool"),
        ({"tol": -1.0}, ValueError, "lasso: tol must be a finite number >= 0"),
        ({"max_iter": -1}, ValueError, "lasso: max_iter must be at least 0"),
        ({"algorithm": "lars"}, ValueError, "lasso: algorithm must be None or one of"),
    ],
)
def test_wrong_arguments(changes, error, message):
    x, D = problem()
    with pytest.raises(error, match=message):
        lasso(**{"x": x, "D": D, "alpha": 0.3, **changes})
