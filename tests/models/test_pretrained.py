"""`save_pretrained` and `from_pretrained`: what they write and refuse, and an install without them."""

import json
import subprocess
import sys

import pytest
import torch

from scvae_fast.models import SCVAE


@pytest.fixture
def folder(small_model, tmp_path):
    small_model.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_round_trip(folder, small_model, pictures):
    loaded = SCVAE.from_pretrained(folder)
    assert loaded.config == small_model.config
    assert not loaded.training
    for name, tensor in small_model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    assert torch.equal(loaded(pictures).x_hat, small_model.eval()(pictures).x_hat)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_dtype_is_kept(dtype, small_model, tmp_path):
    small_model.to(dtype).save_pretrained(tmp_path)
    loaded = SCVAE.from_pretrained(tmp_path)
    assert {parameter.dtype for parameter in loaded.parameters()} == {dtype}
    assert all(parameter.requires_grad for parameter in loaded.parameters())


def test_options_are_passed_on(folder):
    loaded = SCVAE.from_pretrained(str(folder), backend="eager", device="cpu")
    assert loaded.bottleneck.backend == "eager"


def test_files(folder, small_config):
    assert {path.name for path in folder.iterdir()} == {"README.md", "config.json", "model.safetensors"}
    assert json.loads((folder / "config.json").read_text())["n_atoms"] == small_config.n_atoms
    modes = {path.stat().st_mode for path in folder.iterdir()}
    assert len(modes) == 1


def test_saving_again_keeps_the_card(folder, small_model):
    (folder / "README.md").write_text("mine")
    torch.nn.init.zeros_(small_model.encoder.conv_in.weight)
    small_model.save_pretrained(folder)
    assert (folder / "README.md").read_text() == "mine"
    assert SCVAE.from_pretrained(folder).encoder.conv_in.weight.abs().max() == 0


def test_a_save_that_fails_leaves_the_old_files(folder, small_model, monkeypatch):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def fail(self, save_directory):
        (save_directory / "model.safetensors").write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(SCVAE, "_save_pretrained", fail)
    with pytest.raises(OSError, match="disk full"):
        small_model.save_pretrained(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_missing_files(folder, name):
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"SCVAE.from_pretrained: .*model has no {name}"):
        SCVAE.from_pretrained(folder)


@pytest.mark.parametrize("source", ["somewhere/that-is-not-here", "not a repository/at/all"])
def test_no_such_folder(source):
    with pytest.raises(FileNotFoundError, match=f"{source} is not a folder here"):
        SCVAE.from_pretrained(source, local_files_only=True)


@pytest.mark.parametrize("text", ["{", "[]", "{}"])
def test_damaged_configuration(folder, text):
    (folder / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"SCVAE.from_pretrained: .*config.json is no configuration: "):
        SCVAE.from_pretrained(folder)


def test_damaged_weights(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"SCVAE.from_pretrained: .*model.safetensors is damaged: "):
        SCVAE.from_pretrained(folder)


@pytest.mark.parametrize("change", [{"ch": 12}, {"attention": "eq"}, {"mid_attention": False}])
def test_weights_of_another_configuration(folder, change):
    config = folder / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | change))
    with pytest.raises(ValueError, match=r"model.safetensors doesn't fit .*config.json: "):
        SCVAE.from_pretrained(folder)


BASE_INSTALL = """
import sys
sys.modules["huggingface_hub"] = sys.modules["safetensors"] = None
import torch
from scvae_fast.models import SCVAE, SCVAEConfig
model = SCVAE(SCVAEConfig(n_features=16, n_atoms=24, n_iter=1, ch=4, ch_mult=(1,), attn_levels=()))
assert model(torch.zeros(1, 3, 4, 4)).x_hat.shape == (1, 3, 4, 4)
for method in (SCVAE.from_pretrained, model.save_pretrained, model.push_to_hub):
    try:
        method("folder")
    except ImportError as error:
        print(error)
"""


def test_a_base_install_names_the_extra(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", BASE_INSTALL], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == [
        "SCVAE.from_pretrained",
        "SCVAE.save_pretrained",
        "SCVAE.push_to_hub",
    ]
    assert all('pip install "scvae_fast[train]"' in line for line in lines)
    assert not list(tmp_path.iterdir())
