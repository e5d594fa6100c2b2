"""`modgap doctor` recommends what this version can use, and nothing else."""

from __future__ import annotations

import pytest

from modgap import doctor
from modgap.core import registry


def lines(capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """First word -> line."""
    return {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.strip()}


def test_only_extras_that_do_something_are_recommended(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "_installed", lambda name: name not in doctor._OPTIONAL)
    monkeypatch.setattr(doctor, "_devices", lambda: None)
    assert doctor.diagnose() == 0
    said = lines(capsys)
    engines = registry.TRAINING_ENGINES | registry.INFERENCE_ENGINES
    for name in ("vllm", "verl"):
        assert ("pip install" in said[name]) == (name in engines)
        assert ("not used by this version yet" in said[name]) == (name not in engines)
    assert "pip install 'modgap[ray]', for evaluation on several accelerators" in said["ray"]
    assert "pip install 'modgap[openai]', for evaluation on a served model" in said["openai"]
    assert "modelscope:ORG/NAME" in said["modelscope"]


def test_an_engine_of_its_name_makes_a_package_worth_installing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "_installed", lambda name: name not in doctor._OPTIONAL)
    monkeypatch.setattr(doctor, "_devices", lambda: None)
    monkeypatch.setitem(registry.INFERENCE_ENGINES, "vllm", "modgap.inference.vllm:VllmEngine")
    doctor.diagnose()
    assert "pip install 'modgap[vllm]', for --engine vllm" in lines(capsys)["vllm"]


def test_what_a_plain_installation_lacks_is_a_failure_with_its_remedy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "_installed", lambda name: name != "peft")
    monkeypatch.setattr(doctor, "_devices", lambda: None)
    assert doctor.diagnose() == 1
    assert lines(capsys)["missing:"] == "missing: peft. Remedy: pip install modgap"
