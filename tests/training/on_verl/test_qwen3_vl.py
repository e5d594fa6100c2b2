"""A Qwen3-VL inside verl's FSDP2 engine: the same update as on the local engine.

The rollouts and the ranks are those of test_plugin.py, with another model.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("verl", reason="verl has an environment of its own: make test-verl")

import test_plugin as plugin
from model_families import build_family

import modgap

CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    name: plugin.CASES[name] for name in ("plain", "budget", "few images")
}


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Of each case the local engine's figures and each rank's."""
    folder = tmp_path_factory.mktemp("ranks")
    model = build_family("qwen3_vl", folder / "model")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plugin, "tiny_folder", lambda: model)
        cases = [(plugin.Case(**rollouts), how) for rollouts, how in CASES.values()]
        rows = [case.rows() for case, _ in cases]
        jobs = [
            plugin.job(case, [own[:4], own[4:]], **how)
            for (case, how), own in zip(cases, rows, strict=True)
        ]
        local = [case.local(8) for case, _ in cases]
        # The ranks compute with this package, and with the positions of a Qwen3-VL.
        source = Path(modgap.__file__).parents[1]
        paths = os.pathsep.join(map(str, (plugin.HERE, source)))
        patch.setitem(plugin.CPU, "PYTHONPATH", paths)
        patch.setattr(subprocess, "Popen", popen)
        return dict(zip(CASES, zip(local, plugin.run(jobs, folder), strict=True), strict=True))


def popen(command: list[str], **how: Any) -> Any:
    """A rank, by the script for this family."""
    return START([part.replace("ranks.py", "ranks_qwen3_vl.py") for part in command], **how)


START = subprocess.Popen


@pytest.mark.parametrize("name", CASES)
def test_the_first_update_of_a_qwen3_vl_is_the_local_engines(name: str, told: Any) -> None:
    """Loss and gradients to 1e-3 relative, DeepStack's mergers among them."""
    (loss, grads, _), ranks = told[name]
    norm, got = plugin.norm_of(grads.values()), ranks[0]["gradients"]
    assert set(got) == set(grads) and any("deepstack" in key for key in got)
    scale = norm / plugin.norm_of(got.values())
    assert plugin.norm_of(scale * got[key] - grads[key] for key in grads) < 1e-3 * norm
    for rank in ranks:
        assert rank["engine"] != "FSDPEngineWithLMHead"  # but our own
        assert rank["loss"] == pytest.approx(loss, rel=1e-3)
        assert rank["grad_norm"] == pytest.approx(norm, rel=1e-3)


def test_images_of_a_qwen3_vl_pass_the_tower_once(told: Any) -> None:
    for rank in told["plain"][1]:
        assert rank["images"] == [1, 1]
    first, second = (len(rank["images"]) for rank in told["few images"][1])
    assert first == second > 1
