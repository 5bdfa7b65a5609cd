"""The trial of GPU kernels in a child process, without a card: kernels that are correct, wrong, or worse."""

import json
import os
import subprocess
import sys
import time
import warnings

import pytest
import torch
from problems import FLOAT32_BACKENDS, device_of

import scvae_fast
from scvae_fast import lista
from scvae_fast.ops import backends
from scvae_fast.ops.backends import trial
from scvae_fast.ops.backends.trial import Chooser
from scvae_fast.ops.backends.verdicts import Card, Store, Verdict, warn_once

CARD = Card("a card", "GPU-0", "a card, 9.0, driver 1", device="cpu")
RIGHT = Verdict(True, "", 0.3, {64: 0.8, 1024: 1.05, 16_384: 2.5})
WRONG = Verdict(False, "∂S has 90.0 times the allowed error", 90.0, {})

# What a child runs first: kernels of the name "cuda" that are the specification, changed here and there, on a CPU.
SUBJECTS = """
import os, time
import torch
from scvae_fast.ops import backends
from scvae_fast.ops.backends import reference, trying

trying.GRID, trying.TIMED, trying.SAMPLES = (4, 8), (16, 8, 2), 3
{at_import}

class Kernels:
    def code(self, p):
        z, *x_hat = reference.code(p)
        {forward}
        return (z, *x_hat)

    def code_backward(self, p, given, needed):
        gradients = reference.code_backward(p, given, needed)
        {backward}
        return gradients

never = lambda *_: None
backends.BACKENDS["cuda"] = backends.Backend(Kernels(), never, never)
"""


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "cache" / "trials.json")


@pytest.fixture
def tried(store, tmp_path):
    """Run a trial of kernels with these changes, and return its verdict in float32."""

    def run(forward="", backward="", at_import="", **settings):
        subjects = tmp_path / "subjects.py"
        subjects.write_text(
            SUBJECTS.format(forward=forward or "pass", backward=backward or "pass", at_import=at_import),
            encoding="utf-8",
        )
        trial.run(CARD, store, ["cuda:float32"], subjects=subjects, **settings)
        return store.verdicts(CARD.key).get("cuda:float32")

    return run


@pytest.mark.processes
def test_right_kernels_are_right_and_timed(tried):
    found = tried()
    assert found.right
    assert found.reason == ""
    assert found.error < 1
    assert set(found.gains) == {4, 8}
    assert all(gain > 0 for gain in found.gains.values())


@pytest.mark.processes
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"forward": "z = -z"}, " times the allowed error"),
        ({"backward": "gradients['theta'] = -gradients['theta']"}, "∂theta has"),
        ({"forward": "z = torch.cat([z[:-1], 0 * z[-1:]])"}, " times the allowed error"),
        (
            {"backward": "gradients['S'] = gradients['S'].clone().index_fill_(0, torch.tensor(0), torch.nan)"},
            "∂S has NaN",
        ),
        ({"forward": "z = z.nan_to_num()"}, "result 0 has NaN or infinity in other places"),
        ({"forward": "z = z * (1 + 1e-7 * torch.rand(1))"}, "differs between two equal calls"),
        ({"forward": "raise ValueError('no such layout')"}, "ValueError: no such layout"),
        ({"forward": "os.abort()"}, "the process died with signal SIGABRT"),
        ({"forward": "os.kill(os.getpid(), 11)"}, "the process died with signal SIGSEGV"),
        ({"backward": "os._exit(3)"}, "the process died with exit status 3"),
    ],
)
def test_wrong_kernels_are_declined_with_their_reason(change, reason, tried):
    found = tried(**change)
    assert not found.right
    assert reason in found.reason
    assert found.gains == {}


@pytest.mark.processes
def test_a_launch_that_does_not_end_is_a_verdict(tried):
    found = tried(at_import="trying.synchronize = lambda device: time.sleep(600)", hang=0.5)
    assert found == Verdict(False, "a launch did not end within 0.5 s", None, {})


@pytest.mark.processes
def test_running_out_of_time_or_memory_gives_no_verdict(tried, store):
    assert tried(forward="time.sleep(600)", limit=4) is None
    assert tried(forward="raise torch.OutOfMemoryError('no memory')") is None
    assert tried(forward="os.kill(os.getpid(), 9)") is None
    assert len(store.fruitless(CARD.key)) == 3


@pytest.mark.processes
def test_a_crash_leaves_the_verdicts_before_and_after_it(store, tmp_path):
    subjects = tmp_path / "subjects.py"
    crash = "os.abort() if p.x.dtype is torch.bfloat16 else None"
    subjects.write_text(SUBJECTS.format(forward=crash, backward="pass", at_import=""), encoding="utf-8")
    told = []
    pairs = ["cuda:float32", "cuda:bfloat16", "cuda:float16"]
    trial.run(CARD, store, pairs, subjects=subjects, told=told.append)
    found = store.verdicts(CARD.key)
    assert {pair: verdict.right for pair, verdict in found.items()} == dict(
        zip(pairs, (True, False, True), strict=True)
    )
    assert told == ["trying cuda, float32", "trying cuda, bfloat16", "trying cuda, float16"]


# The file


def test_verdicts_are_kept_by_card_beside_those_of_others(store):
    store.add("one", "cuda:float32", RIGHT)
    Store(store.file).add("other", "triton:float32", WRONG)
    store.add("one", "cuda:float16", WRONG)
    assert Store(store.file).verdicts("one") == {"cuda:float32": RIGHT, "cuda:float16": WRONG}
    assert store.verdicts("other") == {"triton:float32": WRONG}
    assert store.verdicts("a third") == {}
    assert [path.name for path in store.file.parent.iterdir() if path.suffix == ".json"] == ["trials.json"]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"schema": 1}', '{"schema": 1, "cards": {"a": {"verdicts": 3}}}'])
def test_a_damaged_file_is_ignored_with_one_warning(content, store):
    store.file.parent.mkdir()
    store.file.write_text(content, encoding="utf-8")
    warn_once.cache_clear()
    with pytest.warns(UserWarning, match=r"trials\.json can't be read .*: kernels are tried again") as caught:
        found = [store.verdicts("a") for _ in range(2)]
    assert found == [{}, {}]
    assert len(caught) == 1
    warn_once.cache_clear()
    with pytest.warns(UserWarning, match="can't be read"):
        store.add("a", "cuda:float32", RIGHT)
    assert store.verdicts("a") == {"cuda:float32": RIGHT}


def test_where_the_cache_can_not_be_written_verdicts_stay_in_the_process(tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    store = Store(tmp_path / "file" / "trials.json")
    warn_once.cache_clear()
    with pytest.warns(UserWarning, match="can't be written"):
        store.add("a", "cuda:float32", RIGHT)
    assert store.verdicts("a") == {"cuda:float32": RIGHT}


# The choice


class Tries:
    """Replaces a trial."""

    def __init__(self, **found):
        self.found, self.calls = found or {"cuda_float32": RIGHT}, []

    def __call__(self, card, into, pairs):
        self.calls.append(list(pairs))
        for pair, verdict in self.found.items():
            into.add(card.key, pair.replace("_", ":"), verdict)
        if not self.found:
            into.add_fruitless(card.key, time.time())


@pytest.fixture
def no_hindrance(monkeypatch):
    monkeypatch.delenv("SCVAE_FAST_TRIAL", raising=False)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(trial, "_is_exclusive", lambda card: False)
    warn_once.cache_clear()


@pytest.fixture
def chooser(store, no_hindrance):
    def make(tries):
        return Chooser(lambda index: CARD, lambda: store, tries)

    return make


def test_the_fastest_that_is_right_is_chosen_where_it_wins_by_a_tenth(chooser):
    faster = RIGHT._replace(gains={64: 1.2, 1024: 1.0, 16_384: 2.0})
    tries = Tries(cuda_float32=RIGHT, triton_float32=faster, cuda_bfloat16=WRONG)
    found = chooser(tries)
    able = ("triton", "cuda")
    chosen = {rows: found.fastest(0, torch.float32, rows, able) for rows in (1, 64, 1023, 1024, 16_383, 16_384, 10**6)}
    assert chosen == {
        1: "triton",
        64: "triton",
        1023: "triton",
        1024: None,
        16_383: None,
        16_384: "cuda",
        10**6: "cuda",
    }
    assert found.fastest(0, torch.float32, 16_384, ("triton",)) == "triton"
    assert found.fastest(0, torch.bfloat16, 16_384, able) is None
    assert tries.calls == [list(trial.PAIRS)]


def test_a_second_process_reads_the_verdict(chooser):
    first, second = Tries(**{pair.replace(":", "_"): RIGHT for pair in trial.PAIRS}), Tries()
    chooser(first).fastest(0, torch.float32, 16_384, ("cuda",))
    begin = time.perf_counter()
    assert chooser(second).fastest(0, torch.float32, 16_384, ("cuda",)) == "cuda"
    assert time.perf_counter() - begin < 1
    assert second.calls == []


def test_if_all_kernels_fail_the_reason_is_reported_once(chooser):
    found = chooser(Tries(cuda_float32=WRONG))
    with pytest.warns(UserWarning, match=r"no GPU kernel passed its trial \(cuda float32: ∂S has 90\.0") as caught:
        chosen = [found.fastest(0, torch.float32, rows, ("cuda",)) for rows in (64, 16_384)]
    assert chosen == [None, None]
    assert len(caught) == 1


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda patch: patch.setenv("SCVAE_FAST_TRIAL", "0"), "SCVAE_FAST_TRIAL=0 forbids it"),
        (lambda patch: patch.setattr(trial, "_IMPORTED_BY", -1), "this process was forked"),
        (lambda patch: patch.setattr(sys, "executable", ""), "there is no Python interpreter to start"),
        (
            lambda patch: patch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True),
            "a graph is being captured",
        ),
        (lambda patch: patch.setattr(torch.compiler, "is_compiling", lambda: True), "a graph is being captured"),
        (lambda patch: patch.setattr(trial, "_is_exclusive", lambda card: True), "the card is in exclusive mode"),
    ],
)
def test_where_no_trial_may_start_eager_runs_and_says_why(change, reason, chooser, monkeypatch):
    tries = Tries()
    change(monkeypatch)
    with pytest.warns(UserWarning, match=f"a card: the GPU kernels were not tried .{reason}.*eager PyTorch runs there"):
        assert chooser(tries).fastest(0, torch.float32, 16_384, ("cuda",)) is None
    assert tries.calls == []


def test_after_two_trials_without_a_verdict_none_starts_for_a_day(chooser, store):
    tries = Tries()
    tries.found = {}
    for _ in range(3):
        warn_once.cache_clear()
        with pytest.warns(UserWarning, match="not tried .two trials|no GPU kernel passed its trial .no verdict"):
            assert chooser(tries).fastest(0, torch.float32, 64, ("cuda",)) is None
    assert len(tries.calls) == 2
    content = json.loads(store.file.read_text(encoding="utf-8"))
    content["cards"][CARD.key]["fruitless"] = [time.time() - 25 * 3600] * 2
    store.file.write_text(json.dumps(content), encoding="utf-8")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        chooser(tries).fastest(0, torch.float32, 64, ("cuda",))
    assert len(tries.calls) == 3


CHOOSE = """
import os, sys, time
from pathlib import Path
import torch
from scvae_fast.ops.backends import trial

folder = Path(sys.argv[1])

def slow(card, into, pairs):
    with (folder / "calls").open("a", encoding="utf-8") as out:
        out.write("tried\\n")
    time.sleep(0.5)
    for pair in pairs:
        into.add(card.key, pair, trial.Verdict(True, "", 0.3, {64: 2.0}))

torch.cuda.is_current_stream_capturing = lambda: False
trial._is_exclusive = lambda card: False
chooser = trial.Chooser(lambda index: trial.Card("a card", "0", "a card"), lambda: trial.Store(folder / "t.json"), slow)
print("ready", flush=True)
sys.stdin.readline()
print(chooser.fastest(0, torch.float32, 64, ("cuda",)))
"""


@pytest.mark.processes
def test_eight_processes_at_once_try_once(tmp_path):
    command, pipe = [sys.executable, "-c", CHOOSE, str(tmp_path)], subprocess.PIPE
    environment = {name: value for name, value in os.environ.items() if name != "SCVAE_FAST_TRIAL"}
    processes = [subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment) for _ in range(8)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    assert [process.communicate(timeout=120)[0] for process in processes] == ["cuda\n"] * 8
    assert (tmp_path / "calls").read_text(encoding="utf-8") == "tried\n"


@pytest.mark.processes
def test_a_process_killed_during_its_trial_blocks_no_other(store, chooser):
    script = f"""
import sys, time
from pathlib import Path
from scvae_fast.ops.backends.trial import Store
store = Store(Path({str(store.file)!r}))
with store.locked({CARD.key!r}, 1) as got:
    print(got, flush=True)
    time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "True\n"
        with store.locked(CARD.key, 0.2) as got:
            assert not got
        holder.kill()
    assert chooser(Tries()).fastest(0, torch.float32, 16_384, ("cuda",)) == "cuda"


RANK = """
import json, os, sys, warnings
import torch
from scvae_fast.ops.backends import trial
from scvae_fast.ops.backends.verdicts import Verdict

rank, world, file, found = sys.argv[1:]
torch.distributed.init_process_group(
    "gloo", rank=int(rank), world_size=int(world), store=torch.distributed.FileStore(file, int(world))
)
mine = {pair: Verdict(right, "" if right else "wrong here", 0.5, {int(r): g for r, g in gains.items()})
        for pair, (right, gains) in json.loads(found).items()}
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    if os.environ["MUTE"] == "0":
        shared = trial.agreed(mine, float(os.environ["SECONDS_TO_WAIT"]))
        print(json.dumps({"shared": shared, "told": [str(w.message) for w in caught]}))
torch.distributed.barrier()
"""


def ranks(tmp_path, *found, seconds=60.0, mute=()):
    """The verdicts that ranks with these verdicts agree on; those in `mute` never ask."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(rank), str(len(found)), str(tmp_path / "group"), json.dumps(mine)],
            env={**os.environ, "SECONDS_TO_WAIT": str(seconds), "MUTE": str(int(rank in mute))},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank, mine in enumerate(found)
    ]
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(found)
    return [json.loads(output) for rank, output in enumerate(outputs) if rank not in mute]


@pytest.mark.processes
def test_ranks_agree_on_kernels_that_are_correct_on_all(tmp_path):
    one = {
        "cuda:float32": (True, {64: 2.0, 1024: 3.0}),
        "triton:float32": (True, {64: 2.0}),
        "triton:float16": (True, {}),
    }
    other = {"cuda:float32": (True, {64: 1.5, 1024: 4.0}), "triton:float32": (False, {})}
    found = ranks(tmp_path, one, other)
    assert found[0] == found[1]
    shared = found[0]["shared"]
    assert set(shared) == {"cuda:float32", "triton:float32"}  # of float16 one rank knows nothing
    assert shared["cuda:float32"] == [True, "", 0.5, {"64": 1.5, "1024": 3.0}]
    assert shared["triton:float32"][:2] == [False, "wrong here"]


@pytest.mark.processes
def test_a_rank_that_never_asks_leaves_eager_to_all(tmp_path):
    right = {"cuda:float32": (True, {64: 2.0})}
    found = ranks(tmp_path, right, right, right, seconds=2, mute=(1,))
    assert [each["shared"] for each in found] == [{}, {}]
    assert all("not all of them asked within 2 s; eager PyTorch runs" in each["told"][0] for each in found)


def test_a_rank_takes_what_all_agreed_on(chooser, monkeypatch):
    monkeypatch.setattr(trial, "ranks", lambda: 2)
    monkeypatch.setattr(trial, "agreed", lambda mine: {"cuda:float32": RIGHT._replace(gains={64: 1.3})})
    found = chooser(Tries(cuda_float32=RIGHT, triton_float32=RIGHT))
    able = ("triton", "cuda")
    assert found.fastest(0, torch.float32, 64, able) is None  # on this card 0.8
    assert set(found.verdicts(0, able)) == {"cuda:float32"}


def test_a_failed_trial_is_the_reason_that_backends_give(store, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(trial, "card_of", lambda index: CARD)
    monkeypatch.setattr(trial, "store", lambda: store)
    for name in ("triton", "cuda"):
        usable = backends.BACKENDS[name]._replace(unusable=lambda: None)
        monkeypatch.setitem(backends.BACKENDS, name, usable)
    assert scvae_fast.backends() == dict.fromkeys(("cpu", "eager", "triton", "cuda"))  # nothing was tried yet
    store.add(CARD.key, "cuda:float32", WRONG)
    store.add(CARD.key, "triton:float32", WRONG)
    store.add(CARD.key, "triton:float16", RIGHT)
    found = scvae_fast.backends()
    assert found["cuda"] == "on a card its trial failed (cuda float32: ∂S has 90.0 times the allowed error)"
    assert found["triton"] is None  # it is right in float16


def test_a_card_is_prepared_before_the_first_call(monkeypatch, chooser):
    tries = Tries(cuda_float32=RIGHT)
    monkeypatch.setattr(trial, "CHOOSER", chooser(tries))
    monkeypatch.setattr(backends, "declines", lambda *_: None)
    backends.prepare(torch.device("cpu"))
    monkeypatch.setenv(backends.PIN, "eager")
    backends.prepare(torch.device("cuda", 0))
    assert tries.calls == []
    monkeypatch.delenv(backends.PIN)
    backends.prepare(torch.device("cuda", 0))
    assert len(tries.calls) == 1


def test_the_automatic_choice_on_a_gpu_asks_the_trial(monkeypatch, chooser):
    device = torch.device("cuda", 0)
    monkeypatch.delenv("SCVAE_FAST_BACKEND", raising=False)
    found = chooser(Tries(triton_float32=RIGHT))
    monkeypatch.setattr(trial, "CHOOSER", found)
    declines = {"cuda": "it lacks something", "triton": None}
    monkeypatch.setattr(backends, "declines", lambda name, *_: declines.get(name))
    assert backends.choose("lista", None, device, torch.float32, 16_384) == "triton"
    assert backends.choose("lista", None, device, torch.float32, 64) == "eager"
    declines["triton"] = "it is too old"
    assert backends.choose("lista", None, device, torch.float32, 16_384) == "eager"


def test_calls_on_a_cpu_try_nothing(monkeypatch):
    monkeypatch.setattr(trial, "CHOOSER", None)
    assert lista(torch.zeros(2, 3), torch.zeros(3, 3), 0.1, 2).shape == (2, 3)


# Of the shapes those that take an emulator or an interpreter seconds.
FEW = "trying.SHAPES = tuple(trying.SHAPES[i] for i in (0, 1, 2, 6, 7))"


@pytest.mark.parametrize("pair", ["cuda:float32", "triton:float32"])
def test_kernels_pass_the_trial(pair, store, tmp_path):
    """On an emulator or an interpreter, in the environment of this process."""
    name = pair.partition(":")[0]
    if name not in FLOAT32_BACKENDS or device_of(name) != "cpu":
        pytest.skip("neither emulated nor interpreted")
    subjects = tmp_path / "subjects.py"
    lines = (
        "from scvae_fast.ops.backends import trying",
        "trying.GRID, trying.TIMED, trying.SAMPLES = (4,), (16, 8, 2), 1",
    )
    subjects.write_text("\n".join((*lines, FEW)), encoding="utf-8")
    trial.run(CARD, store, [pair], subjects=subjects, limit=600, hang=600)
    found = store.verdicts(CARD.key)[pair]
    assert found.reason == ""
    assert found.right
    assert 0 < found.error < 1
