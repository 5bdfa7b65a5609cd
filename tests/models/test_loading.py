from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from scvae_fast.errors import UsageError
from scvae_fast.models import SCVAE
from scvae_fast.models.loading import load_model


def test_a_saved_model(small_model: SCVAE, pictures: torch.Tensor, tmp_path: Path) -> None:
    small_model.save_pretrained(tmp_path)
    for checkpoint in (tmp_path, str(tmp_path)):
        loaded = load_model(checkpoint)
        assert not loaded.training
        assert torch.equal(loaded(pictures).x_hat, small_model.eval()(pictures).x_hat)


def test_the_folder_of_a_training_of_which_the_model_was_kept(small_model: SCVAE, tmp_path: Path) -> None:
    small_model.save_pretrained(tmp_path / "model")
    assert load_model(tmp_path).fingerprint() == small_model.fingerprint()


def test_weights_of_a_compiled_model(small_model: SCVAE, pictures: torch.Tensor, tmp_path: Path) -> None:
    """In a folder, and in the state of a training."""
    small_model.save_pretrained(tmp_path / "folder")
    weights = {f"_orig_mod.{name}": tensor for name, tensor in small_model.state_dict().items()}
    save_file(weights, tmp_path / "folder" / "model.safetensors")
    state = {"network": small_model.config.to_dict(), "state_dict": {f"model.{n}": t for n, t in weights.items()}}
    torch.save(state, tmp_path / "last.ckpt")
    for checkpoint in (tmp_path / "folder", tmp_path / "last.ckpt"):
        assert torch.equal(load_model(checkpoint)(pictures).x_hat, small_model.eval()(pictures).x_hat)
    save_file(
        {n: t.clone() for n, t in {**weights, **small_model.state_dict()}.items()},
        tmp_path / "folder" / "model.safetensors",
    )
    with pytest.raises(UsageError, match="can't be loaded: weights must not be there twice"):
        load_model(tmp_path / "folder")


def test_what_can_not_be_loaded(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"the checkpoint .* can't be loaded: .*has no config.json"):
        load_model(tmp_path)
    with pytest.raises(UsageError, match=r"the checkpoint not a name/at/all can't be loaded"):
        load_model("not a name/at/all")
