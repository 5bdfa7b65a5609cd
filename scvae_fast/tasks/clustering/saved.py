"""A clustering that is saved in a file and applied to pictures."""

import json
import os
from dataclasses import asdict, dataclass, fields
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from scvae_fast._extras import extra
from scvae_fast._files import write_atomically
from scvae_fast.data.stream import NamedPicture
from scvae_fast.errors import UsageError
from scvae_fast.models import SCVAE
from scvae_fast.tasks.cells import cells_of
from scvae_fast.tasks.clustering.kmeans import KMeansFit, KMeansSettings, assigned

with extra("scvae_fast.tasks.clustering", "safetensors"):
    from safetensors import SafetensorError, safe_open
    from safetensors.numpy import save_file

SCHEMA = 1
_KEY = "scvae_fast.clustering"
_ARRAYS = ("centres", "means", "counts")


@dataclass(frozen=True, eq=False)
class Clustering:
    """A clustering of the codes of one model.

    Its file is a safetensors file with `centres` (k, K), `means` (k, K), `counts` (k,), and JSON under
    "scvae_fast.clustering" in the metadata: schema, version, fingerprint, stride, settings, inertia.

    Args:
        fit: the result of K-means on codes over K atoms.
        settings: the settings of the fit.
        fingerprint: of the model, see `SCVAE.fingerprint`.
        stride: pixels per cell, in each direction.

    Example:
        >>> import numpy as np
        >>> from scvae_fast.tasks.clustering import Clustering, KMeansSettings, fit_kmeans
        >>> settings = KMeansSettings()
        >>> rows = np.random.default_rng(0).normal(size=(50, 4)).astype("float32")
        >>> (fit,) = fit_kmeans(lambda: [rows], [3], settings)
        >>> Clustering(fit, settings, fingerprint="of a model", stride=8).k
        3
    """

    fit: KMeansFit
    settings: KMeansSettings
    fingerprint: str
    stride: int

    @classmethod
    def of(cls, fit: KMeansFit, settings: KMeansSettings, model: SCVAE) -> "Clustering":
        """A clustering of codes that this model made."""
        return cls(fit, settings, model.fingerprint(), model.config.stride)

    @property
    def k(self) -> int:
        """Number of clusters."""
        return len(self.fit.centres)

    def assign(self, model: SCVAE, picture: Tensor) -> np.ndarray:  # (3, H, W) -> (h, w) int64
        """The cluster of each cell of a picture, 0 … k − 1.

        Raises:
            UsageError: the codes of another model were clustered, or codes contain NaN or infinity.
        """
        self.check_model(model)
        (cells,) = cells_of(model, [NamedPicture("the picture", picture)])
        return self.assign_rows(cells.rows).reshape(cells.grid)

    def assign_rows(self, rows: Any) -> np.ndarray:  # (M, K) -> (M,) int64
        """The cluster of each code; rows are dense or in CSR form.

        Raises:
            ValueError: rows don't have a column per atom.
        """
        if rows.shape[1] != self.fit.centres.shape[1]:
            raise ValueError(f"Clustering: rows must be (M, {self.fit.centres.shape[1]}), got {rows.shape}")
        pieces = assigned(lambda: [rows], self.fit.centres, self.settings.scale)
        return np.concatenate([np.empty(0, np.int64), *(piece.labels for piece in pieces)])

    def check_model(self, model: SCVAE) -> None:
        """Check that the codes of this model were clustered.

        Raises:
            UsageError: those of another model were.
        """
        found = model.fingerprint()
        if found != self.fingerprint:
            raise UsageError(
                f"the codes of another model were clustered: its fingerprint is {self.fingerprint[:12]}…, "
                f"that of the given model is {found[:12]}…"
            )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file atomically.

        Raises:
            OSError: it can't be written.
        """
        about = {
            "schema": SCHEMA,
            "scvae_fast": version("scvae-fast"),
            "fingerprint": self.fingerprint,
            "stride": self.stride,
            "settings": asdict(self.settings),
            "inertia": self.fit.inertia,
        }
        arrays = {name: np.ascontiguousarray(getattr(self.fit, name)) for name in _ARRAYS}
        try:
            write_atomically(path, partial(save_file, arrays, metadata={_KEY: json.dumps(about)}))
        except SafetensorError as error:  # safetensors reports a full disk this way
            raise OSError(str(error)) from error

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Clustering":
        """Read a file written by `save`.

        Raises:
            UsageError: the file is missing, not a clustering, damaged, or of another format version.
        """
        try:
            with safe_open(Path(path), framework="numpy") as file:
                about = json.loads((file.metadata() or {})[_KEY])
                schema = about["schema"]
                arrays = {name: file.get_tensor(name) for name in _ARRAYS} if schema == SCHEMA else {}
        except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
            raise UsageError(f"{path} can't be read as a clustering: {error!r}") from error
        if schema != SCHEMA:
            raise UsageError(f"{path} is a clustering of format {schema}; this version reads format {SCHEMA}")
        try:
            settings = KMeansSettings(**{field.name: about["settings"][field.name] for field in fields(KMeansSettings)})
            clustering = cls(
                KMeansFit(**arrays, inertia=about["inertia"]), settings, about["fingerprint"], about["stride"]
            )
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(f"{path} is damaged: {error!r}") from error
        clustering._check(path)
        return clustering

    def _check(self, path: str | os.PathLike[str]) -> None:
        fit = self.fit
        shapes = fit.centres.ndim == 2 and fit.means.shape == fit.centres.shape and fit.counts.shape == (self.k,)
        if not (shapes and self.k and np.isfinite(fit.centres).all() and np.isfinite(fit.means).all()):
            raise UsageError(f"{path} is damaged: its centres, means and counts don't fit together or are not finite")
