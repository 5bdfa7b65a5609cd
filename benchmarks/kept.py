"""What autograd keeps between a forward and its backward pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch


class Kept(NamedTuple):
    """Bytes of the distinct storages that are kept: given to the call as its input or a parameter, or made by it."""

    made: int
    input: int
    parameters: int


def kept_for_backward(call: Callable[[], object], inputs: Mapping[str, torch.Tensor], data: str) -> Kept:
    """Bytes kept by the graph that `call` builds from the `inputs`, of which `data` is no parameter.

    A storage counts once, and whole, however many tensors of the graph are views of it.
    """
    saved: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        # Held until all are counted: so no address is used again.
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = call()
    given = {tensor.untyped_storage().data_ptr(): name == data for name, tensor in inputs.items()}
    sizes = {address: storage.nbytes() for address, storage in saved.items()}
    del result
    return Kept(
        made=sum(size for address, size in sizes.items() if address not in given),
        input=sum(size for address, size in sizes.items() if given.get(address) is True),
        parameters=sum(size for address, size in sizes.items() if given.get(address) is False),
    )
