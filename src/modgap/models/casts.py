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
        self._sizes: dict[Tensor, tuple[int, ...]] = {}

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
                self._sizes = _sizes(self._model)
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
        size = self._sizes.get(parameter, tuple(parameter.shape))
        copy = self._copies.get(parameter)
        kind = (dtype, parameter.device, parameter.requires_grad, size)
        if copy is not None and (copy.dtype, copy.device, copy.requires_grad, copy.shape) == kind:
            copy.grad = None  # left over from a backward pass that did not finish
            _within(copy, parameter).copy_(parameter)
            return copy
        copy = parameter.new_zeros(size, dtype=dtype)
        _within(copy, parameter).copy_(parameter)
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


def _sizes(model: nn.Module) -> dict[Tensor, tuple[int, ...]]:
    """The sizes of weights that are padded with zeros, which changes no result.

    They are those of gated MLPs whose width is not a multiple of 8, as the 3,420 of Qwen2.5-VL's
    tower: their products would take a GPU's slow kernels.
    """
    sizes: dict[Tensor, tuple[int, ...]] = {}
    for module in model.modules():
        # With SiLU a channel of zeros stays one.
        if type(getattr(module, "act_fn", None)).__name__ not in ("SiLU", "SiLUActivation"):
            continue
        layers = [getattr(module, f"{name}_proj", None) for name in ("gate", "up", "down")]
        linear = [layer for layer in layers if type(layer) is nn.Linear]
        if len(linear) < 3 or linear[0].out_features % 8 == 0:
            continue
        gate, up, down = linear
        wide = -(-gate.out_features // 8) * 8
        for layer in (gate, up):
            sizes[layer.weight] = (wide, layer.in_features)
            if layer.bias is not None:
                sizes[layer.bias] = (wide,)
        sizes[down.weight] = (down.out_features, wide)
    return sizes


def _within(copy: Tensor, parameter: Tensor) -> Tensor:
    """The part of a padded copy, or of its gradient, that is the parameter's."""
    if copy.shape == parameter.shape:
        return copy
    return copy[tuple(slice(size) for size in parameter.shape)]


def _adding_to(parameter: nn.Parameter) -> Callable[[Tensor], None]:
    def add(copy: Tensor) -> None:
        # Cleared first: if memory runs out below, the whole pass is repeated.
        gradient, copy.grad = copy.grad, None
        assert gradient is not None
        gradient = _within(gradient, parameter)
        if parameter.grad is None:
            parameter.grad = gradient.to(parameter.dtype)
        else:
            parameter.grad.add_(gradient)

    return add
