"""The synthetic benchmark: the same problems for everybody, without a data set to ask for."""

from __future__ import annotations

import hashlib
import json
import threading
from pathlib import Path

import pytest

from modgap.cli.main import main
from modgap.core.errors import UsageError, UserError
from modgap.datasets.synthetic import VERSION, benchmark
from modgap.datasets.synthetic.families import FAMILIES
from modgap.workflows.problems import locate, read_problems

FINGERPRINTS = {("geometry", 1): "b3054f864c80bc45", ("charts", 2): "cfaae51e5aa9b80c"}
"""By family and version: of the first 100 test problems, words and gold answers.

Another one needs another VERSION.
"""


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The benchmark's cache in a folder of the test's own, with few problems."""
    monkeypatch.setenv("MODGAP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(benchmark, "TRAIN", 4)
    monkeypatch.setattr(benchmark, "TEST", 3)
    return tmp_path / "cache" / f"synthetic-v{VERSION}"


@pytest.mark.parametrize("name", FAMILIES)
def test_a_version_stands_for_fixed_words(name: str) -> None:
    family = FAMILIES[name]
    records = [family.make(family.seed, index, "test").record for index in range(100)]
    digest = hashlib.sha256(json.dumps(records, sort_keys=True).encode()).hexdigest()[:16]
    assert digest == FINGERPRINTS[name, family.version], (
        "the generator changed: raise VERSION, and give its fingerprint here"
    )


def test_the_benchmark_is_made_once_and_needs_no_data_set(small: Path) -> None:
    folder = locate("synthetic", None)
    assert folder == small
    assert [p.id for p in read_problems("synthetic", folder)] == ["prob_4", "prob_5", "prob_6"]
    before = (small / "test.json").stat().st_mtime_ns
    assert locate("synthetic", None) == small and (small / "test.json").stat().st_mtime_ns == before


def test_runs_that_start_together_wait_for_the_one_that_draws(small: Path) -> None:
    found: list[Path] = []
    threads = [
        threading.Thread(target=lambda: found.append(benchmark.benchmark_folder()))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [small] * 3


def test_a_cache_that_cannot_be_written_is_said_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MODGAP_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match="MODGAP_CACHE chooses another place"):
        locate("synthetic", None)


@pytest.mark.parametrize("command", ["train full-text", "eval", "study --recipes full-text"])
def test_any_other_benchmark_without_data_is_wrong_usage(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command.split(), "--model", "tiny", "--out", str(tmp_path / "run")]) == 2
    assert (
        "--data is missing: pgps9k needs its folder or file; --benchmark synthetic"
        in capsys.readouterr().err
    )
    with pytest.raises(UsageError):
        locate("mathverse", None)
