"""The openai engine against a server on loopback that fails 30% of its requests in every way."""

from __future__ import annotations

import itertools
import os
import pickle
import random
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import openai
import pytest
from asking import evaluate
from chat_server import KEY, Server, completion, engine, identity, one, problems, request

from modgap.core.engine import Completion, Request, Sampling, sample_seed
from modgap.core.errors import ServerError, UserError
from modgap.core.prompt import Prompt
from modgap.core.record import RunFolder
from modgap.engines.openai import OpenAIEngine
from modgap.engines.openai import Server as Reached
from modgap.engines.served_judge import _start as start_judge

FAULTS = (
    "429", "429 wait 1", "429 wait until", "500", "503", "hang", "drop", "drop in headers",
    "drop in body", "torn JSON", "no choices", "error with 200", "broken off",
)  # fmt: skip


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


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
    count, samples, bound = 30, 2, 8
    kinds = iter(FAULTS * 100)
    server.fault = lambda body, attempt: (
        next(kinds) if random.Random(f"{identity(body)}/{attempt}").random() < 0.3 else ""
    )
    server.seconds = 0.005
    asked = problems(count)
    client = engine(server, concurrency=bound, timeout=1.0, max_retries=20)
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
    server.seconds = 0.04
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
    client = OpenAIEngine("geo-xl", Reached(server.url, concurrency=2))
    with pytest.raises(UserError, match=said) as caught:
        list(client.generate([request(str(number)) for number in range(50)], Sampling()))
    assert "\n" not in str(caught.value)
    assert len(server.bodies) <= 4


@pytest.mark.parametrize(
    "said", ["{url_option} {0} {}", "--temperature 0.0 is not taken by x: give another", "%s"]
)
def test_a_judge_words_the_servers_failures_by_its_own_options(server: Server, said: str) -> None:
    judge = start_judge("geo{}-xl", Reached(server.url), "strict")
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


def test_completions_come_as_they_are_there(server: Server) -> None:
    """A slow first answer holds nothing back."""
    slow = str(sample_seed(42, "p", "full-text", 0) % 2**31)
    server.fault = lambda body, attempt: "hang" if identity(body) == slow and not attempt else ""
    answers = engine(server, concurrency=2, timeout=0.7).generate([request(samples=5)], Sampling())
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
