"""What the commands of `scvae-fast` do: read files, call the packages below, write a folder."""
