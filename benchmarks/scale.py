"""`python -m benchmarks.scale`: the figures of docs/scale.md, for encoding crops of the embedded photographs.

Processes of one thread encode parts of the same listing at once, as with `scvae-fast encode --part`. They are timed
from the moment when all have coded a first batch until the last one ends. Then each stage runs alone on the same
pictures.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

BATCH_SIZE, QUALITY = 16, 90


def write_crops(folder: Path, count: int, side: int) -> int:
    """Write squares cut from the photographs, cycling through them, as JPEG; returns the total bytes."""
    from PIL import Image

    from scvae_fast.data import held_out_photographs, training_photographs
    from scvae_fast.data.pictures import to_bytes

    photographs = [each.picture for each in [*training_photographs(), *held_out_photographs()]]
    squares = [
        picture[:, top : top + side, left : left + side]
        for picture in photographs
        for top in range(0, picture.shape[1] - side + 1, side)
        for left in range(0, picture.shape[2] - side + 1, side)
    ]
    total = 0
    for number in range(count):
        path = folder / f"{number // 1000:05}" / f"{number:08}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(to_bytes(squares[number % len(squares)])).save(path, quality=QUALITY)
        total += path.stat().st_size
    return total


def encode_part(checkpoint: str, data: Path, out: Path, part: str) -> None:
    """One process: reports that it is ready, waits for a line, encodes its part, and reports the added memory."""
    from benchmarks.memory import resident_at_peak
    from scvae_fast._shares import Share
    from scvae_fast.codes.coding import encode_stream
    from scvae_fast.codes.storage import write_codes
    from scvae_fast.data import PictureStream
    from scvae_fast.models.loading import load_model

    torch.set_num_threads(1)
    model = load_model(checkpoint)
    stream = PictureStream(data, threads=1).part(Share.parse(part), BATCH_SIZE)
    list(encode_stream(model, PictureStream(data, threads=1, limit=BATCH_SIZE)))  # one-time set-up
    print("ready", flush=True)
    sys.stdin.readline()
    path = out / f"{part.replace('/', '-of-')}.parquet"
    peak = resident_at_peak(lambda: write_codes(path, model, encode_stream(model, stream)))
    print(json.dumps({"peak": peak}), flush=True)


def run_processes(checkpoint: str, data: Path, processes: int) -> dict[str, Any]:
    """Seconds until all parts are written, bytes of the files, and the largest memory added to a process."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "benchmarks.scale", "--checkpoint", checkpoint, "--data", str(data)]
        started = [
            subprocess.Popen(
                [*command, "--encode", f"{part}/{processes}", folder],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
            for part in range(1, processes + 1)
        ]
        for each in started:
            assert each.stdout is not None
            if each.stdout.readline() != "ready\n":
                raise RuntimeError("a process has ended before it was ready; see its output for the reason")
        begin = time.perf_counter()
        for each in started:
            assert each.stdin is not None
            each.stdin.write("go\n")
            each.stdin.flush()
        peaks = [json.loads(each.communicate()[0])["peak"] for each in started]
        seconds = time.perf_counter() - begin
        n_bytes = sum(path.stat().st_size for path in Path(folder).iterdir())
    return {"seconds": seconds, "bytes": n_bytes, "peak": max(peaks)}


def stages(checkpoint: str, data: Path, count: int) -> dict[str, float]:
    """Milliseconds per picture of each stage alone, in one thread: medians of three rounds of all stages."""
    from scvae_fast.codes.sparse import CodedPicture, SparseCodes
    from scvae_fast.codes.storage import write_codes
    from scvae_fast.data import PictureStream
    from scvae_fast.models.loading import load_model

    torch.set_num_threads(1)
    model = load_model(checkpoint)
    pictures = list(PictureStream(data, threads=1, limit=count))
    batches = torch.stack([each.picture for each in pictures]).split(BATCH_SIZE)
    with torch.no_grad():
        found = [model.encode(batch) for batch in batches]
    dense = [codes for each in found for codes in each.codes]
    coded = [CodedPicture(each.name, each.size, SparseCodes.of(z)) for each, z in zip(pictures, dense, strict=True)]
    each_stage: dict[str, Callable[[Path], Iterable[Any]]] = {
        "reading and decoding JPEG": lambda _: PictureStream(data, threads=1, limit=count),
        "convolutions of the encoder": lambda _: (model.encoder(batch) for batch in batches),
        "LISTA": lambda _: (model.bottleneck(each.latents.permute(0, 2, 3, 1)) for each in found),
        "removing zeros": lambda _: map(SparseCodes.of, dense),
        "Parquet": lambda folder: [write_codes(folder / "codes.parquet", model, coded)],
    }
    taken: dict[str, list[float]] = {name: [] for name in each_stage}
    with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        for _ in range(3):
            for name, run in each_stage.items():
                taken[name].append(_timed(run, Path(folder)))
    return {name: 1000 * statistics.median(seconds) / len(pictures) for name, seconds in taken.items()}


def _timed(run: Callable[[Path], Iterable[Any]], folder: Path) -> float:
    begin = time.perf_counter()
    for _ in run(folder):
        pass
    return time.perf_counter() - begin


def names(count: int) -> dict[str, float]:
    """Bytes per name of a listing, compared with Python strings, and the seconds to build the listing's array."""
    from scvae_fast.data.files import Names

    def each() -> Iterator[bytes]:
        return (b"n%08d/n%08d_%d.JPEG" % (number // 1300, number // 1300, number) for number in range(count))

    begin = time.perf_counter()
    listed = Names(each())
    seconds = time.perf_counter() - begin
    few = [os.fsdecode(name) for _, name in zip(range(10_000), each(), strict=False)]
    strings = sum(map(sys.getsizeof, few)) / len(few) + 8  # and the list's pointer
    return {"bytes": listed.n_bytes / count, "of strings": strings, "seconds": seconds}


def listing(count: int) -> dict[str, float]:
    """Largest bytes per name that listing a folder adds to a process's memory, and the seconds for it."""
    from benchmarks.memory import resident_at_peak
    from scvae_fast.data.files import list_folder

    with tempfile.TemporaryDirectory() as folder:
        for number in range(count):
            path = Path(folder, f"n{number // 1300:08}", f"n{number // 1300:08}_{number}.JPEG")
            if number % 1300 == 0:
                path.parent.mkdir()
            path.touch()
        begin = time.perf_counter()
        peak = resident_at_peak(lambda: list_folder(folder))
        return {"peak": peak / count, "seconds": time.perf_counter() - begin}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("--checkpoint", help="trained model, such as out/pictures64")
    parser.add_argument("--crops", type=int, default=20_000, help="default: %(default)s")
    parser.add_argument("--side", type=int, default=64, help="side of a crop in pixels; default: %(default)s")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4], help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=1, help="rounds over all numbers of processes")
    parser.add_argument("--names", type=int, metavar="N", help="measure a listing of N names instead")
    parser.add_argument("--files", type=int, metavar="N", help="list a folder of N files instead")
    parser.add_argument("--data", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--encode", nargs=2, metavar=("PART", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.names is not None:
        found = names(options.names)
        print(
            f"{options.names:,} names: {found['bytes']:.1f} bytes each ({found['of strings']:.0f} as Python's "
            f"strings), {found['seconds']:.1f} s"
        )
        return 0
    if options.files is not None:
        found = listing(options.files)
        print(f"{options.files:,} files: at most {found['peak']:.0f} bytes each while listed, {found['seconds']:.1f} s")
        return 0
    if options.checkpoint is None:
        parser.error("--checkpoint is missing")
    if options.encode is not None:
        encode_part(options.checkpoint, options.data, Path(options.encode[1]), options.encode[0])
        return 0
    with tempfile.TemporaryDirectory() as folder:
        n_bytes = write_crops(Path(folder), options.crops, options.side)
        print(
            f"{options.crops:,} crops of {options.side} x {options.side} pixels, JPEG of quality {QUALITY}: "
            f"{n_bytes / options.crops:,.0f} bytes each; {os.cpu_count()} processors\n"
        )
        _print_processes(options.checkpoint, Path(folder), options)
        for name, milliseconds in stages(options.checkpoint, Path(folder), min(options.crops, 512)).items():
            print(f"{name}: {milliseconds:.2f} ms per picture")
    return 0


def _print_processes(checkpoint: str, data: Path, options: argparse.Namespace) -> None:
    runs: dict[int, list[dict[str, Any]]] = {count: [] for count in options.processes}
    for _ in range(options.rounds):
        for count in options.processes:
            runs[count].append(run_processes(checkpoint, data, count))
    print("| processes | pictures per second | ratio | MiB added per process | bytes per picture |")
    print("|---:|---:|---:|---:|---:|")
    alone = [each["seconds"] for each in runs[options.processes[0]]]
    for count, found in runs.items():
        seconds = statistics.median(each["seconds"] for each in found)
        ratio = statistics.median(one / each["seconds"] for one, each in zip(alone, found, strict=True))
        peak = max(each["peak"] for each in found) / 2**20
        print(
            f"| {count} | {options.crops / seconds:.1f} | {ratio:.2f} | {peak:.0f} | "
            f"{found[0]['bytes'] / options.crops:,.0f} |"
        )
    print()


if __name__ == "__main__":
    sys.exit(main())
