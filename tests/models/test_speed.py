"""Speed settings of a model: the choices, and that they change results only by rounding."""

import pytest
import torch
from torch import nn

from scvae_fast import SCVAE, SCVAEConfig
from scvae_fast.models import speed
from scvae_fast.models.speed import SpeedSettings

CONFIG = SCVAEConfig.preset("pictures64", ch=8, ch_mult=(1, 2), n_features=16, n_atoms=32, n_iter=2)


def test_a_cpu_gets_bfloat16_where_it_multiplies_it(monkeypatch):
    monkeypatch.setattr(speed, "multiplies_bfloat16", lambda: True)
    assert SpeedSettings.of("cpu") == SpeedSettings(precision="bfloat16")
    monkeypatch.setattr(speed, "multiplies_bfloat16", lambda: False)
    assert SpeedSettings.of("cpu") == SpeedSettings()


def test_a_gpu_is_compiled_and_has_channels_last(monkeypatch):
    for supported, precision in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda supported=supported, **_: supported)
        assert SpeedSettings.of("cuda") == SpeedSettings(precision=precision, channels_last=True, compile=True)


@pytest.mark.parametrize(
    "choice",
    [SpeedSettings(channels_last=True), SpeedSettings(precision="bfloat16"), SpeedSettings(precision="float16")],
)
def test_results_differ_by_rounding_alone(choice):
    torch.manual_seed(0)
    model, x = SCVAE(CONFIG), torch.rand(2, 3, 8, 8) * 2 - 1
    expected = model(x)
    with choice.autocast("cpu"):
        found = choice.prepare(model)(x)
    tolerance = {"float32": 1e-4, "bfloat16": 6e-2, "float16": 1e-2}[choice.precision]
    error = (found.x_hat.float() - expected.x_hat).norm() / expected.x_hat.norm()
    assert 0 <= error < tolerance
    assert found.codes.dtype == torch.float32


def test_prepare_changes_the_memory_format_and_compiles_encoder_and_decoder(monkeypatch):
    compiled = []
    monkeypatch.setattr(nn.Module, "compile", lambda module: compiled.append(type(module).__name__))
    model = SpeedSettings(channels_last=True, compile=True).prepare(SCVAE(CONFIG))
    assert compiled == ["Encoder", "Decoder"]
    assert model.decoder.conv_in.weight.is_contiguous(memory_format=torch.channels_last)


def test_lightning_knows_the_precision():
    names = {"float32": "32-true", "bfloat16": "bf16-mixed", "float16": "16-mixed"}
    for precision, name in names.items():
        assert SpeedSettings(precision=precision).lightning_precision == name


def test_an_unknown_precision_is_refused():
    with pytest.raises(
        ValueError, match=r"SpeedSettings: precision must be one of \('float32', 'bfloat16', 'float16'\), got 'int8'"
    ):
        SpeedSettings(precision="int8")
