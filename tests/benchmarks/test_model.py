"""The whole model and the released code's way of computing: the same numbers, and wrong results are not timed."""

import pytest
import torch

from benchmarks import model, operations, parity, pictures, released
from benchmarks.cases import BOTH, FORWARD, ModelCase, ParityCase
from benchmarks.model import EAGER, FLOAT32, HABITS, NAMES, OURS
from scvae_fast import SCVAE, SCVAEConfig

pytestmark = pytest.mark.slow

TINY = {"resolution": 16, "ch": 8, "ch_mult": (1, 1), "n_atoms": 32, "n_features": 16, "num_res_blocks": 1}


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    config = SCVAEConfig.preset("pictures64", attention="SSGC", attn_levels=(), **TINY)
    monkeypatch.setattr(model, "config_of", lambda case: config)
    monkeypatch.setattr(operations, "MOST_ROUNDS", 2)
    monkeypatch.setattr(operations, "LEAST_ROUNDS", 0)


@pytest.mark.parametrize("direction", [FORWARD, BOTH])
def test_every_contestant_is_correct_and_timed(direction):
    found = model.measure(ModelCase(direction, "pictures64", batch=2), "cpu", 0)
    assert found["wrong"] == {}
    assert all(set(sample) == set(NAMES) for sample in found["samples"])
    assert found["pictures"] == pictures.PHOTOGRAPHS
    assert set(found["profile"]) == {HABITS, OURS}
    for operation in found["profile"].values():
        assert 0.3 < sum(share for _, share in operation) <= 1.0001
    assert 0 < found["density"] <= 1


@pytest.mark.parametrize("attention", ["SSGC", "constant"])
def test_the_released_habits_change_no_number(attention):
    torch.manual_seed(0)
    ours = SCVAE(SCVAEConfig.preset("pictures64", attention=attention, **{**TINY, "attn_levels": ()})).double()
    x = torch.rand(2, 3, 16, 24, dtype=torch.float64) * 2 - 1
    expected = ours(x)
    with released.separate_norms():
        found = released.with_released_habits(ours)(x)
    for name in ("x_hat", "codes", "alpha", "latents_hat"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), msg=name)


def test_a_wrong_loss_is_not_timed(monkeypatch):
    def changed(name, *arguments):
        one = contestant(name, *arguments)
        if name == EAGER:
            one.model.decoder.conv_out.bias.data += 1
        return one

    contestant = model.contestant
    monkeypatch.setattr(model, "contestant", changed)
    found = model.measure(ModelCase(BOTH, "pictures64", batch=2), "cpu", 0)
    assert list(found["wrong"]) == [EAGER]
    assert set(found["samples"][0]) == {HABITS, FLOAT32, OURS}


def test_parity_has_every_loss_of_every_seed():
    found = parity.measure(ParityCase("pictures64", batch=2, steps=3, seeds=2), "cpu")
    for losses in found["losses"].values():
        assert [len(run) for run in losses] == [3, 3]
    (first, other), (ours, _) = found["losses"][HABITS], found["losses"][OURS]
    assert ours[0] == pytest.approx(first[0], rel=2e-2)
    assert other[0] != first[0]


def test_pictures_are_the_same_for_the_same_seed_and_need_no_photographs(monkeypatch):
    for kind in (pictures.PHOTOGRAPHS, pictures.NOISE):
        monkeypatch.setattr(pictures, "kind", lambda kind=kind: kind)
        found = pictures.crops(16, 3, 2, seed=5)
        assert found.shape == (2, 3, 16, 16)
        assert found.abs().max() <= 1
        assert found.std() > 0.05
        assert torch.equal(found[1], pictures.crops(16, 4, 1, seed=5)[0])
        assert not torch.equal(found[0], pictures.crops(16, 3, 1, seed=6)[0])
