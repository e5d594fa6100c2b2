"""A value of another type in a manifest is named, where it would change a table in silence."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from reported_runs import report_numbers
from written_studies import write_studies

from modgap.core.errors import UserError
from modgap.core.recipe import NAMES, Settings

STAGE, RECIPE, EVAL = "kl/stage2", "kl", "kl/eval"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweep")
    write_studies(folder, 2)
    return folder


@pytest.fixture
def change(written: Path, tmp_path: Path) -> Callable[..., list[Path]]:
    """The studies, with another manifest in one folder of the second."""
    studies = [shutil.copytree(path, tmp_path / path.name) for path in sorted(written.iterdir())]

    def changed(folder: str, edit: Callable[[dict[str, Any]], object]) -> list[Path]:
        path = studies[1] / folder / "manifest.json"
        manifest = json.loads(path.read_text())
        edit(manifest)
        path.write_text(json.dumps(manifest))
        return studies

    return changed


def test_the_sound_studies_have_no_note(change: Callable[..., list[Path]]) -> None:
    numbers = report_numbers(change(STAGE, lambda manifest: None))
    assert [row.seeds for row in numbers.seeds[0].rows if row.recipe == "kl"] == [[0, 1]]
    assert "lacks" not in " ".join(numbers.warnings)


@pytest.mark.parametrize(
    ("folder", "key", "value", "said"),
    [
        (STAGE, "lr", "5e-5", '"5e-5"'),
        (STAGE, "lr", [1e-6], "[1e-06]"),
        (STAGE, "steps", "8", '"8"'),
        (STAGE, "steps", 2.5, "2.5"),
        (STAGE, "seed", "1", '"1"'),
        (STAGE, "dynamic_sampling", 1, "1"),
        (STAGE, "kl_estimator", None, "null"),
        (STAGE, "reward.tolerance", 3, "3"),
        (STAGE, "views", "full-text", '"full-text"'),
        (RECIPE, "stages", 2, "2"),
        (RECIPE, "recipe", ["kl"], '["kl"]'),
        (EVAL, "samples", "2", '"2"'),
        (EVAL, "views", {"full-text": 1}, '{"full-text": 1}'),
    ],
)
def test_a_setting_of_another_type_is_refused_by_name(
    change: Callable[..., list[Path]], folder: str, key: str, value: Any, said: str
) -> None:
    studies = change(folder, lambda manifest: manifest["resolved"].update({key: value}))
    with pytest.raises(UserError) as error:
        report_numbers(studies)
    words = str(error.value)
    assert str(studies[1] / folder / "manifest.json") in words and "\n" not in words
    assert key in words and said in words


@pytest.mark.parametrize("mark", [0, None, ["base"]])
@pytest.mark.parametrize(("folder", "name"), [(STAGE, "model"), (EVAL, "data_fingerprint")])
def test_a_fingerprint_is_text(
    change: Callable[..., list[Path]], folder: str, name: str, mark: Any
) -> None:
    studies = change(folder, lambda manifest: manifest["fingerprints"].update({name: mark}))
    with pytest.raises(UserError, match=f"fingerprints.{name}"):
        report_numbers(studies)


@pytest.mark.parametrize("name", ["seed", "steps"])
def test_a_stage_without_its_seed_or_steps_is_left_out_with_a_note(
    change: Callable[..., list[Path]], name: str
) -> None:
    numbers = report_numbers(change(STAGE, lambda manifest: manifest["resolved"].pop(name)))
    assert "kl" not in [row.recipe for row in numbers.seeds[0].rows if len(row.seeds) > 1]
    assert any(f"lacks resolved.{name}" in words for words in numbers.warnings)


def test_a_setting_that_one_seed_lacks_is_named(change: Callable[..., list[Path]]) -> None:
    numbers = report_numbers(change(STAGE, lambda manifest: manifest["resolved"].pop("lr")))
    assert any("lacks lr" in words and "stage2" in words for words in numbers.warnings)


def test_a_setting_that_is_omitted_at_its_default_is_not_lacking(
    change: Callable[..., list[Path]],
) -> None:
    numbers = report_numbers(change(STAGE, lambda m: m["resolved"].update(freeze="tower")))
    assert "lacks" not in " ".join(numbers.warnings)
    assert [row.recipe for row in numbers.seeds[0].rows if row.recipe.startswith("kl (")]


def test_every_setting_of_training_is_checked(change: Callable[..., list[Path]]) -> None:
    """A setting that is added to `Settings` needs no further line here."""
    for name, attribute in NAMES.items():
        wrong: Any = 7 if isinstance(getattr(Settings(), attribute), str) else "seven"
        studies = change(STAGE, lambda m, n=name, w=wrong: m["resolved"].update({n: w}))
        with pytest.raises(UserError, match="is damaged") as error:
            report_numbers(studies)
        assert name in str(error.value)
        change(STAGE, lambda m, n=name: m["resolved"].update({n: getattr(Settings(), NAMES[n])}))


@pytest.mark.parametrize("line", ["null", "NaN", "{}", "5", '{"step": true}'])
def test_a_line_of_a_log_that_is_no_step_is_refused(
    change: Callable[..., list[Path]], line: str
) -> None:
    studies = change(STAGE, lambda manifest: None)
    (studies[1] / STAGE / "train_log.jsonl").write_text(f"{line}\n")
    with pytest.raises(UserError, match=r"train_log.jsonl(.*no object|.*is not a whole number)"):
        report_numbers(studies)


@pytest.mark.parametrize("content", ["", None])
def test_a_training_without_the_steps_of_its_log_is_left_out_with_a_note(
    change: Callable[..., list[Path]], content: str | None
) -> None:
    studies = change(STAGE, lambda manifest: None)
    log = studies[1] / STAGE / "train_log.jsonl"
    log.unlink() if content is None else log.write_text(content)
    numbers = report_numbers(studies)
    assert "kl" not in [row.recipe for row in numbers.seeds[0].rows if len(row.seeds) > 1]
    (words,) = [w for w in numbers.warnings if "not in the table over seeds" in w]
    assert ("holds no step" in words) == (content is not None) and "kl" in words
