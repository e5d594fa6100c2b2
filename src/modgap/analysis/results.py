"""What `summary.json` holds: that of a run (`Summary`), and that of a study.

A study's summary holds the numbers of its report.

Keys are written in the order of the fields here, and a test freezes them: other programs read these
files. A field that was added later has a default, so that older files can still be read.
`exclude_if` leaves out a key that most runs do not have.

Units: accuracies, rates and shares are from 0 to 1, and so are their intervals; gaps and changes
are percentage points. `None` means that there is nothing to count.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from modgap.analysis.gap import GapChange
from modgap.analysis.seeds import SeedsChange, SeedsEstimate
from modgap.core.errors import UserError
from modgap.core.files import read_bytes
from modgap.core.rows import OUTCOMES

IMPORT_NOTE = "import.json"
"""What an imported run holds beside its manifest."""


class Result(BaseModel):
    """Something that is computed once and read many times; unknown keys are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")


R = TypeVar("R", bound=Result)
Settings = dict[str, Any]
"""Settings by name, as a manifest has them: of an evaluation, a training stage, its sampling."""


def _absent(value: object) -> bool:
    return value is None


# ---- one run -------------------------------------------------------------------------------------
class Counted(Result):
    """A row that counts samples by outcome, each under the outcome's name."""

    def by_outcome(self) -> tuple[int, ...]:
        """Samples of each outcome, in the order of `OUTCOMES`."""
        return tuple(getattr(self, outcome) for outcome in OUTCOMES)


class TokenQuantiles(Result):
    """Quantiles of the tokens of a response."""

    p10: float = 0.0
    p50: float = 0.0
    p90: float = 0.0


class ViewSummary(Counted):
    """One view, over the problems that are complete in it.

    Attributes:
        side: Of the gap.
        n_problems: Problems that are complete.
        n_samples: Their samples.
        correct: Samples that are right.
        wrong: Samples with another answer.
        no_answer: Samples without one.
        error: Samples that could not be graded.
        accuracy: Mean over problems of the share of right samples.
        ci_low: Lower end of its interval.
        ci_high: Upper end.
        truncated: Samples that were cut at the token limit.
        truncation_rate: Their share.
        no_answer_rate: Share of samples without an answer.
        error_rate: Share of samples that could not be graded.
        mean_completion_tokens: Of a sample.
        completion_tokens: Quantiles over samples.
        pass_at_k: k, in words, -> pass@k.
        maj_at_k: Share of problems whose most frequent answer is right.
        missing_samples: Samples that were requested and are missing or not graded.
        absent_problems: Problems of which the data has no such view.
    """

    side: Literal["text", "vision", "control"]
    n_problems: int
    n_samples: int
    correct: int
    wrong: int
    no_answer: int
    error: int
    accuracy: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    truncated: int
    truncation_rate: float | None = None
    no_answer_rate: float | None = None
    error_rate: float | None = None
    mean_completion_tokens: float = 0.0
    completion_tokens: TokenQuantiles = TokenQuantiles()
    pass_at_k: dict[str, float] = {}
    maj_at_k: float | None = None
    missing_samples: int
    absent_problems: int = 0


class PairTable(Result):
    """Problems by the majority of their samples in both views."""

    both: int
    text_only: int
    vision_only: int
    neither: int


class GapSummary(Result):
    """The gap of a run over the problems that are complete on both sides (`analysis.gap.Gap`)."""

    text_views: list[str]
    vision_views: list[str]
    n_problems: int
    text_accuracy: float
    text_ci_low: float
    text_ci_high: float
    vision_accuracy: float
    vision_ci_low: float
    vision_ci_high: float
    points: float
    ci_low: float
    ci_high: float
    degenerate: bool = False
    p_value: float
    relative: float | None
    table: PairTable
    p_vision_given_text: float | None
    p_text_given_vision: float | None


class GapPart(Result):
    """The gap of a part of the problems, in short; `degenerate`: an interval of no width."""

    n_problems: int
    text_accuracy: float
    vision_accuracy: float
    points: float
    ci_low: float
    ci_high: float
    degenerate: bool = False
    p_value: float


class TypeGap(Result):
    """The gap of the problems of one type; `p_holm` is corrected over the types."""

    type: str
    n_problems: int
    text_accuracy: float
    vision_accuracy: float
    points: float
    ci_low: float
    ci_high: float
    degenerate: bool = False
    p_value: float
    p_holm: float


class Variant(Result):
    """The gap of a run with one thing changed.

    Attributes:
        name: What, in words.
        kind: `base` for the run as it was graded; `tolerance`, `mode` (the grader), `judge`, `vote`
            (majority votes) or `leaky` (problems that state a condition are dropped).
        gap: Its gap.
        moved: Its gap minus the run's own, in points; `None` for the run's own.
        moved_low: Lower end of the interval of that, paired by problem.
        moved_high: Upper end.
        survives: Whether its interval is on the same side of 0 as the run's own, or both hold 0.
    """

    name: str
    kind: Literal["base", "tolerance", "mode", "judge", "vote", "leaky"]
    gap: GapPart
    moved: float | None = None
    moved_low: float | None = None
    moved_high: float | None = None
    survives: bool = True


class Robustness(Result):
    """Whether the conclusion of a run survives.

    Attributes:
        variants: The gap under each variant, the run's own first.
        survives: Whether the conclusion survives all of them (`analysis.robustness` has the rule).
        sentence: That in words.
        not_graded: Modes in which too many responses would have to be graded again.
    """

    variants: list[Variant]
    survives: bool
    sentence: str
    not_graded: list[str] = []


class ReadingShares(Result):
    """Problems misread and read right, and the share of the former with its interval."""

    read_right: int
    misread: int
    share_misread: float | None
    ci_low: float | None
    ci_high: float | None


class Clauses(Result):
    """Conditions over samples: how many there are, were read, and were contradicted."""

    n: int
    read: int
    contradicted: int


class ReadingPart(Result):
    """How some problems were read.

    `values` by the values of the conditions alone; names of points are ignored.
    """

    n_problems: int
    nothing_to_read: int
    unreadable: int
    read_right: int
    misread: int
    share_misread: float | None
    ci_low: float | None
    ci_high: float | None
    values: ReadingShares
    clauses: Clauses


class ReadingSummary(Result):
    """How the lost problems were read, by the view `source`.

    Beside them are the problems `solved` in both views.
    """

    source: str
    n_problems: int
    nothing_to_read: int
    unreadable: int
    read_right: int
    misread: int
    share_misread: float | None
    ci_low: float | None
    ci_high: float | None
    values: ReadingShares
    clauses: Clauses
    solved: ReadingPart


class CausalPart(Result):
    """A part of the gap in points, and as a share of it, with their 95% intervals.

    The shares are `None` where the gap's own interval holds 0.
    """

    points: float
    ci_low: float
    ci_high: float
    share: float | None = None
    share_low: float | None = None
    share_high: float | None = None


class CausalSummary(Result):
    """The gap in parts that add up to it (`analysis.causal`).

    Attributes:
        n_problems: Problems that are complete in all views of the split.
        left_out: Problems of the gap that are not among them.
        accuracies: View -> its accuracy over these problems.
        gap: Over these problems.
        parts: `writing` and `reading`, then `integration` and `reasoning`, or `use`, their sum,
            where they cannot be told apart.
        use: What is lost although the right words stand in the answer: the sum of the last two.
        image_too_low: Whether the image-only accuracy is too low to tell them apart; else `use` is
            there since changed words raise it.
        follows: Share of the answers that follow the words before them; `None` where not known.
        follows_low: Lower end of its interval.
        follows_high: Upper end.
        prefilling: What the true conditions in the answer change where the prompt has them, too;
            `reading` and `use` are without it.
        picture: What the picture adds to the full text; `None` without the view text-only.
        tokens: Tokens of all views of the split over those of the two views of the gap.
        in_user_turn: Whether transcriptions stood in the user turn: the engine continues no turn.
        too_few: Whether the problems are too few to split the gap: its own interval holds 0, or
            that of a part's share is wider than `analysis.causal.MOST_WIDTH`.
    """

    n_problems: int
    left_out: int
    accuracies: dict[str, float]
    gap: CausalPart
    parts: dict[str, CausalPart]
    use: CausalPart
    prefilling: CausalPart
    image_too_low: bool = False
    follows: float | None = None
    follows_low: float | None = None
    follows_high: float | None = None
    picture: CausalPart | None = None
    tokens: float | None = None
    in_user_turn: bool = False
    too_few: bool = False


class Bucket(Counted):
    """Accuracy over some problems of MathVerse's in some versions, with its interval."""

    n_problems: int
    n_samples: int
    correct: int
    wrong: int
    no_answer: int
    error: int
    accuracy: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None


class MathverseSets(Result):
    """MathVerse's versions: both sides of the gap, each side, and each version."""

    overall: Bucket
    text: Bucket
    vision: Bucket
    versions: dict[str, Bucket]


class MathversePart(MathverseSets):
    """A question type or a subject."""

    gap: GapPart | None


class RightOf(Result):
    """What the original counts: right samples of all."""

    correct: int
    total: int


class OriginalSets(Result):
    """The original's figures of MathVerse; `versions` by its own names."""

    overall: RightOf
    vision: RightOf
    text: RightOf
    versions: dict[str, RightOf]


class OriginalMathverse(OriginalSets):
    """What the original's `eval-results.py --full` prints: over all, and by question `type`."""

    type: dict[str, OriginalSets]


class MathverseSummary(MathverseSets):
    """MathVerse's breakdown; `original` where the run is graded in mode `paper`."""

    question_types: dict[str, MathversePart]
    subjects: dict[str, MathversePart]
    original: OriginalMathverse | None = Field(default=None, exclude_if=_absent)


class OriginalFigures(Result):
    """What the original's `eval.py` prints for a view.

    It counts files and characters, not problems and tokens.
    """

    total: int
    correct: int
    none: int
    accuracy: float | None
    average_length: float | None
    pass_at_1: float | None


class JudgeTable(Result):
    """The judge against the rules, on answers that the rules decided."""

    both_right: int = 0
    rules_only: int = 0
    judge_only: int = 0
    both_wrong: int = 0

    def cells(self) -> tuple[int, ...]:
        """All four counts, in the order of the fields."""
        return self.both_right, self.rules_only, self.judge_only, self.both_wrong

    @property
    def count(self) -> int:
        """Number of answers with a verdict."""
        return sum(self.cells())


class StageAgreement(Result):
    """Answers that one stage of the rules decided, and on how many of them the judge agrees."""

    samples: int
    agree: int


class Disagreement(Result):
    """An answer on which the judge and the rules disagree."""

    problem_id: str
    view: str
    sample: int
    answer: str
    gold: str
    stage: str
    rules: str
    judge: str


class JudgeCheck(Result):
    """A judge asked about answers that the rules decided.

    Attributes:
        samples: How many were chosen.
        seed: Of the choice.
        unreadable: Verdicts that cannot be read; they are in no cell of the table.
        failed: Questions without an answer; not in the table either.
        table: The verdicts of both.
        agreement: Share of the table on which they agree.
        kappa: Cohen's; `None` where it is not defined.
        stages: Deciding stage -> the agreement there.
        disagreements: Some of them.
    """

    samples: int
    seed: int
    unreadable: int
    failed: int
    table: JudgeTable
    agreement: float | None
    kappa: float | None
    stages: dict[str, StageAgreement] = {}
    disagreements: list[Disagreement] = []


class JudgeSummary(Result):
    """What a judge did in the last grading.

    Attributes:
        judge: Its name; `None` where no judge was asked.
        asked: Questions put to it this time.
        samples: Samples that the rules leave open; the next five say what became of them.
        consistent: It called them right.
        different: It called them wrong.
        unreadable: Its verdict cannot be read.
        failed: It gave no answer.
        waiting: It was not asked.
        check: Its verdicts on answers that the rules decided; `None` where it was asked about none.
    """

    judge: str | None
    asked: int = 0
    samples: int
    consistent: int
    different: int
    unreadable: int
    failed: int
    waiting: int
    check: JudgeCheck | None


class Summary(Result):
    """The numbers of a run.

    Attributes:
        mode: How it was graded; empty where no sample is.
        n_problems: Problems that were asked.
        samples_per_problem: Samples of each in each view.
        views: Name -> its numbers.
        gap: `None` where no problem is complete on both sides.
        leaky: `leaky` and `clean`: the gap of problems whose question gives a condition away, and
            of the others; empty without a gap.
        types: The gap of each problem type, large ones first.
        subjects: The same by subject; `None` where the problems have not several, and of MathVerse.
        reading: How the lost problems were read; `None` where that is not known.
        causal: The gap in parts; only of a run with the views of `--controls causal`.
        pairable: Whether both sides were asked.
        mathverse: Of a run of MathVerse's only.
        warnings: What a reader must know before the numbers.
        judge: What the judge did; `None` where nothing is for a judge.
        sampling: How the responses were sampled, see `reporting.sampling`; only in the file of a
            run.
        original: View -> the original's figures; only of a run graded in mode `paper`.
    """

    mode: str = ""
    n_problems: int
    samples_per_problem: int
    views: dict[str, ViewSummary]
    gap: GapSummary | None
    leaky: dict[str, GapPart | None] = {}
    types: list[TypeGap] = []
    subjects: list[TypeGap] | None = Field(default=None, exclude_if=_absent)
    reading: ReadingSummary | None = None
    causal: CausalSummary | None = Field(default=None, exclude_if=_absent)
    pairable: bool = False
    mathverse: MathverseSummary | None = Field(default=None, exclude_if=_absent)
    warnings: list[str] = []
    judge: JudgeSummary | None = None
    sampling: Settings | None = Field(default=None, exclude_if=_absent)
    original: dict[str, OriginalFigures] | None = Field(default=None, exclude_if=_absent)


class ImportNote(Result):
    """What grading and reports read from `import.json` of an imported run.

    Attributes:
        warnings: What a reader must know of the import.
        other_files: View -> `total`, `correct`, `none` and `characters` of files that are not
            responses of the run but that the original counts; `None` where the original does not
            count files.
    """

    warnings: list[str]
    other_files: dict[str, dict[str, int]] | None = None


def read_summary(run: Path | str) -> Summary:
    """The numbers of a run folder, as the last grading wrote them.

    Raises:
        UserError: There are none, or the file is damaged or another program's; one line that says
            what helps.
    """
    return _read(Path(run) / "summary.json", Summary, f"`modgap grade {run}` writes it again")


def read_import_note(run: Path | str) -> ImportNote:
    """The note of a run's import; empty if the run was not imported.

    Raises:
        UserError: The file is damaged.
    """
    path = Path(run) / IMPORT_NOTE
    return (
        _read(path, ImportNote, "give the `modgap import` again that made the run")
        if path.exists()
        else ImportNote(warnings=[])
    )


def _read(path: Path, kind: type[R], remedy: str) -> R:
    try:
        return kind.model_validate_json(read_bytes(path))
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): {remedy}.") from None
    except ValidationError as error:
        raise UserError(
            f"{path} is not what a run holds ({first_fault(error)}): {remedy}."
        ) from None


def first_fault(error: ValidationError) -> str:
    """Where the first fault is and what it is: `gap.points: Field required`."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{where}: {first['msg']}" if where else first["msg"]


# ---- several seeds -------------------------------------------------------------------------------
Seed = int | str | None
"""Of a training; words where its stages have several, `None` for the base model."""


class SeedChanges(Result):
    """Changes of the gap and of both accuracies, in points.

    The p-values are corrected over the recipes.
    """

    gap: SeedsChange
    text: SeedsChange
    vision: SeedsChange


class SeedRow(Result):
    """A recipe in a table over seeds.

    Attributes:
        recipe: Its label; `base` for the base model.
        seeds: Of its runs; empty for the base model.
        runs: Their names.
        steps: Mean over seeds; `None` for the base model, as are seconds.
        seconds: In these steps, mean over seeds.
        text: Accuracy in the text-centric view.
        vision: In the vision-centric view.
        gap: In points.
        change: Against the base model; `None` where it is not there.
    """

    recipe: str
    seeds: list[Seed]
    runs: list[str]
    steps: float | None
    seconds: float | None
    text: SeedsEstimate
    vision: SeedsEstimate
    gap: SeedsEstimate
    change: SeedChanges | None


class SeedControl(Result):
    """A recipe with further terms against its control, over the seeds that both have.

    Attributes:
        recipe: Its label.
        control: Label of the other one.
        kind: `without` the terms, or with `other` ones.
        seeds: Those that both have.
        change: The recipe minus the control.
    """

    recipe: str
    control: str
    kind: Literal["without", "other"]
    seeds: list[Seed]
    change: SeedChanges


class SeedTable(Result):
    """A table over seeds: one base model, the same problems, evaluated alike.

    Attributes:
        model: The base model's name.
        n_problems: Problems of each run.
        samples: Of each problem and view.
        mode: How they were graded.
        text_views: Views of the text-centric side.
        vision_views: Of the vision-centric side.
        rows: The recipes, the base model first.
        controls: What the terms beside the policy loss do.
        notes: Runs that are not in the table, and why.
    """

    model: str
    n_problems: int
    samples: int
    mode: str
    text_views: list[str]
    vision_views: list[str]
    rows: list[SeedRow]
    controls: list[SeedControl]
    notes: list[str]


# ---- a report ------------------------------------------------------------------------------------
class LoggedStage(Result):
    """The numbers that a training stage logged.

    Attributes:
        stage: Its title.
        after: Steps of the stages before it.
        metrics: Name -> step and value of each line that has it; steps count over the stages.
    """

    stage: str
    after: int
    metrics: dict[str, list[tuple[int, float]]]


class Headline(Result):
    """The answer of a report in words: `answer` in pieces, each with the side that it is about."""

    title: str
    kicker: str
    answer: list[tuple[str, str]]
    lede: list[str]


class PaperTable(Result):
    """A table in the shape of the paper's."""

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


class PooledGap(GapPart):
    """The gap of one model over the problems of several sets, see `analysis.pooled`.

    Attributes:
        sets: Whose problems.
        n_clusters: Different problems; a problem of two sets is one.
        mean_of_sets: Mean of the sets' gaps, in points, in which every set weighs the same.
        change: Against the first model, where it was measured on the same sets.
    """

    sets: list[str]
    n_clusters: int
    mean_of_sets: float
    change: GapChange | None = None


class ReportSummary(Result):
    """The numbers of a report, which are a study's summary.json.

    Attributes:
        runs: Name -> its numbers.
        changes: Name -> change of its gap against the first run's; of those that share problems
            with it.
        training: Recipe -> its stages, in order.
        models: Name -> the model that was evaluated.
        sampling: Name -> how it was sampled.
        seeds: Tables over seeds; empty where no recipe has two.
        warnings: What a reader must know before the numbers.
        headline: The answer in words.
        paper: The paper's tables, where the report was asked for them.
        differs: Name -> what the run differs in from the first one of its benchmark: data, wording,
            sampling, grading; `None` where all can be compared.
        sets: Model or recipe -> set -> name of the run on it, where a study measured on several
            sets; `None` elsewhere.
        pooled: Model or recipe -> its gap over these sets together.
        robustness: Name -> whether its conclusion survives other gradings; of runs with a gap.
    """

    runs: dict[str, Summary]
    changes: dict[str, GapChange]
    training: dict[str, list[LoggedStage]]
    models: dict[str, str]
    sampling: dict[str, Settings]
    seeds: list[SeedTable]
    warnings: list[str]
    headline: Headline
    paper: list[PaperTable] | None = Field(default=None, exclude_if=_absent)
    differs: dict[str, list[str]] | None = Field(default=None, exclude_if=_absent)
    sets: dict[str, dict[str, str]] | None = Field(default=None, exclude_if=_absent)
    pooled: dict[str, PooledGap] | None = Field(default=None, exclude_if=_absent)
    robustness: dict[str, Robustness] | None = Field(default=None, exclude_if=_absent)
