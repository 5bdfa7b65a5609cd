"""The implementation of `scvae_fast.functional`: operations, their registration, their backends."""
