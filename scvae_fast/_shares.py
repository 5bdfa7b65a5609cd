"""The share of one process in shared work: part I of N, alone or together with communicating processes.

Only the communication imports torch, so that parsing a command line does not.
"""

import contextlib
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from scvae_fast.errors import ArgumentError, UsageError

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")

_TASK = "SLURM_ARRAY_TASK"
# A process may wait for another one that runs hours longer; if one dies, torchrun ends all.
_PATIENCE = timedelta(days=7)


@dataclass(frozen=True)
class Share:
    """Part I of N, counted from 1.

    Raises:
        ValueError: part is not 1 … parts.
    """

    part: int = 1
    parts: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.part <= self.parts:
            raise ValueError(f"Share: part must be 1 … {self.parts}, got {self.part}")

    @classmethod
    def parse(cls, text: str, environment: Mapping[str, str] = os.environ) -> "Share":
        """Parse the value of `--part`: "I/N", or "array" for the task of a Slurm job array.

        Raises:
            ArgumentError: it is neither, or the array's variables are missing or don't number all parts.
        """
        if text == "array":
            return cls._of_array(environment)
        found = re.fullmatch(r"(\d+)/(\d+)", text, re.ASCII)
        if not found or not 1 <= int(found[1]) <= int(found[2]):
            raise ArgumentError(
                f'must be I/N, the I-th of N parts, I = 1 … N (the first is 1/N); or "array"; got {text!r}'
            )
        return cls(int(found[1]), int(found[2]))

    @classmethod
    def _of_array(cls, environment: Mapping[str, str]) -> "Share":
        names = [f"{_TASK}_{each}" for each in ("ID", "MIN", "MAX", "STEP", "COUNT")]
        values = [environment.get(name, "") for name in names]
        if not all(value.isdecimal() for value in values):
            missing = next(name for name, value in zip(names, values, strict=True) if not value.isdecimal())
            raise ArgumentError(
                f"array is for the tasks of a Slurm job array: {missing} is not a number; use I/N elsewhere"
            )
        task, least, most, step, count = map(int, values)
        if step < 1 or least + (count - 1) * step != most or (task - least) % step or not least <= task <= most:
            raise ArgumentError(
                f"array needs a job array without gaps, such as --array=1-64; this one has {count} tasks from {least} "
                f"to {most}: to run only some of 64 parts, use --part I/64"
            )
        return cls((task - least) // step + 1, count)

    def of(self, total: int, block: int = 1) -> range:
        """The numbers of this share out of `total` things: consecutive, in equal amounts as far as blocks allow.

        Args:
            total: how many there are.
            block: consecutive things, counted from the first, that stay in one share.
        """
        blocks = -(-total // block)
        # Rounded up: if there are too few blocks for all shares, the first share gets one.
        first, end = (block * -(-blocks * part // self.parts) for part in (self.part - 1, self.part))
        return range(min(first, total), min(end, total))

    def __str__(self) -> str:
        return f"{self.part}/{self.parts}"


class Processes:
    """The processes that share the work, seen from one of them; possibly only this one.

    Tensors are exchanged on the CPU (gloo). All processes must call the same methods in the same order.

    Args:
        share: of this process.
    """

    def __init__(self, share: Share | None = None) -> None:
        self.share = share or Share()

    @property
    def first(self) -> bool:
        """Whether this process writes and prints."""
        return self.share.part == 1

    @property
    def alone(self) -> bool:
        """Whether this is the only process."""
        return self.share.parts == 1

    def wait(self) -> None:
        """Wait until all processes are here."""
        self.gather(None)

    def gather(self, mine: T) -> list[T]:
        """The values of all processes, in order, on every process."""
        found: list[Any] = [mine] * self.share.parts
        if not self.alone:
            with while_all_live():
                _distributed().all_gather_object(found, mine)
        return found

    def gather_on_first(self, mine: T) -> list[T]:
        """Like `gather` on the first process; an empty list on the others."""
        found: list[Any] = [mine] * (self.share.parts if self.first else 0)
        if not self.alone:
            with while_all_live():
                _distributed().gather_object(mine, found if self.first else None, dst=0)
        return found

    def sum(self, mine: "Tensor") -> "Tensor":
        """The sum of a CPU tensor over all processes, on every process; the argument is not changed."""
        total = mine.clone()
        if not self.alone:
            with while_all_live():
                _distributed().all_reduce(total)
        return total

    def on_first(self, work: Callable[[], T]) -> T:
        """The result of the first process's work, on every process; the others wait. Its errors end all processes."""
        made: list[Any] = [work()] if self.first else [None]
        if not self.alone:
            with while_all_live():
                _distributed().broadcast_object_list(made, src=0)
        result: T = made[0]
        return result


def under_torchrun() -> bool:
    """Whether torchrun, or another launcher that sets RANK and WORLD_SIZE, has started this process."""
    return {"RANK", "WORLD_SIZE"} <= os.environ.keys()


def own_share(part: Share | None) -> Share | None:
    """The share of this process, from `--part` or torchrun; None if it does all the work.

    Raises:
        ArgumentError: both are given.
    """
    if not under_torchrun():
        return part
    if part is not None:
        raise ArgumentError(f"--part {part} can't be used under torchrun, which divides the work itself")
    try:
        return Share(int(os.environ["RANK"]) + 1, int(os.environ["WORLD_SIZE"]))
    except ValueError as error:
        raise UsageError(
            f"RANK = {os.environ['RANK']} and WORLD_SIZE = {os.environ['WORLD_SIZE']} are not what torchrun sets"
        ) from error


@contextlib.contextmanager
def joined() -> Iterator[Processes]:
    """The processes that torchrun started together with this one, joined within the context; otherwise only this one.

    Raises:
        UsageError: joining fails.
    """
    share = own_share(None) or Share()
    if share.parts == 1:
        yield Processes()
        return
    distributed = _distributed()
    try:
        distributed.init_process_group("gloo", timeout=_PATIENCE)
    except (ValueError, RuntimeError) as error:
        raise UsageError(f"the {share.parts} processes of torchrun can't be joined: {error}") from error
    try:
        yield Processes(share)
    finally:
        distributed.destroy_process_group()


def _distributed() -> Any:
    import torch.distributed

    return torch.distributed


@contextlib.contextmanager
def while_all_live() -> Iterator[None]:
    """Wrap an exchange: if it fails, the error says that another process has ended."""
    try:
        yield
    except RuntimeError as error:
        raise UsageError(
            f"another process has ended (its own output may say why), so this one can't continue: {error}"
        ) from error
