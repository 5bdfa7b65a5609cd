from pathlib import Path

import pytest
import torch

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


def test_what_can_not_be_loaded(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"the checkpoint .* can't be loaded: .*has no config.json"):
        load_model(tmp_path)
    with pytest.raises(UsageError, match=r"the checkpoint not a name/at/all can't be loaded"):
        load_model("not a name/at/all")
