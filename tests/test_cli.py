import io
import os
import re
import subprocess
import sys
import warnings
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest
from pictures import TINY, scene

from scvae_fast import cli
from scvae_fast.commands import demo, doctor
from scvae_fast.data import save_picture
from scvae_fast.models import SCVAE


@pytest.mark.processes
def test_help_needs_nothing_that_takes_long() -> None:
    program = """
import sys
sys.argv = ["scvae-fast"]
from scvae_fast import cli
(commands,) = cli._parser()._subparsers._group_actions
ways = [[], *([name] for name in commands.choices), ["edit", "atoms"], ["edit", "interpolate"]]
for words in (*([*way, "--help"] for way in ways), ["--version"], ["train", "--config", "x", "-h"], ["paint"]):
    try:
        sys.exit(f"{words} ended with {cli.main(words)}")
    except SystemExit as stop:
        assert stop.code == 2 * (words == ["paint"]), (words, stop.code)
slow = {"torch", "numpy", "lightning", "jsonargparse", "PIL", "scipy", "sklearn", "matplotlib", "gradio"}
assert not slow & set(sys.modules), slow & set(sys.modules)
print(len(ways), "ways")
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.endswith("\n19 ways\n")
    assert run.stdout.count("usage: scvae-fast ") == 20


@pytest.mark.processes
def test_python_m_answers_without_pytorch() -> None:
    command = [sys.executable, "-X", "importtime", "-m", "scvae_fast", "--version"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout) == (0, f"scvae-fast {version('scvae-fast')}\n"), run.stderr
    assert "argparse" in run.stderr
    assert not re.search(r"\| +torch$", run.stderr, re.MULTILINE)


@pytest.mark.processes
def test_submodules_are_imported_on_demand() -> None:
    program = """
import sys, scvae_fast
assert set(scvae_fast.__all__) <= set(dir(scvae_fast))
layer = scvae_fast.LISTA(4, 6, 2)
assert "lightning" not in sys.modules and "huggingface_hub" not in sys.modules
from scvae_fast import *
assert LISTA is scvae_fast.nn.LISTA and SCVAE is scvae_fast.SCVAE and lista is scvae_fast.functional.lista
try:
    scvae_fast.LITSA
except AttributeError as error:
    print(error)
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout) == (0, "module 'scvae_fast' has no attribute 'LITSA'\n"), run.stderr


@pytest.mark.processes
@pytest.mark.parametrize("imports", ["torch, scvae_fast", "scvae_fast, torch"])
def test_operations_are_registered_for_programs_that_name_them_alone(imports: str) -> None:
    program = f"import {imports}; print(torch.ops.scvae_fast.lista.default)"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout) == (0, "scvae_fast.lista.default\n"), run.stderr


@pytest.mark.processes
def test_help_and_doctor_need_no_extra() -> None:
    program = """
import sys
absent = "lightning torchmetrics torchvision PIL matplotlib skimage sklearn safetensors huggingface_hub tqdm pyarrow"
sys.modules.update(dict.fromkeys(absent.split()))  # importing them fails now
from scvae_fast import cli
status = cli.main(["doctor"])
assert cli.main(["demo", "--out", sys.argv[1]]) == 1
assert cli.main(["reconstruct", "--checkpoint", "x", "--out", "y", "z.png"]) == 1
assert cli.main(["encode", "--checkpoint", "x", "--data", "y", "--out", "z"]) == 1
assert cli.main(["decode", "--checkpoint", "x", "y", "--out", "z"]) == 1
assert cli.main(["cluster", "--checkpoint", "x", "--data", "y", "--clusters", "2"]) == 1
assert cli.main(["segment", "--checkpoint", "x", "--data", "y"]) == 1
assert cli.main(["convert", "folder", "x.pt"]) == 1  # there is none, whatever is installed
assert cli.main(["app", "--checkpoint", "x"]) == 1
assert cli.main(["probe", "--checkpoint", "x", "--data", "y"]) == 1
assert cli.main(["retrieve", "--checkpoint", "x", "--data", "y"]) == 1
assert cli.main(["edit", "atoms", "--checkpoint", "x", "y.png"]) == 1
try:
    cli.main(["--help"])
except SystemExit as stop:
    sys.exit(status or stop.code)
"""
    run = subprocess.run([sys.executable, "-c", program, "unused"], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert "backends:" in run.stdout
    assert "reconstruct" in run.stdout
    assert run.stderr.count('pip install "scvae_fast[train]"') == 10
    assert "Traceback" not in run.stderr


def test_bench_hands_its_options_to_the_benchmarks(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "--quick", "--device", "cpu", "--list"]) == 0
    assert "DictionaryLISTA-forward-M512-T5" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        cli.main(["bench", "--case", "nothing"])
    assert "--case: no case matches 'nothing'" in capsys.readouterr().err


def test_bench_needs_the_source_tree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli.bench, "__file__", str(tmp_path / "scvae_fast" / "cli" / "bench.py"))
    assert cli.main(["bench"]) == cli.FAILED
    assert "an installed package does not contain the benchmarks" in capsys.readouterr().err


def test_unknown_options_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["doctor", "--list"])
    assert "unrecognized arguments: --list" in capsys.readouterr().err


def test_doctor_decides_the_exit_status(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "main", lambda: 1)
    assert cli.main(["doctor"]) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["paint"],
        ["demo", "--minutes", "0"],
        ["demo", "--minutes", "soon"],
        ["reconstruct", "x.png"],
        ["encode", "--checkpoint", "x", "--data", "y", "--out", "z", "--limit", "0"],
        ["encode", "--checkpoint", "x", "--data", "y", "--out", "z", "--dtype", "int8"],
        ["decode", "--checkpoint", "x", "--out", "y"],
        ["convert", "x.pt", "y", "--attention", "some"],
        ["probe", "--checkpoint", "x", "--data", "y", "--folds", "0"],
        ["retrieve", "--checkpoint", "x", "--data", "y", "--k", "0"],
        ["edit", "--checkpoint", "x"],
        ["encode", "--checkpoint", "x", "--data", "y", "--out", "z", "--resize", "999999"],
        ["encode", "--checkpoint", "x", "--data", "y", "--out", "z", "--layout", "tree"],
        ["encode", "--checkpoint", "x", "--data", "y", "--out", "z", "--split", "test"],
        ["evaluate", "--checkpoint", "x", "--data", "y", "--resize", "999999"],
        ["evaluate", "--checkpoint", "x", "--data", "y", "--precision", "int8"],
        ["evaluate", "--checkpoint", "x", "--data", "y", "--metrics", "beauty"],
        ["evaluate", "--checkpoint", "x", "--data", "y", "--value-bits", "-1"],
        ["probe", "--checkpoint", "x", "--data", "y", "--seed", "-1"],
        ["edit", "interpolate", "--checkpoint", "x", "y.png", "z.png", "--steps", "1"],
        ["edit", "atoms", "--checkpoint", "x", "y.png", "--remove", "-1"],
        ["edit", "atoms", "--checkpoint", "x", "y.png", "--factor", "3=nan"],
        ["edit", "interpolate", "--checkpoint", "x", "y.png"],
    ],
)
def test_wrong_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    assert stop.value.code == 2
    assert "usage: scvae-fast" in capsys.readouterr().err


def test_a_limit_that_is_not_a_number(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("SCVAE_FAST_MAX_MEGAPIXELS", "many")
    with pytest.raises(SystemExit) as stop:
        cli.main(["encode", "--checkpoint", "x", "--data", "y", "--out", "z", "--resize", "8"])
    assert stop.value.code == cli.WRONG
    assert "SCVAE_FAST_MAX_MEGAPIXELS must be a positive number, got 'many'" in capsys.readouterr().err


def test_demo_passes_its_options_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Path, float]] = []

    def run(out: Path, minutes: float) -> int:
        calls.append((out, minutes))
        return 130

    monkeypatch.setattr(demo, "run_demo", run)
    assert cli.main(["demo", "--out", str(tmp_path), "--minutes", "2.5"]) == 130
    assert calls == [(tmp_path, 2.5)]


def test_demo_that_can_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert cli.main(["demo", "--out", str(tmp_path / "file")]) == 1
    assert capsys.readouterr().err.startswith("scvae-fast demo: ")


def test_ctrl_c(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt() -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(doctor, "main", interrupt)
    assert cli.main(["doctor"]) == 130
    assert capsys.readouterr().err == "scvae-fast doctor: stopped\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["cluster", "--checkpoint", "x", "--clusters", "2"],
        ["segment", "--checkpoint", "x", "--data", "y", "--labels", "2", "--clusters", "3"],
        ["probe", "--checkpoint", "x", "--data", "y", "--descriptors", "beauty"],
        ["train", "--config", "pictures65"],
        ["train", "--out", "z"],
        ["compare", "--config", "pictures65"],
    ],
)
def test_values_that_are_invalid_regardless_of_files(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(arguments) == cli.WRONG
    errors = capsys.readouterr().err
    assert errors.startswith(f"scvae-fast {arguments[0]}: ")
    assert errors.count("\n") == 1
    if "pictures65" in arguments:
        assert "the configurations of the package are compare-ffhq256, " in errors
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("way", [["interpolate", "a.png", "b.png"], ["atoms", "a.png"]])
def test_errors_name_the_whole_command(way: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "out")
    assert cli.main(["edit", *way, "--checkpoint", str(tmp_path / "none"), "--out", out]) == cli.FAILED
    assert capsys.readouterr().err.startswith(f"scvae-fast edit {way[0]}: ")


@pytest.mark.slow
@pytest.mark.parametrize("command", ["train", "compare"])
def test_the_short_help_describes_options_of_the_full_parser(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    described = {}
    for way in ("--help", "--help_keys"):
        with pytest.raises(SystemExit, match="0"):
            cli.main([command, way])
        described[way] = set(re.findall(r"^  (?:-\w \w+, )?(--\w+)", capsys.readouterr().out, re.MULTILINE))
    assert {"--config", "--out", "--resume"} <= described["--help"] < described["--help_keys"]


def test_warnings_are_printed_like_errors(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    usual = warnings.formatwarning

    def run(*_: object) -> int:
        print(warnings.formatwarning("c fell", UserWarning, demo.__file__, 3), end="")
        print(warnings.formatwarning("c fell", UserWarning, __file__, 3) == usual("c fell", UserWarning, __file__, 3))
        return 0

    monkeypatch.setattr(doctor, "main", run)
    assert cli.main(["doctor"]) == 0
    assert capsys.readouterr().out == "scvae-fast doctor: warning: c fell\nTrue\n"
    assert warnings.formatwarning is usual


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"scvae-fast {version('scvae-fast')}\n"


def test_a_terminal_that_lacks_letters_and_names_that_are_no_utf_8(monkeypatch: pytest.MonkeyPatch) -> None:
    for encoding in ("ascii", "cp1252", "utf-8"):
        out, error = (io.TextIOWrapper(io.BytesIO(), encoding=encoding, write_through=True) for _ in range(2))
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "stderr", error)
        with pytest.raises(SystemExit) as stop:
            cli.main(["segment", "--help"])
        assert stop.value.code == 0
        missing = os.fsdecode(b"caf\xe9.png")
        assert cli.main(["encode", "--checkpoint", missing, "--data", "θ", "--out", "z"]) == cli.FAILED
        assert "udce9.png" in error.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]
        monkeypatch.undo()


def test_reconstruct(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    SCVAE(TINY).save_pretrained(tmp_path / "model")
    save_picture(tmp_path / "x.png", scene(20, 30))
    command = ["reconstruct", "--checkpoint", str(tmp_path / "model"), "--out", str(tmp_path / "out")]
    assert cli.main([*command, str(tmp_path / "x.png")]) == 0
    assert (tmp_path / "out" / "x.png").exists()
    assert cli.main([*command, str(tmp_path / "x.png"), str(tmp_path / "missing.png")]) == 1
    assert "missing.png" in capsys.readouterr().err
    folder = [*command[:-1], str(tmp_path / "more"), "--device", "cpu", str(tmp_path)]
    (tmp_path / "out" / "x.png").unlink()
    assert cli.main(folder) == 0
    assert (tmp_path / "more" / "x.png").exists()
    bad = ["reconstruct", "--checkpoint", str(tmp_path / "none"), "--out", str(tmp_path / "y")]
    assert cli.main([*bad, str(tmp_path / "x.png")]) == 1
    assert "can't be loaded" in capsys.readouterr().err


def test_encode_and_decode(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    SCVAE(TINY).save_pretrained(tmp_path / "model")
    save_picture(tmp_path / "pictures" / "x.png", scene(20, 30))
    common = ["--checkpoint", str(tmp_path / "model"), "--batch-size", "2", "--device", "cpu", "--precision", "float32"]
    codes, data = str(tmp_path / "codes.parquet"), str(tmp_path / "pictures")
    assert cli.main(["encode", *common, "--data", data, "--dtype", "float32", "--limit", "3", "--out", codes]) == 0
    assert "bits per pixel, values in float32" in capsys.readouterr().out
    assert cli.main(["decode", *common, codes, "--out", str(tmp_path / "out"), "--format", "jpg"]) == 0
    assert (tmp_path / "out" / "x.jpg").exists()
    assert cli.main(["decode", *common, codes, "--out", str(tmp_path / "out")]) == cli.FAILED
    assert "is not empty" in capsys.readouterr().err
    assert cli.main(["encode", *common, "--data", data, "--out", codes]) == 0
    before = (tmp_path / "pictures" / "x.png").read_bytes()
    assert cli.main(["encode", *common, "--data", data, "--out", f"{data}/x.png"]) == cli.FAILED
    assert "x.png already exists and is not a file of codes" in capsys.readouterr().err
    assert (tmp_path / "pictures" / "x.png").read_bytes() == before


def test_convert(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = replace(TINY, compat="official", ch=32, mid_attention=True, norm_groups=32, norm_out=True)
    SCVAE(config).save_pretrained(tmp_path / "model")
    assert cli.main(["convert", str(tmp_path / "model"), str(tmp_path / "official.pt")]) == 0
    options = ["--n-iter", "3", "--beta", "0.05", "--attention", "constant"]
    assert " ".join(options) in capsys.readouterr().out
    back = ["convert", str(tmp_path / "official.pt"), str(tmp_path / "back")]
    assert cli.main(back) == cli.FAILED
    assert "give --n-iter, --beta, --attention too" in capsys.readouterr().err
    assert cli.main([*back, *options]) == 0
    for command in (["convert", str(tmp_path / "model"), str(tmp_path / "official.pt")], [*back, *options]):
        before = Path(command[2]).stat()
        assert cli.main(command) == cli.FAILED
        assert re.search("already (holds a model|exists): choose another", capsys.readouterr().err)
        assert Path(command[2]).stat() == before
    assert SCVAE.from_pretrained(tmp_path / "back").config.n_iter == 3
