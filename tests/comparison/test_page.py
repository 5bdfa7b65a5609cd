"""docs/comparison.md agrees with the JSON file next to it."""

from pathlib import Path

import pytest

from scvae_fast.comparison.page import stored, with_table, write_page
from scvae_fast.comparison.settings import METHODS
from scvae_fast.errors import UsageError

PAGE = Path(__file__).parents[2] / "docs" / "comparison.md"


def test_the_page_is_that_of_its_results() -> None:
    assert PAGE.read_text(encoding="utf-8") == with_table(PAGE, stored(PAGE))


def test_all_methods_are_in_it() -> None:
    assert [row["method"] for row in stored(PAGE)["rows"]] == list(METHODS)


def test_a_page_without_markers_is_left_alone(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("no place\n", encoding="utf-8")
    with pytest.raises(UsageError, match="must have the lines"):
        write_page(page, {"rows": []}, {})
    assert [path.name for path in tmp_path.iterdir()] == ["page.md"]
    assert page.read_text(encoding="utf-8") == "no place\n"
