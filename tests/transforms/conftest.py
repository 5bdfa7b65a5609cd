"""Fixtures of the tests of PyTorch's uses."""

from collections.abc import Iterator

import pytest

from transforms.subjects import small_inputs_taken


@pytest.fixture(autouse=True)
def kernels_take_small_inputs() -> Iterator[None]:
    """Makes the kernels of group_norm_silu run for small inputs, which they leave to PyTorch."""
    with small_inputs_taken():
        yield
