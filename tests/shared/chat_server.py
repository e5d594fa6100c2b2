"""A chat server on loopback that fails in every way a server can, and an engine that asks it."""

from __future__ import annotations

import dataclasses
import io
import json
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from PIL import Image

from modgap.core.engine import Completion, Request, Sampling
from modgap.core.problem import Problem
from modgap.core.prompt import Prompt
from modgap.engines.openai import OpenAIEngine
from modgap.engines.openai import Server as Reached

KEY = "sk-very-secret-0123456789"


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
        reply: The body of an answer, or (status, body); bytes are sent as they are.
        headers: More headers of every answer.
    """

    def __init__(self) -> None:
        self.fault: Callable[[dict[str, Any], int], str] = lambda body, attempt: ""
        self.reply: Callable[[dict[str, Any]], Any] = lambda body: completion()
        self.headers: dict[str, str] = {}
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
            disable_nagle_algorithm = (
                True  # it holds a body back until its head is acknowledged, 40 ms
            )

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
                content = data if isinstance(data, bytes) else json.dumps(data).encode()
                self.send_bytes(status, content, {**outer.headers, **(headers or {})})

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


def engine(server: Server, **options: Any) -> OpenAIEngine:
    """An impatient engine; options are those of a `Server` or of the engine."""
    names = {field.name for field in dataclasses.fields(Reached)}
    how = {name: value for name, value in options.items() if name in names}
    rest = {name: value for name, value in options.items() if name not in names}
    reached = Reached(server.url, **{"backoff": 0.02, "timeout": 10.0, **how})
    return OpenAIEngine("geo-vl", reached, **rest)


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
