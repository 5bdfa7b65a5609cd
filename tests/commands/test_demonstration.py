from pathlib import Path

import pytest
import torch
from pictures import TINY, photographs

from scvae_fast.commands._demonstration import draw_report
from scvae_fast.data import load_picture
from scvae_fast.evaluation.photographs import evaluate
from scvae_fast.models import SCVAE
from scvae_fast.models.atoms import decode_atoms


@pytest.fixture(scope="module")
def model() -> SCVAE:
    torch.manual_seed(0)
    return SCVAE(TINY).eval()


def test_pictures_are_drawn(model: SCVAE, tmp_path: Path) -> None:
    evaluation = evaluate(model, photographs())
    row = {"loss/total": 3.0, "loss/image": 1.0, "loss/latent": 1.0, "loss/sparsity": 1.0, "psnr": 20.0, "density": 0.1}
    history = [{"step": 20.0 * i, **row} for i in (1, 2)]
    paths = draw_report(tmp_path / "pictures", model, evaluation, evaluation, history)
    assert {path.name for path in paths} == {path.name for path in (tmp_path / "pictures").iterdir()}
    assert {path.stem for path in paths} == {"held_out", "training", "atoms", "usage", "density", "losses"}
    for path in paths:
        picture = load_picture(path)
        assert min(picture.shape[1:]) > 100, path
        assert picture.std() > 0.05, f"{path} is nearly blank"


def test_without_a_history_there_are_no_loss_curves(model: SCVAE, tmp_path: Path) -> None:
    evaluation = evaluate(model, photographs()[:1])
    assert "losses" not in {path.stem for path in draw_report(tmp_path, model, evaluation, evaluation, [])}


def test_decoded_atoms(model: SCVAE) -> None:
    patches = decode_atoms(model, cells=5)
    assert patches.shape == (TINY.n_atoms, 3, 6, 6)
    codes = torch.zeros(1, 5, 5, TINY.n_atoms)
    codes[0, 2, 2, 7] = 1
    with torch.no_grad():
        change = (model.decode_codes(codes) - model.decode_codes(-codes))[0] / 2
    torch.testing.assert_close(patches[7], change[:, 2:8, 2:8])
