"""A linear probe: how well a linear classifier separates classes by picture descriptors."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from scvae_fast._extras import extra

with extra("scvae_fast.tasks", "scikit-learn"):
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, StratifiedKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

_MOST_ITERATIONS = 2000


@dataclass(frozen=True, kw_only=True)
class ProbeSettings:
    """How a probe is trained and tested.

    Args:
        repeats: number of splits into training and test pictures.
        folds: of the cross-validation that chooses the regularisation, on the training pictures only.
        test_share: share of each class to test on, if the data has no parts.
        draw_share: share of each class of the training part that a repeat trains on, if the data has parts.
        strengths: candidate values C of scikit-learn's LogisticRegression; 1 / C is the weight of ½‖w‖².
        seed: of everything random.

    Raises:
        ValueError: an argument is out of its range; the message names it.
    """

    repeats: int = 5
    folds: int = 3
    test_share: float = 0.25
    draw_share: float = 0.8
    strengths: tuple[float, ...] = (0.001, 0.01, 0.1, 1.0)
    seed: int = 0

    def __post_init__(self) -> None:
        _require(self.repeats >= 1, "repeats", "1 or more", self.repeats)
        _require(self.folds >= 2, "folds", "2 or more", self.folds)
        _require(0 < self.test_share < 1, "test_share", "between 0 and 1", self.test_share)
        _require(0 < self.draw_share <= 1, "draw_share", "above 0 and at most 1", self.draw_share)
        positive = bool(self.strengths) and min(self.strengths) > 0
        _require(positive, "strengths", "one or more positive numbers", self.strengths)
        _require(self.seed >= 0, "seed", "0 or more", self.seed)


class Split(NamedTuple):
    """Indices of the training pictures and of the test pictures."""

    train: np.ndarray  # (N_train,)
    test: np.ndarray  # (N_test,)


@dataclass(frozen=True)
class ProbeResult:
    """The result of a probe on each split: its accuracy on the test pictures, and the chosen C."""

    accuracies: tuple[float, ...]
    strengths: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean of the accuracies."""
        return float(np.mean(self.accuracies))

    @property
    def deviation(self) -> float:
        """Sample standard deviation of the accuracies; NaN for a single one."""
        return float(np.std(self.accuracies, ddof=1)) if len(self.accuracies) > 1 else float("nan")


def make_splits(
    labels: np.ndarray,
    settings: ProbeSettings,
    *,
    parts: np.ndarray | None = None,
    exchangeable: bool = False,
    classes: Sequence[str] | None = None,
) -> list[Split]:
    """Stratified splits, one per repeat.

    Without parts, `test_share` of each class is tested on, and the rest is trained on. With parts, a repeat trains on a
    random `draw_share` of each class of one part and tests on all of the other part. It tests on part 1, or alternately
    on part 1 and part 0 if they are exchangeable.

    Args:
        labels: (N,) classes.
        settings: see `ProbeSettings`.
        parts: (N,) 0 or 1, see `LabelledPictures`.
        exchangeable: see `LabelledPictures`.
        classes: names for messages, if the labels are indices of them.

    Raises:
        ValueError: there are fewer than two classes, or a class has fewer training pictures than there are folds, or no
            test pictures; the message gives the name of the class, or its label if there are no names.
    """
    kinds = np.unique(labels)
    if len(kinds) < 2:
        raise ValueError(f"make_splits: labels must be of two classes or more, got {len(kinds)}")
    called = [str(kind) if classes is None else classes[kind] for kind in kinds]
    splits = []
    for repeat in range(settings.repeats):
        dice = np.random.default_rng((settings.seed, repeat))
        training = repeat % 2 if exchangeable else 0
        train, test = [], []
        for kind in kinds:
            own = dice.permutation(np.flatnonzero(labels == kind))
            if parts is None:
                count = max(1, round(settings.test_share * len(own)))
                train.append(own[count:])
                test.append(own[:count])
            else:
                mine = own[parts[own] == training]
                train.append(mine[: int(np.ceil(settings.draw_share * len(mine)))])
                test.append(own[parts[own] != training])
        _check_split(called, train, test, settings.folds, parts is not None)
        splits.append(Split(np.sort(np.concatenate(train)), np.sort(np.concatenate(test))))
    return splits


def _check_split(
    called: list[str], train: list[np.ndarray], test: list[np.ndarray], folds: int, by_parts: bool
) -> None:
    for name, learned, tested in zip(called, train, test, strict=True):
        if len(learned) < folds:
            raise ValueError(
                f"make_splits: each class must have at least as many training pictures as there are folds, {folds}; "
                f"class {name} has {len(learned)}"
            )
        if by_parts and not len(tested):
            raise ValueError(f"make_splits: each class must have pictures in both parts; class {name} does not")


def probe(rows: np.ndarray, labels: np.ndarray, splits: list[Split], settings: ProbeSettings) -> ProbeResult:
    """Train and test a linear classifier on each split.

    Rows are standardised and classified by logistic regression. Means, scales and the regularisation come only from the
    training pictures; each fold of the cross-validation standardises on its own.

    Args:
        rows: (N, d), the descriptors.
        labels: (N,) classes.
        splits: see `make_splits`.
        settings: folds, strengths, seed.

    Raises:
        ValueError: rows are not (N, d) or not finite.
    """
    if rows.ndim != 2 or len(rows) != len(labels) or not np.isfinite(rows).all():
        raise ValueError(f"probe: rows must be finite and (N, d) with N = {len(labels)}, got {rows.shape}")
    accuracies, strengths = [], []
    for train, test in splits:
        folds = StratifiedKFold(settings.folds, shuffle=True, random_state=settings.seed)
        classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=_MOST_ITERATIONS, tol=1e-3))
        choices = {"logisticregression__C": settings.strengths}
        search = GridSearchCV(classifier, choices, cv=folds).fit(rows[train], labels[train])
        accuracies.append(float(search.score(rows[test], labels[test])))
        strengths.append(float(search.best_params_["logisticregression__C"]))
    return ProbeResult(tuple(accuracies), tuple(strengths))


def _require(condition: bool, name: str, expected: str, value: object) -> None:
    if not condition:
        raise ValueError(f"ProbeSettings: {name} must be {expected}, got {value!r}")
