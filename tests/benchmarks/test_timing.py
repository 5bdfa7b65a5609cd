"""Timing: in turn, in pairs, and in samples that the clock can resolve."""

import time

from benchmarks import timing
from benchmarks.report import measured


def test_rounds_are_interleaved_and_ratios_paired():
    calls = []
    runs = {name: lambda name=name: calls.append(name) for name in "ab"}
    samples = list(timing.interleaved(runs, rounds=3, warmup=1))
    assert "".join(calls) == "abababab"
    assert len(samples) == 3
    drifting = [{"a": 1.0, "b": 2.0}, {"a": 10.0, "b": 20.0}, {"a": 3.0, "b": 3.0}]
    result = {"kind": "Case", "samples": drifting}
    assert {name: measured.ratio(result, "b", name).median for name in "ab"} == {"a": 2.0, "b": 1.0}
    assert {name: measured.seconds(result, name).median for name in "ab"} == {"a": 3.0, "b": 3.0}


def test_a_sample_is_the_mean_of_its_calls():
    calls = []
    samples = list(timing.interleaved({"a": lambda: calls.append("a")}, rounds=2, warmup=0, calls=5))
    assert len(calls) == 10
    assert len(samples) == 2


def test_a_contestant_settles_before_its_sample(monkeypatch):
    now, calls = [0.0], []
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def runs(name, seconds):
        calls.append(name)
        now[0] += seconds

    contestants = {"a": lambda: runs("a", 0.25), "b": lambda: runs("b", 0.5)}
    samples = list(timing.interleaved(contestants, rounds=2, warmup=0, settling={"a": 0.75}))
    assert "".join(calls) == "aaaab" * 2
    assert samples == [{"a": 0.25, "b": 0.5}] * 2


def test_what_a_timed_call_returns():
    found, seconds = timing.timed(lambda: "codes")
    assert found == "codes"
    assert seconds >= 0


def test_calls_are_repeated_until_the_fastest_takes_long_enough(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def takes(seconds):
        def call():
            now[0] += seconds

        return call

    assert timing.elapsed(takes(0.25), 4) == 1.0
    calls = timing.calls_that_take(2e-3, {"fast": takes(1e-4), "slow": takes(1e-2)})
    assert 20 <= calls <= 30
    assert timing.calls_that_take(2e-3, {"slow": takes(1e-2)}) == 1
