import json
import os
import pickle
from pathlib import Path

import huggingface_hub
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


@pytest.mark.parametrize(("steps", "newer"), [(3, True), (5, False), (None, False)])
def test_a_state_that_has_come_further_than_the_model(
    steps: int | None, newer: bool, small_model: SCVAE, tmp_path: Path
) -> None:
    small_model.save_pretrained(tmp_path / "model", record=None if steps is None else {"steps": steps})
    old = small_model.fingerprint()
    torch.nn.init.zeros_(small_model.encoder.conv_in.weight)
    weights = {f"model.{name}": tensor for name, tensor in small_model.state_dict().items()}
    state = {"network": small_model.config.to_dict(), "state_dict": weights, "global_step": 5}
    torch.save(state, tmp_path / "last.ckpt")
    assert load_model(tmp_path).fingerprint() == (small_model.fingerprint() if newer else old)


def test_weights_of_a_compiled_model(small_model: SCVAE, pictures: torch.Tensor, tmp_path: Path) -> None:
    """In a folder, and in a training state."""
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
    with pytest.raises(UsageError, match=r"can't be loaded: .*weights must not appear twice"):
        load_model(tmp_path / "folder")


def test_what_can_not_be_loaded(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"the checkpoint .* can't be loaded: there is no model or training run"):
        load_model(tmp_path)
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(UsageError, match=r"the checkpoint .* can't be loaded: .*has no config.json"):
        load_model(tmp_path)
    with pytest.raises(UsageError, match=r"the checkpoint not a name/at/all can't be loaded: no such file or folder$"):
        load_model("not a name/at/all")


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the hub is asked for."""
    names: list[str] = []

    def download(repository: str, name: str, **options: object) -> str:
        names.append(repository)
        raise OSError("offline")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.chdir(tmp_path)
    return names


@pytest.mark.parametrize("name", ["out/trian", "./out/train", "last.ckpt", "~/model", "nothing", "a/b/c"])
def test_a_path_is_not_asked_of_the_hub(name: str, asked: list[str], small_model: SCVAE) -> None:
    with pytest.raises(UsageError, match=f"the checkpoint {name} can't be loaded: no such file or folder"):
        load_model(name)
    Path("out").mkdir()
    if name != "nothing":
        with pytest.raises(FileNotFoundError, match="is not a folder here"):
            SCVAE.from_pretrained(name)
    assert not asked


def test_the_hub_is_asked_by_its_name(asked: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(
        UsageError, match=r"user/name can't be loaded: no such file or folder; a name on the hub is hf:us"
    ):
        load_model("user/name")
    assert not asked
    with pytest.raises(UsageError, match=r"can't be loaded: .*offline"):
        load_model("hf:user/name")
    with pytest.raises(FileNotFoundError, match="offline"):
        SCVAE.from_pretrained("user/name")
    assert asked == ["user/name"] * 2
    assert capsys.readouterr().err == "looking up user/name on the Hugging Face Hub\n" * 2


def test_the_error_names_the_right_folder(small_model: SCVAE, tmp_path: Path) -> None:
    small_model.save_pretrained(tmp_path / "train" / "model")
    for given, meant in (
        ("trian", "train"),
        ("train/model/model.safetensors", "train/model"),
        ("train/model/config.json", "train/model"),
        (".", "train"),
    ):
        with pytest.raises(UsageError) as error:
            load_model(tmp_path / given)
        assert str(error.value).endswith(f"; did you mean {tmp_path / meant}?"), given


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_iter": 10**12}, "n_iter of 1,000,000,000,000 is too large.*SCVAE_FAST_MAX_ITERATIONS raises that"),
        ({"resolution": 10**6}, "resolution: 1000000 x 1000000 = .* pixels are too many"),
        ({"num_res_blocks": 10**9}, "num_res_blocks of 1,000,000,000 needs more than"),
        ({"ch": 10**6}, "must be"),
        ({"n_features": 10**6, "n_atoms": 10**6}, "must be"),
    ],
)
def test_a_configuration_too_large_for_memory(
    change: dict[str, int], message: str, small_model: SCVAE, tmp_path: Path
) -> None:
    small_model.save_pretrained(tmp_path / "model")
    network = small_model.config.to_dict() | change
    (tmp_path / "model" / "config.json").write_text(json.dumps(network))
    weights = {f"model.{name}": tensor for name, tensor in small_model.state_dict().items()}
    torch.save({"network": network, "state_dict": weights}, tmp_path / "last.ckpt")
    for checkpoint in (tmp_path / "model", tmp_path / "last.ckpt"):
        with pytest.raises(UsageError, match=f"(?s)can't be loaded: .*{message}"):
            load_model(checkpoint)


def test_code_in_the_state_of_a_training_is_refused(tmp_path: Path) -> None:
    """By `--checkpoint`, and by Lightning, which loads the state to resume."""
    from scvae_fast.training.callbacks import AtomicCheckpointIO

    class Code:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "ran"),)

    torch.save({"network": {}, "state_dict": {}, "callbacks": Code()}, tmp_path / "last.ckpt")
    with pytest.raises(UsageError, match=r"last\.ckpt is not a training state"):
        load_model(tmp_path)
    with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
        AtomicCheckpointIO().load_checkpoint(tmp_path / "last.ckpt")
    assert not (tmp_path / "ran").exists()
