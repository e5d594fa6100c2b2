"""The openai engine against a real server on loopback that fails 30% of its requests in every way a
server fails.
"""

from __future__ import annotations

import base64
import io
import itertools
import json
import logging
import os
import pickle
import random
import signal
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import openai
import pytest
from asking import evaluate
from PIL import Image

from modgap.analysis.results import read_summary
from modgap.cli.main import main
from modgap.core import registry
from modgap.core.engine import Completion, Request, Sampling, sample_seed
from modgap.core.errors import ServerError, UserError
from modgap.core.options import JudgeOptions
from modgap.core.problem import Problem
from modgap.core.prompt import SYSTEM, Prompt
from modgap.core.record import RunFolder
from modgap.engines.chat import UnreadableReply, read_reply
from modgap.engines.failures import refused_parameter
from modgap.engines.openai import OpenAIEngine
from modgap.workflows.judging import _served

KEY = "sk-very-secret-0123456789"
FAULTS = (
    "429", "429 wait 1", "429 wait until", "500", "503", "hang", "drop", "drop in headers",
    "drop in body", "torn JSON", "no choices", "error with 200", "broken off",
)  # fmt: skip
MOST_REQUESTS = 2000


def completion(content: Any = "<think>t</think>\\boxed{7}", **fields: Any) -> dict[str, Any]:
    """The body of a chat completion; fields of the message or (`finish_reason`) of the choice."""
    reason = fields.pop("finish_reason", "stop")
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": content, **fields},
        "finish_reason": reason,
    }
    return {"id": "c", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice],
            "usage": {"prompt_tokens": 11, "completion_tokens": 5, "total_tokens": 16}}  # fmt: skip


class Server:
    """Speaks /v1/chat/completions; keeps what it was asked.

    Attributes:
        fault: Chooses what goes wrong with a request, given its body and which attempt it is; ""
            for nothing.
        reply: The body of a good answer, or (status, body).
    """

    def __init__(self) -> None:
        self.fault: Callable[[dict[str, Any], int], str] = lambda body, attempt: ""
        self.reply: Callable[[dict[str, Any]], dict[str, Any] | tuple[int, dict[str, Any]]] = (
            lambda body: completion()
        )
        self.seconds = 0.0
        self.bodies: list[dict[str, Any]] = []
        self.keys: set[str | None] = set()
        self.answered: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.attempts: dict[str, list[tuple[float, str]]] = defaultdict(list)
        self.busy = self.most_busy = 0
        self.lock, self.closing = threading.Lock(), threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *arguments: Any) -> None:
                pass

            def do_GET(self) -> None:
                data = {
                    "object": "list",
                    "data": [{"id": "geo-vl", "object": "model", "created": 0, "owned_by": "x"}],
                }
                self.send_json(200, data)

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                name = identity(body)
                with outer.lock:
                    assert len(outer.bodies) < MOST_REQUESTS, "runaway client"
                    outer.bodies.append(body)
                    outer.keys.add(self.headers["Authorization"])
                    outer.busy += 1
                    outer.most_busy = max(outer.most_busy, outer.busy)
                    fault = outer.fault(body, len(outer.attempts[name]))
                    outer.attempts[name].append((time.time(), fault))
                    outer.faults[fault] += 1
                time.sleep(outer.seconds)
                # Before the client can know, so that what is counted is never more than its own
                # count.
                with outer.lock:
                    outer.busy -= 1
                    outer.answered[name] += not fault
                if fault:
                    self.fail(fault)
                else:
                    reply = outer.reply(body)
                    status, data = reply if isinstance(reply, tuple) else (200, reply)
                    self.send_json(status, data)

            def fail(self, fault: str) -> None:
                error = {
                    "error": {
                        "message": f"told to fail, {self.headers['Authorization']}",
                        "type": "x",
                    }
                }
                if fault[:3].isdigit():
                    wait = {
                        "429 wait 1": "1",
                        "429 wait until": formatdate(time.time() + 1, usegmt=True),
                    }.get(fault)
                    return self.send_json(
                        int(fault[:3]), error, {"Retry-After": wait} if wait else {}
                    )
                data = json.dumps(completion()).encode()
                if fault == "torn JSON":
                    return self.send_bytes(200, data[: len(data) // 2])
                if fault in ("no choices", "error with 200", "broken off"):
                    torn = {"no choices": {"choices": []}, "error with 200": error}
                    return self.send_json(
                        200, torn.get(fault) or completion("half", finish_reason="abort")
                    )
                if fault == "hang":
                    outer.closing.wait(3)
                elif fault == "drop in headers":
                    self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Ty")
                elif fault == "drop in body":
                    self.send_response(200)
                    self.send_header("Content-Length", str(len(data)))
                    self.end_headers()
                    self.wfile.write(data[: len(data) // 2])
                self.close_connection = True
                return None

            def send_json(
                self, status: int, data: Any, headers: dict[str, str] | None = None
            ) -> None:
                self.send_bytes(status, json.dumps(data).encode(), headers)

            def send_bytes(
                self, status: int, data: bytes, headers: dict[str, str] | None = None
            ) -> None:
                self.send_response(status)
                all_headers = {
                    "Content-Type": "application/json",
                    "Content-Length": str(len(data)),
                    **(headers or {}),
                }
                for field, value in all_headers.items():
                    self.send_header(field, value)
                self.end_headers()
                self.wfile.write(data)

        class Listener(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, request: Any, client_address: Any) -> None:
                pass  # the client went away, as some tests make it

        self._listener = Listener(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._listener.server_port}/v1"
        threading.Thread(
            target=self._listener.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        ).start()

    def close(self) -> None:
        self.closing.set()
        self._listener.shutdown()
        self._listener.server_close()


def identity(body: dict[str, Any]) -> str:
    """What a request's attempts have in common: its sample's seed."""
    return str(body.get("seed"))


def words(body: dict[str, Any]) -> str:
    """The text of the user turn."""
    content = next(message["content"] for message in body["messages"] if message["role"] == "user")
    return content if isinstance(content, str) else content[1]["text"]


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


def engine(server: Server, **options: Any) -> OpenAIEngine:
    return OpenAIEngine("geo-vl", server.url, **{"backoff": 0.02, "timeout": 10.0, **options})


def request(
    name: str = "p", samples: int = 1, image: Image.Image | None = None, **prompt: Any
) -> Request:
    return Request(
        name,
        "full-text",
        Prompt(f"question {name}", **prompt),
        image and (lambda: image),
        tuple(range(samples)),
    )


def one(engine: OpenAIEngine, asked: Request | None = None) -> Completion:
    (answer,) = engine.generate([asked or request()], Sampling())
    return answer


def picture(number: int) -> Image.Image:
    return Image.effect_noise((20 + number, 16), 80).convert("RGB")


def problems(count: int) -> list[Problem]:
    made = []
    for number in range(count):
        buffer = io.BytesIO()
        picture(number).save(buffer, format="PNG")
        made.append(
            Problem(
                f"prob_{number}", "Find x.", "7.000", image=buffer.getvalue(), semantic=("AB = 7",)
            )
        )
    return made


def test_an_image_that_cannot_be_decoded_costs_only_its_own_samples(
    server: Server, tmp_path: Path
) -> None:
    asked = problems(5)
    asked[2] = replace(asked[2], image=asked[2].image_bytes()[:60])
    client = engine(server, concurrency=2)
    summary = evaluate(asked, client, tmp_path / "run", samples=2)
    rows = list(RunFolder(tmp_path / "run").responses())
    assert len({row.key for row in rows}) == len(rows) == 5 * 2 * 2
    failed = [row for row in rows if row.finish_reason == "error"]
    assert {row.problem_id for row in failed} == {"prob_2"} and len(failed) == 4
    assert all("problem prob_2: its diagram cannot be decoded" in str(row.error) for row in failed)
    assert summary.views["image-only"].error == 2 and client.usage.failures == 4


def test_a_hostile_server_costs_retries_and_no_sample(server: Server, tmp_path: Path) -> None:
    """30% faults of every kind: each sample is there exactly once, within the bound, and no wait
    was cut short.
    """
    count, samples, bound = 30, 3, 6
    kinds = iter(FAULTS * 100)
    server.fault = lambda body, attempt: (
        next(kinds) if random.Random(f"{identity(body)}/{attempt}").random() < 0.3 else ""
    )
    server.seconds = 0.005
    asked = problems(count)
    client = engine(server, concurrency=bound, timeout=1.5, max_retries=20)
    summary = evaluate(asked, client, tmp_path / "run", samples=samples)

    rows = list(RunFolder(tmp_path / "run").responses())
    wanted = {
        (p.id, view, s)
        for p in asked
        for view in ("full-text", "image-only")
        for s in range(samples)
    }
    assert len(rows) == len(wanted)
    assert {row.key for row in rows} == wanted
    assert {row.finish_reason for row in rows} == {"stop"}
    assert all(row.seed == sample_seed(42, *row.key) for row in rows)
    assert all(server.faults[kind] for kind in FAULTS), server.faults
    assert server.most_busy <= bound
    # A request is only made again after it failed (a slow machine may have timed out a good one,
    # too).
    assert sum(server.answered.values()) - len(wanted) <= client.usage.retries - sum(
        server.faults[f] for f in FAULTS
    )
    for attempts in server.attempts.values():
        for (before, fault), (after, _) in itertools.pairwise(attempts):
            earliest = {"429 wait 1": before + 1, "429 wait until": int(before) + 1}.get(
                fault, before
            )
            assert after >= earliest - 0.02
    assert (client.usage.completions, client.usage.failures) == (len(wanted), 0)
    assert client.usage.prompt_tokens == 11 * len(wanted)
    assert summary.views["full-text"].correct == count * samples


@pytest.mark.parametrize(
    ("asked", "least"),
    [(None, 0), ("2", 2), ("1.5", 1.5), ("100000", 120), ("-3", 0), ("soon", 0),
     ("Wed, 99 Foo 2000 00:00:00 GMT", 0),
     ("Wed, 21 Oct 2015 07:28:00 GMT", 0), ("Fri, 01 Jan 2100 00:00:00 GMT", 120)],
)  # fmt: skip
def test_waits_are_what_is_asked_and_jitter_up_to_a_bound(
    server: Server, asked: str | None, least: float
) -> None:
    response: Any = SimpleNamespace(
        status_code=429, request=None, headers={"retry-after": asked} if asked else {}
    )
    error = openai.RateLimitError("slow down", response=response, body=None)
    client = engine(server, backoff=0.5)
    for attempt, most in ((0, 0.5), (3, 4.0), (20, 30.0)):
        waits = [client._wait(error, attempt) - least for _ in range(200)]
        assert min(waits) >= 0
        assert max(waits) <= most
        assert min(waits) < most / 4 < most * 3 / 4 < max(waits)


def test_as_many_requests_are_under_way_as_may_be(server: Server) -> None:
    server.seconds = 0.1
    assert (
        len(list(engine(server, concurrency=3).generate([request(samples=18)], Sampling()))) == 18
    )
    assert server.most_busy == 3


def test_what_fails_for_good_is_recorded_and_made_again(server: Server, tmp_path: Path) -> None:
    asked = problems(4)
    bad = str(sample_seed(42, "prob_1", "full-text", 0) % 2**31)
    refused = str(sample_seed(42, "prob_2", "full-text", 1) % 2**31)
    server.fault = lambda body, attempt: "503" if identity(body) == bad else ""
    server.reply = lambda body: (
        (400, {"error": {"message": "too\nlong"}}) if identity(body) == refused else completion()
    )
    evaluate(asked, engine(server, max_retries=2), tmp_path, views="full-text", samples=2)
    first = {row.key: row for row in RunFolder(tmp_path).responses()}
    errors = {key: row.error for key, row in first.items() if row.finish_reason == "error"}
    assert errors == {
        ("prob_1", "full-text", 0): "HTTP 503: told to fail, Bearer [key] (tried 3 times)",
        ("prob_2", "full-text", 1): "HTTP 400: too long",
    }
    assert len(server.attempts[bad]) == 3
    assert len(server.attempts[refused]) == 1
    assert {r.key: r.outcome for r in RunFolder(tmp_path).grades()}[
        "prob_1", "full-text", 0
    ] == "error"

    server.fault, server.reply = lambda body, attempt: "", lambda body: completion()
    made = len(server.bodies)
    evaluate(asked, engine(server), tmp_path, views="full-text", samples=2)
    assert {identity(body) for body in server.bodies[made:]} == {bad, refused}
    second = {row.key: row for row in RunFolder(tmp_path).responses()}
    assert {row.finish_reason for row in second.values()} == {"stop"}
    assert all(second[key] == first[key] for key in first.keys() - errors.keys())


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


@pytest.mark.parametrize(
    ("status", "error", "said"),
    [
        (
            401,
            {"message": "no such key"},
            r"HTTP 401: no such key\. Remedy: check the key in OPENAI_API_KEY",
        ),
        (403, {"message": "not yours"}, r"HTTP 403: not yours\. Remedy: check the key"),
        (
            404,
            {"message": "no model"},
            r"HTTP 404: no model\. Remedy: --model geo-xl is not one of .*: geo-vl",
        ),
        (
            429,
            {"message": "pay", "code": "insufficient_quota"},
            r"HTTP 429: pay\. Remedy: add credit",
        ),
        (
            400,
            {"message": "only 1", "param": "temperature"},
            r"Remedy: --temperature 0\.6 is not taken by geo-xl",
        ),
    ],
)
def test_what_no_retry_mends_ends_the_run_at_once(
    server: Server, status: int, error: dict[str, str], said: str
) -> None:
    server.reply = lambda body: (status, {"error": error})
    client = OpenAIEngine("geo-xl", server.url, concurrency=2)
    with pytest.raises(UserError, match=said) as caught:
        list(client.generate([request(str(number)) for number in range(50)], Sampling()))
    assert "\n" not in str(caught.value)
    assert len(server.bodies) <= 4


@pytest.mark.parametrize(
    "said", ["{url_option} {0} {}", "--temperature 0.0 is not taken by x: give another", "%s"]
)
def test_a_judge_words_the_servers_failures_by_its_own_options(server: Server, said: str) -> None:
    judge = _served("geo{}-xl", JudgeOptions(server.url), "strict")
    asked = [Request("p", "full-text", Prompt("x", has_image=False), None, (0,))]
    greedy = Sampling(temperature=0.0)
    server.reply = lambda body: (400, {"error": {"message": said, "param": "temperature"}})
    with pytest.raises(UserError) as caught:
        list(judge.generate(asked, greedy))
    remedy = "Remedy: geo{}-xl cannot be asked greedily: give another judge."
    assert str(caught.value) == f"the judge: {server.url}: HTTP 400: {said}. {remedy}"
    server.reply = lambda body: (404, {"error": {"message": said}})
    with pytest.raises(UserError) as caught:
        list(judge.generate(asked, greedy))
    assert f"HTTP 404: {said}. Remedy: --judge-model geo{{}}-xl is not one of" in str(caught.value)
    with pytest.raises(ServerError) as by_eval:
        list(OpenAIEngine("geo{}-xl", server.url).generate(asked, greedy))
    assert f"HTTP 404: {said}. Remedy: --model geo{{}}-xl is not one of" in str(by_eval.value)
    assert str(pickle.loads(pickle.dumps(by_eval.value))) == str(by_eval.value), (
        "as a replica sends it"
    )


def test_nobody_there_ends_the_run_at_once() -> None:
    with pytest.raises(
        UserError, match=r"http://127\.0\.0\.1:9/v1: no connection .*start the server"
    ):
        one(OpenAIEngine("m", "http://127.0.0.1:9/v1"))


def test_a_server_that_is_gone_ends_the_run_after_a_while(server: Server) -> None:
    """What it answered before has been yielded, and the run stops long before it has asked for
    every sample.
    """
    server.fault = lambda body, attempt: "" if len(server.bodies) <= 5 else "503"
    got: list[Completion] = []
    with pytest.raises(
        UserError, match=r"samples in a row .*HTTP 503.*the same command then resumes"
    ):
        for answer in engine(server, concurrency=4, max_retries=0).generate(
            [request("a", 1000)], Sampling()
        ):
            got.append(answer)
    assert sum(answer.finish_reason == "stop" for answer in got) == 5
    assert 64 <= sum(answer.finish_reason == "error" for answer in got) <= 70


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


def test_completions_come_as_they_are_there(server: Server) -> None:
    """A slow first answer holds nothing back."""
    slow = str(sample_seed(42, "p", "full-text", 0) % 2**31)
    server.fault = lambda body, attempt: "hang" if identity(body) == slow and not attempt else ""
    answers = engine(server, concurrency=2, timeout=1.0).generate([request(samples=5)], Sampling())
    assert [answer.sample for answer in answers][-1] == 0


@pytest.mark.parametrize("leave", ["close", "interrupt"])
def test_leaving_early_ends_all_that_is_under_way(server: Server, leave: str) -> None:
    first = str(sample_seed(42, "p", "full-text", 0) % 2**31)
    server.fault = lambda body, attempt: "" if identity(body) == first else "hang"
    answers = engine(server, concurrency=3).generate([request(samples=50)], Sampling())
    assert next(answers).sample == 0
    start = time.monotonic()
    if leave == "close":
        answers.close()
    else:
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            next(answers)
    assert time.monotonic() - start < 2.5  # less than a hang
    assert not any(thread.name == "modgap-openai" for thread in threading.enumerate())
    assert len(server.bodies) <= 4


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
        OpenAIEngine("m", "https://somewhere.org/v1", "MY_KEY")
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
