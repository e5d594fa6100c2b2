"""One sampling for every model and engine: what is asked for is sampled with, said, recorded, kept
and compared.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from asking import evaluate, evaluate_model
from reported_runs import report_numbers

from modgap.analysis.results import read_summary
from modgap.cli.main import main
from modgap.core.engine import PLAIN, Sampling
from modgap.core.errors import UserError
from modgap.core.options import EvalOptions
from modgap.core.problem import Problem
from modgap.core.record import RunFolder
from modgap.engines.scripted import ScriptedEngine
from modgap.models import load
from modgap.models.load import tiny_folder
from modgap.reporting.page import build_report
from modgap.reporting.sampling import greedy_words, sampling_of
from modgap.workflows.evaluate import as_in
from modgap.workflows.grade import grade_run
from modgap.workflows.jobs import eval_arguments

PROBLEMS = [Problem(f"p{n}", "Find x.", f"{n}.000", semantic=(f"AB = {n}",)) for n in range(3)]
VIEWS = "text-only,question-only"


class Recording(ScriptedEngine):
    """Answers, and keeps how it was to sample."""

    def __init__(self) -> None:
        super().__init__(lambda request, sample: f"\\boxed{{{request.problem_id[1:]}}}")
        self.asked: list[Sampling] = []

    def generate(self, requests: Any, sampling: Sampling) -> Iterator[Any]:
        self.asked.append(sampling)
        return super().generate(requests, sampling)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Recording:
    """Takes the place of the model that would be loaded."""
    made = Recording()
    monkeypatch.setattr("modgap.engines.hf.load_engine", lambda *_: made)
    return made


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], Path]:
    """A model folder with a generation config of its own, which may be none or broken; its weights
    are the bundled model's.
    """
    weights = load.check_weights(tiny_folder())
    monkeypatch.setattr(load, "check_weights", lambda *_: weights)

    def make(config: Any) -> Path:
        folder = tmp_path / "model"
        folder.mkdir()
        for path in tiny_folder().iterdir():
            if path.name not in ("generation_config.json", "modgap.json"):
                (folder / path.name).symlink_to(path)
        if config is not None:
            (folder / "generation_config.json").write_text(
                config if isinstance(config, str) else json.dumps(config)
            )
        return folder

    return make


def ask(out: Path, model: Path | str = "tiny", **options: Any) -> dict[str, Any]:
    return evaluate_model(PROBLEMS, model, out, EvalOptions(views=VIEWS, **options))


QWEN = {
    "do_sample": True,
    "temperature": 1e-6,
    "top_k": 1,
    "top_p": 0.001,
    "repetition_penalty": 1.05,
}


# ---- what is sampled with ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "own"),
    [
        (QWEN, 1e-6),
        ({"do_sample": True, "temperature": 0.7}, 0.7),
        ({"temperature": 0.7}, 0.7),
        ({"do_sample": False, "temperature": 0.7}, 0.0),
        ({"do_sample": True}, 1.0),
        ({"do_sample": True, "temperature": None}, 1.0),
        ({"eos_token_id": 2}, 0.0),
        ({}, 0.0),
        (None, 0.0),
    ],
)
def test_temperature_is_0_6_unless_the_models_own_is_asked_for(
    tmp_path: Path, engine: Recording, model: Callable[[Any], Path], config: Any, own: float,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    folder = model(config)
    ask(tmp_path / "run", folder)
    assert engine.asked == [Sampling(0.6, 4096, 42)]
    ask(tmp_path / "own", folder, temperature="model", samples=1)
    assert engine.asked[1:] == [Sampling(own, 4096, 42)]
    assert f"sampling: temperature {own:g}, " in capsys.readouterr().err
    assert RunFolder(tmp_path / "own").manifest()["resolved"]["temperature"] == own


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (
            {"temperature": "hot"},
            r"generation_config\.json has the temperature 'hot': correct it, or give a number",
        ),
        ({"temperature": -1}, r"has the temperature -1"),
        ({"temperature": True}, r"has the temperature True"),
        ({"temperature": float("nan")}, r"has the temperature nan"),
        ({"temperature": [0.6]}, r"has the temperature \[0\.6\]"),
        ("[1]", r"generation_config\.json is damaged"),
        ("{", r"generation_config\.json is not valid JSON"),
        (
            {"temperature": 1, "max_new_tokens": "many"},
            r"has max_new_tokens 'many': correct it, or give --max-tokens",
        ),
        ({"temperature": 1, "max_new_tokens": 0}, r"has max_new_tokens 0"),
    ],
)
def test_a_generation_config_that_makes_no_sense_is_named(
    tmp_path: Path, engine: Recording, model: Callable[[Any], Path], config: Any, said: str
) -> None:
    folder = model(config)
    with pytest.raises(UserError, match=said):
        ask(tmp_path / "run", folder, temperature="model")
    assert not (tmp_path / "run").exists()
    if isinstance(config, dict) and "max_new_tokens" not in config:
        ask(tmp_path / "run", folder)  # nobody looks at it


@pytest.mark.parametrize("value", ["nan", "inf", "-0.1", "hot", "Model", ""])
def test_a_temperature_that_is_none_is_refused(
    tmp_path: Path, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(
        ["eval", "--model", "tiny", "--data", str(tmp_path), "--out", "x", "--temperature", value]
    ) in (1, 2)
    assert "--temperature" in capsys.readouterr().err


def test_the_sampling_is_said_recorded_and_on_the_page(
    tmp_path: Path, engine: Recording, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = ask(tmp_path / "run", samples=2)
    said = (
        "sampling: temperature 0.6, max tokens 256, top_p 1, top_k off, min_p 0, repetition penalty"
        " 1, samples 2, seed 42, pixels 37632 to 62720\n"
    )
    assert capsys.readouterr().err == said
    expected = {
        "temperature": 0.6,
        "max_tokens": 256,
        "samples": 2,
        "seed": 42,
        "pixels": [37632, 62720],
        **PLAIN,
    }
    assert RunFolder(tmp_path / "run").manifest()["sampling"] == summary.sampling == expected
    numbers = build_report([tmp_path / "run"], tmp_path / "r.html")
    assert numbers.sampling == {"run": expected}
    page = (tmp_path / "r.html").read_text()
    assert "How the responses were sampled" in page and ">37632 to 62720<" in page


@pytest.mark.parametrize(
    ("temperature", "samples", "warned"),
    [
        (0.0, 2, True),
        (1e-6, 4, True),
        (0.049, 2, True),
        (0.05, 2, False),
        (0.6, 4, False),
        (0.0, 1, False),
    ],
)
def test_several_samples_near_temperature_0_are_warned_of(
    tmp_path: Path, engine: Recording, temperature: float, samples: int, warned: bool,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    words = f"{samples} samples at temperature {temperature:g} are nearly always the same answer"
    summary = ask(tmp_path / "run", temperature=temperature, samples=samples)
    assert (words in capsys.readouterr().err) == warned
    told = [summary, grade_run(RunFolder(tmp_path / "run"), "paper")]
    told.append(report_numbers([tmp_path / "run"]))
    assert [words in " ".join(each.warnings) for each in told] == [warned] * 3


# ---- what a run keeps ----------------------------------------------------------------------------


def test_a_run_keeps_what_nobody_asks_for(tmp_path: Path, engine: Recording) -> None:
    begun = Sampling(1.3, 99, 7)
    ask(tmp_path / "run", temperature=1.3, max_tokens=99, seed=7, samples=3)
    responses = RunFolder(tmp_path / "run").responses_path
    whole = responses.read_text()
    responses.write_text("".join(whole.splitlines(True)[:5]))
    ask(tmp_path / "run")
    assert responses.read_text() == whole and engine.asked == [begun, begun]
    ask(tmp_path / "run", temperature=1.3, samples=3)
    for changes, said in (
        ({"temperature": 0.6}, r"temperature was 1\.3, now 0\.6"),
        ({"temperature": "model"}, r"temperature was 1\.3, now 0\.6"),
        ({"samples": 2}, "samples"),
        ({"seed": 42}, "seed was 7, now 42"),
        ({"max_tokens": 256}, "max_tokens was 99, now 256"),
        ({"style": "paper"}, "style was 'aligned', now 'paper'"),
    ):
        with pytest.raises(UserError, match=said):
            ask(tmp_path / "run", **changes)
    assert responses.read_text() == whole


def test_a_run_that_said_nothing_yet_keeps_it_only_if_it_is_the_same_one(
    tmp_path: Path, engine: Recording
) -> None:
    ask(tmp_path / "run", temperature=1.3)
    for path in tmp_path.glob("run/*.jsonl"):
        path.unlink()
    ask(tmp_path / "run")
    assert engine.asked[-1].temperature == 1.3
    (tmp_path / "run" / "responses.jsonl").unlink()
    ask(tmp_path / "run", style="paper")
    assert engine.asked[-1] == Sampling(0.6, 4096, 42)


def test_options_of_a_run_are_those_of_another_one_where_nobody_asks(
    tmp_path: Path, engine: Recording
) -> None:
    ask(tmp_path / "base", temperature=1.3, samples=3)
    taken = as_in(tmp_path / "base", EvalOptions(seed=1), "full-text,image-only")
    assert (taken.temperature, taken.samples, taken.max_tokens, taken.seed) == (1.3, 3, 256, 1)
    assert as_in(tmp_path / "none", EvalOptions(), "full-text") == EvalOptions()
    assert eval_arguments(EvalOptions(temperature="model", samples=3)) == [
        "--samples",
        "3",
        "--temperature",
        "model",
    ]


# ---- runs side by side ---------------------------------------------------------------------------


def run_of(path: Path, sampling: Sampling | None = None, **options: Any) -> Path:
    evaluate(PROBLEMS, Recording(), path, views=VIEWS, sampling=sampling, **options)
    return path


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sampling": Sampling(temperature=1.0)}, "temperature 0.6 (a), 1 (b). A part"),
        ({"sampling": Sampling(max_tokens=99)}, "max tokens 4096 (a), 99 (b). A part"),
        ({"samples": 2}, "samples 4 (a), 2 (b). A part"),
        ({"pixels": (1, 9)}, ""),  # of the other one it is not known
        (
            {"sampling": Sampling(1.0, 99)},
            "temperature 0.6 (a), 1 (b); max tokens 4096 (a), 99 (b). A part",
        ),
        ({}, ""),
    ],
)
def test_runs_that_were_sampled_differently_are_not_compared_without_a_note(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    folders = [run_of(tmp_path / "a"), run_of(tmp_path / "b", **changes)]
    numbers = report_numbers(folders)
    notes = [words for words in numbers.warnings if words.startswith("Sampled differently")]
    assert len(notes) == bool(said) and all(said in words for words in notes)


def test_what_older_runs_and_imports_say() -> None:
    asked = {"temperature": 0.6, "max_tokens": 9, "samples": 2, "seed": 1}
    local = {"kind": "eval", "resolved": {"engine": "vllm", **asked}}
    assert sampling_of(local) == asked | PLAIN
    served = sampling_of({"kind": "eval", "resolved": {"engine": "openai", **asked}})
    assert served == asked | dict.fromkeys([*PLAIN, "pixels"], "the server's")
    imported = {
        "kind": "import",
        "resolved": {"temperature": [0.6, 0.0], "max_tokens": None, "samples": 4},
    }
    assert sampling_of(imported) == {"temperature": [0.6, 0.0], "max_tokens": None, "samples": 4}
    assert "4 samples at temperature 0 " in greedy_words(imported, "x")[0]
    assert sampling_of({"kind": "import", "resolved": {"samples": 4}})["temperature"] is None
    assert sampling_of({}) == {} and greedy_words({}) == []


# ---- served models -------------------------------------------------------------------------------


class Server:
    """Answers chat completions; keeps the bodies that it took, and refuses those that `refuse` has
    words for.
    """

    def __init__(self) -> None:
        self.taken: list[dict[str, Any]] = []
        self.refused = 0
        self.refuse: Callable[[dict[str, Any]], dict[str, Any] | None] = lambda body: None
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # as in chat_server

            def log_message(self, format: str, *arguments: Any) -> None:
                pass

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                words = outer.refuse(body)
                outer.refused += words is not None
                if words is None:
                    outer.taken.append(body)
                choice = {
                    "index": 0,
                    "message": {"role": "assistant", "content": "\\boxed{1}"},
                    "finish_reason": "stop",
                }
                data = json.dumps(words or {"id": "c", "choices": [choice]}).encode()
                self.send_response(200 if words is None else 400)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        self._listener = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._listener.server_port}/v1"
        threading.Thread(
            target=self._listener.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        ).start()

    def close(self) -> None:
        self._listener.shutdown()
        self._listener.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


def serve(out: Path, server: Server, **options: Any) -> dict[str, Any]:
    return ask(
        out, "m", engine="openai", base_url=server.url, max_retries=0, **{"samples": 2} | options
    )


def names_sent(body: dict[str, Any]) -> dict[str, Any]:
    return {name: body[name] for name in ("temperature", *PLAIN) if name in body}


def test_a_server_is_told_all_of_the_sampling(tmp_path: Path, server: Server) -> None:
    """Else vLLM and SGLang apply the model's own: Qwen2.5-VL's top_k 1 makes all samples one, at
    any temperature.
    """
    summary = serve(tmp_path / "run", server)
    assert len(server.taken) == 12
    assert all(names_sent(body) == {"temperature": 0.6, **PLAIN} for body in server.taken)
    assert summary.sampling == {
        "temperature": 0.6, "max_tokens": 4096, "samples": 2, "seed": 42, "pixels": "the server's",
        **PLAIN,
    }  # fmt: skip


def test_the_servers_own_temperature_is_asked_for_by_sending_none(
    tmp_path: Path, server: Server
) -> None:
    serve(tmp_path / "run", server, temperature="model")
    serve(tmp_path / "run", server)
    assert all(names_sent(body) == PLAIN for body in server.taken)
    run = RunFolder(tmp_path / "run")
    assert run.manifest()["resolved"]["temperature"] == "model"
    assert read_summary(run.path).sampling["temperature"] == "the server's"
    with pytest.raises(UserError, match=r"temperature was 'model', now 0\.6"):
        serve(tmp_path / "run", server, temperature=0.6)


def each_by_name(words: str, *names: str) -> Callable[[dict[str, Any]], dict[str, Any] | None]:
    """A server that refuses the first of some fields, in these words."""

    def refuse(body: dict[str, Any]) -> dict[str, Any] | None:
        there = [name for name in names if name in body]
        return {"error": {"message": words.format(there[0], ", ".join(there))}} if there else None

    return refuse


NOT_OPENAIS = ("top_k", "min_p", "repetition_penalty")
REFUSALS = {
    "openai": each_by_name("Unknown parameter: '{0}'.", *NOT_OPENAIS),
    "openai, older": each_by_name("Unrecognized request arguments supplied: {1}", *NOT_OPENAIS),
    "openai, reasoning": each_by_name(
        "Unsupported parameter: '{0}' is not supported with this model.", "top_p", *NOT_OPENAIS
    ),
    "gemini": each_by_name(
        'Invalid JSON payload received. Unknown name "{0}": Cannot find field.', *NOT_OPENAIS
    ),
    "pydantic": each_by_name(
        "[{{'loc': ('body', '{0}'), 'msg': 'Extra inputs are not permitted'}}]", *NOT_OPENAIS
    ),
    "pydantic 1": each_by_name("{0}: extra fields not permitted", *NOT_OPENAIS),
    "one of both": each_by_name(
        "`temperature` and `{0}` cannot both be specified for this model.", "top_p"
    ),
    "a bound": each_by_name("{0} must be at least 1, got -1.", "top_k"),
    "a range": each_by_name("Invalid value for {0}", "top_k"),
    "no name": each_by_name("Extra inputs are not permitted", *NOT_OPENAIS),
    "no name, json schema": each_by_name("Additional properties are not allowed", *NOT_OPENAIS),
    "no name, plain": each_by_name("unknown field in the request", *NOT_OPENAIS),
}
LEFT = {
    "openai, reasoning": ("top_p", *NOT_OPENAIS),
    "one of both": ("top_p",),
    "a bound": ("top_k",),
    "a range": ("top_k",),
}


@pytest.mark.parametrize("how", REFUSALS)
def test_what_a_server_does_not_take_is_left_out_said_and_recorded(
    tmp_path: Path, server: Server, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    server.refuse = REFUSALS[how]
    left = LEFT.get(how, NOT_OPENAIS)
    summary = serve(tmp_path / "run", server, concurrency=2)
    assert summary.views["text-only"].error == 0 and len(server.taken) == 12
    kept = {name: value for name, value in PLAIN.items() if name not in left}
    assert all(names_sent(body) == {"temperature": 0.6, **kept} for body in server.taken)
    assert server.refused <= 2 * len(left)
    said = [line for line in capsys.readouterr().err.splitlines() if "this server takes no" in line]
    assert all(sum(name in line for line in said) == 1 for name in left), said
    assert summary.sampling == sampling_of(RunFolder(tmp_path / "run").manifest())
    assert {name for name in PLAIN if summary.sampling[name] == "the server's"} == set(left)
    numbers = report_numbers([tmp_path / "run"])
    assert numbers.sampling["run"] == summary.sampling


def test_another_refusal_is_no_refusal_of_the_sampling(tmp_path: Path, server: Server) -> None:
    server.refuse = lambda body: {
        "error": {
            "message": (
                f"This model's maximum context length is 9 tokens. {json.dumps(names_sent(body))}"
            )
        }
    }
    with pytest.raises(UserError, match="all 12 samples failed"):
        serve(tmp_path / "run", server)
    assert read_summary(tmp_path / "run").views["text-only"].error == 6
    assert "left_to_server" not in RunFolder(tmp_path / "run").manifest()["sampling"]


def test_a_served_run_from_before_goes_on_as_it_began(tmp_path: Path, server: Server) -> None:
    """Its first responses came with the server's own top_p and top_k; the others must, too."""
    serve(tmp_path / "run", server, temperature=1.1)
    run = RunFolder(tmp_path / "run")
    manifest = run.manifest()
    del manifest["sampling"]
    run.manifest_path.write_text(json.dumps(manifest))
    run.responses_path.write_text("".join(run.responses_path.read_text().splitlines(True)[:7]))
    server.taken.clear()
    serve(tmp_path / "run", server)
    assert [names_sent(body) for body in server.taken] == [{"temperature": 1.1}] * 5
    assert read_summary(run.path).sampling["top_k"] == "the server's"
