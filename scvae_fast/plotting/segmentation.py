"""Figures of segmentations, and their colours."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from scvae_fast.data.masks import IGNORED
from scvae_fast.data.pictures import to_bytes
from scvae_fast.plotting.clusters import colours, overlay
from scvae_fast.plotting.figures import INK, panel_ratios
from scvae_fast.tasks.segmentation.experiment import Segmented


def palette() -> list[int]:
    """The colours of 256 class numbers, for palette images: 20 colours, then black."""
    chosen = np.zeros((256, 3), np.uint8)
    chosen[:20] = (255 * colours(20)).round()
    return [int(value) for value in chosen.flatten()]


def segmentations(shown: Sequence[Segmented], classes: Sequence[str]) -> Figure:
    """Pictures, their masks and the predictions, stacked; pixels of no class are black."""
    widths = panel_ratios(each.classes for each in shown)
    figure = Figure(figsize=(max(2.6 * sum(widths) + 1.2, 5), 8.6), layout="constrained", dpi=130)
    axes = figure.subplots(3, len(shown), squeeze=False, width_ratios=widths)
    for i, (labelled, found) in enumerate(shown):
        counted = (labelled.mask != IGNORED)[..., None]
        truth = overlay(labelled.picture, np.where(counted[..., 0], labelled.mask, 0), len(classes)) * counted
        rows = (to_bytes(labelled.picture), truth, overlay(labelled.picture, found, len(classes)))
        for axis, picture, title in zip(axes[:, i], rows, ("picture", "mask", "prediction"), strict=True):
            axis.imshow(picture, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
            if i == 0:
                axis.set_ylabel(title, color=INK, fontsize=11)
    handles = [Patch(color=colour, label=name) for colour, name in zip(colours(len(classes)), classes, strict=True)]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(classes), 6), frameon=False)
    return figure
