"""SC-VAE and seven other autoencoders, trained and evaluated in the same way: `scvae-fast compare`."""
