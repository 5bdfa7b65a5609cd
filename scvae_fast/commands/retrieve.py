"""`scvae-fast retrieve`: finds the nearest neighbours of pictures, and writes them to a folder."""

import os
from collections.abc import Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from scvae_fast._files import claim_folder, printable
from scvae_fast._markdown import markdown_table
from scvae_fast.commands._inputs import InferenceOptions, check_outside, tell, with_progress
from scvae_fast.commands._labelled import (
    DEFAULTS,
    LabelledData,
    ReadablePictures,
    check_read,
    check_two_classes,
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
        UsageError: an argument can't be used: for example, k is larger than the gallery, or there is only one class; or
            no picture could be read.
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
    if asked:
        _check_length(source, k, queries)
    else:
        _check_classes(source, list(source.labels), k, data.per_class)
    looked_at = partial(describe, model, descriptors=chosen, batch_size=inference.batch_size, speed=speed)
    gallery = looked_at(ReadablePictures(source.pictures))
    check_read(gallery, source.data)
    # Files that can't be read are known only now.
    own = _own_places(queries, source, gallery.names)
    if asked:
        _check_k(source, k, len(gallery.names), any(place is not None for place in own))
    else:
        _check_classes(source, gallery.names, k, data.per_class)
    content = content_of(checkpoint, source, data, len(gallery.names)) | {"k": k}
    if asked:
        found = _neighbours(looked_at(with_progress(asked)), gallery, k, own)
        content["neighbours"] = _listed(asked, gallery.names, found)
        drawn = asked if side == sheet_side else [_read_query(path, sheet_side) for path in queries]
        shown = [_Shown(named.name, named, list(found[chosen[0]].indices[i])) for i, named in enumerate(drawn)]
        table = _neighbour_table(content, str(chosen[0]))
    else:
        content["descriptors"] = _rated(source, gallery, k)
        shown = _some_queries(source, gallery, chosen[0], k, data.seed)
        table = _rating_table(content)
    legend = "" if asked else " (blue: same class as the query)"
    tell("drawing the neighbours")
    figure = _sheet(f"Nearest neighbours by {chosen[0]}{legend}", shown, source, gallery.names, sheet_side)
    finish(out, content, table, {"neighbours": figure})
    return content


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


def _check_length(source: LabelledPictures, k: int, queries: Sequence[Path]) -> None:
    """Check k before the gallery is described, if the number of its pictures is known."""
    if not isinstance(source.pictures, PictureStream):
        _check_k(source, k, len(source.labels), False)
    elif source.pictures.length is not None:
        names = chain.from_iterable(_own_names(queries, source))
        own = any(True for _ in source.pictures.some(names, source.pictures.resize))
        _check_k(source, k, source.pictures.length, own)


def _check_k(source: LabelledPictures, k: int, size: int, own: bool) -> None:
    """Check k for a gallery of `size` pictures; `own` says whether a query is one of them."""
    if size <= own:
        raise UsageError(f"{source.data}: must contain pictures other than the query")
    if k > size - own:
        searched = "pictures to search apart from the query" if own else "pictures to search"
        raise UsageError(f"--k must be at most {size - own}, the number of {searched}, got {k}")


def _check_classes(source: LabelledPictures, names: list[str], k: int, per_class: int | None) -> None:
    """Check that neighbours among these pictures can be rated."""
    labels, rounds = labels_of(source, names), _rounds(source, names)
    check_two_classes(labels, source.data)
    purpose = "so that a picture can find another one of its class"
    if source.parts is None and np.bincount(labels).max() < 2:
        if per_class == 1:
            raise UsageError(f"--per-class must be 2 or more, {purpose}, got 1")
        raise UsageError(f"{source.data}: at least one class must have two pictures or more, {purpose}")
    if source.parts is not None and any(not np.isin(labels[q], labels[g]).any() for q, g, _ in rounds):
        raise UsageError(f"{source.data}: at least one class must have pictures in both parts, {purpose}")
    _check_k(source, k, min(len(g) for _, g, _ in rounds), source.parts is None)


def _rounds(source: LabelledPictures, names: list[str]) -> list[_Round]:
    if source.parts is None:
        everything = np.arange(len(names))
        return [_Round(everything, everything, everything)]
    parts = np.array([source.parts[name] for name in names])
    first, second = np.flatnonzero(parts == 0), np.flatnonzero(parts == 1)
    rounds = [_Round(second, first, None)]
    return [*rounds, _Round(first, second, None)] if source.exchangeable else rounds


def _own_names(queries: Sequence[Path], source: LabelledPictures) -> list[list[str]]:
    """The names that each query may have in the gallery; none for a query outside its folder."""
    folder = source.pictures.folder if isinstance(source.pictures, PictureStream) else None
    if folder is None:
        return [[] for _ in queries]
    found = []
    for query in queries:
        # The path as given, or where its links lead: the gallery has the files under one of these.
        ways = ((Path(os.path.abspath(query)), Path(os.path.abspath(folder))), (query.resolve(), folder.resolve()))
        found.append([printable(path.relative_to(root).as_posix()) for path, root in ways if path.is_relative_to(root)])
    return found


def _own_places(queries: Sequence[Path], source: LabelledPictures, names: list[str]) -> list[int | None]:
    """The place of each query in the gallery; None for a query outside it."""
    places = {name: place for place, name in enumerate(names)}
    return [next((places[name] for name in own if name in places), None) for own in _own_names(queries, source)]


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
