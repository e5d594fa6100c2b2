"""Runs get the place in the paper's tables that their names say, or a row of their own."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from rich.console import Console
from written_runs import Verdicts, both, write_run

from modgap.reporting.page import build_report
from modgap.reporting.paper import paper_tables
from modgap.reporting.run_names import read_name
from modgap.reporting.terminal import print_numbers

AUTHORS = "/proj/long-multi/granite-3b-ablate/verl/checkpoints/9k_geometry_dapo"


@pytest.mark.parametrize(
    ("name", "recipe", "size"),
    [
        # The experiments of the training scripts.
        ("qwen7b-full-text", "full-text", "7B"),
        ("qwen_7b_full_text", "full-text", "7B"),
        ("qwen7b-no-text", "no-text", "7B"),
        ("qwen7b-mix_data", "mix", "7B"),
        ("qwen7b-full-text-200-no-text", "curriculum", "7B"),
        ("qwen7b-full-text-200-kl", "kl", "7B"),
        ("qwen7b-full-text-200-kl-no-text", "kl-curriculum", "7B"),
        # The models that the authors evaluated.
        ("qwen3b-with-text-320", "full-text", "3B"),
        ("qwen3b_without_text_240", "no-text", "3B"),
        ("qwen7b-mix-data-400", "mix", "7B"),
        ("qwen7b-with-text-200-without-text-200", "curriculum", "7B"),
        ("qwen3b-with-text-240-no-text-240", "curriculum", "3B"),
        ("qwen3b_with_text_240_kl_80", "kl", "3B"),
        ("qwen3b-wiht-text-320-kl-320", "kl", "3B"),
        ("qwen7b_with_text_200_kl_100_without_text_200", "kl-curriculum", "7B"),
        ("qwen7b-kl-200", "kl-from-base", "7B"),
        ("qwen3b-kl-320", "kl-from-base", "3B"),
        ("wuqiuche/qwen3b-kl-correct-001-nograd-corr-320", "kl-from-base", "3B"),
        ("wuqiuche/3b-with-text-320-kl-correct-001-320", "kl", "3B"),
        ("wuqiuche/7b-without-text-280-with-text-200", "reverse-curriculum", "7B"),
        ("yaogy/qwen2_5_vl_7b_kl_curriculum", "kl-curriculum", "7B"),
        ("qwen2_5_vl_3b", "base", "3B"),
        ("Qwen/Qwen2.5-VL-7B-Instruct", "base", "7B"),
        ("modelscope:Qwen/Qwen2.5-VL-3B-Instruct", "base", "3B"),
        # Their checkpoints: the size is that of the run, not of a folder above it.
        (f"{AUTHORS}/with_text_condition/ckpt_200", "full-text", None),
        (f"{AUTHORS}/without_text_condition/ckpt_280", "no-text", None),
        (f"{AUTHORS}/mixed_text_condition/ckpt_400", "mix", None),
        (f"{AUTHORS}/with_text_200_without_text_120/ckpt_400", "curriculum", None),
        (f"{AUTHORS}/qwen7b-with-text-280-then-kl-correct-001/ckpt_80", "kl", "7B"),
        (f"{AUTHORS}/qwen7b-with-text-200-kl-100-without-text/ckpt_160", "kl-curriculum", "7B"),
        (f"{AUTHORS}/qwen7b-with-text/ckpt_40".replace("/", "--"), "full-text", "7B"),
        # Their answer folders.
        (
            "new_9k_qwen3b_with_text_240_kl_280_without_text_200_4096_tmp_0.6",
            "kl-curriculum",
            "3B",
        ),
        ("new_9k_qwen2_5_vl_7b_full_cond_max4096_n4_tmp_0.6_bs16", "base", "7B"),
        # Ours.
        ("base", "base", None),
        ("kl", "kl", None),
        ("kl-curriculum", "kl-curriculum", None),
        ("kl-from-base", "kl-from-base", None),
        ("reverse-curriculum", "reverse-curriculum", None),
        ("kl-forward", "kl-forward", None),
        ("full-text-continued", "full-text-continued", None),
        ("runs/kl/stage2/checkpoints/step_100", "kl", None),
        ("seed1/kl", "kl", None),
        ("kl (2)", "kl", None),
        ("kl on mathverse", "kl", None),
        ("7b-full-text", "full-text", "7B"),
        ("full-text_7b", "full-text", "7B"),
        # A word or an order that is not known: it may be another recipe.
        ("mine", None, None),
        ("qwen7b-kl-ablation", None, "7B"),
        ("qwen7b-full-text-200-grpo", None, "7B"),
        ("qwen7b-no-text-200-no-text-100", None, "7B"),
        ("qwen7b-kl-100-no-text-200", None, "7B"),
        ("text-only", None, None),
        ("step_200", None, None),
        # Models that are not the paper's have no size of the paper's.
        ("OpenGVLab/InternVL3-8B", None, None),
        ("Qwen/Qwen2-VL-7B-Instruct", None, None),
        ("Qwen/Qwen3-VL-30B-A3B-Instruct", None, None),
    ],
)
def test_a_name_says_recipe_and_size_or_nothing(
    name: str, recipe: str | None, size: str | None
) -> None:
    read = read_name(name)
    assert (read.recipe, read.size) == (recipe, size)


VERDICTS: Verdicts = {"a": both("cc", "cw"), "b": both("cc", "ww")}


def table_of(tmp_path: Path, *runs: tuple[str, str]) -> dict[tuple[str, str], tuple[str, ...]]:
    """Model and recipe of each row that is not empty -> its cells, for runs and their models."""
    for name, model in runs:
        write_run(tmp_path / name, VERDICTS, model=model)
    numbers = build_report(
        [tmp_path / name for name, _ in runs], tmp_path / "r.html", template="paper"
    )
    (table,) = paper_tables(numbers)
    return {row[:2]: row[2:] for row in table.rows if row[2] != "—"}


def test_the_authors_runs_are_in_the_rows_of_their_stages(tmp_path: Path) -> None:
    rows = table_of(
        tmp_path,
        ("qwen7b-full-text-200-no-text", "qwen7b-full-text-200-no-text"),
        ("qwen7b-full-text-200-kl", "qwen7b-full-text-200-kl"),
        ("qwen7b-full-text-200-kl-no-text", ""),
        ("qwen7b-with-text-200", f"{AUTHORS}/with_text_condition/ckpt_200"),
        ("qwen7b-kl-200", f"{AUTHORS}/qwen7b-kl-correct-001/ckpt_200"),
        ("qwen2_5_vl_7b", "qwen2_5_vl_7b"),
    )
    assert list(rows) == [
        ("7B", "no training"),
        ("7B", "full-text"),
        ("7B", "curriculum"),
        ("7B", "KL"),
        ("7B", "KL + curriculum"),
        ("7B", "KL from the base model"),
    ]


def test_a_run_that_is_not_understood_or_contradicts_its_model_is_a_row_of_its_own(
    tmp_path: Path,
) -> None:
    rows = table_of(
        tmp_path,
        ("base", "Qwen/Qwen2.5-VL-7B-Instruct"),
        ("qwen7b-kl-ablation", f"{AUTHORS}/qwen7b-kl-correct-001/ckpt_200"),
        ("lr3e-5", "Qwen/Qwen2.5-VL-7B-Instruct"),
        # The authors' own list has this name for a checkpoint of the reverse order.
        (
            "qwen7b-with-text-280-without-text-200",
            "wuqiuche/7b-without-text-280-with-text-200",
        ),
        ("kl", f"{AUTHORS}/qwen7b-full-text-200-no-text/ckpt_200"),
        ("qwen3b-no-text", f"{AUTHORS}/qwen7b-no-text/ckpt_200"),
    )
    assert set(rows) == {
        ("7B", "no training"),
        ("7B", "qwen7b-kl-ablation"),
        ("7B", "lr3e-5"),
        ("7B", "qwen7b-with-text-280-without-text-200 (its model is another)"),
        ("7B", "kl (its model is another)"),
        ("model not named", "qwen3b-no-text (its model is another)"),
    }


def test_another_model_is_a_reference_beside_the_papers_and_not_one_of_them(tmp_path: Path) -> None:
    write_run(tmp_path / "other", VERDICTS, model="OpenGVLab/InternVL3-8B")
    write_run(tmp_path / "kl", VERDICTS, model="Qwen/Qwen2.5-VL-7B-Instruct")
    numbers = build_report(
        [tmp_path / "kl", tmp_path / "other"], tmp_path / "r.html", template="paper"
    )
    (table,) = paper_tables(numbers)
    assert [row[:2] for row in table.rows if row[0] != "7B"] == [("InternVL3-8B", "other")]
    assert table.rows[-1][0] == "InternVL3-8B"


def test_runs_named_after_their_models_by_eval_models(tmp_path: Path) -> None:
    model = f"{AUTHORS}/qwen7b-with-text-200-kl-100-without-text/ckpt_160"
    name = model.replace("/checkpoints/", "/").replace("/", "_")[-80:]
    assert set(table_of(tmp_path, (name, model))) == {("7B", "KL + curriculum")}


def test_what_does_not_compare_is_noted_in_every_output(tmp_path: Path) -> None:
    """Wording, sampling and grading each, on the page, in Markdown, CSV, JSON and the terminal."""
    asked = {"style": "aligned", "temperature": 0.6, "max_tokens": 4096, "samples": 2, "seed": 42}
    changed = {
        "kl": {},
        "mix": {"style": "paper"},
        "no-text": {"temperature": 0.8},
        "full-text": {},
    }
    for name, other in {"base": {}, **changed}.items():
        mode = "paper" if name == "full-text" else "strict"
        write_run(tmp_path / name, VERDICTS, mode=mode, resolved=asked | other)
    write_run(tmp_path / "curriculum", {"z": both("cc", "cc")}, data="other")
    paths = [tmp_path / name for name in ("base", *changed, "curriculum")]
    numbers = build_report(paths, tmp_path / "r.html", template="paper", figures=True)
    assert numbers.differs is not None
    wanted = {
        "mix": "style paper (base aligned)",
        "no-text": "temperature 0.8 (base 0.6)",
        "full-text": "grading paper (base strict)",
        "curriculum": "data (base has other problems)",
    }
    assert {name: words[0] for name, words in numbers.differs.items()} == wanted
    page, markdown = ((tmp_path / f"r{end}").read_text() for end in (".html", ".md"))
    tables = [
        (tmp_path / "r_figures" / f"table-{name}.csv").read_text()
        for name in ("paper-1", "accuracy", "gap")
    ]
    console = Console(file=io.StringIO(), width=500)
    print_numbers(numbers, console)
    shown = " ".join(console.file.getvalue().split())  # type: ignore[attr-defined]
    for words in wanted.values():
        assert all(words in text for text in (page, markdown, *tables))
    for table in tables:
        rows = list(csv.DictReader(io.StringIO(table)))
        assert [row["differs in"] for row in rows if "base" in row.get("run", "")] in (
            [],
            ["", ""],
            [""],
        )
    for text in (page, markdown, shown, str(numbers.model_dump()["warnings"])):
        for note in ("Worded differently (--style)", "Sampled differently", "Graded by different"):
            assert note in text
        assert "Measured on different data" in text
    alike = build_report(paths[:2], tmp_path / "s.html", template="paper", figures=True)
    assert "differs" not in alike.model_dump()
    assert "differs in" not in (tmp_path / "s.md").read_text()


def test_runs_without_a_record_of_their_wording_are_not_said_to_differ(tmp_path: Path) -> None:
    write_run(tmp_path / "old", VERDICTS)
    write_run(tmp_path / "new", VERDICTS, resolved={"style": "paper"})
    numbers = build_report([tmp_path / "old", tmp_path / "new"], tmp_path / "r.html")
    assert numbers.differs is None
