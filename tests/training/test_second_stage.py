import pytest
import torch
import torch.nn.functional as F
from torch import nn

from scvae_fast.training.second_stage import PatchDiscriminator, SecondStage, SecondStageSettings


def perceptual(x: torch.Tensor, x_hat: torch.Tensor) -> torch.Tensor:
    return (x - x_hat).abs().mean((1, 2, 3), keepdim=True)


@pytest.fixture
def stage() -> SecondStage:
    settings = SecondStageSettings(perceptual_weight=0.5, discriminator_weight=0.8, start_step=3, width=8)
    return SecondStage(settings, 3, perceptual)


def batch() -> tuple[torch.Tensor, nn.Conv2d, torch.Tensor]:
    """Pictures, a decoder's last layer, and its output for noise."""
    x, last = torch.rand(2, 3, 32, 32) * 2 - 1, nn.Conv2d(4, 3, 3, padding=1)
    return x, last, last(torch.rand(2, 4, 32, 32))


def gradients(module: nn.Module) -> list[torch.Tensor]:
    return [p.grad for p in module.parameters() if p.grad is not None]


def test_discriminator_sees_patches() -> None:
    discriminator = PatchDiscriminator(layers=2, width=8).eval()
    x = torch.rand(1, 3, 64, 64, requires_grad=True)
    logits = discriminator(x)
    assert logits.shape == (1, 1, 14, 14)
    logits[0, 0, 7, 7].backward()
    seen = x.grad[0].abs().sum(0) > 0
    assert seen.any(0).sum() == seen.any(1).sum() == 34, "the receptive field of two layers of stride 2 and two of 1"


def test_terms_are_those_of_the_released_code(stage: SecondStage) -> None:
    """Its step: the model's loss with the discriminator frozen, then the discriminator's with the same pictures."""
    x, last, x_hat = batch()
    image_loss = F.mse_loss(x_hat, x)
    result = stage(x, x_hat, image_loss, last.weight, step=3)
    (image_loss + result.total).backward(retain_graph=True)
    together = [g.clone() for g in (*gradients(last), *gradients(stage.discriminator))]

    last.zero_grad()
    stage.zero_grad()
    terms = image_loss + 0.5 * perceptual(x, x_hat).mean()
    adversarial = -stage.discriminator(x_hat).mean()
    norms = [torch.autograd.grad(t, last.weight, retain_graph=True)[0].norm() for t in (terms, adversarial)]
    weight = norms[0] / (norms[1] + 1e-4)
    (terms + weight * 0.8 * adversarial).backward()
    expected = [g.clone() for g in gradients(last)]
    stage.zero_grad()
    real, fake = stage.discriminator(x), stage.discriminator(x_hat.detach())
    (0.8 * 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())).backward()
    expected += gradients(stage.discriminator)
    assert len(together) == len(expected) > 4
    for ours, theirs in zip(together, expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    assert result.figures["adversarial_weight"] == pytest.approx(float(weight.detach()), rel=1e-4)
    assert set(result.figures) == {
        "loss/perceptual",
        "loss/adversarial",
        "loss/discriminator",
        "adversarial_weight",
        "logits/real",
        "logits/fake",
    }


def test_before_its_start_the_discriminator_has_no_effect(stage: SecondStage) -> None:
    x, last, x_hat = batch()
    assert not stage.started(2)
    result = stage(x, x_hat, F.mse_loss(x_hat, x), last.weight, step=2)
    torch.testing.assert_close(result.total, 0.5 * perceptual(x, x_hat).mean())
    assert set(result.figures) == {"loss/perceptual"}
    result.total.backward()
    discriminator = gradients(stage.discriminator)
    assert len(discriminator) == len(list(stage.discriminator.parameters())), "or other processes would wait for them"
    assert all(not g.any() for g in discriminator)


def test_the_perceptual_network_is_no_part_of_checkpoints() -> None:
    network = nn.Conv2d(3, 1, 1)
    stage = SecondStage(SecondStageSettings(width=4), 3, lambda x, y: network(x - y))
    assert all(name.startswith("discriminator.") for name in stage.state_dict())
    stage = SecondStage(SecondStageSettings(width=4), 3, network)
    stage.prepare(torch.device("cpu"))
    assert not network.weight.requires_grad
    assert all(name.startswith("discriminator.") for name in stage.state_dict())


@pytest.mark.parametrize("field", ["perceptual_weight", "discriminator_weight", "start_step", "layers", "width"])
def test_fields_are_checked(field: str) -> None:
    with pytest.raises(ValueError, match=f"SecondStageSettings: {field} must be"):
        SecondStageSettings(**{field: -1})
