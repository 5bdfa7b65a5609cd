"""The correctness gate: only correct results are timed."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch


def error(result: torch.Tensor, exact: torch.Tensor, scale: torch.Tensor | None = None) -> float:
    """‖result − exact‖ / ‖scale‖, by default ‖exact‖; NaN if the result contains one.

    If everything is zero, as it should be, the error is 0.
    """
    norm = (exact if scale is None else scale).double().norm()
    return float((result.double() - exact).norm() / norm.clamp_min(torch.finfo(torch.float64).tiny))


def errors(results: Mapping[str, torch.Tensor], exact: Mapping[str, torch.Tensor]) -> dict[str, float]:
    """The error of each result that has an exact counterpart."""
    return {name: error(result, exact[name]) for name, result in results.items() if name in exact}


def allowed(found: float, dtype: torch.dtype, *, lenient: bool = False) -> float:
    """The largest error allowed if the reference has the error `found`: twice that, plus one rounding.

    `lenient` allows 256 more roundings, in float32 for 16-bit results. It is for single numbers, that is sums that may
    nearly cancel, with errors that are small or large by chance; and for float64, where the exact result is rounded as
    well.
    """
    computed_in = dtype if dtype.itemsize > 2 else torch.float32
    return 2 * found + torch.finfo(dtype).eps + lenient * 256 * torch.finfo(computed_in).eps


def failures(
    found: Mapping[str, Mapping[str, float]], reference: str, dtype: torch.dtype, lenient: Collection[str] = ()
) -> dict[str, str]:
    """The contestants with too large errors, and the reason in words: {contestant: reason}.

    Args:
        found: the errors of each contestant's results, by name.
        reference: the contestant that sets the limits.
        dtype: of the results.
        lenient: names of results with a larger limit, see `allowed`.
    """
    limits = {name: allowed(e, dtype, lenient=name in lenient) for name, e in found[reference].items()}
    out = {}
    for contestant, its in found.items():
        wrong = [name for name, e in its.items() if name in limits and not e <= limits[name]]
        if wrong:
            out[contestant] = "; ".join(f"{n}: error {its[n]:.1e}, allowed {limits[n]:.1e}" for n in wrong)
    return out
