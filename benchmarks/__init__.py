"""Benchmarks of scvae_fast: cases, timing, and the program that runs them."""
