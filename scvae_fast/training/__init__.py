"""Training: a Lightning module, its callbacks, the start of the weights, and the demonstration."""

from scvae_fast import _torchvision

_torchvision.make_importable()
try:
    import lightning.pytorch as _lightning  # noqa: F401
except ImportError as error:
    raise ImportError('scvae_fast.training needs lightning: pip install "scvae_fast[train]"') from error
