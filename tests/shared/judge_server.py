"""A judge behind a server on loopback, and MathVerse runs for it."""

from __future__ import annotations

import json
import re
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from modgap.core.options import JudgeOptions
from modgap.core.record import RunFolder
from modgap.core.rows import ProblemRow, Response
from modgap.engines.judge import Judge
from modgap.workflows.judging import make_judge

CHOICES = "What is the angle?\nChoices:\nA:40°\nB:60°\nC:120°\nD:x"
# Problem -> question type, question, gold, and the content of the box of each sample.
PROBLEMS: dict[str, tuple[str, str, str, tuple[str, ...]]] = {
    "letters": ("multi-choice", CHOICES, "C", ("C", "(B)", "120^\\circ", "")),
    "interval": ("free-form", "Where?", "(-2, 1]", ("(-2,1]", "[-2,1]", "2", "-2 < x \\le 1")),
    "prose": (
        "free-form",
        "What is it?",
        "a square",
        ("a square", "a rhombus", "a quadrilateral, equilateral", "9"),
    ),
    "count": ("free-form", "How many?", "10", ("\\binom{5}{2}", "\\binom{5}{1}", "10", "11")),
    "number": ("", "Find x.", "25.000", ("25", "7", "25.01", "")),
}


def write_run(
    path: Path,
    problems: Sequence[str] = tuple(PROBLEMS),
    views: Sequence[str] = ("full-text",),
    samples: int = 4,
) -> RunFolder:
    """An evaluation as `modgap eval` leaves it, ungraded."""
    run = RunFolder(path)
    run.start("eval", {"samples": samples, "views": list(views)})
    run.write_problems(
        ProblemRow(
            id=name, answer=gold, question=question, grader=f"mathverse:{kind}" if kind else ""
        )
        for name in problems
        for kind, question, gold, _ in [PROBLEMS[name]]
    )
    with run.appending() as writer:
        for name in problems:
            for view in views:
                for sample, box in enumerate(PROBLEMS[name][3]):
                    text = f"<think>t</think> \\boxed{{{box}}}" if box else "<think>lost"
                    writer.write(Response(problem_id=name, view=view, sample=sample, prompt="p",
                                          response=text, finish_reason="stop"))  # fmt: skip
    return run


def by_key(run: RunFolder) -> dict[tuple[str, int], tuple[str, str]]:
    return {(row.problem_id, row.sample): (row.outcome, row.stage) for row in run.grades()}


# ---- a judge behind a server ---------------------------------------------------------------------
class JudgeServer:
    """Serves chat and raw completions on loopback, and answers as `says` tells; keeps what it was
    asked.

    Attributes:
        says: The words to a prompt, or None to fail with a 500.
        dies_after: Good answers after which every connection is dropped, once they are sent.
    """

    def __init__(self, port: int = 0) -> None:
        self.says: Callable[[str], str | None] = by_characters
        self.models = ["Qwen/Qwen3-8B"]
        self.dies_after = 10**9
        self.takes_template_arguments = True
        self.bodies: list[dict[str, Any]] = []
        self.answered: Counter[str] = Counter()
        self.lock = threading.Lock()
        self.sending = 0
        self.sent = threading.Condition(self.lock)
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = (
                True  # it holds a body back until its head is acknowledged, 40 ms
            )

            def log_message(self, format: str, *arguments: Any) -> None:
                pass

            def do_GET(self) -> None:
                data = [
                    {"id": name, "object": "model", "created": 0, "owned_by": "x"}
                    for name in outer.models
                ]
                self.send(200, {"object": "list", "data": data})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                raw = self.path.endswith("/v1/completions")
                prompt = body["prompt"] if raw else body["messages"][-1]["content"]
                with outer.lock:
                    outer.bodies.append(body | {"path": self.path, "asked": prompt})
                    alive = sum(outer.answered.values()) < outer.dies_after
                    said = outer.says(prompt) if alive else None
                    outer.answered[prompt] += said is not None
                    if not alive:
                        outer.sent.wait_for(lambda: not outer.sending)
                        self.close_connection = True
                        return None
                    outer.sending += 1
                try:
                    return self.answer(body, raw, said)
                finally:
                    with outer.lock:
                        outer.sending -= 1
                        outer.sent.notify_all()

            def answer(self, body: dict[str, Any], raw: bool, said: str | None) -> None:
                if body["model"] not in outer.models:
                    return self.send(404, {"error": {"message": "no such model"}})
                if "chat_template_kwargs" in body and not outer.takes_template_arguments:
                    return self.send(
                        400, {"error": {"message": "Unknown parameter: 'chat_template_kwargs'."}}
                    )
                if said is None:
                    return self.send(500, {"error": {"message": "told to fail"}})
                said = said if raw or body["max_tokens"] > 2 else said[:2]
                part = (
                    {"text": said} if raw else {"message": {"role": "assistant", "content": said}}
                )
                choice = {"index": 0, "finish_reason": "stop", **part}
                return self.send(
                    200, {"id": "c", "object": "x", "created": 0, "model": "m", "choices": [choice]}
                )

            def send(self, status: int, data: Any) -> None:
                text = json.dumps(data).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

        class Listener(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, request: Any, client_address: Any) -> None:
                pass

        self._listener = Listener(("127.0.0.1", port), Handler)
        self.port = self._listener.server_port
        self.url = f"http://127.0.0.1:{self.port}/v1"
        threading.Thread(
            target=self._listener.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        ).start()

    def close(self) -> None:
        self._listener.shutdown()
        self._listener.server_close()


def last_case(prompt: str) -> tuple[str, str]:
    """Gold and answer of the case that a prompt ends with, as a reader from the top would find
    them.
    """
    shots = prompt.split("[Question]: ")
    assert len(shots) == 7 and prompt.endswith("\nJudgement:"), "an answer made up a question"
    gold, _, answer = (
        shots[-1].partition("\n[Standard Answer]: ")[2].partition("\n[Model_answer] : ")
    )
    return gold, answer.removesuffix("\nJudgement:")


def by_characters(prompt: str) -> str:
    """The rules' own view of what is the same: a judge that agrees with them where both apply."""
    gold, answer = last_case(prompt)
    return str(
        int(
            re.sub(r"\s", "", gold) == re.sub(r"\s", "", answer)
            or {gold, answer} == {"(-2, 1]", "-2 < x \\le 1"}
        )
    )


def judge(server: JudgeServer, **options: Any) -> Judge:
    return make_judge(JudgeOptions(server.url, **{"timeout": 5.0, "max_retries": 0, **options}))
