"""Numbers and tables follow from the samples; missing data is named."""

import csv
import io
import math
from pathlib import Path
from typing import Any

import benchmark_results as made
import pytest

from benchmarks import cases
from benchmarks.cases import BACKWARD, BOTH, FORWARD, Case
from benchmarks.model import HABITS, OURS
from benchmarks.report import gains, measured, tables
from benchmarks.report.writing import QUOTED
from benchmarks.rivals import CLEAN, COMPILED, PRODUCTS, RELEASED

LISTA = Case("lista", FORWARD)


def lines(results: Any) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(tables.as_csv(results))))


def test_ratios_are_taken_round_by_round() -> None:
    samples = [
        {RELEASED: 8.0, CLEAN: 2.0, "cpu": 1.0},
        {RELEASED: 80.0, CLEAN: 20.0, "cpu": 10.0},
        {RELEASED: 1.0, CLEAN: 3.0, "cpu": 1.0},
    ]
    result = made.of(LISTA, chosen="cpu", samples=samples)
    assert measured.ratio(result, CLEAN) == pytest.approx((2.0, 2.0, 2.6))
    assert measured.ratio(result, RELEASED) == pytest.approx((3.8, 8.0, 8.0))
    assert measured.ratio(result, PRODUCTS) is None
    assert measured.seconds(result, "cpu") == pytest.approx((1.0, 1.0, 6.4))


def test_csv_has_a_line_for_each_contestant_with_figures_from_the_samples(tmp_path: Path) -> None:
    result = made.timed(LISTA)
    found = {line["contestant"]: line for line in lines(made.results(tmp_path, {"a": [result], "b": [result]}))}
    assert set(found) == {RELEASED, CLEAN, "cpu", PRODUCTS}
    line = found["cpu"]
    assert line["groups"] == "a b"
    assert (line["op"], line["rows"], line["density"], line["dtype"]) == ("lista", "4096", "0.05", "float32")
    assert (line["chosen"], line["status"], found[CLEAN]["chosen"]) == ("True", "measured", "False")
    numbers = {
        "p20 seconds": 1e-3,
        "p50 seconds": 1e-3,
        "p80 seconds": 1e-3,
        "over released": 4,
        "over clean eager": 2,
        "useful multiply-adds a second": 2e10,
        "share of the product ceiling": 0.5,
        "bytes a second": 1e9,
        "error": 1e-6,
        "bytes kept": 2 * 2**20,
    }
    assert {key: float(line[key]) for key in numbers} == pytest.approx(numbers)
    assert found[PRODUCTS]["error"] == found[PRODUCTS]["bytes kept"] == ""


def test_csv_knows_every_kind(tmp_path: Path) -> None:
    found = lines(made.everything(tmp_path))
    assert {line["kind"] for line in found} == set(cases.KINDS)
    released = (line for line in found if line["kind"] == "MemoryCase" and line["contestant"] == RELEASED)
    kept = next(line for line in released if line["n_iter"] == "30")
    assert (int(kept["bytes kept"]), int(kept["bytes at peak"])) == (604 * 2**20, 608 * 2**20)
    solver = next(line for line in found if line["contestant"] == "ISTA, clean eager")
    assert (solver["iterations"], solver["gap reached"], solver["p50 seconds"]) == ("4096", "0.002", "")
    ours = next(line for line in found if line["kind"] == "ModelCase" and line["contestant"] == OURS)
    assert (float(ours["over released"]), float(ours["over clean eager"])) == (4, 2)


def test_csv_names_what_was_not_timed(tmp_path: Path) -> None:
    wrong = made.timed(LISTA)
    wrong["wrong"] = {"cpu": "z: error 1"}
    wrong["samples"] = [{CLEAN: 1.0}] * 3
    members = [
        wrong,
        made.of(LISTA._replace(rows=1), raised="Traceback\n  x\nMemoryError: no more"),
        made.of(LISTA._replace(rows=2), **{"left out": {CLEAN: "needs 99 GiB"}}),
    ]
    found = {
        (line["rows"], line["contestant"]): line["status"] for line in lines(made.results(tmp_path, {"a": members}))
    }
    assert found["4096", "cpu"] == "wrong: z: error 1"
    assert found["1", ""] == "raised: MemoryError: no more"
    assert found["2", CLEAN] == "left out: needs 99 GiB"


def test_slower_cases_are_found_and_noise_is_distinguished(tmp_path: Path) -> None:
    members = [
        made.timed(LISTA._replace(rows=1), ours=1.0, clean=2.0),
        made.timed(LISTA._replace(rows=2), ours=2.2, clean=2.0),
        made.timed(LISTA._replace(rows=3), ours=2.05, clean=2.0, noise=0.05),
        made.timed(LISTA._replace(rows=4), ours=3.0, clean=9.0, released=2.0),
        made.of(LISTA._replace(rows=5), raised="Error"),
        made.model(),
    ]
    found, compared = measured.losing(made.results(tmp_path, {"a": members}))
    assert compared == 5
    assert [(loss.result["settings"]["rows"], loss.rival, loss.clearly) for loss in found] == [
        (4, RELEASED, True),
        (2, CLEAN, True),
        (3, CLEAN, False),
    ]
    assert found[1].ratio.median == pytest.approx(2 / 2.2)


def test_a_rival_that_is_missing_is_no_loss(tmp_path: Path) -> None:
    result = made.timed(LISTA, ours=3.0)
    for sample in result["samples"]:
        del sample[CLEAN]
    assert measured.losing(made.results(tmp_path, {"a": [result]})) == ([], 1)
    del result["samples"]
    assert measured.losing(made.results(tmp_path, {"a": [result]})) == ([], 0)


def test_the_fastest_compiled_rival_counts() -> None:
    result = made.timed(LISTA)
    for sample in result["samples"]:
        sample |= {CLEAN + COMPILED: 3e-3, CLEAN + COMPILED + " max-autotune": 1.2e-3}
    assert measured.against(result)["compiled"].median == pytest.approx(1.2)


@pytest.mark.parametrize(
    ("difference", "said"), [(0.0, "agrees"), (0.009, "agrees"), (0.02, "differs"), (-0.02, "differs")]
)
def test_parity_is_judged_by_the_deviation_of_the_seeds(difference: float, said: str) -> None:
    result = made.parity(difference)
    verdict = measured.verdict(result)
    assert verdict is not None
    assert verdict == pytest.approx((1.0 + difference, 1.0, 0.01))
    assert (tables.parity(result) or "").startswith(f"Training {said}")


def test_parity_can_not_be_judged_by_one_seed_or_one_side() -> None:
    single = made.parity(0.5, seeds=1)
    assert "One seed can't tell" in (tables.parity(single) or "")
    del single["losses"][HABITS]
    assert measured.verdict(single) is None
    broken = made.parity(math.nan)
    assert (tables.parity(broken) or "").startswith("Training differs")


def test_headline_has_a_column_for_each_length_and_density(tmp_path: Path) -> None:
    found = QUOTED["headline"](made.everything(tmp_path)).splitlines()
    assert found[0] == "|  | T = 5, d = 0.5 | T = 5, d = 0.05 | T = 30, d = 0.5 | T = 30, d = 0.05 |"
    cells = ["4.0 × (2.0), 20 %"] * 2 + ["1.1 × (0.57), 6 %"] * 2
    assert found[2] == "| " + " | ".join(["forward, γ = c", *cells]) + " |"
    ways = ("forward", "forward and backward")
    assert [line.split(" | ")[0] for line in found[2:]] == [f"| {way}, γ = {g}" for g in ("c", "1") for way in ways]


def test_headline_without_a_peak_has_no_share(tmp_path: Path) -> None:
    results = made.results(tmp_path, {"headline": [made.timed(LISTA)]}, ceilings={"product": {}})
    assert tables.headline(results).rows == [["forward, γ = c", "4.0 × (2.0)"]]


def test_a_case_without_our_time_is_named(tmp_path: Path) -> None:
    result = made.of(LISTA, raised="Traceback\nMemoryError: no more")
    with pytest.raises(tables.TableError, match=f"{LISTA.name}.*MemoryError: no more"):
        tables.headline(made.results(tmp_path, {"headline": [result]}))
    results = made.results(tmp_path, {"headline": [result]}, results=[])
    with pytest.raises(tables.TableError, match="was not measured"):
        tables.headline(results)


@pytest.mark.parametrize("name", [name for name in QUOTED if name != "environment"])
def test_every_table_names_what_it_lacks(name: str, tmp_path: Path) -> None:
    with pytest.raises(tables.TableError, match=f"^{name}: "):
        QUOTED[name](made.results(tmp_path, {}))


def test_memory_says_what_is_kept_and_the_peak(tmp_path: Path) -> None:
    assert QUOTED["memory"](made.everything(tmp_path)).splitlines()[2:] == [
        "| `sparse_code` | 14 MiB, peak 18 | 14 MiB, peak 18 |",
        "| tuned loop | 54 MiB, peak 58 | 304 MiB, peak 308 |",
        "| naive loop | 104 MiB, peak 108 | 604 MiB, peak 608 |",
    ]


def test_accuracy_lists_errors_by_contestant_and_iterations(tmp_path: Path) -> None:
    found = tables.accuracy(made.everything(tmp_path))
    assert found.head == ["T = 5 / 16 / 30", "codes", "x̂", "∂x", "∂W_e", "∂S", "∂θ", "∂D"]
    rows = {row[0]: row[1:] for row in found.rows}
    assert rows["`cpu`, float32, in units of 10⁻⁷"][0] == "10 / 10 / 10"
    assert rows["`cpu`, float32, in units of 10⁻⁷"][1] == "8.0 / 8.0 / 8.0"
    assert rows["tuned loop, float32, in units of 10⁻⁷"][5] == "–"


def test_losing_counts_and_lists(tmp_path: Path) -> None:
    fast, slow = made.timed(LISTA), made.timed(LISTA._replace(rows=16), ours=2.5)
    found = tables.losing(made.results(tmp_path, {"crossover": [fast, slow]}))
    assert found.startswith(
        "scvae_fast was at least as fast as the faster eager loop in 1 of 2 cases, and slower in 1: clearly in 1"
    )
    assert "M = 16" in found
    assert "0.80 (0.80–0.80)" in found
    assert "M = 4096" not in found
    assert "slower" not in tables.losing(made.results(tmp_path, {"crossover": [fast]}))


def test_gains_set_the_loops_beside_the_call(tmp_path: Path) -> None:
    found = gains.gains(made.everything(tmp_path))
    assert found.head == ["", "the loop", "`addmm`, `softshrink`", "`sparse_code`", "gain over each"]
    assert found.rows[0] == [
        "forward, T = 5, 5 % not zero",
        "4.00 ms",
        "2.00 ms",
        "1.00 ms",
        "4.00 × / 2.00 ×",
    ]
    assert found.rows[-1] == ["kept for the backward pass, T = 30", "604 MiB", "304 MiB", "14 MiB", "43 × / 22 ×"]
    assert [row[0].split(", ")[1:] for row in found.rows].count(["T = 30", "50 % not zero"]) == 2
    assert not any("T = 5, 50 %" in row[0] for row in found.rows)


def test_the_example_is_the_longest_case_of_sparse_codes(tmp_path: Path) -> None:
    assert gains.example(made.everything(tmp_path)) == (
        "With T = 30 the loop takes 4.00 ms, or 4.00 ms with its backward pass, and autograd keeps 604 MiB for it. "
        "`sparse_code` takes 3.50 ms, or 3.50 ms, and keeps 14 MiB."
    )


def test_the_nearest_case_is_found_by_its_sizes(tmp_path: Path) -> None:
    members = [
        made.timed(Case("lista", way, rows=M), ours=ours) for way in (FORWARD, BOTH) for M, ours in ((16, 4), (1, 1))
    ]
    members += [
        made.timed(Case("lista", FORWARD, rows=4, dtype="float64")),
        made.timed(Case("decode", FORWARD, rows=4)),
    ]
    members += [made.of(LISTA, raised="MemoryError")]
    rows = gains.nearest(made.results(tmp_path, {"crossover": members})).rows
    assert rows == [
        ["1", "5", "5 %", "h(c b)", "2.00 ×", "2.00 ×"],
        ["16", "5", "5 %", "h(c b)", "0.50 ×", "0.50 ×"],
    ]


def test_lasso_dictionary_learning_and_model(tmp_path: Path) -> None:
    results = made.everything(tmp_path)
    found = tables.lasso(results)
    assert found.head[1:] == ["ISTA, cpu", "ISTA, tuned loop", "FISTA, eager"]
    assert found.rows == [
        [
            "patches, DCT dictionary, M = 1,024, n = 64, K = 256, λ = 0.5",
            "20.0 ms (512)",
            "gap 2.0e-03 (4096)",
            "10.0 ms (64)",
        ]
    ]
    assert tables.dictionary_learning(results).rows == [
        ["scvae_fast.estimators.OnlineDictionaryLearning", "500 ms", "7.5000"],
        ["scikit-learn, MiniBatchDictionaryLearning", "10.00 s", "7.7500"],
    ]
    assert tables.model(results).rows[0] == ["training step", "4.00", "8.00 (2.0 ×)", "10.0 (2.5 ×)", "16.0 (4.0 ×)"]


@pytest.mark.parametrize("extent", cases.EXTENTS)
def test_the_command_is_that_of_the_plan(extent: cases.Extent, tmp_path: Path) -> None:
    names = {group: [case.name for case in members] for group, members in cases.plan("cpu", extent).items()}
    results = made.results(tmp_path, {}, groups=names)
    words = {"quick": " --quick", "standard": "", "full": " --full"}[extent]
    assert tables.command(results) == f"python -m benchmarks{words}"
    assert "commit 0123456789ab" in tables.measured_on(results)
    assert tables.command(made.results(tmp_path, {"a": [made.timed(LISTA)]})) == "python -m benchmarks --case …"


def test_labels_tell_what_differs() -> None:
    found = [made.timed(Case("sparse_code", way, rows=M)) for way in (FORWARD, BACKWARD, BOTH) for M in (1, 16)]
    common, each = tables.labels(found)
    assert common == "sparse_code, T = 5, d = 0.05, K = 512, float32, DCT dictionary, γ = c"
    assert each[0] == "forward, M = 1"
    assert each[-1] == "forward and backward, M = 16"


def test_recording_by_autograd_counts_as_part_of_the_operation() -> None:
    names = ["GeneratedBackwardFor_scvae_fast_sparse_code_default", "aten::mm", "scvae_fast::sparse_code_backward"]
    names += ["scvae_fast::sparse_code", "GeneratedBackwardFor_scvae_fast_sparse_code_defaultBackward"]
    result = {"profile": {"ours": [[name, 0.1 * (i + 1)] for i, name in enumerate(names)]}}
    (found,) = measured.profile(result).values()
    assert [name for name, _ in found] == ["scvae_fast::sparse_code_backward", "scvae_fast::sparse_code", "aten::mm"]
    assert [share for _, share in found] == pytest.approx([0.8, 0.5, 0.2])
