"""The output of `modgap train --dry-run` for every engine: stages, settings, amounts and notes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field

from modgap.core.recipe import OF_THE_KL, Recipe, Stage
from modgap.training.shape import SHAPED


@dataclass(frozen=True, slots=True)
class Amount:
    """What a step needs of one resource: `memory: about 12 GiB (weights 4, activations 8)`.

    Attributes:
        name: The resource.
        parts: Part or phase -> amount.
        unit: Of all numbers; empty for a count.
        remark: The text after the parts.
    """

    name: str
    parts: Mapping[str, float]
    unit: str = ""
    remark: str = ""

    @property
    def total(self) -> float:
        """The sum of all parts."""
        return sum(self.parts.values())

    def __str__(self) -> str:
        total = f"about {short(self.total)} {self.unit}" if self.unit else short(self.total)
        parts = ", ".join(f"{name} {short(value)}" for name, value in self.parts.items())
        return f"{self.name}: {total} ({parts}){self.remark}"


@dataclass(frozen=True, slots=True)
class Costs:
    """What a step of a stage costs.

    Attributes:
        tokens: Responses and tokens of a step, in words.
        amounts: FLOPs, memory and, where they can be estimated, seconds.
        assumed: The assumptions behind the amounts; empty where they are upper bounds.
        notes: What does not fit, and what would be faster.
    """

    tokens: str
    amounts: tuple[Amount, ...]
    assumed: str = ""
    notes: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """The costs for a reader."""
        lines = [self.tokens, *map(str, self.amounts)]
        if self.assumed:
            lines.append(f"assumed: {self.assumed}")
        return [*lines, *(f"note: {note}" for note in self.notes)]


@dataclass(slots=True)
class StagePlan:
    """What one stage would do.

    Attributes:
        stage: The stage.
        settings: Every setting in force, one line for each.
        costs: What a step costs; `None` where the model's shape is not known.
        remark: The text after the title.
        notes: Warnings for the reader, beside the notes of the costs.
    """

    stage: Stage
    settings: Sequence[str]
    costs: Costs | None
    remark: str = ""
    notes: list[str] = field(default_factory=list[str])


def plan_lines(recipe: Recipe, model: str, stages: Iterable[StagePlan]) -> list[str]:
    """A plan for a reader.

    Args:
        recipe: Its settings resolved.
        model: The base model.
        stages: In order.
    """
    lines = [f"{recipe.name}: {recipe.summary}"]
    for number, plan in enumerate(stages, start=1):
        lines.append(f"stage {number}: {plan.stage.title}{plan.remark}")
        lines += [f"  {line}" for line in objective_lines(plan.stage)]
        if plan.costs is None:
            costs = [
                f"no estimate: the shape of {model} is not known here: give a folder of a model of"
                f" type {' or '.join(SHAPED)}"
            ]
        else:
            costs = plan.costs.lines()
        notes = [f"note: {note}" for note in plan.notes]
        lines += [f"  {line}" for line in (*plan.settings, *costs, *notes)]
    return lines


def objective_lines(stage: Stage) -> list[str]:
    """What a stage has beside the paper's settings: each term's values, the parts of its reward."""
    lines: list[str] = []
    if not stage.policy_loss:
        lines.append("policy_loss = false")
    if not stage.reward.plain:
        lines += [f"reward.{k} = {v:g}" for k, v in asdict(stage.reward).items()]
    for number, term in enumerate(stage.all_terms, start=1):
        values = asdict(term)
        if not term.twin:
            rolled = (term.rollout,) if term.rollout else stage.views
            values["twin"] = rolled[0] if len(rolled) == 1 else "the rollout's"
        if term.ratio is None:
            del values["seed"]  # nothing is drawn
        said = [f"{key}={value}" for key, value in values.items() if value not in (None, "")]
        name = f"term{number} ({', '.join(OF_THE_KL)})" if term.contrastive else f"term{number}"
        lines.append(f"{name}: {', '.join(said)}")
    return lines


def short(value: float) -> str:
    """A number with two significant digits, or rounded to an integer from 10 on."""
    return f"{value:,.0f}" if 10 <= value < 1e5 else f"{value:.2g}"
