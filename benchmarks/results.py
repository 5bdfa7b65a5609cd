"""The results file of a run, rewritten after every case, so that a stopped run can be continued."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks import environment
from benchmarks.cases import AnyCase
from scvae_fast._files import write_json

SCHEMA = "scvae_fast benchmarks, 1"
FILE = "results.json"


class ResultsError(RuntimeError):
    """A results file can't be used; the message gives the reason and the remedy."""


class Results:
    """The results of a run so far, in `folder`/results.json.

    Attributes:
        document: everything: "schema", "environment", "ceilings", "groups" (names of cases) and "results", each with
            the "name", "kind" and "settings" of its case and the measurements.
    """

    def __init__(self, folder: Path, document: dict[str, Any]) -> None:
        """Nothing is written before the first result."""
        self.folder, self.document = folder, document

    @classmethod
    def read(cls, folder: Path) -> Results:
        """The results of a folder.

        Raises:
            ResultsError: there are none, or they have another schema.
        """
        path = folder / FILE
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ResultsError(f"{path} is missing: no benchmarks were run into {folder}") from None
        except (OSError, ValueError) as error:
            raise ResultsError(f"{path} can't be read: {error}") from error
        found = document.get("schema") if isinstance(document, dict) else None
        if found != SCHEMA:
            raise ResultsError(f"{path} has the schema {found!r}, this version reads {SCHEMA!r}: choose another folder")
        return cls(folder, document)

    @classmethod
    def begin(cls, folder: Path, found: Mapping[str, Any], *, fresh: bool) -> Results:
        """Results to add to: those of the folder, if they were measured in this environment, otherwise new ones.

        Raises:
            ResultsError: the folder's results have another environment or schema, and `fresh` is not set.
        """
        if fresh or not (folder / FILE).exists():
            return cls(folder, {"schema": SCHEMA, "environment": dict(found), "groups": {}, "results": []})
        held = cls.read(folder)
        before = held.document["environment"]
        other = [
            f"{key}: {before.get(key)} then, {found[key]} now"
            for key in environment.DECISIVE
            if before.get(key) != found[key]
        ]
        if other:
            raise ResultsError(
                f"{folder / FILE} was measured elsewhere ({'; '.join(other)}): choose another folder with --out, or "
                "replace it with --fresh"
            )
        return held

    def done(self) -> set[str]:
        """Names of the cases that need no new measurement; cases that raised do."""
        return {result["name"] for result in self.document["results"] if "raised" not in result}

    def add(self, case: AnyCase, found: Mapping[str, Any]) -> dict[str, Any]:
        """Store the results of a case, replacing earlier ones.

        Raises:
            OSError: the folder can't be written to.
        """
        result = {"name": case.name, "kind": type(case).__name__, "settings": case._asdict(), **found}
        others = [known for known in self.document["results"] if known["name"] != case.name]
        self.document["results"] = [*others, result]
        self.write()
        return result

    def note_groups(self, groups: Mapping[str, Iterable[AnyCase]]) -> None:
        """Add the cases to their groups."""
        held = self.document["groups"]
        for group, members in groups.items():
            held[group] = list(dict.fromkeys([*held.get(group, []), *(case.name for case in members)]))

    def write(self) -> None:
        """Write the file atomically."""
        write_json(self.folder / FILE, self.document)

    def __getitem__(self, name: str) -> dict[str, Any]:
        """The results of the case with this name.

        Raises:
            KeyError: there are none.
        """
        try:
            return self._by_name()[name]
        except KeyError:
            raise KeyError(f"no result of {name} in {self.folder / FILE}") from None

    def group(self, name: str) -> list[dict[str, Any]]:
        """The results of a group, in order."""
        by_name = self._by_name()
        return [by_name[member] for member in self.document["groups"].get(name, []) if member in by_name]

    def _by_name(self) -> dict[str, dict[str, Any]]:
        return {result["name"]: result for result in self.document["results"]}
