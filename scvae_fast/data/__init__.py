"""Pictures: the embedded photographs, anyone's files, and random crops to train on."""

from scvae_fast.data.crops import CropSettings, RandomCrops
from scvae_fast.data.photographs import Photograph, held_out_photographs, training_photographs
from scvae_fast.data.pictures import PictureError, load_picture, save_picture

__all__ = [
    "CropSettings",
    "Photograph",
    "PictureError",
    "RandomCrops",
    "held_out_photographs",
    "load_picture",
    "save_picture",
    "training_photographs",
]
