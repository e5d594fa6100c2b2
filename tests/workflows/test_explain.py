"""`explain`: simulated pairs of runs in which the contribution of each part is known."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tool_logs import kit_row, lmms_row, write_lmms, write_tsv

from modgap.analysis.explained import Difference, Explanation, shapley
from modgap.cli.main import main
from modgap.core.errors import UserError
from modgap.core.json_files import write_text
from modgap.core.record import RunFolder
from modgap.core.rows import ProblemRow, Response, iter_rows, line_of
from modgap.grading.judge import Undecided, VerdictFile, VerdictRow, question_id
from modgap.grading.mathverse import Case, grade_by_rule
from modgap.workflows.explain import explain
from modgap.workflows.grade import grade_run
from modgap.workflows.logs.importing import import_logs

N = 20
GOLD = "70.710"
RIGHT, NEAR, WRONG = (rf"<think>x</think>\boxed{{{x}}}" for x in ("70.71", "71", "9"))
IN_THINKING = r"<think>so \boxed{70.71}, but"
"""The last box is inside thinking that never ends: an answer to the original's rule alone."""
Texts = Callable[[int, str, int], str]


def write(
    path: Path,
    text: Texts,
    mode: Any = "strict",
    *,
    n: int = N,
    views: Sequence[str] = ("image-only",),
    samples: int = 1,
    prompt: Callable[[int], str] = lambda number: f"solve {number}",
    tokens: Callable[[int], int] = lambda number: 10,
    resolved: Mapping[str, Any] | None = None,
    **fields: Any,
) -> Path:
    """A run whose sample `s` of problem `p` in view `v` says `text(p, v, s)`, graded by us."""
    run = RunFolder(path)
    run.start("eval", {"views": list(views), "samples": samples, "model_fingerprint": "f",
                       **(resolved or {})})  # fmt: skip
    run.write_problems(
        ProblemRow(id=f"p{p}", **({"answer": GOLD, "question": f"Find {p}."} | fields))
        for p in range(n)
    )
    limit = (resolved or {}).get("max_tokens")
    run.write_responses(
        Response(
            problem_id=f"p{p}", view=view, sample=s, prompt=prompt(p), response=text(p, view, s),
            finish_reason="length" if limit and tokens(p) >= limit else "stop",
            completion_tokens=tokens(p),
        )
        for p in range(n) for view in views for s in range(samples)
    )  # fmt: skip
    grade_run(run, mode)
    return path


def points(found: Difference) -> dict[str, float]:
    """The parts that are not 0."""
    return {part.name: pytest.approx(part.points) for part in found.parts if part.points}


def adds_up(found: Explanation) -> None:
    for each in (found.accuracy, *found.views, *([found.gap] if found.gap else [])):
        assert sum(part.points for part in each.parts) == pytest.approx(each.total.points)
        scale = 1 if each.name == "gap" else 100
        assert each.total.points == pytest.approx(scale * (each.b - each.a))


def test_tolerance_is_what_another_mode_accepts(tmp_path: Path) -> None:
    def text(p: int, view: str, s: int) -> str:
        return NEAR if p < 5 else RIGHT if p < 12 else WRONG

    a, b = write(tmp_path / "a", text), write(tmp_path / "b", text, "relative")
    found = explain(a, b)
    assert points(found.accuracy) == {"tolerance": 25.0}
    assert (found.accuracy.a, found.accuracy.b) == (0.35, 0.6)
    assert {flip.problem_id for flip in found.flips} == {f"p{p}" for p in range(5)}
    assert {(flip.because, flip.right_in, flip.answer_a) for flip in found.flips} == {
        ("tolerance", "b", "71")
    }
    # The other way round every part changes its sign.
    assert points(explain(b, a).accuracy) == {"tolerance": -25.0}
    adds_up(found)


def test_a_flip_shows_answers_that_differ_also_where_the_first_samples_agree(
    tmp_path: Path,
) -> None:
    def mixed(p: int, view: str, s: int) -> str:
        return RIGHT if s == 0 else WRONG

    a = write(tmp_path / "a", mixed, samples=2)
    b = write(tmp_path / "b", lambda p, view, s: RIGHT, samples=2)
    shown = {(flip.right_in, flip.answer_a, flip.answer_b) for flip in explain(a, b).flips}
    assert shown == {("b", "9", "70.71")}


def test_extraction_and_tolerance_of_the_original_are_told_apart(tmp_path: Path) -> None:
    def text(p: int, view: str, s: int) -> str:
        return NEAR if p < 2 else IN_THINKING if p < 8 else RIGHT if p < 10 else WRONG

    found = explain(write(tmp_path / "a", text), write(tmp_path / "b", text, "paper"))
    assert points(found.accuracy) == {"tolerance": 10.0, "extraction": 30.0}
    adds_up(found)


def test_truncation_is_what_the_shorter_limit_costs(tmp_path: Path) -> None:
    long = "<think>" + "word " * 60 + "</think>" + r"\boxed{70.71}"

    def text(p: int, view: str, s: int) -> str:
        return long if p < 8 else RIGHT

    def tokens(p: int) -> int:
        return 80 if p < 8 else 10

    def shorter(p: int, view: str, s: int) -> str:
        return text(p, view, s)[: len(long) // 2] if p < 8 else RIGHT

    a = write(tmp_path / "a", shorter, tokens=lambda p: min(tokens(p), 40),
              resolved={"max_tokens": 40})  # fmt: skip
    b = write(tmp_path / "b", text, tokens=tokens, resolved={"max_tokens": 200})
    found = explain(a, b)
    assert points(found.accuracy) == {"truncation": 40.0}
    assert any("cut at 40 tokens" in part.note for part in found.accuracy.parts if part.points)
    adds_up(found)


def test_a_box_in_thinking_that_is_cut_is_no_answer_where_the_template_opened_it(
    tmp_path: Path,
) -> None:
    """All replies that are cut are cut inside thinking, so they alone do not show who opened it."""
    long = r"so \boxed{70.71}, or " + "word " * 60 + r"</think>\boxed{70.71}"

    def text(p: int, view: str, s: int) -> str:
        return long if p < 8 else r"x</think>\boxed{70.71}"

    def shorter(p: int, view: str, s: int) -> str:
        return text(p, view, s)[: len(long) // 2] if p < 8 else text(p, view, s)

    a = write(tmp_path / "a", shorter, tokens=lambda p: 40 if p < 8 else 10,
              resolved={"max_tokens": 40})  # fmt: skip
    b = write(tmp_path / "b", text, tokens=lambda p: 80 if p < 8 else 10,
              resolved={"max_tokens": 200})  # fmt: skip
    found = explain(a, b)
    assert points(found.accuracy) == {"truncation": 40.0}
    adds_up(found)


def test_prompts_are_the_rest_where_the_words_differ_and_sampling_elsewhere(tmp_path: Path) -> None:
    def better(p: int, view: str, s: int) -> str:
        return RIGHT if p < 6 or p == 15 else WRONG

    a = write(tmp_path / "a", lambda p, view, s: WRONG)
    b = write(tmp_path / "b", better, prompt=lambda p: f"{'think, ' * (p < 10)}solve {p}")
    found = explain(a, b)
    assert points(found.accuracy) == {"prompts": 30.0, "sampling/other": 5.0}
    adds_up(found)
    same = explain(a, write(tmp_path / "c", better))
    assert points(same.accuracy) == {"sampling/other": 35.0}
    assert "prompts" not in {part.name for part in same.accuracy.parts}


def test_all_parts_at_once_on_problems_of_their_own(tmp_path: Path) -> None:
    """Disjoint problems: whatever the order, each part is the share of its problems."""
    long = "word " * 60 + r"\boxed{70.71}"

    def b_text(p: int, view: str, s: int) -> str:
        kinds = {0: NEAR, 1: IN_THINKING, 2: long, 3: RIGHT, 4: RIGHT}
        return kinds.get(p % 10, WRONG)

    def a_text(p: int, view: str, s: int) -> str:
        kind = p % 10
        if kind == 2:
            return long[:150]
        return WRONG if kind in (3, 4) else b_text(p, view, s)

    a = write(tmp_path / "a", a_text, n=50, resolved={"max_tokens": 40},
              tokens=lambda p: 40 if p % 10 == 2 else 9)  # fmt: skip
    b = write(tmp_path / "b", b_text, "paper", n=50, resolved={"max_tokens": 99},
              tokens=lambda p: 80 if p % 10 == 2 else 9,
              prompt=lambda p: f"{'think, ' * (p % 10 == 3)}solve {p}")  # fmt: skip
    found = explain(a, b)
    assert points(found.accuracy) == dict.fromkeys(
        ("tolerance", "extraction", "truncation", "prompts", "sampling/other"), 10.0
    )
    adds_up(found)
    assert {flip.because for flip in found.flips} == set(points(found.accuracy))


def test_intervals_hold_the_true_effect_of_a_prompt(tmp_path: Path) -> None:
    """30 simulated pairs: the interval misses the true 12 points in about one of 20."""
    n, samples, effect = 60, 2, 0.12
    hits = 0
    for seed in range(30):
        rng = np.random.default_rng(seed)
        chance_P = rng.beta(2, 2, n) * (1 - effect)
        drawn = [rng.random((n, samples)) < (chance_P + plus)[:, None] for plus in (0, effect)]
        paths = [
            write(
                tmp_path / f"{seed}{name}",
                lambda p, view, s, right=right: RIGHT if right[p, s] else WRONG,
                n=n, samples=samples, prompt=lambda p, name=name: f"{name} {p}",
            )
            for name, right in zip("ab", drawn, strict=True)
        ]  # fmt: skip
        found = explain(*paths)
        (part,) = (part for part in found.accuracy.parts if part.name == "prompts")
        hits += part.ci_low <= 100 * effect <= part.ci_high
        assert part.points == pytest.approx(found.accuracy.total.points)
    assert hits >= 26


def test_chance_alone_is_said_to_explain_sampling(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    drawn = rng.random((2, 40, 4)) < 0.5
    paths = [
        write(tmp_path / name, lambda p, view, s, right=right: RIGHT if right[p, s] else WRONG,
              n=40, samples=4)
        for name, right in zip("ab", drawn, strict=True)
    ]  # fmt: skip
    found = explain(*paths)
    # 1.96 * sqrt(2 * 0.25 / 160), up to the estimate of the variance
    assert found.sampling_noise == pytest.approx(10.96, rel=0.1)
    assert "which can explain sampling/other" in found.sentence


def test_chance_is_not_said_to_explain_what_is_not_there(tmp_path: Path) -> None:
    right = [[True, False]] * 10
    a = write(tmp_path / "a", lambda p, view, s: RIGHT if right[p][s] else WRONG, n=10, samples=2)
    assert "Sampling the same prompts" not in explain(a, a).sentence
    b = write(tmp_path / "b", lambda p, view, s: RIGHT, n=10, samples=2, prompt=lambda p: f"? {p}")
    assert "which does not explain prompts" in explain(a, b).sentence


def test_of_one_problem_the_intervals_are_all_that_is_possible(tmp_path: Path) -> None:
    views = ("full-text", "image-only")
    a = write(tmp_path / "a", lambda p, view, s: WRONG, n=1, views=views)
    b = write(tmp_path / "b", lambda p, view, s: RIGHT, n=1, views=views)
    found = explain(a, b)
    assert found.gap is not None
    for each, most in ((found.accuracy, 100), (found.views[0], 100), (found.gap, 200)):
        assert (each.total.ci_low, each.total.ci_high) == (-most, most)
    (judge,) = (part for part in found.accuracy.parts if part.name == "judge")
    assert judge.ci_low == judge.ci_high == 0


def test_the_gap_has_the_parts_of_its_views(tmp_path: Path) -> None:
    def text(p: int, view: str, s: int) -> str:
        return (NEAR if p < 10 else RIGHT) if view == "full-text" else RIGHT

    views = ("full-text", "image-only")
    a = write(tmp_path / "a", text, views=views)
    b = write(tmp_path / "b", text, "relative", views=views)
    found = explain(a, b)
    assert found.gap is not None
    assert points(found.gap) == {"tolerance": 50.0}
    assert (found.gap.a, found.gap.b) == (-50.0, 0.0)
    assert points(found.accuracy) == {"tolerance": 25.0}
    assert [view.name for view in found.views] == ["full-text", "image-only"]
    adds_up(found)


def test_errors_are_left_out_and_said(tmp_path: Path) -> None:
    a = write(tmp_path / "a", lambda p, view, s: RIGHT)
    b = write(tmp_path / "b", lambda p, view, s: RIGHT)
    run = RunFolder(b)
    rows = [
        row.model_copy(update={"finish_reason": "error"}) if row.problem_id == "p3" else row
        for row in run.responses()
    ]
    run.write_responses(rows)
    grade_run(run)
    found = explain(a, b)
    assert found.accuracy.n_problems == N - 1 and not points(found.accuracy)
    assert found.left_out == {f"samples of {b} without a response": 1}
    other = write(tmp_path / "c", lambda p, view, s: RIGHT, answer="5.000")
    with pytest.raises(UserError, match=r"share no problem .*another gold answer"):
        explain(a, other)


def judged(path: Path, says: Mapping[str, str]) -> Path:
    """A MathVerse run whose ten answers are all for a judge, which says what `says` has."""
    run = RunFolder(path)
    run.start("eval", {"views": ["full-text"], "samples": 1, "model_fingerprint": "f"})
    run.write_problems(
        ProblemRow(id=f"p{n}", answer="a square", question=f"What is {n}?",
                   grader="mathverse:free-form")
        for n in range(10)
    )  # fmt: skip
    texts = {n: rf"\boxed{{a rhombus of kind {n}}}" for n in range(10)}
    run.write_responses(
        Response(problem_id=f"p{n}", view="full-text", sample=0, prompt="p", response=texts[n],
                 finish_reason="stop")
        for n in range(10)
    )  # fmt: skip
    file, rows = VerdictFile(run), list[VerdictRow]()
    for judge, said in says.items():
        for n, verdict in enumerate(said):
            case = grade_by_rule(Case(texts[n], "a square", f"What is {n}?", "free-form"))
            assert isinstance(case, Undecided)
            rows.append(
                VerdictRow(judge=judge, mode="strict", question=question_id(case.prompt(), 16),
                           problem_id=f"p{n}", view="full-text", sample=0, answer=case.answer,
                           gold=case.gold, said=verdict)
            )  # fmt: skip
        file.remember("strict", {"judge": judge, "tokens": 16, "check": 0, "seed": 0})
    write_text(file.path, "".join(map(line_of, rows)))
    grade_run(run)
    return path


def test_the_judge_is_what_it_settles_or_settles_otherwise(tmp_path: Path) -> None:
    none = judged(tmp_path / "none", {})
    kind = judged(tmp_path / "kind", {"kind": "1111000000"})
    stern = judged(tmp_path / "stern", {"stern": "1000000000"})
    assert points(explain(none, kind).accuracy) == {"judge": 40.0}
    assert points(explain(kind, stern).accuracy) == {"judge": -30.0}
    # The same judge settles nothing differently: what changed is another answer's verdict.
    assert points(explain(kind, judged(tmp_path / "k2", {"kind": "1100000000"})).accuracy) == {
        "sampling/other": -20.0
    }


def test_a_judge_that_was_not_asked_counts_as_equal(tmp_path: Path) -> None:
    a = judged(tmp_path / "a", {"kind": "1111000000"})
    b = judged(tmp_path / "b", {"stern": "1000000000"})
    run = RunFolder(b)
    run.write_responses(
        row.model_copy(update={"response": r"\boxed{a kite}"}) if row.problem_id == "p1" else row
        for row in run.responses()
    )
    file = VerdictFile(run)
    case = grade_by_rule(Case(r"\boxed{a kite}", "a square", "What is 1?", "free-form"))
    assert isinstance(case, Undecided)
    rows = [*iter_rows(file.path, VerdictRow)]
    new = rows[1].model_copy(update={"question": question_id(case.prompt(), 16), "said": "1"})
    write_text(file.path, "".join(map(line_of, [rows[0], new, *rows[2:]])))
    grade_run(run)
    found = explain(a, b)
    # p2 and p3 by the judge; p1 is right in both, by judges that saw other answers.
    assert points(found.accuracy) == {"judge": -20.0}
    assert any("could not be swapped" in words for words in found.warnings)
    adds_up(found)


# ---- other tools ---------------------------------------------------------------------------------


def kit(folder: Path, rows: Sequence[tuple[str, str, bool]]) -> Path:
    """A run of VLMEvalKit's: response, what its judge extracted, and its verdict."""
    made = [
        kit_row(n, text, extract=extract, log_extract="Succeed", score=str(right),
                log_score="Succeed")
        for n, (text, extract, right) in enumerate(rows, start=1)
    ]  # fmt: skip
    write_tsv(
        folder / "M_MathVerse_MINI.tsv", [kit_row(n, row[0]) for n, row in enumerate(rows, 1)]
    )
    write_tsv(folder / "M_MathVerse_MINI_judge_score.tsv", made)
    import_logs("vlmevalkit", [folder], folder / "run")
    return folder / "run"


def test_two_tools_on_the_same_responses(tmp_path: Path) -> None:
    """The judge of one tool extracts; that of the other is wrong about two more responses."""
    boxed, bare = r"so \boxed{5}", "The answer is 5."
    texts = [boxed] * 4 + [bare] * 4 + [r"so \boxed{6}"] * 2
    scores = [1] * 4 + [0] * 4 + [1] * 2
    rows = [lmms_row(n, texts[n - 1], scores[n - 1]) for n in range(1, 11)]
    write_lmms(tmp_path / "lmms", rows)
    import_logs("lmms-eval", [tmp_path / "lmms"], tmp_path / "a")
    b = kit(tmp_path / "kit", [*((text, "5", True) for text in texts[:8]),
                               *((text, "6", False) for text in texts[8:])])  # fmt: skip
    found = explain(tmp_path / "a", b)
    assert (found.accuracy.a, found.accuracy.b) == (0.6, 0.8)
    assert points(found.accuracy) == {"extraction": 40.0, "judge": -20.0}
    adds_up(found)
    said = " ".join(found.warnings)
    assert "One run lacks the prompt of" in said and "Not recorded in both runs: " in said
    assert "what truncation changes is in the remainder" in said


def test_a_dead_judge_takes_its_samples_out_of_the_comparison(tmp_path: Path) -> None:
    rows = [lmms_row(n, r"so \boxed{5}", int(n < 3)) for n in range(1, 6)]
    write_lmms(tmp_path / "lmms", rows, calls=2)
    import_logs("lmms-eval", [tmp_path / "lmms"], tmp_path / "a")
    b = kit(tmp_path / "kit", [(r"so \boxed{5}", "5", True)] * 5)
    found = explain(tmp_path / "a", b)
    assert found.accuracy.n_problems == 2 and not points(found.accuracy)
    assert found.left_out == {f"samples of {tmp_path / 'a'} whose verdict is an error": 3}
    assert any("only a score of 0 can be unknown" in words for words in found.warnings)


# ---- the pieces ----------------------------------------------------------------------------------


def test_shapley_divides_a_joint_effect_equally_and_adds_up() -> None:
    def value(own: frozenset[str]) -> np.ndarray[Any, Any]:
        return np.array([float(own >= {"a", "b"}), float("c" in own)])

    found = shapley(["a", "b", "c"], value)
    assert [list(part) for part in found.values()] == [[0.5, 0], [0.5, 0], [0, 1]]


def test_the_command_prints_and_writes_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def text(p: int, view: str, s: int) -> str:
        return NEAR if p < 5 else RIGHT

    runs = [str(write(tmp_path / m, text, m)) for m in ("strict", "relative")]
    out = tmp_path / "why.json"
    assert main(["explain", *runs, "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "+25.0 from tolerance" in said and "5 problems and views that flip" in said
    assert main(["explain", *runs, "--json"]) == 0
    said = capsys.readouterr().out
    assert json.loads(said) == json.loads(out.read_text()) and said.isascii()
    assert main(["explain", *runs, "--out", str(tmp_path / "why.md")]) == 0
    assert "| tolerance | +25.0 |" in (tmp_path / "why.md").read_text()
    capsys.readouterr()
    assert main(["explain", *runs, "--out", "why.txt"]) == 2
    assert "give a file .json or .md" in capsys.readouterr().err
