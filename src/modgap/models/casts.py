"""Between types and between devices: weights cast once for many passes, copies that no one waits
for.

Autocast by itself casts each weight at each use, and each gradient back; the copies that it can
keep cut the graph of a later pass if they were made without gradients. For a model of billions of
parameters that is a tenth of an update, and of sampling, where a token reads every weight once,
most.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Casts:
    """A model's linear weights in autocast's type: the bits that each cast would give.

    The copies lie where they lay the last time, so that CUDA graphs can go on reading them, and
    have the weights of now whenever they are `shown`. They take the memory of their type as long as
    this lives.

    Args:
        model: The model.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._copies: dict[nn.Parameter, Tensor] = {}

    @contextmanager
    def shown(self, kind: str, leave: nn.Module | None = None) -> Iterator[None]:
        """Inside, under autocast, linear layers have copies of their weights; without autocast
        nothing happens.

        A module's own attribute hides its parameter, which others may share (an embedding with the
        LM head) and which stays as it is. Gradients of the copies are added to the parameters' own
        after each backward pass, as autocast would; only that the parts of a layer that is used
        several times in one pass are summed in the lower type. The weights must not change inside,
        and a pass that begins inside must end there, backward and all.

        Args:
            kind: The type of the model's device, of which autocast is asked.
            leave: A layer that is left to autocast.
        """
        shown: list[nn.Linear] = []
        try:
            if torch.is_autocast_enabled(kind):
                dtype = torch.get_autocast_dtype(kind)
                for layer in self._model.modules():
                    if (
                        isinstance(layer, nn.Linear)
                        and layer is not leave
                        and layer.weight.dtype != dtype
                    ):
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
        """The copy from before with the weights of now, or a new one if that was of another kind."""
        copy = self._copies.get(parameter)
        kind = (dtype, parameter.device, parameter.requires_grad)
        if copy is not None and (copy.dtype, copy.device, copy.requires_grad) == kind:
            copy.grad = None  # of a backward pass that did not end
            return copy.copy_(parameter)
        copy = parameter.detach().to(dtype)
        if parameter.requires_grad:
            copy.requires_grad_().register_post_accumulate_grad_hook(_adding_to(parameter))
        self._copies[parameter] = copy
        return copy


def moved(x: Tensor, device: torch.device | str) -> Tensor:
    """`x.to(device)`; to a GPU without waiting for what it still has to do: the next kernels are
    launched meanwhile.

    The driver takes a copy of ordinary memory before the call returns. Pinned memory costs
    milliseconds to get (on an H200's host; the driver's own way 0.02 to 0.3 ms up to 0.6 MB).
    """
    return x.to(device, non_blocking=torch.device(device).type == "cuda")


def _adding_to(parameter: nn.Parameter) -> Callable[[Tensor], None]:
    def add(copy: Tensor) -> None:
        gradient, copy.grad = (
            copy.grad,
            None,
        )  # first: where memory runs out in what follows, all begins anew
        assert gradient is not None
        if parameter.grad is None:
            parameter.grad = gradient.to(parameter.dtype)
        else:
            parameter.grad.add_(gradient)

    return add
