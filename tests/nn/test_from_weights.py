"""`LISTA.from_weights`: the numbers of eager networks, from their weights."""

import pytest
import torch

from scvae_fast import LISTA, dictionaries, soft_threshold


@pytest.fixture
def D():
    return dictionaries.random_unit(6, 10, dtype=torch.float64)


def loop(x, W, S, theta, first=True):
    """The usual loop: starting with z = h(W x), or from zero."""
    z = soft_threshold(x @ W[0].T, theta[0]) if first else torch.zeros(len(x), len(W[0]), dtype=x.dtype)
    W, theta = (W[1:], theta[1:]) if first else (W, theta)
    for W_t, S_t, theta_t in zip(W, S, theta, strict=True):
        z = soft_threshold(x @ W_t.T + z @ S_t.T, theta_t)
    return z


def weights(T, R, K=10, n=6):
    draw = torch.Generator().manual_seed(1)
    W = [torch.randn(K, n, generator=draw, dtype=torch.float64) for _ in range(R)]
    S = [0.2 * torch.randn(K, K, generator=draw, dtype=torch.float64) for _ in range(T)]
    theta = [torch.rand(K, generator=draw, dtype=torch.float64) for _ in range(R)]
    return W, S, theta


X = torch.randn(7, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


@pytest.mark.parametrize("T", [1, 3])
@pytest.mark.parametrize("form", ["lists", "stacked", "ParameterList"])
def test_weights_of_a_loop_that_starts_with_the_drive(T, form):
    W, S, theta = weights(T, T + 1)
    given = {"lists": list, "stacked": torch.stack, "ParameterList": torch.nn.ParameterList}[form]
    layer = LISTA.from_weights(given(W), given(S), given(theta))
    assert layer.n_iter == T
    assert {name: tuple(p.shape) for name, p in layer.named_parameters()} == {
        "W_e": (T + 1, 10, 6),
        "S": (T, 10, 10),
        "theta": (T + 1, 10),
    }
    torch.testing.assert_close(layer(X), loop(X, W, S, theta))


@pytest.mark.parametrize("T", [1, 3])
def test_weights_of_a_loop_that_starts_at_zero(T):
    W, S, theta = weights(T, T)
    layer = LISTA.from_weights(W, S, theta)
    assert layer.n_iter == T - 1
    torch.testing.assert_close(layer(X), loop(X, W, S, theta, first=False))


def test_shared_weights_of_a_loop_stay_shared():
    (W,), (S,), (theta,) = weights(1, 1)
    layer = LISTA.from_weights(W, S, theta, 4)
    assert [tuple(p.shape) for p in layer.parameters()] == [(10, 6), (10, 10), (10,)]
    torch.testing.assert_close(layer(X), loop(X, [W] * 5, [S] * 4, [theta] * 5))
    layer.W_e.data.zero_()
    assert W.abs().sum() > 0  # a copy


@pytest.mark.parametrize(
    ("shared", "T", "R", "left"),
    [
        ("S", 3, 4, 3),
        ("W", 3, 4, 3),
        ("theta", 3, 4, 3),
        ("W theta", 3, 4, 3),
        ("W theta", 3, 3, 2),
        ("W S", None, 4, 3),
        ("S theta", None, 4, 3),
        ("W", 3, 3, 2),
    ],
)
def test_some_weights_are_shared(shared, T, R, left):
    W, S, theta = weights(T or 3, R or 4)
    first = R != T
    given = {"W": W, "S": S, "theta": theta}
    same = {name: [each[0]] * len(each) if name in shared else each for name, each in given.items()}
    n_iter = left if shared == "W theta" else None
    layer = LISTA.from_weights(
        **{name: each[0] if name in shared else each for name, each in given.items()}, n_iter=n_iter
    )
    assert layer.n_iter == left
    torch.testing.assert_close(layer(X), loop(X, same["W"], same["S"], same["theta"], first))


def test_thresholds_of_a_loop_may_be_numbers():
    W, S, _ = weights(2, 3)
    layer = LISTA.from_weights(W, S, [0.3, 0.2, 0.1])
    assert layer.theta.shape == (3, 1)
    torch.testing.assert_close(layer(X), loop(X, W, S, [0.3, 0.2, 0.1]))
    one = LISTA.from_weights(W[0], S[0], 0.3, 2)
    assert one.theta.shape == (1,)
    half = LISTA.from_weights(W[0].bfloat16(), S[0].bfloat16(), 0.3, 2)
    assert half(X.bfloat16()).dtype == torch.bfloat16


def test_from_weights_decodes_over_what_it_is_given(D):
    W, S, theta = weights(2, 3)
    with pytest.raises(RuntimeError, match="LISTA: decode needs a dictionary, and this layer was given none"):
        LISTA.from_weights(W, S, theta).decode(torch.ones(1, 10, dtype=torch.float64))
    layer = LISTA.from_weights(W, S, theta, dictionary=D)
    torch.testing.assert_close(layer.decode(layer(X)), layer(X) @ D.T)
    other = LISTA.from_weights(W, S, theta)
    other.load_state_dict({name: p * 0.5 for name, p in other.state_dict().items()})
    torch.testing.assert_close(other(X), loop(X, *([t * 0.5 for t in each] for each in (W, S, theta))))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda W, S, t: (W[0], S[0], t[0]), ValueError, "n_iter must be given if all weights are shared"),
        (
            lambda W, S, t: (W[0], S, t[0]),
            ValueError,
            "n_iter must be 2, or 1 for a loop from z = 0, if only S has one per iteration, got None",
        ),
        (lambda W, S, t: (W, S, t, 7), ValueError, "n_iter must be 2, as the weights per iteration say, got 7"),
        (lambda W, S, t: (W[:2], S, t), ValueError, "W and theta must have the same number of entries, got 2 and 3"),
        (
            lambda W, S, t: (W, S[:1], t),
            ValueError,
            "W and theta must have as many entries as S, or one more, got 3, and 1 of S",
        ),
        (lambda W, S, t: ([], S, t), ValueError, "W must not be empty"),
        (lambda W, S, t: (W, [S[0], S[1][:5]], t), ValueError, r"S\[1\] must be \(K, K\) like the others"),
        (lambda W, S, t: (W, [s[:, :5] for s in S], t), ValueError, r"S must be \(K, K\), with K of W"),
        (lambda W, S, t: (W, S, [r[:4] for r in t]), ValueError, r"theta must be one value or \(10,\), got \[3, 4\]"),
        (lambda W, S, t: (W, S, [t[0], t[1][:4], t[2]]), ValueError, "theta must hold one value or"),
        (lambda W, S, t: (W, [s.float() for s in S], t), TypeError, "S must have the dtype of W"),
        (lambda W, S, t: (W, "S", t), TypeError, "S must be a torch.Tensor"),
        (lambda W, S, t: (W, S, [None] * 3), TypeError, r"theta\[0\] must be a number"),
        (lambda W, S, t: (W[0].ravel(), S, t), ValueError, r"W must be \(K, n\), or one per iteration"),
    ],
)
def test_from_weights_says_what_does_not_fit(change, error, message):
    with pytest.raises(error, match=f"LISTA.from_weights: {message}"):
        LISTA.from_weights(*change(*weights(2, 3)))
