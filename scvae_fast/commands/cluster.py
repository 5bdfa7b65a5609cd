"""`scvae-fast cluster`: clusters the patches of pictures by their codes, and writes the clusters to a folder."""

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from scvae_fast._files import claim_folder
from scvae_fast._markdown import markdown_table
from scvae_fast._shares import Processes, joined
from scvae_fast.codes.coding import encode_stream
from scvae_fast.codes.storage import CodeFile, write_codes
from scvae_fast.commands._inputs import InferenceOptions, check_outside, tell, with_progress
from scvae_fast.commands._results import write_results
from scvae_fast.data.stream import Layout, NamedPicture, PictureStream, Split, check_arrangement
from scvae_fast.errors import ArgumentError, UsageError
from scvae_fast.evaluation.record import head
from scvae_fast.models import SCVAE
from scvae_fast.models.speed import SpeedSettings
from scvae_fast.plotting import clusters as drawing
from scvae_fast.plotting.figures import Figure
from scvae_fast.tasks.clustering.kmeans import KMeansSettings, fit_kmeans
from scvae_fast.tasks.clustering.patches import paint_means, places_of
from scvae_fast.tasks.clustering.quality import best_of, examples, rate
from scvae_fast.tasks.clustering.rows import CodePieces, SharedPieces
from scvae_fast.tasks.clustering.saved import Clustering
from scvae_fast.tasks.clustering.sources import FromCodes, FromPictures, Source

FILE = "clustering.safetensors"
_EXAMPLES = 8
_MAPS = 4


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """The pictures to cluster, as arguments of `PictureStream`.

    Args:
        data: see `PictureStream`, also for layout, split and resize.
        layout: how the data is arranged.
        split: for layouts with splits.
        resize: side of the squares that pictures are resized and cropped to; None keeps them whole.
        limit: largest number of pictures.

    Raises:
        UsageError: layout or split is unknown.
    """

    data: str | os.PathLike[str]
    layout: Layout = "auto"
    split: Split | None = None
    resize: int | None = None
    limit: int | None = None

    def __post_init__(self) -> None:
        check_arrangement(self.layout, self.split)

    def stream(self) -> PictureStream:
        """The stream of these pictures.

        Raises:
            UsageError: there are no pictures.
        """
        return PictureStream(self.data, layout=self.layout, split=self.split, resize=self.resize, limit=self.limit)


def cluster_codes(
    checkpoint: str | os.PathLike[str],
    source: Pictures | Path,
    out: Path,
    *,
    clusters: Sequence[int],
    settings: KMeansSettings | None = None,
    inference: InferenceOptions | None = None,
) -> dict[str, Any]:
    """Cluster the codes of all patches, and write the results to a folder.

    The folder gets `clustering.safetensors` (see `Clustering`) with the best number of clusters, `metrics.json`, the
    table `metrics.md`, and the figures `patches.png`, `maps.png` and, for several numbers, `quality.png`; for a single
    number, that of an earlier run is removed. Everything is computed before anything is written. Until then, the codes
    of pictures are in a temporary file, so memory does not grow with their number. Under torchrun, the processes divide
    the pictures, and cluster the codes of all together.

    Args:
        checkpoint: see `load_model`.
        source: pictures, or a file or a folder of parts written by `scvae-fast encode`.
        out: the folder; created if it doesn't exist.
        clusters: numbers of clusters; if there are several, the one with the largest silhouette is used.
        settings: of K-means.
        inference: how the model is run.

    Returns:
        The content of `metrics.json`.

    Raises:
        UsageError: an argument can't be used; there are no pictures, or fewer patches than clusters.
    """
    settings, inference, clusters = settings or KMeansSettings(), inference or InferenceOptions(), sorted(set(clusters))
    if not clusters or clusters[0] < 1:
        raise ArgumentError(f"--clusters must be one or more numbers, each 1 or more, got {clusters}")
    if isinstance(source, Pictures):
        check_outside(out, source.data)
    claim_folder(out)
    model, speed = inference.load(checkpoint)
    with joined() as processes, _codes(model, source, inference, speed, processes) as (file, pictures):
        pieces = SharedPieces(CodePieces(file), processes, sum(h * w for h, w in file.grids()))
        tell("clustering the patches")
        fits = fit_kmeans(pieces, clusters, settings, progress=partial(with_progress, unit="numbers of clusters"))
        tell("rating the clusters")
        rated = rate(pieces, fits, settings)
        chosen = best_of(rated)
        clustering = Clustering.of(fits[chosen], settings, model)
        tell("drawing examples and maps")
        counts = processes.gather(len(file))
        shown = _Shown.of(model, clustering, file, pictures, pieces, counts)
    content = _record(checkpoint, source, clustering, rated, sum(counts))
    if not processes.first:
        return content
    drawn = shown.draw(model, clustering)
    if len(clusters) > 1:
        drawn["quality"] = drawing.quality_curves(rated, chosen)
    written = write_results(out, content, table(content), drawn, {}, {FILE: clustering.save}, [out / "quality.png"])
    print(f"{table(content)}\n\n{', '.join(map(str, written))}")
    return content


@contextmanager
def _codes(
    model: SCVAE, source: Pictures | Path, inference: InferenceOptions, speed: SpeedSettings, processes: Processes
) -> Iterator[tuple[CodeFile, Source]]:
    """The codes of this process's share, and their pictures: the given ones, or ones decoded from the codes."""
    if isinstance(source, Path):
        file = CodeFile(source)
        file.check_model(model)
        if not len(file):
            raise UsageError(f"{source} contains no pictures")
        file = file.part(processes.share)
        yield file, FromCodes(model, file)
        return
    stream = source.stream()
    if not processes.alone:
        stream = stream.part(processes.share, inference.batch_size)
    with tempfile.TemporaryDirectory(prefix="scvae-fast-") as folder:
        path = Path(folder, "codes.parquet")
        encoded = encode_stream(model, stream, batch_size=inference.batch_size, speed=speed)
        coded = with_progress(encoded, stream.length or source.limit)
        written = write_codes(path, model, coded, values="float32")
        stream.gather_skipped(processes)
        if not sum(processes.gather(written.pictures)):
            raise UsageError(f"{source.data}: no picture could be read")
        yield CodeFile(path), FromPictures(stream.__iter__, model.config.stride)


@dataclass(frozen=True)
class _Shown:
    """Patches and pictures to draw, gathered from all processes."""

    rows: tuple[np.ndarray, np.ndarray]  # for each cluster: nearest and random rows; −1 for none
    patches: dict[int, Tensor]  # by row number
    whole: list[NamedPicture]
    labels: list[np.ndarray]  # clusters of the cells of `whole`, (h, w) each

    @classmethod
    def of(
        cls,
        model: SCVAE,
        clustering: Clustering,
        file: CodeFile,
        pictures: Source,
        pieces: SharedPieces,
        counts: list[int],
    ) -> "_Shown":
        """Gather from all processes, which all call this; `counts` has the number of pictures of each."""
        processes = pieces.processes
        rows = examples(pieces, clustering.fit, clustering.settings, _EXAMPLES)
        chosen = [int(row) - pieces.first for kind in rows for row in kind.flat if row >= pieces.first]
        own = places_of(file.grids(), chosen)
        cut = pictures.patches(set(own.values()))
        patches = {row + pieces.first: cut[place] for row, place in own.items()}
        first = max(0, _MAPS - sum(counts[: processes.share.part - 1]))
        whole = pictures.first(min(first, len(file)))
        labels = [
            clustering.assign_rows(each.codes.csr()).reshape(each.codes.h, each.codes.w)
            for each in islice(file, len(whole))
        ]
        gathered = processes.gather_on_first((patches, whole, labels))
        return cls(
            rows,
            {row: patch for part in gathered for row, patch in part[0].items()},
            [picture for part in gathered for picture in part[1]],
            [each for part in gathered for each in part[2]],
        )

    def draw(self, model: SCVAE, clustering: Clustering) -> dict[str, Figure]:
        """Draw the sheet of patches and the maps."""
        nearest, drawn = (
            [[self.patches[int(row)] for row in cluster if row >= 0] for cluster in kind] for kind in self.rows
        )
        labels = [
            drawing.pixels_of(own, clustering.stride, each.size)
            for own, each in zip(self.labels, self.whole, strict=True)
        ]
        names = [Path(each.name).name for each in self.whole]
        painted = paint_means(model, clustering.fit.means)
        return {
            "patches": drawing.patch_sheet(painted, nearest, drawn, clustering.fit.counts),
            "maps": drawing.maps([each.picture for each in self.whole], labels, names, clustering.k),
        }


def _record(
    checkpoint: str | os.PathLike[str],
    source: Pictures | Path,
    clustering: Clustering,
    rated: list[dict[str, Any]],
    n_pictures: int,
) -> dict[str, Any]:
    data = {"codes": str(source)} if isinstance(source, Path) else {**asdict(source), "data": str(source.data)}
    return {
        **head(checkpoint, "scikit-learn"),
        "fingerprint": clustering.fingerprint,
        "data": data,
        "pictures": n_pictures,
        "patches": int(clustering.fit.counts.sum()),
        "stride": clustering.stride,
        "settings": asdict(clustering.settings),
        "quality": rated,
        "clusters": clustering.k,
        "shares": (clustering.fit.counts / clustering.fit.counts.sum()).tolist(),
    }


def table(content: dict[str, Any]) -> str:
    """A Markdown table of the quality of each number of clusters, and a sentence about the data."""
    rows = []
    for each in content["quality"]:
        scores = (f"{each[key]:.3f}" if each[key] is not None else "–" for key in ("silhouette", "davies_bouldin"))
        mark = "**" if each["clusters"] == content["clusters"] and len(content["quality"]) > 1 else ""
        rows.append([f"{mark}{each['clusters']}{mark}", *scores, f"{each['inertia']:.6g}"])
    settings = content["settings"]
    lines = [
        markdown_table(("clusters", "silhouette", "Davies-Bouldin", "inertia"), rows, left=()),
        "",
        f"{content['patches']:,} patches of {content['pictures']:,} pictures; rows scaled: {settings['scale']}; "
        f"seed {settings['seed']}. Silhouette and Davies-Bouldin on {content['quality'][0]['rated_on']:,} patches.",
    ]
    if any(each["silhouette"] is None for each in content["quality"]):
        lines.append("–: not defined; both scores need at least two clusters, and fewer clusters than patches.")
    return "\n".join(lines)
