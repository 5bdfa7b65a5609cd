import numpy as np
import pytest

from scvae_fast.tasks.probe import ProbeSettings, make_splits, probe

LABELS = np.repeat(np.arange(4), 30)
PARTS = np.tile(np.arange(2), 60)


def test_classes_that_are_apart_are_told_apart() -> None:
    rows = np.random.default_rng(0).standard_normal((120, 8)) + 20 * np.eye(8)[LABELS]
    settings = ProbeSettings(repeats=2)
    result = probe(rows, LABELS, make_splits(LABELS, settings), settings)
    assert result.accuracies == (1.0, 1.0)
    assert (result.mean, result.deviation) == (1.0, 0.0)


def test_shuffled_labels_are_at_chance() -> None:
    dice = np.random.default_rng(0)
    labels = dice.permutation(LABELS)
    settings = ProbeSettings(repeats=4, strengths=(0.01, 1.0), test_share=0.5)
    result = probe(
        dice.standard_normal((120, 8)) + 20 * np.eye(8)[LABELS], labels, make_splits(labels, settings), settings
    )
    # The mean of 240 draws with probability 1/4 has a standard deviation of 0.028.
    assert abs(result.mean - 0.25) < 0.1
    assert set(result.strengths) <= {0.01, 1.0}
    assert np.isnan(probe(np.eye(120), labels, make_splits(labels, settings)[:1], settings).deviation)


def test_nothing_is_learned_from_test_pictures() -> None:
    dice, settings = np.random.default_rng(0), ProbeSettings(repeats=1)
    rows = dice.standard_normal((120, 4)) + np.eye(4)[LABELS]
    (split,) = make_splits(LABELS, settings)
    one = probe(rows, LABELS, [split], settings)
    changed = rows.copy()
    changed[split.test[0]] *= 1e6  # would spoil means and scales
    other = probe(changed, LABELS, [split], settings)
    assert one.strengths == other.strengths
    assert abs(one.mean - other.mean) <= 1.001 / len(split.test)


def test_splits_are_stratified_disjoint_and_reproducible() -> None:
    settings = ProbeSettings(repeats=3, test_share=0.2)
    splits = make_splits(LABELS, settings)
    for train, test in splits:
        assert np.bincount(LABELS[train]).tolist() == [24] * 4
        assert np.bincount(LABELS[test]).tolist() == [6] * 4
        assert sorted([*train, *test]) == list(range(120))
    assert len({tuple(test) for _, test in splits}) == 3
    again = make_splits(LABELS, settings)
    assert all((a.train == b.train).all() for a, b in zip(splits, again, strict=True))
    other = make_splits(LABELS, ProbeSettings(repeats=1, test_share=0.2, seed=1))[0]
    assert set(other.test) != set(splits[0].test)


@pytest.mark.parametrize("exchangeable", [False, True])
def test_parts_are_not_mixed(exchangeable: bool) -> None:
    settings = ProbeSettings(repeats=4, draw_share=0.5)
    splits = make_splits(LABELS, settings, parts=PARTS, exchangeable=exchangeable)
    for repeat, (train, test) in enumerate(splits):
        learned = repeat % 2 if exchangeable else 0
        assert (PARTS[train] == learned).all()
        assert np.bincount(LABELS[train]).tolist() == [8] * 4
        np.testing.assert_array_equal(test, np.flatnonzero(learned != PARTS))


def test_too_few_pictures() -> None:
    with pytest.raises(ValueError, match="two classes or more, got 1"):
        make_splits(np.zeros(9), ProbeSettings())
    with pytest.raises(ValueError, match="as there are folds, 5; class 1 has 3"):
        make_splits(np.repeat([0, 1], [20, 4]), ProbeSettings(folds=5))
    with pytest.raises(ValueError, match="as there are folds, 5; class dog has 3"):
        make_splits(np.repeat([0, 1], [20, 4]), ProbeSettings(folds=5), classes=("cat", "dog"))
    with pytest.raises(ValueError, match="class 0 does not"):
        make_splits(np.repeat([0, 1], 20), ProbeSettings(), parts=np.repeat([0, 0, 1], [20, 10, 10]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"repeats": 0}, "repeats must be 1 or more"),
        ({"folds": 1}, "folds must be 2 or more"),
        ({"test_share": 1.0}, "test_share must be between"),
        ({"draw_share": 0.0}, "draw_share must be above 0"),
        ({"strengths": ()}, "strengths must be"),
        ({"seed": -1}, "seed must be 0 or more"),
    ],
)
def test_settings_out_of_range(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ProbeSettings(**changes)  # type: ignore[arg-type]


def test_invalid_rows() -> None:
    splits = make_splits(LABELS, ProbeSettings(repeats=1))
    for rows in (np.zeros((3, 2)), np.full((120, 2), np.nan)):
        with pytest.raises(ValueError, match="rows must be finite"):
            probe(rows, LABELS, splits, ProbeSettings())
