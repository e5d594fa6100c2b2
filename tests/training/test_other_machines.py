"""A training resumes with fewer GPUs and other threads; a damaged state is named."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny_training import PROBLEMS, log_of, made_up, on_cpu, recipe, run

from modgap.core.errors import UserError
from modgap.core.record import RunFolder
from modgap.models.policy import Policy
from modgap.training import checkpoint
from modgap.training.checkpoint import load_state, save_state
from modgap.training.local import train
from modgap.training.rollout import score
from modgap.training.teachers import Teachers
from modgap.training.verl.engine import _saved
from modgap.training.verl.merge import LATEST, actor_folder, saved_step

NUMBERS = {"step": 1, "position": 4, "lengths": (0, 0), "best": None, "micro": 4}


@pytest.mark.parametrize(
    ("index", "seen", "taken"), [(0, 8, 0), (3, 8, 3), (1, 1, 0), (None, 2, 0), (5, 2, 1)]
)
def test_a_state_of_other_gpus_restores_that_of_its_own(
    monkeypatch: pytest.MonkeyPatch, index: int | None, seen: int, taken: int
) -> None:
    """Older states have the RNG of every GPU that was visible."""
    given: list[Any] = []
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda *arguments: given.append(arguments))
    device = SimpleNamespace(type="cuda", index=index)
    policy: Any = SimpleNamespace(device=device, model=torch.nn.Linear(1, 1))
    optimizer = torch.optim.AdamW(policy.model.parameters())
    state = {"weights": policy.model.state_dict(), "optimizer": optimizer.state_dict(),
             "rng": torch.get_rng_state(), "cuda_rng": list(range(seen))}  # fmt: skip
    checkpoint._restore(dict(state), policy, optimizer)
    assert given == [(taken, device)]
    device.type = "cpu"
    checkpoint._restore(dict(state), policy, optimizer)
    assert len(given) == 1


@pytest.fixture
def saved(tmp_path: Path, policy: Policy) -> Path:
    optimizer = torch.optim.AdamW(policy.parameters())
    save_state(tmp_path / "state.pt", policy, optimizer, Teachers(), **NUMBERS)
    return tmp_path / "state.pt"


def without(name: str) -> Any:
    def change(path: Path) -> None:
        state = torch.load(path)
        del state[name]
        torch.save(state, path)

    return change


@pytest.mark.parametrize(
    "damage",
    [lambda path: path.write_bytes(b""), lambda path: path.write_bytes(b"[" * 200_000),
     lambda path: path.write_bytes(path.read_bytes()[:-500]),
     lambda path: torch.save({"run": Path("x")}, path), lambda path: torch.save([1], path),
     lambda path: torch.save({"run": "", "weights": {}}, path),
     *(without(name) for name in ("weights", "optimizer", "rng", "cuda_rng", *NUMBERS))],
)  # fmt: skip
def test_a_damaged_state_is_named(damage: Any, saved: Path, policy: Policy) -> None:
    optimizer = torch.optim.AdamW(policy.parameters())
    assert load_state(saved, policy, optimizer, Teachers())["step"] == 1
    damage(saved)
    with pytest.raises(UserError, match=r"state\.pt is damaged \(\w+\): put it back") as caught:
        load_state(saved, policy, optimizer, Teachers())
    assert "weights_only" not in str(caught.value)


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_a_run_keeps_the_number_of_threads_that_it_was_begun_with(
    tiny: Path, tmp_path: Path, threads: None
) -> None:
    class Killed(BaseException):
        pass

    def dies(event: Any) -> None:
        if event.kind == "phase" and event.step == 1:
            raise Killed

    torch.set_num_threads(2)
    run(recipe(), tiny, tmp_path / "straight")
    out = tmp_path / "run"
    with pytest.raises(Killed):
        train(recipe(), PROBLEMS, tiny, out, load_policy=on_cpu, reward=made_up, progress=dies)
    torch.set_num_threads(1)
    run(recipe(), tiny, out)
    assert RunFolder(out).manifest()["threads"] == torch.get_num_threads() == 2
    assert log_of(out / "stage1") == log_of(tmp_path / "straight" / "stage1")
    RunFolder(out).note("threads", 10_000)
    notes = [event.text for event in run(recipe(), tiny, out) if event.kind == "note"]
    assert torch.get_num_threads() == 2 and "begun with 10,000 threads" in notes[0]


def shards(checkpoints: Path, step: int, world: int = 2) -> Path:
    actor = checkpoints / f"global_step_{step}" / "actor"
    (actor / "huggingface").mkdir(parents=True)
    (actor / "huggingface" / "config.json").write_text("{}")
    for rank in range(world):
        for kind in ("model", "optim"):
            torch.save({}, actor / f"{kind}_world_size_{world}_rank_{rank}.pt")
    return actor


@pytest.mark.parametrize("text", [None, "", "\n", "four", "99", "-4", "\xff"])
def test_a_broken_number_of_verls_last_step_falls_back_to_the_newest_whole_one(
    tmp_path: Path, text: str | None
) -> None:
    for step in (2, 4, 6, 8, 10):
        shards(tmp_path, step)
    actors = [tmp_path / f"global_step_{step}" / "actor" for step in (6, 8, 10)]
    (actors[0] / "model_world_size_2_rank_1.pt").unlink()
    torn = actors[1] / "optim_world_size_2_rank_0.pt"
    torn.write_bytes(torn.read_bytes()[:-40])
    (actors[2] / "model_world_size_2_rank_0.pt").write_bytes(b"")
    if text is not None:
        (tmp_path / LATEST).write_text(text, encoding="latin-1")
    assert saved_step(tmp_path) == 4
    assert actor_folder(tmp_path) == tmp_path / "global_step_4" / "actor"
    assert _saved(tmp_path) == 4 and (tmp_path / LATEST).read_text() == "4", "verl reads it, too"


def test_without_a_whole_step_verl_begins_anew(tmp_path: Path) -> None:
    (tmp_path / LATEST).write_text("")
    assert _saved(tmp_path) == 0 and not (tmp_path / LATEST).exists()


def breaks(response: str, gold: str) -> float:
    return len(response) / 0


def test_a_reward_function_that_raises_is_named_with_its_line() -> None:
    with pytest.raises(
        UserError,
        match=r"breaks raised ZeroDivisionError: division by zero \(.*test_other_machines\.py line"
        r" \d+\) for the gold answer '5' and the response 'x+': correct it",
    ):
        score(breaks, "x" * 1000, "5")
