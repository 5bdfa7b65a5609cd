"""Editing pictures through their codes: interpolation, and scaling or removing atoms."""

from scvae_fast.tasks.editing.atoms import atom_energies, scale_atoms
from scvae_fast.tasks.editing.coding import code_latents
from scvae_fast.tasks.editing.interpolation import interpolate, mix_codes

__all__ = ["atom_energies", "code_latents", "interpolate", "mix_codes", "scale_atoms"]
