from scvae_fast.data import held_out_photographs, training_photographs


def test_photographs_are_there_and_apart() -> None:
    training, held_out = training_photographs(), held_out_photographs()
    assert {p.name for p in held_out} == {"astronaut", "china"}
    assert not {p.name for p in held_out} & {p.name for p in training}
    assert len(training) == len({p.name for p in training}) == 19
    for name, picture, colour in training + held_out:
        assert picture.shape[0] == 3, name
        assert -1 <= picture.min() < picture.max() <= 1, name
        assert colour == bool((picture[0] != picture[1]).any()), name
