import hashlib
from pathlib import Path

import pytest
import torch

from scvae_fast import _torchvision
from scvae_fast.metrics import weights
from scvae_fast.metrics.weights import PublishedWeights, UnavailableError, locate


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PublishedWeights:
    """A file that can be fetched, and an empty torch hub."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    source = tmp_path / "net-1234.pth"
    torch.save({"a": torch.ones(2)}, source)
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    return PublishedWeights("a network", source.as_uri(), digest[:8], ("net-also.pth",))


def test_names_and_addresses_are_those_of_the_libraries() -> None:
    _torchvision.make_importable()
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3
    from torchvision.models import AlexNet_Weights, VGG16_Weights

    assert weights.ALEXNET.url == AlexNet_Weights.IMAGENET1K_V1.url
    assert weights.VGG16.url == VGG16_Weights.IMAGENET1K_V1.url
    assert weights.INCEPTION.url == URL_INCEPTION_V3
    for each in (weights.ALEXNET, weights.VGG16, weights.INCEPTION):
        assert each.name.endswith(f"-{each.digest}.pth")


def test_the_given_folder_comes_before_the_hub(published: PublishedWeights, tmp_path: Path) -> None:
    hub = tmp_path / "home" / "hub" / "checkpoints"
    hub.mkdir(parents=True)
    (hub / published.name).write_bytes(b"in the hub")
    found = locate(published)
    assert found.path == hub / published.name
    assert found.sha256 == hashlib.sha256(b"in the hub").hexdigest()
    assert not found.published
    (tmp_path / "net-also.pth").write_bytes(b"here")
    assert locate(published, tmp_path / "nothing").path == hub / published.name
    assert locate(published, tmp_path).published  # net-1234.pth lies there: the name of the address comes first
    (tmp_path / published.name).unlink()
    assert locate(published, tmp_path).path == tmp_path / "net-also.pth"


def test_missing_weights_say_where_they_are_looked_for(published: PublishedWeights, tmp_path: Path) -> None:
    with pytest.raises(UnavailableError) as error:
        locate(published, tmp_path / "mine")
    message = str(error.value)
    for folder in (tmp_path / "mine", tmp_path / "home" / "hub" / "checkpoints"):
        for name in (published.name, "net-also.pth"):
            assert str(folder / name) in message
    assert published.url in message
    assert "give a folder that has it (weights)" in message
    assert "let it be downloaded (download)" in message
    assert not (tmp_path / "mine").exists()


@pytest.mark.parametrize("given", [True, False])
def test_download(published: PublishedWeights, tmp_path: Path, given: bool) -> None:
    folder = tmp_path / "mine" if given else None
    found = locate(published, folder, download=True)
    assert found.path.parent == (folder or tmp_path / "home" / "hub" / "checkpoints")
    assert found.published
    assert weights.load(found.path)["a"].tolist() == [1, 1]


def test_downloads_that_fail(published: PublishedWeights, tmp_path: Path) -> None:
    other = PublishedWeights("a network", published.url, "00000000")
    with pytest.raises(UnavailableError, match=r"can't be fetched from .*invalid hash value"):
        locate(other, tmp_path / "mine", download=True)
    gone = PublishedWeights("a network", (tmp_path / "gone.pth").as_uri(), "00000000")
    with pytest.raises(UnavailableError, match=r"can't be fetched from .*gone.pth"):
        locate(gone, tmp_path / "mine", download=True)
    assert not list((tmp_path / "mine").iterdir())


def test_files_that_are_not_weights(tmp_path: Path) -> None:
    (tmp_path / "text.pth").write_text("no weights")
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save({"code": Path}, tmp_path / "code.pth")
    for name, message in (
        ("text", "can't be read as weights"),
        ("list", "holds a list, not a state dict"),
        ("code", "can't be read as weights"),
        ("gone", "can't be read as weights"),
    ):
        with pytest.raises(UnavailableError, match=f"{name}.pth {message}"):
            weights.load(tmp_path / f"{name}.pth")
    with pytest.raises(UnavailableError, match="can't be read"):
        weights.inspect(tmp_path, "")
