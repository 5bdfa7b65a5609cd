"""soft_threshold."""

import math

import pytest
import torch

from scvae_fast import soft_threshold


def test_formula():
    u = torch.tensor([-2.0, -0.5, -0.2, 0.0, 0.2, 0.5, 2.0])
    assert torch.equal(soft_threshold(u, 0.5), torch.tensor([-1.5, 0.0, 0.0, 0.0, 0.0, 0.0, 1.5]))


def test_negative_threshold_pushes_away_from_zero_and_keeps_zero():
    u = torch.tensor([-1.0, 0.0, 1.0])
    assert torch.equal(soft_threshold(u, -0.25), torch.tensor([-1.25, 0.0, 1.25]))


def test_threshold_for_each_atom():
    u, theta = torch.ones(2, 3), torch.tensor([0.0, 0.5, 2.0])
    assert torch.equal(soft_threshold(u, theta), torch.tensor([[1.0, 0.5, 0.0]] * 2))


def test_nan_and_infinity():
    z = soft_threshold(torch.tensor([math.nan, math.inf, -math.inf]), 1.0)
    assert math.isnan(z[0])
    assert z[1:].tolist() == [math.inf, -math.inf]
    assert math.isnan(soft_threshold(torch.tensor(math.inf), math.inf))


NUMBERS = [0.0, -0.0, 1.0, -3.0, math.inf, -math.inf, math.nan]


def law(u, theta):
    if u == 0:
        return theta if math.isnan(theta) else 0.0
    excess = abs(u) - theta
    return math.copysign(max(excess, 0.0), u) if excess == excess else math.nan


@pytest.mark.parametrize("theta", [0.5, -0.5, math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("per_atom", [False, True])
def test_zero_stays_zero_unless_the_threshold_is_nan(theta, per_atom):
    """sign(0)·∞ is 0; ∞ − ∞ is NaN."""
    found = soft_threshold(torch.tensor(NUMBERS), torch.full((len(NUMBERS),), theta) if per_atom else theta)
    torch.testing.assert_close(found, torch.tensor([law(u, theta) for u in NUMBERS]), equal_nan=True, rtol=0, atol=0)


def test_derivatives_at_a_threshold_of_minus_infinity():
    u, theta = torch.tensor([0.0, -0.0, 1.0, -3.0], requires_grad=True), torch.full((4,), -math.inf, requires_grad=True)
    z = soft_threshold(u, theta)
    d_u, d_theta = torch.autograd.grad(z, (u, theta), torch.tensor([math.inf, 1.0, 1.0, 1.0]))
    assert d_u.tolist() == [0.0, 0.0, 1.0, 1.0]
    assert d_theta.tolist() == [0.0, 0.0, -1.0, 1.0]


def test_derivatives():
    u = torch.tensor([-2.0, -0.5, 0.1, 0.5, 3.0], requires_grad=True)
    theta = torch.tensor(0.5, requires_grad=True)
    soft_threshold(u, theta).sum().backward()
    assert torch.equal(u.grad, torch.tensor([1.0, 0.0, 0.0, 0.0, 1.0]))
    assert theta.grad == 0  # +1 for the negative one, −1 for the positive one
    u = torch.randn(20, dtype=torch.float64, requires_grad=True)
    theta = torch.rand(20, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(soft_threshold, (u, theta))
    assert torch.autograd.gradgradcheck(soft_threshold, (u, theta))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_16_bit_types_are_computed_in_float32(dtype):
    u, theta = torch.randn(50).to(dtype), torch.rand(50)
    assert torch.equal(soft_threshold(u, theta), soft_threshold(u.float(), theta).to(dtype))


def test_compile_without_graph_breaks():
    u = torch.randn(4, 5)
    compiled = torch.compile(soft_threshold, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(u, 0.3), soft_threshold(u, 0.3))


@pytest.mark.parametrize(
    ("u", "theta", "error", "message"),
    [
        (1.0, 0.5, TypeError, "soft_threshold: u must be a torch.Tensor, got float"),
        (torch.ones(3).int(), 0.5, TypeError, "soft_threshold: u must be float32"),
        (
            torch.ones(3),
            torch.ones(2),
            ValueError,
            r"soft_threshold: theta must be one value or \(K,\) = \[3\]",
        ),
        (torch.ones(3), torch.ones(3).double(), TypeError, "soft_threshold: theta must have the dtype of u"),
        (
            torch.ones(3),
            None,
            TypeError,
            "soft_threshold: theta must be a number or a torch.Tensor, got NoneType",
        ),
    ],
)
def test_bad_input_names_the_argument(u, theta, error, message):
    with pytest.raises(error, match=message):
        soft_threshold(u, theta)
