"""The plugin inside verl's own FSDP2 engine, two gloo ranks on CPU, against the local engine on the
same rollouts.
"""

from __future__ import annotations

import asyncio
import io
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import MethodType, SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest

pytest.importorskip("verl", reason="verl has an environment of its own: make test-verl")

import torch
from cpu_processor import processor_of
from model_families import build_family
from PIL import Image, ImageDraw
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

import modgap
from modgap.cli.main import main
from modgap.core.errors import UserError
from modgap.core.problem import Problem
from modgap.core.prompt import Prompt, contrastive_prompt, training_prompt, twin_prompt
from modgap.core.recipe import Settings, Stage
from modgap.core.terms import Term
from modgap.models.encode import pixel_values
from modgap.models.load import load_policy, tiny_folder
from modgap.training.objective import right_rows
from modgap.training.pictures import pictured
from modgap.training.rollout import Batch
from modgap.training.teachers import Teachers
from modgap.training.update import gradients, old_logprobs
from modgap.training.verl.merge import merge
from modgap.training.verl.rows import as_stored, byte_table, pixels_of

SETTINGS = Settings(
    prompts_per_step=4, samples_per_prompt=2, mini_batch=4, micro_batch=2, max_prompt_tokens=512,
    max_response_tokens=64, overlong_buffer=0, kl_coef=0.5,
)  # fmt: skip
_PRECISION = "+actor_rollout_ref.actor.fsdp_config.mixed_precision"
FP32 = tuple((f"{_PRECISION}.{kind}_dtype", "fp32") for kind in ("param", "reduce", "buffer"))
HERE = Path(__file__).parent
CPU = {
    "OMP_NUM_THREADS": "1", "VERL_USE_EXTERNAL_MODULES": "cpu_platform",
    "VERL_PLATFORM": "cpu_test",
    "PYTHONPATH": os.pathsep.join((str(HERE), str(Path(modgap.__file__).parents[1]))),
}  # fmt: skip


def picture(n: int) -> bytes:
    image = Image.new("RGB", (196, 196), "white")
    ImageDraw.Draw(image).line(
        [(n * 29 % 190, 9), (150, n * 43 % 190), (15, 180)], fill="black", width=3
    )
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


class Case:
    """Rollouts of four prompts with two samples each, and what the local engine makes of them."""

    def __init__(
        self,
        scores: list[float],
        settings: Settings,
        longest: int = 9,
        images: int = 4,
        terms: tuple[Term, ...] | None = None,
        policy_loss: bool = True,
        model: Path | None = None,
    ) -> None:
        torch.manual_seed(1)
        self.settings = settings
        self.stage = Stage(
            ("full-text",), contrastive=terms is None and settings.kl_coef > 0, settings=settings,
            passed=FP32, terms=terms or (), policy_loss=policy_loss,
        )  # fmt: skip
        self.model = model or tiny_folder()
        self.policy = load_policy(self.model, device="cpu", dtype="float32")
        # verl's actor does not ban the image tokens, its rollout does.
        self.policy.banned_token_ids = []
        problems = [
            Problem(
                id=f"p{n}", question=f"Find A{'BCDE'[n]}.", answer=f"{n}.000", image=picture(n),
                semantic=(f"AB = {n + 3}", f"BC = {2 * n + 1}"),
            )
            for n in range(4)
        ]  # fmt: skip
        encode = self.policy.encode
        prompts, twins = list[Any](), list[tuple[Any, ...]]()
        self.words: list[dict[str, list[int]]] = []
        for n, problem in enumerate(problems):

            def encoded(words: Prompt, problem: Problem = problem, n: int = n) -> Any:
                shown = words.has_image and n < images
                words = replace(words, has_image=shown)
                return encode(words, problem.open_image() if shown else None)

            prompt = encoded(training_prompt(problem, "full-text"))
            prompts += 2 * [prompt]
            own, ids = list[Any](), dict[str, list[int]]()
            for twin in self.stage.twins:
                shown = prompt
                if twin.view:
                    shown = encoded(twin_prompt(problem, "full-text", twin.view))
                    ids[twin.view] = shown.input_ids.tolist()
                if twin.picture != "own":
                    shown = pictured(shown, twin, self.policy.bytes_seen)
                own.append(shown)
            twins += 2 * [tuple(own)]
            self.words += 2 * [ids]
        words = self.policy._encoder.tokenizer("The radius is 3, so that the answer is 12.")[
            "input_ids"
        ]
        own = [3 + 3 * n % 8 for n in range(8)]
        own[5] = longest
        responses = [torch.tensor([*(8 * words)[: own[n]], 10 + n]) for n in range(8)]
        self.batch = Batch(
            prompts,
            twins,
            ["full-text"] * 8,
            responses,
            torch.linspace(-1.5, 1.5, 8),
            right_rows(torch.tensor(scores)),
            None,
        )
        old = [
            row + 0.3 * torch.randn(len(row))
            for row in old_logprobs(self.policy, self.batch, settings, 4)
        ]
        self.batch = replace(self.batch, old_logps=old)
        self.scores = scores

        self.reference: list[torch.Tensor] | None = None
        for k, twin in enumerate(self.stage.twins):
            if twin.teacher == "frozen":  # what verl's reference policy scores
                shown = replace(self.batch, prompts=[own[k] for own in self.batch.twins])
                self.reference = old_logprobs(self.policy, shown, settings, 4)

    def local(self, count: int) -> tuple[float, dict[str, torch.Tensor], dict[str, float]]:
        """Loss, gradients and metrics of the first `count` rows on the local engine."""
        part = Batch(*(getattr(self.batch, name)[:count] for name in Batch.__dataclass_fields__))
        stats = gradients(self.policy, part, self.stage, 4, Teachers.of(self.stage, self.policy))
        named = self.policy.model.named_parameters()
        grads = {name: p.grad for name, p in named if p.grad is not None}
        return stats.loss, grads, stats.means()

    def rows(self) -> list[dict[str, Any]]:
        """The rows as verl's agent loop leaves them."""
        out = []
        for i, response in enumerate(self.batch.responses):
            prompt, length, more = self.batch.prompts[i], len(response), dict[str, Any]()
            tail = torch.arange(length).expand(3, -1) + prompt.next_position
            rope = torch.cat([prompt.position_ids, tail], 1)
            extra = {
                "twin_prompt_ids": self.words[i],
                "reward_extra_info": {"score": self.scores[i], "acc": float(self.scores[i] == 1.0)},
            }
            if self.reference is not None:
                more = {"ref_log_prob": self.reference[i]}
            out.append(more | {
                "prompts": prompt.input_ids, "responses": response,
                "input_ids": torch.cat([prompt.input_ids, response]),
                "position_ids": torch.cat([torch.arange(rope.shape[1])[None], rope]),
                "response_mask": torch.ones(length, dtype=torch.int64),
                "loss_mask": torch.ones(length, dtype=torch.int64),
                "old_log_probs": self.batch.old_logps[i],
                "advantages": self.batch.advantages_B[i].expand(length).clone(),
                "extra_fields": extra,
                "multi_modal_inputs": {} if prompt.pixels is None else {
                    "pixel_values": prompt.pixel_values, "image_grid_thw": prompt.image_grid_thw,
                },
            })  # fmt: skip
        return out


def padding(row: dict[str, Any]) -> dict[str, Any]:
    """What verl appends to fill a batch: no image, an empty mask, and the fields of a real row."""
    ids = torch.full((128,), 2)
    return {
        **row, "prompts": ids[:-1], "responses": ids[-1:], "input_ids": ids,
        "position_ids": torch.arange(128).expand(4, -1).clone(),
        "response_mask": torch.zeros(1, dtype=torch.int64),
        "loss_mask": torch.zeros(1, dtype=torch.int64), "old_log_probs": torch.zeros(1),
        "advantages": torch.zeros(1), "multi_modal_inputs": {},
    }  # fmt: skip


def job(
    case: Case, rows: list[list[dict[str, Any]]], budget: int | None = None, stock: bool = False
) -> dict[str, Any]:
    """One update on as many ranks as there are lists of rows.

    In passes of a fixed number of rows, or of at most `budget` tokens; by verl's own engine if
    `stock`.
    """
    settings = case.settings
    fixed = {
        "use_dynamic_bsz": budget is not None, "max_token_len_per_gpu": budget or 0,
        "micro_batch_size_per_gpu": settings.micro_batch, "use_remove_padding": False,
        "use_fused_kernels": False, "temperature": settings.temperature, "pad_token_id": 0,
        "global_batch_size": sum(map(len, rows)), "calculate_entropy": False,
    }  # fmt: skip
    if not stock:  # as the plugin's agent loops leave images
        table = byte_table(Qwen2VLImageProcessorPil.from_pretrained(case.model))
        for row in {id(row): row for own in rows for row in own}.values():
            row["multi_modal_inputs"] = as_stored(row["multi_modal_inputs"], table)
    return {
        "model": str(case.model),
        "stage": case.stage,
        "rows": rows,
        "settings": fixed,
        "world": len(rows),
        "stock": stock,
    }


def run(jobs: list[dict[str, Any]], folder: Path) -> list[list[dict[str, Any]]]:
    """What each rank told of each job."""
    torch.save(jobs, folder / "jobs.pt")
    ranks = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", str(HERE / "ranks.py"), str(rank), "2", str(folder)],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, **CPU},
        )
        for rank in range(2)
    ]  # fmt: skip
    with (
        ThreadPoolExecutor() as pool
    ):  # a rank that is not read from would stop when its pipe is full
        said = list(pool.map(lambda process: process.communicate(timeout=600)[0], ranks))
    assert [process.returncode for process in ranks] == [0, 0], "\n".join(
        text[-3000:] for text in said
    )
    told = [torch.load(folder / f"rank_{rank}.pt", weights_only=False) for rank in range(2)]
    return [list(each) for each in zip(*told, strict=True)]


MIXED = [1.0, 0.1, 1.0, 1.0, 0.0, 0.1, 0.0, 0.0]
"""Scores: the last four rows, the second rank's, have no eligible one."""
BATCH = replace(SETTINGS, loss_mean="micro_batch", kl_clamp="none")
PLAIN = replace(SETTINGS, kl_coef=0.0)
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "padded": ({"scores": MIXED, "settings": SETTINGS}, {}),
    "micro_batch": ({"scores": [*MIXED[:6], 1.0, 0.0], "settings": BATCH}, {}),
    "none": (
        {"scores": [0.1] * 8, "settings": replace(SETTINGS, kl_estimator="forward")},
        {"budget": 100_000},
    ),
    "plain": ({"scores": MIXED, "settings": PLAIN}, {}),
    "stock": ({"scores": MIXED, "settings": PLAIN}, {"stock": True}),
    # A group fits into no pass, so that groups are cut; the second rank needs fewer passes.
    "budget": ({"scores": MIXED, "settings": SETTINGS, "longest": 60}, {"budget": 130}),
    "qwen3_vl": ({"scores": MIXED, "settings": SETTINGS}, {}),
    "qwen3_vl, few images": ({"scores": MIXED, "settings": SETTINGS, "images": 1}, {"budget": 100}),
    # Two passes of the first rank and one of the second have no image.
    "few images": ({"scores": MIXED, "settings": SETTINGS, "images": 1}, {"budget": 100}),
}
PADDED = ("padded", "vppo", "jsd, none detached")
_MASKED = {"picture": "masked", "ratio": 0.6}
TERMS: dict[str, tuple[Term, ...]] = {
    "k3, twin detached": (Term("image-only", "twin", "k3", 10.0, 0.5, "all"),),
    "reverse": (Term("image-only", "twin", "reverse", None, 0.5, "all"),),
    "forward, none detached": (Term("image-only", "none", "forward", 2.0, 0.5, "wrong"),),
    "jsd, none detached": (Term("image-only", "none", "jsd", None, 0.5, "all"),),
    "nll": (Term("image-only", "rollout", "nll", None, 0.5, "right"),),
    "text only": (Term("text-only", "twin", "reverse", None, 0.5, "all"),),
    "frozen": (Term("image-only", "twin", "reverse", None, 0.5, "all", teacher="frozen"),),
    "advantage": (Term("image-only", "twin", "reverse", 3.0, 0.5, "all", "advantage"),),
    "papo": (
        Term("", "none", "k3", 10.0, -0.3, "all", **_MASKED),  # type: ignore[arg-type]
        Term("", "rollout", "nll", None, 0.2, "all", **_MASKED),  # type: ignore[arg-type]
        Term(estimator="nll", coef=0.2, rows="all"),
    ),
    "vppo": (
        Term(
            "", "twin", "k3", 10.0, 1.0, "all", "weight", top=0.4, trajectory=0.9, **_MASKED
        ),  # type: ignore[arg-type]
        Term(estimator="nll", coef=0.06, rows="all"),
    ),
    "blank and noised": (
        Term("", "rollout", "jsd", None, 0.5, "all", picture="blank"),
        Term("", "twin", "reverse", None, 0.5, "all", picture="noised", ratio=0.3),
    ),
}  # fmt: skip
for _name, _terms in TERMS.items():
    # Whichever of the two the ranks' rows are: in passes of two rows, or cut by tokens.
    CASES[_name] = (
        {"scores": MIXED, "settings": PLAIN, "terms": _terms, "longest": 30},
        {"budget": 200},
    )
CASES["fixed rows"] = (
    {"scores": MIXED, "settings": BATCH, "terms": TERMS["papo"] + TERMS["reverse"]},
    {},
)
CASES["no policy loss"] = (
    {"scores": MIXED, "settings": PLAIN, "terms": TERMS["nll"], "policy_loss": False},
    {"budget": 200},
)
"""Name -> the rollouts and how they are trained on."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def told(folder: Path) -> dict[str, tuple[Any, list[dict[str, Any]]]]:
    """Of each case the local engine's figures and each rank's."""
    jobs, local = list[Any](), list[Any]()
    qwen3_vl = build_family("qwen3_vl", folder / "qwen3_vl")
    for name, (rollouts, how) in CASES.items():
        case = Case(**rollouts, model=qwen3_vl if name.startswith("qwen3_vl") else None)
        rows = case.rows()
        second = rows[4:]
        if name in PADDED:
            second = [*rows[4:6], padding(rows[0]), padding(rows[2])]
        jobs.append(job(case, [rows[:4], second], **how))
        local.append(case.local(6 if name in PADDED else 8))
    return dict(zip(CASES, zip(local, run(jobs, folder), strict=True), strict=True))


def norm_of(tensors: Iterable[torch.Tensor]) -> float:
    return float(torch.stack([tensor.norm() for tensor in tensors]).norm())


@pytest.mark.parametrize("name", CASES)
def test_the_first_update_is_the_local_engines(name: str, told: Any) -> None:
    """Loss, gradients and KL of a contrastive stage and of a plain one, to 1e-3 relative.

    Also where a rank has no eligible row, or a micro-batch no image.
    """
    (loss, grads, means), ranks = told[name]
    norm = norm_of(grads.values())
    got = ranks[0]["gradients"]
    assert set(got) == set(grads)
    scale = norm / norm_of(got.values())
    assert norm_of(scale * got[key] - grads[key] for key in grads) < 1e-3 * norm
    for rank in ranks:
        assert rank["engine"] == ("FSDPEngineWithLMHead" if name == "stock" else "TermsEngine")
        assert rank["loss"] == pytest.approx(loss, rel=1e-3) and rank["grad_norm"] == pytest.approx(
            norm, rel=1e-3
        )
        if name in ("plain", "stock") or case_terms(name):
            for metric in case_terms(name):
                assert rank["metrics"][metric] == pytest.approx(means[metric], rel=1e-3, abs=1e-5)
            assert (
                not {"contrastive_kl", "kl_clamped", "contrastive_kl_coef"} & rank["metrics"].keys()
            )
            continue
        assert rank["metrics"]["contrastive_kl"] == pytest.approx(
            means.get("contrastive_kl", 0.0), rel=1e-3
        )
        assert rank["metrics"]["kl_clamped"] == pytest.approx(
            means.get("kl_clamped", 0.0), abs=1e-6
        )
        assert rank["metrics"]["contrastive_kl_coef"] == 0.5


def case_terms(name: str) -> list[str]:
    """The metrics of a case's terms: each value and its clamped share."""
    count = len(CASES[name][0].get("terms") or ())
    return [f"term{n}{what}" for n in range(1, count + 1) for what in ("", "_clamped")]


def test_metrics_are_there_on_every_rank_and_count_all_of_them(told: Any) -> None:
    eligible = {
        name: [rank["metrics"].get("eligible_rows") for rank in ranks]
        for name, (_, ranks) in told.items()
        if not case_terms(name)
    }
    none = [None, None]
    assert eligible == {
        "padded": [3, 3], "micro_batch": [4, 4], "none": [0, 0], "plain": none, "stock": none,
        "budget": [3, 3], "few images": [3, 3], "qwen3_vl": [3, 3],
        "qwen3_vl, few images": [3, 3],
    }  # fmt: skip


def test_the_tower_sees_each_image_of_a_pass_once(told: Any) -> None:
    """Two samples of one prompt and their twins show one image; a blank one stands in where there
    is none.
    """
    images = {name: [rank["images"] for rank in ranks] for name, (_, ranks) in told.items()}
    fixed = [[1, 1], [1, 1]]
    assert {name: images[name] for name in ("padded", "micro_batch", "plain")} == dict.fromkeys(
        ("padded", "micro_batch", "plain"), fixed
    )
    assert images["none"] == [[2], [2]]
    assert images["stock"] == [[], []]


def test_all_ranks_make_the_same_number_of_passes(told: Any) -> None:
    for name in ("budget", "few images"):
        first, second = (len(rank["images"]) for rank in told[name][1])
        assert first == second > 1


def test_the_case_is_one_that_can_tell(told: Any) -> None:
    """The KL is no small part of the loss, and the clamp has work."""
    (loss, _, means), _ = told["padded"]
    assert 0.5 * means["contrastive_kl"] > 0.3 * abs(loss) and means["kl_clamped"] > 0
    assert told["micro_batch"][0][2]["contrastive_kl"] > 0


def test_a_checkpoint_of_two_ranks_becomes_a_model(told: Any, folder: Path, tmp_path: Path) -> None:
    """The weights of the two ranks, rounded to bf16; the package loads them with a processor."""
    whole = torch.load(folder / "weights.pt")
    out = merge(folder / "verl", tmp_path / "model", tiny_folder())
    merged = load_policy(out, device="cpu").model.state_dict()
    assert set(whole) == set(merged)
    assert all(torch.equal(whole[name].bfloat16().float(), merged[name].float()) for name in whole)
    assert {path.name for path in tiny_folder().iterdir()} - {
        path.name for path in out.iterdir()
    } == {"figures.json"}
    with pytest.raises(UserError, match="holds a model already"):
        merge(folder / "verl", out)


def test_a_checkpoint_of_verl_0_5_without_a_note_of_its_size(
    told: Any, folder: Path, tmp_path: Path
) -> None:
    actor = tmp_path / "actor"
    shutil.copytree(folder / "verl" / "global_step_1" / "actor", actor)
    (actor / "fsdp_config.json").unlink()
    assert main(["convert", str(actor), "--out", str(tmp_path / "model")]) == 0
    assert (tmp_path / "model" / "model.safetensors").stat().st_size > 10_000_000
    assert not (actor / "fsdp_config.json").exists()


# The parts


def test_positions_are_those_of_the_local_engine() -> None:
    from transformers import AutoConfig
    from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLModel

    from modgap.training.verl.plugin import TermsEngine

    case = Case([0.0] * 8, SETTINGS)
    processor: Any = SimpleNamespace(config=AutoConfig.from_pretrained(tiny_folder()))
    for name in ("get_rope_index", "get_vision_position_ids"):
        setattr(processor, name, MethodType(getattr(Qwen2_5_VLModel, name), processor))
    engine: Any = SimpleNamespace(model_config=SimpleNamespace(processor=processor))
    for row in case.rows():
        got = TermsEngine._positions(
            engine, row["input_ids"], row["multi_modal_inputs"]["image_grid_thw"]
        )
        assert torch.equal(got, row["position_ids"][1:])


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_a_group_stays_on_one_rank_and_in_one_mini_batch(ranks: int) -> None:
    from modgap.training.verl.plugin import whole_groups

    groups = [list(range(at, at + 3)) for at in range(0, 24, 3)]
    lengths = [10 + 7 * i % 40 for i in range(24)]
    parts = whole_groups(groups, lengths, 12, ranks)
    assert parts is not None and sorted(i for part in parts for i in part) == list(range(24))
    for batch in (0, 1):
        rows = [part[batch * 12 // ranks : (batch + 1) * 12 // ranks] for part in parts]
        assert {i // 12 for part in rows for i in part} == {batch}
        for part in rows:
            assert [i // 3 for i in part[::3]] == [i // 3 for i in part[2::3]]
        tokens = [sum(lengths[i] for i in part) for part in rows]
        if ranks == 2:
            assert max(tokens) < 1.2 * min(tokens)


def test_groups_that_do_not_divide_stay_as_verl_balanced_them() -> None:
    from modgap.training.verl.plugin import whole_groups

    assert whole_groups([[0, 1], [2, 3], [4, 5]], [9] * 6, 6, 2) is None
    assert whole_groups([[0, 1], [2]], [9] * 3, 3, 1) is None


def test_a_twin_shows_the_prompts_images() -> None:
    from modgap.training.verl.agent_loop import twin_messages

    shown = {"type": "image", "image": object()}
    raw = [{"role": "user", "content": [shown, {"type": "text", "text": "AB = 3. Find AB."}]}]
    got = twin_messages([{"role": "user", "content": "<image>Find AB."}], raw)
    assert got == [{"role": "user", "content": [shown, {"type": "text", "text": "Find AB."}]}]


async def stored_row(processor: Any, output: Any, **row: Any) -> dict[str, Any]:
    """What verl's own worker would put into the TransferQueue for a response."""
    from verl.trainer.ppo.v1 import agent_loop_tq

    found: list[dict[str, Any]] = []

    async def nothing(*_: Any, **__: Any) -> None:
        return None

    async def put(keys: Any, fields: Any, tags: Any, partition_id: str) -> None:
        names = list(fields.keys())  # a TensorDict is a sequence of rows
        found.append({key: fields[key][0] for key in names})

    worker = object.__new__(agent_loop_tq.AgentLoopWorkerTQ.__ray_metadata__.modified_class)
    worker.processor, worker.tokenizer, worker.mm_processor_kwargs = (
        processor, processor.tokenizer, {},
    )  # fmt: skip
    worker._compute_score = worker._compute_teacher_logprobs = nothing
    worker._compute_position_ids = lambda ids, *_: torch.zeros(1, 4, ids.shape[1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(agent_loop_tq.tq, "async_kv_batch_put", put)
        await worker._agent_loop_postprocess(
            output, False, uid="u", session_id=0, global_steps=1, **row
        )
    return found[0]


@pytest.mark.parametrize("variant", ["contrastive", "no-text", "twins"])
def test_the_agent_loop_tokenizes_as_the_local_engine_does(tmp_path: Path, variant: str) -> None:
    """From a parquet row through verl's data set and agent loop: the prompt's ids, and its twin's
    where it has one.
    """
    from verl.experimental.agent_loop.agent_loop import DictConfigWrap
    from verl.utils.dataset.rl_dataset import RLHFDataset
    from verl.workers.rollout.replica import TokenOutput

    from modgap.datasets.parquet import Beside, write_parquet
    from modgap.training.verl import agent_loop
    from modgap.training.verl.agent_loop import TwinAgentLoop
    from modgap.training.verl.config import Files, Model, stage_overrides
    from modgap.training.verl.plan import compose

    problem = Problem(
        id="p", question="Find AB.", answer="3.000", image=picture(1), semantic=("AB = 3", "BC = 4")
    )
    beside = Beside("image-only", ("full-text", "text-only")) if variant == "twins" else None
    name = "no-text" if beside else variant
    write_parquet([problem], tmp_path / "t.parquet", name, "aligned", beside=beside)
    (row,) = pq.read_table(tmp_path / "t.parquet").to_pylist()
    keys = SimpleNamespace(
        processor=True, image_key="images", video_key="videos", audio_key="audios"
    )
    raw = RLHFDataset._build_messages(keys, row, "prompt")

    class Data:  # qwen_vl_utils, which verl's own takes for this, needs torchvision
        @staticmethod
        async def process_vision_info(messages: Any, **named: Any) -> tuple[list[Any], None]:
            return [
                part["image"] for m in messages for part in m["content"] if part["type"] == "image"
            ], None

    class Server:
        async def generate(self, **named: Any) -> TokenOutput:
            return TokenOutput(token_ids=[7, 8, 2])

    files = Files(("t.parquet",), ("v.parquet",), "verl", "metrics.jsonl", "tensorboard")
    stage = Stage(("full-text",), contrastive=True, settings=SETTINGS)
    config = compose(stage_overrides(stage, Model(str(tiny_folder())), files, gpus=1))
    processor = processor_of(tiny_folder())

    async def one() -> Any:
        loop = TwinAgentLoop(
            trainer_config=DictConfigWrap(config), server_manager=Server(),
            tokenizer=processor.tokenizer, processor=processor, dataset_cls=Data,
            data_config=DictConfigWrap(config.data), hf_model_type="qwen2_5_vl",
        )  # fmt: skip
        prepared: list[Any] = []
        build = loop.continuous_token_builder.build_initial_tokens

        def counted(messages: Any, **named: Any) -> Any:
            prepared.append(messages)
            return build(messages, **named)

        loop.continuous_token_builder.build_initial_tokens = counted
        samples = [
            loop.run(
                {"temperature": 0.8}, raw_prompt=raw,
                contrastive_prompt=row.get("contrastive_prompt"),
                twin_prompts=row.get("twin_prompts"),
            )
            for _ in range(3)
        ]  # fmt: skip
        output, *_ = await asyncio.gather(*samples)
        assert len(prepared) == {"contrastive": 2, "twins": 3}.get(variant, 1), (
            "once for all samples"
        )
        return output

    agent_loop._IDS.clear()
    output = asyncio.run(one())
    encode = load_policy(tiny_folder(), device="cpu").encode
    shown = training_prompt(problem, "full-text" if variant == "contrastive" else "image-only")
    assert output.prompt_ids == encode(shown, problem.open_image()).input_ids.tolist()
    assert output.response_ids == [7, 8, 2] and output.response_mask == [1, 1, 1]
    stored = asyncio.run(stored_row(processor, output, raw_prompt=raw))
    media = stored["multi_modal_inputs"]
    assert media["pixel_bytes"].dtype == torch.uint8 and "pixel_values" not in media
    seen_by_the_actor = pixels_of(media, byte_table(processor.image_processor))
    assert seen_by_the_actor is not None
    torch.testing.assert_close(
        pixel_values([seen_by_the_actor]), encode(shown, problem.open_image()).pixel_values
    )
    assert len(pickle.dumps(stored)) < 2 * media["pixel_bytes"].numel()  # no image twice
    twins = output.extra_fields.get("twin_prompt_ids")
    free = encode(contrastive_prompt(problem), problem.open_image()).input_ids.tolist()
    full = encode(training_prompt(problem, "full-text"), problem.open_image()).input_ids.tolist()
    words = encode(training_prompt(problem, "text-only"), None).input_ids.tolist()
    assert (
        twins
        == {
            "contrastive": {"image-only": free},
            "no-text": None,
            "twins": {"full-text": full, "text-only": words},
        }[variant]
    )
    seen = output.extra_fields.get("rollout_view")
    assert seen == ("image-only" if variant == "twins" else None)
