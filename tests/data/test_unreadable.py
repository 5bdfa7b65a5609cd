import multiprocessing

import pytest

from scvae_fast.data import PictureError, UnreadableFiles
from scvae_fast.errors import UsageError


@pytest.mark.processes
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes_count_together(method: str, capfd: pytest.CaptureFixture[str]) -> None:
    broken = UnreadableFiles(2)
    broken.add(PictureError("a", "empty"))
    broken.add(PictureError("a", "empty"))
    process = multiprocessing.get_context(method).Process(target=broken.add, args=(PictureError("b", "empty"),))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert len(broken) == 2
    broken.add(PictureError("b", "empty"))
    assert capfd.readouterr().err.splitlines() == ["skipped: a: empty", "skipped: b: empty"]
    for _ in range(2):
        with pytest.raises(
            UsageError, match=r"more files can't be read than most_broken = 2 allows, the last: c: empty"
        ):
            broken.add(PictureError("c", "empty"))


def test_none_may_be_broken() -> None:
    with pytest.raises(UsageError, match="most_broken = 0 allows"):
        UnreadableFiles(0).add(PictureError("a", "empty"))


def test_without_semaphores_this_process_counts_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*arguments: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(multiprocessing.get_context("spawn").__class__, "Array", missing)
    broken = UnreadableFiles(1)
    assert not broken.is_shared
    for _ in range(2):
        broken.add(PictureError("a", "empty"))
    assert len(broken) == 1
    with pytest.raises(UsageError, match="most_broken = 1 allows"):
        broken.add(PictureError("b", "empty"))
