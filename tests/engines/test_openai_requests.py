"""The openai engine: what is sent to a server, what it refuses, and what its answers say."""

from __future__ import annotations

import base64
import io
import json
import logging
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import openai
import pytest
from asking import evaluate
from chat_server import KEY, Server, completion, engine, identity, one, picture, problems, request
from PIL import Image

from modgap.analysis.results import read_summary
from modgap.cli.main import main
from modgap.core import registry
from modgap.core.engine import Sampling, sample_seed
from modgap.core.errors import UserError
from modgap.core.prompt import SYSTEM
from modgap.core.record import RunFolder
from modgap.engines.chat import UnreadableReply, read_reply
from modgap.engines.failures import refused_parameter
from modgap.engines.openai import OpenAIEngine
from modgap.engines.openai import Server as Reached


def words(body: dict[str, Any]) -> str:
    """The text of the user turn."""
    content = next(message["content"] for message in body["messages"] if message["role"] == "user")
    return content if isinstance(content, str) else content[1]["text"]


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


def test_the_key_is_sent_and_found_nowhere_else(
    server: Server,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Even from a server that sends it back in its errors and its answers, with all logging on."""
    caplog.set_level(logging.DEBUG)
    server.fault = lambda body, attempt: "500" if attempt == 0 or "3" in identity(body) else ""
    server.reply = lambda body: completion(f"your key is {KEY}", reasoning_content=KEY)
    client = engine(server, max_retries=1)
    evaluate(problems(6), client, tmp_path, samples=2)
    assert server.keys == {f"Bearer {KEY}"}
    texts = [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    assert any("[key]" in text for text in texts)
    assert not any(
        KEY in text
        for text in [*texts, caplog.text, *capfd.readouterr(), repr(client), str(vars(client))]
    )
    server.fault = lambda body, attempt: ""
    for before in (0, 280, 290):  # a long message is cut, and half a key is a leak, too
        server.reply = lambda body, before=before: (
            401,
            {"error": {"message": "x" * before + KEY + "x" * 99}},
        )
        with pytest.raises(UserError) as caught:
            one(engine(server))
        assert KEY[:6] not in str(caught.value)


def test_what_is_sent(server: Server) -> None:
    image = picture(9)
    sampling = Sampling(temperature=0.7, max_tokens=99, seed=5)
    asked = [request("a", 2, image), request("b", 1, system=None, prefill="<think>")]
    list(engine(server).generate(asked, sampling))
    with_image = [body for body in server.bodies if words(body) == "question a"]
    assert [body["seed"] for body in sorted(with_image, key=lambda body: body["seed"])] == sorted(
        sample_seed(5, "a", "full-text", sample) % 2**31 for sample in (0, 1)
    )
    for body in with_image:
        assert (body["model"], body["temperature"], body["max_tokens"]) == ("geo-vl", 0.7, 99)
        assert body["messages"][0] == {"role": "system", "content": SYSTEM}
        assert [part["type"] for part in body["messages"][1]["content"]] == ["image_url", "text"]
        kind, _, data = body["messages"][1]["content"][0]["image_url"]["url"].partition(",")
        assert kind == "data:image/png;base64"
        arrived = base64.b64decode(data, validate=True)
        buffer = io.BytesIO()
        image.save(buffer, format="PNG")
        assert arrived == buffer.getvalue()
        assert Image.open(io.BytesIO(arrived)).tobytes() == image.tobytes()
        assert "continue_final_message" not in body
    (other,) = (body for body in server.bodies if words(body) == "question b")
    turns = [{"role": "user", "content": "question b"}, {"role": "assistant", "content": "<think>"}]
    assert other["messages"] == turns
    assert (other["continue_final_message"], other["add_generation_prompt"]) == (True, False)


@pytest.mark.parametrize(
    ("reply", "prefill", "text", "reason"),
    [
        (completion("four"), "", "four", "stop"),
        (completion("four", finish_reason="length"), "", "four", "length"),
        (completion("four", finish_reason=None), "", "four", "stop"),
        (completion(None), "", "", "stop"),
        (completion(None, refusal="I will not."), "", "I will not.", "stop"),
        (completion("", finish_reason="content_filter"), "", "", "error"),
        (completion("four", reasoning_content="2+2"), "", "<think>2+2</think>four", "stop"),
        (completion("four", reasoning="2+2"), "<think>", "<think>2+2</think>four", "stop"),
        (completion(None, reasoning="2+", finish_reason="length"), "", "<think>2+", "length"),
        (
            completion("<think>2+2</think>four", reasoning="2+2"),
            "",
            "<think>2+2</think>four",
            "stop",
        ),
        (completion("2+2</think>four"), "<think>", "<think>2+2</think>four", "stop"),
        (completion("<think>2+2</think>four"), "<think>\n", "<think>2+2</think>four", "stop"),
        (
            completion("four", reasoning="2+2", finish_reason="length"),
            "",
            "<think>2+2</think>four",
            "length",
        ),
        (
            completion(None, thinking="2+", finish_reason="MAX_TOKENS"),
            "<think>",
            "<think>2+",
            "length",
        ),
        (completion("four", finish_reason="model_length"), "", "four", "length"),
        (
            completion(
                [
                    {"type": "thinking", "thinking": [{"type": "text", "text": "2+2"}]},
                    {"type": "text", "text": "four"},
                ]
            ),
            "",
            "<think>2+2</think>four",
            "stop",
        ),
        (completion([{"type": "text", "text": "four"}]), "", "four", "stop"),
        (completion([{"type": "image_url", "image_url": {}}]), "", "", "error"),
    ],
)
def test_what_the_model_said(reply: dict[str, Any], prefill: str, text: str, reason: str) -> None:
    read = read_reply(json.dumps(reply), prefill)
    assert (read.text, read.finish_reason) == (text, reason)
    assert (read.error is not None) == (reason == "error")
    assert (read.prompt_tokens, read.completion_tokens) == (11, 5)


@pytest.mark.parametrize(
    "body",
    ["", "[]", "null", "{}", "7", '{"choices": [{}]}', '{"choices": [null]}', "<html>",
     '{"choices": [{"message": {"content": [1]}}]}'],
)  # fmt: skip
def test_no_other_body_is_taken_for_a_response(body: str) -> None:
    with pytest.raises(UnreadableReply):
        read_reply(body)


def test_a_server_that_takes_other_parameters(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each refused parameter is put otherwise, once for all; no sample is lost and no retry is
    spent.
    """

    def reply(body: dict[str, Any]) -> dict[str, Any] | tuple[int, dict[str, Any]]:
        for name, words in (
            ("max_tokens", "Use 'max_completion_tokens' instead."),
            (
                "continue_final_message",
                "Unrecognized request argument supplied: continue_final_message",
            ),
            ("seed", "seed: Extra inputs are not permitted"),
        ):
            if name in body:
                return 400, {"error": {"message": words, "type": "invalid_request_error"}}
        return completion()

    server.reply = reply
    client = engine(server, max_retries=0, concurrency=3)
    answers = list(
        client.generate(
            [request(str(n), 1, prefill="<think>") for n in range(20)], Sampling(max_tokens=77)
        )
    )
    assert {answer.finish_reason for answer in answers} == {"stop"}
    assert len(answers) == 20
    assert len(server.bodies) <= 20 + 3 * 3
    assert server.bodies[-1]["max_completion_tokens"] == 77
    assert capsys.readouterr().err.count("takes no seed") == 1


NO_SYSTEM = "Prompting with images is incompatible with system messages."


@pytest.mark.parametrize("form", ["400", "500", "200", "detail"])
def test_a_server_that_takes_no_system_turn_beside_an_image(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    """Every prompt with an image is asked without it and no other one, whatever is asked first; the
    run says so.
    """

    def reply(body: dict[str, Any]) -> dict[str, Any] | tuple[int, dict[str, Any]]:
        system = body["messages"][0]["role"] == "system"
        if not system or isinstance(body["messages"][1]["content"], str):
            return completion()
        if form == "detail":
            return 422, {"detail": [{"loc": ["body", "messages"], "msg": NO_SYSTEM}]}
        return int(form), {"error": {"message": NO_SYSTEM}}

    server.reply = reply
    views = ("full-text", "image-only", "question-only")
    summary = evaluate(
        problems(6), engine(server, max_retries=0, concurrency=3), tmp_path, views=views, samples=1
    )
    rows = list(RunFolder(tmp_path).responses())
    assert {row.finish_reason for row in rows} == {"stop"} and len(rows) == 18
    assert {(row.view, row.left_out) for row in rows} == {
        ("full-text", ("system",)), ("image-only", ("system",)), ("question-only", ()),
    }  # fmt: skip
    assert len(server.bodies) <= 18 + 3
    assert capsys.readouterr().err.count("takes no system turn") == 1
    assert any(
        "12 samples were asked without the system turn" in words for words in summary.warnings
    )


def test_a_run_of_which_every_sample_failed_has_no_gap_and_ends_with_the_cause(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, run = tmp_path / "data", tmp_path / "run"
    assert main(["data", "synth", "--out", str(data), "--train", "1", "--test", "2"]) == 0
    server.reply = lambda body: (400, {"error": {"message": "no such thing"}})
    command = ["eval", "--data", str(data), "--out", str(run), "--engine", "openai", "--model", "m",
               "--base-url", server.url, "--samples", "1"]  # fmt: skip
    capsys.readouterr()
    assert main(command) == 1
    said = capsys.readouterr()
    assert "all 4 samples failed (HTTP 400: no such thing)" in said.err and "gap" not in said.out
    assert main(["grade", str(run)]) == 0
    assert read_summary(run).gap is None
    assert (
        "There is no gap: no sample of the text and vision side could be graded."
        in capsys.readouterr().out
    )
    # One side alone is no gap either, and the same command makes what failed again.
    server.reply = lambda body: (
        completion() if "In this problem" in words(body) else (400, {"error": {"message": "x"}})
    )
    assert main(command) == 0
    assert "no sample of the vision side" in " ".join(capsys.readouterr().out.split())
    assert read_summary(run).gap is None
    server.reply = lambda body: completion()
    assert main(command) == 0
    assert read_summary(run).gap.n_problems == 2


@pytest.mark.parametrize(
    ("body", "refused"),
    [
        ({"message": "Unsupported parameter: 'max_tokens' is not supported with this model. Use "
          "'max_completion_tokens' instead.", "param": "max_tokens"}, "max_tokens"),
        ({"message": 'Invalid JSON payload received. Unknown name "seed": Cannot find field.'},
         "seed"),
        ({"detail": [{"type": "extra_forbidden", "loc": ["body", "seed"],
                      "msg": "Extra inputs are not permitted"}]},
         "seed"),
        ({"message": "System role not supported"}, "system"),
        ({"message": "Prompting with images is incompatible with system messages."}, "system"),
        ({"message": "Conversation roles must alternate user/assistant/user/assistant/..."},
         "system"),
        ({"message": "Unsupported value: 'temperature' does not support 0.6",
          "param": "temperature"}, "temperature"),
        ({"message": "This model's maximum context length is 2048 tokens"}, None),
        ({"detail": [{"loc": ["body", "messages"], "input": {"seed": 5, "max_tokens": 9},
                      "msg": "bad"}]}, None),
    ],
)  # fmt: skip
def test_which_parameter_a_server_refuses(body: dict[str, Any], refused: str | None) -> None:
    response: Any = SimpleNamespace(status_code=400, request=None, headers={})
    assert refused_parameter(openai.BadRequestError("", response=response, body=body)) == refused


def test_usage_and_cost(server: Server) -> None:
    client = engine(server, prices=(2.0, 10.0))
    list(client.generate([request(samples=3)], Sampling()))
    assert (client.usage.prompt_tokens, client.usage.completion_tokens) == (33, 15)
    assert client.usage.cost == pytest.approx((33 * 2 + 15 * 10) / 1e6)
    assert engine(server).usage.cost is None


def test_keys_and_addresses(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    assert one(engine(server)).finish_reason == "stop"  # a server over plain http needs no key
    with pytest.raises(
        UserError, match=r"api\.openai\.com.* needs a key and OPENAI_API_KEY is not set: export"
    ):
        OpenAIEngine("m")
    with pytest.raises(UserError, match="MY_KEY is not set"):
        OpenAIEngine("m", Reached("https://somewhere.org/v1", "MY_KEY"))
    with pytest.raises(UserError, match="write it like http"):
        OpenAIEngine("m", "localhost:8000")
    with pytest.raises(UserError, match="environment variable") as caught:
        OpenAIEngine("m", f"https://me:{KEY}@somewhere.org/v1")
    assert KEY not in str(caught.value)
    for options in ({"concurrency": 0}, {"timeout": 0.0}, {"max_retries": -1}):
        with pytest.raises(UserError, match="must be"):
            engine(server, **options)


def test_the_registry_has_it() -> None:
    assert registry.INFERENCE_ENGINES.load("openai") is OpenAIEngine


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("same", [True, False])
def test_a_redirect_is_followed_to_the_same_origin_only(
    server: Server, status: int, same: bool
) -> None:
    """Another server would get the prompts, and a client of some version the key."""
    asked: list[str] = []

    class Redirecting(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            asked.append(self.path)
            if self.path.startswith("/new"):
                self.send_response(200)
                data = json.dumps(completion()).encode()
            else:
                self.send_response(status)
                data = b""
                to = f"http://127.0.0.1:{self.server.server_port}/new" if same else server.url
                self.send_header("Location", f"{to}/chat/completions")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    first = ThreadingHTTPServer(("127.0.0.1", 0), Redirecting)
    threading.Thread(
        target=first.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
    ).start()
    try:
        reached = Reached(f"http://127.0.0.1:{first.server_port}/v1", max_retries=0)
        client = OpenAIEngine("m", reached)
        if same and status in (307, 308):
            assert one(client).finish_reason == "stop"
        elif not same:
            port = server.url.rpartition(":")[2].partition("/")[0]
            with pytest.raises(UserError, match=f"HTTP {status}.*give http://127.0.0.1:{port} in"):
                one(client)
    finally:
        first.shutdown()
        first.server_close()
    assert not server.bodies


@pytest.mark.parametrize(
    "address",
    [
        f"https://me:{KEY}@host.org/v1", f"https://{KEY}@host.org/v1", f"me:{KEY}@host/v1",
        f"https://me:a/{KEY}@host:1/v1", f"https://host/v1?key={KEY}", f"https://host/v1#{KEY}",
        f"ftp://host/v1?key={KEY}", f"http://host:{KEY}/@v1",
    ],
)  # fmt: skip
def test_an_address_with_a_key_is_refused_before_anything_is_written(
    address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["--out", str(tmp_path / "run")]
    assert main(["eval", "--benchmark", "pairs", "--data", "x", "--model", "m", "--engine",
                 "openai", "--base-url", address, *common]) == 1  # fmt: skip
    assert main(["grade", str(tmp_path), "--judge", address, "--judge-model", "m"]) == 1
    assert KEY not in "".join(capsys.readouterr()) and not any(tmp_path.iterdir())


@pytest.mark.parametrize("name", [KEY, "gsk_0123456789abcdef", "A=B"])
def test_a_key_in_the_place_of_its_name_is_refused_before_anything_is_written(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where no key is needed, and with an engine that takes none."""
    for more in (["--engine", "openai", "--base-url", "http://h/v1"], []):
        assert main(["eval", "--data", "x", "--model", "m", "--out", str(tmp_path / "run"),
                     "--api-key-env", name, *more]) == 1  # fmt: skip
    assert main(["grade", str(tmp_path), "--judge", "tiny", "--api-key-env", name]) == 1
    assert name not in "".join(capsys.readouterr()) and not any(tmp_path.iterdir())


def test_a_key_with_a_line_break_is_not_sent(
    server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", f"{KEY}\n{KEY}")
    with pytest.raises(UserError, match="the key in OPENAI_API_KEY has a line break") as caught:
        engine(server)
    assert KEY not in str(caught.value) and not server.bodies
