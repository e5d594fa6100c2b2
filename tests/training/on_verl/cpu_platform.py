"""A platform without a GPU for verl, for tests only: VERL_USE_EXTERNAL_MODULES=cpu_platform
VERL_PLATFORM=cpu_test.
"""

from __future__ import annotations

import contextlib
import types
from typing import Any

import torch
from verl.plugin.platform.platform_base import PlatformBase
from verl.plugin.platform.platform_manager import PlatformRegistry


def nothing(*arguments: Any, **named: Any) -> int:
    return 0


class Memory(types.ModuleType):
    """torch.cpu, with zeros for what only GPUs count."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name == "mem_get_info":
            return lambda *arguments: (0, 0)
        if name == "get_device_name":
            return lambda *arguments: "cpu"
        return getattr(torch.cpu, name, nothing)


def not_pinned(self: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
    return self


# verl keeps a reference policy in pinned memory, which only an accelerator has.
torch.Tensor.pin_memory = not_pinned  # type: ignore[method-assign]


@PlatformRegistry.register(platform="cpu_test")
class PlatformCpu(PlatformBase):
    device_name = "cpu"
    vendor_name = "cpu"
    device_module = Memory("cpu")

    def is_available(self) -> bool:
        return True

    def current_device(self) -> Any:
        return "cpu"

    def device_count(self) -> int:
        return 1

    set_device = synchronize = manual_seed_all = set_allocator_settings = empty_cache = nothing
    profiler_start = profiler_stop = cudart = nothing

    def manual_seed(self, seed: int) -> None:
        torch.manual_seed(seed)

    def get_device_capability(self, device_index: int = 0) -> tuple[None, None]:
        return None, None

    def communication_backend_name(self) -> str:
        return "gloo"

    def visible_devices_envvar(self) -> str:
        return "CUDA_VISIBLE_DEVICES"

    def nvtx_range(self, msg: str) -> Any:
        return contextlib.nullcontext()

    def ray_resource_name(self) -> str:
        return (  # one that Ray is told of (ray_init.num_gpus=1): verl looks for no other resource
            "GPU"
        )

    def ray_noset_envvars(self) -> list[str]:
        return []

    def is_ipc_supported(self) -> bool:
        return False
