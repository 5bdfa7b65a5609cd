"""benchmarks/gpu.sh with stubs for Python, nvidia-smi and the sanitizer; and the tests that it selects."""

import fnmatch
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from benchmarks import cases

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "benchmarks" / "gpu.sh"
STAGES = ["build", "hopper", "trial", "tests", "sanitizers", "benchmarks", "transforms"]
SANITIZERS = ["memcheck", "synccheck", "racecheck", "memcheck-triton"]

pytestmark = pytest.mark.processes

# Each notes how it was called; what matches FAILS ends with an error, what matches HANGS does not end.
STUB = """#!/bin/bash
call="$(basename "$0") $*"
echo "$call" >> "$CALLS"
[[ $call == *compute_cap* ]] && echo "${CAPABILITY:-9.0}" && exit
[[ $call == *"import ${MISSING:-nothing}"* ]] && exit 1
trap 'echo "was interrupted"; exit 1' INT
echo "$call"
[[ $call =~ ${FAILS:-^$} ]] && exit 3
while [[ $call =~ ${HANGS:-^$} ]]; do sleep 0.05; done
"""
# Notes the limit; the first program that hangs gets a second.
TIMEOUT = """#!/bin/bash
echo "timeout $3" >> "$CALLS"
[[ -z "${HANGS:-}" ]] || exec REAL "$1" --kill-after=1 "${SHORT:-1}" "${@:4}"
exec REAL "$@"
"""


class Machine:
    """A folder of programs, and the script run with them."""

    def __init__(self, folder):
        self.out, self.programs, self.notes = folder / "out", folder / "bin", folder / "calls.txt"
        self.programs.mkdir()
        self.has("python3", "nvidia-smi", "compute-sanitizer")
        real = shutil.which("timeout")
        assert real is not None
        self._write("timeout", TIMEOUT.replace("REAL", real))

    def _write(self, name, text):
        (self.programs / name).write_text(text, encoding="utf-8")
        (self.programs / name).chmod(0o755)

    def has(self, *names):
        for name in names:
            self._write(name, STUB)

    def command(self, *stages):
        return ["bash", str(SCRIPT), str(self.out), *stages]

    def environment(self, **more):
        unset = ("PYTHON", "BENCH", "PATIENCE", "CUDA_HOME", "SCVAE_FAST_CUDA_ARCHITECTURES")
        own = {name: value for name, value in os.environ.items() if name not in unset}
        path = os.pathsep.join((str(self.programs), "/usr/bin", "/bin"))
        return {**own, "PATH": path, "CUDA_HOME": "/nowhere", "CALLS": str(self.notes), **more}

    def run(self, *stages, **environment):
        return subprocess.run(
            self.command(*stages), env=self.environment(**environment), capture_output=True, text=True, timeout=120
        )

    def calls(self, program="python3"):
        lines = self.notes.read_text(encoding="utf-8").splitlines() if self.notes.exists() else []
        return [line.removeprefix(f"{program} ") for line in lines if line.startswith(f"{program} ")]

    def verdicts(self):
        lines = (self.out / "stages.txt").read_text(encoding="utf-8").splitlines()
        return [line.removeprefix("== ") for line in lines if line.startswith("== ")]


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def test_stages_run_in_order_each_in_its_time(machine):
    done = machine.run()
    assert done.returncode == 0, done.stdout + done.stderr
    ran = ["machine", *STAGES[:4], *SANITIZERS, *STAGES[5:]]
    assert [re.sub(r"passed in \d+ s", "passed", verdict) for verdict in machine.verdicts()] == [
        f"{name}: passed" for name in ran
    ]
    limits = [int(call.split()[0]) for call in machine.calls("timeout")]
    assert len(limits) == len(ran)
    assert sum(limits[:5]) <= 600  # the first four stages are one command
    assert sum(limits) <= 14 * 60
    with tarfile.open(f"{machine.out}.tar.gz") as tar:
        assert {f"out/{name}.txt" for name in (*ran, "stages")} <= set(tar.getnames())
    assert "== tests: at most 240 s" in done.stdout
    assert done.stdout.splitlines()[-1] == f"{machine.out}.tar.gz"


def test_what_the_stages_call(machine):
    assert machine.run("build", "hopper", "trial", "sanitizers", "tests").returncode == 0
    calls = [call for call in machine.calls() if not call.startswith("-c ")]
    assert calls[0].startswith("-m pip install --verbose --no-index --no-build-isolation --no-deps --editable .")
    assert calls[1:3] == ["tests/support/small_calls.py hopper", "-m scvae_fast doctor --trial"]
    words = calls[3].split()
    assert words[:2] == ["-m", "pytest"]
    assert words[words.index("-W") : words.index("-m", 1)] == ["-W", "default"]
    assert words[words.index("-n") : words.index("-n") + 2] == ["-n", "8"]
    assert [call.split()[1] for call in machine.calls("compute-sanitizer")] == [
        "memcheck",
        "synccheck",
        "racecheck",
        "memcheck",
    ]
    assert all(call.endswith("small_calls.py hopper cuda") for call in machine.calls("compute-sanitizer")[:3])


@pytest.mark.parametrize(
    ("capability", "given", "architectures"),
    [("9.0", {}, "90a-real"), ("12.0", {}, "120-real"), ("8.6", {"SCVAE_FAST_CUDA_ARCHITECTURES": "80"}, "80")],
)
def test_the_build_is_for_this_card(machine, capability, given, architectures):
    machine._write("env", '#!/bin/bash\necho "env $*" >> "$CALLS"\nexec /usr/bin/env "$@"\n')
    assert machine.run("build", "hopper", CAPABILITY=capability, **given).returncode == 0
    assert f"SCVAE_FAST_CUDA=1 SCVAE_FAST_CUDA_ARCHITECTURES={architectures} " in machine.calls("env")[0]
    skipped = f"hopper: skipped, the card has compute capability {capability}"
    assert (skipped in machine.verdicts()) == (capability != "9.0")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["OUT", "build", "speed"], "there is no stage 'speed'; there are build hopper trial tests"),
        (["OUT", ""], "there is no stage ''"),
        (["tests"], "give the directory for the results first, then stages: build hopper"),
        ([], "give the directory for the results first"),
    ],
)
def test_wrong_arguments_are_refused_before_any_work(machine, words, message):
    given = [str(machine.out) if word == "OUT" else word for word in words]
    done = subprocess.run(["bash", SCRIPT, *given], env=machine.environment(), capture_output=True, text=True)
    assert done.returncode == 2
    assert message in done.stderr
    assert not machine.out.exists()
    assert machine.calls() == machine.calls("nvidia-smi") == []
    asked = machine.run("build", PATIENCE="1.5")
    assert asked.returncode == 2
    assert "PATIENCE must be a whole number, 1 or more, got '1.5'" in asked.stderr


def test_a_stage_that_fails_stops_no_other(machine):
    done = machine.run("trial", "tests", FAILS="doctor --trial")
    assert done.returncode == 1
    assert machine.verdicts()[1].startswith("trial: FAILED with exit status 3 after")
    assert machine.verdicts()[2].startswith("tests: passed")


def test_without_a_build_nothing_else_runs(machine):
    done = machine.run("build", "tests", "sanitizers", FAILS="pip install")
    assert done.returncode == 1
    assert machine.verdicts()[2:] == ["tests: not run, the build failed", "sanitizers: not run, the build failed"]
    assert not any("pytest" in call for call in machine.calls())


def test_without_a_card_nothing_runs(machine):
    done = machine.run(FAILS="get_device_name")
    assert done.returncode == 1
    assert [verdict.partition(":")[0] for verdict in machine.verdicts()] == ["machine"]


def test_a_stage_past_its_limit_is_a_failure(machine):
    done = machine.run("tests", "trial", HANGS="-m pytest")
    assert done.returncode == 1
    assert machine.verdicts()[1] == "tests: did not end within 240 s"
    assert "was interrupted" in (machine.out / "tests.txt").read_text(encoding="utf-8")
    assert machine.verdicts()[2].startswith("trial: passed")


def test_a_slow_sanitizer_is_named_and_no_failure_one_that_finds_something_is(machine):
    done = machine.run("sanitizers", HANGS="--tool racecheck")
    assert done.returncode == 0
    assert "racecheck: did not end within 40 s" in machine.verdicts()
    assert machine.run("sanitizers", FAILS="--tool synccheck").returncode == 1
    assert any(verdict.startswith("synccheck: FAILED with exit status 3") for verdict in machine.verdicts())
    (machine.programs / "compute-sanitizer").unlink()
    assert machine.run("sanitizers").returncode == 0
    assert machine.verdicts()[-1] == "sanitizers: not run, there is no compute-sanitizer"


def test_only_memcheck_runs_without_the_caching_allocator(machine):
    assert machine.run("sanitizers").returncode == 0
    settings = "PYTORCH_NO_CUDA_MEMORY_CACHING"
    machine._write("compute-sanitizer", f'#!/bin/bash\necho "sanitizer $2 ${{{settings}-unset}}" >> "$CALLS"\n')
    assert machine.run("sanitizers", **{settings: "0"}).returncode == 0
    assert machine.calls("sanitizer") == ["memcheck 1", "synccheck unset", "racecheck unset", "memcheck 1"]


def test_without_xdist_tests_run_one_at_a_time_and_without_pytest_not_at_all(machine):
    assert machine.run("tests", MISSING="xdist").returncode == 0
    assert any("no pytest-xdist" in verdict for verdict in machine.verdicts())
    (called,) = [call for call in machine.calls() if call.startswith("-m pytest")]
    assert " -n " not in called
    done = machine.run("tests", MISSING="pytest")
    assert done.returncode == 1
    assert machine.verdicts()[-1] == "tests: FAILED, python3 has no pytest"


def test_patience_lengthens_every_limit(machine):
    assert machine.run("trial").returncode == 0
    assert machine.run("trial", PATIENCE="3").returncode == 0
    limits = [int(call.split()[0]) for call in machine.calls("timeout")]
    assert [3 * limit for limit in limits[:2]] == limits[2:]


def test_an_interrupt_reaches_what_runs(machine):
    environment = machine.environment(HANGS="-m benchmarks", SHORT="60")
    with subprocess.Popen(machine.command("benchmarks"), env=environment, stdout=subprocess.PIPE, text=True) as script:
        for line in script.stdout:
            if "-m benchmarks" in line:
                break
        script.send_signal(signal.SIGINT)
        rest = script.stdout.read()
    assert script.returncode == 130
    assert "was interrupted" in rest


def test_the_cases_that_decide_exist_and_are_few():
    patterns = re.findall(r"--case '([^']+)'", SCRIPT.read_text(encoding="utf-8"))
    names = list(cases.by_name(cases.plan("cuda", "standard")))
    assert len(patterns) == 3
    assert all(fnmatch.filter(names, pattern) for pattern in patterns)
    chosen = {name for pattern in patterns for name in fnmatch.filter(names, pattern)}
    assert 4 <= len(chosen) <= 8
    assert {"bfloat16", "float32"} <= {word for name in chosen for word in name.split("-")}


# What takes the kernels off the card.
ELSEWHERE = ("TRITON_INTERPRET", "SCVAE_FAST_CUDA_EMULATOR")


def collected(tmp_path, card):
    """By test: whether it is skipped here, and whether it is marked; with a pretended card, or without."""
    file = tmp_path / f"collected {card}.json"
    path = os.pathsep.join((str(ROOT), str(ROOT / "tests" / "support")))
    told = {"PYTHONPATH": path, "COLLECTED": str(file), "CARD": card, "CUDA_VISIBLE_DEVICES": ""}
    environment = {name: value for name, value in os.environ.items() if name not in ELSEWHERE} | told
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "pretended_card", "--collect-only"]
    return file, subprocess.Popen(
        [*command, "tests"], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def test_every_test_that_needs_a_card_is_chosen(tmp_path):
    """A test needs a card if it is collected only with one, or skipped without one."""
    found = {}
    for card, (file, process) in {card: collected(tmp_path, card) for card in ("none", "pretended")}.items():
        printed, _ = process.communicate()
        assert process.returncode == 0, printed
        found[card] = json.loads(file.read_text(encoding="utf-8"))
    needing = {
        name for name, (skipped, _) in found["pretended"].items() if not skipped and found["none"].get(name, [True])[0]
    }
    assert any("test_one_launch_per_iteration_gives_the_same_as_a_single_launch" in name for name in needing)
    unmarked = {name for name in needing if not found["pretended"][name][1]}
    assert not unmarked
    text = SCRIPT.read_text(encoding="utf-8")
    folders = re.findall(r"(tests/\w+/)test_\{(.+?)\}\.py", text)
    listed = {f"{folder}test_{name}.py" for folder, names in folders for name in names.split(",")}
    assert {name.partition("::")[0] for name in needing} == listed


HANGING = """
import ctypes
import pytest

@pytest.mark.parametrize("number", range(4))
def test_number(number):
    if number == 1:
        ctypes.PyDLL(None).sleep(60)  # in C, with the interpreter's lock
"""


@pytest.mark.parametrize("workers", [0, 2])
def test_a_test_that_hangs_in_native_code_ends_its_process(tmp_path, workers):
    (tmp_path / "test_hanging.py").write_text(HANGING, encoding="utf-8")
    path = os.pathsep.join(str(folder) for folder in (ROOT, ROOT / "tests", ROOT / "tests" / "support"))
    environment = {**os.environ, "PYTHONPATH": path, "SCVAE_FAST_SECONDS_PER_TEST": "6"}
    command = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", "-p", "conftest"]
    command += ["-n", str(workers), "--rootdir", str(tmp_path), str(tmp_path)]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert done.returncode != 0
    assert "Timeout (0:00:06)!" in done.stderr
    assert "test_number" in done.stderr
    if workers:  # the others go on
        assert "3 passed" in done.stdout
        assert re.search(r"crashed while running '.*test_number\[1\]'", done.stdout)


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="there is no triton on this platform")
def test_kernels_that_triton_would_compile_are_counted(tmp_path):
    """Triton's own rule applies: sizes with the same divisibility share a kernel."""
    lines = (
        "import pytest, torch",
        "from scvae_fast import decode",
        "@pytest.mark.parametrize('K', [64, 128, 65, 67])",
        "def test_decode(K):",
        "    assert decode(torch.ones(2, K), torch.ones(3, K), backend='triton').shape == (2, 3)",
    )
    (tmp_path / "test_decoding.py").write_text("\n".join(lines), encoding="utf-8")
    path = os.pathsep.join(str(folder) for folder in (ROOT, ROOT / "tests" / "support"))
    environment = {name: value for name, value in os.environ.items() if name not in ELSEWHERE}
    environment |= {"PYTHONPATH": path, "COMPILED": str(tmp_path / "counts.json")}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "pretended_card", "--rootdir", "."]
    done = subprocess.run([*command, "."], env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    counts = json.loads((tmp_path / "counts.json").read_text(encoding="utf-8"))
    assert counts.keys() == {"product"}
    assert 1 <= counts["product"] <= 2
