"""Parts of divided work: their contents, and the parsing of `--part`, job arrays and torchrun."""

import pytest

from scvae_fast._shares import Processes, Share, own_share
from scvae_fast.errors import ArgumentError


@pytest.mark.parametrize("block", [1, 4])
def test_parts_are_neighbours_that_cover_everything_once(block: int) -> None:
    for total in (0, 1, 7, 8, 33):
        for parts in (1, 2, 3, 50):
            shares = [Share(part, parts).of(total, block) for part in range(1, parts + 1)]
            assert [number for share in shares for number in share] == list(range(total))
            blocks = [-(-len(share) // block) for share in shares]
            assert max(blocks) - min(blocks) <= 1
            assert all(share.start % block == 0 or not len(share) for share in shares)


@pytest.mark.parametrize("text", ["3/2", "0/4", "1/0", "-1/2", "1", "1/2/3", "a/b", "", "1 / 2", "²/3"])
def test_invalid_parts(text: str) -> None:
    with pytest.raises(ArgumentError, match=r"must be I/N, the I-th of N parts, I = 1 … N \(the first is 1/N\)"):
        Share.parse(text, {})


def array(task: int, least: int, most: int, step: int, count: int) -> dict[str, str]:
    values = {"ID": task, "MIN": least, "MAX": most, "STEP": step, "COUNT": count}
    return {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in values.items()}


def test_tasks_of_an_array() -> None:
    assert Share.parse("2/3", array(1, 1, 9, 1, 9)) == Share(2, 3)
    assert Share.parse("array", array(0, 0, 7, 1, 8)) == Share(1, 8)
    assert Share.parse("array", array(7, 1, 13, 6, 3)) == Share(2, 3)
    for variables in (array(3, 1, 7, 1, 3), array(9, 1, 7, 1, 7), array(2, 1, 7, 6, 2)):
        with pytest.raises(ArgumentError, match="needs a job array without gaps"):
            Share.parse("array", variables)
    with pytest.raises(ArgumentError, match="SLURM_ARRAY_TASK_ID is not a number; use I/N elsewhere"):
        Share.parse("array", {})


def test_part_is_refused_under_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    assert own_share(None) is None
    assert own_share(Share(2, 3)) == Share(2, 3)
    monkeypatch.setenv("RANK", "2")
    assert own_share(None) is None, "RANK alone is something else's"
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert own_share(None) == Share(3, 4)
    with pytest.raises(ArgumentError, match="can't be used under torchrun"):
        own_share(Share(2, 3))
    with pytest.raises(ValueError, match=r"part must be 1 … 4, got 5"):
        Share(5, 4)


def test_a_single_process_needs_no_communication() -> None:
    alone = Processes()
    assert (alone.first, alone.alone, alone.gather("x"), alone.gather_on_first("x")) == (True, True, ["x"], ["x"])
    assert alone.on_first(lambda: 3) == 3
