"""`scvae-fast train`: takes a YAML file and options that override its keys, and trains with Lightning."""

import json
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from importlib.resources import files
from pathlib import Path
from typing import Any, NoReturn

import torch
import yaml  # type: ignore[import-untyped]

from scvae_fast._extras import extra
from scvae_fast._files import claim_folder, locked, printable, write_json, write_text, writing_to
from scvae_fast.commands._inputs import check_outside
from scvae_fast.errors import ArgumentError, UsageError
from scvae_fast.evaluation.record import versions
from scvae_fast.models import SCVAEConfig
from scvae_fast.models.loading import MODEL_FOLDER, STATE_FILE, load_model, read_training_state
from scvae_fast.models.speed import SpeedSettings
from scvae_fast.training.bar import TrainingBar, clock, figures_line
from scvae_fast.training.callbacks import (
    AtomicCheckpointIO,
    History,
    KeepCheckpoint,
    LossGuard,
    StopOnSignal,
    TrainingDivergedError,
)
from scvae_fast.training.data import PictureData
from scvae_fast.training.lightning_messages import lightning_messages_silenced
from scvae_fast.training.module import SCVAEModule
from scvae_fast.training.monitors import CodeMonitor, PictureMonitor
from scvae_fast.training.progress import time_spent

with extra("scvae_fast.commands.train", "lightning"):
    from lightning.pytorch import Trainer
    from lightning.pytorch.callbacks import Callback, EMAWeightAveraging, Timer
    from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
    from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
    from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy

_DESCRIPTION = "All keys of a configuration; see scvae-fast train --help for the other options."
_HELP = "--help_keys"  # lists these keys; --help belongs to the command itself

# Space that a checkpoint needs in addition to its tensors, in bytes.
_SPARE = 64 * 2**20
# Entries of a checkpoint that resuming needs, besides the network and its weights.
_RESUMED = ("epoch", "global_step", "loops", "callbacks", "optimizer_states", "lr_schedulers")


class RunFolder:
    """The files in the folder of a training run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"
        self.state = path / STATE_FILE  # everything needed to resume
        self.logs = path / "logs"
        self.pictures = path / "pictures"
        self.model = path / MODEL_FOLDER  # for SCVAE.from_pretrained
        self.record = path / "training.json"

    def check(self, model: SCVAEModule, *, resume: bool, averaged: bool) -> int | None:
        """Check, before any work, that there is disk space for checkpoints, and that no training run is overwritten.

        Returns:
            The step at which the folder's training run is resumed; None without one.

        Raises:
            UsageError: the disk has too little space, or the folder holds a training run that is not to be resumed, one
                of another network, or one that averages its weights if this one doesn't.
        """
        if self.state.exists() and not resume:
            raise UsageError(
                f"{self.path} already holds a training run: continue it with --resume, or choose another --out"
            )
        step = self._check_network(model, averaged) if self.state.exists() else None
        free = shutil.disk_usage(self.path).free
        weights = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
        # Weights, two moments of Adam, and averaged weights; the last two checkpoints stay while a new one is written.
        needed = 3 * weights * (4 if averaged else 3) + weights + _SPARE
        if free < needed:
            raise UsageError(
                f"{self.path} has {free / 2**20:.0f} MiB free, but checkpoints of this training run need "
                f"{needed / 2**20:.0f} MiB"
            )
        return step

    def is_written(self, *, after: int) -> bool:
        """Whether model and record are those of a complete training of that many steps."""
        try:
            record = json.loads(self.record.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        complete = isinstance(record, dict) and record.get("steps") == after and not record.get("stopped")
        return complete and self.model.exists()

    def _check_network(self, model: SCVAEModule, averaged: bool) -> int:
        try:
            state = read_training_state(self.state)
            found = SCVAEConfig.from_dict(state["network"]).to_dict()
        except (OSError, ValueError) as error:
            raise UsageError(f"{self.state} can't be read as a training state: {error}") from error
        if missing := [name for name in _RESUMED if name not in state]:
            raise UsageError(f"{self.state} can't be resumed, because it has no {', '.join(missing)}")
        if "current_model_state" in state and not averaged:
            raise UsageError(f"{self.path} holds a training run that averages its weights: resume it with --ema")
        wanted = model.model.config.to_dict()
        # λ may change when training is resumed; the weights don't depend on it.
        if different := sorted(name for name in wanted if name != "lmbda" and wanted[name] != found.get(name)):
            raise UsageError(f"{self.path} holds a training run of another network: different {', '.join(different)}")
        if wanted["lmbda"] != found["lmbda"]:
            print(f"resumed with another λ: {found['lmbda']:g} -> {wanted['lmbda']:g}", flush=True)
        return int(state["global_step"])


class _Parser(LightningArgumentParser):
    """Lightning's parser, with one-line errors instead of a page of usage."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        self.exit(2, f"{self.prog}: {' '.join(message.split())} (--help_keys lists all keys)\n")


class _TrainCLI(LightningCLI):
    """Lightning's command line, with our callbacks, loggers and checkpoints."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--out", type=str, default="out/train", help="folder of the training run")
        parser.add_argument("--resume", action="store_true", help="continue the training run in --out, if there is one")
        parser.add_argument("--ema", type=float | None, default=None, help="decay of averaged weights, such as 0.999")
        parser.add_argument("--checkpoint_minutes", type=float, default=10.0, help="minutes between two checkpoints")

    def before_instantiate_classes(self) -> None:
        trainer = self.config.trainer
        if trainer.precision is None:
            cuda = torch.cuda.is_available() and trainer.accelerator in ("auto", "gpu", "cuda")
            trainer.precision = SpeedSettings.of("cuda" if cuda else "cpu").lightning_precision
        if self.config.ema is not None and not 0 < self.config.ema < 1:
            raise ArgumentError(f"ema must be a number between 0 and 1, got {self.config.ema:g}")

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        folder = RunFolder(Path(self.config.out))
        settings = dict(self.config_init.trainer)
        self.stop, self.history = StopOnSignal(), History()
        # Trainer would add its own timer as the last callback, too late for KeepCheckpoint to see that the time is up.
        max_time = settings.pop("max_time")
        if max_time is not None and settings["max_epochs"] is None:
            settings["max_epochs"] = -1  # as Trainer does
        callbacks: list[Callback] = [Timer(max_time, verbose=False)]
        if self.config.ema is not None:
            callbacks.append(EMAWeightAveraging(decay=self.config.ema))
        callbacks += [CodeMonitor(), LossGuard(), self.history, PictureMonitor(folder.pictures), self.stop]
        if settings["enable_progress_bar"] is not False:
            callbacks.append(TrainingBar())
        callbacks.append(KeepCheckpoint(folder.state, every=60 * self.config.checkpoint_minutes))
        if settings["logger"] in (None, True):
            settings["logger"] = [TensorBoardLogger(folder.logs, name=None), CSVLogger(folder.logs, name="csv")]
        plugins = settings["plugins"] or []
        settings["plugins"] = [*(plugins if isinstance(plugins, list) else [plugins]), AtomicCheckpointIO()]
        settings |= {"enable_progress_bar": False, "use_distributed_sampler": False}
        return self._instantiate_trainer(settings, callbacks)


def train(arguments: Sequence[str]) -> int:
    """Run the training that a configuration describes, and keep everything in the folder `out`.

    Args:
        arguments: the command line after `scvae-fast train`.

    Returns:
        0, or 128 + the number of the signal that stopped the training. In both cases, state and model are written.

    Raises:
        UsageError: the configuration, the data or the folder can't be used, or the loss is not finite.
    """
    with lightning_messages_silenced(), ExitStack() as stack:
        _require_config(arguments)
        cli = _cli([*arguments])
        folder = RunFolder(Path(cli.config.out))
        first = cli.trainer.is_global_zero
        averaged = cli.config.ema is not None
        if averaged and isinstance(cli.trainer.strategy, (FSDPStrategy, ModelParallelStrategy)):
            raise ArgumentError("--ema can't average sharded weights (FSDP): use ddp, or no ema")
        stride, resolution = cli.model.model.config.stride, cli.datamodule.resolution
        if resolution % stride:
            raise ArgumentError(
                f"resolution {resolution} of the data must be a multiple of the network's stride, {stride}"
            )
        if cli.config.trainer.overfit_batches:
            raise ArgumentError("trainer.overfit_batches can't be used, because every epoch has new samples")
        if (channels := cli.model.model.config.in_channels) != 3:
            raise ArgumentError(
                f"model.network.in_channels must be 3, got {channels}: all data have pictures of 3 channels"
            )
        for searched in cli.datamodule.searched_folders():
            check_outside(folder.path, searched)
        done: int | None = None
        cli.datamodule.setup("fit")  # reports problems with the data before anything is written
        resume = cli.config.resume and folder.state.exists()
        if first:
            claim_folder(folder.path)
            stack.enter_context(writing_to(folder.path))
            stack.enter_context(locked(folder.path))
            done = folder.check(cli.model, resume=cli.config.resume, averaged=averaged)
            write_text(folder.config, cli.parser.dump(cli.config))
            print(f"continuing from {folder.state}" if resume else f"training into {folder.path}", flush=True)
        try:
            cli.trainer.fit(cli.model, datamodule=cli.datamodule, ckpt_path=folder.state if resume else None)
        except TrainingDivergedError as error:
            raise UsageError(f"{error}; {_kept(folder)}") from error
        if cli.trainer.is_global_zero:
            trained = cli.trainer.global_step != done
            if trained or not folder.is_written(after=cli.trainer.global_step):
                _finish(cli, folder, trained=trained)
            else:
                print(f"nothing is left to train: {folder.model} is complete after step {done}")
    if not cli.stop.stopped:
        return 0
    if first:
        print(f"Stopped. {_kept(folder)}: --resume continues from there.")
    assert cli.stop.number is not None
    return 128 + cli.stop.number


def _require_config(arguments: Sequence[str]) -> None:
    """Require a configuration; Lightning would name an obscure key."""
    known = ("--config", "-c", "--data", "--print_config", _HELP)
    if not any(argument.partition("=")[0].startswith(known) for argument in arguments):
        raise ArgumentError("--config is missing: give a YAML file, or the name of a packaged one, such as pictures64")


def _cli(arguments: list[str]) -> _TrainCLI:
    try:
        return _TrainCLI(
            SCVAEModule,
            PictureData,
            parser_class=_Parser,
            subclass_mode_data=True,
            save_config_callback=None,
            trainer_defaults={"enable_model_summary": False, "enable_checkpointing": False},
            seed_everything_default=0,
            parser_kwargs={"prog": "scvae-fast train", "description": _DESCRIPTION},
            args=spelled_out(arguments),
            run=False,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
        )
    except (ValueError, TypeError, OSError) as error:  # the classes reject an argument
        raise ArgumentError(str(error)) from error


def spelled_out(arguments: list[str]) -> list[str]:
    """Rewrite the arguments of a command line for its parser.

    Names of packaged configurations become their paths, unless a file of that name exists, and --help_keys becomes
    --help.

    Raises:
        ArgumentError: there is no file or packaged configuration of a given name, or an argument is not valid UTF-8.
    """
    for argument in arguments:
        if (shown := printable(argument)) != argument:
            raise ArgumentError(f"{shown}: names in a configuration must be valid UTF-8; rename it")
    packaged = {Path(str(path)).stem: str(path) for path in files("scvae_fast.configs").iterdir() if _is_yaml(path)}

    def found(name: str) -> str:
        if Path(name).exists():
            return name
        if name not in packaged:
            names = ", ".join(sorted(packaged))
            raise ArgumentError(f"--config {name}: no such file; the configurations of the package are {names}")
        return packaged[name]

    result = ["--help" if argument == _HELP else argument for argument in arguments]
    for i, argument in enumerate(result):
        flag, equals, value = argument.partition("=")
        if flag in ("--config", "-c") and equals:
            result[i] = f"{flag}={found(value)}"
        elif i and result[i - 1] in ("--config", "-c"):
            result[i] = found(argument)
    return result


def _is_yaml(path: Any) -> bool:
    return path.name.endswith(".yaml")


def _kept(folder: RunFolder) -> str:
    if not folder.state.exists():
        return "there is no checkpoint yet"
    step = read_training_state(folder.state)["global_step"]
    return f"{folder.state} holds the state after step {step}"


def _finish(cli: _TrainCLI, folder: RunFolder, *, trained: bool) -> None:
    """Write the model, with the averaged weights if there are any, and the record of the training run.

    Without a step in this process, Lightning has neither figures nor averaged weights, and both come from the state.
    """
    trainer = cli.trainer
    rows = cli.history.rows
    figures = trainer.callback_metrics if trained else (rows[-1] if rows else {})
    settings = yaml.safe_load(cli.parser.dump(cli.config))
    record = {
        "data": settings["data"],
        "credits": {name: credit._asdict() for name, credit in cli.datamodule.credits().items()},
        "steps": trainer.global_step,
        "epochs": trainer.current_epoch,
        "seconds": time_spent(trainer),
        "stopped": cli.stop.stopped,
        "last": {name: float(value) for name, value in figures.items() if name not in ("step", "seconds")},
        "settings": settings,
        "processes": trainer.world_size,
        "device": str(trainer.strategy.root_device),
        "versions": versions("scvae-fast", "torch", "lightning"),
        "history": rows,
    }
    write_json(folder.record, record)
    model = cli.model.model.cpu().eval() if trained else load_model(folder.state)
    # save_pretrained keeps an existing card, which here describes an earlier part of the training run.
    (folder.model / "README.md").unlink(missing_ok=True)
    model.save_pretrained(folder.model, record={key: value for key, value in record.items() if key != "history"})
    print(
        f"{trainer.global_step} steps in {clock(record['seconds'])}: {figures_line(figures)}\n"
        f"{folder.model} holds the model; evaluate it with\n"
        f"  scvae-fast evaluate --checkpoint {folder.model} --data …"
    )
