"""What is behind `scvae_fast.functional`: operations, their registration, their backends."""
