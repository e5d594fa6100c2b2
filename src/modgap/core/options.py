"""The options of the commands and of the functions behind them; each is declared once, here.

A frozen dataclass is both the parameters of a command (`cyclopts` flattens it, and takes the help
from `Attributes:`) and the argument of the workflow. Imports nothing heavy: `modgap --help` loads
this module.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter, Token

from modgap.core import registry
from modgap.core.errors import UserError, unknown
from modgap.core.installation import require
from modgap.core.prompt import Style, check_style
from modgap.core.secrets import check_name
from modgap.core.view import CONTROLS, DEFAULT_VIEWS, View, parse_views

Temperature = float | Literal["model"] | None
EngineArgs = Annotated[
    tuple[str, ...], Parameter(name="--engine-arg", negative=(), consume_multiple=True)
]
AllowOutside = Annotated[bool, Parameter(negative=())]
Log = Annotated[
    tuple[Literal["tensorboard", "wandb"], ...],
    Parameter(name="--log", negative=(), consume_multiple=True),
]
Set = Annotated[tuple[str, ...], Parameter(name="--set", negative=(), consume_multiple=True)]

JUDGE_CHECK = 200
"""The default number of answers that the rules decided and a judge is asked about as well."""
JUDGE_SEED = 42
"""The default seed of their choice."""


def flag(name: str) -> str:
    """The option of the command line that sets a field."""
    return {"engine_args": "--engine-arg"}.get(name, "--" + name.replace("_", "-"))


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class EvalOptions:
    """How to evaluate; the options of `modgap eval`.

    Attributes:
        views: Comma-separated: full-text, image-only (the default), and the controls text-only,
            question-only, blank-image, swapped-image, transcribe, as-published (the data set's own
            text), partial-text-PERCENT (some of the conditions), rendered-text (the conditions as
            words in the image; rendered-text-32 or rendered-text-32:FONT.ttf). Of MathVerse: its
            versions, see --problem-versions. One of your own is module:object or
            path/to/file.py:object.
        controls: `causal` adds the views that split the gap into writing, reading, integration and
            reasoning: own-, true-, corrupted- and full-text-transcription, and text-only.
        samples: Responses per problem and view; 4 if not given. An existing run keeps its samples,
            temperature, max-tokens and seed where they are not given.
        temperature: 0.6 if not given, for every model and engine (MathVerse in paper style 0.8); 0
            is greedy; `model` takes the model's own, or with a server the server's default.
        max_tokens: Longest response; the model's own (paper style: 4096) if not given.
        seed: Each sample's seed is derived from it; 42 if not given.
        style: `paper` words prompts as the original did and takes its pixel limits;
            `paper-author` as the first author's own repository did, which differs in a word;
            `aligned` if not given.
        engine: What answers: `hf` and `vllm` load the model here, `openai` asks an
            OpenAI-compatible server for it. One of your own is module:object or
            path/to/file.py:object.
        batch_size: Responses sampled together (hf).
        device: `cpu`, `cuda`, `cuda:1`; the best there is if not given (hf).
        base_url: Where the server is, e.g. http://localhost:8000/v1 (openai).
        api_key_env: Name of the environment variable that holds the key (openai).
        concurrency: Most requests under way at once (openai).
        timeout: Seconds that one request may take (openai).
        max_retries: Most retries of one request (openai).
        engine_args: key=value for the engine's own constructor, e.g. gpu_memory_utilization=0.8
            (vllm); repeatable.
        replicas: Engines that share the work, one an accelerator; more than one needs Ray (hf,
            vllm).
        ray_address: An existing Ray cluster to run the replicas on, e.g. auto.
        allow_outside: The data set may name, or link to, images outside its folder.
    """

    views: str | None = None
    controls: str | None = None
    samples: int | None = None
    temperature: Temperature = None
    max_tokens: int | None = None
    seed: int | None = None
    style: Style | None = None
    engine: str = "hf"
    batch_size: int = 64
    device: str | None = None
    base_url: str | None = None
    api_key_env: str = "OPENAI_API_KEY"
    concurrency: int = 32
    timeout: float = 600.0
    max_retries: int = 8
    engine_args: EngineArgs = ()
    replicas: int = 1
    ray_address: str | None = None
    allow_outside: AllowOutside = False

    @property
    def wording(self) -> Style:
        """The style in force."""
        return self.style or "aligned"

    def chosen(self, default: str) -> tuple[View, ...]:
        """The views that are asked: those given or the default ones, then the controls.

        Raises:
            UserError: A view or a set of controls is unknown, or the controls split a gap whose
                views are not asked.
        """
        views = parse_views(self.views or default)
        if self.controls is None:
            return views
        if self.controls not in CONTROLS:
            raise unknown("set of controls", self.controls, CONTROLS)
        names = [view.name for view in views]
        if self.views and (missing := [name for name in DEFAULT_VIEWS if name not in names]):
            raise UserError(
                f"--views {','.join(names)}: --controls {self.controls} splits the gap between"
                f" {' and '.join(DEFAULT_VIEWS)}: add {','.join(missing)}, or leave out --controls."
            )
        return parse_views([*names, *CONTROLS[self.controls]])

    def check(self) -> None:
        """Refuse what cannot work before a model is loaded. Raises `UserError`."""
        check_name(self.api_key_env)
        self.chosen(",".join(DEFAULT_VIEWS))
        check_style(self.wording)
        entry = registry.INFERENCE_ENGINES.entry(self.engine)
        if entry.package:
            others = ", ".join(n for n in registry.INFERENCE_ENGINES if n != self.engine)
            require(entry.package, f"give another engine ({others})")
        engine = registry.load(entry.path)
        self._check_taken(entry)
        if check := getattr(engine, "check_options", None):
            check(self)
        if self.samples is not None and self.samples < 1:
            raise UserError(f"--samples {self.samples}: must be at least 1.")
        for name in ("batch_size", "concurrency", "replicas"):
            if getattr(self, name) < 1:
                raise UserError(f"{flag(name)} {getattr(self, name)}: must be at least 1.")
        several = "--replicas" if self.replicas > 1 else ""
        if self.ray_address is not None:
            several = "--ray-address"
        if several and self.device is not None and ":" in self.device:
            raise UserError(
                f"--device {self.device} and {several} exclude each other: each replica has its"
                " own."
            )
        if self.max_tokens is not None and self.max_tokens < 1:
            raise UserError(f"--max-tokens {self.max_tokens}: must be at least 1.")
        if self.temperature not in (None, "model") and not 0 <= float(self.temperature) < math.inf:
            raise UserError(
                f"--temperature {self.temperature}: give a finite number, not negative (0 is"
                " greedy), or `model`."
            )

    def _check_taken(self, entry: registry.EngineEntry) -> None:
        """Refuse options that only other engines take, by what the registry says of each engine."""
        for option in fields(self):
            value = getattr(self, option.name)
            takers = [
                name
                for name, other in registry.INFERENCE_ENGINES.items()
                if option.name in other.options
            ]
            accepted = not takers or option.name in (*entry.options, *_NEVER_REFUSED)
            if accepted or value == option.default:
                continue
            shown = str(value[0] if isinstance(value, tuple) else value)  # pyright: ignore[reportUnknownArgumentType]
            if option.name in ("replicas", "ray_address"):
                has = (
                    f"the server of {self.engine} has --concurrency"
                    if entry.served
                    else f"not {self.engine}"
                )
                raise UserError(
                    f"{flag(option.name)} is for the engines {' and '.join(takers)}: {has}."
                )
            only = f"only --engine {' and '.join(takers)}"
            if all(registry.INFERENCE_ENGINES[name].served for name in takers):
                raise UserError(
                    f"{flag(option.name)} {shown}: {only} asks a server, and the engine is"
                    f" {self.engine}."
                )
            raise UserError(f"{flag(option.name)} {shown}: {only} takes these, not {self.engine}.")


_NEVER_REFUSED = ("batch_size", "device")
"""Options that are accepted with every engine: scripts give them whatever the engine is."""


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class TrainOptions:
    """How to train; options of `modgap train`.

    Attributes:
        engine: What trains: `local` in one process, `verl` on many GPUs (in an environment of its
            own).
        style: Wording of the prompts; the preset's, else `aligned`, if not given. `paper` and
            `paper-author` train with the same words.
        preset: `paper-7b` or `paper-3b`: everything that the original's scripts and checkpoints
            say for this model size; --set and other options override it.
        start_from: Train from a checkpoint of a training run, RUN:stage1:step_120, `last` or `best`
            instead of a step; without them the last one of the last stage.
        device: `cpu`, `cuda`, `cuda:1`; the best there is if not given.
        log: Where steps go beside train_log.jsonl: `wandb` (Weights & Biases), `tensorboard` (which
            is written wherever it is installed).
        allow_outside: The data set may name, or link to, images outside its folder.
    """

    engine: str = "local"
    style: Style | None = None
    preset: str | None = None
    start_from: str | None = None
    device: str | None = None
    log: Log = ()
    allow_outside: AllowOutside = False


def as_json(options: Any) -> dict[str, Any]:
    """The values of options as a manifest has them."""
    return json.loads(json.dumps(asdict(options), default=str))


def split_names(_: Any, tokens: Sequence[Token]) -> tuple[str, ...]:
    """The names of a comma-separated option; a list in a configuration file has one token each."""
    names: list[str] = []
    for token in tokens:
        for part in token.value.split(","):
            if name := part.strip():
                names.append(name)
    return tuple(names)


def parse_seeds(text: str) -> tuple[int, ...]:
    """Seeds from a comma-separated list.

    Raises:
        UserError: One of them is not a number.
    """
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise UserError(
            f"--seeds {text}: give whole numbers, comma-separated, e.g. 0,1,2."
        ) from None


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class StudySpec:
    """One base model, trained with each of several recipes and measured: what `modgap study` takes.

    Attributes:
        data: The data set: train split for training, test split for measuring. May be left out with
            --benchmark synthetic.
        model: The base model of every recipe.
        recipes: Comma-separated: full-text, no-text, mix, curriculum, kl, kl-curriculum,
            kl-from-base, reverse-curriculum; kl-forward, kl-full-vocab, kl-unclamped, kl-strong,
            kl-forward-strong, full-text-continued; distill, distill-jsd, distill-advantage,
            distill-frozen, distill-ema, distill-after-text, self-trace, papo, papo-unclamped,
            vppo, reading-reward.
        out: Study folder; an interrupted study resumes there.
        engine: What trains: `local` or `verl`.
        benchmark: Layout of the data set.
        settings: A setting of every recipe, key=value or stageN.key=value; repeatable.
        preset: `paper-7b` or `paper-3b`: everything that the original's scripts and checkpoints
            say for this model size; --set and other options override it.
        start_from: Train every recipe from a checkpoint of a training run, RUN:stage1:step_120;
            the base model is still measured.
        limit: Only this number of test problems, from the first.
        seeds: Training seeds, comma-separated: a study each, in OUT/seedN, and one report of all.
        jobs: Trainings and evaluations at a time, which share the visible accelerators.
        also: Another data set to measure the base model and every recipe on, NAME=PATH with a
            --benchmark as NAME, e.g. mathverse=MathVerse, or synthetic alone; in its own default
            views; repeatable. The report has the gap on each set, and over all problems.
        reference: A run folder, such as that of another model, to show in the report beside the
            study's own; repeatable.
        log: Where steps go beside train_log.jsonl: `wandb` (Weights & Biases), `tensorboard` (which
            is written wherever it is installed).
        options: How to evaluate.
    """

    data: Path | None = None
    model: str
    recipes: Annotated[tuple[str, ...], Parameter(converter=split_names, n_tokens=1, negative=())]
    out: Path
    engine: str = "local"
    benchmark: str = "pgps9k"
    settings: Set = ()
    preset: str | None = None
    start_from: str | None = None
    limit: int | None = None
    seeds: Annotated[tuple[int, ...] | None, Parameter(parse=False)] = None
    jobs: int = 1
    also: Annotated[tuple[str, ...], Parameter(negative=(), consume_multiple=True)] = ()
    reference: Annotated[tuple[Path, ...], Parameter(negative=(), consume_multiple=True)] = ()
    log: Log = ()
    options: EvalOptions = field(default_factory=EvalOptions)


_NOT_IN_STUDIES = Parameter(parse=False)


@dataclass(frozen=True, slots=True)
class StudyEvalOptions(EvalOptions):
    """How `modgap study` evaluates.

    `--engine` of a study is the engine that trains. No server has the trained models.
    """

    seed: Annotated[
        int | None, Parameter(help="Of the evaluation, 42 if not given; training has --set seed=N.")
    ] = None
    engine: Annotated[
        str, Parameter(name="--eval-engine", help="What answers: `hf` or `vllm`.")
    ] = "hf"
    base_url: Annotated[str | None, _NOT_IN_STUDIES] = None
    api_key_env: Annotated[str, _NOT_IN_STUDIES] = "OPENAI_API_KEY"
    concurrency: Annotated[int, _NOT_IN_STUDIES] = 32
    timeout: Annotated[float, _NOT_IN_STUDIES] = 600.0
    max_retries: Annotated[int, _NOT_IN_STUDIES] = 8


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class StudyArguments(StudySpec):
    """A study as the command line takes it."""

    options: StudyEvalOptions = field(default_factory=StudyEvalOptions)


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class JudgeOptions:
    """How to judge; options of `modgap grade`.

    Attributes:
        judge: What settles the MathVerse answers that rules cannot compare: the URL of an
            OpenAI-compatible server (http://localhost:8000/v1), or a model that is loaded here
            (Qwen/Qwen3-8B, a folder). Its verdicts are kept in the run: an interrupted grading
            resumes, and a grading without --judge uses them.
        engine: `hf`, `vllm` or `openai`; if not given, `openai` for a URL, and for a model `vllm`
            where it is installed, else `hf`.
        model: The judge's name on the server; the only model that it serves if not given.
        max_tokens: The most tokens that the judge may write: 16 if not given (paper mode: always
            2). A judge whose thinking cannot be switched off needs thousands.
        check: Number of answers that the rules decided to ask the judge about as well, to report
            how far it agrees with them; 0 for none.
        seed: Of the choice of answers for --judge-check.
        api_key_env: Name of the environment variable that holds the key (openai).
        concurrency: Most requests under way at once (openai).
        timeout: Seconds that one request may take (openai).
        max_retries: Most retries of one request (openai).
        engine_args: key=value for vLLM's own constructor, e.g. gpu_memory_utilization=0.8 (vllm);
            repeatable.
        batch_size: Questions answered together (hf).
        device: `cpu`, `cuda`, `cuda:1`; the best there is if not given (hf).
    """

    judge: str | None = None
    engine: Annotated[str | None, Parameter(name="--judge-engine")] = None
    model: Annotated[str | None, Parameter(name="--judge-model")] = None
    max_tokens: Annotated[int | None, Parameter(name="--judge-max-tokens")] = None
    check: Annotated[int, Parameter(name="--judge-check")] = JUDGE_CHECK
    seed: int = JUDGE_SEED
    api_key_env: str = "OPENAI_API_KEY"
    concurrency: int = 32
    timeout: float = 600.0
    max_retries: int = 8
    engine_args: EngineArgs = ()
    batch_size: int = 16
    device: str | None = None

    @property
    def is_url(self) -> bool:
        """Whether the judge is behind a server."""
        return (self.judge or "").lower().startswith(("http://", "https://"))
