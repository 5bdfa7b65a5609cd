"""The architecture of an SC-VAE as a frozen dataclass, and the presets."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, get_args

from scvae_fast.nn.attention import AttentionName
from scvae_fast.nn.dictionary_lista import Compat
from scvae_fast.ops.checks import python_number

_POSITIVE = (
    "n_features",
    "n_atoms",
    "attention_hidden",
    "in_channels",
    "resolution",
    "ch",
    "num_res_blocks",
    "norm_groups",
)
_FLAGS = ("learn_dictionary", "learn_c", "mid_attention", "norm_out")


@dataclass(frozen=True, kw_only=True)
class SCVAEConfig:
    """Architecture of an `SCVAE`. The fields of the encoder and decoder follow VQGAN.

    Args:
        n_features: n, length of a latent vector.
        n_atoms: K, columns of the dictionary.
        n_iter: T, iterations of LISTA.
        lmbda: λ of the paper, β of the released code: the threshold is lmbda / c.
        compat: "paper", or "official" for the variant in the authors' code, see `DictionaryLISTA`.
        attention: the network that weighs positions in the loss, see `scvae_fast.nn.attention`.
        attention_hidden: hidden width of the "eq" network.
        learn_dictionary: whether D is a parameter or a buffer.
        learn_c: whether c is a parameter or a buffer.
        in_channels: channels of a picture.
        resolution: height and width of the pictures that the model is meant for. No layer depends on it: any
            multiples of `stride` work.
        ch: base width of encoder and decoder.
        ch_mult: width of each level, in units of `ch`; from one level to the next, height and width are halved.
        num_res_blocks: residual blocks per level (the decoder has one more).
        attn_levels: levels with attention, 0 being full resolution.
        mid_attention: whether the bottlenecks of encoder and decoder have attention.
        dropout: rate in residual blocks.
        norm_groups: groups of the group normalisation, see `blocks.group_norm`.
        norm_out: whether encoder and decoder normalise before their last convolution, as VQGAN's do.

    Raises:
        ValueError: a field is out of range or of the wrong type; the message names it.

    Example:
        >>> from scvae_fast import SCVAEConfig
        >>> config = SCVAEConfig.preset("pictures64", n_iter=5)
        >>> config.resolution, config.n_atoms, config.n_iter, config.stride
        (64, 512, 5, 8)
    """

    n_features: int = 256
    n_atoms: int = 512
    n_iter: int = 16
    lmbda: float = 1.0
    compat: Compat = "paper"
    attention: AttentionName = "constant"
    attention_hidden: int = 64
    learn_dictionary: bool = True
    learn_c: bool = True
    in_channels: int = 3
    resolution: int = 256
    ch: int = 128
    ch_mult: tuple[int, ...] = (1, 1, 2, 2, 4)
    num_res_blocks: int = 2
    attn_levels: tuple[int, ...] = (4,)
    mid_attention: bool = True
    dropout: float = 0.0
    norm_groups: int = 32
    norm_out: bool = True

    def __post_init__(self) -> None:
        for name in ("ch_mult", "attn_levels"):
            value = getattr(self, name)
            _require(isinstance(value, (list, tuple)), name, "a sequence of integers", value)
            object.__setattr__(self, name, tuple(map(python_number, value)))
        for field in fields(self):
            object.__setattr__(self, field.name, python_number(getattr(self, field.name)))
        for name in _POSITIVE:
            _require(_is_int(getattr(self, name), 1), name, "a positive integer", getattr(self, name))
        for name in _FLAGS:
            _require(isinstance(getattr(self, name), bool), name, "True or False", getattr(self, name))
        self._check_ranges()

    def _check_ranges(self) -> None:
        _require(_is_int(self.n_iter, 0), "n_iter", "an integer, 0 or more", self.n_iter)
        _require(_is_number(self.lmbda, 0, float("inf")), "lmbda", "a number, 0 or more", self.lmbda)
        _require(_is_number(self.dropout, 0, 1), "dropout", "a number in [0, 1)", self.dropout)
        _require(self.compat in get_args(Compat), "compat", f"one of {get_args(Compat)}", self.compat)
        names = get_args(AttentionName)
        _require(self.attention in names, "attention", f"one of {names}", self.attention)
        widths = len(self.ch_mult) > 0 and all(_is_int(mult, 1) for mult in self.ch_mult)
        _require(widths, "ch_mult", "one or more positive integers", self.ch_mult)
        levels = all(_is_int(level, 0) and level < len(self.ch_mult) for level in self.attn_levels)
        _require(levels, "attn_levels", f"levels 0 … {len(self.ch_mult) - 1}", self.attn_levels)
        multiple = self.resolution % self.stride == 0
        _require(multiple, "resolution", f"a multiple of the stride, {self.stride}", self.resolution)

    @property
    def stride(self) -> int:
        """Pixels per position of the latent grid, in each direction."""
        return 2 ** (len(self.ch_mult) - 1)

    @property
    def levels(self) -> dict[str, Any]:
        """The arguments that `Encoder` and `Decoder` share."""
        return {
            "ch": self.ch,
            "ch_mult": self.ch_mult,
            "num_res_blocks": self.num_res_blocks,
            "attn_levels": self.attn_levels,
            "mid_attention": self.mid_attention,
            "dropout": self.dropout,
            "norm_groups": self.norm_groups,
            "norm_out": self.norm_out,
        }

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Number of rows and of columns of the stride x stride cells that cover a picture."""
        return -(-height // self.stride), -(-width // self.stride)

    @classmethod
    def preset(cls, name: str, **changes: Any) -> "SCVAEConfig":
        """A named configuration, with `changes` to individual fields.

        Raises:
            ValueError: there is no preset of that name, or a changed field is not valid.
        """
        if name not in PRESETS:
            raise ValueError(f"SCVAEConfig.preset: name must be one of {tuple(PRESETS)}, got {name!r}")
        return replace(PRESETS[name], **changes)

    def to_dict(self) -> dict[str, Any]:
        """All fields, in the form that `from_dict` reads."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "SCVAEConfig":
        """The configuration with exactly these fields.

        Raises:
            ValueError: values is not a mapping, or a field is missing, unknown or not valid.
        """
        if not isinstance(values, Mapping):
            raise ValueError(f"SCVAEConfig.from_dict: values must be a mapping, got {type(values).__name__}")
        known = {field.name for field in fields(cls)}
        if missing := sorted(known - values.keys()):
            raise ValueError(f"SCVAEConfig.from_dict: fields missing: {', '.join(missing)}")
        if unknown := sorted(values.keys() - known):
            raise ValueError(f"SCVAEConfig.from_dict: unknown fields: {', '.join(unknown)}")
        return cls(**values)


def _require(condition: bool, name: str, expected: str, value: object) -> None:
    if not condition:
        raise ValueError(f"SCVAEConfig: {name} must be {expected}, got {value!r}")


def _is_int(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_number(value: object, least: float, below: float) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and least <= value < below


# The authors' released configurations. Their code takes β from the command line; here it is 1.
_FFHQ_16 = SCVAEConfig(compat="official", n_iter=30)
_FFHQ_32 = replace(_FFHQ_16, n_iter=16, ch_mult=(1, 2, 2, 4), attn_levels=())

PRESETS = {
    "ffhq256-16x16": _FFHQ_16,
    "ffhq256-32x32": _FFHQ_32,
    "imagenet256-16x16": replace(_FFHQ_16, n_iter=16),
    "imagenet256-32x32": _FFHQ_32,
    "pictures64": SCVAEConfig(
        n_iter=16,
        lmbda=0.16,
        resolution=64,
        ch=16,
        ch_mult=(1, 2, 6, 8),
        num_res_blocks=1,
        attn_levels=(),
        mid_attention=False,
        norm_groups=4,
        norm_out=False,
    ),
}
