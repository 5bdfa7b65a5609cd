import gc
import weakref
from collections.abc import Iterator

import pytest
import torch
from pictures import TINY, scene
from torch import Tensor

from scvae_fast.codes.coding import decode_pictures, encode_pictures
from scvae_fast.codes.tiling import encode_tiled, reconstruct_tiled
from scvae_fast.data.stream import NamedPicture
from scvae_fast.errors import UsageError
from scvae_fast.models import SCVAE
from scvae_fast.models.speed import SpeedSettings

SIZES = [(16, 16), (16, 16), (16, 16), (8, 12), (16, 16), (20, 30), (20, 30), (1, 1), (15, 16)]


@pytest.fixture(scope="module")
def model() -> SCVAE:
    torch.manual_seed(0)
    return SCVAE(TINY).eval()


def named(sizes: list[tuple[int, int]]) -> list[NamedPicture]:
    return [NamedPicture(str(i), scene(*size, seed=i)) for i, size in enumerate(sizes)]


@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_pictures_come_back_in_their_order(batch_size: int, model: SCVAE) -> None:
    originals = named(SIZES)
    coded = list(encode_pictures(model, originals, batch_size=batch_size))
    assert [(each.name, each.size) for each in coded] == [(str(i), size) for i, size in enumerate(SIZES)]
    rebuilt = list(decode_pictures(model, iter(coded), batch_size=batch_size))
    assert [each.name for each in rebuilt] == [each.name for each in originals]
    for (_, picture), each, (_, x_hat) in zip(originals, coded, rebuilt, strict=True):
        expected = reconstruct_tiled(model, picture)
        # Convolutions round differently in batches of different sizes.
        torch.testing.assert_close(each.codes.dense(), encode_tiled(model, picture).dense(), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(x_hat, expected.x_hat, atol=1e-4, rtol=1e-4)
        assert x_hat.abs().max() <= 1


def test_tile_by_tile_and_one_by_one_nothing_is_rounded_differently(model: SCVAE) -> None:
    originals = named([(20, 30), (16, 16), (33, 18)])
    rebuilt = decode_pictures(model, encode_pictures(model, originals, batch_size=1), batch_size=1)
    for (_, picture), (_, x_hat) in zip(originals, rebuilt, strict=True):
        assert torch.equal(x_hat, reconstruct_tiled(model, picture).x_hat)


def test_memory_holds_one_batch(model: SCVAE) -> None:
    alive: weakref.WeakSet[Tensor] = weakref.WeakSet()
    peak = 0

    def stream() -> Iterator[NamedPicture]:
        nonlocal peak
        for i in range(60):
            picture = scene(4, 4, seed=i)
            alive.add(picture)
            peak = max(peak, len(alive))
            yield NamedPicture(str(i), picture)
            del picture

    gc.disable()
    try:
        count = sum(1 for _ in decode_pictures(model, encode_pictures(model, stream(), batch_size=4), batch_size=3))
    finally:
        gc.enable()
    assert count == 60
    assert peak <= 2 * 4  # the batch that is coded, and the next one


def test_precision(model: SCVAE) -> None:
    speed = SpeedSettings(precision="bfloat16")
    originals = named([(16, 16), (20, 30)])
    coded = list(encode_pictures(model, originals, speed=speed))
    for (_, picture), (_, x_hat) in zip(originals, decode_pictures(model, coded, speed=speed), strict=True):
        exact = reconstruct_tiled(model, picture).x_hat
        assert x_hat.dtype == torch.float32
        assert not torch.equal(x_hat, exact)
        assert (x_hat - exact).norm() < 0.1 * exact.norm()


def test_broken_weights() -> None:
    model = SCVAE(TINY).eval()
    torch.nn.init.constant_(model.encoder.conv_out.bias, float("nan"))
    for size in ((16, 16), (20, 30)):
        with pytest.raises(UsageError, match="the codes of 0 contain NaN or infinity"):
            list(encode_pictures(model, named([size])))


def test_codes_of_another_size(model: SCVAE) -> None:
    (coded,) = encode_pictures(model, named([(16, 16)]))
    with pytest.raises(ValueError, match=r"codes of '0', 16 x 14 pixels, must be \(8, 7, 24\), got \(8, 8, 24\)"):
        list(decode_pictures(model, [coded._replace(size=(16, 14))]))
