"""The results file of a run: written after every case, continued in the same environment, otherwise refused."""

import json

import pytest

from benchmarks import cases
from benchmarks.cases import FORWARD, Case
from benchmarks.results import FILE, SCHEMA, Results, ResultsError

HERE = {"device": "abacus", "commit": "1", "scvae_fast": "0", "torch": "2", "threads": 1, "allocator": "default"}
HERE["native module"] = None
ONE, TWO = Case("lista", FORWARD, rows=1), Case("lista", FORWARD, rows=2)


def test_every_result_is_written_at_once_and_replaces_an_older_one(tmp_path):
    held = Results.begin(tmp_path / "new", HERE, fresh=False)
    held.add(ONE, {"samples": [1]})
    held.add(TWO, {"raised": "no luck"})
    held.add(ONE, {"samples": [2]})
    found = Results.read(tmp_path / "new")
    assert {r["name"]: r.get("samples") for r in found.document["results"]} == {ONE.name: [2], TWO.name: None}
    assert found.done() == {ONE.name}  # what raised is measured again
    assert cases.cases_of(found[TWO.name]) == TWO
    with pytest.raises(KeyError, match="no result of lista-"):
        found["lista-backward"]


def test_a_run_continues_only_in_the_same_environment(tmp_path):
    Results.begin(tmp_path, HERE, fresh=False).add(ONE, {})
    assert Results.begin(tmp_path, {**HERE, "python": "another"}, fresh=False).done() == {ONE.name}
    with pytest.raises(ResultsError, match=r"measured elsewhere \(commit: 1 then, 2 now\).*--out.*--fresh"):
        Results.begin(tmp_path, {**HERE, "commit": "2"}, fresh=False)
    assert Results.begin(tmp_path, {**HERE, "commit": "2"}, fresh=True).done() == set()


def test_groups_grow_and_keep_their_order(tmp_path):
    held = Results.begin(tmp_path, HERE, fresh=False)
    held.note_groups({"rows": [TWO]})
    held.note_groups({"rows": [ONE, TWO]})
    held.add(ONE, {})
    assert [r["name"] for r in held.group("rows")] == [ONE.name]
    held.add(TWO, {})
    assert [r["name"] for r in held.group("rows")] == [TWO.name, ONE.name]
    assert held.group("unknown") == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "is missing: no benchmarks were run into"),
        ("{", "can't be read"),
        ("[]", "has the schema None, this version reads"),
        (json.dumps({"schema": "other, 2"}), f"has the schema 'other, 2', this version reads {SCHEMA!r}"),
    ],
)
def test_files_of_another_kind_are_refused(tmp_path, text, message):
    if text is not None:
        (tmp_path / FILE).write_text(text)
    with pytest.raises(ResultsError, match=message):
        Results.read(tmp_path)
