"""`python -m scvae_fast` is the command `scvae-fast`."""

import sys

from scvae_fast.cli import main

if __name__ == "__main__":
    sys.exit(main())
