"""Which shards of a verl checkpoint are converted: verl's merger unpickles them."""

from __future__ import annotations

import errno
import pickle
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from modgap.core.errors import UserError
from modgap.training.verl import merge


class Evil:
    def __reduce__(self) -> Any:
        return (exec, ("import pathlib; pathlib.Path('ran').touch()",))


class Sneaky:
    """`getattr` of something that is allowed leads to everything."""

    def __reduce__(self) -> Any:
        return (getattr, (DTensor, "__init__"))


def folder(tmp_path: Path) -> Path:
    actor = tmp_path / "global_step_1" / "actor"
    (actor / "huggingface").mkdir(parents=True)
    (actor / "huggingface" / "config.json").touch()
    return actor


@pytest.fixture
def merger(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[list[str]]:
    """What verl's merger was started with."""
    started: list[list[str]] = []
    monkeypatch.setattr(merge, "require", lambda: None)

    def watched(command: list[str], log: Path, *_: Any) -> int:
        started.append(command)
        log.touch()
        return 1

    monkeypatch.setattr(merge, "watched", watched)
    monkeypatch.chdir(tmp_path)
    return started


@pytest.mark.parametrize("what", ["exec", "getattr", "plain pickle", "text", "nothing"])
def test_a_shard_that_could_run_code_never_reaches_the_merger(
    what: str, tmp_path: Path, merger: list[list[str]]
) -> None:
    actor = folder(tmp_path)
    shard = actor / "model_world_size_1_rank_0.pt"
    if what in ("exec", "getattr"):
        torch.save({"a": torch.ones(2), "b": Evil() if what == "exec" else Sneaky()}, shard)
    elif what == "plain pickle":
        shard.write_bytes(pickle.dumps(Evil()))
    else:
        shard.write_text("words" if what == "text" else "")
    with pytest.raises(UserError, match=r"rank_0\.pt (holds more than tensors|is not a shard)"):
        merge.merge(tmp_path / "global_step_1", tmp_path / "out")
    assert not merger and not (tmp_path / "ran").exists()


def test_the_shards_that_verl_writes_are_taken(tmp_path: Path, merger: list[list[str]]) -> None:
    """Distributed tensors (FSDP2, and FSDP on a mesh), and plain ones of one rank."""
    distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1
    )
    try:
        mesh = init_device_mesh("cpu", (1, 1), mesh_dim_names=("ddp", "fsdp"))
        weight = distribute_tensor(torch.ones(4, 2), mesh, [Replicate(), Shard(0)])
        state = {"w": weight, "b": torch.ones(2).bfloat16(), "p": torch.nn.Parameter(torch.ones(2))}
        torch.save(state, folder(tmp_path) / "model_world_size_1_rank_0.pt")
    finally:
        distributed.destroy_process_group()
    with pytest.raises(UserError, match="verl's merger failed"):  # of this test
        merge.merge(tmp_path / "global_step_1", tmp_path / "out")
    [command] = merger
    assert command[:4] == [sys.executable, "-P", "-m", "verl.model_merger"]


@pytest.mark.parametrize("how", ["interrupted", "full"])
def test_a_convert_that_ends_early_leaves_nothing(
    how: str, tmp_path: Path, merger: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save({"w": torch.ones(2)}, folder(tmp_path) / "model_world_size_1_rank_0.pt")

    def merges(command: list[str], log: Path, *_: Any) -> int:
        log.touch()
        target = Path(command[command.index("--target_dir") + 1])
        target.mkdir()
        (target / "half").touch()
        raise KeyboardInterrupt if how == "interrupted" else OSError(errno.ENOSPC, "x")

    monkeypatch.setattr(merge, "watched", merges)
    with pytest.raises((KeyboardInterrupt, UserError), match=r"out cannot be written|^$"):
        merge.merge(tmp_path / "global_step_1", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["global_step_1"]
