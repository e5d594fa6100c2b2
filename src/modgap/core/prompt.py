r"""The only place with words that are sent to a model.

Three styles:

* `paper` reproduces the original's strings exactly: `geo9k.py` and `geo9k-contrastive.py` for
  training, the two inference scripts for evaluation, with their mistakes (no separator before the
  instruction in evaluation, `, .` where a problem has no semantic clause, the points of a long line
  said to lie on the line of the last two). It is the repository whose address the paper gives,
  UCSB-NLP-Chang/Bridging-Modality-Gap.
* `paper-author` is the same from the first author's own repository,
  yaoguany/Bridging-Modality-Gap: evaluation says "You should FIRST" as training does, and
  MathVerse's box is `\boxed{ }.`. The words of training are equal in both repositories.
* `aligned`, the default, uses one wording in training and in evaluation, and corrects those
  mistakes.

Conditions come from PGPS9K's clauses, structural ones first, joined with `, `.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace
from typing import Literal, get_args

from modgap.core import registry
from modgap.core.errors import UserError, unknown
from modgap.core.problem import Problem
from modgap.core.thinking import OPEN
from modgap.core.transcripts import corrupted
from modgap.core.view import VERSION_VIEWS, View, get_view

Style = Literal["paper", "paper-author", "aligned"]
STYLES: tuple[Style, ...] = get_args(Style)

SYSTEM = "You are a helpful assistant."
INSTRUCTION = (
    "You should FIRST think about the reasoning process as an internal monologue and then provide"
    " the final answer. The reasoning process MUST BE enclosed within <think> </think> tags. The"
    " final answer MUST BE put in \\boxed{}."
)
# Paper styles, evaluation: appended with no separator; no final period; in `paper` no "should".
PAPER_AUTHOR_EVALUATION_INSTRUCTION = INSTRUCTION.removesuffix(".")
PAPER_EVALUATION_INSTRUCTION = PAPER_AUTHOR_EVALUATION_INSTRUCTION.replace(
    "You should FIRST", "You FIRST"
)
# MathVerse, paper styles: after the question and a newline; no system turn; the assistant's turn
# starts with a prefill.
PAPER_MATHVERSE_INSTRUCTION = (
    "You FIRST think step-by-step inside <think></think>, then wrap the final answer in \\boxed{}."
)
PAPER_AUTHOR_MATHVERSE_INSTRUCTION = (
    "You should FIRST think step-by-step inside <think></think>, then wrap the final answer in"
    " \\boxed{ }."
)
PAPER_MATHVERSE_PREFILL = "<think>"
TRANSCRIBE_INSTRUCTION = (
    "FIRST write down, within <think> </think> tags, every condition that the image shows,"
    " separated by commas; then reason, within the same tags, and solve. The final answer MUST BE"
    " put in \\boxed{}."
)


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt, ready for a chat template.

    Attributes:
        text: The user turn, without any image placeholder; the image comes before it.
        system: The system turn, or `None` for none.
        prefill: What the assistant's turn starts with.
        has_image: Whether the user turn starts with an image.
        without_prefill: The user turn where an engine cannot continue the assistant's turn; empty
            where the prefill is then left out.
    """

    text: str
    system: str | None = SYSTEM
    prefill: str = ""
    has_image: bool = True
    without_prefill: str = ""

    def in_user_turn(self) -> Prompt:
        """The prompt for an engine that cannot continue the assistant's turn."""
        return replace(self, text=self.without_prefill, prefill="", without_prefill="")


def check_style(style: str) -> Style:
    """The style of that name, or an error that lists the names."""
    if style not in STYLES:
        raise unknown("style", style, STYLES)
    return style


def of_paper(style: str) -> bool:
    """Whether a style is one of the original's: `paper` or `paper-author`."""
    return style in ("paper", "paper-author")


def structural_condition(clause: str, style: Style = "aligned") -> str:
    r"""A structural clause in words.

    Empty for a clause that is unknown or says nothing (`line A B`).

    `line A B C D` (paper) names all but the last two points as lying on the line of the last two,
    as the original does; (aligned) the inner points lie on the line of the two ends.
    """
    tokens = clause.split()
    if len(tokens) >= 4 and tokens[2] == "lieson":
        points = ", ".join(tokens[3:])
        if tokens[0] == "line":
            return f"{points} lie on line {tokens[1]}"
        if tokens[0] == "\\odot":
            return f"In \\odot {tokens[1]}, point {points} lie on \\odot {tokens[1]}"
        return ""
    if len(tokens) < 4 or tokens[0] != "line":
        return ""
    points = tokens[1:]
    if len(points) == 3:
        return f"{points[1]} is on line {points[0]}{points[2]}"
    if of_paper(style):
        return f"{', '.join(points[:-2])} are on line {points[-2]}{points[-1]}"
    return f"{', '.join(points[1:-1])} are on line {points[0]}{points[-1]}"


def structural_conditions(problem: Problem, style: Style = "aligned") -> list[str]:
    """The structural clauses that say something, in words."""
    return [
        words for clause in problem.structural if (words := structural_condition(clause, style))
    ]


def conditions(problem: Problem, style: Style = "aligned") -> str:
    """All conditions of a problem, structural then semantic, joined with `, `.

    Empty if it has none.
    """
    return ", ".join(all_conditions(problem, style))


def all_conditions(problem: Problem, style: Style = "aligned") -> list[str]:
    """All conditions of a problem, structural then semantic."""
    return [*structural_conditions(problem, style), *filter(None, problem.semantic)]


def some_conditions(problem: Problem, share: int, style: Style = "aligned") -> list[str]:
    """A share of the conditions, in their order.

    A digest of the problem's id and of the condition decides which: the same in every run, and a
    smaller share is part of a larger one. Their number is rounded to the nearest, halves up.

    Args:
        problem: The problem.
        share: In percent.
        style: Of the words.
    """
    every = all_conditions(problem, style)

    def rank(place: int) -> bytes:
        words = f"{problem.id}\x1f{place}\x1f{every[place]}\x1fpartial"
        return hashlib.sha256(words.encode()).digest()

    count = (2 * share * len(every) + 100) // 200
    chosen = sorted(range(len(every)), key=rank)[:count]
    return [every[place] for place in sorted(chosen)]


def _with_conditions(words: str, question: str) -> str:
    return f"In this problem, {words}.\nBased on these conditions, answer the question: {question}"


def _from_image(question: str) -> str:
    return f"Based on the information in the image, answer the question: {question}"


def training_question(
    problem: Problem, view: View | str, style: Style = "aligned", *, contrastive: bool = False
) -> str:
    """The words of a training prompt before the instruction.

    Args:
        problem: The problem.
        view: What it shows; only whether its conditions are written matters.
        style: `paper`, `paper-author` or `aligned`.
        contrastive: Paper style has two scripts that differ on a problem without any condition:
            `geo9k.py` writes `In this problem, .`, `geo9k-contrastive.py` asks about the image.
    """
    view = get_view(view) if isinstance(view, str) else view
    if view.words is not None:
        return view.words(problem)
    if problem.own_words or view.name in VERSION_VIEWS:
        return _own_words(problem, view)
    question = problem.question_of(view.name)
    if view.share < 100:
        words = ", ".join(some_conditions(problem, view.share, style))
        return _with_conditions(words, question) if words else _from_image(question)
    if view.verbatim:
        return question
    words = conditions(problem, style) if view.conditions else ""
    if words or (view.conditions and style != "aligned" and not contrastive):
        return _with_conditions(words, question)
    return f"Answer the question: {question}" if view.picture == "none" else _from_image(question)


def rendered_words(problem: Problem, style: Style = "aligned") -> str:
    """What the views `rendered-text` draw into the image: the conditions as `full-text` words them.

    Of a problem with words of its own, those of its full-text view. Empty without a condition.
    """
    if problem.own_words:
        return problem.words_of("full-text") or ""
    words = conditions(problem, style)
    return f"In this problem, {words}." if words else ""


def contrastive_question(problem: Problem, style: Style = "aligned") -> str:
    """The text-free twin of the full-text training prompt, before the instruction (contrastive KL).

    Aligned style asks the image-only question as evaluation words it, so that what is trained is
    what is measured.
    """
    if of_paper(style) and not problem.own_words:
        question = problem.question_of("image-only")
        return f"Based on these conditions in the image, answer the question: {question}"
    return training_question(problem, "image-only", style)


def training_prompt(
    problem: Problem, view: View | str, style: Style = "aligned", *, contrastive: bool = False
) -> Prompt:
    """The prompt of a training rollout: the question, a newline and the instruction."""
    view = get_view(view) if isinstance(view, str) else view
    text = training_question(problem, view, style, contrastive=contrastive)
    instruction = TRANSCRIBE_INSTRUCTION if view.transcribe else INSTRUCTION
    return Prompt(
        f"{text}\n{instruction}" if text else instruction, has_image=view.picture != "none"
    )


def contrastive_prompt(problem: Problem, style: Style = "aligned") -> Prompt:
    """The text-free twin as a prompt."""
    return Prompt(f"{contrastive_question(problem, style)}\n{INSTRUCTION}")


def twin_prompt(
    problem: Problem, rollout: View | str, twin: View | str, style: Style = "aligned"
) -> Prompt:
    """The prompt of an objective term's twin.

    Args:
        problem: The problem.
        rollout: View that the response was sampled in.
        twin: View of the twin.
        style: Of the words. In the paper styles the text-free twin of a prompt with conditions has
            words of its own (`contrastive_question`).
    """
    rollout = get_view(rollout) if isinstance(rollout, str) else rollout
    twin = get_view(twin) if isinstance(twin, str) else twin
    if twin.name == "image-only" and rollout.conditions:
        return contrastive_prompt(problem, style)
    return training_prompt(problem, twin, style)


def evaluation_prompt(
    problem: Problem, view: View | str, style: Style = "aligned", seed: int = 42
) -> Prompt:
    """The prompt of an evaluation; in aligned style exactly the words of training.

    Args:
        problem: The problem.
        view: What it shows.
        style: `paper`, `paper-author` or `aligned`.
        seed: Of the run; it chooses the number that `corrupted-transcription` changes.
    """
    view = get_view(view) if isinstance(view, str) else view
    has_image = view.picture != "none"
    if view.transcription is not None:
        return _transcription_prompt(problem, view, style, seed)
    if of_paper(style) and (own := registry.data_set_of([problem.grader]).paper_prompt):
        return registry.load(own)(problem, view, style)
    ours = view.transcribe or view.words is not None or view.verbatim or view.share < 100
    if ours or style == "aligned" or problem.own_words:
        return training_prompt(problem, view, style)
    question = problem.question_of(view.name)
    if view.conditions:
        # The original appends ", " to every structural condition, so one without a semantic clause
        # keeps it.
        structural = "".join(f"{words}, " for words in structural_conditions(problem, style))
        text = _with_conditions(structural + ", ".join(problem.semantic), question)
    else:
        text = f"Based on these conditions, answer the question: {question}"
    instruction = (
        PAPER_AUTHOR_EVALUATION_INSTRUCTION
        if style == "paper-author"
        else PAPER_EVALUATION_INSTRUCTION
    )
    return Prompt(text + instruction, has_image=has_image)


def _transcription_prompt(problem: Problem, view: View, style: Style, seed: int) -> Prompt:
    """The prompt of a view whose answer begins with a transcription.

    The user turn is that of `transcribe`, with the conditions in one of them, and the opening of
    the answer is the same. The conditions that follow it are the words of the full text.
    """
    question = training_question(problem, view, style)
    text = f"{question}\n{TRANSCRIBE_INSTRUCTION}"
    if view.transcription == "own":
        return Prompt(text, prefill=OPEN, without_prefill=text)
    true = all_conditions(problem, style)
    changed = corrupted(true, problem.question, problem.id, seed)
    if changed is None:
        raise UserError(
            f"problem {problem.id} cannot be shown in the view {view.name!r}: no condition of it"
            " has a number that the question does not state."
        )
    words = ", ".join(true if view.transcription == "true" else changed)
    return Prompt(
        text,
        prefill=f"{OPEN}{words}.",
        without_prefill=f"{question}\nThe image shows: {words}.\n{INSTRUCTION}",
    )


def paper_mathverse(problem: Problem, view: View, style: Style) -> Prompt:
    """MathVerse as the original asks it: `question_for_eval` in every version.

    Vision Only has the whole text, too.
    """
    _own_words(problem, view)  # refuses a view that the problem does not have
    instruction = (
        PAPER_AUTHOR_MATHVERSE_INSTRUCTION
        if style == "paper-author"
        else PAPER_MATHVERSE_INSTRUCTION
    )
    text = f"{problem.question_of(view.name)}\n{instruction}"
    return Prompt(
        text, system=None, prefill=PAPER_MATHVERSE_PREFILL, has_image=view.picture != "none"
    )


def _own_words(problem: Problem, view: View) -> str:
    """The user's own words for a view; a control takes those of the view it is derived from."""
    own = problem.own_words
    if view.share < 100:
        raise UserError(
            f"the view {view.name!r} needs conditions as a list, and problem {problem.id} has words"
            " of its own for each view: choose other --views."
        )
    if not own:
        raise UserError(
            f"the view {view.name!r} is a version of MathVerse's, which problem {problem.id} does"
            " not have."
        )
    name = view.name if view.name in own else "full-text" if view.conditions else "image-only"
    if name not in own:
        raise UserError(
            f"problem {problem.id} has no prompt for the view {name!r} (it has"
            f" {', '.join(sorted(own))}): add it to the file, or choose other --views."
        )
    return own[name]


# The judge: MathVerse's official five shots, as the original sends them (its raw completion
# prompt).
_JUDGE_RULES = """\
Below are two answers to a math question. Question is [Question], [Standard Answer] is the \
standard answer to the question, and [Model_answer] is the answer extracted from a model's output \
to this question.  Determine whether these two answers are consistent.
Please note that only when the [Model_answer] completely matches the [Standard Answer] means they \
are consistent. For non-multiple-choice questions, if the meaning is expressed in the same way, it \
is also considered consistent, for example, 0.5m and 50cm.
If they are consistent, Judement is 1; if they are different, Judement is 0.
"""
_JUDGE_CIRCLE = (
    "As shown in the figure, circle O has a radius 1.0, if angle BAC = 60.0, then the length of BC"
    " is ()\nChoices:\nA:2\nB:2√{3}\nC:√{3}\nD:2√{2}"
)
_JUDGE_SHOTS = (
    (
        "Write the set of numbers represented on the number line in interval notation.",
        "(-2,1]",
        r"Extracted Answer: \((-2, 1)\)",
        0,
    ),
    (_JUDGE_CIRCLE, "C", "B:2√{3}", 0),
    (
        "Find the domain and range of the function f using interval notation.",
        "domain: [-4, 0) and range: (-3, 1]",
        r"Range: \((-4, 1]\)",
        0,
    ),
    (_JUDGE_CIRCLE, "C", "null", 0),
    (
        "Given the graph of the ellipse that intersects with x-axis at 9 and -9 and with y-axis at"
        " 3 and -3, determine "
        r"its equation.A. \frac{x^2}{81} + \frac{y^2}{9} = 1 B. Can not determine." + "\n",
        "A",
        r"\frac{x^2}{81} + \frac{y^2}{9} = 1",
        1,
    ),
)
JUDGE_CHARS = 400


def judge_prompt(question: str, gold: str, answer: str, style: Style = "aligned") -> Prompt:
    """Ask a judge whether an answer states the gold: the official prompt with its five shots.

    Args:
        question: The question with its choices; of MathVerse `question_for_eval`.
        gold: The gold answer.
        answer: The model's answer. The paper styles show its last 10 characters as they are,
            aligned style the first 400 on one line and without the markers of a turn or of the next
            shot, so that an answer cannot impersonate the judge.
        style: `paper`, `paper-author` or `aligned`.
    """
    if of_paper(style):
        shown = answer[-10:]
    else:
        shown = _defused(" ".join(answer.split())[:JUDGE_CHARS])[:JUDGE_CHARS]
    shots = [f"{_judge_case(q, g, a)} {verdict}\n" for q, g, a, verdict in _JUDGE_SHOTS]
    return Prompt(
        "\n".join([_JUDGE_RULES, *shots, _judge_case(question, gold, shown)]),
        system=None,
        has_image=False,
    )


# What ends a turn in some chat template (`<|im_end|>`, `</s>`, `<end_of_turn>`, `[/INST]`), and the
# shots' own markers.
_TURN = re.compile(r"<(?=[|｜/]|(?:start|end)_of|s>|think>)")
_SHOT = re.compile(
    r"\[\s*(/?INST|/?SYS|Question|Standard[\s_]Answer|Model[\s_]answer)\s*\]", re.IGNORECASE
)
_VERDICT = re.compile(r"\b(jud(?:ge?|e)?ment)[\s:]*:", re.IGNORECASE)


def _defused(answer: str) -> str:
    """An answer with its markers made ineffective."""
    return _VERDICT.sub(r"\1", _SHOT.sub(r"(\1)", _TURN.sub("< ", answer)))


def _judge_case(question: str, gold: str, answer: str) -> str:
    return (
        f"[Question]: {question}\n[Standard Answer]: {gold}\n[Model_answer] : {answer}\nJudgement:"
    )
