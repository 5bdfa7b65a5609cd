"""Attention and normalisation: PyTorch's kernels forward and backward, and derivatives that these do not have."""

import pytest
import torch
import torch.nn.functional as F
from torch.func import grad, jvp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from scvae_fast.models.blocks import AttnBlock, attend, normalise

# torch's own forward mode loads parts of torch that warn.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit")


def tokens(dtype=torch.float64):
    """q, k and v."""
    torch.manual_seed(0)
    return [torch.randn(2, 1, 5, 4, dtype=dtype, requires_grad=True) for _ in range(3)]


def exact(q, k, v):
    """PyTorch's own formula, which has every derivative."""
    with sdpa_kernel(SDPBackend.MATH):
        return F.scaled_dot_product_attention(q, k, v)


def test_attention_runs_the_kernels():
    for dtype in (torch.float32, torch.bfloat16):
        q, k, v = tokens(dtype)
        expected = F.scaled_dot_product_attention(q, k, v)
        found = attend(q, k, v)
        weights = torch.randn_like(found)
        assert torch.equal(found, expected)
        gradients = [torch.autograd.grad(result, (q, k, v), weights) for result in (found, expected)]
        assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
        with torch.no_grad():
            assert torch.equal(attend(q, k, v), expected)


def test_attention_has_every_derivative():
    assert torch.autograd.gradcheck(attend, tokens(), check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(attend, tokens(), check_fwd_over_rev=True)
    found = []
    for function in (attend, exact):
        q, k, v = (t.detach() for t in tokens())

        def loss(*tensors, function=function):
            return function(*tensors).sin().sum()

        found.append(
            [
                *jvp(function, (q, k, v), (k, v, q)),
                *grad(loss, argnums=(0, 1, 2))(q, k, v),
                *jvp(grad(loss), (q, k, v), (k, v, q)),
                grad(lambda q, k=k, v=v, loss=loss: grad(loss)(q, k, v).square().sum())(q),
                vmap(grad(loss))(q, k, v),
            ]
        )
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("reentrant", [False, True])
def test_attention_in_a_checkpoint(reentrant):
    q, k, v = tokens()
    expected = torch.autograd.grad(exact(q, k, v).square().sum(), (q, k, v))
    checkpoint(attend, q, k, v, use_reentrant=reentrant).square().sum().backward()
    for t, gradient in zip((q, k, v), expected, strict=True):
        torch.testing.assert_close(t.grad, gradient)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_normalisation(dtype):
    """The layer itself; in forward mode its formula, of strided tensors too."""
    norm = torch.nn.GroupNorm(2, 4, eps=1e-6).to(dtype)
    torch.nn.init.normal_(norm.weight)
    x, tangent = (torch.randn(2, 3, 5, 4, dtype=dtype).permute(0, 3, 1, 2) for _ in range(2))
    assert torch.equal(normalise(norm, x), norm(x.contiguous()))
    found, forward = jvp(lambda x: normalise(norm, x), (x,), (tangent,))
    assert found.dtype == forward.dtype == dtype
    tolerance = {torch.float64: 1e-10, torch.bfloat16: 3e-2}[dtype]
    torch.testing.assert_close(found, norm(x), rtol=tolerance, atol=tolerance)
    wide = norm.double()
    _, expected = jvp(wide, (x.double().contiguous(),), (tangent.double().contiguous(),))
    torch.testing.assert_close(forward.double(), expected, rtol=tolerance, atol=tolerance)


def test_a_block_of_attention_in_forward_mode_over_its_gradient():
    torch.manual_seed(0)
    block = AttnBlock(8, norm_groups=2).double()
    x, tangent = torch.randn(2, 2, 8, 3, 4, dtype=torch.float64)

    def gradient(x):
        return grad(lambda x: block(x).sin().sum())(x)

    _, found = jvp(gradient, (x,), (tangent,))
    step = 1e-6
    expected = (gradient(x + step * tangent) - gradient(x - step * tangent)) / (2 * step)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x.clone().requires_grad_(), tangent)
        (d_x,) = torch.autograd.grad(block(dual).sin().sum(), dual)
        torch.testing.assert_close(torch.autograd.forward_ad.unpack_dual(d_x).tangent, expected, rtol=1e-6, atol=1e-7)


def test_compiled_attention_is_pytorchs():
    q, k, v = tokens(torch.float32)
    compiled = torch.compile(attend, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(q, k, v), F.scaled_dot_product_attention(q, k, v))
