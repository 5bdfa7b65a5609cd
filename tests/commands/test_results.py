"""Results next to those of an earlier run."""

from pathlib import Path

import pytest

from scvae_fast.commands._results import write_results
from scvae_fast.plotting.figures import Figure


@pytest.mark.parametrize("earlier", [True, False])
def test_only_files_of_an_earlier_run_are_removed(earlier: bool, tmp_path: Path) -> None:
    if earlier:
        write_results(tmp_path, {}, "older", {})
    names = ["a.png", "pictures/b.png", "c.png", "metrics.md"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("older")
    (tmp_path / "folder.png").mkdir()
    older = [tmp_path / name for name in (*names, "folder.png", "missing.png")]
    written = write_results(tmp_path, {}, "table", {"c": Figure()}, older=older)
    assert written == [tmp_path / name for name in ("metrics.md", "metrics.json", "c.png")]
    assert (tmp_path / "metrics.md").read_text() == "table\n"
    assert (tmp_path / "c.png").read_bytes() != b"older"
    assert (tmp_path / "folder.png").is_dir()
    assert (tmp_path / "a.png").exists() == (tmp_path / "pictures" / "b.png").exists() == (not earlier)
