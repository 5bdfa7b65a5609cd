"""Which backend runs a call, and that a call on a wrong one says so."""

import pytest
import torch

import scvae_fast
from scvae_fast.ops import _backend


def test_every_backend_is_usable_here_or_says_why():
    found = scvae_fast.backends()
    assert found["eager"] is None
    assert found["cpu"] is None, "the tests need the compiled module"


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (torch.float32, "cpu"),
        (torch.float64, "cpu"),
        (torch.bfloat16, "eager"),
        (torch.float16, "eager"),
    ],
)
def test_automatic_choice_on_the_cpu(dtype, expected):
    assert _backend.choose("lista", None, torch.device("cpu"), dtype) == expected


def test_automatic_choice_on_another_device_is_eager():
    assert _backend.choose("lista", None, torch.device("cuda"), torch.float32) == "eager"


def test_unknown_name_is_refused():
    with pytest.raises(ValueError, match="lista: backend must be one of cpu, eager, or None, got 'gpu'"):
        scvae_fast.lista(torch.zeros(2, 3), torch.zeros(3, 3), 0.1, 1, backend="gpu")


def test_forced_backend_raises_where_it_declines():
    with pytest.raises(RuntimeError, match=r"decode: backend 'cpu' can't be used: it takes float32 and float64"):
        scvae_fast.decode(torch.zeros(2, 3).half(), torch.zeros(4, 3).half(), backend="cpu")


def test_forced_backend_raises_on_another_device():
    z, D = torch.zeros(2, 3, device="meta"), torch.zeros(4, 3, device="meta")
    with pytest.raises(RuntimeError, match="it runs on CPU tensors, got a tensor on meta"):
        _backend.choose("decode", "cpu", z.device, D.dtype)


def test_missing_native_module_is_a_reason_and_never_chosen(monkeypatch):
    monkeypatch.setattr(_backend._native, "missing", "it is not built")
    assert scvae_fast.backends()["cpu"] == "it is not built"
    assert _backend.choose("lista", None, torch.device("cpu"), torch.float32) == "eager"
    with pytest.raises(RuntimeError, match="lista: backend 'cpu' can't be used: it is not built"):
        scvae_fast.lista(torch.zeros(2, 3), torch.zeros(3, 3), 0.1, 1, backend="cpu")
