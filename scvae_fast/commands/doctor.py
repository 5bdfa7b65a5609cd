"""`scvae-fast doctor`: reports versions, hardware and usable backends of this installation."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

import torch

from scvae_fast._extras import installed_version
from scvae_fast.functional import backends
from scvae_fast.ops import native
from scvae_fast.ops.backends import BACKENDS, trial

_OPTIONAL = ("triton", "lightning", "torchmetrics", "scikit-learn", "scikit-image", "lpips", "torchvision")


def processor() -> str:
    """The processor's name; on Linux, from /proc/cpuinfo."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _gpus() -> list[str]:
    if not torch.cuda.is_available():
        reason = "torch is built without CUDA" if torch.version.cuda is None else "no usable device or driver"
        return [f"none ({reason})"]
    found = []
    for index in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(index)
        memory = device.total_memory / 2**30
        found.append(f"{device.name}, sm_{device.major}{device.minor}, {memory:.0f} GiB")
    return found


def _native_module() -> dict[str, str]:
    """How the native module was built and what it uses, or why it can't be used."""
    if native.module is None:
        return {"missing": str(native.missing)}
    try:
        return dict(native.module.build_info())
    except RuntimeError as error:  # SCVAE_FAST_ISA names an unavailable instruction set
        return {"problem": str(error)}


def report() -> dict[str, dict[str, str]]:
    """Findings by section and name: versions, cpu, gpu, native module, backends, trials of GPU kernels."""
    versions = {name: installed_version(name) for name in ("scvae-fast", "torch", "numpy", *_OPTIONAL)}
    versions["torch"] = torch.__version__  # has the kind of build, which the metadata may lack
    cpu = {
        "processor": processor(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "cores": str(os.cpu_count()),
        "threads": str(torch.get_num_threads()),
    }
    verdicts = _verdicts() or {"trial": "no GPU"}  # first: `backends` reports failed trials only once CUDA is in use
    return {
        "versions": {"python": platform.python_version(), **versions},
        "cpu": cpu,
        "gpu": {str(i): gpu for i, gpu in enumerate(_gpus())},
        "native module": _native_module(),
        "backends": {name: reason or "can be used" for name, reason in backends().items()},
        "GPU kernels": verdicts,
    }


def _verdicts() -> dict[str, str]:
    """The results of the trial on each card."""
    found = {}
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        card = trial.card_of(index)
        verdicts = trial.store().verdicts(card.key)
        found[f"{index}, {card.name}"] = "not tried yet" if not verdicts else trial.summary(verdicts)
        found |= {f"{index}, {pair}": verdict.reason for pair, verdict in verdicts.items() if not verdict.right}
    return found


def try_kernels() -> int:
    """Try the GPU kernels on every card in a child process; print and store the verdicts.

    Return 0 if every kernel that can be tried was right; 1 otherwise, or if there is no card.
    """
    if not torch.cuda.is_available():
        print(f"no trial: {_gpus()[0]}", file=sys.stderr)
        return 1
    usable = [name for name in trial.NAMES if BACKENDS[name].unusable() is None]
    pairs, all_right = [pair for pair in trial.PAIRS if pair.partition(":")[0] in usable], True
    for index in range(torch.cuda.device_count()):
        card, kept = trial.card_of(index), trial.store()
        print(f"{card.name}: {trial.LIMIT:g} s at most", flush=True)
        trial.run(card, kept, pairs, told=lambda line: print(f"  {line}", flush=True))
        verdicts = kept.verdicts(card.key)
        for line in table(verdicts):
            print(line)
        all_right = all_right and all(pair in verdicts and verdicts[pair].right for pair in pairs)
    return 0 if all_right else 1


def table(verdicts: trial.Verdicts) -> list[str]:
    """Lines for each kernel (error over allowed error, speed over eager's by rows, or the fault), then the choices."""
    lines = []
    for pair in trial.PAIRS:
        name = pair.replace(":", ", ")
        verdict = verdicts.get(pair)
        if verdict is None:
            lines.append(f"  {name:<16} no verdict")
        elif not verdict.right:
            lines.append(f"  {name:<16} wrong: {verdict.reason}")
        else:
            gains = ", ".join(f"{gain:.2f} × eager at {rows} rows" for rows, gain in verdict.gains.items())
            lines.append(f"  {name:<16} right, error {verdict.error:.2f} of the limit; {gains}")
    return lines + [f"  {dtype}: {_choice(verdicts, dtype)}" for dtype in trial.DTYPES]


def _choice(verdicts: trial.Verdicts, dtype: str) -> str:
    """The chosen backend by number of rows, as text."""
    tried = sorted({rows for verdict in verdicts.values() for rows in verdict.gains})
    chosen = {rows: trial.fastest(verdicts, dtype, rows) or "eager" for rows in [1, *tried[1:]]}
    changes = [rows for last, rows in zip([0, *chosen], chosen, strict=False) if chosen.get(last) != chosen[rows]]
    return "runs " + ", ".join(f"{chosen[rows]} from {rows} {'row' if rows == 1 else 'rows'}" for rows in changes)


def main() -> int:
    """Print the report. Return 0 if the native module exists and can be used, otherwise 1."""
    findings = report()
    for section, found in findings.items():
        print(f"{section}:", *(f"  {name}: {finding}" for name, finding in found.items()), sep="\n")
    module = findings["native module"]
    problem = module.get("missing") or module.get("problem")
    if problem is not None:
        print(f"problem: {problem}", file=sys.stderr)
        return 1
    return 0
