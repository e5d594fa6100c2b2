"""What a new user gets wrong: one line that names the value, the choices and the remedy."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from modgap.cli.main import main
from modgap.core.errors import part, sentence, unknown
from modgap.datasets.synthetic import write_dataset
from modgap.models.load import tiny_folder

PAIR = {"id": "p1", "answer": "25", "prompts": {"full-text": "AB = 7.", "image-only": "Find x."}}
VERSION = {"problem_index": "1", "problem_version": "Text Dominant", "question": "q", "answer": "A",
           "question_type": "multi-choice"}  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data sets, models and files of every kind that is not wanted."""
    root = tmp_path_factory.mktemp("place")
    write_dataset(root / "geo", 3, 2, workers=1)
    for name in ("nothing", "pairs", "runs/one", "other"):
        (root / name).mkdir(parents=True)
    (root / "empty.jsonl").touch()
    (root / "problems.jsonl").write_text(json.dumps(PAIR) + "\n")
    (root / "pairs" / "problems.jsonl").write_text(json.dumps(PAIR) + "\n")
    renamed = {"ID" if key == "id" else key: value for key, value in PAIR.items()}
    (root / "ID.jsonl").write_text(json.dumps(renamed) + "\n")
    (root / "mv.json").write_text(json.dumps([VERSION]))
    (root / "runs" / "one" / "manifest.json").write_text('{"kind": "eval"}')
    shutil.copytree(tiny_folder(), root / "llava", ignore=shutil.ignore_patterns("*.safetensors"))
    config = json.loads((root / "llava" / "config.json").read_text())
    (root / "llava" / "config.json").write_text(json.dumps(config | {"model_type": "llava"}))
    (root / "notes.txt").write_text("mine")
    return root


EVAL = "eval --data geo --model tiny --out new"
TRAIN = "train full-text --data geo --model tiny --out new"
MISTAKES = [
    # arguments: the exit code, and words of the one line
    ("demmo", 2, "no command 'demmo': choose from .*study; did you mean demo.* See modgap --help"),
    ("demo x", 2, "'x' is too much for modgap demo.* See modgap demo --help"),
    ("demo --out geo", 1, "--out geo: that is a data set; give another --out"),
    ("doctor --gpu", 2, "no option --gpu: .* See modgap doctor --help"),
    ("data syth", 2, "choose from synth, check, prepare, init, convert; did you mean synth"),
    ("data synth", 2, "--out is missing: Folder to write. See modgap data synth --help"),
    ("data synth --out new --train two", 2, "--train two: give a whole number"),
    ("data synth --out new --train -1", 1, "--train -1: must not be negative"),
    ("data synth --out geo", 1, "geo holds a data set already: give another --out, or --force"),
    ("data synth --out notes.txt", 1, "notes.txt is a file: give a folder"),
    ("data check", 2, "FOLDER is missing: .* See modgap data check --help"),
    ("data check nowhere", 1, "nowhere does not exist: give the folder that holds"),
    ("data check problems.jsonl", 1, "problems.jsonl is a file: .* layout of --benchmark pairs"),
    ("data check geo/train.json", 1, "geo/train.json is a file: .*It seems that geo has"),
    ("data check geo --benchmark pgps", 1, "unknown benchmark 'pgps': .*Did you mean 'pgps9k'"),
    ("data check geo --benchmark pairs", 1, r"PGPS9K's layout \(leave --benchmark out\)"),
    ("data prepare geo --out new", 2, "--variant is missing: .* See modgap data prepare --help"),
    ("data prepare geo --out new --variant full_text", 2, "choose from full-text.* mean full-text"),
    ("data prepare nowhere --out new --variant no-text", 1, "nowhere does not exist"),
    ("data prepare geo --out geo --variant no-text", 1, "that is a data set; give another"),
    ("data prepare nothing --out new --variant no-text", 1, "train.json: there is no such file"),
    ("train", 2, "RECIPE is missing: full-text, no-text, .* See modgap train --help"),
    (TRAIN.replace("full-text", "fulltext"), 1, "unknown recipe 'fulltext'.* mean 'full-text'"),
    (TRAIN.replace("geo", "nowhere"), 1, "nowhere does not exist"),
    (TRAIN.replace("tiny", "llava"), 1, "llava holds no weights"),
    (TRAIN.replace("tiny", "nothing"), 1, "nothing holds no model"),
    (TRAIN.replace("tiny", "notes.txt"), 1, "notes.txt is a file: give the folder of a model"),
    (TRAIN.replace("new", "runs/one"), 1, "kind was 'eval', now 'train'. Give another --out"),
    (TRAIN + " --steps 3", 2, "no option --steps: give settings of a recipe as --set steps=VALUE"),
    (TRAIN + " --set stps=3", 1, "unknown setting 'stps': .* Did you mean 'steps'"),
    (TRAIN + " --set mini_bach=3", 1, "from mini_batch, .* and [0-9]+ others. .*settings.md has"),
    (
        TRAIN + " --style papr",
        2,
        "--style papr: choose from paper, paper-author, aligned; did you mean paper",
    ),
    (TRAIN + " --gpu H100", 2, "--gpu is for --dry-run: a training"),
    ("eval", 2, "--out is missing: Run folder. See modgap eval --help"),
    ("eval --out", 2, "--out is given without a value"),
    ("eval geo --model tiny --out new", 2, "'geo' is too much for modgap eval"),
    (EVAL.replace("geo", "problems.jsonl"), 1, "layout of --benchmark pairs"),
    (EVAL.replace("geo", "pairs"), 1, "test.json: there is no such file: .* --benchmark pairs"),
    (EVAL.replace("geo", "mv.json"), 1, "layout of --benchmark mathverse"),
    (EVAL.replace("geo", "ID.jsonl --benchmark pairs"), 1, "id is missing: rename 'ID' to 'id'"),
    (EVAL.replace("geo", "empty.jsonl --benchmark pairs"), 1, "empty.jsonl --benchmark pairs` cou"),
    (EVAL.replace("tiny", "tinny"), 1, "no model 'tinny': .* Did you mean 'tiny'"),
    (EVAL.replace("tiny", "llava"), 1, "llava holds no weights"),
    (EVAL.replace("new", "geo"), 1, "--out geo: that is a data set"),
    (
        EVAL.replace("new", "pairs"),
        1,
        "problems.jsonl is not a file of a run, and the run would rep",
    ),
    (EVAL.replace("new", "notes.txt/run"), 1, "notes.txt is a file, not a folder"),
    (EVAL + " --views full-txt", 1, "unknown view 'full-txt': .* Did you mean 'full-text'"),
    (EVAL + " --views FULL_TEXT", 1, "unknown view 'FULL_TEXT': .* Did you mean 'full-text'"),
    (EVAL + " --views partial-tex-50", 1, "choose from .* mean 'partial-text-PERCENT'"),
    (EVAL + " --views text-lit", 1, "mean 'text-lite'. MathVerse also has text-dominant"),
    (EVAL + " --temperature hot", 2, "--temperature hot: give a number or `model`"),
    (EVAL + " --engine vlm", 1, "unknown engine 'vlm': .* Did you mean 'vllm'"),
    (EVAL + " --samples 0", 1, "--samples 0: must be at least 1"),
    ("grade", 2, "RUN is missing: Run folder of an evaluation. See modgap grade --help"),
    ("grade runs", 1, "runs is not a run folder .* Did you mean runs/one"),
    ("grade nowhere", 1, "nowhere is not a run folder"),
    ("grade notes.txt", 1, "notes.txt is not a run folder"),
    ("grade runs/one --mode loose", 2, "--mode loose: choose from strict, relative, exact, paper"),
    ("import nowhere --out new", 1, "nowhere does not exist: name answer folders"),
    ("import nothing --out new", 1, "test.json; give --from for the logs of another tool"),
    ("import nothing --out new --gt geo", 1, "--gt geo is not a file"),
    ("import nothing --gt geo/test.json", 2, "--out is missing"),
    ("import --results-root nowhere --out new", 1, "--gt is missing"),
    ("power", 2, "--gap is missing: The gap to detect, in percentage points"),
    ("power --gap 5%", 2, "--gap 5%: give a number"),
    ("power --gap 0", 1, "--gap 0: no number of problems can show a gap of 0"),
    ("power --gap 5 --power 80", 1, "--power 80: give a share between 0 and 1; did you mean 0.8"),
    ("power --gap 5 --run nowhere", 1, "nowhere is not a run folder"),
    ("report", 1, "no run given"),
    ("report nowhere", 1, "nowhere is not a folder"),
    ("report --runs x", 2, "--runs is not an option: modgap report takes RUNS without it"),
    ("report runs/one --out problems.jsonl", 1, "problems.jsonl was not written by modgap report"),
    ("report runs/one --out geo", 1, "--out geo is a folder: give a file, such as geo/report.html"),
    ("study", 2, "--model is missing: .*See modgap study --help"),
    ("study --data geo --model tiny --out new --recipes ful-text", 1, "Did you mean 'full-text'"),
    ("study --data geo --model tiny --out geo --recipes kl", 1, "--out geo: that is a data set"),
    ("study --data nowhere --model tiny --out new --recipes kl", 1, "nowhere does not exist"),
    (
        "study --data geo --model tiny --out new --recipes kl --seeds ''",
        1,
        "--seeds '': give whole",
    ),
    ("convert nowhere --out new", 1, "nowhere does not exist"),
    ("convert nothing --out new", 1, "nothing holds no FSDP checkpoint"),
    ("convert nothing --out geo", 1, "--out geo is not empty"),
    ("convert notes.txt --out new", 1, "notes.txt is a file"),
    ("convert nothing", 2, "--out is missing"),
    ("model pretrain --out geo", 1, "--out geo holds other files"),
    ("model pretrain --out notes.txt", 1, "notes.txt is a file"),
    ("model pretrain --out new --phase foo", 1, "unknown phase 'foo': choose from data"),
    ("model pretrain --out new --workers 0", 1, "--workers 0: must be at least 1"),
    ("model pretrain --out new --problems 0", 1, "--problems 0: must be at least 1"),
]
DOUBLED = re.compile(r"[.:;,!?] ?[.:;,](?!\.)(?:\s|$)|\.\.$|See \S*$")


@pytest.mark.parametrize("arguments, status, words", MISTAKES)
def test_a_mistake_is_one_line(
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: str,
    status: int,
    words: str,
) -> None:
    monkeypatch.chdir(place)
    before = sorted(place.rglob("*"))
    assert main([word.strip("'") for word in arguments.split()]) == status
    lines = capsys.readouterr().err.splitlines()
    assert re.search(words, lines[-1]), lines[-1]
    # On a busy machine a line of progress may come before it.
    assert all(line.endswith(" s)") for line in lines[:-1])
    last = lines[-1].replace(" ... ", " ")  # stands for the middle of a long line
    assert last.endswith((".", "?", "!")) and not DOUBLED.search(last)
    assert sorted(place.rglob("*")) == before, "nothing is written"


def test_a_gap_below_one_point_is_asked_about(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["power", "--gap", "0.05"]) == 0
    assert "0.05 percentage points: for 5 points give --gap 5" in capsys.readouterr().err
    assert main(["power", "--gap", "5"]) == 0
    assert not capsys.readouterr().err


@pytest.mark.parametrize("name", ["4090", "RTX4090", "rtx 4090", "NVIDIA GeForce RTX 4090"])
def test_a_gpu_is_known_by_its_names(name: str) -> None:
    from modgap.training.plan import gpu

    assert gpu(name).name == name


def test_messages_within_messages_end_once() -> None:
    assert sentence("it is so;\n  see there") == "it is so; see there."
    assert sentence("did you mean x?") == "did you mean x?"
    assert part("cannot be read.") == "cannot be read" and part("a, b ...") == "a, b ..."
    assert "Did you mean 'full-text'?" in str(unknown("view", "Full_Text", ["full-text", "mine"]))
