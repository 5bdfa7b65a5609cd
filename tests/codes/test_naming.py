from pathlib import Path

from scvae_fast.codes.naming import Targets

NAMES = ["a.jpg", "b.png", "a.png", "a-2.png", "a.jpg", "c/a.jpg", "a-2.webp"]


def targets() -> Targets:
    return Targets(lambda: NAMES, lambda name: Path("out", name).with_suffix(".png"))


def test_no_path_is_given_twice_and_a_name_that_fits_keeps_its_own() -> None:
    give = targets()
    found = [give(name).as_posix().removeprefix("out/") for name in NAMES]
    assert found == ["a.png", "b.png", "a-3.png", "a-2.png", "a-4.png", "c/a.png", "a-2-2.png"]
    again = targets()
    assert [again(name) for name in NAMES] == [Path("out", name) for name in found], "whoever asks"


def test_names_that_differ_in_case_get_paths_of_their_own_on_every_file_system() -> None:
    names = ["A.png", "a.png", "a-2.PNG"]
    give = Targets(lambda: names, lambda name: Path(name))
    assert [give(name).name for name in names] == ["A.png", "a-3.png", "a-2.PNG"]
