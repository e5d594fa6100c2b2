"""`modgap doctor` says what works here, and what to install for the rest."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from modgap.cli import doctor
from modgap.core.installation import OPTIONAL, install


def lines(capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """First word -> line."""
    return {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.strip()}


def test_what_is_not_installed_is_said_with_its_extra_and_its_use(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "is_installed", lambda name: name not in OPTIONAL)
    monkeypatch.setattr(doctor, "_devices", lambda: None)
    assert doctor.diagnose() == 0
    said = lines(capsys)
    assert f"{install('ray')}, for evaluation on several accelerators" in said["ray"]
    assert f"{install('mathverse')}, for the symbolic stage" in said["math-verify"]
    assert "modelscope:ORG/NAME" in said["modelscope"]
    assert said["training"].endswith("here: none") and said["inference"].endswith("here: none")


def test_an_engine_whose_package_is_here_can_be_used(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "is_installed", lambda name: name != "verl")
    monkeypatch.setattr(doctor, "_devices", lambda: None)
    doctor.diagnose()
    said = lines(capsys)
    assert said["training"].endswith("here: local") and said["inference"].endswith(
        "here: hf, vllm, openai"
    )


def test_extras_are_those_of_the_project() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    for extra, _ in OPTIONAL.values():
        assert extra in project["optional-dependencies"]


def test_what_a_plain_installation_lacks_is_a_failure_with_its_remedy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "is_installed", lambda name: name != "pyarrow")
    monkeypatch.setattr(doctor, "_devices", lambda: None)
    assert doctor.diagnose() == 1
    assert lines(capsys)["missing:"] == f"missing: pyarrow. Remedy: {install()}"
