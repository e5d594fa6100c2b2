"""What a run's name and its model's name say: model size, and recipe by its stages in order.

The authors named runs and checkpoints in several ways, all of which are read here:

    qwen7b-full-text-200-kl-no-text                   size, stages and their steps
    qwen7b_with_text_200_kl_100_without_text_200      the same in other words
    qwen3b-kl-correct-001-nograd-corr-320             KL from the base model
    with_text_200_without_text_120/ckpt_400           no size: the folder has none
    yaogy/qwen2_5_vl_7b_kl_curriculum                 a recipe's name

A name is understood whole or not at all: with a word that is not known here (`qwen7b-kl-ablation`)
it names no recipe, since it may be another one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise

from modgap.core import registry

BASE = "base"
STAGES = {
    ("full-text",): "full-text",
    ("no-text",): "no-text",
    ("mix",): "mix",
    ("full-text", "no-text"): "curriculum",
    ("full-text", "kl"): "kl",
    ("full-text", "kl", "no-text"): "kl-curriculum",
    ("kl",): "kl-from-base",
    ("no-text", "full-text"): "reverse-curriculum",
}
"""Stages in order -> recipe: those that the authors trained."""

_PAPER_MODEL = r"(?:qwen(?:[ .]?2[ .]5)?(?: ?vl)?)"
_FAMILY = re.compile(
    rf"(?:(?:{_PAPER_MODEL}(?: ?(?P<size>\d+(?:\.\d+)?)b)?|(?P<alone>\d+(?:\.\d+)?)b)"
    r"(?: instruct)?(?= |$))?"
)
# The original's answer folders: `new_9k_MODEL_4096_tmp_0.6`, `new_9k_MODEL_full_cond_max4096_...`.
_ANSWERS = re.compile(r"^new 9k | (?:full cond(?: .*)?|\d+ tmp [\d.]+)$")
# Parts of a checkpoint's path that name no run.
_NOT_A_NAME = re.compile(
    r"(?:ckpt|checkpoint|step|global step)s?(?: ?\d+)?|best|last|final|latest|actor|hf|huggingface"
    r"|merged|model|eval|(?:stage|seed) ?\d+"
)
_STAGE_WORDS = (
    (re.compile(r"(?:full|with|wiht) text(?: conditions?)?\b"), "full-text"),
    (re.compile(r"(?:(?:no|without) text(?: conditions?)?|image only)\b"), "no-text"),
    (re.compile(r"mix(?:ed)?(?: data| text)*(?: conditions?)?\b"), "mix"),
    (re.compile(r"kl(?: (?:nograd|corr(?:ect)?))*\b"), "kl"),
)
_NOISE = re.compile(
    r"(?:then|run|seed|s|eval|test|testmini|final|best|pgps9k|mathverse|9k|geo9k|geometry|dapo"
    r"|verl|ckpt|step|global|stage|nograd|corr|correct|base model|baseline|base|untrained"
    r"|no training)? ?(?:\d+(?:\.\d+)?)?\b"
)
_UNTRAINED = re.compile(r"\b(?:base|baseline|base model|untrained|no training)\b")
_TRAINED = re.compile(r"\b(?:kl|text|mix\w*|curriculum|ckpt|step|grpo|dapo|sft|rl|lora|trained)\b")


@dataclass(frozen=True, slots=True)
class Named:
    """What a name says.

    Attributes:
        recipe: The recipe; `base` for the untrained model; `None` where the name does not say, or
            holds a word that is not known.
        size: The size of the paper's model, `7B`; `None` where the name does not say.
        model: The model's own name where it is not one of the paper's; empty where it is, or where
            nothing is said.
        silent: Whether nothing in the name is about training.
    """

    recipe: str | None
    size: str | None = None
    model: str = ""
    silent: bool = False


def read_name(name: str) -> Named:
    """What the name of a run or of a model, or the path of a checkpoint, says."""
    last = _last_name(name)
    words = _ANSWERS.sub("", _ANSWERS.sub("", _plain(last))).strip()
    family = _FAMILY.match(words)
    assert family is not None  # it matches nothing, too
    rest = words[family.end() :].strip()
    size = family["size"] or family["alone"]
    if size is None and (found := re.search(r"(?:^| )(\d+(?:\.\d+)?)b(?= |$)", rest)):
        before = rest[: found.start()].strip()
        if _recipe_of(before) is not None or not before:
            size = found[1]
            rest = f"{before} {rest[found.end() :].strip()}".strip()
    recipe = _recipe_of(rest)
    if recipe is None:
        silent = not _TRAINED.search(rest)
        other = last if silent and size is None else ""
        return Named(None, size and f"{size}B", other, silent)
    if not recipe and not family.end() and not _UNTRAINED.search(rest):
        return Named(None, None, "", silent=True)  # numbers and words such as `eval`
    return Named(recipe or BASE, size and f"{size}B")


def _plain(name: str) -> str:
    """A name in lower case, with one space for every separator."""
    return re.sub(r"[^a-z0-9.]+", " ", name.lower()).strip(" .")


def _last_name(name: str) -> str:
    """The last part of a path that names something: `qwen7b-kl` of `qwen7b-kl/ckpt_200`.

    An import writes `--` for the slashes of a model's name.
    """
    # How a report tells equal names apart, and calls what a study measured on another set.
    name = re.sub(r" \(\d+\)$", "", name)
    name = re.sub(r" on [\w.-]+$", "", name)
    parts = [part for part in re.split(r"/|\\|--", name) if _plain(part)]
    named = [part for part in parts if not _NOT_A_NAME.fullmatch(_plain(part))]
    return (named or parts or [name])[-1]


def _recipe_of(words: str) -> str | None:
    """The recipe that words name: empty where they are about none, `None` if they are not known."""
    known = {_plain(recipe): recipe for recipe in [*STAGES.values(), *registry.RECIPES]}
    bare = words if words in known else _without_noise(words)
    if bare in known and (bare != "kl" or not _kl_has_steps(words)):
        return known[bare]
    stages: list[str] = []
    while words:
        for pattern, stage in _STAGE_WORDS:
            if match := pattern.match(words):
                stages.append(stage)
                break
        else:
            match = _NOISE.match(words)
        if not match or not match.end():
            return None
        words = words[match.end() :].lstrip()
    return STAGES.get(tuple(stages)) if stages else ""


def _without_noise(words: str) -> str:
    """Words without steps, seeds and what else is about no recipe, at both ends."""
    kept = words.split()
    while kept and _NOISE.fullmatch(kept[-1]):
        kept.pop()
    while kept and _NOISE.fullmatch(kept[0]) and kept[0]:
        kept.pop(0)
    return " ".join(kept)


def _kl_has_steps(words: str) -> bool:
    """Whether `kl` is followed by its steps, as in the authors' names of a KL from the base model.

    Our recipe of that name begins with full text, and its runs are called `kl` alone.
    """
    parts = words.split()
    return any(
        first == "kl" and re.fullmatch(r"\d+|corr(?:ect)?", second)
        for first, second in pairwise(parts)
    )
