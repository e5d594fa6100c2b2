r"""The words that are sent: every string here is written by hand from the rules, none is computed
by them.
"""

from __future__ import annotations

import pytest
from folders import CORNERS, record
from hypothesis import given
from hypothesis import strategies as st

from modgap.core.errors import UserError
from modgap.core.problem import Problem, Shown
from modgap.core.prompt import (
    INSTRUCTION,
    STYLES,
    Style,
    check_style,
    conditions,
    contrastive_prompt,
    contrastive_question,
    evaluation_prompt,
    structural_condition,
    training_prompt,
    training_question,
)
from modgap.core.view import VIEWS, get_view

TRAINING_INSTRUCTION = (
    r"You should FIRST think about the reasoning process as an internal monologue and then provide"
    r" the final answer. "
    r"The reasoning process MUST BE enclosed within <think> </think> tags. The final answer MUST BE"
    r" put in \boxed{}."
)
EVALUATION_INSTRUCTION = (
    r"You FIRST think about the reasoning process as an internal monologue and then provide the"
    r" final answer. "
    r"The reasoning process MUST BE enclosed within <think> </think> tags. The final answer MUST BE"
    r" put in \boxed{}"
)


EVALUATION_INSTRUCTIONS: dict[Style, str] = {
    "paper": EVALUATION_INSTRUCTION,
    # The first author's own repository.
    "paper-author": EVALUATION_INSTRUCTION.replace("You FIRST", "You should FIRST"),
}


def problem(name: str = "plain", **changes: object) -> Problem:
    value = CORNERS[name] | changes if changes else CORNERS[name]
    return Problem(
        id="prob_1",
        question=value["text"],
        answer=value["answer"],
        structural=tuple(value["parsing_stru_seqs"]),
        semantic=tuple(value["parsing_sem_seqs"]),
    )


@pytest.mark.parametrize(
    ("clause", "paper", "aligned"),
    [
        ("line A B", "", ""),
        ("line A B C", "B is on line AC", "B is on line AC"),
        ("line A B C D", "A, B are on line CD", "B, C are on line AD"),
        ("line A B C D E", "A, B, C are on line DE", "B, C, D are on line AE"),
        ("line m lieson A", "A lie on line m", "A lie on line m"),
        ("line m lieson A B C", "A, B, C lie on line m", "A, B, C lie on line m"),
        (
            "\\odot O lieson A",
            "In \\odot O, point A lie on \\odot O",
            "In \\odot O, point A lie on \\odot O",
        ),
        (
            "\\odot O lieson A B",
            "In \\odot O, point A, B lie on \\odot O",
            "In \\odot O, point A, B lie on \\odot O",
        ),
        ("  line   A  B\tC ", "B is on line AC", "B is on line AC"),
        # Of no known form: nothing.
        ("", "", ""),
        ("line", "", ""),
        ("line A", "", ""),
        ("line m lieson", "", ""),
        ("polygon A B C D", "", ""),
        ("circle O lieson A B", "", ""),
        ("\\odot O", "", ""),
        ("\\odot O lieson", "", ""),
        ("\\odot O A lieson B", "", ""),
    ],
)
def test_what_a_structural_clause_says(clause: str, paper: str, aligned: str) -> None:
    assert structural_condition(clause, "paper") == paper
    assert structural_condition(clause, "aligned") == aligned


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("plain", "B is on line AC, AB = 7, BC = x"),
        ("no_semantic", "B is on line AC"),
        ("nothing", ""),
        ("nothing_said", ""),
        ("unknown", "AB = 7, BC = x"),
        ("circles", "In \\odot O, point A lie on \\odot O, "
                    "In \\odot O, point A, B lie on \\odot O, "
                    "In \\odot P, point C, D, E, F lie on \\odot P, AB = 7, BC = x"),
        ("lieson", "A lie on line m, A, B lie on line m, A, B, C, D lie on line k, AB = 7, BC = x"),
    ],
)  # fmt: skip
def test_conditions_are_structural_then_semantic(name: str, words: str) -> None:
    assert conditions(problem(name), "paper") == words
    assert conditions(problem(name), "aligned") == words


def test_semantic_clauses_are_sent_as_they_are() -> None:
    assert (
        conditions(problem("spaces"), "paper")
        == "B is on line AC, A, B are on line CD,  AB = 7 , x,  "
    )
    assert (
        conditions(problem("long_lines"), "paper")
        == "A, B are on line CD, A, B, C are on line DE, P, Q, R, S, T are on line UV, AB = 7,"
        " BC = x"
    )
    assert (
        conditions(problem("long_lines"), "aligned")
        == "B, C are on line AD, B, C, D are on line AE, Q, R, S, T, U are on line PV, AB = 7,"
        " BC = x"
    )


def test_training_in_paper_style() -> None:
    full = training_prompt(problem(), "full-text", "paper")
    assert full.text == (
        "In this problem, B is on line AC, AB = 7, BC = x.\nBased on these conditions, answer the"
        " question: Find x.\n" + TRAINING_INSTRUCTION
    )
    assert full.system == "You are a helpful assistant." and full.prefill == "" and full.has_image
    assert training_prompt(problem(), "image-only", "paper").text == (
        "Based on the information in the image, answer the question: Find x.\n"
        + TRAINING_INSTRUCTION
    )
    assert contrastive_prompt(problem(), "paper").text == (
        "Based on these conditions in the image, answer the question: Find x.\n"
        + TRAINING_INSTRUCTION
    )


@pytest.mark.parametrize("name", ["nothing", "nothing_said"])
def test_training_without_any_condition(name: str) -> None:
    from_image = "Based on the information in the image, answer the question: Find x."
    # The two scripts of the original differ here.
    assert (
        training_question(problem(name), "full-text", "paper")
        == "In this problem, .\nBased on these conditions, answer the question: Find x."
    )
    assert training_question(problem(name), "full-text", "paper", contrastive=True) == from_image
    assert training_question(problem(name), "full-text", "aligned") == from_image


@pytest.mark.parametrize(("style", "instruction"), EVALUATION_INSTRUCTIONS.items())
def test_evaluation_as_the_original_has_no_separator_before_the_instruction(
    style: Style, instruction: str
) -> None:
    assert evaluation_prompt(problem(), "full-text", style).text == (
        "In this problem, B is on line AC, AB = 7, BC = x.\nBased on these conditions, answer the"
        " question: Find x." + instruction
    )
    assert evaluation_prompt(problem(), "image-only", style).text == (
        "Based on these conditions, answer the question: Find x." + instruction
    )


@pytest.mark.parametrize(("style", "instruction"), EVALUATION_INSTRUCTIONS.items())
def test_evaluation_as_the_original_keeps_a_comma_where_there_is_no_semantic_clause(
    style: Style, instruction: str
) -> None:
    assert evaluation_prompt(problem("no_semantic"), "full-text", style).text == (
        "In this problem, B is on line AC, .\nBased on these conditions, answer the question:"
        " Find x." + instruction
    )
    assert evaluation_prompt(problem("nothing"), "full-text", style).text == (
        "In this problem, .\nBased on these conditions, answer the question: Find x." + instruction
    )


@pytest.mark.parametrize("name", list(CORNERS))
def test_training_has_the_same_words_in_both_originals(name: str) -> None:
    for view in ("full-text", "image-only"):
        for contrastive in (False, True):
            author, paper = (
                training_prompt(problem(name), view, style, contrastive=contrastive)
                for style in ("paper-author", "paper")
            )
            assert author == paper
    assert contrastive_prompt(problem(name), "paper-author") == contrastive_prompt(
        problem(name), "paper"
    )


def test_aligned_evaluation_has_no_comma_where_there_is_no_semantic_clause() -> None:
    assert (
        "B is on line AC.\n"
        in evaluation_prompt(problem("no_semantic"), "full-text", "aligned").text
    )


def test_aligned_style_to_the_letter() -> None:
    full = (
        "In this problem, B is on line AC, AB = 7, BC = x.\nBased on these conditions, answer the"
        " question: Find x.\n"
    )
    image_only = "Based on the information in the image, answer the question: Find x.\n"
    assert training_prompt(problem(), "full-text").text == full + TRAINING_INSTRUCTION
    assert training_prompt(problem(), "image-only").text == image_only + TRAINING_INSTRUCTION
    assert contrastive_prompt(problem()).text == image_only + TRAINING_INSTRUCTION
    assert INSTRUCTION == TRAINING_INSTRUCTION


CLAUSES = st.lists(
    st.one_of(
        st.lists(st.sampled_from("ABCDEFG"), min_size=2, max_size=6, unique=True).map(
            lambda p: "line " + " ".join(p)
        ),
        st.lists(st.sampled_from("ABCDEFG"), min_size=1, max_size=5, unique=True).map(
            lambda p: "\\odot O lieson " + " ".join(p)
        ),
        st.lists(st.sampled_from("ABCDEFG"), min_size=1, max_size=5, unique=True).map(
            lambda p: "line m lieson " + " ".join(p)
        ),
    ),
    max_size=5,
)
VALUES = st.lists(
    st.sampled_from(["AB = 7", "m \\angle ABC = 90", "x = 2y", "AB \\parallel CD"]), max_size=4
)


@given(CLAUSES, VALUES)
def test_aligned_evaluation_says_what_training_said(
    structural: list[str], semantic: list[str]
) -> None:
    one = Problem("p", "Find x.", "1", structural=tuple(structural), semantic=tuple(semantic))
    for view in VIEWS.values():
        if not view.transcribe:
            assert evaluation_prompt(one, view) == training_prompt(one, view)
    assert contrastive_question(one) == training_question(one, "image-only")


@given(CLAUSES, VALUES, st.sampled_from(["paper", "aligned"]))
def test_a_view_without_conditions_is_the_same_whatever_the_conditions(
    structural: list[str], semantic: list[str], style: str
) -> None:
    one = Problem("p", "Find x.", "1", structural=tuple(structural), semantic=tuple(semantic))
    bare = Problem("p", "Find x.", "1")
    for view in VIEWS.values():
        if not view.conditions and view.transcription in (None, "own"):
            assert evaluation_prompt(one, view, check_style(style)) == evaluation_prompt(
                bare, view, check_style(style)
            )
    assert contrastive_question(one, check_style(style)) == contrastive_question(
        bare, check_style(style)
    )


@given(CLAUSES, VALUES, st.sampled_from(["paper", "aligned"]))
def test_a_view_with_conditions_writes_every_one(
    structural: list[str], semantic: list[str], style: str
) -> None:
    one = Problem("p", "Find x.", "1", structural=tuple(structural), semantic=tuple(semantic))
    text = training_question(one, "full-text", check_style(style))
    assert all(clause in text for clause in semantic)
    said = structural_condition
    assert all(said(clause, check_style(style)) in text for clause in structural)
    assert "Find x." in text and ",  " not in text and ", ," not in text


@given(st.lists(st.sampled_from("ABCDEFGHIJ"), min_size=3, max_size=8, unique=True))
def test_aligned_style_puts_the_inner_points_on_the_line_of_its_ends(points: list[str]) -> None:
    words = structural_condition("line " + " ".join(points))
    inner, _, line = words.partition(" is on line " if len(points) == 3 else " are on line ")
    assert line == points[0] + points[-1]
    assert inner.split(", ") == points[1:-1]


def test_which_controls_have_an_image() -> None:
    shown = {name: evaluation_prompt(problem(), name).has_image for name in VIEWS}
    assert shown == {
        "full-text": True, "image-only": True, "text-only": False, "question-only": False,
        "blank-image": True, "swapped-image": True, "transcribe": True, "as-published": True,
        "rendered-text": True,
        "own-transcription": True, "true-transcription": True, "corrupted-transcription": True,
        "full-text-transcription": True,
    }  # fmt: skip
    assert "image" not in evaluation_prompt(problem(), "text-only").text
    assert training_question(problem(), "question-only") == "Answer the question: Find x."
    assert training_question(problem("nothing"), "text-only") == "Answer the question: Find x."


def test_own_words_are_used_verbatim_in_every_style() -> None:
    own = Problem(
        "p", "q", "1", shown={"full-text": Shown("AB = 7. Find x."), "image-only": Shown("Find x.")}
    )
    for style in ("paper", "aligned"):
        assert training_question(own, "full-text", style) == "AB = 7. Find x."
        assert (
            evaluation_prompt(own, "image-only", style).text == "Find x.\n" + TRAINING_INSTRUCTION
        )
        assert contrastive_question(own, style) == "Find x."
    # A control takes the words of the view that it is derived from.
    assert training_question(own, "swapped-image") == "AB = 7. Find x."
    assert training_question(own, "question-only") == "Find x."


def test_own_words_that_are_missing_are_named() -> None:
    own = Problem("p7", "q", "1", shown={"full-text": Shown("AB = 7. Find x.")})
    with pytest.raises(
        UserError, match=r"p7 has no prompt for the view 'image-only' \(it has full-text\)"
    ):
        evaluation_prompt(own, "image-only")


def test_an_unknown_style_lists_the_styles() -> None:
    with pytest.raises(
        UserError,
        match=r"unknown style 'papper': choose from aligned, paper, paper-author\. Did you mean",
    ):
        check_style("papper")


@pytest.mark.parametrize(
    ("question", "leaky"),
    [
        ("Find x.", False),
        ("Find m \\angle 1.", False),
        ("Find \\angle 2 and \\angle 3.", False),
        ("If AB = CD, find x.", True),
        ("The area is 25 square inches. Find x.", True),
        (record()["text"], False),
    ],
)
def test_a_question_that_states_a_condition_is_leaky(question: str, leaky: bool) -> None:
    assert Problem("p", question, "1").leaky is leaky


def test_partial_text_writes_a_share_of_the_conditions() -> None:
    problems = [
        Problem(f"p{i}", "Find x.", "1", semantic=tuple(f"A{n} = {n}" for n in range(8)))
        for i in range(30)
    ]
    written: dict[int, list[set[str]]] = {}
    for share in (25, 50, 75):
        words = [training_question(p, f"partial-text-{share}") for p in problems]
        assert words == [training_question(p, f"partial-text-{share}") for p in problems]
        written[share] = [{c for c in p.semantic if c in w}
                          for p, w in zip(problems, words, strict=True)]  # fmt: skip
        assert all(len(found) == share * 8 // 100 for found in written[share])
        # In the order of the full text.
        for found, text in zip(written[share], words, strict=True):
            ordered = [c for c in problems[0].semantic if c in found]
            assert text == training_question(
                Problem("p", "Find x.", "1", semantic=tuple(ordered)), "full-text"
            )
    for less, more in ((25, 50), (50, 75)):
        assert all(a < b for a, b in zip(written[less], written[more], strict=True))
    # Another problem, other conditions; each of them somewhere.
    assert len(set(map(frozenset, written[25]))) > 5
    assert set().union(*written[25]) == set(problems[0].semantic)


def test_partial_text_of_few_conditions_rounds_to_the_nearest() -> None:
    problem = Problem("p", "Find x.", "1", semantic=("AB = 7", "BC = 8"))
    asked = {n: training_question(problem, f"partial-text-{n}") for n in (24, 25, 74, 75)}
    assert asked[24] == training_question(problem, "image-only")
    assert sum(c in asked[25] for c in problem.semantic) == 1 and asked[25] == asked[74]
    assert asked[75] == training_question(problem, "full-text")


def test_partial_text_is_trained_on_as_it_is_measured() -> None:
    problem = Problem("p", "Find x.", "1", semantic=("AB = 7", "BC = 8"))
    for style in STYLES:
        view = "partial-text-50"
        assert evaluation_prompt(problem, view, style) == training_prompt(problem, view, style)


@pytest.mark.parametrize("name", ["partial-text", "partial-text-0", "partial-text-100"])
def test_a_share_that_is_another_view_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="1 to 99 percent"):
        get_view(name)


def test_partial_text_needs_conditions_as_a_list() -> None:
    problem = Problem("p", "Find x.", "1", shown={"full-text": Shown("AB = 7. Find x.")})
    with pytest.raises(UserError, match="words of its own"):
        training_question(problem, "partial-text-50")
