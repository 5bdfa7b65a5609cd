from dataclasses import replace

import numpy as np
import pytest
import torch
from pictures import TINY, scene
from scipy.ndimage import gaussian_filter

from scvae_fast.data.masks import IGNORED, MaskedPicture
from scvae_fast.data.stream import NamedPicture
from scvae_fast.errors import UsageError
from scvae_fast.models import SCVAE
from scvae_fast.plotting.clusters import pixels_of
from scvae_fast.tasks.cells import PictureCells
from scvae_fast.tasks.segmentation import (
    FeatureSettings,
    MapSettings,
    Segmenter,
    confusion,
    fit_classes,
    fit_clusters,
    match,
    matched,
    rate,
)
from scvae_fast.tasks.segmentation.experiment import Method, Task, run
from scvae_fast.tasks.segmentation.features import Describer, feature_cells
from scvae_fast.tasks.segmentation.segmenter import Centres, Classes, cell_classes

PLAIN = MapSettings(shifts=1, smooth=0)


@pytest.fixture(scope="module")
def model() -> SCVAE:
    torch.manual_seed(0)
    return SCVAE(TINY).eval()


def two_halves(name: str, edge: int, seed: int) -> MaskedPicture:
    """Reddish left of the edge, bluish right of it, both with noise."""
    mask = (np.arange(32) >= edge)[None].repeat(24, 0).astype(np.uint8)
    colours = torch.tensor([[0.7, -0.5, -0.5], [-0.5, -0.4, 0.7]])[torch.from_numpy(mask).long()].permute(2, 0, 1)
    noise = torch.randn(3, 24, 32, generator=torch.Generator().manual_seed(seed))
    return MaskedPicture(name, (colours + 0.05 * noise).clamp(-1, 1), mask)


@pytest.mark.parametrize("words", [0, 4])
@pytest.mark.parametrize("classifier", ["clusters", "logistic", "centres"])
def test_two_halves_of_a_picture(model: SCVAE, classifier: str, words: int) -> None:
    features = FeatureSettings(feature="colour", words=words, pool=0.5 if words else 0)
    maps = MapSettings(shifts=2, smooth=0.1)
    labelled, held_out = [two_halves("a", 10, 0), two_halves("b", 20, 1)], two_halves("c", 13, 2)
    if classifier == "clusters":
        pictures = [NamedPicture(each.name, each.picture) for each in labelled]
        segmenter = fit_clusters(model, pictures, 2, features, maps)
    else:
        segmenter = fit_classes(model, labelled, 2, features, maps, classifier=classifier)  # type: ignore[arg-type]
    scores = segmenter.scores(held_out.picture)
    assert scores.shape == (24, 32, 2)
    counts = confusion(held_out.mask, segmenter(held_out.picture), 2, 2)
    counts = matched(counts, match(counts)) if classifier == "clusters" else counts
    assert rate(counts)["accuracy"] > 0.95  # the edge goes through cells


def test_without_shifts_a_map_is_that_of_its_cells(model: SCVAE) -> None:
    picture = scene(15, 22)
    features = FeatureSettings(words=0, pool=0)
    segmenter = fit_clusters(model, [NamedPicture("x", picture)], 3, features, PLAIN)
    (cells,) = feature_cells(model, [NamedPicture("x", picture)], "codes")
    labels = segmenter.head(cells.rows.toarray()).argmax(1).reshape(cells.grid)
    np.testing.assert_array_equal(segmenter(picture), pixels_of(labels, 2, (15, 22)))


def test_shifted_maps_lie_where_their_pixels_do(model: SCVAE) -> None:
    """A head that returns the brightness of a cell: averaged over all shifts, that of the neighbourhood of a pixel."""

    class Brightness:
        n_labels = 1

        def __call__(self, described: np.ndarray) -> np.ndarray:
            return described.mean(1, keepdims=True)

    picture = scene(12, 10)
    features = FeatureSettings(feature="pixels", words=0, pool=0)
    found = Segmenter(model, Describer(features, []), Brightness(), MapSettings(shifts=2, smooth=0)).scores(picture)
    grey = picture.mean(0).numpy()
    # Cells of 2 x 2 pixels that begin at even or odd rows and columns: the pixel counts in four of them.
    row, column = 5, 4
    expected = [grey[top : top + 2, left : left + 2].mean() for top in (4, 5) for left in (3, 4)]
    assert found[row, column, 0] == pytest.approx(np.mean(expected), rel=1e-5)


def test_histograms_of_words() -> None:
    dice = np.random.default_rng(0)
    which = dice.integers(3, size=30)
    rows = (np.eye(3)[which] * dice.uniform(1, 5, (30, 1))).astype(np.float32)  # unit vectors, scaled
    describer = Describer(FeatureSettings(words=3, pool=1.5), [rows])
    described = describer(PictureCells("x", (10, 12), (5, 6), rows))
    one_hot = np.eye(3)[which].reshape(5, 6, 3)
    expected = np.sqrt(gaussian_filter(one_hot, (1.5, 1.5, 0), mode="nearest")).reshape(30, 3)
    # Words have an order of their own.
    order = [int(np.abs(described[:, [one]] - expected).max(0).argmin()) for one in range(3)]
    np.testing.assert_allclose(described, expected[:, order], atol=1e-6)
    np.testing.assert_allclose(np.square(described).sum(1), 1, atol=1e-5)


def test_centred_pixels_have_no_mean(model: SCVAE) -> None:
    (pixels,) = feature_cells(model, [NamedPicture("x", scene(8, 8))], "pixels")
    (centred,) = feature_cells(model, [NamedPicture("x", scene(8, 8))], "centred")
    values = pixels.rows.reshape(16, 3, 4)
    np.testing.assert_allclose(centred.rows.reshape(16, 3, 4), values - values.mean(2, keepdims=True), atol=1e-6)


def test_classes_of_cells() -> None:
    mask = np.zeros((5, 8), np.uint8)
    mask[:, 4:] = 1
    mask[0, :3] = 1  # of the first cell three pixels of nine, of the last rows a third is beyond the edge
    mask[3:, 6:] = IGNORED
    expected = [IGNORED, IGNORED, 1, 0, IGNORED, IGNORED]
    np.testing.assert_array_equal(cell_classes(mask, 3, 2), expected)


def test_scores_are_shares() -> None:
    dice = np.random.default_rng(0)
    described = dice.normal(size=(50, 4))
    distances = np.square(described[:, None] - described[:3]).sum(2)
    shares = Centres(described[:3], described)(described)
    np.testing.assert_allclose(shares.sum(1), 1)
    np.testing.assert_array_equal(shares.argmax(1), distances.argmin(1))
    assert np.isfinite(Centres(np.zeros((1, 4)), np.zeros((5, 4)))(described)).all()
    learned = Classes(described, dice.choice([0, 2], 50), 3, seed=0)(described)
    assert (learned[:, 1] == 0).all()
    np.testing.assert_allclose(learned.sum(1), 1)


def test_fewer_cells_than_words_or_clusters(model: SCVAE, monkeypatch: pytest.MonkeyPatch) -> None:
    picture, settings = two_halves("a", 10, 0), FeatureSettings(feature="colour", words=193)  # 12 x 16 cells
    pictures = [NamedPicture("a", picture.picture), NamedPicture("b", picture.picture[:, :1, :3])]  # and 1 x 2
    monkeypatch.setattr("scvae_fast.tasks.segmentation.segmenter.feature_cells", None)  # before cells are described
    with pytest.raises(UsageError, match=r"--words 193 is larger than the number of cells .* found, 192: use fewer"):
        fit_classes(model, [picture], 2, settings, PLAIN)
    with pytest.raises(UsageError, match=r"--words 195 is larger than the number of cells .* found, 194: use fewer"):
        fit_clusters(model, pictures, 2, replace(settings, words=195), PLAIN)
    with pytest.raises(UsageError, match=r"--clusters 195 \(.*\) is larger than the number of cells .*clustered, 194"):
        fit_clusters(model, pictures, 195, replace(settings, words=0), PLAIN)


def test_pictures_of_too_many_classes(model: SCVAE) -> None:
    class Many:
        classes = tuple(map(str, range(256)))

        def __len__(self) -> int:
            return 1

        def __getitem__(self, index: int) -> MaskedPicture:
            return two_halves("a", 10, index)

    method = Method(features=FeatureSettings(), maps=PLAIN)
    with pytest.raises(ValueError, match="run: pictures must have 2 … 255 classes, got 256"):
        run(model, Task(Many(), [0], [], [0]), method)


def test_masks_that_can_not_be_learned(model: SCVAE) -> None:
    one = two_halves("a", 32, 0)
    with pytest.raises(UsageError, match="cells of 1 classes; 2 are needed: label more pictures"):
        fit_classes(model, [one], 2, FeatureSettings(feature="colour", words=0), PLAIN)
    with pytest.raises(ValueError, match="classifier must be one of"):
        fit_classes(model, [one], 2, FeatureSettings(), PLAIN, "forest")  # type: ignore[arg-type]
    blank = [NamedPicture("x", torch.zeros(3, 8, 8))]
    with pytest.raises(UsageError, match=r"--clusters 2 \(.*\) is larger than the number of distinct descr"):
        fit_clusters(model, blank, 2, FeatureSettings(feature="colour", words=0), PLAIN)
    with pytest.raises(UsageError, match="--words 2 is larger than the number of distinct cells: use fewer words"):
        fit_clusters(model, blank, 2, FeatureSettings(feature="colour", words=2), PLAIN)
    for n_classes in (1, 256):
        with pytest.raises(ValueError, match=f"fit_classes: n_classes must be 2 … 255, got {n_classes}"):
            fit_classes(model, [one], n_classes, FeatureSettings(), PLAIN)
    for settings, match_ in (
        (lambda: FeatureSettings(feature="edges"), "feature must be one of"),  # type: ignore[arg-type]
        (lambda: FeatureSettings(pool=-1), "pool must be 0 or more"),
        (lambda: MapSettings(shifts=0), "shifts must be 1 or more"),
        (lambda: MapSettings(smooth=float("nan")), "smooth must be 0 or more"),
    ):
        with pytest.raises(ValueError, match=match_):
            settings()
