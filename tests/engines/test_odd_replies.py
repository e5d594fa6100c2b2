"""Whatever a server replies costs one sample at most, and what is written down can be read."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from asking import evaluate
from chat_server import Server, completion, engine, identity, one, problems, request

from modgap.core.engine import Sampling, sample_seed
from modgap.core.record import RunFolder
from modgap.engines.chat import UnreadableReply, read_reply

GOOD = json.dumps(completion())


def with_counts(prompt: str, reply: str = "5") -> str:
    return GOOD.replace('"prompt_tokens": 11', f'"prompt_tokens": {prompt}').replace(
        '"completion_tokens": 5', f'"completion_tokens": {reply}'
    )


@pytest.mark.parametrize(
    ("sent", "counted"),
    [("NaN", 0), ("Infinity", 0), ("1e999", 0), ("-1e999", 0), ('"many"', 0), ("9" * 400, 0),
     ("9" * 9000, 0), ("-5", 0), ("[1]", 0), ("{}", 0), ("null", 0), ("1.5", 0), ("12.0", 12),
     ("12", 12)],
)  # fmt: skip
def test_a_count_that_cannot_be_one_is_left_out_and_the_text_is_kept(
    sent: str, counted: int
) -> None:
    reply = read_reply(with_counts(sent))
    assert reply.text == "<think>t</think>\\boxed{7}" and reply.prompt_tokens == counted
    assert read_reply(with_counts("1", sent)).completion_tokens == counted


@pytest.mark.parametrize("usage", ["many", [1], 5, {"prompt_tokens_details": ["x"]}])
def test_usage_of_another_shape_costs_nothing(usage: Any) -> None:
    assert read_reply(json.dumps(completion() | {"usage": usage})).finish_reason == "stop"


NESTED = '{"content": ' * 495 + '"x"' + "}" * 495
BODIES = [
    b"", b"null", b"NaN", b"[]", b"5", b"\xff\xfe", b'"text"', b"[" * 200_000, b'{"a":' * 200_000,
    b'{"choices": {}}', b'{"choices": "x"}', b'{"choices": [null]}', b'{"choices": [[]]}',
    b'{"choices": [{"message": "x"}]}', b'{"choices": [{"message": []}]}',
    b'{"choices": [{"message": {"content": 5}}]}', b'{"choices": [{"text": 5}]}',
    b'{"error": "no"}', b'{"error": {"message": {"a": [1]}}}', b"<html>busy</html>",
    f'{{"choices": [{{"message": {{"content": [{{"text": {NESTED}}}]}}}}]}}'.encode(),
    json.dumps(completion([{"type": "image_url", "image_url": {}}])).encode(),
]  # fmt: skip


@pytest.mark.parametrize("status", [200, 400, 500])
def test_an_odd_body_costs_its_sample(server: Server, status: int) -> None:
    """Every odd body comes between two good ones."""
    odd = {
        str(sample_seed(42, "p", "full-text", 2 * number + 1) % 2**31): body
        for number, body in enumerate(BODIES)
    }
    server.reply = lambda asked: (
        (status, odd[identity(asked)]) if identity(asked) in odd else completion()
    )
    asked = request(samples=2 * len(BODIES) + 1)
    answers = list(engine(server, max_retries=1).generate([asked], Sampling()))
    failed = {row.sample: row.error for row in answers if row.finish_reason == "error"}
    assert len(answers) == 2 * len(BODIES) + 1
    assert sorted(failed) == list(range(1, 2 * len(BODIES), 2))
    assert all(error and len(error) < 400 for error in failed.values())


@pytest.mark.parametrize("location", ["/v1/chat/completions", "ftp://x/", "http://[", "//", "\x01"])
@pytest.mark.parametrize("status", [301, 303, 307, 399])
def test_a_redirect_costs_its_sample(server: Server, location: str, status: int) -> None:
    server.headers = {"Location": location}
    bad = str(sample_seed(42, "p", "full-text", 1) % 2**31)
    server.reply = lambda asked: (status, b"") if identity(asked) == bad else completion()
    client = engine(server, max_retries=1, concurrency=1)
    answers = list(client.generate([request(samples=3)], Sampling()))
    assert [answer.finish_reason for answer in answers] == ["stop", "error", "stop"]


@pytest.mark.parametrize("status", [200, 400])
def test_a_reply_beyond_64_mb_is_dropped_and_never_held(server: Server, status: int) -> None:
    bomb = gzip.compress(b" " * 2**20 * 300, 1)
    server.headers = {"Content-Encoding": "gzip"}
    server.reply = lambda body: (status, bomb)
    tracemalloc.start()
    answer = one(engine(server, max_retries=0, timeout=60.0))
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert answer.finish_reason == "error" and answer.error == "the reply is larger than 64 MB"
    assert most < 100 * 2**20
    server.reply = lambda body: (200, gzip.compress(GOOD.encode()))
    assert one(engine(server)).finish_reason == "stop"


def test_what_is_written_of_odd_replies_can_be_read(server: Server, tmp_path: Path) -> None:
    """A text of anything is a text; the next command grades it."""
    odd = ["\ud800", "\x00", "(" * 200_000, "\\boxed{" * 50_000, "\u2028\r\n", [{"text": "\udfff"}]]
    texts = iter(odd * 4)
    server.reply = lambda body: completion(next(texts))
    evaluate(problems(3), engine(server), tmp_path / "run", samples=4)
    rows = list(RunFolder(tmp_path / "run").responses())
    assert len(rows) == 24 and {row.finish_reason for row in rows} == {"stop"}
    assert len(RunFolder(tmp_path / "run").grades()) == 24


def test_parts_nested_too_deep_are_no_reply() -> None:
    with pytest.raises(UnreadableReply):
        read_reply(f'{{"choices": [{{"message": {{"content": [{{"text": {NESTED}}}]}}}}]}}')
