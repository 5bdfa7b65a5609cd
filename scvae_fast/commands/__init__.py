"""Implementation of each command of `scvae-fast`: read files, call the packages below, write a folder."""
