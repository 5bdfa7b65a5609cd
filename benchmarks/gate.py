"""Nothing is timed before its result is right."""

from __future__ import annotations

from collections.abc import Mapping

import torch


def error(result: torch.Tensor, exact: torch.Tensor, scale: torch.Tensor | None = None) -> float:
    """‖result − exact‖ / ‖scale‖, by default ‖exact‖; NaN for a result that holds one.

    Where everything is zero, as it should be, the error is 0.
    """
    norm = (exact if scale is None else scale).double().norm()
    return float((result.double() - exact).norm() / norm.clamp_min(torch.finfo(torch.float64).tiny))


def allowed(found: Mapping[str, float], reference: str, dtype: torch.dtype = torch.float32) -> float:
    """The largest error that passes: twice that of the `reference` among those found, and one more rounding."""
    return 2 * found[reference] + torch.finfo(dtype).eps


def failures(
    results: Mapping[str, torch.Tensor], exact: torch.Tensor, reference: str, scale: torch.Tensor | None = None
) -> list[str]:
    """Who is less exact than twice the `reference` among the results, in words; one more rounding is allowed."""
    found = {name: error(result, exact, scale) for name, result in results.items()}
    most = allowed(found, reference)
    return [f"{name}: error {e:.1e}, allowed {most:.1e}" for name, e in found.items() if not e <= most]
