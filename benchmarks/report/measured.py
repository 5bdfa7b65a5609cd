"""Numbers derived from results: seconds, paired ratios, arithmetic, losses, wrong results, training parity."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from benchmarks import family, lasso, model
from benchmarks.model import HABITS, OURS
from benchmarks.results import Results
from benchmarks.rivals import CLEAN, COMPILED, GRAPH, PRODUCTS, RELEASED
from benchmarks.timing import Spread, spread

BACKENDS = ("cpu", "triton", "cuda", "eager")
# The rivals that speed-ups refer to, by kind of case: the released code, and carefully written eager PyTorch.
EAGER_WAYS = {
    "Case": (RELEASED, CLEAN),
    "FamilyCase": ("", family.LOOP),
    "ModelCase": (HABITS, model.EAGER),
    "LassoCase": ("", lasso.ISTA),
}
KINDS_THAT_LOSE = ("Case", "FamilyCase", "ModelCase")
_RECORDED = re.compile(r"GeneratedBackwardFor_scvae_fast_(\w+)_default(Backward)?")  # the name in profiles
_LAST = 4  # a training verdict considers the last quarter of the steps


class Loss(NamedTuple):
    """A case in which the automatic choice is slower than the fastest eager loop, `rival`."""

    result: dict[str, Any]
    rival: str
    ratio: Spread

    @property
    def clearly(self) -> bool:
        """Whether it is slower beyond the noise, that is in four fifths of the rounds."""
        return self.ratio.high < 1


class Trouble(NamedTuple):
    """Something that was not timed: the case, the contestant (or None), and the reason."""

    case: str
    contestant: str
    why: str


class Verdict(NamedTuple):
    """Mean losses of the last quarter of training, and their deviation between seeds."""

    ours: float
    released: float
    deviation: float | None  # between seeds, pooled over both; None for a single seed

    @property
    def agrees(self) -> bool | None:
        """Whether the difference is within the seeds' deviation; None if there is only one seed."""
        return None if self.deviation is None else abs(self.ours - self.released) <= self.deviation


def rounds(result: Mapping[str, Any]) -> list[dict[str, float]]:
    """The samples of a result; none if it raised or was left out."""
    return result.get("samples") or []


def seconds(result: Mapping[str, Any], name: str | None) -> Spread | None:
    """Seconds per call of a contestant; None if it was not timed."""
    found = [s[name] for s in rounds(result) if name in s]
    return spread(found) if found else None


def ratio(result: Mapping[str, Any], over: str, name: str | None = None) -> Spread | None:
    """The speed-up of a contestant over `over`, by default of the automatic choice, round by round."""
    name = result.get("chosen") if name is None else name
    found = [s[over] / s[name] for s in rounds(result) if name in s and over in s]
    return spread(found) if found else None


def least_ratio(result: Mapping[str, Any], over: Iterable[str]) -> tuple[str, Spread] | None:
    """The contestant of `over` with the smallest speed-up of the automatic choice, and this speed-up."""
    found = [(name, r) for name in over if (r := ratio(result, name)) is not None]
    return min(found, key=lambda pair: pair[1].median) if found else None


def against(result: Mapping[str, Any]) -> dict[str, Spread]:
    """The automatic choice's speed-ups over every other timed contestant, by name."""
    released, clean = EAGER_WAYS.get(result["kind"], ("", ""))
    compiled = sorted({name for s in rounds(result) for name in s if COMPILED in name})
    kinds = {
        "released": (released,),
        "clean": (clean,),
        "compiled": compiled,
        "graph": (GRAPH,),
        "products": (PRODUCTS,),
    }
    found = {kind: least_ratio(result, over) for kind, over in kinds.items()}
    return {kind: pair[1] for kind, pair in found.items() if pair is not None}


def contestants(result: Mapping[str, Any]) -> list[str]:
    """All contestants named anywhere in a result, the timed ones first."""
    named = [*rounds(result)[:1]]
    named += [
        result.get(key) or {} for key in ("memory", "efforts", "losses", "errors", "wrong", "left out", "kept", "peak")
    ]
    return list(dict.fromkeys(name for names in named for name in names))


def per_second(result: Mapping[str, Any], name: str | None, what: str) -> float | None:
    """How much of `what`, "useful multiply-adds" or "least bytes", a contestant does per second."""
    took = seconds(result, name)
    return None if took is None or what not in result else float(result[what]) / took.median


def product_ceiling(results: Results, dtype: str) -> float | None:
    """Multiply-adds per second of a large product in that dtype, in the same run."""
    found: float | None = results.document.get("ceilings", {}).get("product", {}).get(dtype)
    return found


def error(result: Mapping[str, Any], name: str) -> float | None:
    """A contestant's largest error; NaN counts as the largest."""
    found = list((result.get("errors") or {}).get(name, {}).values())
    return float(np.max(found)) if found else None


def kept(result: Mapping[str, Any], name: str) -> int | None:
    """Bytes that a contestant keeps for the backward pass, including its arguments."""
    found = (result.get("memory") or result.get("kept") or {}).get(name)
    return None if found is None else found["made"] + found["given"]


def peak(result: Mapping[str, Any], name: str) -> int | None:
    """Bytes that a contestant's call adds at its peak."""
    found: int | None = (result.get("peak") or {}).get(name)
    return result["memory"][name]["peak"] if name in result.get("memory", {}) else found


def timed(found: Iterable[dict[str, Any]], kind: str = "Case") -> list[dict[str, Any]]:
    """The results of a kind in which the automatic choice was timed."""
    return [r for r in found if r["kind"] == kind and seconds(r, r.get("chosen")) is not None]


def losing(results: Results) -> tuple[list[Loss], int]:
    """Every case in which the automatic choice is slower, the worst first; and the number of all cases."""
    found, n = [], 0
    for result in results.document["results"]:
        worst = least_ratio(result, EAGER_WAYS[result["kind"]]) if result["kind"] in KINDS_THAT_LOSE else None
        n += worst is not None
        if worst is not None and worst[1].median < 1:
            found.append(Loss(result, *worst))
    return sorted(found, key=lambda loss: loss.ratio.median), n


def wrong(results: Results) -> list[Trouble]:
    """Contestants that were not timed because their results were wrong."""
    return list(_troubles(results, "wrong"))


def ours_are_wrong(result: Mapping[str, Any]) -> bool:
    """Whether any implementation of ours was not timed because its results were wrong."""
    return any(n.partition(",")[0] in (*BACKENDS, OURS) for n in result.get("wrong") or {})


def left_out(results: Results) -> list[Trouble]:
    """Contestants that did not take part, mostly for lack of memory."""
    return list(_troubles(results, "left out"))


def raised(results: Results) -> list[Trouble]:
    """Cases that ended with an error, with its last line."""
    return [Trouble(r["name"], "", last_line(r["raised"])) for r in results.document["results"] if "raised" in r]


def last_line(trace: str) -> str:
    """The last line of a traceback, which is the error."""
    return (trace.strip().splitlines() or ["no message"])[-1]


def not_reached(results: Results) -> list[str]:
    """Names of the groups' cases without a result: the run was stopped, or ran out of time."""
    known = {result["name"] for result in results.document["results"]}
    return list(dict.fromkeys(n for names in results.document["groups"].values() for n in names if n not in known))


def checked(results: Results) -> int:
    """Number of contestants' results that were compared with float64."""
    return sum(len(result.get("errors") or {}) for result in results.document["results"])


def verdict(result: Mapping[str, Any]) -> Verdict | None:
    """Whether training agrees with the released code's; None if one of them is missing."""
    losses = result.get("losses") or {}
    if not (losses.get(OURS) and losses.get(HABITS)):
        return None
    ours, released = (
        np.array([np.mean(seed[-max(1, len(seed) // _LAST) :]) for seed in losses[name]]) for name in (OURS, HABITS)
    )
    several = len(ours) > 1 and len(released) > 1
    deviation = float(np.sqrt((ours.var(ddof=1) + released.var(ddof=1)) / 2)) if several else None
    return Verdict(float(ours.mean()), float(released.mean()), deviation)


def profile(result: Mapping[str, Any]) -> dict[str, list[tuple[str, float]]]:
    """Shares of the time by operation, the largest first, for every profiled contestant.

    Autograd's recording of one of our operations counts as part of the operation.
    """
    found = {}
    for name, its in (result.get("profile") or {}).items():
        shares: dict[str, float] = {}
        for operation, share in its:
            recorded = _RECORDED.fullmatch(operation)
            plain = f"scvae_fast::{recorded[1]}{'_backward' if recorded[2] else ''}" if recorded else operation
            shares[plain] = shares.get(plain, 0.0) + share
        found[name] = sorted(shares.items(), key=lambda pair: -pair[1])
    return found


def _troubles(results: Results, what: str) -> Iterator[Trouble]:
    for result in results.document["results"]:
        for contestant, why in (result.get(what) or {}).items():
            yield Trouble(result["name"], contestant, why)
