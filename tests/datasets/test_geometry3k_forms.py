r"""Geometry3K's logic forms: every one becomes a sentence that can be read back, whatever it nests.

`MODGAP_GEOMETRY3K` names a folder with annotated logic forms; without it forms are generated.
"""

from __future__ import annotations

import json
import os
import re
from collections import defaultdict
from pathlib import Path

import pytest
from geometry_sentences import read_back
from hypothesis import given, settings
from hypothesis import strategies as st

from modgap.datasets.geometry3k.facts import clauses, lines_of, mattering, question
from modgap.datasets.geometry3k.forms import FormError, meaning, parse
from modgap.datasets.geometry3k.predicates import PREDICATES
from modgap.datasets.geometry3k.sentences import sentence

LISTED = """
Point Line Angle Triangle Quadrilateral Parallelogram Square Rectangle Rhombus Trapezoid Kite
Polygon Pentagon Hexagon Heptagon Octagon Circle Arc Sector Shape
RightAngle Right Isosceles Equilateral Regular Red Blue Green Shaded
AreaOf PerimeterOf RadiusOf DiameterOf CircumferenceOf AltitudeOf HypotenuseOf SideOf WidthOf
HeightOf LegOf BaseOf MedianOf IntersectionOf MeasureOf LengthOf ScaleFactorOf
PointLiesOnLine PointLiesOnCircle Parallel Perpendicular IntersectAt BisectsAngle Congruent Similar
Tangent Secant CircumscribedTo InscribedIn
IsMidpointOf IsCentroidOf IsIncenterOf IsRadiusOf IsDiameterOf IsMidsegmentOf IsChordOf IsSideOf
IsHypotenuseOf IsPerpendicularBisectorOf IsAltitudeOf IsMedianOf IsBaseOf IsDiagonalOf IsLegOf
SinOf CosOf TanOf CotOf HalfOf SquareOf SqrtOf RatioOf SumOf AverageOf Add Mul Sub Div Pow Equals
Find UseTheorem
"""


def spoken(text: str) -> str:
    return sentence(parse(text).form)


# ---- the round trip ------------------------------------------------------------------------------

POINTS = st.sampled_from(["A", "B", "C", "D'", "E''", "P1", "W", "Z"])
SOLID = ("Quadrilateral", "Parallelogram", "Square", "Rectangle", "Rhombus", "Trapezoid", "Kite")
CORNERS = {
    "Line": 2, "Angle": 3, "Triangle": 3, "Arc": 3, "Sector": 3, **dict.fromkeys(SOLID, 4),
    "Pentagon": 5, "Hexagon": 6, "Heptagon": 7, "Octagon": 8, "Polygon": 5,
}  # fmt: skip
EXPRESSIONS = st.sampled_from(
    ["x", "30", "4y-10", "2(x+5)-7", "\\frac{1}{2}y+20", "7\\sqrt{2}", "x^{2}+2x", "7 cm", "42\\pi",
     "30^\\circ", "66--y", "1.5"]
)  # fmt: skip


@st.composite
def shapes(draw: st.DrawFn, *kinds: str) -> str:
    kind = draw(st.sampled_from(kinds or [*CORNERS, "Circle", "Shape"]))
    corners = CORNERS.get(kind, 1)
    names = draw(
        st.one_of(
            st.lists(POINTS, min_size=corners, max_size=corners),
            st.sampled_from([["$"], ["$1"], ["$2"], ["1"], ["12"], ["A"]]),
            st.just([f"${number}" for number in range(1, corners + 1)]),
        )
    )
    if kind == "Line" and names == ["A"]:
        names = ["m"]
    return f"{kind}({','.join(names)})"


@st.composite
def described(draw: st.DrawFn) -> str:
    shape = draw(shapes("Triangle", "Polygon", "Shape", "Trapezoid", "Hexagon", "Sector", "Arc"))
    for adjective in draw(
        st.lists(st.sampled_from(["Isosceles", "Regular", "Red", "Shaded", "Minor"]), max_size=2)
    ):
        shape = f"{adjective}({shape})"
    return shape


ATTRIBUTES = [name for name, one in PREDICATES.items() if one.kind == "attribute"]
LENGTHS = st.one_of(
    shapes("Line").map("LengthOf({})".format),
    shapes("Angle", "Arc").map("MeasureOf({})".format),
    shapes("Arc").map("LengthOf({})".format),
    st.builds("{}({})".format, st.sampled_from(ATTRIBUTES), described()),
    EXPRESSIONS,
)
NUMBERS = st.recursive(
    LENGTHS,
    lambda inner: st.one_of(
        st.builds("{}({})".format, st.sampled_from(["HalfOf", "SquareOf", "SqrtOf"]), inner),
        st.builds(
            "{}({},{})".format,
            st.sampled_from(["Add", "Sub", "Mul", "Div", "Pow", "RatioOf", "SumOf", "AverageOf"]),
            inner,
            inner,
        ),
        st.builds("SumOf({},{},{})".format, inner, inner, inner),
        st.builds("RatioOf({})".format, inner),
        st.builds(
            "{}({})".format,
            st.sampled_from(["SinOf", "CosOf", "TanOf", "CotOf"]),
            st.one_of(shapes("Angle"), st.just("x")),
        ),
    ),
    max_leaves=5,
)
LINE = shapes("Line")
RELATIONS = [
    name
    for name, one in PREDICATES.items()
    if (one.kind == "is-of" or name in ("Congruent", "Similar", "CircumscribedTo", "InscribedIn"))
]
POINT = POINTS.map("Point({})".format)
FORMS = st.one_of(
    shapes(),
    shapes("Line", "Circle", "Angle", "Arc"),
    st.builds("{}({})".format, st.sampled_from(["Isosceles", "Equilateral", "Regular", "Right",
                                                "Blue", "Green", "Shaded"]), described()),
    shapes("Angle").map("RightAngle({})".format),
    st.builds("Equals({},{})".format, NUMBERS, NUMBERS),
    NUMBERS.map("Find({})".format),
    st.sampled_from(["UseTheorem(Pythagorean_Theorem)", "UseTheorem(13)"]),
    st.builds("{}({},{})".format, st.sampled_from(["Parallel", "Perpendicular"]), LINE, LINE),
    st.builds("Parallel({},{},{})".format, LINE, LINE, LINE),
    st.builds("{}({},{})".format, st.sampled_from(["Tangent", "Secant"]), LINE, shapes("Circle")),
    st.builds("{}({},{},{})".format, st.sampled_from(["Tangent", "Secant"]), LINE,
              shapes("Circle"), st.one_of(POINT, shapes("Circle"))),
    st.builds("Tangent({},{},{},{})".format, LINE, shapes("Circle"), shapes("Circle"), POINT),
    st.builds("Perpendicular({},{},{})".format, LINE, LINE, POINT),
    st.builds("BisectsAngle({},{})".format, LINE, shapes("Angle", "Line")),
    st.builds("IntersectAt({},{},{})".format, LINE, shapes("Line", "Circle"), POINT),
    st.builds("IntersectAt({},{},{},{})".format, LINE, LINE, LINE, POINT),
    st.builds("PointLiesOnLine({},{})".format, POINT, LINE),
    st.builds("PointLiesOnLine({},LegOf({}))".format, POINT, shapes("Trapezoid")),
    st.builds("PointLiesOnCircle({},{})".format, POINT, shapes("Circle")),
    st.builds("{}({},{})".format, st.sampled_from([r for r in RELATIONS if r != "IsMidpointOf"]),
              described(), described()),
    st.builds("IsMidpointOf({},{})".format, POINT, LINE),
    st.builds("Find(ScaleFactorOf({},{}))".format, described(), described()),
    st.builds("Equals(AreaOf(IntersectionOf({},{},{})),5)".format, shapes(), shapes(), shapes()),
)  # fmt: skip


@settings(max_examples=300)
@given(FORMS)
def test_a_sentence_reads_back_as_its_form(text: str) -> None:
    form = parse(text).form
    words = sentence(form)
    assert read_back(words) == str(form).replace(" ", "") or read_back(words) == str(form)
    assert not re.search(r"[A-Z][a-z]+Of|\$|radius_", words)


def test_no_predicate_of_the_list_is_unknown_and_none_shares_its_words() -> None:
    assert len(set(LISTED.split())) == 91 and set(LISTED.split()) <= set(PREDICATES)
    words = defaultdict[str, list[str]](list)
    for name, one in PREDICATES.items():
        words[f"{one.kind} {one.word}"].append(name)
    assert [names for names in words.values() if len(names) > 1] == [["RightAngle", "Right"]]


def annotated_forms() -> dict[str, list[str]]:
    if not (folder := os.environ.get("MODGAP_GEOMETRY3K")):
        pytest.skip("MODGAP_GEOMETRY3K names no folder with annotated logic forms")
    found = defaultdict[str, list[str]](list)
    for file in Path(folder).glob("*_logic_forms_annot*.json"):
        for name, entry in json.loads(file.read_bytes()).items():
            for forms in entry.values():
                if isinstance(forms, list) and all(isinstance(form, str) for form in forms):
                    found[name] += [form for form in forms if "(" in form]
    return found


def test_every_annotated_form_has_a_sentence_of_its_own() -> None:
    forms = annotated_forms()
    said = defaultdict[str, set[str]](set)
    for texts in forms.values():
        for text in texts:
            form = parse(text).form
            said[sentence(form)].add(str(form))
            assert read_back(sentence(form)) == str(form), text
    assert len(forms) > 1000 and all(len(same) == 1 for same in said.values())


# ---- what single forms say -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Equals(LengthOf(Line(T, R)), x+21)", "TR = x+21"),
        ("Equals(MeasureOf(Angle(T, R, S)), 4y-10)", r"m \angle TRS = 4y-10"),
        ("Equals(MeasureOf(Angle(F, E, I)), MeasureOf(angle 4))", r"m \angle FEI = m \angle 4"),
        ("Equals(Angle(3),Angle(C))", r"m \angle 3 = m \angle C"),
        ("Equals(LengthOf(Line(A,B)),Line(B,C))", "AB = BC"),
        ("Equals(LengthOf(Line(B, A)), LengthOf(c))", "BA = c"),
        ("Equals(Line(A',B'),7 inches)", "A'B' = 7 inches"),
        ("PointLiesOnCircle(M, Circle(K, radius_7_0))", r"point M lies on \odot K"),
        ("Find(AreaOf(Shaded(Sector($))))", "find the area of the shaded sector"),
        ("Similar(Shape($1),Shape($2))", "the first shape is similar to the second shape"),
        ("Equals(MeasureOf(Major(Arc(A,D,C))),y)", r"m major \widehat ADC = y"),
        ("Find(RatioOf(TanOf(MeasureOf(Angle(V)))))", r"find the ratio of \tan \angle V"),
        ("Equals(2*LengthOf(Line(A,B))+3,x)", "(2 \\times AB) + 3 = x"),
        ("Equals(SquareOf(Line(A,B)),Add(SquareOf(Line(B,C)),9))",
         "the square of AB = (the square of BC) + 9"),
        ("Equals(HalfOf(Add(Line(A,B),9)),x)", "half of (AB + 9) = x"),
        ("Equals(Pow(-x,2),y^{-1}+2*-z)", "(-x) ^ 2 = y^{-1}+2*-z"),
        ("Equals(3MeasureOf(Angle(A)),90)", r"3 \times m \angle A = 90"),
        ("RegularPolygon(A,B,C,D,E)", "polygon ABCDE is regular"),
        ("Find(AreaOf(RegularHexagon($)))", "find the area of the regular hexagon"),
        ("Triangle(ABC)", "ABC is a triangle"),
        ("Find(x,y)", "find x and y"),
        ("Similar(Triangle(A,B,C),Triangle(D,E,F),Triangle(G,H,I))",
         "\\triangle ABC is similar to \\triangle DEF and \\triangle GHI"),
        ("Tangent(Line(A,B),Circle(O),Circle(P))", "line AB is tangent to \\odot O and \\odot P"),
        ("Tangent(Line(A,B),Circle(O),Point(A))", "line AB is tangent to \\odot O at point A"),
        ("Tangent(Line(A,B),Circle(O),A)", "line AB is tangent to \\odot O at point A"),
        ("Secant(Line(A,B),Circle(O),Point(A))", "line AB is a secant of \\odot O at point A"),
        ("Perpendicular(Line(A,B),Line(C,D),Point(E))", "AB \\perp CD at point E"),
    ],
)  # fmt: skip
def test_the_ways_to_write_the_same_are_one(text: str, words: str) -> None:
    parsed = parse(text)
    assert sentence(parsed.form) == words and parsed.repairs == ()


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("Equals(LengthOf(PerimeterOf(Cirle(C))), 12)",
         "Equals(LengthOf(PerimeterOf(Circle(C))),12)"),
        ("equals(LenghtOf(Line(A,B)),5)", "Equals(LengthOf(Line(A,B)),5)"),
        ("PointLiesOnLine(Y, Line(Z, I)) K))", "PointLiesOnLine(Point(Y),Line(Z,I))"),
        ("Equals(LengthOf(Line(A,B),5)", "Equals(LengthOf(Line(A,B)),5)"),
        ("Equals(LengthOf(Line(A,B))),5)", "Equals(LengthOf(Line(A,B)),5)"),
        ("Tangent(Line(E,D),Circle(F)) at Point(E)", "Tangent(Line(E,D),Circle(F),Point(E))"),
        ("Find(MeasureOf(Angle(A))", "Find(MeasureOf(Angle(A)))"),
        ("Equals(MeasureOf(Angle(X, Y, Z)), MeasureOf(A, E, F))",
         "Equals(MeasureOf(Angle(X,Y,Z)),MeasureOf(Angle(A,E,F)))"),
        ("Equals(MeasureOf(Line(A, E,N)), 2x-15)", "Equals(MeasureOf(Angle(A,E,N)),2x-15)"),
        ("Equals(Line(A,B),66--y)", "Equals(LengthOf(Line(A,B)),66--y)"),
        ("Equals(Line(A,B),3x+)", "Equals(LengthOf(Line(A,B)),3x+)"),
        ("Equals(Line(A,B),5,)", "Equals(LengthOf(Line(A,B)),5)"),
        ("PointLiesOnCircle(A, G)", "PointLiesOnCircle(Point(A),Circle(G))"),
        ("PointLiesOnLine(Line(A,B), Point(C))", "PointLiesOnLine(Point(C),Line(A,B))"),
        ("PointLiesOnCircle(Circle(O), A)", "PointLiesOnCircle(Point(A),Circle(O))"),
        ("IsDiameterOf(Circle(O),Line(A,B))", "IsDiameterOf(Line(A,B),Circle(O))"),
        ("IsMidpointOf(Line(A,B),Point(M))", "IsMidpointOf(Point(M),Line(A,B))"),
        ("BisectsAngle(Angle(A,B,C),Line(B,D))", "BisectsAngle(Line(B,D),Angle(A,B,C))"),
        ("Secant(Circle(O),Line(A,B))", "Secant(Line(A,B),Circle(O))"),
        ("IntersectAt(Point(E),Line(A,B),Line(C,D))",
         "IntersectAt(Line(A,B),Line(C,D),Point(E))"),
        ("IsCircumcenterOf(Point(P),Triangle(A,B,C))",
         "IsCircumcenterOf(Point(P),Triangle(A,B,C))"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_an_annotation_is_repaired_and_said(text: str, meant: str) -> None:
    parsed = parse(text)
    assert str(parsed.form) == meant and len(parsed.repairs) >= 1
    assert all("\n" not in repair for repair in parsed.repairs)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Frobnicates(Line(A,B),Circle(O))", "unknown-predicate"),
        ("Equals(Frobnicates(A,B),5)", "unknown-predicate"),
        ("Parallel(Line(A,B))", "malformed-form"),
        ("SinOf()", "malformed-form"),
        ("Right()", "malformed-form"),
        ("Equals(IntersectAt(),x)", "malformed-form"),
        ("x+5", "malformed-form"),
        ("", "malformed-form"),
        ("))((", "malformed-form"),
        ("Find(" * 50 + "x" + ")" * 50, "malformed-form"),
        ("Triangle(Line(A,B),C,D)", "malformed-form"),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(text: str, kind: str) -> None:
    with pytest.raises(FormError) as caught:
        parse(text)
    assert caught.value.kind == kind
    assert kind != "unknown-predicate" or "'Frobnicates'" in str(caught.value)


@given(st.text(alphabet="AB(),xLineEqualsOf \\{}$1'", max_size=60))
def test_no_text_breaks_the_parser(text: str) -> None:
    try:
        form = parse(text).form
    except FormError:
        return
    assert sentence(form)


# ---- facts ---------------------------------------------------------------------------------------


def forms(*texts: str) -> list:
    return [parse(text).form for text in texts]


@given(st.permutations("ABCDEF"), st.integers(3, 6), st.randoms())
def test_all_facts_of_a_line_are_one_line_in_order(order: list[str], count: int, random) -> None:
    points = order[:count]
    facts = [
        (points[b], *random.sample([points[a], points[c]], 2))
        for a in range(count) for b in range(a + 1, count) for c in range(b + 1, count)
    ]  # fmt: skip
    random.shuffle(facts)
    (line,) = lines_of(facts)
    assert list(line) in (points, points[::-1])


def test_no_order_is_made_up() -> None:
    # Where C is, to the left or right of B, is not said; and two facts that exclude each other.
    assert sorted(lines_of([("B", "A", "D"), ("C", "A", "D")])) == [
        ("A", "B", "D"),
        ("A", "C", "D"),
    ]
    assert len(lines_of([("B", "A", "C"), ("A", "B", "C")])) == 2
    assert len(lines_of([("P", "A", "B"), ("P", "C", "D")])) == 2  # two lines cross in P


def test_points_that_nothing_names_are_left_out() -> None:
    line = [("A", "B", "C", "D")]
    assert mattering(line, {"A", "B", "C"}) == [("A", "B", "C")]
    assert mattering(line, {"A", "D"}) == []
    assert mattering([("A", "P", "B"), ("C", "P", "D")], "ABCD") == [
        ("A", "P", "B"), ("C", "P", "D")
    ]  # fmt: skip


def test_the_clauses_of_a_diagram() -> None:
    diagram = forms(
        "PointLiesOnLine(B, Line(A, C))",
        "PointLiesOnLine(Y, Line(X, Z))",
        "PointLiesOnCircle(A, Circle(O, radius_0_0))",
        "PointLiesOnCircle(C, Circle(O, radius_0_0))",
        "Equals(LengthOf(Line(A, B)), 5)",
        "Equals(5, LengthOf(Line(B, A)))",
        "PointLiesOnLine(T, Line(m))",
    )
    said = clauses(diagram, [], "Find B C.")
    assert said.structural == ("line A B C", "\\odot O lieson A C")
    assert said.semantic == ("AB = 5", "point T is on line m")


def test_the_question_leaves_out_what_the_diagram_states() -> None:
    text = forms("Equals(LengthOf(Line(A,B)),5)", "Parallelogram(A,B,C,D)", "Find(x)")
    same = forms("Equals(5, LengthOf(Line(B, A)))")
    other = forms("Equals(LengthOf(Line(A, B)), 6)")
    words = "ABCD is a parallelogram and AB = 5. Find x."
    assert question(text, same, words) == "ABCD is a parallelogram. Find x."
    assert question(text, other, words) == words
    assert question(text[:1], same, words) == words  # without a goal nothing would be asked
    assert question(text, [], "") == "AB = 5, ABCD is a parallelogram. Find x."


@pytest.mark.parametrize(
    ("words", "kept"),
    [
        ("AB = 5. Find x. Round to the nearest tenth if necessary.", "to the nearest tenth"),
        ("If AB = 5, find x in simplest radical form.", "in simplest radical form"),
        ("If AB = 5, find x to two decimal places.", "to two decimal places"),
    ],
)
def test_the_form_of_the_answer_stays_in_the_question(words: str, kept: str) -> None:
    text = forms("Equals(LengthOf(Line(A,B)),5)", "Find(x)")
    assert question(text, text[:1], words) == f"Find x. Give the answer {kept}."


def test_the_same_meaning_in_another_order() -> None:
    def same(one: str, other: str) -> bool:
        return meaning(parse(one).form) == meaning(parse(other).form)

    assert same("Parallel(Line(A,B),Line(C,D))", "Parallel(Line(D,C),Line(B,A))")
    assert same("Equals(MeasureOf(Angle(A,B,C)),5)", "Equals(5,MeasureOf(Angle(C,B,A)))")
    assert not same("Equals(MeasureOf(Angle(A,B,C)),5)", "Equals(MeasureOf(Angle(B,A,C)),5)")
    assert not same("IsMidpointOf(Point(A),Line(B,C))", "IsMidpointOf(Point(B),Line(A,C))")
