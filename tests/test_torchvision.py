import importlib
import importlib.util

import pytest

from scvae_fast import _torchvision


def test_torchvision_can_be_imported_where_it_is_installed() -> None:
    _torchvision.make_importable()
    installed = importlib.util.find_spec("torchvision") is not None
    assert not installed or importlib.import_module("torchvision").__name__ == "torchvision"


def test_other_errors_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> None:
        raise RuntimeError("another reason")

    monkeypatch.setattr(_torchvision, "_library", [])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(importlib, "import_module", fail)
    with pytest.raises(RuntimeError, match="another reason"):
        _torchvision.make_importable()
