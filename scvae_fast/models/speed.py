"""How a model is run fast on a device: 16-bit autocast, memory format, compilation of encoder and decoder."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, cast, get_args

import torch
from torch import nn

Model = TypeVar("Model", bound=nn.Module)
Precision = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True, kw_only=True)
class SpeedSettings:
    """Choices that change how fast an `SCVAE` runs, and its results by rounding alone.

    The sparse coding is computed in float32 whatever the precision, as are losses and parameters.

    Args:
        precision: of the convolutions and products of encoder and decoder, through autocast.
        channels_last: whether pictures and feature maps hold the channels of a pixel side by side.
        compile: whether encoder and decoder go through `torch.compile`, which takes a minute at first.

    Raises:
        ValueError: precision is none of these three.
    """

    precision: Precision = "float32"
    channels_last: bool = False
    compile: bool = False

    def __post_init__(self) -> None:
        if self.precision not in get_args(Precision):
            raise ValueError(f"SpeedSettings: precision must be one of {get_args(Precision)}, got {self.precision!r}")

    @classmethod
    def of(cls, device: torch.device | str) -> "SpeedSettings":
        """What is fastest on a device, as `python -m benchmarks` measures it.

        On a GPU bfloat16, channels last, and compiled. On a CPU bfloat16 where the processor multiplies it, else
        float32; neither channels last nor torch.compile pays there.
        """
        if torch.device(device).type == "cuda":
            bfloat16 = torch.cuda.is_bf16_supported(including_emulation=False)
            return cls(precision="bfloat16" if bfloat16 else "float32", channels_last=True, compile=True)
        return cls(precision="bfloat16" if multiplies_bfloat16() else "float32")

    def prepare(self, model: Model) -> Model:
        """Gives a model's convolutions the memory format, and compiles its `encoder` and `decoder` in place."""
        if self.channels_last:
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if self.compile:
            for part in (model.encoder, model.decoder):
                cast(nn.Module, part).compile()
        return model

    def autocast(self, device_type: str) -> AbstractContextManager[Any]:
        """What forward passes run in, on "cpu" or "cuda"."""
        if self.precision == "float32":
            return nullcontext()
        return torch.autocast(device_type, getattr(torch, self.precision))

    @property
    def lightning_precision(self) -> Literal["32-true", "bf16-mixed", "16-mixed"]:
        """The same for Lightning's `Trainer(precision=…)`."""
        return {"float32": "32-true", "bfloat16": "bf16-mixed", "float16": "16-mixed"}[self.precision]  # type: ignore[return-value]


def multiplies_bfloat16() -> bool:
    """Whether this processor is known to multiply bfloat16 (AVX512-BF16); emulated, it is slower than float32."""
    return torch.cpu._is_avx512_bf16_supported()  # torch has no public name for it in 2.10
