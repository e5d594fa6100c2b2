"""Weights cast once for many passes, and copies to a device that nothing waits for.

Autocast by itself casts each weight at each use, and each gradient back. The copies that it can
cache cut the graph of a later pass if they were made without gradients. For a model of billions of
parameters the casts are a tenth of an update and most of sampling, where one token reads every
weight once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Casts:
    """A model's linear weights in autocast's type: the bits that each cast would give.

    The copies keep their addresses, so that CUDA graphs can still read them, and are updated from
    the current weights whenever they are `shown`. Their memory is held as long as this object
    lives.

    Args:
        model: The model.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._copies: dict[nn.Parameter, Tensor] = {}

    @contextmanager
    def shown(self, kind: str, leave: nn.Module | None = None) -> Iterator[None]:
        """Inside, under autocast, linear layers have copies of their weights.

        Without autocast nothing happens.

        A module's own attribute hides its parameter, which others may share (an embedding with the
        LM head) and which stays unchanged. Gradients of the copies are added to the parameters' own
        after each backward pass, as autocast would do. One difference: where a layer is used
        several times in one pass, its parts are summed in the lower type. The weights must not
        change inside, and a pass that begins inside must end there, backward included.

        Args:
            kind: The type of the model's device, of which autocast is asked.
            leave: A layer that is left to autocast.
        """
        shown: list[nn.Linear] = []
        try:
            if torch.is_autocast_enabled(kind):
                dtype = torch.get_autocast_dtype(kind)
                for layer in self._model.modules():
                    if not isinstance(layer, nn.Linear) or layer is leave:
                        continue
                    if layer.weight.dtype != dtype:
                        own = layer.named_parameters(recurse=False)
                        copies = {name: self._copied(parameter, dtype) for name, parameter in own}
                        shown.append(layer)
                        layer.__dict__.update(copies)
            yield
        finally:
            for layer in shown:
                for name in ("weight", "bias"):
                    layer.__dict__.pop(name, None)

    @torch.no_grad()
    def _copied(self, parameter: nn.Parameter, dtype: torch.dtype) -> Tensor:
        """The earlier copy with the current weights, or a new one if its type no longer fits."""
        copy = self._copies.get(parameter)
        kind = (dtype, parameter.device, parameter.requires_grad)
        if copy is not None and (copy.dtype, copy.device, copy.requires_grad) == kind:
            copy.grad = None  # left over from a backward pass that did not finish
            return copy.copy_(parameter)
        copy = parameter.detach().to(dtype)
        if parameter.requires_grad:
            copy.requires_grad_().register_post_accumulate_grad_hook(_adding_to(parameter))
        self._copies[parameter] = copy
        return copy


def moved(x: Tensor, device: torch.device | str) -> Tensor:
    """`x.to(device)`, to a GPU without waiting for the work it still has queued.

    The next kernels are launched meanwhile. The driver takes a copy of ordinary memory before the
    call returns. Pinned memory takes milliseconds to allocate (on an H200's host; the driver's own
    way takes 0.02 to 0.3 ms up to 0.6 MB).
    """
    return x.to(device, non_blocking=torch.device(device).type == "cuda")


def _adding_to(parameter: nn.Parameter) -> Callable[[Tensor], None]:
    def add(copy: Tensor) -> None:
        # Cleared first: if memory runs out below, the whole pass is repeated.
        gradient, copy.grad = copy.grad, None
        assert gradient is not None
        if parameter.grad is None:
            parameter.grad = gradient.to(parameter.dtype)
        else:
            parameter.grad.add_(gradient)

    return add
