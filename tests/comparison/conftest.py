"""Lightning is imported after this package has made it importable."""

import scvae_fast.training  # noqa: F401
