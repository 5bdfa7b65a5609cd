from collections.abc import Iterator

import pytest
import torch
from pictures import TINY, scene
from torch import Tensor

from scvae_fast.codes.tiling import reconstruct_tiled
from scvae_fast.data.stream import NamedPicture
from scvae_fast.errors import UsageError
from scvae_fast.evaluation.extremes import Extremes
from scvae_fast.evaluation.rebuilding import Rebuilt, rebuild
from scvae_fast.models import SCVAE
from scvae_fast.models.speed import SpeedSettings

# The first six and the last go through TINY as they are; the others have an odd side, or one over 16 pixels.
SIZES = [(16, 16)] * 5 + [(12, 8), (13, 8), (16, 18), (16, 16)]


@pytest.fixture(scope="module")
def model() -> SCVAE:
    torch.manual_seed(0)
    return SCVAE(TINY).eval()


@pytest.fixture
def pictures() -> list[NamedPicture]:
    return [NamedPicture(str(i), scene(*size, seed=i)) for i, size in enumerate(SIZES)]


def rebuilt_with(model: SCVAE, pictures: list[NamedPicture], **options: object) -> tuple[list[Rebuilt], Tensor]:
    codes: list[Tensor] = []
    batches = list(rebuild(model, pictures, on_codes=codes.append, **options))  # type: ignore[arg-type]
    return batches, torch.cat([each.reshape(-1, TINY.n_atoms) for each in codes])


def test_batches_are_the_pictures_one_by_one(model: SCVAE, pictures: list[NamedPicture]) -> None:
    together, codes = rebuilt_with(model, pictures, batch_size=3)
    single, codes_one_by_one = rebuilt_with(model, pictures, batch_size=1)
    assert [len(batch.names) for batch in together] == [3, 2, 1, 1, 1, 1]
    assert [name for batch in together for name in batch.names] == [picture.name for picture in pictures]
    by_name = {name: batch.x_hat[i] for batch in together for i, name in enumerate(batch.names)}
    for (name, picture), batch in zip(pictures, single, strict=True):
        assert torch.equal(batch.x[0], picture)
        # The convolutions of a batch may round otherwise; another picture would be off by far more.
        torch.testing.assert_close(by_name[name], batch.x_hat[0], atol=1e-4, rtol=0)
    torch.testing.assert_close(codes, codes_one_by_one, atol=1e-4, rtol=0)


def test_whole_or_in_tiles(model: SCVAE, pictures: list[NamedPicture]) -> None:
    batches, codes = rebuilt_with(model, pictures)
    assert [batch.tiled for batch in batches] == [False, False, True, True, False]
    with torch.no_grad():
        output = model(torch.stack([picture.picture for picture in pictures[:5]]))
    torch.testing.assert_close(batches[0].x_hat, output.x_hat.clamp(-1, 1))
    assert torch.equal(codes[: 5 * 64], output.codes.reshape(-1, TINY.n_atoms))
    for batch, (_, picture) in zip(batches[2:4], pictures[6:8], strict=True):
        assert torch.equal(batch.x_hat[0], reconstruct_tiled(model, picture).x_hat)
    assert len(codes) == sum(-(-height // 2) * -(-width // 2) for height, width in SIZES)


def test_pictures_are_read_as_they_are_needed(model: SCVAE) -> None:
    read = 0

    def stream() -> Iterator[NamedPicture]:
        nonlocal read
        for i in range(100):
            read += 1
            yield NamedPicture(str(i), scene(16, 16))

    next(rebuild(model, stream(), on_codes=lambda codes: None, batch_size=4))
    assert read <= 5


def test_a_precision_changes_rounding_alone(model: SCVAE, pictures: list[NamedPicture]) -> None:
    exact, _ = rebuilt_with(model, pictures)
    rounded, _ = rebuilt_with(model, pictures, speed=SpeedSettings(precision="bfloat16"))
    for a, b in zip(exact, rounded, strict=True):
        assert b.x_hat.dtype == torch.float32
        assert not torch.equal(a.x_hat, b.x_hat)
        assert (a.x_hat - b.x_hat).square().mean() < 0.01


@pytest.mark.parametrize("size", [(16, 16), (17, 20)])
def test_reconstructions_must_be_finite(size: tuple[int, int]) -> None:
    broken = SCVAE(TINY).eval()
    torch.nn.init.constant_(broken.decoder.conv_out.weight, float("nan"))
    with pytest.raises(UsageError, match="the reconstruction of one contains NaN"):
        rebuilt_with(broken, [NamedPicture("one", scene(*size))])


def test_extremes_are_those_of_sorting() -> None:
    psnr = torch.randn(23).tolist()
    extremes = Extremes(4)
    for first in range(0, 23, 5):
        part = psnr[first : first + 5]
        x = torch.tensor(part)[:, None, None, None].expand(-1, 3, 2, 2)
        extremes.update(Rebuilt([str(value) for value in part], x, -x, False), part)
    assert [shown.psnr for shown in extremes.best] == sorted(psnr)[:-5:-1]
    assert [shown.psnr for shown in extremes.worst] == sorted(psnr)[:4]
    for shown in extremes.best + extremes.worst:
        assert shown.name == str(shown.psnr)
        assert float(shown.x[0, 0, 0]) == -float(shown.x_hat[2, 1, 1]) == pytest.approx(shown.psnr)
        assert shown.x.untyped_storage().nbytes() == 3 * 2 * 2 * 4  # a copy, not a view of its batch
    assert Extremes(0).best == []
