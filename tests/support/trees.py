"""Data sets in miniature: trees of each layout, of small crops of the embedded photographs."""

import io
import tarfile
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

from PIL import Image

from scvae_fast.data import training_photographs
from scvae_fast.data.pictures import to_bytes


def flat(lists: Iterable[Iterable[int]]) -> list[int]:
    return list(chain.from_iterable(lists))


def crops(width: int = 40, height: int = 40) -> Iterator[Image.Image]:
    """Any number of crops, all different."""
    photographs = training_photographs()
    for index in range(1_000_000):
        picture = photographs[index % len(photographs)].picture
        top, left = 7 * index % (picture.shape[1] - height), 11 * index % (picture.shape[2] - width)
        yield Image.fromarray(to_bytes(picture[:, top : top + height, left : left + width]))


def write_pictures(root: Path, names: Iterable[str], width: int = 40, height: int = 40) -> Path:
    for name, picture in zip(names, crops(width, height), strict=False):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path)
    return root


def write_ffhq(root: Path, numbers: Iterable[int]) -> Path:
    """FFHQ in folders of a thousand."""
    return write_pictures(root, [f"{number // 1000 * 1000:05}/{number:05}.png" for number in numbers])


def write_imagenet(root: Path, training: int = 3, validation: int = 2) -> Path:
    """Two classes with this many pictures each."""
    counts = {"train": training, "val": validation}
    names = [f"{split}/{kind}/{i}.JPEG" for split in counts for kind in ("n02", "n01") for i in range(counts[split])]
    return write_pictures(root, names, width=50)


def write_shard(path: Path, first: int, count: int, broken: Iterable[int] = ()) -> Path:
    """A tar file of samples first … first + count − 1: a picture, and its class as text; some pictures are damaged."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for number, picture in zip(range(first + count), crops(), strict=False):
            if number < first:
                continue
            content = io.BytesIO()
            picture.save(content, "png")
            data = content.getvalue()[:60] if number in set(broken) else content.getvalue()
            for suffix, part in (("cls", b"7"), ("png", data)):
                member = tarfile.TarInfo(f"{number:04}.{suffix}")
                member.size = len(part)
                tar.addfile(member, io.BytesIO(part))
    return path
