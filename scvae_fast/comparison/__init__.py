"""SC-VAE beside the autoencoders it is compared with, trained and rated alike: `scvae-fast compare`."""
