"""The report of a run: files, page, summary, README."""

import io
import re
from html.parser import HTMLParser
from pathlib import Path

import benchmark_results as made
import numpy as np
import pytest
from PIL import Image

from benchmarks.cases import BOTH, FORWARD, Case
from benchmarks.report import plots
from benchmarks.report import writing as report
from benchmarks.report.page import GROUPS, html
from benchmarks.results import Results
from benchmarks.rivals import CLEAN

ROOT = Path(__file__).resolve().parent.parent.parent
LISTA = Case("lista", FORWARD)
VOID = {"meta", "img", "br", "link", "input", "hr"}
README = """# A project

<!-- benchmarks: environment of HERE -->
outdated
<!-- /benchmarks -->

between

<!-- benchmarks: memory of another-machine -->
| stays |
<!-- /benchmarks -->

<!-- benchmarks: memory of HERE -->
| outdated |
<!-- /benchmarks -->
"""


class Page(HTMLParser):
    """Notes text, pictures and whether every tag is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []
        self.headings: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


def page_of(results: Results) -> Page:
    report.write(results)
    return Page((results.folder / report.PAGE).read_text(encoding="utf-8"))


def troubled(folder: Path) -> Results:
    """A stopped run with every kind of problem."""
    wrong = made.timed(LISTA._replace(direction=BOTH))
    wrong["wrong"] = {"cpu": "∂theta: error 9e-5, allowed 1e-6"}
    for sample in wrong["samples"]:
        del sample["cpu"]
    alone = made.timed(LISTA._replace(rows=2))
    alone["left out"] = {"released formula": "needs about 99 GiB"}
    alone["samples"] = [{"cpu": 1e-3}]
    members = [
        wrong,
        alone,
        made.of(LISTA._replace(rows=3), raised="Traceback\n  File\nMemoryError: <no> more"),
        made.of(LISTA._replace(rows=4), **{"left out": {CLEAN: "needs about 88 GiB"}}),
        made.of(made.ModelCase(BOTH, "pictures64"), raised="ValueError: a model"),
        made.of(made.MemoryCase("sparse_code"), raised="NoCountError: not Linux"),
        made.of(made.LassoCase(), raised="ValueError: a solver"),
        made.of(made.DictionaryLearningCase(), raised="ValueError: a learner"),
        made.of(made.ParityCase("pictures64"), raised="ValueError: a loss"),
    ]
    names = {"crossover": [r["name"] for r in members], "rows": ["never-measured"]}
    return made.results(folder, {"crossover": members}, groups=names)


def test_the_page_holds_every_group_and_picture_and_nothing_from_elsewhere(tmp_path: Path) -> None:
    results = made.everything(tmp_path)
    page = page_of(results)
    assert {GROUPS[group][0] for group in results.document["groups"]} <= set(page.headings)
    assert page.headings[0] == "What will I gain?"
    pictures = [source for source in page.sources if source.startswith("data:image/png;base64,")]
    assert len(pictures) == len(plots.PICTURES)
    assert all(source.startswith(("data:", "#")) for source in page.sources)
    text = (tmp_path / report.PAGE).read_text(encoding="utf-8")
    assert "http" not in re.sub(r"data:image/png;base64,[\w+/=]*", "", text)  # pictures hold any four letters
    for said in (
        "A Processor, 2 cores",
        "0123456789ab",
        "Training agrees",
        "aten::convolution",
        "1.00 ± 0.00",
        "p80 ms",
    ):
        assert said in page.text


def test_files_are_written_and_pictures_without_data_go_away(tmp_path: Path) -> None:
    report.write(made.everything(tmp_path))
    there = {path.name for path in tmp_path.iterdir()}
    assert there == {report.CSV, report.PAGE, *plots.PICTURES}
    report.write(made.results(tmp_path, {"headline": [made.timed(LISTA)]}))
    assert {path.name for path in tmp_path.iterdir()} == {report.CSV, report.PAGE, "roofline.png"}


def test_a_run_without_results_has_a_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = page_of(made.results(tmp_path, {}))
    assert "0 cases were measured" in page.text
    report.summary(made.results(tmp_path, {}))
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_the_page_names_what_went_wrong(tmp_path: Path) -> None:
    page = page_of(troubled(tmp_path))
    for said in (
        "1 were wrong, and were not timed",
        "∂theta: error 9e-5, allowed 1e-6",
        "needs about 99 GiB",
        "needs about 88 GiB",
        "MemoryError: <no> more",
        "ValueError: a model",
        "NoCountError: not Linux",
        "1 more are missing",
    ):
        assert said in page.text


def test_the_page_lists_slower_cases(tmp_path: Path) -> None:
    slow = made.timed(Case("lista", BOTH, rows=16), ours=2.5)
    page = page_of(made.results(tmp_path, {"crossover": [made.timed(LISTA), slow]}))
    assert "In 1 of 2 cases scvae_fast was slower than the faster eager loop: in 1 clearly" in page.text
    assert "0.80 (0.80–0.80)" in page.text


def test_the_summary_fits_a_page_and_tells_losses_from_noise(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = made.everything(tmp_path)
    report.summary(results)
    found = capsys.readouterr().out.splitlines()
    assert len(found) <= 60
    assert found[0].startswith("A Processor, 2 cores, 2 threads")
    line = next(line for line in found if line.startswith("decode: decode, forward"))
    assert line.split()[-5:-1] == ["4.00", "2.00", "1.50", "±0"]
    kept = "MiB kept (peak): naive loop 104 (108); tuned loop 54 (58); scvae_fast (cpu) 14 (18)"
    assert f"memory, sparse_code, T = 5, {kept}" in found
    noisy = made.timed(LISTA, ours=2.02, noise=0.05)
    slow = made.timed(LISTA._replace(rows=16), ours=2.5)
    report.summary(made.results(tmp_path, {"crossover": [noisy, slow]}))
    text = capsys.readouterr().out
    assert "2 of 2 cases" in text
    clearly, within = text.index("  clearly:"), text.index("  within the noise:")
    assert clearly < text.index(slow["name"]) < within < text.index(noisy["name"])


def test_the_summary_of_a_quick_run_is_short(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    members = [made.timed(Case("DictionaryLISTA", way, n_iter=T)) for T in (5, 30) for way in (FORWARD, BOTH)]
    report.summary(made.results(tmp_path, {"layer": members}))
    assert len(capsys.readouterr().out.splitlines()) <= 12


def test_the_summary_names_what_went_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report.summary(troubled(tmp_path))
    text = capsys.readouterr().out
    for said in ("WRONG: ", "RAISED: ", "left out: ", "not measured yet: 1 cases"):
        assert said in text


def test_readme_tables_are_replaced_and_the_rest_stays(tmp_path: Path) -> None:
    results = made.everything(tmp_path)
    results.write()
    readme = tmp_path / "README.md"
    readme.write_text(README.replace("HERE", tmp_path.name), encoding="utf-8")
    assert report.main([str(tmp_path), "--docs"], [readme]) == 0
    text = readme.read_text(encoding="utf-8")
    assert "outdated" not in text
    assert "| stays |" in text
    assert text.startswith(
        f"# A project\n\n<!-- benchmarks: environment of {tmp_path.name} -->\n\nMeasured on A Processor"
    )
    assert report.QUOTED["memory"](results) in text
    assert "\nbetween\n" in text
    assert text.endswith("|\n\n<!-- /benchmarks -->\n")
    assert report.rewritten(text, results) == text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("# Nothing here\n", "no line <!-- benchmarks: NAME of "),
        ("<!-- benchmarks: speed of HERE -->\n<!-- /benchmarks -->\n", "no table 'speed'; there are example, "),
        ("<!-- benchmarks: memory of HERE -->\noutdated\n", "'memory' has no line"),
        (
            "<!-- benchmarks: memory of HERE -->\n<!-- benchmarks: lasso of HERE -->\n<!-- /benchmarks -->\n",
            "'memory' has no line",
        ),
        ("<!-- /benchmarks -->\n", "ends no table"),
        (
            "<!-- benchmarks: memory of HERE -->\n<!-- /benchmarks -->\n"
            "<!-- benchmarks: model of HERE -->\n<!-- /benchmarks -->\n",
            "model: ",
        ),
    ],
)
def test_a_readme_that_can_not_be_rewritten_stays_as_it_is(
    text: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made.results(tmp_path, {"memory": [made.memory(5)]}).write()
    readme = tmp_path / "README.md"
    text = text.replace("HERE", tmp_path.name)
    readme.write_text(text, encoding="utf-8")
    assert report.main([str(tmp_path), "--docs"], [readme]) == 1
    assert readme.read_text(encoding="utf-8") == text
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1
    assert said in errors[0]


def test_a_folder_without_results_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report.main([str(tmp_path)]) == 1
    assert "results.json is missing" in capsys.readouterr().err


@pytest.mark.browser
def test_the_page_on_a_telephone_and_at_night(browser_path: str, tmp_path: Path) -> None:
    from playwright.sync_api import sync_playwright

    folder = ROOT / "benchmarks" / "results" / "amd-epyc-2-cores"
    pictures = {path.name: path.read_bytes() for path in folder.glob("*.png")}
    (tmp_path / "page.html").write_text(html(Results.read(folder), pictures), encoding="utf-8")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--headless", "--no-sandbox"])
        shown = browser.new_page(viewport={"width": 390, "height": 800}, color_scheme="dark")
        shown.goto((tmp_path / "page.html").as_uri())
        shown.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
        ends = "heads => heads.map(head => [head.textContent, head.getBoundingClientRect().right])"
        ratios = [
            (text, right)
            for text, right in shown.locator("table:not(details details *) th").evaluate_all(ends)
            if re.fullmatch("forward|both|vs (naive|tuned) loop", text)
        ]
        assert len(ratios) > 10
        assert not [each for each in ratios if each[1] > 390]
        assert shown.evaluate("document.documentElement.scrollWidth") == 390
        chart = Image.open(io.BytesIO(shown.locator("figure img").first.screenshot())).convert("L")
        browser.close()
    assert np.asarray(chart)[:5, :5].max() < 60  # its background


@pytest.mark.parametrize("page", report.PAGES, ids=lambda path: path.stem)
def test_the_tables_are_those_of_the_committed_results(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    folders = set(re.findall(r"<!-- benchmarks: \S+ of (\S+) -->", text))
    assert folders
    for folder in folders:
        assert report.rewritten(text, Results.read(ROOT / "benchmarks" / "results" / folder)) == text
