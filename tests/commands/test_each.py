"""Every command with wrong values, missing inputs, unwritable outputs, and files with unusual names."""

import io
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
import yaml
from pictures import TINY, scene
from PIL import Image
from torch import nn

import scvae_fast.training  # noqa: F401  # Lightning keeps the stderr that it finds
from scvae_fast import cli
from scvae_fast.data.pictures import to_bytes
from scvae_fast.models import SCVAE

pytestmark = pytest.mark.slow

# No letter of a shell, of a pattern, of matplotlib's mathematics or of a URL means anything in the name of a file.
UNUSUAL = [
    os.fsdecode(b"caf\xe9 \xff"),
    "-x",
    "{a..b}[1]*?$(id) $x$ '\"",
    "a\nb",
    "pipe:cat x",
    "hf:a",
    "猫",
    "50%s {}",
]
COMMON = {
    "loss": {"code_weight": 6000.0},
    "optimiser": {"learning_rate": 1e-3},
    "network": {name: list(v) if isinstance(v, tuple) else v for name, v in TINY.to_dict().items()},
}
DATA = {"class_path": "PictureFolder", "init_args": {"resolution": 16, "batch_size": 4, "num_workers": 0, "root": ""}}
TRAINER = {
    "max_steps": 1,
    "accelerator": "cpu",
    "precision": "32-true",
    "limit_val_batches": 1,
    "log_every_n_steps": 1,
}
CONFIGS = {
    "train": {"model": {**COMMON, "start": "linear"}, "data": DATA, "trainer": TRAINER},
    "compare": {**COMMON, "data": DATA, "steps": 1, "precision": "32-true", "methods": ["sc-vae"]},
}


@dataclass(frozen=True)
class Things:
    """The inputs of commands: each attribute is a path, which a test may replace."""

    checkpoint: Path
    pictures: Path
    classes: Path
    masks: Path
    codes: Path
    config: Path
    official: Path  # a model that the authors' code could have made

    @property
    def files(self) -> list[str]:
        return (
            sorted(map(str, self.pictures.iterdir())) if self.pictures.is_dir() else [str(self.pictures / "0.png")] * 2
        )


Call = Callable[[Things, Path], list[str]]


def data(things: Things) -> list[str]:
    return ["--checkpoint", str(things.checkpoint), "--data", str(things.pictures)]


def keyed(name: str, things: Things, out: Path) -> list[str]:
    config = things.config / f"{name}.yaml"
    return [name, "--config", str(config), "--data.root", str(things.pictures), "--out", str(out)]


# Each with the least work.
CALLS: dict[str, Call] = {
    "encode": lambda t, out: ["encode", *data(t), "--out", str(out / "codes.parquet")],
    "decode": lambda t, out: ["decode", "--checkpoint", str(t.checkpoint), str(t.codes), "--out", str(out)],
    "evaluate": lambda t, out: ["evaluate", *data(t), "--metrics", "psnr", "--out", str(out)],
    "reconstruct": lambda t, out: [
        "reconstruct", "--checkpoint", str(t.checkpoint), "--out", str(out), "--", *t.files
    ],
    "edit interpolate": lambda t, out: [
        "edit", "interpolate", "--checkpoint", str(t.checkpoint), "--steps", "2", "--out", str(out), "--", *t.files[:2]
    ],
    "edit atoms": lambda t, out: [
        "edit", "atoms", "--checkpoint", str(t.checkpoint), "--top", "2", "--out", str(out), "--", t.files[0]
    ],
    "retrieve": lambda t, out: [
        "retrieve", "--checkpoint", str(t.checkpoint), "--data", str(t.classes), "--descriptors", "thumbnail",
        "--k", "1", "--out", str(out),
    ],
    "retrieve --query": lambda t, out: [
        "retrieve", *data(t), "--descriptors", "thumbnail", "--k", "1", "--out", str(out), "--query", t.files[-1]
    ],
    "probe": lambda t, out: [
        "probe", "--checkpoint", str(t.checkpoint), "--data", str(t.classes), "--descriptors", "thumbnail",
        "--repeats", "1", "--folds", "2", "--out", str(out),
    ],
    "cluster": lambda t, out: ["cluster", *data(t), "--clusters", "2", "--out", str(out)],
    "cluster --codes": lambda t, out: [
        "cluster", "--checkpoint", str(t.checkpoint), "--codes", str(t.codes), "--clusters", "2", "--out", str(out)
    ],
    "segment": lambda t, out: [
        "segment", "--checkpoint", str(t.checkpoint), "--data", str(t.masks), "--words", "2", "--out", str(out)
    ],
    "train": lambda t, out: keyed("train", t, out),
    "compare": lambda t, out: keyed("compare", t, out),
    "convert": lambda t, out: ["convert", str(t.official), str(out / "official.pt")],
    "demo": lambda t, out: ["demo", "--out", str(out)],
    "app": lambda t, out: ["app", "--checkpoint", str(t.checkpoint)],
}  # fmt: skip
# The input of each, by the names of `Things`; what has none here has none at all.
INPUTS = {name: ["checkpoint", "pictures"] for name in ("encode", "evaluate", "retrieve --query", "cluster")}
INPUTS |= {name: ["checkpoint", "classes"] for name in ("retrieve", "probe")}
INPUTS |= {name: ["checkpoint", "codes"] for name in ("decode", "cluster --codes")}
INPUTS |= {name: ["checkpoint", "pictures"] for name in ("edit interpolate", "edit atoms")}
INPUTS |= {"segment": ["checkpoint", "masks"], "convert": ["official"], "app": ["checkpoint"]}
INPUTS |= {name: ["config", "pictures"] for name in ("train", "compare")}
WRONG = {
    "encode": [["--batch-size", "0"], ["--resize", "many"], ["--device", "tpu"], ["--precision", "int8"]],
    "decode": [["--batch-size", "x"], ["--format", "eps"], ["--device", "tpu"]],
    "evaluate": [["--metrics", "beauty"], ["--device", "tpu"], ["--limit", "0"], ["--split", "test"], ["--data", ""]],
    "reconstruct": [["--device", "tpu"]],
    "edit interpolate": [["--steps", "1"], ["--device", "tpu"]],
    "edit atoms": [["--factor", "3"], ["--keep", "1", "--remove", "1"], ["--keep-top", "0"], ["--device", "tpu"]],
    "retrieve": [["--k", "0"], ["--descriptors", "beauty"], ["--descriptors", "codes:mean:7"], ["--seed", "-1"]],
    "retrieve --query": [["--k", "0"], ["--device", "tpu"]],
    "probe": [["--folds", "1"], ["--repeats", "0"], ["--descriptors", "beauty"], ["--device", "tpu"]],
    "cluster": [["--clusters", "0"], ["--clusters", "2,x"], ["--scale", "long"], ["--device", "tpu"]],
    "cluster --codes": [["--data", "photographs"], ["--resize", "8"], ["--split", "val"], ["--layout", "ffhq"]],
    "segment": [
        ["--classes", "256"],
        ["--features", "beauty"],
        ["--pool", "-1"],
        ["--shifts", "0"],
        ["--device", "tpu"],
    ],
    "train": [["--trainer.max_steps", "many"], ["--ema", "2"], ["--nothing", "3"], ["--data.resolution", "15"]],
    "compare": [
        ["--steps", "many"],
        ["--methods", "sc-vea"],
        ["--nothing", "3"],
        ["--data.resolution", "15"],
        ["--data.held_out", "0"],
    ],
    "convert": [["--beta", "0"], ["--n-iter", "0"], ["--attention", "some"], ["--preset", "pictures65"]],
    "demo": [["--minutes", "0"], ["--minutes", "nan"]],
    "app": [["--port", "0"], ["--max-megapixels", "-1"], ["--device", "tpu"]],
}


@pytest.fixture(scope="module")
def things(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Things:
    """Pictures, classes, masks, codes and configurations whose names and folders are unusual."""
    root = tmp_path_factory.mktemp("things") / UNUSUAL[2] / UNUSUAL[-1]
    for index, name in enumerate(UNUSUAL):
        write(root / "pictures" / f"{name}.png", index)
        for kind in UNUSUAL[:2]:
            write(root / "classes" / kind / f"{name}.png", index)
        write(root / "masks" / "images" / f"{name}.png", index)
        (root / "masks" / "masks").mkdir(exist_ok=True)
        mask = Image.fromarray((torch.arange(20).expand(16, -1) < 8 + index % 3).numpy())
        mask.save(root / "masks" / "masks" / f"{name}.png")
    for command, content in CONFIGS.items():
        (root / f"{command}.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    official = tmp_path_factory.mktemp("official")
    SCVAE(replace(TINY, compat="official", ch=32, mid_attention=True, norm_groups=32, norm_out=True)).save_pretrained(
        official
    )
    folders = (root / name for name in ("pictures", "classes", "masks", f"{UNUSUAL[0]}/-x.parquet"))
    found = Things(checkpoint, *folders, config=root, official=official)
    assert cli.main(["encode", *data(found), "--out", str(found.codes)]) == 0
    return found


def write(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(to_bytes(scene(16, 20, seed=seed))).save(path)


@pytest.fixture
def idle() -> Iterator[None]:
    """Makes networks raise if they compute anything."""

    def refuse(module: nn.Module, inputs: object) -> None:
        raise AssertionError(f"{type(module).__name__} was run")

    hook = nn.modules.module.register_module_forward_pre_hook(refuse)
    yield
    hook.remove()


def status_of(arguments: list[str]) -> int:
    try:
        return cli.main(arguments)
    except SystemExit as stop:
        return int(str(stop.code))


def check_refused(name: str, status: int, found: int, errors: str) -> None:
    """The expected status, and one line that begins with the command's name."""
    command = name.partition(" --")[0]
    assert found == status, errors
    *usage, last = errors.splitlines()
    assert last.startswith(f"scvae-fast {command}: "), errors
    assert not [line for line in usage if line.startswith(("Traceback", f"scvae-fast {command}: "))], errors


@pytest.mark.usefixtures("idle")
@pytest.mark.parametrize(("name", "wrong"), [(name, wrong) for name, each in WRONG.items() for wrong in each])
def test_a_wrong_value_is_refused_before_any_work(
    name: str, wrong: list[str], things: Things, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = CALLS[name](things, out)
    end = words.index("--") if "--" in words else len(words)
    words[end:end] = wrong
    check_refused(name, cli.WRONG, status_of(words), capsys.readouterr().err)
    assert not out.exists()


@pytest.mark.usefixtures("idle")
@pytest.mark.parametrize(("name", "field"), [(name, field) for name, fields in INPUTS.items() for field in fields])
def test_what_is_missing_is_named(
    name: str, field: str, things: Things, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = replace(things, **{field: tmp_path / "missing"})
    status = status_of(CALLS[name](missing, tmp_path / "out"))
    errors = capsys.readouterr().err
    check_refused(name, cli.WRONG if field == "config" else cli.FAILED, status, errors)
    assert str(tmp_path / "missing") in errors.splitlines()[-1]


@pytest.mark.usefixtures("idle")
@pytest.mark.parametrize("name", [name for name in CALLS if name != "app"])
def test_no_work_starts_if_the_output_can_not_be_written(
    name: str, things: Things, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    status = status_of(CALLS[name](things, tmp_path / "file" / "out"))
    errors = capsys.readouterr().err
    check_refused(name, cli.FAILED, status, errors)
    assert str(tmp_path / "file") in errors.splitlines()[-1]


@pytest.mark.usefixtures("idle")
@pytest.mark.parametrize(
    "name", ["evaluate", "cluster", "retrieve", "retrieve --query", "probe", "segment", "train", "compare"]
)
def test_results_do_not_become_data(name: str, things: Things, capsys: pytest.CaptureFixture[str]) -> None:
    kind = next((each for each in ("classes", "masks") if each in INPUTS[name]), "pictures")
    folder: Path = getattr(things, kind)
    before = sorted(folder.rglob("*"))
    assert cli.main(CALLS[name](things, folder / "inner" / "out")) == cli.FAILED
    assert f"lies in the data folder {folder}, so" in capsys.readouterr().err
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize("name", [name for name in CALLS if name not in ("app", "demo")])
def test_special_characters_in_names_have_no_effect(name: str, things: Things, tmp_path: Path) -> None:
    out = tmp_path / ("out" if name in CONFIGS else UNUSUAL[0])
    assert status_of(CALLS[name](things, out)) == 0
    written = [path for path in out.rglob("*") if path.is_file()]
    assert written
    if name in ("decode", "reconstruct"):
        assert len(written) == len(UNUSUAL)
    for path in written:
        if path.suffix in (".json", ".md", ".csv", ".yaml"):
            assert path.read_text(encoding="utf-8")


@pytest.mark.usefixtures("idle")
@pytest.mark.parametrize("name", [*CONFIGS, "evaluate"])
def test_folders_that_libraries_can_not_open(
    name: str, things: Things, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Folders of configurations, which are UTF-8, and of checkpoints."""
    folder = tmp_path / UNUSUAL[0]
    if name == "evaluate":
        shutil.copytree(things.checkpoint, folder)
        status = status_of(CALLS[name](replace(things, checkpoint=folder), tmp_path / "out"))
    else:
        status = status_of(CALLS[name](things, folder))
    errors = capsys.readouterr().err
    check_refused(name, cli.FAILED if name == "evaluate" else cli.WRONG, status, errors)
    assert "UTF-8" in errors.splitlines()[-1]
    assert name == "evaluate" or not folder.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="no limits of processes")
@pytest.mark.parametrize("size", [0, 2000])
@pytest.mark.parametrize("name", [name for name in CALLS if name not in ("app", "demo")])
def test_a_full_disk_is_one_line_and_leaves_nothing_half(
    name: str,
    size: int,
    things: Things,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import resource

    monkeypatch.setattr(logging, "raiseExceptions", False)  # of pytest's own files, which the limit is for as well

    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))  # a file can't become larger than that
    try:
        status = status_of(CALLS[name](things, tmp_path / "out"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    errors = capsys.readouterr().err
    if status or not size:  # what is small enough is written
        check_refused(name, cli.FAILED, status, errors)
    left = [path for path in tmp_path.rglob("*") if path.is_file() and "logs" not in path.parts]
    assert not [path for path in left if ".writing-" in str(path) or path.name == ".lock"]
    assert size or not left


def test_a_closed_output_pipe() -> None:
    program = "import sys; from scvae_fast import cli; sys.exit(cli.main(['doctor']))"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.close()
        errors = process.stderr.read() if process.stderr else b""
    assert (process.returncode, errors) == (cli.FAILED, b"")


# What a command that may take over five seconds says on a terminal, in this order.
TOLD = {
    "encode": [" pictures"],
    "decode": [" pictures"],
    "evaluate": ["evaluating", " pictures"],
    "edit interpolate": ["coding and decoding …"],
    "edit atoms": ["coding and decoding …"],
    "retrieve": [" pictures", "drawing the neighbours …"],
    "probe": [" pictures", "fitting 1 classifier to each of 1 descriptor …", " descriptors"],
    "cluster": [" pictures", "clustering the patches …", " numbers of clusters", "rating the clusters …", "drawing"],
    "segment": ["seed 0, codes …", " pictures"],
}


@pytest.mark.parametrize("name", TOLD)
def test_progress_bars_only_on_a_terminal(
    name: str, things: Things, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    assert status_of(CALLS[name](things, tmp_path / "silent")) == 0
    silent = capsys.readouterr().err
    assert silent == "" or name == "evaluate"  # which a log shows too, seldom
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert status_of(CALLS[name](things, tmp_path / "told")) == 0
    told, place = sys.stderr.getvalue(), 0  # type: ignore[attr-defined]
    for words in TOLD[name]:
        place = told.find(words, place)
        assert place >= 0, (words, told)
