"""Objective terms as data: what a stage adds to the policy loss, and what its reward is made of.

A response is sampled after one prompt, the *rollout*. A term scores the same tokens after another
one, the *twin*: another view of the problem, the same words with another picture, or the same
prompt with other weights. It then pulls the two together (`coef` above 0), pushes them apart
(`coef` below 0), or weighs tokens by their difference. `training/objective.py` has the formulas.

The paper's contrastive KL is `Term(twin="image-only", detach="rollout", estimator="k3", clamp=10,
coef=0.01, rows="right")` in a stage whose view is `full-text`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, fields, replace
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

from modgap.core.errors import UserError, unknown
from modgap.core.view import get_view

Estimator = Literal["k3", "forward", "reverse", "jsd", "full_vocab", "nll"]
Detach = Literal["rollout", "twin", "none"]
Rows = Literal["right", "wrong", "all"]
Role = Literal["loss", "weight", "advantage"]
Teacher = Literal["live", "frozen", "ema"]
TwinPicture = Literal["own", "blank", "masked", "swapped", "noised"]

PAPER_CLAMP = 10.0
"""The paper's clamp of k3."""


class Twin(NamedTuple):
    """What a term scores beside a rollout; terms with equal twins share one.

    Attributes:
        view: Its view; empty for the rollout's own words.
        picture: Its picture.
        ratio: Of a masked or noised picture.
        seed: Of a masked or noised picture.
        teacher: The weights that score it.
        decay: Of an EMA teacher.
    """

    view: str
    picture: TwinPicture
    ratio: float | None
    seed: int
    teacher: Teacher
    decay: float | None

    @property
    def shown(self) -> tuple[Any, ...]:
        """What the model is shown: twins that differ in their weights only are shown the same."""
        return self[:4]


@dataclass(frozen=True, slots=True)
class Term:
    """One term of a stage's objective.

    Args and attributes (each can be set by `--set termN.NAME=VALUE`):

    Attributes:
        twin: View of the second prompt, any that can be trained on; empty for the rollout's own
            words (then `picture` or `teacher` must differ from the rollout's).
        detach: The side without gradient: `rollout`, `twin` or `none`. The side that is named is
            the teacher of the estimator; with `none` the twin is. In the roles `weight` and
            `advantage` no side has a gradient, and `detach` only names the teacher.
        estimator: `k3`, `forward` (KL of teacher to student), `reverse` (KL of student to teacher),
            `jsd`, `full_vocab` (`forward`, summed exactly over the vocabulary), or `nll`: minus the
            log-probability of the sampled tokens after the twin.
        clamp: Largest size of a token's value: beyond it the token has no gradient. `None` for no
            clamp.
        coef: Coefficient. Above 0 pulls the sides together, below 0 pushes them apart. Of a weight:
            from just above 0 (hardly any effect) to 1 (full effect).
        rows: Responses that the term uses: `right` (answer's reward 1.0: correct and well
            formatted), `wrong` (all others) or `all`.
        role: `loss` adds `coef * mean`; `weight` multiplies each token's policy gradient;
            `advantage` adds to each token's advantage.
        teacher: Weights that score the twin: `live` (those being trained), `frozen` (those at the
            start of the stage) or `ema` (a moving average of them).
        decay: Of `ema`: average = decay * average + (1 - decay) * weights, after each update.
        picture: Picture of the twin: its `own`, `blank` (white), `masked` (some of the patches that
            the model sees, of 14 x 14 pixels, are black), `swapped` (that of the next problem) or
            `noised`.
        ratio: `masked`: share of patches; `noised`: standard deviation of the noise, as a share of
            the full range of a pixel.
        seed: Of the masked patches and of the noise. The same seed and image give the same picture
            throughout a training.
        rollout: View of the rollouts that the term uses; empty for all views of the stage.
        top: Of a weight: only this share of a response's tokens, those with the largest values,
            keep their gradient; `None` weighs every token in proportion to its value.
        trajectory: Of a weight: the smallest factor of a whole response. A response's factor grows
            with its mean value, and the factors of a mini-batch have the mean 1. `None` for none.
    """

    twin: str = ""
    detach: Detach = "rollout"
    estimator: Estimator = "k3"
    clamp: float | None = None
    coef: float = 0.01
    rows: Rows = "right"
    role: Role = "loss"
    teacher: Teacher = "live"
    decay: float | None = None
    picture: TwinPicture = "own"
    ratio: float | None = None
    seed: int = 0
    rollout: str = ""
    top: float | None = None
    trajectory: float | None = None

    @property
    def teaches(self) -> Literal["rollout", "twin"]:
        """The side that is the estimator's teacher."""
        return "rollout" if self.detach == "rollout" else "twin"

    @property
    def of_itself(self) -> bool:
        """Whether the twin is the rollout itself, as only `nll` allows: nothing else is scored."""
        return not self.twin and self.picture == "own" and self.teacher == "live"

    @property
    def scored(self) -> Twin | None:
        """Its twin; `None` where that is the rollout itself."""
        if self.of_itself:
            return None
        return Twin(self.twin, self.picture, self.ratio, self.seed, self.teacher, self.decay)

    @property
    def learns_from_rollout(self) -> bool:
        """Whether its gradient flows through the rollout's prompt."""
        if self.role != "loss":
            return False
        return self.of_itself if self.estimator == "nll" else self.detach != "rollout"

    @property
    def learns_from_twin(self) -> bool:
        """Whether its gradient flows through the twin."""
        return self.role == "loss" and self.detach != "twin" and not self.of_itself

    @property
    def text_free(self) -> bool:
        """Whether the twin is the problem without its text, as the paper's is."""
        return self.twin == "image-only" and self.picture == "own"

    @property
    def contrastive(self) -> bool:
        """Whether it is the paper's contrastive KL, up to its coefficient, estimator and clamp."""
        plain = Term(twin="image-only", estimator=self.estimator, clamp=self.clamp, coef=self.coef)
        return (
            self == plain
            and self.coef >= 0
            and self.estimator in ("k3", "forward", "full_vocab")
            and (self.clamp is None or (self.estimator == "k3" and self.clamp == PAPER_CLAMP))
        )

    @property
    def title(self) -> str:
        """What it is, for a reader: `reverse KL to full-text (ema)`."""
        if self.contrastive:
            return "contrastive KL"
        names = {"nll": "nll", "jsd": "jsd", "full_vocab": "full-vocabulary KL"}
        what = names.get(self.estimator, f"{self.estimator} KL")
        to = [self.twin, "" if self.picture == "own" else f"{self.picture} picture"]
        where = " with ".join(filter(None, to)) or "itself"
        notes = [
            self.role if self.role != "loss" else "",
            self.teacher if self.teacher != "live" else "",
            "apart" if self.coef < 0 else "",
        ]
        kind = ", ".join(filter(None, notes))
        return f"{what} {'of' if self.estimator == 'nll' else 'to'} {where}" + (
            f" ({kind})" if kind else ""
        )

    def changes(self) -> dict[str, Any]:
        """Its values that differ from the defaults, as JSON holds them."""
        out: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, int) and field.name != "seed":
                value = float(value)
            if value != field.default or field.default is MISSING:
                out[field.name] = value
        return out

    def check(self, name: str, views: Sequence[str], policy_loss: bool) -> None:
        """Refuse what cannot work.

        Args:
            name: What messages call it, `term1`.
            views: The stage's views.
            policy_loss: Whether the stage has a policy loss.

        Raises:
            UserError: A value is out of range, or two contradict each other.
        """
        _check_values(self, name)
        _check_sides(self, name, views)
        _check_role(self, name, policy_loss)


def _check_values(term: Term, name: str) -> None:
    """Refuse a value that is not among the choices or out of its range."""
    for key, kind in _TYPES.items():
        value = getattr(term, key)
        if get_origin(kind) is Literal:
            if value not in get_args(kind):
                raise unknown(f"value of {name}.{key}", str(value), get_args(kind))
        elif kind is str:
            if not isinstance(value, str):
                raise UserError(f"{name}.{key}={value!r}: give a view's name.")
        elif value is None and kind is not float and kind is not int:
            continue
        elif isinstance(value, bool) or not isinstance(value, int | float):
            raise UserError(f"{name}.{key}={value!r}: give a number.")
        elif not math.isfinite(value):
            raise UserError(f"{name}.{key}={value}: must be a finite number.")
    if term.seed < 0 or term.seed % 1:
        raise UserError(f"{name}.seed={term.seed}: must be a whole number of at least 0.")
    if term.clamp is not None and term.clamp <= 0:
        raise UserError(f"{name}.clamp={term.clamp}: must be above 0, or none.")
    if term.teacher == "ema":
        if term.decay is None:
            raise UserError(f"{name}.teacher=ema needs its decay: give {name}.decay, such as 0.99.")
        if not 0 < term.decay < 1:
            raise UserError(f"{name}.decay={term.decay}: must be above 0 and below 1.")
    elif term.decay is not None:
        raise UserError(
            f"{name}.decay={term.decay} is of teacher=ema, and the teacher is {term.teacher}:"
            " leave it out."
        )
    if term.picture in ("masked", "noised"):
        if term.ratio is None:
            raise UserError(
                f"{name}.picture={term.picture} needs its ratio: give {name}.ratio, such as 0.6."
            )
        if not 0 < term.ratio <= 1:
            raise UserError(f"{name}.ratio={term.ratio}: must be above 0, at most 1.")
    elif term.ratio is not None:
        raise UserError(
            f"{name}.ratio={term.ratio} is of masked and noised pictures, and the picture is"
            f" {term.picture}: leave it out."
        )


def _check_sides(term: Term, name: str, views: Sequence[str]) -> None:
    """Refuse a twin that cannot be made, or that is the rollout itself."""
    if term.rollout and term.rollout not in views:
        raise UserError(
            f"{name}.rollout={term.rollout}: the stage's views are {', '.join(views)}: give one of"
            " them, or leave it out."
        )
    if term.twin:
        view = get_view(term.twin)
        if view.picture in ("blank", "swapped"):
            raise UserError(
                f"{name}.twin={term.twin}: write it as the view with the same words and"
                f" picture={view.picture}."
            )
    rolled = (term.rollout,) if term.rollout else tuple(views)
    shown = (term.twin,) if term.twin else rolled
    bare = [view for view in shown if get_view(view).picture == "none"]
    if bare and term.picture != "own":
        raise UserError(
            f"{name}.picture={term.picture}: the view {bare[0]} has no picture that could be"
            " changed."
        )
    if term.estimator == "nll":
        if term.detach == "twin":
            raise UserError(
                f"{name}.detach=twin: the estimator nll has a gradient through the twin only, so"
                " that nothing would be trained: leave detach out."
            )
        if term.teacher != "live":
            raise UserError(
                f"{name}.teacher={term.teacher}: the estimator nll trains the twin, which only the"
                " live weights can be: leave teacher out."
            )
        return
    same = [view for view in rolled if term.twin in ("", view)]
    if same and term.picture == "own" and term.teacher == "live":
        others = [view for view in rolled if view not in same]
        remedy = (
            f"set rollout={others[0]} so that the term leaves those rollouts out"
            if others
            else "give another view, picture or teacher"
        )
        raise UserError(
            f"{name}.twin={term.twin or same[0]} is the rollout itself where that is {same[0]}: the"
            f" two sides are equal and the term is zero: {remedy}."
        )
    if term.teacher != "live" and term.detach != "twin":
        raise UserError(
            f"{name}.teacher={term.teacher} has weights that are not trained, so the twin has no"
            f" gradient: give {name}.detach=twin."
        )
    if term.teacher != "live" and term.estimator == "full_vocab":
        raise UserError(
            f"{name}.estimator=full_vocab with teacher={term.teacher} would keep the whole"
            " vocabulary's probabilities of every token: choose another estimator, or teacher=live."
        )


def _check_role(term: Term, name: str, policy_loss: bool) -> None:
    """Refuse a role that does not fit the rest."""
    if term.role != "weight":
        for key in ("top", "trajectory"):
            if getattr(term, key) is not None:
                raise UserError(
                    f"{name}.{key}={getattr(term, key)} is of role=weight, and the role is"
                    f" {term.role}: leave it out."
                )
    if term.role == "loss":
        return
    if not policy_loss:
        raise UserError(
            f"{name}.role={term.role} changes the policy loss, which the stage does not have:"
            " set policy_loss=true, or role=loss."
        )
    if term.estimator in ("full_vocab", "nll"):
        raise UserError(
            f"{name}.role={term.role} needs a value of each sampled token, which"
            f" estimator={term.estimator} does not give: choose k3, forward, reverse or jsd."
        )
    if term.role == "advantage":
        if term.detach != "twin":
            raise UserError(
                f"{name}.role=advantage rewards tokens that the twin finds likely, so the twin is"
                f" the teacher: give {name}.detach=twin."
            )
        return
    if not 0 <= term.coef <= 1:
        raise UserError(
            f"{name}.coef={term.coef}: a weight's coefficient is from 0 (no effect) to 1 (full"
            " effect)."
        )
    if term.top is None and term.estimator not in ("k3", "jsd"):
        raise UserError(
            f"{name}.estimator={term.estimator} can be negative, and a weight in proportion to it"
            f" then is, too: choose k3 or jsd, or give {name}.top."
        )
    for key in ("top", "trajectory"):
        value = getattr(term, key)
        if value is not None and not 0 < value <= 1:
            raise UserError(f"{name}.{key}={value}: must be above 0, at most 1.")


Place = Literal["live", "later", "still"]


def places_of(terms: Sequence[Term], together: bool = True) -> dict[Twin, set[Place]]:
    """Where each twin of an objective is scored; those that only `full_vocab` uses are left out.

    `live` twins have a gradient and are rows of the policy's passes, `later` ones have passes of
    their own, `still` ones have no gradient and are scored before the passes.

    Args:
        terms: The objective.
        together: Whether the policy's passes have room for twins.
    """
    using: dict[Twin, list[Term]] = {}
    for term in terms:
        if term.scored is not None and term.estimator != "full_vocab":
            using.setdefault(term.scored, []).append(term)
    out: dict[Twin, set[Place]] = {}
    for twin, users in using.items():
        out[twin] = set()
        if not any(term.learns_from_twin for term in users):
            out[twin].add("still")
            continue
        # A pass of its own can follow the policy's only if these need nothing of the twin.
        needed = any(term.role != "loss" or term.learns_from_rollout for term in users)
        out[twin].add("live" if together or needed else "later")
        if any(term.trajectory is not None for term in users):
            out[twin].add("still")  # factors of responses are known before the passes
    return out


_TYPES: dict[str, Any] = get_type_hints(Term)
TERM_NAMES = tuple(field.name for field in fields(Term))
"""The names that `--set termN.` takes."""


def set_field(term: Term, name: str, key: str, text: str) -> Term:
    """A term with one value replaced, as `--set termN.key=text` says.

    Raises:
        UserError: There is no such value, or it is not of its type.
    """
    if key not in _TYPES:
        raise unknown(f"setting of {name}", key, TERM_NAMES)
    return replace(term, **{key: _parsed(_TYPES[key], f"{name}.{key}", text)})


def _parsed(kind: Any, name: str, text: str) -> Any:
    """The value of a text in a field's type; `none` where a number may be absent."""
    if kind is str:
        return text
    if get_origin(kind) is Literal:
        if text not in get_args(kind):
            raise unknown(f"value of {name}", text, get_args(kind))
        return text
    optional = type(None) in get_args(kind)
    if optional and text.lower() == "none":
        return None
    whole = kind is int
    try:
        return int(text) if whole else float(text)
    except ValueError:
        what = "a whole number" if whole else "a number, or none" if optional else "a number"
        raise UserError(f"--set {name}={text}: {name} takes {what}.") from None


@dataclass(frozen=True, slots=True)
class Reward:
    """What a response is rewarded for.

    The reward is `answer * (the answer's reward) + reading * (share of the conditions read)`; the
    overlong penalty is added to it. `right` rows are those whose answer's reward is 1.0.

    Attributes:
        answer: Factor of the answer's reward: 0.9 for correct and 0.1 for well formatted, or what
            `reward.function` returns.
        reading: Factor of the share of the problem's true conditions that the response states
            first (`analysis.transcription.share_read`), from 0 to 1.
    """

    answer: float = 1.0
    reading: float = 0.0

    def check(self) -> None:
        """Refuse what cannot work. Raises `UserError`."""
        for name in ("answer", "reading"):
            value = getattr(self, name)
            if not math.isfinite(value) or value < 0:
                raise UserError(f"reward.{name}={value}: must be a number of at least 0.")

    @property
    def plain(self) -> bool:
        """Whether it is the answer's reward alone."""
        return self == Reward()
