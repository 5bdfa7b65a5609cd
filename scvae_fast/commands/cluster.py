"""`scvae-fast cluster`: a checkpoint, pictures or their codes, and a folder for clusters of patches."""

import itertools
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from scvae_fast._files import claim_folder
from scvae_fast._markdown import markdown_table
from scvae_fast.codes import CodedPicture
from scvae_fast.codes.coding import encode_pictures
from scvae_fast.codes.storage import CodeFile, write_codes
from scvae_fast.commands._inputs import InferenceOptions, tell, with_progress
from scvae_fast.commands._results import write_results
from scvae_fast.data.stream import Layout, PictureStream, Split, check_arrangement
from scvae_fast.errors import ArgumentError, UsageError
from scvae_fast.evaluation.record import head
from scvae_fast.models import SCVAE
from scvae_fast.plotting import clusters as drawing
from scvae_fast.plotting.figures import Figure
from scvae_fast.tasks.clustering.kmeans import KMeansSettings, fit_kmeans
from scvae_fast.tasks.clustering.patches import Places, paint_means
from scvae_fast.tasks.clustering.quality import best_of, examples, rate
from scvae_fast.tasks.clustering.rows import CodePieces
from scvae_fast.tasks.clustering.saved import Clustering
from scvae_fast.tasks.clustering.sources import FromCodes, FromPictures, Source

FILE = "clustering.safetensors"
_EXAMPLES = 8
_MAPS = 4


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """Which pictures are clustered: what `PictureStream` takes.

    Args:
        data: see `PictureStream`; this goes for layout, split and resize as well.
        layout: how the data is arranged.
        split: of a layout that has splits.
        resize: side of the squares that pictures are made into; None leaves them whole.
        limit: so many pictures at most.

    Raises:
        UsageError: layout or split is unknown.
    """

    data: str | os.PathLike[str]
    layout: Layout = "auto"
    split: Split = "val"
    resize: int | None = None
    limit: int | None = None

    def __post_init__(self) -> None:
        check_arrangement(self.layout, self.split)

    def stream(self) -> PictureStream:
        """The pictures.

        Raises:
            UsageError: there are none.
        """
        return PictureStream(self.data, layout=self.layout, split=self.split, resize=self.resize)


def cluster_codes(
    checkpoint: str | os.PathLike[str],
    source: Pictures | Path,
    out: Path,
    *,
    clusters: Sequence[int],
    settings: KMeansSettings | None = None,
    inference: InferenceOptions | None = None,
) -> dict[str, Any]:
    """Cluster the codes of all patches, and write what was found to a folder.

    The folder gets `clustering.safetensors` (see `Clustering`) of the best number of clusters, `metrics.json`, the
    table `metrics.md`, and pictures: `patches.png`, `maps.png` and, of several numbers, `quality.png`. All is computed
    before anything is written. Codes of pictures lie in a temporary file meanwhile; memory does not grow with them.

    Args:
        checkpoint: see `load_model`.
        source: pictures, or a file that `scvae-fast encode` wrote.
        out: the folder; made if it doesn't exist.
        clusters: numbers of clusters; of several, the one with the largest silhouette is taken.
        settings: of K-means.
        inference: how the model is run.

    Returns:
        What `metrics.json` holds.

    Raises:
        UsageError: something that was given can't be used; there are no pictures, or fewer patches than clusters.
    """
    settings, inference, clusters = settings or KMeansSettings(), inference or InferenceOptions(), sorted(set(clusters))
    if not clusters or clusters[0] < 1:
        raise ArgumentError(f"--clusters must be one or more numbers, each 1 or more, got {clusters}")
    claim_folder(out)
    model, speed = inference.load(checkpoint)
    with _codes(model, source, partial(encode_pictures, batch_size=inference.batch_size, speed=speed)) as (
        file,
        pictures,
    ):
        pieces = CodePieces(file)
        tell("clustering the patches")
        fits = fit_kmeans(pieces, clusters, settings, progress=partial(with_progress, unit="numbers of clusters"))
        tell("rating the clusters")
        rated = rate(pieces, fits, settings)
        chosen = best_of(rated)
        clustering = Clustering.of(fits[chosen], settings, model)
        tell("drawing examples and maps")
        drawn = _draw(model, clustering, file, pictures)
        content = _record(checkpoint, source, clustering, rated, Places.of(file))
    if len(clusters) > 1:
        drawn["quality"] = drawing.quality_curves(rated, chosen)
    written = write_results(out, content, table(content), drawn, others={FILE: clustering.save})
    print(f"{table(content)}\n\n{', '.join(map(str, written))}")
    return content


@contextmanager
def _codes(
    model: SCVAE, source: Pictures | Path, encode: Callable[..., Iterator[CodedPicture]]
) -> Iterator[tuple[CodeFile, Source]]:
    """The codes in a file, and the pictures: those given, or what the decoder makes of the codes."""
    if isinstance(source, Path):
        file = CodeFile(source)
        file.check_model(model)
        if not len(file):
            raise UsageError(f"{source}: there are no pictures in it")
        yield file, FromCodes(model, file)
        return
    stream = source.stream()
    with tempfile.TemporaryDirectory(prefix="scvae-fast-") as folder:
        path = Path(folder, "codes.parquet")
        coded = with_progress(encode(model, itertools.islice(stream, source.limit)), source.limit or stream.length)
        if not write_codes(path, model, coded, values="float32").pictures:
            raise UsageError(f"{source.data}: no picture could be read")
        yield CodeFile(path), FromPictures(stream.__iter__, model.config.stride)


def _draw(model: SCVAE, clustering: Clustering, file: CodeFile, pictures: Source) -> dict[str, Figure]:
    places = Places.of(file)
    rows = examples(CodePieces(file), clustering.fit, clustering.settings, _EXAMPLES)
    shown = [[[places[row] for row in cluster if row >= 0] for cluster in kind] for kind in rows]
    patches = pictures.patches({place for kind in shown for cluster in kind for place in cluster})
    nearest, drawn = ([[patches[place] for place in cluster] for cluster in kind] for kind in shown)
    whole = pictures.first(min(_MAPS, len(file)))
    labels = [
        drawing.pixels_of(clustering.assign_rows(each.codes.csr()).reshape(grid), clustering.stride, each.size)
        for each, grid in zip(itertools.islice(file, len(whole)), places.grids, strict=False)
    ]
    painted, names = paint_means(model, clustering.fit.means), [Path(each.name).name for each in whole]
    return {
        "patches": drawing.patch_sheet(painted, nearest, drawn, clustering.fit.counts),
        "maps": drawing.maps([each.picture for each in whole], labels, names, clustering.k),
    }


def _record(
    checkpoint: str | os.PathLike[str],
    source: Pictures | Path,
    clustering: Clustering,
    rated: list[dict[str, Any]],
    places: Places,
) -> dict[str, Any]:
    data = {"codes": str(source)} if isinstance(source, Path) else {**asdict(source), "data": str(source.data)}
    return {
        **head(checkpoint, "scikit-learn"),
        "fingerprint": clustering.fingerprint,
        "data": data,
        "pictures": len(places.grids),
        "patches": int(clustering.fit.counts.sum()),
        "stride": clustering.stride,
        "settings": asdict(clustering.settings),
        "quality": rated,
        "clusters": clustering.k,
        "shares": (clustering.fit.counts / clustering.fit.counts.sum()).tolist(),
    }


def table(content: dict[str, Any]) -> str:
    """The quality of each number of clusters as a Markdown table, and below what was clustered."""
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
        f"seed {settings['seed']}. Silhouette and Davies-Bouldin of {content['quality'][0]['rated_on']:,} patches.",
    ]
    if any(each["silhouette"] is None for each in content["quality"]):
        lines.append("– is not defined: it takes two clusters, and fewer than there are patches.")
    return "\n".join(lines)
