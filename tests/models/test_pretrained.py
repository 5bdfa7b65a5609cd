"""`save_pretrained` and `from_pretrained`: what they write and refuse, and an install without them."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors import safe_open
from safetensors.torch import load_file

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


def _holds(folder, model):
    weights = load_file(folder / "model.safetensors")
    return all(torch.equal(weights[name], tensor) for name, tensor in model.state_dict().items())


def test_files_mixed_by_an_interruption_are_refused(folder, small_config, monkeypatch):
    """After any number of moves: the old model, the new one, or an error."""
    other = SCVAE(dataclasses.replace(small_config, n_iter=9)).eval()
    fingerprints = {SCVAE.from_pretrained(folder).fingerprint(), other.fingerprint()}
    replace, found = os.replace, []
    for moves in range(4):
        left = moves

        def move(old, new):
            nonlocal left
            if os.path.dirname(new) == str(folder):
                if not left:
                    raise KeyboardInterrupt
                left -= 1
            replace(old, new)

        monkeypatch.setattr(os, "replace", move)
        try:
            other.save_pretrained(folder)
            found.append("whole")
        except KeyboardInterrupt:
            if (json.loads((folder / "config.json").read_text())["n_iter"] == 9) != _holds(folder, other):
                with pytest.raises(ValueError, match=r"model.safetensors was not saved with"):
                    SCVAE.from_pretrained(folder)
                found.append("refused")
            else:
                assert SCVAE.from_pretrained(folder).fingerprint() in fingerprints
    assert "refused" in found
    assert SCVAE.from_pretrained(folder).fingerprint() == other.fingerprint()


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
    with pytest.raises(ValueError, match=r"SCVAE.from_pretrained: .*config.json is not a configuration: "):
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


@pytest.mark.processes
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


RECORD = {"steps": 7, "settings": {"seed": 3}}


def test_the_record_of_the_training_stays_with_the_model(small_model, tmp_path):
    small_model.save_pretrained(tmp_path / "model", record=RECORD)
    assert {path.name for path in (tmp_path / "model").iterdir()} == {
        "README.md",
        "config.json",
        "model.safetensors",
        "training.json",
    }
    assert "| steps | 7 |" in (tmp_path / "model" / "README.md").read_text()
    loaded = SCVAE.from_pretrained(tmp_path / "model")
    assert loaded.record == {**RECORD, "weights": small_model.fingerprint()}
    loaded.save_pretrained(tmp_path / "copy")
    assert "| steps | 7 |" in (tmp_path / "copy" / "README.md").read_text()
    assert SCVAE.from_pretrained(tmp_path / "copy").record == loaded.record


def test_a_record_of_other_weights_is_not_kept(small_model, tmp_path):
    small_model.save_pretrained(tmp_path, record=RECORD)
    loaded = SCVAE.from_pretrained(tmp_path)
    torch.nn.init.zeros_(loaded.encoder.conv_in.weight)
    (tmp_path / "README.md").unlink()
    loaded.save_pretrained(tmp_path)
    assert not (tmp_path / "training.json").exists()
    assert "No record of the training" in (tmp_path / "README.md").read_text()
    loaded.save_pretrained(tmp_path, record={"steps": 8})
    assert SCVAE.from_pretrained(tmp_path).record["steps"] == 8


def test_a_damaged_record(small_model, tmp_path):
    small_model.save_pretrained(tmp_path, record=RECORD)
    for text in ("{", "3"):
        (tmp_path / "training.json").write_text(text)
        with pytest.raises(ValueError, match=r"training.json is not a training record"):
            SCVAE.from_pretrained(tmp_path)


def test_fingerprint(small_model, small_config, tmp_path):
    before = small_model.fingerprint()
    assert before == small_model.eval().to(memory_format=torch.channels_last).fingerprint()
    small_model.save_pretrained(tmp_path)
    assert SCVAE.from_pretrained(tmp_path).fingerprint() == before
    others = {before}
    other = SCVAE(dataclasses.replace(small_config, n_iter=4))
    other.load_state_dict(small_model.state_dict())
    others.add(other.fingerprint())
    with torch.no_grad():
        small_model.bottleneck.c.add_(1e-6)
    others.add(small_model.fingerprint())
    others.add(small_model.bfloat16().fingerprint())
    assert len(others) == 4


class Hub:
    """A hub with one repository, user/name."""

    def __init__(self, folder, monkeypatch):
        self.folder, self.created, self.commits = folder, [], []

        def create_repo(api, repo_id, **options):
            self.created.append((repo_id, api.token, options))
            return huggingface_hub.RepoUrl(f"https://huggingface.co/{repo_id}")

        def upload_folder(api, *, folder_path, **options):
            shutil.copytree(folder_path, folder, dirs_exist_ok=True)
            self.commits.append(options)
            return "https://huggingface.co/user/name/commit/1"

        def download(repository, name, **options):
            assert repository == "user/name"
            if not (folder / name).exists():
                raise LocalEntryNotFoundError(f"no {name}")
            return str(folder / name)

        monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", create_repo)
        monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", upload_folder)
        monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    return Hub(tmp_path / "hub", monkeypatch)


def tensors_of(path):
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118  # it is no dictionary


def test_there_and_back_over_the_hub(hub, small_model, pictures):
    small_model.save_pretrained(hub.folder.parent / "seen", record=RECORD, repo_id="user/name")
    address = small_model.push_to_hub("user/name", record=RECORD, private=True, token="hf_x", commit_message="first")
    assert address == "https://huggingface.co/user/name/commit/1"
    assert hub.created == [("user/name", "hf_x", {"private": True, "exist_ok": True})]
    (commit,) = hub.commits
    assert (commit["repo_id"], commit["commit_message"]) == ("user/name", "first")
    files = {"README.md", "config.json", "model.safetensors", "training.json"}
    assert {path.name for path in hub.folder.iterdir()} == files
    for name in files - {"model.safetensors"}:
        assert (hub.folder / name).read_bytes() == (hub.folder.parent / "seen" / name).read_bytes(), "what was seen"
    (uploaded, metadata), (seen, its_metadata) = (
        tensors_of(folder / "model.safetensors") for folder in (hub.folder, hub.folder.parent / "seen")
    )
    assert metadata == its_metadata  # whose order in the file is arbitrary
    assert uploaded.keys() == seen.keys()
    assert all(torch.equal(uploaded[name], seen[name]) for name in seen)
    card = (hub.folder / "README.md").read_text()
    assert 'SCVAE.from_pretrained("user/name")' in card
    assert "| steps | 7 |" in card
    loaded = SCVAE.from_pretrained("user/name")
    assert torch.equal(loaded(pictures).x_hat, small_model.eval()(pictures).x_hat)
    assert loaded.record["steps"] == 7


def test_a_model_from_a_folder_goes_to_the_hub_with_its_record(hub, small_model, tmp_path):
    small_model.save_pretrained(tmp_path / "model", record=RECORD)
    SCVAE.from_pretrained(tmp_path / "model").push_to_hub("user/name")
    assert "| steps | 7 |" in (hub.folder / "README.md").read_text()
    assert json.loads((hub.folder / "training.json").read_text())["steps"] == 7


def test_saving_and_pushing_at_once(hub, small_model, tmp_path):
    commit = small_model.save_pretrained(tmp_path / "model", record=RECORD, repo_id="user/name", push_to_hub=True)
    assert commit == "https://huggingface.co/user/name/commit/1"
    for name in ("config.json", "training.json", "README.md"):
        assert (hub.folder / name).read_text() == (tmp_path / "model" / name).read_text()


def test_a_repository_without_a_record(hub, small_model):
    small_model.push_to_hub("user/name")
    assert SCVAE.from_pretrained("user/name").record is None
    (hub.folder / "config.json").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"user/name is not a folder here, and config.json could not be fetched"
    ):
        SCVAE.from_pretrained("user/name")


def test_nothing_private_is_written_beside_the_weights(small_model, tmp_path):
    init = {"train": "pipe:curl -H 'Authorization: Bearer S3CRET' https://somewhere.example/a.tar"}
    init["val"] = ["/home/alice/private/a.tar", "../alice/b.tar", "https://alice:S3CRET@host/c.tar?sig=S3CRET"]
    settings = {
        "data": {"init_args": init},
        "trainer": {"logger": {"init_args": {"api_key": "S3CRET", "wandb_token": "S3CRET", "name": "run"}}},
        "out": "/home/alice/runs/x",
        "note": "read from /home/alice/notes.txt, as ever",
    }
    record = {"data": settings["data"], "settings": settings, "datasets": ["user/faces"]}
    small_model.save_pretrained(tmp_path, record=record)
    for name in ("README.md", "training.json"):
        text = (tmp_path / name).read_text()
        assert not [word for word in ("S3CRET", "alice", "curl", "somewhere") if word in text]
        assert all(word in text for word in ("a.tar", "b.tar", "c.tar", "user/faces", "read from notes.txt, as ever"))
