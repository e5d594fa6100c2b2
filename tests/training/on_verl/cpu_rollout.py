"""A whole training on verl without a GPU, for tests only: what stands in for vLLM, torchvision and
NCCL.

    VERL_USE_EXTERNAL_MODULES=cpu_platform,cpu_rollout, actor_rollout_ref.rollout.name=generate

The rollout replica is a Ray actor that calls `generate` of transformers; it gets the actor's
weights after each step as vLLM does, through the worker's adapter. Everything else is verl's: V1
trainer, TransferQueue, agent loops, reward workers, FSDP2 engine, checkpoints.
"""

from __future__ import annotations

import asyncio
import sys
import types
from collections.abc import Iterable
from typing import Any

import ray
import torch
import transformers
from cpu_processor import processor_of
from verl.workers.rollout.base import _ROLLOUT_REGISTRY, BaseRollout
from verl.workers.rollout.replica import RolloutReplica, RolloutReplicaRegistry, TokenOutput

NAME = "generate"
QUIET = 0.1
"""Seconds without a new request after which the waiting ones are a batch."""


class Server:
    """One model; requests that come together are sampled together."""

    def __init__(self, folder: str, seed: int, length: int) -> None:
        torch.manual_seed(seed)
        torch.set_num_threads(1)
        self.model = transformers.AutoModelForImageTextToText.from_pretrained(
            folder, dtype=torch.float32
        ).eval()
        self.processor = processor_of(folder)
        self.length = length
        self.steps = -1
        self.waiting: list[tuple[Any, asyncio.Future[TokenOutput]]] = []
        self.running: asyncio.Task[None] | None = None

    async def update(self, weights: dict[str, torch.Tensor], steps: int) -> None:
        """Take the actor's weights, all of them."""
        from verl.utils.model import convert_weight_keys

        own = self.model.state_dict()
        named = dict(
            zip(convert_weight_keys(own, self.model), own, strict=True)
        )  # as verl sends them -> as they are
        assert set(named) == set(weights), set(named) ^ set(weights)
        self.model.load_state_dict({named[name]: value for name, value in weights.items()})
        self.steps = steps

    async def generate(
        self, prompt_ids: list[int], sampling_params: dict[str, Any], image_data: Any, **_: Any
    ) -> Any:
        """Sample one response."""
        answer: asyncio.Future[TokenOutput] = asyncio.get_running_loop().create_future()
        self.waiting.append(((prompt_ids, sampling_params, image_data), answer))
        if self.running is None:
            self.running = asyncio.create_task(self.work())
        return await answer

    async def work(self) -> None:
        """Answer all that waits."""
        while self.waiting:
            known = 0
            while known < len(self.waiting):
                known = len(self.waiting)
                await asyncio.sleep(QUIET)
            temperature = self.waiting[0][0][1]["temperature"]
            batch = [each for each in self.waiting if each[0][1]["temperature"] == temperature]
            self.waiting = [
                each for each in self.waiting if each[0][1]["temperature"] != temperature
            ]
            try:
                responses = await asyncio.to_thread(
                    self.sample, [request for request, _ in batch], temperature
                )
                for (_, answer), (tokens, log_probs) in zip(batch, responses, strict=True):
                    output = TokenOutput(
                        token_ids=tokens, log_probs=log_probs, stop_reason="completed"
                    )
                    output.extra_fields["global_steps"] = self.steps
                    answer.set_result(output)
            except Exception as error:
                for _, answer in batch:
                    answer.set_exception(error)
        self.running = None

    @torch.inference_mode()
    def sample(
        self, requests: list[Any], temperature: float
    ) -> list[tuple[list[int], list[float]]]:
        """The responses to a batch of prompts, padded on the left, and the log-probabilities of
        their tokens.
        """
        width = max(len(ids) for ids, _, _ in requests)
        eos = self.processor.tokenizer.eos_token_id
        ids = torch.tensor([[eos] * (width - len(ids)) + list(ids) for ids, _, _ in requests])
        mask = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids, _, _ in requests])
        images = [image for _, _, images in requests for image in images or ()]
        seen = self.processor.image_processor(images, return_tensors="pt")
        placeholders = [self.processor.image_token_id, self.processor.video_token_id]
        out = self.model.generate(
            input_ids=ids, attention_mask=mask, mm_token_type_ids=(ids == placeholders[0]).long(),
            **seen, max_new_tokens=self.length, suppress_tokens=placeholders, pad_token_id=eos,
            eos_token_id=eos, output_scores=True, return_dict_in_generate=True,
            **(
                {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature
                else {"do_sample": False}
            ),
        )  # fmt: skip
        log_probs = self.model.compute_transition_scores(
            out.sequences, out.scores, normalize_logits=True
        ).tolist()
        tokens = out.sequences[:, width:].tolist()
        ends = [row.index(eos) + 1 if eos in row else len(row) for row in tokens]
        return [
            (row[:end], probs[:end])
            for row, probs, end in zip(tokens, log_probs, ends, strict=True)
        ]

    async def clear_kv_cache(self) -> None:
        pass

    sleep = wake_up = wait_for_requests_to_drain = clear_kv_cache


class Replica(RolloutReplica):
    """The server of a replica."""

    async def launch_servers(self) -> None:
        self._server_address = f"{NAME}_{self.replica_rank}"
        self._server_handle = (
            ray.remote(Server)
            .options(name=self._server_address, num_cpus=1, max_concurrency=1000)
            .remote(
                self.model_config.path,
                self.config.seed + self.replica_rank,
                self.config.response_length,
            )
        )
        self.servers = [self._server_handle]


class Adapter(BaseRollout):
    """In the actor's worker: hands its weights to the server."""

    async def resume(self, tags: list[str]) -> None:
        pass

    async def release(self) -> None:
        pass

    async def update_weights(
        self, weights: Iterable[tuple[str, torch.Tensor]], global_steps: int | None = None, **_: Any
    ) -> None:
        sent = {
            name: value.detach().float().clone() for name, value in weights
        }  # of all ranks: a collective
        if (rank := torch.distributed.get_rank()) % self.config.tensor_model_parallel_size == 0:
            server = ray.get_actor(f"{NAME}_{rank // self.config.tensor_model_parallel_size}")
            await server.update.remote(sent, global_steps)


_ROLLOUT_REGISTRY[NAME, "async"] = f"{__name__}.Adapter"
RolloutReplicaRegistry.register(NAME, lambda: Replica)


# torch refuses verl's "cpu:gloo,cpu:gloo".
_init = torch.distributed.init_process_group


def one_backend(backend: str | None = None, *arguments: Any, **named: Any) -> None:
    _init("gloo" if backend == "cpu:gloo,cpu:gloo" else backend, *arguments, **named)


torch.distributed.init_process_group = one_backend
transformers.AutoProcessor.from_pretrained = staticmethod(lambda folder, **_: processor_of(folder))


# qwen_vl_utils needs torchvision, too; images that are open already are all that the recipes have.
def process_vision_info(messages: Any, **_: Any) -> tuple[list[Any], None]:
    return [
        part["image"] for turn in messages for part in turn["content"] if part["type"] == "image"
    ], None


sys.modules["qwen_vl_utils"] = types.ModuleType("qwen_vl_utils")
sys.modules["qwen_vl_utils"].process_vision_info = process_vision_info
