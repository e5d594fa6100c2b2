"""The part of a step before the update: the order of the data, sampled responses, their rewards.

Differences from the original: the order is a pure function of (seed, epoch), so only one number
must be saved (how many prompts have been drawn); a step draws somewhat more prompts than it
expects to need, not a whole batch; prompts that are too long are left out when they are drawn.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from modgap.analysis.transcription import share_read
from modgap.core.engine import sample_seed
from modgap.core.errors import UserError, raised
from modgap.core.places import RESTORE
from modgap.core.problem import Problem
from modgap.core.progress import doing
from modgap.core.prompt import Prompt, Style, structural_conditions, training_prompt, twin_prompt
from modgap.core.recipe import Settings, Stage
from modgap.core.rows import RolloutRow, iter_rows
from modgap.core.terms import Twin
from modgap.training.events import Sampled, TrainablePolicy
from modgap.training.objective import group_advantages, has_spread, overlong_penalty, right_rows
from modgap.training.pictures import pictured

MOST_DRAWN = 3
"""A step draws at most this many times `prompts_per_step` at once."""
NOTHING_TO_READ = 1.0
"""What is rewarded where there is nothing to read: the same for all samples of the problem."""


class Scored(Protocol):
    """A reward and its parts, as `modgap.grading.answer.reward` gives it."""

    @property
    def score(self) -> float:
        """The reward; 1.0 is correct and well formatted."""
        ...

    @property
    def acc(self) -> float:
        """1.0 if correct."""
        ...

    @property
    def format(self) -> float:
        """1.0 if well formatted."""
        ...


RewardFunction = Callable[[str, str], "Scored | Mapping[str, Any] | float"]
"""(response, gold answer) -> a reward: a number, or an object or mapping with `score` and
optionally `acc` and `format`. If these are absent, a response with score 1 counts as correct and
well formatted."""


def hold_out(problems: Sequence[Problem], count: int) -> tuple[list[Problem], list[Problem]]:
    """Split off problems for validation: those whose hashed ids come first, at most a fifth of all.

    The choice depends neither on the order nor on the seed, the stage or the recipe, so recipes can
    be compared on these problems.

    Returns:
        (train, held out)
    """
    count = min(count, len(problems) // 5)
    ranked = sorted(problems, key=lambda problem: hashlib.sha256(problem.id.encode()).digest())
    chosen = {problem.id for problem in ranked[:count]}
    return [p for p in problems if p.id not in chosen], [p for p in problems if p.id in chosen]


def check_rollouts(folder: Path, number: int, stage: Stage, problems: Sequence[Problem]) -> None:
    """Refuse a stage whose first recorded rollout cannot be one of its own.

    Args:
        folder: The stage's folder.
        number: The stage's number in its recipe.
        stage: The stage.
        problems: The problems it trains on.

    Raises:
        UserError: The rollouts are of another run: other problems, views or seeds.
    """
    row = next(iter_rows(folder / "rollouts.jsonl", RolloutRow), None)
    if row is None:
        return
    seed = stage.settings.seed
    # The first prompt that is short enough is drawn in the first epoch.
    draws = (
        sample_seed(seed, f"stage{number}", "draw", at)
        for at in range(len(problems) * len(stage.views))
    )
    why = ""
    if row.problem_id not in {problem.id for problem in problems}:
        why = "it does not train on this problem"
    elif row.view not in stage.views:
        why = f"its views are {', '.join(stage.views)}"
    elif row.seed and all(
        row.seed != sample_seed(draw, row.problem_id, row.view, row.sample) for draw in draws
    ):
        why = f"its seed does not follow from the run's seed {seed}"
    if why:
        raise UserError(
            f"{folder / 'rollouts.jsonl'} is of another run than the manifest.json beside it: line"
            f" 1 ({row.problem_id}, {row.view}, sample {row.sample}): {why}. Remedy: {RESTORE}."
        )


class DataOrder:
    """Shuffled epochs over (problem, view) pairs; an epoch has each problem once in each view.

    Args:
        problems: The problems to train on.
        views: The stage's views.
        seed: Of the shuffling.
    """

    def __init__(self, problems: Sequence[Problem], views: Sequence[str], seed: int) -> None:
        self.problems = problems
        self.items = [(problem, view) for view in views for problem in problems]
        self._seed = seed

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, position: int) -> tuple[Problem, str]:
        """The item drawn at a position; positions start at 0 and have no end."""
        epoch, at = divmod(position, len(self.items))
        return self.items[_permutation(len(self.items), self._seed, epoch)[at]]


@lru_cache(maxsize=4)
def _permutation(n: int, seed: int, epoch: int) -> list[int]:
    generator = torch.Generator().manual_seed(sample_seed(seed, "epoch", "", epoch))
    return torch.randperm(n, generator=generator).tolist()


@dataclass(slots=True)
class Group:
    """One prompt with its sampled responses. N samples.

    Attributes:
        problem: The problem.
        view: The view of the prompt.
        words: The prompt.
        prompt: The prompt, encoded.
        twins: For each of the stage's twins this prompt's, encoded; `None` where no term uses it.
        seeds: Seeds of the samples.
        responses: The samples.
        scores_N: Rewards before the overlong penalty.
        acc_N: 1.0 where correct.
        format_N: 1.0 where well formatted.
        right_N: Whether the answer's reward is 1.0.
        reading_N: Share of the conditions that each sample reads, NaN where there is nothing to
            read; empty where it is not rewarded.
        rewards_N: Final rewards.
    """

    problem: Problem
    view: str
    words: Prompt
    prompt: Any
    twins: tuple[Any, ...]
    seeds: list[int]
    responses: Sequence[Sampled] = ()
    scores_N: Tensor = field(default_factory=lambda: torch.zeros(0))
    acc_N: Tensor = field(default_factory=lambda: torch.zeros(0))
    format_N: Tensor = field(default_factory=lambda: torch.zeros(0))
    right_N: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.bool))
    reading_N: Tensor = field(default_factory=lambda: torch.zeros(0))
    rewards_N: Tensor = field(default_factory=lambda: torch.zeros(0))

    @property
    def mixed(self) -> bool:
        """Whether its rewards differ; otherwise all its advantages are zero."""
        return bool(has_spread(self.rewards_N[None])[0])

    def forget(self) -> None:
        """Free the encoded prompts with their pixels; the words stay, for the log."""
        self.prompt, self.twins = None, ()


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of responses, ready for an update.

    Attributes:
        prompts: B encoded prompts (rows of one group share the object).
        twins: For each row its prompt of each of the stage's twins, or `None`.
        views: B views.
        responses: B token sequences.
        advantages_B: One for each row.
        right_B: Rows whose answer's reward is 1.0.
        old_logps: B log-probability sequences before the first update; `None` for an on-policy
            update.
    """

    prompts: list[Any]
    twins: list[tuple[Any, ...]]
    views: list[str]
    responses: list[Tensor]
    advantages_B: Tensor
    right_B: Tensor
    old_logps: list[Tensor] | None = None

    def __len__(self) -> int:
        return len(self.prompts)

    @classmethod
    def of(cls, groups: Sequence[Group]) -> Batch:
        """The rows of groups, with their advantages."""
        prompts: list[Any] = []
        twins: list[tuple[Any, ...]] = []
        views: list[str] = []
        responses: list[Tensor] = []
        for group in groups:
            # Rows of a group share these objects, and with them their computation.
            prompts += [group.prompt] * len(group.responses)
            twins += [group.twins] * len(group.responses)
            views += [group.view] * len(group.responses)
            responses += [response.token_ids for response in group.responses]
        advantages = [group_advantages(group.rewards_N[None])[0] for group in groups]
        right = [group.right_N for group in groups]
        return cls(prompts, twins, views, responses, torch.cat(advantages), torch.cat(right))


class Roller:
    """Draws prompts, samples responses to them and rewards them.

    Args:
        policy: The model that is trained.
        order: The order of the prompts.
        stage: The stage.
        number: Its number in the recipe, from 1.
        style: The words' style.

    Attributes:
        position: Prompts drawn so far.
        too_long: Prompts left out since this was last set to zero.
    """

    def __init__(
        self, policy: TrainablePolicy, order: DataOrder, stage: Stage, number: int, style: Style
    ) -> None:
        self.position = 0
        self.too_long = 0
        self._policy, self._order, self._stage, self._number = policy, order, stage, number
        self._style: Style = style
        self._twins = stage.twins
        self._others: dict[str, Problem] = {}
        if any(twin.picture == "swapped" for twin in self._twins):
            self._others = with_other_pictures(order.problems)

    @property
    def epoch(self) -> float:
        """Epochs of the data drawn so far."""
        return self.position / len(self._order)

    def draw(self, count: int) -> list[Group]:
        """The next prompts in the data order, without those that are too long.

        Raises:
            UserError: A whole epoch has no prompt that is short enough.
        """
        settings = self._stage.settings
        groups: list[Group] = []
        passed = 0
        while len(groups) < count:
            doing(f"prompt {len(groups) + 1} of {count}")
            problem, view = self._order[self.position]
            words = training_prompt(problem, view, self._style, contrastive=self._stage.paired)
            image = problem.open_image() if words.has_image else None
            prompt = self._policy.encode(words, image)
            draw_seed = sample_seed(settings.seed, f"stage{self._number}", "draw", self.position)
            self.position += 1
            if len(prompt.input_ids) > settings.max_prompt_tokens:
                self.too_long += 1
                passed += 1
                if passed >= len(self._order):
                    raise UserError(
                        "every prompt is longer than"
                        f" max_prompt_tokens={settings.max_prompt_tokens} ({problem.id} has"
                        f" {len(prompt.input_ids)} tokens): give a larger one with --set."
                    )
                continue
            passed = 0
            twins = tuple(self._twin(twin, problem, view, prompt) for twin in self._twins)
            seeds = [
                sample_seed(draw_seed, problem.id, view, n)
                for n in range(settings.samples_per_prompt)
            ]
            groups.append(Group(problem, view, words, prompt, twins, seeds))
        return groups

    def _twin(self, twin: Twin, problem: Problem, view: str, prompt: Any) -> Any:
        """A prompt's twin, encoded; `None` if no term uses it for this view."""
        used = (term for term in self._stage.objective if term.scored == twin)
        if all(term.rollout not in ("", view) for term in used):
            return None
        if twin.view and twin.view != view:
            words = twin_prompt(problem, view, twin.view, self._style)
        elif twin.picture != "swapped":
            words = None
        else:
            words = training_prompt(problem, view, self._style, contrastive=self._stage.paired)
        if words is not None:
            shown = self._others[problem.id] if twin.picture == "swapped" else problem
            image = shown.open_image() if words.has_image else None
            prompt = self._policy.encode(words, image)
        if twin.picture in ("own", "swapped"):
            return prompt
        return pictured(prompt, twin, self._policy.bytes_seen)

    def sample(self, groups: Sequence[Group], max_rows: int | None = None) -> None:
        """Sample each group's responses."""
        settings = self._stage.settings
        sampled = self._policy.generate(
            [group.prompt for group in groups],
            [group.seeds for group in groups],
            settings.temperature,
            settings.max_response_tokens,
            max_rows,
        )
        for group, responses in zip(groups, sampled, strict=True):
            group.responses = responses

    def grade(self, groups: Sequence[Group], reward: RewardFunction) -> None:
        """Reward each response, then add the overlong penalty."""
        settings, made_of = self._stage.settings, self._stage.reward
        for group in groups:
            parts = [
                score(reward, response.text, group.problem.answer) for response in group.responses
            ]
            answers_N, group.acc_N, group.format_N = torch.tensor(parts).unbind(1)
            group.right_N = right_rows(answers_N)
            group.scores_N = answers_N if made_of.plain else made_of.answer * answers_N
            if made_of.reading:
                group.reading_N = self._reading(group)
                group.scores_N = group.scores_N + made_of.reading * group.reading_N.nan_to_num(
                    nan=NOTHING_TO_READ
                )
            lengths_N = torch.tensor([len(response.token_ids) for response in group.responses])
            group.rewards_N = group.scores_N + overlong_penalty(
                lengths_N,
                settings.max_response_tokens,
                settings.overlong_buffer,
                settings.overlong_penalty,
            )

    def _reading(self, group: Group) -> Tensor:
        problem = group.problem
        known = (*structural_conditions(problem, self._style), *problem.semantic)
        texts = [response.text for response in group.responses]
        shares = [share_read(text, known, problem.question) for text in texts]
        return torch.tensor([math.nan if share is None else share for share in shares])


def with_other_pictures(problems: Sequence[Problem]) -> dict[str, Problem]:
    """Problem -> the next one with another picture, for the twins' picture `swapped`.

    Raises:
        UserError: All have the same picture.
    """
    out: dict[str, Problem] = {}
    for number, problem in enumerate(problems):
        others = (problems[(number + step) % len(problems)] for step in range(1, len(problems)))
        other = next((p for p in others if p.image is not None and p.image != problem.image), None)
        if other is None:
            raise UserError(
                "picture=swapped needs at least two problems with different diagrams to train on."
            )
        out[problem.id] = other
    return out


def score(reward: RewardFunction, response: str, gold: str) -> tuple[float, float, float]:
    """(score, acc, format) of a response.

    Raises:
        UserError: The function raised an error or gave no finite number; the message names it and
            what it did.
    """
    # An object that is called has no name of its own.
    qualified = getattr(reward, "__qualname__", type(reward).__qualname__)
    name = f"{getattr(reward, '__module__', '')}:{qualified}"
    try:
        given = reward(response, gold)
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"the reward function {name} raised {raised(error)} for the gold answer {gold[:40]!r}"
            f" and the response {response[:80]!r}: correct it; the same command then resumes."
        ) from error
    if isinstance(given, Mapping):
        parts = [given.get(name) for name in ("score", "acc", "format")]
    elif hasattr(given, "score"):
        parts = [getattr(given, name, None) for name in ("score", "acc", "format")]
    else:
        parts = [given, None, None]
    try:
        if any(isinstance(part, str | bytes) for part in parts):
            raise TypeError
        total = float(parts[0])  # type: ignore[arg-type]
        acc, form = (float(total >= 1.0) if part is None else float(part) for part in parts[1:])
        if not all(map(math.isfinite, (total, acc, form))):
            raise ValueError
    # float() of a tensor of several numbers raises RuntimeError.
    except (TypeError, ValueError, OverflowError, RuntimeError):
        raise UserError(
            f"the reward function {name} gave {repr(given)[:80]}: it must return a finite number,"
            " or an object or mapping with the number as score (and optionally acc and format)."
        ) from None
    return total, acc, form


def draw_size(settings: Settings, kept: int, sampled: int, before: float = 1.0) -> int:
    """How many prompts to draw so that as many groups are mixed as the step still needs.

    The expected share of mixed groups is the share that this step has kept so far; before its first
    group it is that of the previous step. Large draws save time: a GPU takes hardly longer for
    twice the prompts, but each additional draw takes as long as its longest response. So one
    standard deviation more groups are expected to be mixed than are needed: with a share of 0.42
    and 64 prompts a step has 0.24 refills in the mean instead of 0.59, for 6% more samples. A step
    starts with at most `MOST_DRAWN` times its prompts, as the authors of DAPO do, and each refill
    draws at most `prompts_per_step`.

    Args:
        settings: Of the stage.
        kept: Groups that this step has kept.
        sampled: Groups that it has sampled.
        before: Share of its groups that the previous step kept.
    """
    most = settings.prompts_per_step * (1 if sampled else MOST_DRAWN)
    rate = max(kept / sampled if sampled else before, 1 / most)
    # Of m groups m * rate are mixed, with a variance of m * rate * (1 - rate).
    spread = math.sqrt(rate * (1 - rate))
    missing = settings.prompts_per_step - kept
    root = (spread + math.sqrt(spread**2 + 4 * rate * missing)) / (2 * rate)
    return min(most, math.ceil(root**2 - 1e-9))
