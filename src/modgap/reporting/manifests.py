"""What a report reads from the manifests of runs.

A setting of another type than the one it has in training or evaluation would put a run into another
row of a table, or into none, without a word. So the types are checked where a manifest is read.
"""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from modgap.analysis.results import Result, Settings, first_fault
from modgap.core import recipe
from modgap.core.errors import UserError, part
from modgap.core.record import RunFolder


class Manifest(Result):
    """What a report reads from manifest.json; every field is empty for a folder without one.

    Attributes:
        kind: `eval`, `train`, `study`, `import`.
        created: When the run began.
        given: The arguments as the user gave them.
        resolved: The arguments that determine the run.
        fingerprints: Of the model and the data.
        whole: The whole file; empty if it does not exist.
    """

    # A folder may hold another program's manifest.json. It is not ours, but it must not stop a
    # report.
    model_config = ConfigDict(frozen=True, extra="ignore", coerce_numbers_to_str=True)

    kind: str = ""
    created: str = ""
    given: Settings = Field(default_factory=dict)
    resolved: Settings = Field(default_factory=dict)
    fingerprints: dict[str, str | None] = Field(default_factory=dict)
    whole: Settings = Field(default_factory=dict)

    @property
    def text(self) -> str:
        """The whole file as the page shows it; empty if it does not exist."""
        return json.dumps(self.whole, indent=2, ensure_ascii=False) if self.whole else ""

    @property
    def model(self) -> str:
        """The model's name: as given, or, in imports and older runs, as resolved."""
        return str(
            self.given.get("model")
            or self.resolved.get("model")
            or self.resolved.get("start")
            or ""
        )


class _Checked(BaseModel):
    """Types as JSON has them: a text is no number, but a whole number may stand for any."""

    model_config = ConfigDict(strict=True, extra="ignore")


def _settings_of_training() -> dict[str, Any]:
    """The types of `Settings`, by the names that a manifest has; its words are any text.

    No word is refused here: an older run may have one that there is no longer.
    """
    types = get_type_hints(recipe.Settings)
    names = {attribute: name for name, attribute in recipe.NAMES.items()}
    found: dict[str, Any] = {}
    for field in fields(recipe.Settings):
        kind = str if get_origin(types[field.name]) is Literal else types[field.name]
        if field.name == "max_refills":
            kind = float | Literal["inf"]  # JSON has no infinity
        found[field.name] = (Annotated[kind, Field(alias=names[field.name])], field.default)
    return found


class _Training(_Checked):
    """Arguments of a stage beside its settings, and those of a training."""

    stage: int = 1
    views: list[str] = []
    contrastive: bool = False
    start: str = ""
    style: str = ""
    engine: str = ""
    terms: list[dict[str, Any]] = []
    reward: dict[str, float] = {}
    policy_loss: bool = True
    recipe: str = ""
    stages: list[str] = []


class _Evaluation(_Checked):
    views: list[str] = []
    samples: int = 1
    temperature: float | Literal["model"] | None = None
    max_tokens: int | None = None
    seed: int | None = None
    style: str | None = None
    problems: int = 0
    model_fingerprint: str | None = None


class _Imported(_Evaluation):
    """Those of an import: a list where the parts of a log were sampled differently."""

    temperature: float | list[float] | None = None  # pyright: ignore[reportIncompatibleVariableOverride]
    max_tokens: int | list[int] | None = None  # pyright: ignore[reportIncompatibleVariableOverride]


_RESOLVED: dict[str, type[_Checked]] = {
    "train": create_model("_Stage", __base__=_Training, **_settings_of_training()),
    "eval": _Evaluation,
    "import": _Imported,
}


_NEEDED = ("seed", "steps")
"""Settings without which nothing says which seed of which training a stage is."""


class _Marks(_Checked):
    """Fingerprints: all of a training's, or those that an evaluation has."""

    fingerprints: dict[str, str]


class _MarksOfPart(_Checked):
    """Those of a part of an evaluation (`modgap cut`): it has none of its data."""

    fingerprints: dict[str, str | None]


def read_manifest(path: Path) -> Manifest:
    """The content of a folder's manifest.json; empty if it has none.

    Raises:
        UserError: The file is damaged, or a value in it has not its type; the message names both.
    """
    folder = RunFolder(path)
    if not folder.manifest_path.is_file():
        return Manifest()
    whole = folder.manifest()
    try:
        found = Manifest.model_validate({**whole, "whole": whole})
        if found.kind in _RESOLVED:
            _RESOLVED[found.kind].model_validate(found.resolved)
        if found.kind in ("train", "eval"):
            (_MarksOfPart if whole.get("cut_from") else _Marks).model_validate(whole)
    except ValidationError as error:
        value = part(json.dumps(error.errors()[0]["input"], default=str))[:60]
        raise UserError(
            f"{folder.manifest_path} is damaged ({first_fault(error)}, it is {value}): put the file"
            " back from a copy."
        ) from None
    return found


def missing(manifest: Manifest) -> list[str]:
    """What a stage's manifest must hold to be a row of the table over seeds, and does not."""
    names = [f"resolved.{name}" for name in _NEEDED if name not in manifest.resolved]
    return names if manifest.fingerprints.get("model") else [*names, "fingerprints.model"]
