"""Terms as data: what is accepted, what is refused and why, and what `--set` changes."""

from __future__ import annotations

from dataclasses import replace

import pytest

import modgap
from modgap.core.assign import apply_settings
from modgap.core.errors import UserError
from modgap.core.options import TrainOptions
from modgap.core.recipe import Recipe, Settings, Stage
from modgap.core.registry import RECIPES
from modgap.core.terms import Reward, Term, places_of
from modgap.training.setup import identity
from modgap.workflows.train import idle_settings, resolve_recipe, resolve_recipes

PAPER = Term(twin="image-only", detach="rollout", estimator="k3", clamp=10, coef=0.01, rows="right")


def stage_of(*terms: Term, views: tuple[str, ...] = ("full-text",), **changes: object) -> Stage:
    return Stage(views, terms=terms, **changes)  # type: ignore[arg-type]


def recipe_of(*terms: Term, **changes: object) -> Recipe:
    return Recipe("mine", (stage_of(*terms, **changes),))  # type: ignore[arg-type]


def identified(stage: Stage) -> dict[str, object]:
    return identity(Recipe("r", (stage,)), 1, "base", "aligned")


def test_the_papers_kl_is_a_term_and_is_known_as_it_always_was() -> None:
    flag, written = Stage(("full-text",), contrastive=True), stage_of(PAPER)
    assert modgap.Term is Term and modgap.Stage is Stage and modgap.Reward is Reward
    assert flag.all_terms == written.all_terms and flag.title == written.title
    assert flag.title == "full-text + contrastive KL"
    assert identified(flag) == identified(written)
    known = identified(flag)
    assert (known["contrastive"], known["kl_coef"], known["kl_clamp"]) == (True, 0.01, "paper")
    assert not {"terms", "reward", "policy_loss"} & known.keys()


@pytest.mark.parametrize(
    "values",
    [
        {"kl_coef": 0.1}, {"kl_clamp": "none"}, {"kl_estimator": "forward"},
        {"kl_estimator": "full_vocab"}, {"kl_coef": 0.0},
    ],
    ids=str,
)  # fmt: skip
def test_the_settings_of_the_papers_kl_reach_both_ways_of_writing_it(
    values: dict[str, object],
) -> None:
    assignments = [f"{key}={value}" for key, value in values.items()]
    stages = []
    for stage in (Stage(("full-text",), contrastive=True), stage_of(PAPER)):
        recipe = apply_settings(Recipe("r", (stage,)), assignments)
        stages.append(recipe.stages[0])
        assert identified(recipe.stages[0]).items() >= values.items()
    assert stages[0].all_terms == stages[1].all_terms
    assert stages[0].title == stages[1].title == "full-text + contrastive KL"


def test_one_term_one_view_and_lists_are_taken_as_well() -> None:
    written = stage_of(PAPER)
    assert Stage("full-text", terms=PAPER) == Stage(["full-text"], terms=[PAPER]) == written  # type: ignore[arg-type]


def test_a_value_of_a_term_can_be_set_by_its_number() -> None:
    kl = RECIPES.load("kl")()
    changed = apply_settings(kl, ["term1.coef=0.5"])
    assert changed.stages[0] == kl.stages[0]  # it has no term
    assert identified(changed.stages[1])["kl_coef"] == 0.5
    assert identified(changed.stages[1]) == identified(
        apply_settings(kl, ["stage2.kl_coef=0.5", "stage1.kl_coef=0.01"]).stages[1]
    )
    two = recipe_of(PAPER, replace(PAPER, estimator="jsd", clamp=None))
    (stage,) = apply_settings(two, ["stage1.term2.clamp=3", "term2.rows=all"]).stages
    assert stage.terms[0] == PAPER and stage.terms[1] == Term(
        "image-only", "rollout", "jsd", 3.0, 0.01, "all"
    )
    for text, words in (
        ("term3.coef=1", "has no such term (stage 1 has 2)"),
        ("term1.coeff=1", "setting of term1 'coeff'"),
        ("term1.rows=some", "choose from all, right, wrong"),
        ("term1.coef=x", "term1.coef takes a number"),
        ("stage2.term1.coef=1", "has stages 1 to 1"),
        ("term0.coef=1", "numbered from 1"),
    ):
        with pytest.raises(UserError) as caught:
            apply_settings(two, [text])
        assert words in str(caught.value).replace("`", ""), caught.value


def test_a_setting_of_a_term_goes_to_the_recipes_of_a_study_that_have_it() -> None:
    found = resolve_recipes(["kl", "full-text"], ["term1.coef=0.2"])
    assert identified(found["kl"].stages[1])["kl_coef"] == 0.2
    assert found["full-text"].stages[0].all_terms == ()
    with pytest.raises(UserError, match="has no such term"):
        resolve_recipes(["no-text", "full-text"], ["term1.coef=0.2"])


@pytest.mark.parametrize(
    ("recipes", "settings", "words"),
    [
        ("full-text", "kl_coef=0.1", "no stage of full-text uses kl_coef"),
        ("distill", "kl_coef=0.1", "uses kl_coef; the term of distill has term1.coef"),
        ("papo", "kl_estimator=k3", "uses kl_estimator; the term of papo has term1.estimator"),
        ("self-trace", "clip_low=0.1", "no stage of self-trace uses clip_low"),
        ("self-trace", "max_refills=3", "no stage of self-trace uses max_refills"),
        ("kl", "stage1.kl_coef=0.1", "stage 1 of kl does not use kl_coef; stage 2 does"),
        ("kl", "kl_estimator=forward kl_clamp=none", "no stage of kl uses kl_clamp"),
        ("full-text", "eval_every=0 validation_views=own", "uses validation_views"),
        ("kl", "term1.rows=all kl_coef=0.5", "the term of kl has term1.coef"),
        ("kl", "kl_coef=0.5 term1.rows=all", ""),
        ("kl", "kl_coef=0.01 lr=2 reward.answer=1 term1.coef=0.01 verl.x=1", ""),
        ("full-text kl", "kl_coef=0.1 stage2.lr=1 term1.coef=0.1", ""),
        ("full-text no-text", "kl_coef=0.1", "no stage of full-text, no-text uses kl_coef"),
    ],
)
def test_a_setting_that_nothing_uses_is_named_and_a_used_one_is_not(
    recipes: str, settings: str, words: str
) -> None:
    names, given = recipes.split(), settings.split()
    resolve_recipes(names, given)
    said = idle_settings(names, given)
    assert len(said) == bool(words) and all(line.endswith(words) for line in said)


@pytest.mark.parametrize(
    ("recipes", "settings", "winners"),
    [
        ("kl", "stage2.kl_coef=0.3 kl_coef=0.2", "kl_coef=0.2 holds"),
        ("kl", "kl_coef=0.3 kl_coef=0.2", "kl_coef=0.2 holds"),
        ("kl", "kl_coef=0.3 stage2.kl_coef=0.2", "stage2.kl_coef=0.2 holds"),
        ("kl", "lr=1 stage2.lr=2 stage1.lr=3", "stage1.lr=3, stage2.lr=2 hold"),
        ("kl", "term1.coef=1 stage2.term1.coef=2", "stage2.term1.coef=2 holds"),
        ("kl", "verl.+a.b=1 verl.a.b=2", "verl.a.b=2 holds"),
        ("full-text kl", "stage1.lr=1 lr=2", "lr=2 holds"),
        ("kl", "lr=1 stage2.lr=2", ""),
        ("kl", "stage2.lr=2e-6 lr=0.000002", ""),
        ("full-text kl", "lr=1 stage1.lr=2", ""),
    ],
)
def test_a_setting_that_later_ones_override_is_named_with_them(
    recipes: str, settings: str, winners: str
) -> None:
    names, given = recipes.split(), settings.split()
    said = idle_settings(names, given)
    words = f"--set {given[0]} changes nothing: the later {winners}"
    assert said == ([words] if winners else [])


def test_two_coefficients_of_one_term_are_refused() -> None:
    for settings in (
        ["kl_coef=0.5", "term1.coef=0.2"],
        ["stage2.term1.coef=0.2", "kl_coef=0.5"],
        ["kl_clamp=none", "term1.clamp=5"],
        ["term1.estimator=forward", "kl_estimator=k3"],
    ):
        with pytest.raises(UserError, match=r"kl_\S+ and term1\.\S+ are the same .* leave one"):
            resolve_recipe("kl", settings)
        with pytest.raises(UserError, match=r"stage 2 of kl"):
            resolve_recipes(["full-text", "kl"], settings)
    same = resolve_recipe("kl", ["kl_coef=0.5", "term1.coef=0.50", "stage1.kl_coef=1"])
    assert same.stages[1].setting("kl_coef") == 0.5
    resolve_recipe("distill", ["kl_coef=0.5", "term1.coef=0.2"])  # of which one is idle
    preset = TrainOptions(preset="paper-7b")
    assert resolve_recipe("kl", ["term1.coef=0.2"], {}, preset).stages[1].setting("kl_coef") == 0.2


def test_the_parts_of_the_reward_and_the_policy_loss_can_be_set() -> None:
    plain = recipe_of(replace(PAPER, estimator="nll", clamp=None))
    (stage,) = apply_settings(
        plain, ["reward.reading=0.5", "reward.answer=2", "policy_loss=false"]
    ).stages
    assert stage.reward == Reward(2.0, 0.5) and not stage.policy_loss
    known = identified(stage)
    assert known["reward"] == {"answer": 2.0, "reading": 0.5} and known["policy_loss"] is False
    assert known["terms"] == [{"twin": "image-only", "estimator": "nll"}]


@pytest.mark.parametrize(
    ("term", "words"),
    [
        (Term(), "is the rollout itself where that is full-text"),
        (Term("full-text"), "is the rollout itself where that is full-text"),
        (Term("full-text", "twin", "reverse"), "is the rollout itself"),
        (Term("imageonly"), "imageonly"),
        (Term("blank-image"), "write it as the view with the same words and picture=blank"),
        (Term("image-only", estimator="k4"), "value of term1.estimator"),  # type: ignore[arg-type]
        (Term("image-only", rollout="image-only"), "the stage's views are full-text"),
        (
            Term("image-only", role="weight", estimator="full_vocab"),
            "a value of each sampled token",
        ),
        (Term("image-only", role="weight", estimator="forward"), "can be negative"),
        (Term("image-only", role="weight", coef=1.5), "from 0 (no effect) to 1"),
        (Term("image-only", role="weight", top=0.0), "term1.top=0.0"),
        (Term("image-only", top=0.4), "is of role=weight"),
        (Term("image-only", trajectory=0.9), "is of role=weight"),
        (Term("image-only", role="advantage"), "give term1.detach=twin"),
        (Term("image-only", "twin", "nll", role="advantage"), "detach=twin: the estimator nll"),
        (Term("image-only", teacher="ema", detach="twin"), "needs its decay"),
        (Term("image-only", "twin", teacher="ema", decay=1.0), "below 1"),
        (Term("image-only", decay=0.9), "is of teacher=ema"),
        (Term("image-only", teacher="frozen"), "give term1.detach=twin"),
        (Term("image-only", "twin", "full_vocab", teacher="frozen"), "whole vocabulary"),
        (Term("image-only", "twin", "nll"), "leave detach out"),
        (Term("image-only", estimator="nll", teacher="frozen"), "leave teacher out"),
        (Term(picture="masked"), "needs its ratio"),
        (Term(picture="masked", ratio=1.2), "at most 1"),
        (Term("image-only", ratio=0.6), "is of masked and noised pictures"),
        (Term("text-only", picture="blank"), "has no picture"),
        (Term("image-only", clamp=-1.0), "term1.clamp=-1.0"),
        (Term("image-only", coef=float("nan")), "finite"),
        (Term("image-only", seed=-1), "term1.seed"),
        ({"twin": "image-only"}, "term1 is a dict: give a Term"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_work_is_refused_with_a_reason(term: Term, words: str) -> None:
    with pytest.raises(UserError) as caught:
        recipe_of(term).check()
    assert words in str(caught.value).replace("`", ""), caught.value


def test_a_twin_that_is_one_of_the_stages_views_needs_the_view_that_is_rolled_out() -> None:
    term = Term("image-only", "twin", "reverse")
    with pytest.raises(UserError, match="set rollout=full-text"):
        recipe_of(term, views=("full-text", "image-only")).check()
    recipe_of(replace(term, rollout="full-text"), views=("full-text", "image-only")).check()


def test_a_stage_that_would_train_nothing_is_refused() -> None:
    for changes, words in (
        ({"policy_loss": False}, "no policy loss and no term"),
        ({"reward": Reward(0, 0)}, "no reward and no term"),
    ):
        with pytest.raises(UserError, match=words):
            recipe_of(**changes).check()
    still = Term("image-only", "twin", "reverse", role="advantage")
    with pytest.raises(UserError, match="set policy_loss=true"):
        recipe_of(still, policy_loss=False).check()
    with pytest.raises(UserError, match="dynamic_sampling=false"):
        recipe_of(still, reward=Reward(0, 0)).check()
    kept = Settings(dynamic_sampling=False)
    recipe_of(still, reward=Reward(0, 0), settings=kept).check()


def test_every_value_of_a_term_identifies_the_stage() -> None:
    base = Term("image-only", "twin", "k3", None, 0.5, "all", "weight", top=0.4)
    others = (
        replace(base, estimator="jsd"), replace(base, clamp=10.0), replace(base, coef=0.4),
        replace(base, rows="right"), replace(base, top=0.5), replace(base, trajectory=0.9),
        replace(base, detach="rollout"), replace(base, picture="masked", ratio=0.5),
        replace(base, picture="masked", ratio=0.5, seed=1), replace(base, rollout="full-text"),
        replace(base, teacher="frozen"), replace(base, teacher="ema", decay=0.9),
    )  # fmt: skip
    known = [str(identified(stage_of(term))) for term in (base, *others)]
    assert len(set(known)) == len(known)


def test_twins_are_scored_where_they_must_be() -> None:
    masked = Term(picture="masked", ratio=0.6, detach="none", coef=-0.01, rows="all")
    nll = replace(masked, estimator="nll", coef=0.03, detach="rollout")
    stage = stage_of(masked, nll, Term(estimator="nll", rows="all"))
    assert len(stage.twins) == 1  # one twin for two terms; the rollout is its own
    assert list(places_of(stage.objective).values()) == [{"live"}]
    assert list(places_of([nll], together=False).values()) == [{"later"}]
    assert list(places_of([masked], together=False).values()) == [{"live"}]
    assert list(places_of([replace(masked, detach="twin")]).values()) == [{"still"}]
    weight = Term("image-only", role="weight", top=0.4, trajectory=0.9, rows="all")
    assert list(places_of([weight, replace(PAPER)]).values()) == [{"live", "still"}]
