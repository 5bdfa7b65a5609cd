"""The photographs that ship inside scikit-image and scikit-learn: real pictures with nothing to download."""

from importlib.resources import as_file, files
from typing import NamedTuple

from torch import Tensor

from scvae_fast.data.pictures import load_picture

_SKIMAGE = ("skimage", "data")
_SKLEARN = ("sklearn", "datasets", "images")

_COLOUR = (
    (_SKIMAGE, "chelsea.png"),
    (_SKIMAGE, "coffee.png"),
    (_SKIMAGE, "hubble_deep_field.jpg"),
    (_SKIMAGE, "ihc.png"),
    (_SKIMAGE, "motorcycle_left.png"),
    (_SKIMAGE, "motorcycle_right.png"),
    (_SKIMAGE, "retina.jpg"),
    (_SKIMAGE, "rocket.jpg"),
    (_SKLEARN, "flower.jpg"),
)
_GREY = tuple(
    (_SKIMAGE, f"{name}.png")
    for name in (
        "brick",
        "camera",
        "cell",
        "clock_motion",
        "coins",
        "grass",
        "gravel",
        "moon",
        "page",
        "text",
    )
)
_HELD_OUT = ((_SKIMAGE, "astronaut.png"), (_SKLEARN, "china.jpg"))


class Credit(NamedTuple):
    """Who made a photograph, and under which terms it can be used.

    Example:
        >>> from scvae_fast.data import photograph_credits
        >>> photograph_credits()["flower"].licence
        'CC BY 2.0'
    """

    author: str
    licence: str
    source: str  # where the terms are stated, or where the photograph comes from


_NOTES = "notes of scikit-image"
_UNSTATED = "not stated"
_FREE = "no known copyright restrictions"
_CREDITS = {
    "astronaut": Credit("NASA", "public domain", _NOTES),
    "brick": Credit("CC0Textures", "CC0", _NOTES),
    "camera": Credit("Lav Varshney", "CC0", _NOTES),
    "cell": Credit("Paul Müller and others (Optics Express 26, 2018)", "CC0", _NOTES),
    "chelsea": Credit("Stefan van der Walt", "CC0", _NOTES),
    "china": Credit("danielbuechele", "CC BY 2.0", "https://www.flickr.com/photos/danielbuechele/6061409035"),
    "clock_motion": Credit("Stefan van der Walt", "public domain", _NOTES),
    "coffee": Credit("Rachel Michetti, courtesy of Pikolo Espresso Bar", "CC0", _NOTES),
    "coins": Credit("Brooklyn Museum", _FREE, _NOTES),
    "flower": Credit("vultilion", "CC BY 2.0", "https://www.flickr.com/photos/vultilion/6056698931"),
    "grass": Credit("linolafett", "CC0", _NOTES),
    "gravel": Credit("CC0Textures", "CC0", _NOTES),
    "hubble_deep_field": Credit("NASA", "public domain", _NOTES),
    "ihc": Credit("Center for Microscopy And Molecular Imaging", _FREE, _NOTES),
    "moon": Credit(_UNSTATED, _UNSTATED, _NOTES),
    "motorcycle_left": Credit("D. Scharstein and others (Middlebury 2014 stereo benchmark)", _UNSTATED, _NOTES),
    "motorcycle_right": Credit("D. Scharstein and others (Middlebury 2014 stereo benchmark)", _UNSTATED, _NOTES),
    "page": Credit(_UNSTATED, _UNSTATED, _NOTES),
    "retina": Credit("Mikael Häggström", "CC0", _NOTES),
    "rocket": Credit("SpaceX", "public domain", _NOTES),
    "text": Credit("Wikipedia, File:Corner.png", "public domain", _NOTES),
}


def photograph_credits() -> dict[str, Credit]:
    """Author and licence of each embedded photograph, by its name.

    scikit-learn ships `china` and `flower` under CC BY 2.0, which requires attribution. Of the others, the
    docstrings in `skimage.data` say what is known.

    Example:
        >>> from scvae_fast.data import photograph_credits
        >>> photograph_credits()["china"].author
        'danielbuechele'
    """
    return dict(_CREDITS)


class Photograph(NamedTuple):
    """A picture (3, H, W) in −1 … 1, its name, and whether it has colours.

    Example:
        >>> from scvae_fast.data import held_out_photographs
        >>> photograph = held_out_photographs()[0]
        >>> photograph.name, photograph.picture.shape, photograph.colour
        ('astronaut', torch.Size([3, 512, 512]), True)
    """

    name: str
    picture: Tensor
    colour: bool


def training_photographs() -> list[Photograph]:
    """The photographs to train on, nine in colour and then ten in grey.

    Raises:
        ImportError: scikit-image or scikit-learn is not installed, or comes without its photographs.

    Example:
        >>> from scvae_fast.data import training_photographs
        >>> len(training_photographs())
        19
    """
    return [_load(*which, colour=True) for which in _COLOUR] + [_load(*which, colour=False) for which in _GREY]


def held_out_photographs() -> list[Photograph]:
    """`astronaut` and `china`, which are never trained on.

    Raises:
        ImportError: as `training_photographs`.

    Example:
        >>> from scvae_fast.data import held_out_photographs
        >>> [photograph.name for photograph in held_out_photographs()]
        ['astronaut', 'china']
    """
    return [_load(*which, colour=True) for which in _HELD_OUT]


def load_photograph(name: str) -> Photograph:
    """One of them by its name, such as "brick".

    Raises:
        ValueError: there is none of that name.
        ImportError: as `training_photographs`.
    """
    for kind in (_COLOUR, _GREY, _HELD_OUT):
        for folder, file in kind:
            if file.rsplit(".", 1)[0] == name:
                return _load(folder, file, colour=kind is not _GREY)
    raise ValueError(f"load_photograph: name must be one of the embedded photographs, got {name!r}")


def _load(folder: tuple[str, ...], name: str, *, colour: bool) -> Photograph:
    package, *inside = folder
    try:
        # Straight from the files: skimage.data's functions would also make a cache folder in the user's home.
        resource = files(package).joinpath("/".join([*inside, name]))
    except ModuleNotFoundError as error:
        raise ImportError(f'the embedded photographs need {package}: pip install "scvae_fast[train]"') from error
    if not resource.is_file():
        raise ImportError(f"the installed {package} comes without its photograph {'/'.join([*inside, name])}")
    with as_file(resource) as path:
        return Photograph(name.rsplit(".", 1)[0], load_picture(path), colour)
