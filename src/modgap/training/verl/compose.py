"""Our overrides, composed and validated by verl.

Needs verl 0.9.1; uses neither network nor GPU.
"""

# verl has an environment of its own.
# pyright: reportMissingImports=false

from __future__ import annotations

import contextlib
import importlib.util
import io
import re
import warnings
from collections.abc import Mapping
from typing import Any

from modgap.core.errors import UserError
from modgap.training.verl.config import to_hydra

VERSION = "0.9.1"


def installed() -> bool:
    """Whether verl is installed."""
    return importlib.util.find_spec("verl") is not None


def require() -> None:
    """Raise `UserError` if verl is not installed."""
    if not installed():
        raise UserError(
            "verl is not installed: give it an environment of its own (pip install 'modgap[verl]',"
            f" verl {VERSION}; docs/engines/verl.md), or use --engine local."
        )


def compose(overrides: Mapping[str, Any]) -> Any:
    """The complete configuration that verl would run with.

    Args:
        overrides: As `stage_overrides` gives them.

    Returns:
        An omegaconf `DictConfig`, validated by verl.

    Raises:
        UserError: verl is not installed, does not know a key, or refuses a value.
    """
    require()
    from hydra import compose as hydra_compose
    from hydra import initialize_config_module
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings about engines that are not installed
        try:
            with initialize_config_module("verl.trainer.config", version_base=None):
                config = hydra_compose("ppo_trainer", overrides=to_hydra(overrides))
        except (HydraException, OmegaConfBaseException) as error:
            raise UserError(_spoken(error)) from error
        validate(config)
    return config


def validate(config: Any) -> None:
    """Verl's own checks, and the parts of its configuration that need no loaded model.

    Raises:
        UserError: verl refuses it.
    """
    from hydra.errors import HydraException
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import omega_conf_to_dataclass, validate_config

    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints a line on success
            validate_config(
                config,
                use_reference_policy=need_reference_policy(config),
                use_critic=need_critic(config),
            )
        for part in (config.algorithm, config.actor_rollout_ref.rollout):
            omega_conf_to_dataclass(part)
    except (AssertionError, TypeError, ValueError, RuntimeError, HydraException) as error:
        raise UserError(
            f"verl {VERSION} refuses the configuration: {' '.join(str(error).split())[:300]}"
        ) from error


def _spoken(error: Exception) -> str:
    """Hydra's message, with a remedy."""
    words = " ".join(str(error).split())
    if found := re.search(r"Could not override '\+*([^']+)'", words):
        return (
            f"verl {VERSION} has no setting {found[1]!r}: look it up in"
            " verl/trainer/config/ppo_trainer.yaml, or add a new one with --set"
            f" verl.+{found[1]}=VALUE."
        )
    return f"verl {VERSION} cannot read the configuration: {words[:300]}"
