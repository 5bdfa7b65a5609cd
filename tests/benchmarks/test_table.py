"""The table: its cells follow from the samples, and a wrong result has none."""

import json
import statistics

import pytest

from benchmarks import cases, counting, peak, run, table
from benchmarks.cases import Case

PEAK = 1e9


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(table, "COLUMNS", [(2, 0.5), (3, 0.1)])
    monkeypatch.setattr(peak, "multiply_adds_per_second", lambda threads: PEAK)


def test_cells_follow_from_the_samples(tmp_path, capsys):
    assert table.main(["--rows", "32", "--rounds", "3", "--json", str(tmp_path / "out.json")]) == 0
    printed = capsys.readouterr().out
    assert "T=2, d=0.5" in printed
    assert [printed.count(f"{what}, ") for what in ("forward and backward", "forward")] == [1, 2]
    document = json.loads((tmp_path / "out.json").read_text())
    assert document["multiply-adds a second"] == PEAK
    assert [result["case"]["official"] for result in document["results"]] == [True, True, False, False]
    result = document["results"][1]
    case = Case(**result["case"])
    useful = counting.useful(cases.iterates(cases.tensors(case), 3), 256)
    assert result["useful multiply-adds"]["forward"] == useful.forward
    samples, cell = result[run.BOTH], result["figures"][run.BOTH]
    seconds = statistics.median(sample["cpu"] for sample in samples)
    assert cell["share of the peak"] == pytest.approx((useful.forward + useful.backward) / seconds / PEAK)
    ratios = [sample[run.CLEAN] / sample["cpu"] for sample in samples]
    assert cell["× clean eager"] == pytest.approx(statistics.median(ratios))
    assert f"{cell['share of the peak']:.1%}" in printed


def test_without_a_compiler_there_is_no_share_and_it_says_why(monkeypatch, capsys):
    def unknown(threads):
        raise peak.UnknownPeakError("peak: no C++ compiler found")

    monkeypatch.setattr(peak, "multiply_adds_per_second", unknown)
    assert table.main(["--rows", "8", "--rounds", "1"]) == 0
    printed = capsys.readouterr().out
    assert "no share of the peak: peak: no C++ compiler found" in printed
    assert "share of the peak  " not in printed


def test_wrong_result_has_no_cell(monkeypatch, capsys):
    def wrong(t, n_iter):
        z, x_hat = cases.released(t, n_iter)
        return z, x_hat * 1.001

    honest = run.contestants()
    monkeypatch.setattr(run, "contestants", lambda: {**honest, "cpu": wrong})
    assert table.main(["--rows", "8", "--rounds", "1"]) == 1
    printed = capsys.readouterr().out
    assert "M8-T2-d0.5-official: NOT TIMED, wrong result: cpu: error 1.0e-03" in printed
    assert "milliseconds" not in printed


@pytest.mark.parametrize(
    ("words", "message"),
    [(["--rows", "0"], "--rows must be at least 1"), (["--rounds", "0"], "--rounds and --threads must be at least 1")],
)
def test_bad_words_are_refused(words, message, capsys):
    with pytest.raises(SystemExit):
        table.main(words)
    assert message in capsys.readouterr().err


def test_backend_must_be_usable(monkeypatch, capsys):
    monkeypatch.setattr("scvae_fast.backends", lambda: {"cpu": "it was not built"})
    with pytest.raises(SystemExit):
        table.main([])
    assert "the backend 'cpu' can't be used here: it was not built" in capsys.readouterr().err
