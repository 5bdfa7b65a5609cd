"""`scvae-fast compare` on tiny networks: two methods, killed in between, and with wrong arguments."""

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from networks import save_backbone
from pictures import TINY

from scvae_fast._files import locked
from scvae_fast.commands.compare import run
from scvae_fast.comparison import training
from scvae_fast.comparison.page import BEGIN, END, stored, with_table
from scvae_fast.errors import ArgumentError, UsageError
from scvae_fast.training.callbacks import History

pytestmark = pytest.mark.slow

CONFIG = {
    "steps": 6,
    "checkpoint_minutes": 0.0,  # after every step
    "precision": "32-true",
    "methods": ["vqgan", "sc-vae"],
    "network": {name: list(v) if isinstance(v, tuple) else v for name, v in TINY.to_dict().items()},
    "loss": {"code_weight": 6000.0},
    "optimiser": {"learning_rate": 1e-4},
    "bottlenecks": {"vqgan": {"codebook_size": 8}, "rq_vae": {"codebook_size": 8, "codes": 2}},
    "data": {"class_path": "Photographs", "init_args": {"resolution": 16, "samples": 60, "batch_size": 4}},
}


class InterruptedTrainingError(RuntimeError):
    pass


@pytest.fixture(autouse=True)
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No weights are available, and there are few pictures to rate."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    from scvae_fast.training import data

    grid = data._grid
    monkeypatch.setattr(data, "_grid", lambda picture, side: grid(picture, side)[:5])
    monkeypatch.setattr("scvae_fast.comparison.run._ROUNDS", 2)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(CONFIG), encoding="utf-8")
    return path


def compare(config: Path, out: Path, *options: str) -> dict[str, Any]:
    assert run(["--config", str(config), "--out", str(out), *options]) == 0
    return dict(json.loads((out / "comparison.json").read_text(encoding="utf-8")))


def steady(content: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows without the values that differ from run to run."""
    return [{k: v for k, v in row.items() if k not in ("seconds", "seconds_a_step")} for row in content["rows"]]


def test_two_methods_killed_and_resumed_give_the_same_table(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = compare(config, tmp_path / "whole")
    assert [row["method"] for row in whole["rows"]] == ["vqgan", "sc-vae"]

    count = 0
    end = History.on_train_batch_end

    def interrupt(self: History, *args: Any) -> None:
        nonlocal count
        count += 1
        if count in (4, 9):  # in the first method; after its resumption from step 3, in the second
            raise InterruptedTrainingError
        end(self, *args)

    monkeypatch.setattr(History, "on_train_batch_end", interrupt)
    out, started = tmp_path / "killed", []
    train_method = training.train_method
    monkeypatch.setattr(
        "scvae_fast.comparison.run.train_method", lambda name, *rest: started.append(name) or train_method(name, *rest)
    )
    for options in ((), ("--resume",)):
        with pytest.raises(InterruptedTrainingError):
            run(["--config", str(config), "--out", str(out), *options])
    resumed = compare(config, out, "--resume")
    assert started == ["vqgan", "vqgan", "sc-vae", "sc-vae"]
    assert steady(resumed) == steady(whole)
    assert {path.name for path in (out / "figures").iterdir()} == {
        "reconstructions.png",
        "quality.png",
        "collapse.png",
        "training.png",
    }

    before = (out / "timing.json").read_bytes()
    again = compare(config, out, "--again", "timing")
    assert (out / "timing.json").read_bytes() != before
    assert steady(again) == steady(whole)
    added = compare(config, out, "--resume", "--methods", "rq-vae")
    assert [row["method"] for row in added["rows"]] == ["vqgan", "rq-vae", "sc-vae"]
    assert all(row["seconds_a_step"] > 0 for row in added["rows"])


def test_parts_are_merged_by_the_one_that_comes_last(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, short = tmp_path / "out", ("--steps", "2")
    arguments = ["--config", str(config), "--out", str(out), *short]
    assert run([*arguments, "--part", "2/2"]) == 0
    assert "part 2/2 is done; not trained and evaluated yet: vqgan" in capsys.readouterr().out
    assert not (out / "comparison.json").exists()
    with pytest.raises(UsageError, match=r"other settings \(steps\)"):
        run([*arguments[:-1], "3", "--part", "1/2"])
    (out / "vqgan").mkdir(exist_ok=True)
    with locked(out / "vqgan"), pytest.raises(UsageError, match=r"another process is using .*vqgan"):
        run([*arguments, "--part", "1/2"])
    merged = compare(config, out, *short, "--part", "1/2")
    assert [row["method"] for row in merged["rows"]] == ["vqgan", "sc-vae"]
    assert all(row["seconds_a_step"] > 0 for row in merged["rows"])
    assert steady(merged) == steady(compare(config, tmp_path / "whole", *short))
    assert steady(compare(config, out, *short, "--resume")) == steady(merged), "a call without a part does it as well"
    assert run([*arguments, "--part", "3/3"]) == 0, "more parts than methods"
    with pytest.raises(ArgumentError, match="--part must be I/N"):
        run([*arguments, "--part", "0/2"])
    with pytest.raises(ArgumentError, match="--again and --part can't be used together"):
        run([*arguments, "--part", "1/2", "--again", "table"])
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.setenv(name, "1")
    with pytest.raises(ArgumentError, match="compare does not run under torchrun"):
        run(arguments)


def test_table_says_the_same_in_every_form(config: Path, tmp_path: Path) -> None:
    page = tmp_path / "docs" / "comparison.md"
    page.parent.mkdir()
    page.write_text(f"# Before\n\n{BEGIN}\nold\n{END}\n\nAfter.\n", encoding="utf-8")
    out = tmp_path / "out"
    content = compare(config, out, "--methods", "vae", "sc-vae", "--docs", str(page))
    with (out / "comparison.csv").open(encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in (out / "comparison.md").read_text(encoding="utf-8").splitlines()
        if line.startswith("| ")
    ]
    header, rows = cells[0], cells[2:]
    for row, line, shown in zip(content["rows"], lines, rows, strict=True):
        rating = row["rating"]
        table = dict(zip(header, shown, strict=True))
        assert table["method"] == row["title"] == line["title"]
        assert float(line["rating.psnr"]) == rating["psnr"]
        assert float(table["PSNR, dB"]) == pytest.approx(rating["psnr"], abs=0.006)
        assert float(table["bits per pixel"]) == pytest.approx(rating["bits_per_picture"] / 256, abs=6e-4)
        assert table["rFID"] == table["LPIPS (alex)"] == "unavailable"
        assert "needs the weights of Inception v3" in rating["unavailable"]["fid"]
    assert "fid is unavailable: needs the weights" in (out / "comparison.md").read_text(encoding="utf-8")
    text = page.read_text(encoding="utf-8")
    assert text == with_table(page, stored(page))
    assert text.startswith("# Before\n")
    assert text.endswith("\nAfter.\n")
    assert str(tmp_path) not in text
    assert "\nold\n" not in text


def test_weights_that_are_there_are_used(config: Path, tmp_path: Path) -> None:
    save_backbone(tmp_path, "vgg")
    content = compare(config, tmp_path / "out", "--methods", "vqgan", "--steps", "1", "--weights", str(tmp_path))
    rating = content["rows"][0]["rating"]
    assert rating["lpips-vgg"] > 0
    assert set(rating["unavailable"]) == {"lpips-alex", "fid"}
    assert any("is not the published file" in warning for warning in rating["warnings"]["lpips-vgg"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--methods", "vqgan", "gan"], "--methods must be among vae, .*, got gan"),
        (["--steps", "0"], "steps must be 1 or more"),
        (["--data.resolution", "17"], "multiple of the stride"),
        (["--network.norm_out", "true"], "norm_out=False"),
        (["--docs", "nowhere.md"], "nowhere.md can't be read"),
    ],
)
def test_bad_arguments_are_one_line_and_nothing_is_written(
    config: Path, tmp_path: Path, options: list[str], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        run(["--config", str(config), "--out", str(tmp_path / "out"), *options])
    assert not (tmp_path / "out").exists()


def test_folders_with_something_else_are_refused(config: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    compare(config, out, "--methods", "vqgan", "--steps", "1")
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(UsageError, match="already holds a comparison: resume it"):
        run(["--config", str(config), "--out", str(out), "--steps", "1"])
    with pytest.raises(UsageError, match=r"other settings \(optimiser.learning_rate, steps\)"):
        run(["--config", str(config), "--out", str(out), "--resume", "--optimiser.learning_rate", "0.1"])
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(UsageError, match="is not empty"):
        run(["--config", str(config), "--out", str(tmp_path / "full")])
    with locked(out), pytest.raises(UsageError, match="another process is using"):
        run(["--config", str(config), "--out", str(out), "--resume"])
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_nothing_to_do_again(config: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="out holds no comparison"):
        run(["--config", str(config), "--out", str(tmp_path / "out"), "--again", "table"])
    assert not (tmp_path / "out").exists()


def test_unknown_keys_are_errors(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run(["--config", str(config), "--no_such_key", "1"])
    assert "no_such_key" in capsys.readouterr().err


def test_a_missing_library_is_one_line_that_names_the_extra() -> None:
    # A process of its own: modules that are imported stay so.
    code = "import sys; sys.modules['vector_quantize_pytorch'] = None\n"
    code += "from scvae_fast.cli import main; sys.exit(main(['compare']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith('pip install "scvae_fast[compare]"')


def test_packaged_configurations_are_read() -> None:
    from scvae_fast.commands.compare import _instantiated, _parser
    from scvae_fast.commands.train import spelled_out
    from scvae_fast.models import SCVAEConfig

    found = {}
    for name in ("compare-pictures64", "compare-ffhq256"):
        parser = _parser()
        found[name] = _instantiated(parser, parser.parse_args(spelled_out(["--config", name])))[0]
    assert found["compare-pictures64"].network == SCVAEConfig.preset("pictures64", n_iter=8, lmbda=0.1)
    assert found["compare-ffhq256"].network == SCVAEConfig.preset("ffhq256-16x16", compat="paper", n_iter=16)
