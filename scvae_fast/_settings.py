"""Comparison of settings, given as JSON-serialisable dictionaries."""

from collections.abc import Mapping
from typing import Any


def differences(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """Names of the settings that differ, such as optimiser.betas; a missing setting counts as None."""
    flat = [dict(_flat(settings)) for settings in (wanted, found)]
    return sorted(name for name in flat[0].keys() | flat[1].keys() if flat[0].get(name) != flat[1].get(name))


def _flat(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for name, value in settings.items():
        inner = isinstance(value, Mapping) and value
        pairs += _flat(value, f"{prefix}{name}.") if inner else [(f"{prefix}{name}", value)]
    return pairs
