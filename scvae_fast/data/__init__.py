"""Pictures: the embedded photographs, anyone's files and data sets, random crops to train on, a stream to evaluate on.

Tar shards are in `scvae_fast.data.shards`, which needs webdataset.
"""

from scvae_fast.data.crops import CropSettings, RandomCrops
from scvae_fast.data.files import Files, Names, list_classes, list_ffhq, list_folder, list_imagenet
from scvae_fast.data.loading import FixedBatches, StreamBatches, picture_loader
from scvae_fast.data.photographs import (
    Credit,
    Photograph,
    held_out_photographs,
    photograph_credits,
    training_photographs,
)
from scvae_fast.data.pictures import PictureError, load_picture, save_picture
from scvae_fast.data.sampling import FixedPictures, TrainingPictures
from scvae_fast.data.square_crops import PlacedCrop, ZoomedCrop
from scvae_fast.data.stream import NamedPicture, PictureStream
from scvae_fast.data.unreadable import UnreadableFiles

__all__ = [
    "Credit",
    "CropSettings",
    "Files",
    "FixedBatches",
    "FixedPictures",
    "NamedPicture",
    "Names",
    "Photograph",
    "PictureError",
    "PictureStream",
    "PlacedCrop",
    "RandomCrops",
    "StreamBatches",
    "TrainingPictures",
    "UnreadableFiles",
    "ZoomedCrop",
    "held_out_photographs",
    "list_classes",
    "list_ffhq",
    "list_folder",
    "list_imagenet",
    "load_picture",
    "photograph_credits",
    "picture_loader",
    "save_picture",
    "training_photographs",
]
