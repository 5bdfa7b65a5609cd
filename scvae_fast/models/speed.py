"""Settings that make a model fast on a device: 16-bit autocast, memory format, compiled encoder and decoder."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, cast, get_args

import torch
from torch import nn

Model = TypeVar("Model", bound=nn.Module)
Precision = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True, kw_only=True)
class SpeedSettings:
    """Settings that change the speed of an `SCVAE`, and its results only by rounding.

    Sparse coding, losses and parameters are in float32 at any precision.

    Args:
        precision: of the convolutions and matrix products in encoder and decoder, through autocast.
        channels_last: whether pictures and feature maps store the channels of a pixel side by side.
        compile: whether to compile encoder and decoder with `torch.compile`, which takes about a minute once.

    Raises:
        ValueError: precision is not one of the three.
    """

    precision: Precision = "float32"
    channels_last: bool = False
    compile: bool = False

    def __post_init__(self) -> None:
        if self.precision not in get_args(Precision):
            raise ValueError(f"SpeedSettings: precision must be one of {get_args(Precision)}, got {self.precision!r}")

    @classmethod
    def of(cls, device: torch.device | str) -> "SpeedSettings":
        """The fastest settings for a device, as measured by `python -m benchmarks`.

        On a GPU: bfloat16 if supported, otherwise float32; channels last and compiled. On a CPU: bfloat16 if the
        processor multiplies it, otherwise float32; channels last and torch.compile don't pay off there.
        """
        if torch.device(device).type == "cuda":
            bfloat16 = torch.cuda.is_bf16_supported(including_emulation=False)
            return cls(precision="bfloat16" if bfloat16 else "float32", channels_last=True, compile=True)
        return cls(precision="bfloat16" if multiplies_bfloat16() else "float32")

    def prepare(self, model: Model) -> Model:
        """Give a model's convolutions the memory format, and compile its `encoder` and `decoder` in place."""
        if self.channels_last:
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if self.compile:
            for part in (model.encoder, model.decoder):
                cast(nn.Module, part).compile()
        return model

    def autocast(self, device_type: str) -> AbstractContextManager[Any]:
        """The context manager for forward passes on "cpu" or "cuda"."""
        if self.precision == "float32":
            return nullcontext()
        return torch.autocast(device_type, getattr(torch, self.precision))

    @property
    def lightning_precision(self) -> Literal["32-true", "bf16-mixed", "16-mixed"]:
        """The precision for Lightning's `Trainer(precision=…)`."""
        return {"float32": "32-true", "bfloat16": "bf16-mixed", "float16": "16-mixed"}[self.precision]  # type: ignore[return-value]


def multiplies_bfloat16() -> bool:
    """Whether this processor is known to multiply bfloat16 (AVX512-BF16); emulation is slower than float32."""
    return torch.cpu._is_avx512_bf16_supported()  # torch has no public name for it in 2.10
