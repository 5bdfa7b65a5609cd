"""The page: its layout, and how its outputs follow from its inputs."""

from __future__ import annotations

import html
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from scvae_fast.app import views
from scvae_fast.data.photographs import held_out_photographs
from scvae_fast.data.pictures import PictureError, to_bytes
from scvae_fast.models import SCVAE

_ATOMS_SHOWN = 24
_KEPT_SECONDS = 3600  # how long uploads and the views of idle pages are kept

_HINT = (
    '<p class="hint">You will see the picture next to its reconstruction, how close the two are, how many bits the '
    "codes take, where in the picture codes are dense, which cells have similar codes, and which atoms "
    "the picture uses most.</p>"
)
STYLE = """
.gradio-container { max-width: min(1180px, 100vw) !important; margin: auto; }
#atoms .grid-container { min-width: 0 !important;
  grid-template-columns: repeat(auto-fill, minmax(max(96px, 11%), 1fr)) !important; }
#atoms .caption-label { max-width: 100% !important; }
.cards { display: flex; flex-wrap: wrap; gap: 12px; }
.cards > div { flex: 1 1 200px; border: 1px solid var(--border-color-primary); border-radius: 10px; padding: 12px 16px;
  background: var(--background-fill-primary); }
.cards { margin: 14px 0; }
.cards b { display: block; font-size: 1.45em; line-height: 1.4; }
.cards span { font-size: 0.9em; }
#original img, #rebuilt img, #density img, #clusters img { min-width: 200px; min-height: 150px; object-fit: contain; }
.html-container { padding: 0 !important; }
.caption { margin-top: 14px; }
.caption b { font-size: 1.1em; }
.caption span, .hint, .cards span { opacity: 0.72; }
.problem { border: 1px solid #b91c1c; border-left-width: 6px; border-radius: 8px; padding: 12px 16px; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 16px; }
.legend i { display: inline-block; width: 12px; height: 12px; border-radius: 3px; margin-right: 6px; }
"""
# Only fonts of the visitor's own machine: gradio's themes would download others.
THEME = gr.themes.Base(
    primary_hue="blue",
    neutral_hue="slate",
    font=("system-ui", "sans-serif"),
    font_mono=("ui-monospace", "monospace"),
)


class Visit:
    """The actions of the page for one model: each method turns inputs of the page into updates of it.

    Args:
        model: in evaluation mode.
        limits: on the pictures that are accepted.
    """

    def __init__(self, model: SCVAE, limits: views.Limits) -> None:
        self.model, self.limits, self.stride = model, limits, model.config.stride

    def upload(self, path: str | None, n_clusters: int) -> list[Any]:
        """Show an uploaded file; None stands for a removed one."""
        if path is None:
            return self._nothing(_HINT)
        try:
            picture = views.read_picture(Path(path), self.limits)
        except PictureError as error:
            return self._nothing(f'<div class="problem" role="alert">{html.escape(str(error))}</div>')
        return self._results(views.look(self.model, picture), n_clusters)

    def example(self, n_clusters: int) -> list[Any]:
        """Show the first held-out photograph."""
        return self._results(views.look(self.model, held_out_photographs()[0].picture), n_clusters)

    def clusters(self, view: views.Codes | None, n_clusters: int) -> list[Any]:
        """The map and its legend for another number of clusters."""
        if view is None:
            return [None, ""]
        labels = views.cluster(view.codes, int(n_clusters))
        return [views.cluster_map(view, self.stride, labels), _legend(labels)]

    def _results(self, view: views.View, n_clusters: int) -> list[Any]:
        usage, cells = view.codes.usage(), len(view.codes.counts)
        used = usage.argsort(descending=True, stable=True)[: min(_ATOMS_SHOWN, int((usage > 0).sum()))]
        shares = [f"{atom}: {100 * int(usage[atom]) / cells:.0f} %" for atom in used.tolist()]
        kept = views.kept(view)
        return [
            kept,
            "",
            gr.update(visible=True),
            to_bytes(view.picture),
            to_bytes(view.x_hat),
            _figures(view, self.stride),
            views.density_map(view, self.stride),
            *self.clusters(kept, n_clusters),
            list(zip(views.atom_pictures(self.model, used), shares, strict=True)) if len(used) else [],
        ]

    def _nothing(self, message: str) -> list[Any]:
        return [None, message, gr.update(visible=False), None, None, "", None, None, "", []]


def build(model: SCVAE, limits: views.Limits, name: str) -> gr.Blocks:
    """The page for a model; `name` is its title."""
    visit = Visit(model, limits)
    cell = f"{visit.stride} × {visit.stride}"
    with gr.Blocks(
        title="scvae_fast", analytics_enabled=False, delete_cache=(_KEPT_SECONDS, _KEPT_SECONDS), fill_width=True
    ) as page:
        gr.Markdown(
            "# A picture as sparse codes\n"
            f"The model describes each cell of {cell} pixels as a sum of a few *atoms*, out of {model.config.n_atoms} "
            "that it has learned, and reconstructs the picture from these sparse codes alone. "
            "Drop in your own picture: it is sent only to the machine that serves this page. "
            f"*Model: {html.escape(name)}*"
        )
        view = gr.State(time_to_live=_KEPT_SECONDS)
        with gr.Row():
            with gr.Column(scale=3):
                upload = gr.File(
                    label=f"Your picture (up to {limits.mebibytes:g} MiB and {limits.megapixels:g} megapixels)",
                    height=130,
                )
            with gr.Column(scale=1, min_width=200):
                example = gr.Button("Try an example", variant="primary")
        message = gr.HTML(_HINT, padding=False, elem_id="message")
        results, shown, slider = _results(visit, cell)
        outputs = [view, message, results, *shown]
        options: dict[str, Any] = {"api_visibility": "private", "show_progress_on": [message, *shown[:2]]}
        upload.change(visit.upload, [upload, slider], outputs, **options)
        example.click(visit.example, [slider], outputs, **options)
        slider.change(visit.clusters, [view, slider], shown[4:6], trigger_mode="always_last", api_visibility="private")
    # One picture at a time: two at once would only slow each other down. A short queue waits; further ones are refused.
    return page.queue(default_concurrency_limit=1, max_size=16)


def _results(visit: Visit, cell: str) -> tuple[gr.Column, list[Any], gr.Slider]:
    """The part of the page that shows results, hidden at first; its outputs, which `Visit` fills; and the slider."""
    with gr.Column(visible=False) as column:
        with gr.Row():
            original = _image("original", "The picture", "at its full size")
            rebuilt = _image("rebuilt", "Reconstruction", "from its sparse codes alone")
        figures = gr.HTML(elem_id="figures", padding=False)
        with gr.Row():
            density = _image("density", "Code density", "nonzero entries per cell; yellow: many")
            with gr.Column():
                grouped = _image("clusters", "Cells with similar codes", "one colour for each group", alone=False)
                legend = gr.HTML(padding=False)
                slider = gr.Slider(
                    2,
                    views.MOST_CLUSTERS,
                    value=5,
                    step=1,
                    label="Number of groups (K-means over this picture's codes)",
                    elem_id="groups",
                )
        _caption(
            "Most used atoms",
            f"what each adds to its cell of {cell} pixels and around it, its number, and the share of cells using it",
        )
        atoms = gr.Gallery(
            show_label=False,
            height="auto",
            object_fit="contain",
            allow_preview=False,
            buttons=[],
            format="png",
            elem_id="atoms",
        )
    return column, [original, rebuilt, figures, density, grouped, legend, atoms], slider


def _image(elem_id: str, title: str, text: str, *, alone: bool = True) -> gr.Image:
    """A picture under its caption; `alone` puts it in a column of its own."""
    with gr.Column() if alone else nullcontext():
        _caption(title, text)
        return gr.Image(
            show_label=False,
            interactive=False,
            format="png",
            buttons=["download", "fullscreen"],
            elem_id=elem_id,
            alt_text=title,
        )


def _caption(title: str, text: str) -> None:
    gr.HTML(f'<div class="caption"><b>{title}</b> <span>{text}</span></div>', padding=False)


def _figures(view: views.View, stride: int) -> str:
    """PSNR, density and bits, with explanations, as HTML."""
    height, width = view.picture.shape[1:]
    cells, entries = len(view.codes.counts), view.codes.n_entries
    cards = (
        (f"{view.psnr:.2f} dB", "PSNR; above 30 dB, the two look much the same"),
        (
            f"{100 * view.codes.density:.1f} % of the entries",
            f"of the codes are not zero: {entries / cells:.1f} of {view.codes.n_atoms} atoms per cell",
        ),
        (
            f"{view.bits_per_pixel:.2f} bits per pixel",
            f"for the positions of the entries and {views.VALUE_BITS} bits for each value, without entropy coding",
        ),
        (f"{view.codes.w} × {view.codes.h} cells", f"of {stride} × {stride} pixels, for {width} × {height} pixels"),
    )
    return (
        f'<div class="cards">{"".join(f"<div><b>{value}</b><span>{text}</span></div>" for value, text in cards)}</div>'
    )


def _legend(labels: np.ndarray) -> str:
    """The colour and share of each cluster, as HTML."""
    counts = np.bincount(labels.ravel())
    items = (
        f'<span><i style="background:{colour}"></i>{100 * count / labels.size:.0f} %</span>'
        for colour, count in zip(views.PALETTE, counts, strict=False)
    )
    return f'<div class="legend">{"".join(items)}</div>'
