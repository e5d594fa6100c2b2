"""The verl engine's own part (data, chain, resume, failure, cleaning up) with a small program in
the place of verl.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from folders import png

from modgap.core.errors import UserError
from modgap.core.problem import Problem
from modgap.core.processes import watched
from modgap.core.prompt import training_prompt
from modgap.core.recipe import Recipe, Settings, Stage
from modgap.core.terms import Reward
from modgap.datasets.parquet import Beside, write_parquet
from modgap.models.load import tiny_folder
from modgap.training.checkpoint import final_checkpoint
from modgap.training.events import Event, Job
from modgap.training.rollout import DataOrder, Group, Roller
from modgap.training.verl.config import Model
from modgap.training.verl.engine import Tools, is_complete, train
from modgap.training.verl.log import metrics_line, why
from modgap.training.verl.merge import LATEST, actor_folder, drop_older, saved_step, whole_steps

SETTINGS = Settings(
    steps=4, prompts_per_step=4, mini_batch=4, samples_per_prompt=2, micro_batch=2, save_every=2,
    eval_every=1, max_response_tokens=8, overlong_buffer=2, validation_problems=2,
)  # fmt: skip
GPU = (("trainer.n_gpus_per_node", "1"), ("trainer.device", "cpu"))  # the stand-in needs none
KEEP_ONE = ("trainer.max_actor_ckpt_to_keep", "1")
TEXT = Stage(("full-text", "image-only"), settings=SETTINGS, passed=GPU)
KL = Stage(("full-text",), contrastive=True, settings=SETTINGS, passed=GPU)
PROBLEMS = [
    Problem(id=f"p{n}", question="Find AB.", answer="1.000", image=png(), semantic=("AB = 1",))
    for n in range(12)
]

# verl's part of the contract: metrics of each step, checkpoints every save_freq steps and at the
# end, resume.
FAKE = """
import json, os, pathlib, shutil, sys, time, zipfile
config = {key.lstrip("+"): value for key, value in json.load(open(sys.argv[1])).items()}
folder = pathlib.Path(config["trainer.default_local_dir"])
latest = folder / "latest_checkpointed_iteration.txt"
done = int(latest.read_text()) if latest.exists() else 0
for path in [*config["data.train_files"], *config["data.val_files"]]:
    assert pathlib.Path(path).stat().st_size
sources = [pathlib.Path(path).read_text().split()[-1] for path in config["data.val_files"]]
own = []  # what this process saved
print("model", config["actor_rollout_ref.model.path"], "vendor", \
os.environ["VERL_ENGINE_VENDOR"], "from", done)
with open(os.environ["VERL_FILE_LOGGER_PATH"], "wb", buffering=0) as metrics:
    if config["trainer.val_before_train"]:
        data = {f"val-core/{source}/acc/mean@1": .5 for source in sources}
        metrics.write(json.dumps({"step": done, "data": data}).encode() + b"\\n")
    for step in range(done + 1, config["trainer.total_training_steps"] + 1):
        if str(step) == os.environ.get("FAIL_AT") and "stage2" in str(folder):
            print("(AgentLoopWorker pid=7) Error in _run_prompt for uid=1\\nTraceback:\\n  File\\n\
ValueError: too long")
            print("modgap-error: RuntimeError: no materializable trajectories")
            sys.exit(1)
        if step % config["trainer.save_freq"] == 0 or \
step == config["trainer.total_training_steps"]:
            actor = folder / f"global_step_{step}" / "actor"
            actor.mkdir(parents=True)
            for kind in ("model", "optim"):
                with zipfile.ZipFile(actor / f"{kind}_world_size_1_rank_0.pt", "w") as shard:
                    shard.writestr("data", "")
            latest.write_text(str(step))
            own.append(actor)
            keep = config.get("trainer.max_actor_ckpt_to_keep")
            for old in own[:-keep] if keep else []:
                shutil.rmtree(old, ignore_errors=True)
        data = {"critic/score/mean": step / 10, "actor/loss": 1.0}
        for n, source in enumerate(sources):
            data[f"val-core/{source}/acc/mean@1"] = [0, .1, .7, .2, .3][step] - n / 20
        metrics.write(json.dumps({"step": step, "data": data}).encode() + b"\\n")
"""


def write(problems: Any, path: Path, variant: str, style: Any, *, source: str) -> int:
    path.write_text(f"{variant} {len(problems)} {source}")
    return len(problems)


def merge(checkpoint: Path, out: Path, source: Path) -> Path:
    out.mkdir(parents=True)
    (out / "config.json").write_text(json.dumps({"from": checkpoint.name, "started": source.name}))
    return out


@pytest.fixture
def tools(tmp_path: Path) -> Tools:
    script = tmp_path / "fake_verl.py"
    script.write_text(FAKE)
    return Tools(write, (sys.executable, str(script)), merge, lambda overrides: None)


def run(tools: Tools, out: Path, *stages: Stage, **more: Any) -> list[Event]:
    events: list[Event] = []
    model = Model(str(tiny_folder()))
    train(
        Recipe("test", stages or (TEXT, KL)),
        PROBLEMS,
        model,
        out,
        tools=tools,
        progress=events.append,
        job=Job(**more),
    )
    return events


def complete(out: Path, *stages: Stage) -> bool:
    return is_complete(Recipe("test", stages), PROBLEMS, tiny_folder(), out, Job())


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_stages_are_chained_through_merged_checkpoints(tools: Tools, tmp_path: Path) -> None:
    out = tmp_path / "run"
    events = run(tools, out)
    assert json.loads((final_checkpoint(out) / "config.json").read_text()) == {
        "from": "global_step_4", "started": "step_4",
    }  # fmt: skip
    assert (
        out / "stage1/checkpoints/best"
    ).resolve().name == "step_2"  # by validation, of those that were saved
    assert json.loads((out / "stage2/verl.json").read_text())[
        "actor_rollout_ref.model.path"
    ] == str(out / "stage1/checkpoints/step_4")
    assert sorted(path.name for path in (out / "stage1/data").iterdir()) == [
        "train-full-text.parquet", "train-no-text.parquet", "validation-image-only.parquet",
    ]  # fmt: skip
    assert (
        out / "stage1/data/train-no-text.parquet"
    ).read_text() == "no-text 10 9k"  # two of twelve are held out
    assert "contrastive" in (out / "stage2/data/train-contrastive.parquet").read_text()
    log = lines(out / "stage1/train_log.jsonl")
    assert [(line["step"], line["reward"]) for line in log] == [
        (1, 0.1),
        (2, 0.2),
        (3, 0.3),
        (4, 0.4),
    ]
    assert [event.metrics["validation_accuracy"] for event in events if event.kind == "step"][
        :2
    ] == [0.1, 0.7]


def test_the_next_stage_may_start_from_the_best(tools: Tools, tmp_path: Path) -> None:
    run(tools, tmp_path / "run", start_from="best")
    overrides = json.loads((tmp_path / "run/stage2/verl.json").read_text())
    assert Path(overrides["actor_rollout_ref.model.path"]).name == "step_2"


def test_a_failed_stage_says_why_and_goes_on_where_it_was(
    tools: Tools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    monkeypatch.setenv("FAIL_AT", "4")
    with pytest.raises(
        UserError,
        match=r"after step 3: a rollout failed: ValueError: too long\. Its log is .*/verl",
    ):
        run(tools, out)
    monkeypatch.delenv("FAIL_AT")
    (out / "stage2/train_log.jsonl").write_text(
        ""
    )  # as if this process had been killed before it saw a metric
    events = run(tools, out)
    assert [event.text for event in events if event.kind == "stage"] == [
        "full-text + image-only: done already", "full-text + contrastive KL",
    ]  # fmt: skip
    assert [event.step for event in events if event.kind == "step"] == [
        3,
        4,
    ]  # from the checkpoint of step 2
    assert [line["step"] for line in lines(out / "stage2/train_log.jsonl")] == [1, 2, 3, 4]
    assert len(list((out / "stage2").glob("verl_metrics.*.jsonl"))) == 2
    assert "from 2" in (out / "stage2/verl.log").read_text()


def test_validation_is_in_every_view_before_training_and_once_when_resumed(
    tools: Tools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, test = tmp_path / "run", PROBLEMS[:3]
    asked = replace(
        SETTINGS, validation_views="full-text,image-only", validation_split="test",
        validate_before=True,
    )  # fmt: skip
    stages = [replace(TEXT, settings=replace(asked, validation_views="own"))]
    stages.append(replace(KL, settings=asked))
    monkeypatch.setenv("FAIL_AT", "4")
    with pytest.raises(UserError):
        run(tools, out, *stages, validation=test)
    monkeypatch.delenv("FAIL_AT")
    run(tools, out, *stages, validation=test)
    for stage in ("stage1", "stage2"):
        data = out / stage / "data"
        assert (data / "validation-full-text.parquet").read_text() == "full-text 3 full-text"
        assert (data / "validation-image-only.parquet").read_text() == "no-text 3 image-only"
        log = lines(out / stage / "train_log.jsonl")
        assert [line["step"] for line in log] == [0, 1, 2, 3, 4]
        assert "reward" not in log[0] and all("reward" in line for line in log[1:])
        for line in log:
            of_views = [line[f"validation_accuracy/{v}"] for v in ("full-text", "image-only")]
            assert line["validation_accuracy"] == of_views[1]
            assert line["step"] == 0 or of_views[0] - of_views[1] == pytest.approx(0.05)
    assert "full-text 12 9k" in (out / "stage1/data/train-full-text.parquet").read_text()


@pytest.mark.parametrize("killed_at", [None, "3"])
def test_of_a_stage_the_newest_checkpoints_stay_if_the_user_says_so(
    tools: Tools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_at: str | None
) -> None:
    """Also those that an earlier launch saved; a finished stage keeps no optimizer."""
    kept = replace(KL, settings=replace(SETTINGS, save_every=1), passed=(*GPU, KEEP_ONE))
    out = tmp_path / "run"
    if killed_at:
        monkeypatch.setenv("FAIL_AT", killed_at)
        with pytest.raises(UserError, match="verl failed after step 2"):
            run(tools, out, TEXT, kept)
        assert (out / "stage2/verl/global_step_2/actor/optim_world_size_1_rank_0.pt").exists()
        monkeypatch.delenv("FAIL_AT")
    run(tools, out, TEXT, kept)
    files = sorted((out / "stage2/verl").glob("*/actor/*"))
    assert [str(path.relative_to(out / "stage2/verl")) for path in files] == [
        "global_step_4/actor/model_world_size_1_rank_0.pt"
    ]
    assert final_checkpoint(out).name == "step_4"  # the best of those that are left
    both = sorted((out / "stage1/verl").glob("*/actor/optim*"))
    assert len(both) == 2  # where nothing was said


def saved(folder: Path, step: int, *kinds: str) -> Path:
    actor = folder / f"global_step_{step}" / "actor"
    actor.mkdir(parents=True)
    for kind in kinds:
        with zipfile.ZipFile(actor / f"{kind}_world_size_1_rank_0.pt", "w") as shard:
            shard.writestr("data", "")
    return actor


def test_a_checkpoint_that_is_being_written_replaces_none(tmp_path: Path) -> None:
    """verl saves the model first and the number of the step last."""
    for step in (2, 3):
        saved(tmp_path, step, "model", "optim", "extra_state")
    (tmp_path / LATEST).write_text("3")
    half = saved(tmp_path, 4, "model")
    drop_older(tmp_path, 1)
    assert whole_steps(tmp_path) == [3, 4] and saved_step(tmp_path) == 3
    # verl itself would have removed step 3 before it names step 4.
    shutil.rmtree(tmp_path / "global_step_3" / "actor")
    assert half.is_dir() and saved_step(tmp_path) == 4


def test_a_kill_while_optimizers_are_removed_does_not_change_the_best(
    tools: Tools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(checkpoints: Path) -> None:
        (checkpoints / "global_step_4/actor/optim_world_size_1_rank_0.pt").write_bytes(b"")
        raise KeyboardInterrupt

    two = ("trainer.max_actor_ckpt_to_keep", "2")
    kept = replace(KL, settings=replace(SETTINGS, save_every=1), passed=(*GPU, two))
    monkeypatch.setattr("modgap.training.verl.merge.drop_optimizer", killed)
    with pytest.raises(KeyboardInterrupt):
        run(tools, tmp_path / "run", kept)
    monkeypatch.undo()
    run(replace(tools, runner=("false",)), tmp_path / "run", kept)
    assert final_checkpoint(tmp_path / "run", "best").resolve().name == "step_4"


def test_what_a_verl_that_went_on_alone_has_saved_goes_too(
    tools: Tools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*arguments: Any) -> Path:
        raise KeyboardInterrupt

    kept = replace(KL, settings=replace(SETTINGS, save_every=1), passed=(*GPU, KEEP_ONE))
    monkeypatch.setattr("modgap.training.verl.merge.drop_older", lambda *_: None)
    with pytest.raises(KeyboardInterrupt):
        run(replace(tools, merge=killed), tmp_path / "run", kept)
    monkeypatch.undo()
    assert whole_steps(tmp_path / "run/stage1/verl") == [1, 2, 3, 4]
    run(replace(tools, runner=("false",)), tmp_path / "run", kept)
    assert whole_steps(tmp_path / "run/stage1/verl") == [4]
    assert final_checkpoint(tmp_path / "run", "best").resolve().name == "step_4"


def test_a_number_of_checkpoints_that_is_none_is_refused(tools: Tools, tmp_path: Path) -> None:
    none = replace(KL, passed=(*GPU, ("trainer.max_actor_ckpt_to_keep", "0")))
    with pytest.raises(UserError, match="max_actor_ckpt_to_keep=0: give a whole number"):
        run(tools, tmp_path / "run", none)


def test_a_kill_between_training_and_merging_costs_no_step(tools: Tools, tmp_path: Path) -> None:
    def killed(*arguments: Any) -> Path:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(replace(tools, merge=killed), tmp_path / "run", KL)
    events = run(replace(tools, runner=("false",)), tmp_path / "run", KL)
    assert not [event for event in events if event.kind == "step"]


def test_another_recipe_in_the_folder_and_other_settings_are_refused(
    tools: Tools, tmp_path: Path
) -> None:
    run(tools, tmp_path / "run", KL)
    with pytest.raises(UserError):
        run(tools, tmp_path / "run", TEXT)
    other = replace(KL, passed=(*GPU, ("data.seed", "7")))
    for asked in (functools.partial(run, tools), complete):
        with pytest.raises(UserError, match="verl was"):
            asked(tmp_path / "run", other)


def test_a_run_goes_on_with_other_memory_settings(
    tools: Tools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a failure for want of memory advises must not be refused in the same folder."""
    monkeypatch.setenv("FAIL_AT", "4")
    with pytest.raises(UserError):
        run(tools, tmp_path / "run")
    monkeypatch.delenv("FAIL_AT")
    memory = (("actor_rollout_ref.rollout.gpu_memory_utilization", "0.3"),)
    smaller = replace(KL, settings=replace(SETTINGS, micro_batch=1), passed=(*GPU, *memory))
    assert not complete(tmp_path / "run", TEXT, smaller)
    run(tools, tmp_path / "run", TEXT, smaller)
    assert complete(tmp_path / "run", TEXT, KL) and complete(tmp_path / "run", TEXT, smaller)
    overrides = json.loads((tmp_path / "run/stage2/verl.json").read_text())
    assert overrides["actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu"] == 1


def test_every_stage_is_checked_before_the_first_one_trains(tools: Tools, tmp_path: Path) -> None:
    faulty = replace(KL, settings=replace(SETTINGS, prompts_per_step=64, mini_batch=64))
    with pytest.raises(
        UserError, match=r"stage 2 .*too few training prompts: 10, and a step has 64"
    ):
        run(tools, tmp_path / "run", TEXT, faulty)
    assert not (tmp_path / "run").exists()


def test_a_machine_without_a_gpu_is_told_so(
    tools: Tools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    # A child process that loads torch would read it, of GPUs that are not there.
    monkeypatch.setattr("modgap.training.verl.engine._gpu_gib", lambda: None)
    with pytest.raises(UserError, match=r"this machine has none: use --engine local.*RAY_ADDRESS"):
        run(tools, tmp_path / "run", replace(KL, passed=()))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))  # a cluster of this machine is none of it
    wanted = replace(KL, passed=(("trainer.n_gpus_per_node", "2"),))
    with pytest.raises(
        UserError, match=r"n_gpus_per_node=2, but this machine has 0 GPUs: .*RAY_ADDRESS"
    ):
        run(tools, tmp_path / "run", wanted)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    several = replace(KL, passed=(*wanted.passed, ("trainer.nnodes", "2")))
    with pytest.raises(
        UserError, match=r"n_gpus_per_node=2 on 2 nodes, but this machine has 2 GPUs: .*RAY_ADDRESS"
    ):
        run(tools, tmp_path / "run", several)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert run(tools, tmp_path / "run", wanted), "a cluster has its own"
    monkeypatch.delenv("RAY_ADDRESS")
    assert run(tools, tmp_path / "run", wanted)[-1].text.endswith("done already"), (
        "what is done needs no GPU"
    )
    joins = replace(KL, passed=(*wanted.passed, ("+ray_kwargs.ray_init.address", "auto")))
    assert run(tools, tmp_path / "joins", joins)


def test_the_address_of_a_killed_cluster_is_none(
    tools: Tools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`ray start` writes the address, and a cluster that is killed leaves it."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    left = tmp_path / "ray" / "ray_current_cluster"
    left.parent.mkdir()
    wanted = replace(KL, passed=(("trainer.n_gpus_per_node", "2"),))
    address = "++ray_kwargs.ray_init.address"
    with socket.create_server(("127.0.0.1", 0)) as cluster:
        left.write_text(f"127.0.0.1:{cluster.getsockname()[1]}")
        run(tools, tmp_path / "joined", wanted)
    assert address not in json.loads((tmp_path / "joined/stage1/verl.json").read_text())
    for words in (left.read_text(), "", "no address"):
        left.write_text(words)
        with pytest.raises(UserError, match="n_gpus_per_node=2, but this machine has 0 GPUs"):
            run(tools, tmp_path / "alone", wanted)
        run(tools, tmp_path / f"alone {words}", TEXT)
        overrides = json.loads((tmp_path / f"alone {words}/stage1/verl.json").read_text())
        assert overrides[address] == "local", "Ray itself would join what left the address"
    read = Path.read_text

    def refused(path: Path, *arguments: Any, **more: Any) -> str:
        if path == left:
            raise PermissionError(13, "Permission denied", str(path))
        return read(path, *arguments, **more)

    monkeypatch.setattr(Path, "read_text", refused)
    run(tools, tmp_path / "of another user", TEXT)
    overrides = json.loads((tmp_path / "of another user/stage1/verl.json").read_text())
    assert overrides[address] == "local", "Ray itself would fail to read the address"


def test_problems_count_once_in_each_view(tools: Tools, tmp_path: Path) -> None:
    """As in the plan: ten problems in two views are twenty prompts."""
    many = replace(SETTINGS, prompts_per_step=16, mini_batch=16)
    assert run(tools, tmp_path / "run", replace(TEXT, settings=many))
    with pytest.raises(UserError, match="too few training prompts: 10, and a step has 16"):
        run(tools, tmp_path / "one", replace(KL, settings=many))


def test_the_data_is_what_modgap_data_prepare_writes(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    write_parquet(PROBLEMS, tmp_path / "c.parquet", "contrastive", "aligned")
    row = pq.read_table(tmp_path / "c.parquet").to_pylist()[0]
    assert (
        row["contrastive_prompt"][0]["content"].startswith("<image>")
        and row["reward_model"]["ground_truth"] == "1.000"
    )


def test_the_data_has_the_words_of_every_twin_and_the_conditions_of_a_reading_reward(
    tmp_path: Path,
) -> None:
    import pyarrow.parquet as pq

    beside = Beside("image-only", ("full-text", "text-only"), conditions=True)
    write_parquet(PROBLEMS, tmp_path / "t.parquet", "no-text", "aligned", beside=beside)
    plain = tmp_path / "p.parquet"
    write_parquet(PROBLEMS, plain, "no-text", "aligned")
    for row, before, problem in zip(
        pq.read_table(tmp_path / "t.parquet").to_pylist(),
        pq.read_table(plain).to_pylist(),
        PROBLEMS,
        strict=True,
    ):
        told = json.loads(row.pop("twin_prompts"))
        assert told["view"] == "image-only"
        for view, words in told["twins"].items():
            prompt = training_prompt(problem, view)
            assert words == ("<image>" if prompt.has_image else "") + prompt.text
        assert list(told["twins"]) == ["full-text", "text-only"]
        known, asked = row["extra_info"].pop("conditions"), row["extra_info"].pop("asked")
        assert json.loads(known) == list(problem.semantic) and asked == problem.question
        assert row == before
    write_parquet(PROBLEMS, tmp_path / "r.parquet", "transcribe", "aligned")
    row = pq.read_table(tmp_path / "r.parquet").to_pylist()[0]
    words = training_prompt(PROBLEMS[0], "transcribe").text
    assert row["prompt"][0]["content"] == f"<image>{words}"


def test_verls_reward_is_the_local_engines() -> None:
    from modgap.training.setup import reward_of
    from modgap.training.verl.reward import compute_score

    problem, settings = PROBLEMS[1], Settings()
    told = {"conditions": json.dumps(problem.semantic), "asked": problem.question}
    for response in (
        f"<think>{', '.join(problem.semantic)}</think> \\boxed{{{problem.answer}}}",
        "<think>AB = 99</think> \\boxed{0}",
    ):
        group = Group(problem, "transcribe", training_prompt(problem, "transcribe"), None, (), [1])
        group.responses = [SimpleNamespace(text=response, token_ids=[1] * 9, finish_reason="stop")]
        made_of = Reward(0.5, 2.0)
        stage = Stage(("transcribe",), settings=settings, reward=made_of)
        order = DataOrder([problem], ("transcribe",), 1)
        Roller(None, order, stage, 1, "aligned").grade([group], reward_of(settings))  # type: ignore[arg-type]
        got = compute_score(
            "9k", response, problem.answer, told, answer=0.5, reading=2.0, tolerance="relative"
        )
        assert got["score"] == pytest.approx(float(group.rewards_N[0]))
        assert got["reading"] == float(group.reading_N[0]) and got["to_read"] == 1
        assert (got["answer"] >= 1) == bool(group.right_N[0])
    nothing = {"conditions": '["ABC is a square"]', "asked": ""}
    got = compute_score("9k", "none", "1", nothing, answer=0.0, reading=2.0)
    assert (got["score"], got["reading"], got["to_read"]) == (2.0, 1.0, 0.0)


# Processes


def alive(pid: int) -> bool:
    """Whether it runs; one that nobody has waited for yet does not."""
    status = Path(f"/proc/{pid}/status")
    return status.exists() and "State:\tZ" not in status.read_text()


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_whatever_a_child_started_ends_with_it(tmp_path: Path) -> None:
    """Also what left its session, as Ray's daemons do."""
    script = (
        "import subprocess as s, sys; p = s.Popen(['sleep', '60'], start_new_session=True);"
        " print(p.pid)"
    )
    assert watched([sys.executable, "-c", script], tmp_path / "log", {}, every=0.05) == 0
    assert not alive(int((tmp_path / "log").read_text()))


def test_killing_the_engine_ends_the_child(tmp_path: Path) -> None:
    """SIGTERM, as a scheduler sends it."""
    code = (
        "from pathlib import Path; from modgap.core.processes import watched; import sys;"
        f"watched(['sh', '-c', 'echo $$; exec sleep 60'], Path({str(tmp_path / 'log')!r}), {{}})"
    )
    engine = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    wait_for(lambda: (tmp_path / "log").exists() and (tmp_path / "log").read_text().endswith("\n"))
    child = int((tmp_path / "log").read_text())
    os.kill(engine.pid, signal.SIGTERM)
    assert engine.wait(60) != 0 and not alive(child)


def test_an_engine_that_is_killed_outright_takes_everything_with_it(tmp_path: Path) -> None:
    """SIGKILL leaves it no time; the child sees that its parent is gone. One of its own has lost
    the mark, as Ray's agents do."""
    child = (
        "from modgap.core.processes import end_with_parent; end_with_parent(0.05); import os,"
        " subprocess, time;p = subprocess.Popen(['sleep', '60'], start_new_session=True);q ="
        " subprocess.Popen(['sleep', '60'], start_new_session=True, env={});print(os.getpid(),"
        " p.pid, q.pid, flush=True);time.sleep(60)"
    )
    code = (
        "from pathlib import Path; from modgap.core.processes import watched; import sys;"
        f"watched([sys.executable, '-c', {child!r}], Path({str(tmp_path / 'log')!r}), {{}})"
    )
    engine = subprocess.Popen([sys.executable, "-c", code])
    wait_for(lambda: (tmp_path / "log").exists() and (tmp_path / "log").read_text().endswith("\n"))
    pids = [int(word) for word in (tmp_path / "log").read_text().split()]
    engine.kill()
    engine.wait()
    wait_for(lambda: not any(map(alive, pids)))


# What verl says


def test_metrics_take_our_names_and_what_is_not_finite_is_null() -> None:
    data = {
        "critic/score/mean": 0.5,
        "actor/grad_norm": float("nan"),
        "val-core/9k/acc/mean@1": 0.25,
        "other": 1,
    }
    assert metrics_line(3, data, 2, 100, 16) == {
        "step": 3, "stage": 2, "reward": 0.5, "grad_norm": None, "validation_accuracy": 0.25,
        "validation_accuracy/image-only": 0.25, "sampled_groups": 16, "dropped_groups": 0,
    }  # fmt: skip
    both = {"val-core/full-text/acc/mean@1": 0.5, "val-core/image-only/acc/mean@1": 0.25}
    assert metrics_line(0, both, 1, 100, 16) == {
        "step": 0, "stage": 1, "validation_accuracy": 0.25,
        "validation_accuracy/full-text": 0.5, "validation_accuracy/image-only": 0.25,
    }  # fmt: skip


def test_the_reward_is_of_all_that_were_sampled_dropped_groups_included() -> None:
    groups = "training/filter_groups"
    data = {
        "critic/score/mean": 0.4, f"{groups}/evicted_samples": 12.0,
        f"{groups}/evicted_reward/mean": 0.9, f"{groups}/discarded_surplus_samples": 4.0,
    }  # fmt: skip
    line = metrics_line(1, data, 1, 100, 8)
    assert line["reward"] == pytest.approx((12 * 0.4 + 12 * 0.9) / 24)
    assert (line["sampled_groups"], line["dropped_groups"]) == (24, 12)
    del data[f"{groups}/evicted_reward/mean"]
    assert metrics_line(1, data, 1, 100, 8)["reward"] is None, (
        "not that of the kept groups, which is another thing"
    )


@pytest.mark.parametrize(("longest", "truncated"), [(99.0, 0.0), (100.0, 0.25)])
def test_the_longest_response_is_truncated_only_at_the_limit(
    longest: float, truncated: float
) -> None:
    data = {"response_length/max": longest, "response_length/clip_ratio": 0.25}
    assert metrics_line(1, data, 1, 100, 8)["truncated"] == truncated


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "(W pid=1) torch.OutOfMemoryError: CUDA out of memory. Tried\nmodgap-error: x",
            "CUDA out of memory.*micro_batch",
        ),
        (
            "ValueError: No available memory for the cache blocks",
            "gpu_memory_utilization=F, or free the GPU",
        ),
        ("a\nmodgap-error: TypeError: b\nlast", "^TypeError: b$"),
        ("a\n\x1b[36m(Runner pid=5)\x1b[0m boom\n", "^boom$"),
        ("", "it said nothing"),
    ],
)
def test_a_failure_is_one_line_with_a_remedy(tmp_path: Path, text: str, words: str) -> None:
    import re

    (tmp_path / "log").write_text(text)
    assert re.search(words, why(tmp_path / "log")) and "\n" not in why(tmp_path / "log")


def test_a_checkpoint_is_found_in_every_layout_and_missing_shards_are_named(tmp_path: Path) -> None:
    actor = tmp_path / "global_step_20" / "actor"
    (actor / "huggingface").mkdir(parents=True)
    (actor / "huggingface" / "config.json").write_text("{}")
    for rank in range(2):
        (actor / f"model_world_size_2_rank_{rank}.pt").touch()
    assert actor_folder(tmp_path) == actor_folder(actor.parent) == actor_folder(actor) == actor
    (actor / "model_world_size_2_rank_0.pt").unlink()
    with pytest.raises(UserError, match=r"lacks the shards of ranks \[0\] of 2"):
        actor_folder(tmp_path)
    with pytest.raises(UserError, match="holds no FSDP checkpoint of verl"):
        actor_folder(tmp_path / "global_step_20" / "actor" / "huggingface")
