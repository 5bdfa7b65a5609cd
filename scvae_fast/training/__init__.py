"""Training: a Lightning module, its callbacks, and the initial weights."""

from scvae_fast import _torchvision
from scvae_fast._extras import extra

_torchvision.make_importable()
with extra("scvae_fast.training", "lightning"):
    import lightning.pytorch as _lightning  # noqa: F401
