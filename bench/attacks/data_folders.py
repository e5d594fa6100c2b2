"""Mutated data sets of every layout: checked, read, prepared, and answered by who knows the answer.

What `modgap data check` finds sound must be read, prepared and graded: every problem once, and the
gold answer of none wrong. What it finds faulty must be refused, in one line.
"""

from __future__ import annotations

import contextlib
import io
import json
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attacks import trial
from attacks.damage import DAMAGES, damaged
from attacks.material import Material
from attacks.trial import Bench, Tried, modgap
from modgap.cli.main import main
from modgap.core.errors import UserError

_ANSWERS = ("25", "25.000", "-0.5", "1e3", "1/3", "", " ", "x", "NaN", "inf", "1e999", "9" * 400,
            "25\n", "\u0662\u0665", "25 cm", "\\frac{1}{2}", "\ud800", 25, 25.0, True, None, [25],
            float("nan"), -0.0, 10**30)  # fmt: skip
_TEXTS = ("", " ", "\x00", "\ud800", "\x1b[2J", "\u202eevil", "k" * 100_000, "{0} {} %s", "=1+1",
          "\\boxed{7}", "<image>", "a\r\nb\u2028c", None, 5, ["x"], {"a": 1})  # fmt: skip
_NAMES = ("", ".", "..", "/etc/passwd", "../outside/secret.txt", "a\x00b", "k" * 300, "img_0.png/",
          "~/x", "file:///etc/passwd", "http://127.0.0.1:9/x.png", "data:image/png;base64,AAAA",
          "data:,x", "C:\\x.png", "\ud800.png", "\x1b[2J.png", None, 5, ["img_0.png"])  # fmt: skip


@dataclass(frozen=True)
class Layout:
    """A layout of data sets.

    Attributes:
        name: Of the benchmark.
        folder: A sound data set.
        file: The file of its records, in the folder.
        place: What is given to the commands, in the folder.
        splits: Those that can be read.
        mutate: Mutates one record of this layout.
    """

    name: str
    folder: Path
    file: str
    place: str
    splits: tuple[str, ...]
    mutate: Callable[[dict[str, Any], random.Random], None]


def layouts(material: Material) -> list[Layout]:
    """PGPS9K's, pairs, and MathVerse's in both forms."""
    return [
        Layout("pgps9k", material.data, "test.json", ".", ("train", "test"), _pgps9k),
        Layout("pgps9k", material.data, "train.json", ".", ("train", "test"), _pgps9k),
        Layout("pairs", material.pairs, "problems.jsonl", "problems.jsonl", ("test",), _pairs),
        Layout("mathverse", material.mathverse_json, "testmini.json", ".", ("test",), _mathverse),
        Layout("mathverse", material.mathverse, "testmini.parquet", ".", ("test",), _mathverse),
    ]


def mutated_data(bench: Bench, material: Material) -> Tried:
    """A mutation of a data set; then check, read and grade it, and prepare it."""
    every = layouts(material)
    for number in range(bench.count(1000)):
        layout = every[number % len(every)]
        place = bench.place()
        outside = trial.Outside(place)
        shutil.copytree(layout.folder, place / "data")
        what = _mutate(place / "data", layout, bench.rng)
        tried = f"{layout.name}, {layout.file}: {what}"
        yield tried, _try(layout, place) or outside.against()
        bench.clear(place)


def _try(layout: Layout, place: Path) -> str:
    """All commands on a data set; the first fault."""
    data = place / "data" / layout.place
    before = trial.same_tree(place / "data")
    check = trial.attempt(modgap("data", "check", data, "--benchmark", layout.name), place)
    if fault := trial.against(check, names=("data",)):
        return f"check: {fault}"
    for split in layout.splits:
        read = trial.attempt(lambda split=split: _read_and_grade(layout.name, data, split), place)
        if fault := trial.against(read, names=("data", "problem")):
            return f"read {split}: {fault}"
        # A problem without an image or the words of a view is a warning: other views can be asked.
        warned = ("have no image" in check.out and "has no diagram" in read.err) or (
            "have no prompt for" in check.out and "has no prompt for" in read.err
        )
        if check.status == 0 and read.status and not warned and "has no problems" not in read.err:
            return f"check finds no fault, and read {split} fails: {read.err.strip()[-300:]}"
    if layout.name == "pgps9k":
        command = ("data", "prepare", data, "--out", place / "out", "--variant", "contrastive")
        prepared = trial.attempt(modgap(*command), place)
        if fault := trial.against(prepared, names=("data",)):
            return f"prepare: {fault}"
        # Nothing of what `check` finds in a key that training does not read hinders it.
        if check.status == 0 and prepared.status and "no problem" not in prepared.err:
            return f"check finds no fault, and prepare fails: {prepared.err.strip()[-300:]}"
        if prepared.status and (place / "out" / "train.parquet").exists():
            return "prepare failed and left train.parquet"
    if trial.same_tree(place / "data") != before:
        return "the data set was changed"
    return trial.temporaries(place) or trial.secrets_below(place, [place / "outside/secret.txt"])


def _read_and_grade(benchmark: str, data: Path, split: str) -> int:
    """Read a data set and give the gold answers; prints what is wrong as a traceback does."""
    from modgap.core.options import EvalOptions
    from modgap.core.record import RunFolder
    from modgap.engines.scripted import ScriptedEngine
    from modgap.workflows.evaluate import evaluate
    from modgap.workflows.problems import read_problems

    try:
        problems = read_problems(benchmark, data, split)
        golds = {problem.id: problem for problem in problems}
        if len(golds) < len(problems):
            raise AssertionError("two problems have the same id")

        def knows(request: Any, sample: int) -> str:
            problem = golds[request.problem_id]
            return f"\\boxed{{{problem.own_answers.get(request.view, problem.answer)}}}"

        run = RunFolder(Path("run") / split)
        options = EvalOptions(samples=1, views=",".join(_views(problems)))
        with contextlib.redirect_stdout(io.StringIO()):
            evaluate(problems, ScriptedEngine(knows), run.path, options=options)
        keys = [row.key for row in run.responses()]
        asked = [
            (problem.id, view, 0)
            for problem in problems
            for view in run.manifest()["resolved"]["views"]
            if problem.has_view(view)
        ]
        if sorted(keys) != sorted(asked):
            raise AssertionError(f"{len(asked)} samples were asked, {len(keys)} are there")
        wrong = [row for row in run.grades() if row.outcome in ("wrong", "no_answer")]
        if wrong and not any(_says_no_answer(row.gold) for row in wrong):
            raise AssertionError(f"the gold answer is {wrong[0].outcome}: {wrong[0]}")
        return 0
    except UserError as error:
        # As `main` prints it, which cannot be given an engine that knows the answers.
        return _printed(error)


def _views(problems: list[Any]) -> list[str]:
    """The default views, or the versions that these problems have."""
    from modgap.core.view import DEFAULT_VIEWS

    own = sorted({view for problem in problems for view in (*problem.views, *problem.own_words)})
    return own or list(DEFAULT_VIEWS)


def _says_no_answer(gold: str) -> bool:
    """A gold that no box can hold."""
    return gold.count("{") != gold.count("}")


def _printed(error: UserError) -> int:
    from modgap.cli import main as module

    def fails(*_: Any, **__: Any) -> int:
        raise error

    module.with_config = fails
    return main(["doctor"])


# ---- mutations -----------------------------------------------------------------------------------


def _mutate(folder: Path, layout: Layout, rng: random.Random) -> str:
    """Change a data set in one way; says how."""
    file = folder / layout.file
    kind = rng.choices(("record", "records", "file", "image"), (6, 2, 3, 2))[0]
    if kind == "image":
        return _image(folder, file, rng)
    if kind == "file":
        damage = rng.choice(DAMAGES)
        file.write_bytes(damaged(damage, file.read_bytes(), rng))
        return damage.name
    records = _records(file)
    if kind == "record":
        record = rng.choice(records)
        before = json.dumps(record, default=str)
        layout.mutate(record, rng)
        what = f"{before[:60]}... -> {_changes(before, record)}"
    else:
        what = _several(records, rng)
    try:
        _write(file, records)
    except (ValueError, TypeError, OverflowError, UnicodeError):
        # No parquet file can hold it.
        file.write_bytes(rng.randbytes(1000))
        what = "random bytes"
    return what


def _changes(before: str, record: dict[str, Any]) -> str:
    old = json.loads(before)
    now = {k: v for k, v in record.items() if str(old.get(k)) != str(v)}
    return ascii({**now, **dict.fromkeys(old.keys() - record.keys(), ...)})[:300]


def _records(file: Path) -> list[dict[str, Any]]:
    if file.suffix == ".parquet":
        import pyarrow.parquet as pq

        return pq.read_table(file).to_pylist()
    if file.suffix == ".jsonl":
        return [json.loads(line) for line in file.read_text().splitlines()]
    content = json.loads(file.read_text())
    if isinstance(content, list):
        return content
    return [{"": name, **record} for name, record in content.items()]


def _write(file: Path, records: list[dict[str, Any]]) -> None:
    if file.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(records), file)
    elif file.suffix == ".jsonl":
        file.write_text("".join(json.dumps(record) + "\n" for record in records))
    elif records and "" in records[0]:
        # By hand, since an object of Python cannot have a key twice.
        rows = [f"{json.dumps(str(record.pop('')))}: {json.dumps(record)}" for record in records]
        file.write_text("{" + ",\n".join(rows) + "}")
    else:
        file.write_text(json.dumps(records))


def _several(records: list[dict[str, Any]], rng: random.Random) -> str:
    record = rng.choice(records)
    what = rng.choice(("a record twice", "an id twice", "none", "one", "another order", "empty"))
    if what == "a record twice":
        records.append(dict(record))
    elif what == "an id twice":
        key = next(k for k in ("", "id", "sample_index") if k in record)
        record[key] = records[0][key] if record is not records[0] else records[1][key]
    elif what == "none":
        records.clear()
    elif what == "one":
        records[:] = [record]
    elif what == "another order":
        rng.shuffle(records)
    else:
        for key in [key for key in record if key]:
            del record[key]
    return what


def _image(folder: Path, file: Path, rng: random.Random) -> str:
    """Damage an image; where images are in the records, another file."""
    images = sorted(folder.rglob("*.png"))
    if not images:
        file.unlink()
        return "the file is absent"
    image = rng.choice(images)
    what = rng.choice(("absent", "empty", "truncated", "bits", "a folder", "text", "another format",
                       "a bomb", "one pixel", "a link out", "a link in"))  # fmt: skip
    data = image.read_bytes()
    image.unlink()
    if what in ("empty", "text", "bits", "truncated"):
        changed = bytearray(data)
        changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        content = {"empty": b"", "text": b"words", "bits": bytes(changed),
                   "truncated": data[: rng.randrange(len(data))]}  # fmt: skip
        image.write_bytes(content[what])
    elif what == "a folder":
        image.mkdir()
    elif what == "a link out":
        image.symlink_to("../../outside/secret.txt" if "Visual" in str(image) else "/etc/passwd")
    elif what == "a link in":
        image.symlink_to(next(other for other in images if other != image).name)
    elif what != "absent":
        _draw(image, what)
    return f"image {what}"


def _draw(path: Path, what: str) -> None:
    from PIL import Image

    sizes = {"a bomb": (13_300, 13_300), "one pixel": (1, 1)}
    form = "GIF" if what == "another format" else "PNG"
    Image.new("1", sizes.get(what, (30, 20)), 1).save(path, form)


def _pick(record: dict[str, Any], rng: random.Random, values: dict[str, tuple[Any, ...]]) -> None:
    key = rng.choice([*values, "drop", "more"])
    if key == "drop":
        del record[rng.choice([k for k in record if k])]
    elif key == "more":
        record[rng.choice(("x", "prob\u202e", "image_2"))] = rng.choice(_TEXTS)
    else:
        record[key] = rng.choice(values[key])


def _pgps9k(record: dict[str, Any], rng: random.Random) -> None:
    clauses = ([], None, "line A B", [None], [5], ["\ud800"], [""], [["line A B"]], {"a": 1},
               ["line A B"] * 3000, ["\x1b[2J"])  # fmt: skip
    _pick(record, rng, {
        "answer": _ANSWERS, "text": _TEXTS, "diagram": _NAMES, "": _TEXTS, "type": _TEXTS,
        "parsing_sem_seqs": clauses, "parsing_stru_seqs": clauses, "choices": clauses,
        "expression": _TEXTS,
    })  # fmt: skip


def _pairs(record: dict[str, Any], rng: random.Random) -> None:
    prompts = [{"full-text": text, "image-only": "Find x."} for text in _TEXTS]
    odd = ({}, None, [], "x", {"full-text": "a"}, {"no-view": "a"}, {"full_text": "a", "x": 5})
    _pick(record, rng, {
        "id": (*_TEXTS, True, 1.5, -3, 10**30), "answer": _ANSWERS, "image": _NAMES,
        "prompts": (*prompts, *odd), "type": _TEXTS, "question": _TEXTS, "full-text": _TEXTS,
    })  # fmt: skip


def _mathverse(record: dict[str, Any], rng: random.Random) -> None:
    versions = ("Text Dominant", "Vision Only", "text dominant", "Other", "", None, 5)
    golds = ("A", "E", "(2,-2)", "\\frac{1}{2}", "x = 0", "{", "\\boxed{")
    _pick(record, rng, {
        "sample_index": (*_TEXTS, 1, -1, 10**30), "problem_index": (*_TEXTS, 1, -1),
        "problem_version": versions, "question": _TEXTS, "image": (*_NAMES, {}, {"bytes": b""}),
        "answer": (*_ANSWERS, *golds), 
        "question_type": ("free-form", "multi-choice", "x", "", None),
        "metadata": ({}, None, "x", [], {"subject": 5}), "question_for_eval": _TEXTS,
    })  # fmt: skip
