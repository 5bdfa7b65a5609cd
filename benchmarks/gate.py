"""Nothing is timed before its result is right."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch


def error(result: torch.Tensor, exact: torch.Tensor, scale: torch.Tensor | None = None) -> float:
    """‖result − exact‖ / ‖scale‖, by default ‖exact‖; NaN for a result that holds one.

    Where everything is zero, as it should be, the error is 0.
    """
    norm = (exact if scale is None else scale).double().norm()
    return float((result.double() - exact).norm() / norm.clamp_min(torch.finfo(torch.float64).tiny))


def errors(results: Mapping[str, torch.Tensor], exact: Mapping[str, torch.Tensor]) -> dict[str, float]:
    """Of each result that there is an exact one for."""
    return {name: error(result, exact[name]) for name, result in results.items() if name in exact}


def allowed(found: float, dtype: torch.dtype, *, lenient: bool = False) -> float:
    """The largest error that passes beside a reference with the error `found`: twice that, and one more rounding.

    `lenient` allows 256 more, of float32 for 16-bit results: to a single number, a sum that may nearly cancel, whose
    error luck makes small for one and large for another; and in float64, where what is exact is rounded as well.
    """
    computed_in = dtype if dtype.itemsize > 2 else torch.float32
    return 2 * found + torch.finfo(dtype).eps + lenient * 256 * torch.finfo(computed_in).eps


def failures(
    found: Mapping[str, Mapping[str, float]], reference: str, dtype: torch.dtype, lenient: Collection[str] = ()
) -> dict[str, str]:
    """Who is less exact than that anywhere, and where, in words: {contestant: reason}.

    Args:
        found: of every contestant, the errors of its results by their names.
        reference: the contestant whose errors count.
        dtype: of the results.
        lenient: names of results to which more roundings are allowed, see `allowed`.
    """
    limits = {name: allowed(e, dtype, lenient=name in lenient) for name, e in found[reference].items()}
    out = {}
    for contestant, its in found.items():
        wrong = [name for name, e in its.items() if name in limits and not e <= limits[name]]
        if wrong:
            out[contestant] = "; ".join(f"{n}: error {its[n]:.1e}, allowed {limits[n]:.1e}" for n in wrong)
    return out
