"""Between types and between devices: weights cast once for many passes, copies that no one waits for.

Autocast by itself casts each weight at each use, and each gradient back; the copies that it can keep cut the graph of a
later pass if they were made without gradients. For a model of billions of parameters that is a tenth of an update, and
of sampling, where a token reads every weight once, most.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def cast_once(model: nn.Module, kind: str, leave: nn.Module | None = None) -> Iterator[bool]:
    """Inside, under autocast, linear layers have their weights in its type: the bits that each cast would give.

    A module's own attribute hides its parameter, which others may share (an embedding with the LM head) and which stays
    as it is. Where gradients are on, those of the copies are added to the parameters' own after each backward pass, as
    autocast would; only that the parts of a layer that is used several times in one pass are summed in the lower type.
    The weights must not change inside. The copies lie still, so that CUDA graphs can read them, and go at the end.

    Args:
        model: The model.
        kind: The type of its device, of which autocast is asked.
        leave: A layer that is left to autocast.

    Yields:
        Whether there is any copy.
    """
    layers: list[nn.Module] = []
    if torch.is_autocast_enabled(kind):
        dtype = torch.get_autocast_dtype(kind)
        linear = [m for m in model.modules() if isinstance(m, nn.Linear) and m is not leave]
        layers = [m for m in linear if m.weight.dtype != dtype]
        for m in linear if torch.is_grad_enabled() else ():
            trained = m._parameters["weight"]
            assert trained is None or m.weight.requires_grad >= trained.requires_grad, "cast before, without gradients"
    try:
        for layer in layers:
            copies = {name: _copy(p, dtype) for name, p in layer._parameters.items() if p is not None}
            layer.__dict__.update(copies)
        yield bool(layers)
    finally:
        for layer in layers:
            for name in ("weight", "bias"):
                layer.__dict__.pop(name, None)


def moved(x: Tensor, device: torch.device | str) -> Tensor:
    """`x.to(device)`; to a GPU without waiting for what it still has to do: the next kernels are launched meanwhile.

    The driver takes a copy of ordinary memory before the call returns. Pinned memory costs milliseconds to get (on an
    H200's host; the driver's own way 0.02 to 0.3 ms up to 0.6 MB).
    """
    return x.to(device, non_blocking=torch.device(device).type == "cuda")


def _copy(parameter: nn.Parameter, dtype: torch.dtype) -> Tensor:
    copy = parameter.detach().to(dtype)
    if parameter.requires_grad and torch.is_grad_enabled():
        copy.requires_grad_().register_post_accumulate_grad_hook(_adding_to(parameter))
    return copy


def _adding_to(parameter: nn.Parameter) -> Callable[[Tensor], None]:
    def add(copy: Tensor) -> None:
        assert copy.grad is not None
        if parameter.grad is None:
            parameter.grad = copy.grad.to(parameter.dtype)
        else:
            parameter.grad.add_(copy.grad)
        copy.grad = None

    return add
