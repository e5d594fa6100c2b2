r"""Supervised pretraining of the testbed model, from arrays to weights, in two phases.

Trained on problems alone, a small vision-language model learns the text side and never learns to
read. So first the vision tower gets dense supervision: a linear head on its merged tokens predicts
which characters and which points' vertices lie in which part of each 28 px cell (`glyphs`). Then
the whole model learns a mixture of tasks (`mixture`): listing all labels with their places (half of
the rows at first, fading out) and problems in several views, while the head's loss is kept with a
small weight.

This module knows only tensors and tasks' names; `modgap.testbed` makes the data and examines the
model. Weights are bf16 on a GPU with an fp32 master copy in the optimizer, fp32 on a CPU. Every
batch is a function of (seed, step).

Legend: N problems, B rows, S sequence, M merged tokens of an image, C channels of the language
model, D those of an image's features (C, and C more for each level of DeepStack), F features that
the head names.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modgap.core.progress import doing
from modgap.models.policy import Policy
from modgap.models.vision import encode_images

Phase = Literal["glyphs", "mixture"]


@dataclass(frozen=True)
class Corpus:
    """Training data on the device.

    Attributes:
        images: `[N, side, side]` uint8, grey.
        marks: `[N, K]` int32, numbers token * n_marks + feature of what the head should see, -1 on
            padding.
        n_marks: F, how many features the head names.
        flat: All token sequences, one after the other.
        start: `[N, sequences]` where each begins in `flat`; one more column gives its end.
        names: Names of the sequences.
        tasks: Task name to (sequence of the prompt, sequence of the target, whether an image is
            shown).
        image_at: Index of the first image placeholder in every prompt that shows an image.
    """

    images: Tensor
    marks: Tensor
    n_marks: int
    flat: Tensor
    start: Tensor
    names: tuple[str, ...]
    tasks: Mapping[str, tuple[str, str, bool]]
    image_at: int


@dataclass(frozen=True)
class Schedule:
    """One phase's budget.

    Attributes:
        steps: Steps of the whole phase; the learning rate falls along a cosine to 5% over them.
        batch: Rows a step.
        lr: Highest learning rate.
        warmup: Steps to reach it.
        weight_decay: AdamW's, for matrices only.
        mixture: Task name to its weight (`mixture` only).
        listing: Task that fades out, its share at the start, at the end, and the part of the steps
            over which it fades.
        marks_weight: Weight of the head's loss in `mixture`.
        seed: Of the batches.
    """

    steps: int
    batch: int = 256
    lr: float = 1e-3
    warmup: int = 150
    weight_decay: float = 0.02
    mixture: Mapping[str, float] = field(default_factory=dict)
    listing: tuple[str, float, float, float] = ("labels", 0.5, 0.04, 0.5)
    marks_weight: float = 0.1
    seed: int = 0


def patchify(images: Tensor, processor: Any) -> Tensor:
    """The patches that the processor makes of grey images.

    Args:
        images: `[B, side, side]` uint8.
        processor: The image processor.

    Returns:
        `[B * patches, 1176]`.
    """
    side, patch, merge = images.shape[1], processor.patch_size, processor.merge_size
    mean = torch.tensor(processor.image_mean, device=images.device)[:, None]
    std = torch.tensor(processor.image_std, device=images.device)[:, None]
    scaled = torch.arange(256, device=images.device) * processor.rescale_factor
    levels = (scaled - mean) / std  # [3, 256]
    cells = side // patch // merge
    x = images.view(-1, cells, merge, patch, cells, merge, patch).permute(0, 1, 4, 2, 5, 3, 6)
    x = x.reshape(-1, 1, 1, patch * patch).long()
    x = levels[torch.arange(3, device=images.device)[None, :, None, None], x]
    return x.expand(-1, 3, processor.temporal_patch_size, -1).reshape(x.shape[0], -1)


class MasterAdamW:
    """AdamW on fp32 copies of the weights, with a cosine schedule.

    The weights themselves may be bf16.
    """

    def __init__(self, groups: list[tuple[list[nn.Parameter], float]], schedule: Schedule) -> None:
        self.schedule = schedule
        self.model = [p for params, _ in groups for p in params]
        self.master = [p.detach().float().clone() for p in self.model]
        by_id = dict(zip(map(id, self.model), self.master, strict=True))
        settings: list[dict[str, Any]] = []
        for params, scale in groups:
            for matrices in (True, False):
                chosen = [by_id[id(p)] for p in params if (p.ndim > 1) == matrices]
                decay = schedule.weight_decay if matrices else 0.0
                settings.append(
                    {"params": chosen, "weight_decay": decay, "scale": scale, "lr": 0.0}
                )
        fused = self.master[0].device.type == "cuda"
        self.optimizer = torch.optim.AdamW(settings, betas=(0.9, 0.98), eps=1e-8, fused=fused)

    def rate(self, step: int) -> float:
        """Learning rate at a step, from 0."""
        s = self.schedule
        share = min(1.0, max(0.0, (step - s.warmup) / max(1, s.steps - s.warmup)))
        return (
            s.lr
            * min(1.0, (step + 1) / max(1, s.warmup))
            * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * share)))
        )

    def step(self, step: int) -> Tensor:
        """Update from the weights' gradients; returns their norm before clipping at 1."""
        grads = [p.grad if p.grad is not None else torch.zeros_like(p) for p in self.model]
        for master, grad in zip(self.master, grads, strict=True):
            master.grad = grad.float()
        norm = torch.nn.utils.clip_grad_norm_(self.master, 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(step) * group["scale"]
        self.optimizer.step()
        with torch.no_grad():
            for p, master in zip(self.model, self.master, strict=True):
                p.copy_(master)
                p.grad = None
        return norm


class Trainer:
    """One phase: model, head, optimizer, and the step.

    Args:
        policy: The model to train; its weights are changed in place.
        corpus: The data.
        phase: `glyphs` or `mixture`.
        schedule: The budget.
        head: The linear head of an earlier phase.
    """

    def __init__(
        self,
        policy: Policy,
        corpus: Corpus,
        phase: Phase,
        schedule: Schedule,
        head: nn.Linear | None = None,
    ) -> None:
        self.policy, self.corpus, self.phase, self.schedule = policy, corpus, phase, schedule
        self.width: int = policy.model.config.text_config.hidden_size
        self.head = head or new_head(self.width, corpus.n_marks, policy.device)
        trained = policy.visual if phase == "glyphs" else policy.model
        groups = [(list(trained.parameters()), 1.0), (list(self.head.parameters()), 1.0)]
        self.optimizer = MasterAdamW(groups, schedule)
        self.step = 0
        processor, side = policy.processor, corpus.images.shape[1]
        self._grid = (1, side // processor.patch_size, side // processor.patch_size)
        self._merged = self._grid[1] * self._grid[2] // processor.merge_size**2

    # ------------------------------------------------------------------ batches

    def _rng(self) -> np.random.Generator:
        return np.random.default_rng(
            [self.schedule.seed, self.step, 0 if self.phase == "glyphs" else 1]
        )

    def shares(self) -> dict[str, float]:
        """Share of each task at the present step."""
        task, first, last, over = self.schedule.listing
        done = min(1.0, self.step / max(1.0, over * self.schedule.steps))
        listing = first + (last - first) * done
        total = sum(self.schedule.mixture.values())
        return {
            task: listing,
            **{t: (1 - listing) * w / total for t, w in self.schedule.mixture.items()},
        }

    def _rows(self) -> tuple[Tensor, list[str]]:
        """Problems and tasks of this step's rows; rows with an image come first."""
        shares, rows = self.shares(), self.schedule.batch
        names = sorted(shares, key=lambda t: not self.corpus.tasks[t][2])
        bounds = np.rint(np.cumsum([shares[n] for n in names]) * rows).astype(int)
        counts = np.diff(bounds, prepend=0)
        problems = self._rng().integers(len(self.corpus.images), size=rows)
        tasks: list[str] = []
        for name, count in zip(names, counts, strict=True):
            tasks += [name] * int(count)
        return torch.from_numpy(problems).to(self.policy.device), tasks

    def _features(self, problems: Tensor) -> Tensor:
        """Merged tokens `[B, M, D]` of the problems' images."""
        if not len(problems):
            levels = len(getattr(self.policy.visual, "deepstack_merger_list", ()))
            return torch.zeros(
                0, self._merged, self.width * (1 + levels), dtype=self.policy.dtype,
                device=self.policy.device,
            )  # fmt: skip
        pixels = patchify(self.corpus.images[problems], self.policy.processor).to(self.policy.dtype)
        return torch.stack(encode_images(self.policy.visual, pixels, [self._grid] * len(problems)))

    def _marks(self, problems: Tensor) -> Tensor:
        """The head's targets, `[B, M, F]` of 0 and 1."""
        codes = self.corpus.marks[problems].long()
        size = self._merged * self.corpus.n_marks
        target = torch.zeros(len(problems), size + 1, device=codes.device)
        target.scatter_(1, torch.where(codes < 0, size, codes), 1.0)
        return target[:, :size].view(len(problems), self._merged, self.corpus.n_marks)

    def marks_loss(self, features: Tensor, problems: Tensor) -> tuple[Tensor, Tensor]:
        """Cross-entropy for each true mark, and (recall, precision)."""
        logits = self.head(features[..., : self.width].float())
        target = self._marks(problems)
        loss = F.binary_cross_entropy_with_logits(logits, target, reduction="sum") / target.sum()
        said = logits.detach() > 0
        hits = (said * target).sum()
        return loss, torch.stack((hits / target.sum(), hits / said.sum().clamp_min(1)))

    def _language_loss(self, problems: Tensor, tasks: list[str], features: Tensor) -> Tensor:
        """Cross-entropy in fp32 of the targets' tokens."""
        c, device = self.corpus, problems.device
        column = {name: i for i, name in enumerate(c.names)}
        which = torch.tensor(
            [[column[c.tasks[t][0]], column[c.tasks[t][1]]] for t in tasks], device=device
        )
        begin, end = c.start[problems[:, None], which], c.start[problems[:, None], which + 1]
        length = end - begin
        prompt_B1, target_B1 = length[:, :1], length[:, 1:]
        width = int((length.sum(1) - 1).max())
        width = -(-width // 32) * 32
        j = torch.arange(width, device=device)[None]
        source = torch.where(j < prompt_B1, begin[:, :1] + j, begin[:, 1:] + j - prompt_B1)
        ids = torch.where(
            j < prompt_B1 + target_B1 - 1, c.flat[source.clamp_max(len(c.flat) - 1)].long(), 0
        )
        scored = (j >= prompt_B1 - 1) & (j < prompt_B1 + target_B1 - 1)
        wanted = c.flat[
            (source + 1 + torch.where(j == prompt_B1 - 1, begin[:, 1:] - end[:, :1], 0))[scored]
        ].long()

        embeds = self.policy.decoder.embed_tokens(ids)
        shown = features.shape[0]
        at = c.image_at
        image, *deep = features.to(embeds.dtype).split(self.width, dim=-1)
        after = embeds[:shown, at + self._merged :]
        with_image = torch.cat((embeds[:shown, :at], image, after), dim=1)
        embeds = torch.cat((with_image, embeds[shown:]))
        hidden = self.policy.decoder(
            inputs_embeds=embeds,
            position_ids=self._positions(len(tasks), shown, width, device),
            attention_mask=None,
            use_cache=False,
            **self._deep(deep, len(tasks), shown, width),
        ).last_hidden_state
        return F.cross_entropy(self.policy.head(hidden[scored]).float(), wanted)

    def _deep(self, deep: Sequence[Tensor], rows: int, shown: int, width: int) -> dict[str, Any]:
        """What the decoder of a Qwen3-VL adds after its first layers, and where; else nothing."""
        if not deep or not shown:
            return {}
        is_image = torch.zeros(rows, width, dtype=torch.bool, device=self.policy.device)
        is_image[:shown, self.corpus.image_at : self.corpus.image_at + self._merged] = True
        added = [level.flatten(0, 1) for level in deep]
        return {"visual_pos_masks": is_image, "deepstack_visual_embeds": added}

    def _positions(self, rows: int, shown: int, width: int, device: torch.device) -> Tensor:
        """M-RoPE positions `[3, B, S]`.

        The first rows show an image, which begins at the same place in all of them.
        """
        plain = torch.arange(width, device=device).expand(3, width)
        side = self._grid[1] // self.policy.processor.merge_size
        place = torch.arange(self._merged, device=device)
        image = (
            torch.stack((torch.zeros_like(place), place // side, place % side))
            + self.corpus.image_at
        )
        after = plain[:, self.corpus.image_at + self._merged :] - self._merged + side
        seen = torch.cat((plain[:, : self.corpus.image_at], image, after), dim=1)
        return torch.stack([seen] * shown + [plain] * (rows - shown), dim=1)

    # ------------------------------------------------------------------ training

    def update(self) -> dict[str, Tensor]:
        """One step; returns what to log, still on the device."""
        problems, tasks = self._rows()
        log: dict[str, Tensor] = {}
        if self.phase == "glyphs":
            loss, log["marks"] = self.marks_loss(self._features(problems), problems)
        else:
            shown = sum(self.corpus.tasks[t][2] for t in tasks)
            features = self._features(problems[:shown])
            loss = self._language_loss(problems, tasks, features)
            log["language"] = loss.detach()
            if self.schedule.marks_weight and shown:
                marks, log["marks"] = self.marks_loss(features, problems[:shown])
                loss = loss + self.schedule.marks_weight * marks
        loss.backward()
        log["norm"] = self.optimizer.step(self.step)
        log["loss"] = loss.detach()
        self.step += 1
        return log

    def run(
        self,
        minutes: float = math.inf,
        report: Callable[[int, dict[str, float]], None] | None = None,
        report_every: int = 50,
        visit: Callable[[int], object] | None = None,
        visit_every: int = 500,
    ) -> bool:
        """Train until the phase's steps or the minutes are over.

        Args:
            minutes: Time for this call, visits included.
            report: Called with the step and its losses.
            report_every: Steps between reports.
            visit: Called with the step at regular intervals and at the end, to evaluate or save.
            visit_every: Steps between visits.

        Returns:
            Whether the phase is complete.
        """
        begun = time.monotonic()
        self.policy.model.train()
        while self.step < self.schedule.steps and time.monotonic() - begun < 60 * minutes:
            doing(f"step {self.step + 1} of {self.schedule.steps}")
            log = self.update()
            if report is not None and (
                self.step % report_every == 0 or self.step == self.schedule.steps
            ):
                numbers = {k: v.item() for k, v in log.items() if v.ndim == 0}
                if "marks" in log:
                    numbers["recall"], numbers["precision"] = log["marks"].tolist()
                report(self.step, numbers)
            if visit is not None and (
                self.step % visit_every == 0 or self.step == self.schedule.steps
            ):
                visit(self.step)
                self.policy.model.train()
        return self.step >= self.schedule.steps

    def save(self, path: Path) -> None:
        """Write all that `load` needs for a bit-equal resume, whole or not at all."""
        state = {
            "phase": self.phase,
            "step": self.step,
            "master": self.optimizer.master,
            "optimizer": self.optimizer.optimizer.state_dict(),
        }
        torch.save(state, path.with_suffix(".part"))
        path.with_suffix(".part").replace(path)

    def load(self, path: Path) -> None:
        """Resume from a state that `save` wrote in the same phase."""
        state = torch.load(path, map_location=self.policy.device, weights_only=True)
        assert state["phase"] == self.phase, "a state belongs to one phase"
        self.step = state["step"]
        self.optimizer.optimizer.load_state_dict(state["optimizer"])
        with torch.no_grad():
            for p, master, saved in zip(
                self.optimizer.model, self.optimizer.master, state["master"], strict=True
            ):
                master.copy_(saved)
                p.copy_(saved)


def new_head(width: int, n_marks: int, device: torch.device) -> nn.Linear:
    """The linear head of the first phase, in fp32; it starts from "nothing is there"."""
    head = nn.Linear(width, n_marks)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        head.weight.normal_(std=0.02)
        head.bias.fill_(-7.0)
    return head.to(device)
