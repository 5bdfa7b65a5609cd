"""Pictures changed by way of their codes: interpolated, with atoms switched off, denoised, filled in."""

from scvae_fast.editing.atoms import atom_energies, scale_atoms
from scvae_fast.editing.coding import code_latents, with_threshold
from scvae_fast.editing.denoising import add_noise, recode
from scvae_fast.editing.inpainting import fill_smoothly, inpaint, random_mask
from scvae_fast.editing.interpolation import interpolate, mix_codes

__all__ = [
    "add_noise",
    "atom_energies",
    "code_latents",
    "fill_smoothly",
    "inpaint",
    "interpolate",
    "mix_codes",
    "random_mask",
    "recode",
    "scale_atoms",
    "with_threshold",
]
