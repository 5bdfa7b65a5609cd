"""16-bit calls on a CPU: computed in float32 by the C++ kernels, rounded once, gradients in their tensors' dtypes."""

import pytest
import torch
from problems import sparse_code_problem

from scvae_fast import decode, lista, sparse_code

HALVES = [torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", HALVES)
def test_results_and_gradients_are_float32_ones_rounded_once(dtype):
    given = sparse_code_problem(12, 10, 7)
    p = {name: value.float().to(dtype) for name, value in given.items() if value is not None}
    p["theta"] = p["theta"].float()  # may stay float32
    narrow = {name: value.clone().requires_grad_() for name, value in p.items()}
    wide = {name: value.float().requires_grad_() for name, value in p.items()}
    z, x_hat = sparse_code(**narrow, n_iter=4, backend="cpu")
    z_wide, x_hat_wide = sparse_code(**wide, n_iter=4, backend="cpu")
    assert z.dtype == x_hat.dtype == dtype
    assert torch.equal(z, z_wide.to(dtype))
    assert torch.equal(x_hat, x_hat_wide.to(dtype))
    x_hat.sum().backward()
    x_hat_wide.sum().backward()
    for name, tensor in narrow.items():
        assert tensor.grad.dtype == tensor.dtype, name
        # ∂D sees the codes as they were kept, rounded.
        torch.testing.assert_close(tensor.grad.float(), wide[name].grad, rtol=2e-2, atol=2e-2, msg=name)


@pytest.mark.parametrize("dtype", HALVES)
def test_gradients_that_are_not_needed_are_none(dtype):
    z, D = torch.randn(3, 5).to(dtype).requires_grad_(), torch.randn(4, 5).to(dtype)
    decode(z, D, backend="cpu").sum().backward()
    torch.testing.assert_close(z.grad.float(), D.float().sum(0).expand(3, 5), rtol=1e-2, atol=1e-2)
    assert D.grad is None


def test_codes_from_a_warm_start_own_their_memory():
    z0 = torch.randn(2, 3).bfloat16()
    z = lista(torch.zeros(2, 3).bfloat16(), torch.zeros(3, 3).bfloat16(), 0.1, 0, z0=z0, backend="cpu")
    assert torch.equal(z, z0)
    assert z.data_ptr() != z0.data_ptr()
