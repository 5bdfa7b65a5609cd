import pytest
import torch

from scvae_fast._devices import find_device
from scvae_fast.errors import UsageError


def test_the_default_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert find_device(None) == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert find_device(None) == torch.device("cuda")


def test_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert find_device("cpu") == torch.device("cpu")
    assert find_device("cuda:1") == torch.device("cuda:1")
    for name, message in (
        ("cuda:2", "torch finds 2 CUDA devices"),
        ("meta", "must be cpu or cuda"),
        ("toaster", "'toaster' is not a device"),
    ):
        with pytest.raises(UsageError, match=message):
            find_device(name)


def test_processes_of_torchrun_get_a_gpu_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert find_device(None) == find_device("cuda") == torch.device("cuda:1")
    assert find_device("cpu") == torch.device("cpu")
    assert find_device("cuda:0") == torch.device("cuda:0")
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(UsageError, match="no device 'cuda:2': torch finds 2 CUDA devices"):
        find_device(None)
