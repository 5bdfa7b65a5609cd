"""Makes torchvision importable with a CPU torch, for torchmetrics and Lightning, which import it if installed."""

import importlib
import importlib.util

import torch

# Operators that torchvision refers to at import, with the signatures that its native library declares.
_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_library: list[torch.library.Library] = []


def make_importable() -> None:
    """Import torchvision, if it is installed; declare its operators if its native library doesn't load.

    The torchvision 0.28 wheel is built against a CUDA torch; with a CPU torch its native library is skipped silently,
    and the import fails with "operator torchvision::nms does not exist". This package uses none of these operators.

    Raises:
        RuntimeError: importing torchvision fails for another reason.
    """
    if _library or importlib.util.find_spec("torchvision") is None:
        return
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "operator torchvision::nms does not exist" not in str(error):
            raise
        library = torch.library.Library("torchvision", "FRAGMENT")
        for schema in _SCHEMAS:
            library.define(schema)
        _library.append(library)  # the declarations live as long as this object
        importlib.import_module("torchvision")
