"""Autotuning: the choice of tiles, and its file. Times are made up, so no card is needed."""

import json

import pytest
import torch

pytest.importorskip("triton", reason="there is no triton on this platform")

from scvae_fast.ops.backends.triton import autotune, launch
from scvae_fast.ops.backends.triton.autotune import Choice, Tuner
from scvae_fast.ops.backends.triton.tiles import Card, fitting

H200 = Card((9, 0), 232_448, 132, 50 << 20, "H200")
CANDIDATES = [Choice(tile, way) for tile in fitting(H200, torch.bfloat16) for way in (False, True)]
TABLE, OTHER, THIRD = CANDIDATES[2], CANDIDATES[5], CANDIDATES[0]


class Clock:
    """Calls its argument, and returns the made-up time of the choice that ran last."""

    def __init__(self, seconds):
        self.seconds, self.ran = seconds, []

    def __call__(self, run):
        run()
        return self.seconds.get(self.ran[-1], 9.0)


def tuned(file, seconds, key="problem"):
    """A tuner on that file, its clock, and its choice."""
    clock = Clock(seconds)
    tuner = Tuner(file, clock)
    return tuner, clock, tuner.tune(key, TABLE, CANDIDATES, clock.ran.append)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ({TABLE: 2.0, OTHER: 1.0}, OTHER),
        ({TABLE: 1.0, OTHER: 2.0}, TABLE),
        ({TABLE: 1.0, OTHER: 1.0, THIRD: 1.0}, TABLE),
        ({TABLE: 1.01, OTHER: 1.0}, TABLE),  # by less than noise
    ],
)
def test_fastest_is_chosen_and_the_tables_where_none_is_faster(tmp_path, seconds, expected):
    _, clock, found = tuned(tmp_path / "triton.json", seconds)
    assert found == expected
    assert set(clock.ran) == set(CANDIDATES)


def test_choices_come_back_from_the_file(tmp_path):
    file = tmp_path / "folder" / "triton.json"
    tuner, _, _ = tuned(file, {OTHER: 1.0})
    assert tuner.known("problem", CANDIDATES) == OTHER
    again = Tuner(file, Clock({}))
    assert again.known("problem", CANDIDATES) == OTHER
    assert again.known("another problem", CANDIDATES) is None


def test_former_candidates_are_ignored(tmp_path):
    tuner, _, _ = tuned(tmp_path / "triton.json", {OTHER: 1.0})
    assert tuner.known("problem", [TABLE, THIRD]) is None


def test_last_writer_keeps_the_choices_of_others(tmp_path):
    file = tmp_path / "triton.json"
    one, another = (Tuner(file, Clock({})) for _ in range(2))  # both have seen no file
    one.tune("first", TABLE, [TABLE], lambda choice: one.clock.ran.append(choice))
    another.tune("second", OTHER, [OTHER], lambda choice: another.clock.ran.append(choice))
    last = Tuner(file, Clock({}))
    assert last.known("first", CANDIDATES) == TABLE
    assert last.known("second", CANDIDATES) == OTHER
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "can't be read"),
        ("[]", "holds no choices of tiles of schema 1"),
        ('{"schema": 0, "choices": {}}', "holds no choices of tiles of schema 1"),
        ('{"schema": 1, "choices": []}', "holds no choices of tiles of schema 1"),
    ],
)
def test_a_file_of_another_schema_is_replaced_with_one_warning(tmp_path, text, message):
    file = tmp_path / "triton.json"
    file.write_text(text)
    with pytest.warns(UserWarning, match=message) as warned:
        tuned(file, {OTHER: 1.0})
    assert len(warned) == 1
    assert Tuner(file, Clock({})).known("problem", CANDIDATES) == OTHER


def test_where_nothing_can_be_written_choices_stay_in_memory_with_one_warning(tmp_path):
    (tmp_path / "file").write_text("")
    clock = Clock({OTHER: 1.0})
    tuner = Tuner(tmp_path / "file" / "triton.json", clock)
    with pytest.warns(UserWarning, match=r"can't be written .*kept for this process alone"):
        tuner.tune("first", TABLE, CANDIDATES, clock.ran.append)
    tuner.tune("second", TABLE, CANDIDATES, clock.ran.append)  # a second warning would be an error
    assert tuner.known("first", CANDIDATES) == tuner.known("second", CANDIDATES) == OTHER


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """Tuning for an imaginary card with a made-up clock, where all tiles fit. Returns the choices that were run."""
    clock = Clock({OTHER: 1.0})
    monkeypatch.setattr(launch, "unmet", lambda problem, go: 0)
    monkeypatch.setenv("SCVAE_FAST_AUTOTUNE", "1")
    monkeypatch.setenv("SCVAE_FAST_CACHE", str(tmp_path))
    monkeypatch.setattr(autotune, "interpreted", lambda: False)
    monkeypatch.setattr(autotune, "seconds", clock)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    return clock.ran


def chosen(ran, M=4096, direction="forward"):
    return autotune.choice(H200, direction, torch.bfloat16, M, 512, 256, direction, ran.append)


def table(M=4096):
    return launch.choice(H200, torch.bfloat16, M, 512)


def test_tunes_once_for_problems_of_the_same_class(asked, tmp_path):
    assert chosen(asked) == OTHER
    assert set(asked) == set(CANDIDATES)
    asked.clear()
    assert chosen(asked, M=2049) == OTHER
    assert not asked
    chosen(asked, M=2048)
    chosen(asked, direction="backward")
    assert len(asked) == 2 * len(CANDIDATES)
    assert len(json.loads((tmp_path / "triton.json").read_text())["choices"]) == 3


@pytest.mark.parametrize("value", [None, "", "0"])
def test_without_the_variable_the_table_decides(asked, monkeypatch, value):
    if value is None:
        monkeypatch.delenv("SCVAE_FAST_AUTOTUNE")
    else:
        monkeypatch.setenv("SCVAE_FAST_AUTOTUNE", value)
    assert chosen(asked) == table()
    assert not asked


def test_tiles_that_do_not_fit_after_compilation_are_never_chosen(asked, monkeypatch):
    """Even if they were chosen before."""
    assert chosen(asked) == OTHER
    asked.clear()
    monkeypatch.setattr(launch, "unmet", lambda problem, go: 300_000 * (problem[1] in (OTHER, TABLE)))
    found = chosen(asked)
    assert (found.tile, found.by_iteration) == (fitting(H200, torch.bfloat16)[3], OTHER.by_iteration)
    chosen(asked, M=1 << 20)
    assert set(asked) == set(CANDIDATES) - {OTHER, TABLE}


def test_while_a_graph_is_captured_nothing_is_timed(asked, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert chosen(asked) == table()
    assert not asked
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    chosen(asked)
    asked.clear()
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert chosen(asked) == OTHER  # what is known holds there too
    assert not asked


def test_interpreted_forced_or_without_rows_nothing_is_timed(asked, monkeypatch):
    assert chosen(asked, M=0) == table(0)
    with launch.forced(by_iteration=True):
        assert chosen(asked).by_iteration
    monkeypatch.setattr(autotune, "interpreted", lambda: True)
    assert chosen(asked) == table()
    assert not asked


def test_where_every_iteration_has_to_be_a_launch_nothing_else_is_timed(asked):
    found = autotune.choice(H200, "backward", torch.bfloat16, 4096, 512, 256, "", asked.append, launches=True)
    assert found == OTHER
    assert set(asked) == {choice for choice in CANDIDATES if choice.by_iteration}
    with launch.forced(by_iteration=False):
        assert launch.choice(H200, torch.bfloat16, 4096, 512, launches=True).by_iteration


def test_another_value_of_the_variable_is_refused(asked, monkeypatch):
    monkeypatch.setenv("SCVAE_FAST_AUTOTUNE", "yes")
    with pytest.raises(ValueError, match="SCVAE_FAST_AUTOTUNE must be 0 or 1, got 'yes'"):
        chosen(asked)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"SCVAE_FAST_CACHE": "/a"}, "/a/triton.json"),
        ({"XDG_CACHE_HOME": "/b"}, "/b/scvae_fast/triton.json"),
        ({"HOME": "/c"}, "/c/.cache/scvae_fast/triton.json"),
    ],
)
def test_folder_of_the_file(monkeypatch, variables, expected):
    for name in ("SCVAE_FAST_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert autotune.path().as_posix() == expected
