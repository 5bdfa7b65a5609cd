"""`scvae-fast retrieve`: finds the nearest neighbours of pictures, and writes them to a folder."""

import os
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from scvae_fast._files import claim_folder, printable
from scvae_fast._markdown import markdown_table
from scvae_fast.commands._inputs import InferenceOptions, check_outside, tell, with_progress
from scvae_fast.commands._labelled import (
    DEFAULTS,
    LabelledData,
    content_of,
    finish,
    labels_of,
    parse_descriptors,
    usable,
)
from scvae_fast.data.files import has_pictures
from scvae_fast.data.labelled import LabelledPictures
from scvae_fast.data.pictures import PictureError, load_picture
from scvae_fast.data.square_crops import load_centre
from scvae_fast.data.stream import NamedPicture, PictureStream
from scvae_fast.errors import ArgumentError, UsageError
from scvae_fast.models import SCVAEConfig
from scvae_fast.plotting.figures import Figure
from scvae_fast.plotting.neighbours import SHOWN_PIXELS, Neighbour, neighbour_sheet
from scvae_fast.tasks.descriptors import Described, Descriptor, describe
from scvae_fast.tasks.retrieval import Neighbours, RetrievalRating, nearest, rate_retrieval

_SHOWN = 6  # number of queries on a sheet, if the user gives none


def retrieve_checkpoint(
    checkpoint: str | os.PathLike[str],
    data: LabelledData,
    out: Path,
    *,
    queries: Sequence[Path] = (),
    descriptors: Sequence[str] | None = None,
    k: int = 5,
    inference: InferenceOptions | None = None,
) -> dict[str, Any]:
    """Find nearest neighbours, rate or list them, draw some, and write everything to a folder.

    Without queries, the labelled pictures are the queries, and the neighbours are rated by their classes. Neighbours
    come from all other pictures or, if the data has two parts, from the other part. With queries, any pictures can be
    searched, with or without classes, and nothing is rated. A query is never its own neighbour.

    Args:
        checkpoint: see `load_model`.
        data: the pictures to search.
        out: the folder; created if it doesn't exist.
        queries: picture files.
        descriptors: see `Descriptor.parse`; `DEFAULTS` by default, with queries only the first. The first one is drawn.
        k: number of neighbours of each query.
        inference: how the model is run.

    Returns:
        The content of `metrics.json`.

    Raises:
        UsageError: an argument can't be used: for example, k is larger than the gallery, or there is only one class.
    """
    if queries and data.per_class is not None and not data.embedded:
        raise ArgumentError("--per-class can't be combined with --query, which searches all pictures of DATA")
    chosen = parse_descriptors(descriptors or (DEFAULTS[:1] if queries else None))
    inference = inference or InferenceOptions()
    check_outside(out, data.data)
    claim_folder(out)
    model, speed = inference.load(checkpoint)
    side = data.pixels(model.config)
    sheet_side = None if side is None else max(side, SHOWN_PIXELS)
    asked = [_read_query(path, side) for path in queries]
    source = _searched(data, model.config) if asked else data.open(model.config)
    _check_gallery(source, k, rated=not asked)
    looked_at = partial(_described, model, chosen, inference.batch_size, speed)
    gallery = looked_at(source.pictures)
    content = content_of(checkpoint, source, data, len(gallery.names)) | {"k": k}
    if asked:
        found = _neighbours(looked_at(asked), gallery, k, _own_places(queries, source, gallery.names))
        content["neighbours"] = _listed(asked, gallery.names, found)
        drawn = asked if side == sheet_side else [_read_query(path, sheet_side) for path in queries]
        shown = [_Shown(named.name, named, list(found[chosen[0]].indices[i])) for i, named in enumerate(drawn)]
        table = _neighbour_table(content, str(chosen[0]))
    else:
        content["descriptors"] = _rated(source, gallery, k)
        shown = _some_queries(source, gallery, chosen[0], k, data.seed)
        table = _rating_table(content)
    legend = "" if asked else " (blue: of the query's class)"
    tell("drawing the neighbours")
    figure = _sheet(f"Nearest neighbours by {chosen[0]}{legend}", shown, source, gallery.names, sheet_side)
    finish(out, content, table, {"neighbours": figure})
    return content


def _described(
    model: Any, chosen: list[Descriptor], batch_size: int, speed: Any, pictures: Iterable[NamedPicture]
) -> Described:
    return describe(model, with_progress(pictures), chosen, batch_size=batch_size, speed=speed)


class _Round(NamedTuple):
    """Queries, and the gallery to search for their neighbours, as indices of the data's pictures."""

    queries: np.ndarray
    gallery: np.ndarray
    own: np.ndarray | None  # places of the queries in the gallery, if they are in it


class _Shown(NamedTuple):
    name: str
    query: NamedPicture | None  # None: a picture of the data
    neighbours: list[int]


def _searched(data: LabelledData, config: SCVAEConfig) -> LabelledPictures:
    """The pictures to search, with or without classes."""
    if data.embedded:
        return data.open(config)
    name, side = os.fspath(data.data), data.pixels(config)
    if Path(name).is_dir() and has_pictures(Path(name)):
        stream = PictureStream(name, layout="folder", resize=side)  # whatever its layout, all pictures are searched
    else:
        stream = PictureStream(name, split="all" if name == "photographs" else None, resize=side)
    return LabelledPictures(str(data.data), stream, {}, ())


def _check_gallery(source: LabelledPictures, k: int, *, rated: bool) -> None:
    """Check classes and k as far as possible without reading pictures."""
    size = source.pictures.length if isinstance(source.pictures, PictureStream) else len(source.labels)
    if rated:
        if len(set(source.labels.values())) < 2:
            raise UsageError(f"{source.data}: pictures must be of two classes or more, got {len(source.classes)}")
        size = min(len(each.gallery) - (each.own is not None) for each in _rounds(source, list(source.labels)))
    if size is not None and k > size:
        raise UsageError(f"--k must be at most {size}, as many pictures as there are to search, got {k}")


def _rounds(source: LabelledPictures, names: list[str]) -> list[_Round]:
    if source.parts is None:
        everything = np.arange(len(names))
        return [_Round(everything, everything, everything)]
    parts = np.array([source.parts[name] for name in names])
    first, second = np.flatnonzero(parts == 0), np.flatnonzero(parts == 1)
    rounds = [_Round(second, first, None)]
    return [*rounds, _Round(first, second, None)] if source.exchangeable else rounds


def _own_places(queries: Sequence[Path], source: LabelledPictures, names: list[str]) -> list[int | None]:
    """The place of each query in the gallery; None for a query outside it."""
    folder = source.pictures.folder if isinstance(source.pictures, PictureStream) else None
    if folder is None:
        return [None] * len(queries)
    places = {name: place for place, name in enumerate(names)}
    found = []
    for query in queries:
        # The path as given, or where its links lead: the gallery has the files under one of these.
        ways = ((Path(os.path.abspath(query)), Path(os.path.abspath(folder))), (query.resolve(), folder.resolve()))
        own = (places.get(printable(p.relative_to(root).as_posix())) for p, root in ways if p.is_relative_to(root))
        found.append(next((place for place in own if place is not None), None))
    return found


def _neighbours(asked: Described, gallery: Described, k: int, own: list[int | None]) -> dict[Descriptor, Neighbours]:
    found = {}
    for each, rows in gallery.rows.items():
        parts = [
            usable(partial(nearest, row[None], rows, k, own=None if place is None else np.array([place])))
            for row, place in zip(asked.rows[each], own, strict=True)
        ]
        found[each] = Neighbours(*(np.concatenate(fields) for fields in zip(*parts, strict=True)))
    return found


def _listed(asked: list[NamedPicture], names: list[str], found: dict[Descriptor, Neighbours]) -> dict[str, Any]:
    return {
        named.name: {
            str(each): [
                {"name": names[index], "similarity": float(similarity)}
                for index, similarity in zip(indices[i], similarities[i], strict=True)
            ]
            for each, (indices, similarities) in found.items()
        }
        for i, named in enumerate(asked)
    }


def _rated(source: LabelledPictures, gallery: Described, k: int) -> dict[str, Any]:
    labels, rounds = labels_of(source, gallery.names), _rounds(source, gallery.names)
    figures = {}
    for each, rows in gallery.rows.items():
        rating = _rate(rows, labels, rounds, k)
        figures[str(each)] = {
            "dimension": rows.shape[1],
            **{f"precision@{rank}": value for rank, value in rating.precision.items()},
            "mAP": rating.mean_average_precision,
            "n_queries": rating.n_queries,
        }
    return figures


def _rate(rows: np.ndarray, labels: np.ndarray, rounds: list[_Round], k: int) -> RetrievalRating:
    """The rating averaged over the queries of all rounds."""
    ratings = [
        usable(partial(rate_retrieval, rows[q], rows[g], labels[q], labels[g], (1, k), own=own)) for q, g, own in rounds
    ]
    weights = [rating.n_queries for rating in ratings]
    precision = {
        rank: float(np.average([rating.precision[rank] for rating in ratings], weights=weights)) for rank in (1, k)
    }
    mean = float(np.average([rating.mean_average_precision for rating in ratings], weights=weights))
    return RetrievalRating(precision, mean, sum(weights))


def _some_queries(
    source: LabelledPictures, gallery: Described, descriptor: Descriptor, k: int, seed: int
) -> list[_Shown]:
    queries, searched, own = _rounds(source, gallery.names)[0]
    rows = gallery.rows[descriptor]
    order = np.random.default_rng(seed).permutation(len(queries))
    _, first = np.unique(labels_of(source, gallery.names)[queries[order]], return_index=True)
    places = np.sort(order[np.sort(first)[:_SHOWN]])  # of different classes
    found = nearest(rows[queries[places]], rows[searched], k, own=None if own is None else own[places])
    return [
        _Shown(gallery.names[index], None, list(searched[indices]))
        for index, indices in zip(queries[places], found.indices, strict=True)
    ]


def _sheet(title: str, shown: list[_Shown], source: LabelledPictures, names: list[str], side: int | None) -> Figure:
    wanted = {names[index] for each in shown for index in each.neighbours}
    wanted |= {each.name for each in shown if each.query is None}
    found = source.pictures
    if isinstance(found, PictureStream):  # drawn with more pixels than are compared, if the files have them
        found = found.some(wanted, side)
    pictures = {named.name: named.picture.clone() for named in found if named.name in wanted}

    def neighbour(query: _Shown, index: int) -> Neighbour:
        name = names[index]
        same = None if query.query else source.labels[name] == source.labels[query.name]
        return Neighbour(pictures[name], _short(name), same)

    queries = [(_short(each.name), each.query.picture if each.query else pictures[each.name]) for each in shown]
    return neighbour_sheet(title, queries, [[neighbour(each, index) for index in each.neighbours] for each in shown])


def _short(name: str) -> str:
    return name if len(name) <= 28 else f"…{name[-27:]}"


def _read_query(path: Path, side: int | None) -> NamedPicture:
    try:
        return NamedPicture(str(path), load_picture(path) if side is None else load_centre(path, str(path), side))
    except PictureError as error:
        raise UsageError(f"--query: {error}") from error


def _rating_table(content: dict[str, Any]) -> str:
    names = dict.fromkeys(("precision@1", f"precision@{content['k']}", "mAP"))
    rows = [
        (name, str(found["dimension"]), *(f"{found[each]:.3f}" for each in names))
        for name, found in content["descriptors"].items()
    ]
    queries = next(iter(content["descriptors"].values()))["n_queries"]
    about = f"{content['data']}: {len(content['classes'])} classes, {queries} queries."
    return markdown_table(("descriptor", "dimension", *names), rows) + f"\n\n{about}"


def _neighbour_table(content: dict[str, Any], descriptor: str) -> str:
    rows = [
        (query, ", ".join(f"{each['name']} ({each['similarity']:.2f})" for each in found[descriptor]))
        for query, found in content["neighbours"].items()
    ]
    return markdown_table(("query", f"neighbours by {descriptor}"), rows)
