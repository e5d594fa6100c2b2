"""A hostile server: whatever it replies costs one sample at most, and nothing unusable is kept.

A behaviour yields what is sent: bytes, seconds to wait, or `RESET`, which ends the connection with
a reset. What it does not send is not sent; the connection is closed at the end.
"""

from __future__ import annotations

import contextlib
import functools
import gzip
import json
import shutil
import socket
import struct
import threading
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from attacks import trial
from attacks.material import Material
from attacks.trial import KEY, Bench, Tried, modgap

RESET = object()
GOOD = "<think>t</think>\\boxed{7}"
_SAMPLES = 2
Behaviour = Callable[[str], Iterable[Any]]
"""Given the URL of another origin."""


def body(content: Any = GOOD, **fields: Any) -> dict[str, Any]:
    """A chat completion; fields of the whole, or of the choice (`choice`), or message."""
    message = {"role": "assistant", "content": content, **fields.pop("message", {})}
    choice = {"index": 0, "message": message, "finish_reason": "stop", **fields.pop("choice", {})}
    usage = {"prompt_tokens": 11, "completion_tokens": 5, "total_tokens": 16}
    whole = {"id": "c", "object": "chat.completion", "created": 0, "model": "m",
             "choices": [choice], "usage": usage | fields.pop("usage", {})}  # fmt: skip
    return whole | fields


def raw(data: Any, status: str = "200 OK", *headers: str, length: str | None = None) -> bytes:
    """A whole HTTP reply."""
    sent = data if isinstance(data, bytes) else json.dumps(data).encode()
    lines = [f"HTTP/1.1 {status}", "Content-Type: application/json", *headers]
    if length != "":
        lines.append(f"Content-Length: {len(sent) if length is None else length}")
    return "\r\n".join([*lines, "Connection: close", "", ""]).encode("latin-1") + sent


def _error(status: str, message: Any = "told to fail", *headers: str) -> Behaviour:
    return lambda _: [raw({"error": {"message": message, "type": "x"}}, status, *headers)]


def _says(data: Any, *headers: str) -> Behaviour:
    return lambda _: [raw(data, "200 OK", *headers)]


def _redirect(status: int, path: str | None = None) -> Behaviour:
    def behave(other: str) -> list[bytes]:
        location = other + "/chat/completions" if path is None else path
        return [raw(b"", f"{status} Moved", f"Location: {location}")]

    return behave


def _drip(head: bytes, piece: bytes, pause: float) -> Behaviour:
    def behave(_: str) -> Iterator[Any]:
        yield head
        while True:
            yield piece
            yield pause

    return behave


@functools.cache
def _bomb(layers: int = 1) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    data = b"".join(packer.compress(b" " * 2**20) for _ in range(300)) + packer.flush()
    for _ in range(layers - 1):
        data = gzip.compress(data)
    return data


CHUNKED = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
WHOLE = json.dumps(body()).encode()
DEEP = b"[" * 200_000


def _statuses() -> dict[str, Behaviour]:
    plain = (201, 202, 204, 206, 300, 304, 305, 400, 402, 405, 406, 408, 409, 410, 411, 413, 414,
             415, 418, 421, 422, 423, 425, 428, 429, 431, 451, 500, 501, 502, 503, 504, 507, 520,
             529, 599, 600, 999)  # fmt: skip
    final = {f"status {code}": _error(f"{code} X") for code in plain}
    waits = ("0", "-5", "nan", "inf", "1e999", "x", "Wed, 21 Oct 1999 07:28:00 GMT", "")
    waiting = {
        f"429, wait {wait!r}": _error("429 X", "slow down", f"Retry-After: {wait}")
        for wait in waits
    }
    moved = {f"redirect {code} away": _redirect(code) for code in (301, 302, 303, 307, 308)}
    places = (
        "/v1/chat/completions",
        "ftp://x/",
        "http://[",
        "//",
        "\x01",
        "",
        "file:///etc/passwd",
    )
    moved |= {f"redirect to {place!r}": _redirect(307, place) for place in places}
    return final | waiting | moved


def _connections() -> dict[str, Behaviour]:
    return {
        "reset at once": lambda _: [RESET],
        "closed at once": lambda _: [],
        "reset in the headers": lambda _: [b"HTTP/1.1 200 OK\r\nContent-Ty", RESET],
        "reset in the body": lambda _: [raw(WHOLE[:50], length="500"), RESET],
        "closed in the body": lambda _: [raw(WHOLE[:50], length="500")],
        "silence": lambda _: [30.0],
        "headers drip": _drip(HEAD, b"X", 0.1),
        "body drips": _drip(HEAD + b"Content-Length: 99999\r\n\r\n", b" ", 0.1),
        "chunks drip": _drip(CHUNKED, b"1\r\n \r\n", 0.1),
        "endless body": _drip(HEAD + b"\r\n", b" " * 65536, 0),
        "endless chunks": _drip(CHUNKED, b"10000\r\n" + b" " * 65536 + b"\r\n", 0),
        "endless header": _drip(HEAD + b"X: ", b"y" * 65536, 0),
        "endless headers": _drip(HEAD, b"X: y\r\n" * 1000, 0),
        "endless 100 Continue": _drip(b"", b"HTTP/1.1 100 Continue\r\n\r\n", 0.05),
        "chunk of negative size": lambda _: [CHUNKED + b"-5\r\n \r\n"],
        "chunk of no size": lambda _: [CHUNKED + b"zz\r\n \r\n"],
        "chunk too long": lambda _: [CHUNKED + b"fffffffff\r\n \r\n"],
        "no last chunk": lambda _: [CHUNKED + b"%x\r\n" % len(WHOLE) + WHOLE + b"\r\n"],
        "longer than it says": lambda _: [raw(WHOLE + b"garbage", length=str(len(WHOLE)))],
        "shorter than it says": lambda _: [raw(WHOLE, length=str(len(WHOLE) + 9))],
        "negative length": lambda _: [raw(WHOLE, length="-1")],
        "length is a word": lambda _: [raw(WHOLE, length="many")],
        "two lengths": lambda _: [raw(WHOLE, "200 OK", "Content-Length: 5")],
        "HTTP/0.9": lambda _: [WHOLE],
        "HTTP/9.9": lambda _: [raw(WHOLE).replace(b"HTTP/1.1", b"HTTP/9.9")],
        "garbage": lambda _: [bytes(range(256)) * 20],
        "TLS": lambda _: [b"\x15\x03\x03\x00\x02\x02\x28"],
        "a long status line": lambda _: [b"HTTP/1.1 200 " + b"k" * 200_000 + b"\r\n\r\n"],
        "10,000 headers": lambda _: [raw(WHOLE, "200 OK", *["X: y"] * 10_000)],
        "a header of 1 MB": lambda _: [raw(WHOLE, "200 OK", f"X: {'y' * 1_000_000}")],
        "a header with escapes": lambda _: [raw(WHOLE, "200 OK", "X: \x1b[2J\x07")],
        "header without a colon": lambda _: [raw(WHOLE, "200 OK", "nothing")],
        "cookies": _says(WHOLE, "Set-Cookie: a=b; Domain=.", "Set-Cookie: \x80"),
        "duplicate headers": _says(WHOLE, "Content-Type: text/html", "Server: a", "Server: b"),
        "two replies": lambda _: [raw(WHOLE) + raw(WHOLE)],
    }


def _encodings() -> dict[str, Behaviour]:
    return {
        "gzip bomb": lambda _: [raw(_bomb(), "200 OK", "Content-Encoding: gzip")],
        "gzip bomb with 500": lambda _: [raw(_bomb(), "500 X", "Content-Encoding: gzip")],
        "gzip bomb twice": lambda _: [raw(_bomb(2), "200 OK", "Content-Encoding: gzip, gzip")],
        "sound gzip": _says(gzip.compress(WHOLE), "Content-Encoding: gzip"),
        "broken gzip": _says(gzip.compress(WHOLE)[:-9], "Content-Encoding: gzip"),
        "no gzip": _says(WHOLE, "Content-Encoding: gzip"),
        "no deflate": _says(WHOLE, "Content-Encoding: deflate"),
        "br": _says(WHOLE, "Content-Encoding: br"),
        "an unknown encoding": _says(WHOLE, "Content-Encoding: x-none"),
        "UTF-16": _says(json.dumps(body()).encode("utf-16"), "X: y"),
        "a wrong charset": _says(WHOLE, "Content-Type: application/json; charset=x-none"),
        "HTML": lambda _: [raw(b"<html><script>alert(1)</script>", "200 OK",
                               "Content-Type: text/html")],
        "events": lambda _: [raw(b"data: " + WHOLE + b"\n\ndata: [DONE]\n\n", "200 OK",
                                 "Content-Type: text/event-stream")],
    }  # fmt: skip


def _bodies() -> dict[str, Behaviour]:
    odd = (b"", b"null", b"NaN", b"[]", b"{}", b"5", b'"text"', b"\xff\xfe",
           b"\xef\xbb\xbf" + WHOLE, WHOLE[:80], WHOLE + WHOLE, WHOLE + b"x", DEEP,
           b'{"a":' * 100_000, b"\x00" * 1000,
           b'{"choices":' + DEEP, b" " * 30_000_000, b'{"error": "no"}', b'{"error": {}}',
           b'{"error": {"message": {"a": [1]}}}', b'{"error": [5]}',
           WHOLE.replace(b'"choices"', b'"choices": 5, "choices"'))  # fmt: skip
    found = {f"body {data[:20]!a} ({len(data)})": _says(data) for data in odd}
    shapes: dict[str, Any] = {
        "no choices": {"choices": []}, "choices null": {"choices": None},
        "choices an object": {"choices": {}}, "choices text": {"choices": "x"},
        "choice null": {"choices": [None]}, "choice a list": {"choices": [[]]},
        "no message": {"choices": [{"index": 0, "finish_reason": "stop"}]},
        "message null": {"choices": [{"message": None}]},
        "message a list": {"choices": [{"message": []}]},
        "message text": {"choices": [{"message": "x"}]},
        "two choices": {"choices": body()["choices"] * 2},
        "900 choices": {"choices": body()["choices"] * 900},
        "old completion": {"choices": [{"text": GOOD, "index": 0, "finish_reason": "stop"}]},
        "another model": {"model": "\x1b[2Jevil"}, "id a number": {"id": 5},
        "created huge": {"created": 10**30}, "object wrong": {"object": "error"},
        "logprobs": {"logprobs": "x"}, "an error too": {"error": {"message": "and yet"}},
    }  # fmt: skip
    return found | {name: _says(body() | fields) for name, fields in shapes.items()}


def _contents() -> dict[str, Behaviour]:
    nested: Any = "x"
    for _ in range(495):
        nested = {"text": nested}
    contents = (None, "", " ", 5, True, {}, [], [None], ["x"], [{"type": "text", "text": GOOD}],
                [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
                [{"type": "text", "text": 5}], [{"type": "image_url", "image_url": {}}],
                [{"type": "refusal", "refusal": "no"}], [nested], "\ud800", "a\udfffb", "\x00",
                "\x1b[2J\x1b]0;evil\x07", "\u202eevil\u2066", "\r\n\u2028\u2029", "(" * 200_000,
                "\\boxed{" * 50_000, "9" * 200_000, "\\boxed{" + "9" * 5000 + "}", "k" * 20_000_000,
                "<think>" * 5000, "\\frac{" * 3000, "\\boxed{NaN}", "=1+1", KEY)  # fmt: skip
    found = {
        f"content {ascii(content)[:30]} {len(str(content))}": _says(body(content))
        for content in contents
    }
    messages: dict[str, Any] = {
        "tool calls": {"content": None, "tool_calls": [{"id": "a", "type": "function",
                       "function": {"name": "f", "arguments": "{"}}]},
        "tool calls wrong": {"tool_calls": "x"}, "a function call": {"function_call": {"name": 5}},
        "a refusal": {"content": None, "refusal": "I will not."},
        "refusal a number": {"content": None, "refusal": 5},
        "thinking only": {"content": None, "reasoning_content": "so"},
        "thinking a list": {"reasoning_content": [1]}, "role user": {"role": "user"},
        "role null": {"role": None}, "audio": {"content": None, "audio": {"data": "AA"}},
    }  # fmt: skip
    found |= {name: _says(body(message=fields)) for name, fields in messages.items()}
    reasons = ("length", "content_filter", "tool_calls", "function_call", "abort", "error", "",
               None, 5, [], "\x1b[2J", "k" * 5000)  # fmt: skip
    found |= {
        f"finish {ascii(reason)[:30]}": _says(body(choice={"finish_reason": reason}))
        for reason in reasons
    }
    return found | {
        f"index {index}": _says(body(choice={"index": index})) for index in (1, -1, "0", None)
    }


def _usages() -> dict[str, Behaviour]:
    counts = (-5, 1.5, 12.0, True, None, "many", "12", [1], {}, 10**400, 10**20, float("nan"),
              float("inf"), -float("inf"))  # fmt: skip
    found = {
        f"{ascii(count)[:20]} tokens": _says(
            body(usage={"prompt_tokens": count, "completion_tokens": count})
        )
        for count in counts
    }
    digits = WHOLE.replace(b'"prompt_tokens": 11', b'"prompt_tokens": ' + b"9" * 9000)
    found["9,000 digits of tokens"] = _says(digits)
    found["1e999 tokens"] = _says(WHOLE.replace(b": 11", b": 1e999"))
    for usage in ("many", [1], 5, None, {"prompt_tokens_details": ["x"]}):
        found[f"usage {usage!r}"] = _says(body() | {"usage": usage})
    return found


def _messages() -> dict[str, Behaviour]:
    """Errors whose words are hostile: escapes, the key, a length."""
    words = ("\x1b[2J\u202eevil", f"your key is {KEY}", f"Bearer {KEY}", json.dumps(KEY),
             "k" * 10**6, "a\nb\r\nc", "\ud800", "", None, 5, ["x"], {"a": KEY}, "{0} {} %s %(a)s",
             "[bold]x[/bold][/]", "system role is not supported",
             "temperature must be 1", "Unsupported parameter: 'max_tokens'")  # fmt: skip
    return {
        f"{status} with {ascii(word)[:40]}": _error(f"{status} X", word)
        for status in (400, 500)
        for word in words
    }


def behaviours() -> dict[str, Behaviour]:
    """Every behaviour by name."""
    return {
        **_statuses(), **_connections(), **_encodings(), **_bodies(), **_contents(), **_usages(),
        **_messages(),
    }  # fmt: skip


class Hostile:
    """A server that behaves badly to some requests, and well to the others.

    Attributes:
        behave: What it does with a request that `bad` chooses.
        bad: Given the number of a request's sample, in the order of their first requests.
        good: The reply to every other request.
        asked: How often each sample was asked for.
        stolen: What another origin was sent.
    """

    def __init__(self) -> None:
        self.behave: Behaviour = lambda _: []
        self.bad: Callable[[int], bool] = lambda number: False
        self.good: Callable[[dict[str, Any]], Any] = lambda asked: body()
        self.asked: Counter[str] = Counter()
        self.stolen: list[bytes] = []
        self._order: dict[str, int] = {}
        self._lock, self._closing = threading.Lock(), threading.Event()
        self._listeners = [self._listen(self._answer), self._listen(self._steal)]
        self.url, self.other = (
            f"http://127.0.0.1:{listener.server_port}/v1" for listener in self._listeners
        )

    def _listen(self, answer: Callable[[Any, bytes], None]) -> ThreadingHTTPServer:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *arguments: Any) -> None:
                pass

            def do_GET(self) -> None:
                self.wfile.write(raw({"object": "list", "data": [{"id": "geo-vl"}]}))
                self.close_connection = True

            def do_POST(self) -> None:
                sent = self.rfile.read(int(self.headers["Content-Length"] or 0))
                self.close_connection = True
                with contextlib.suppress(OSError):
                    answer(self, sent)

        class Listener(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, request: Any, client_address: Any) -> None:
                pass  # the client went away, as it should

        listener = Listener(("127.0.0.1", 0), Handler)
        threading.Thread(
            target=listener.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        ).start()
        return listener

    def _steal(self, handler: Any, sent: bytes) -> None:
        self.stolen.append(str(handler.headers).encode() + sent)
        handler.wfile.write(raw(body()))

    def _answer(self, handler: Any, sent: bytes) -> None:
        asked = json.loads(sent)
        name = str(asked.get("seed"))
        with self._lock:
            self.asked[name] += 1
            number = self._order.setdefault(name, len(self._order))
        if not self.bad(number):
            handler.wfile.write(raw(self.good(asked)))
            return
        for part in self.behave(self.other):
            if part is RESET:
                # Closed with a reset instead of an end.
                handler.connection.setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                )
                handler.connection.close()
                return
            if isinstance(part, float | int):
                if self._closing.wait(part):
                    return
            else:
                handler.wfile.write(part)

    def fresh(self, behave: Behaviour, bad: Callable[[int], bool]) -> None:
        """Begin anew with a behaviour."""
        with self._lock:
            self.behave, self.bad = behave, bad
            self.asked, self._order = Counter(), {}
            self.stolen.clear()

    def close(self) -> None:
        """End both listeners."""
        self._closing.set()
        for listener in self._listeners:
            listener.shutdown()
            listener.server_close()


ENVIRONMENT = {"OPENAI_API_KEY": KEY}


def asking(material: Material, server: Hostile, out: Path) -> list[str]:
    """The command that evaluates what a server serves."""
    options = {"data": material.data, "model": "geo-vl", "engine": "openai", "base-url": server.url,
               "out": out, "samples": _SAMPLES, "limit": 2, "timeout": 0.7, "max-retries": 0,
               "max-tokens": 64, "concurrency": 4}  # fmt: skip
    return ["eval", *(str(part) for k, v in options.items() for part in (f"--{k}", v))]


def hostile_server(bench: Bench, material: Material) -> Tried:
    """Each behaviour to one sample of eight, then a sound server; and to all of them."""
    server = Hostile()
    try:
        for name, behave in bench.some(list(behaviours().items())):
            yield f"one reply: {name}", _one_bad(bench, material, server, behave)
            yield f"every reply: {name}", _all_bad(bench, material, server, behave)
    finally:
        server.close()


def _one_bad(bench: Bench, material: Material, server: Hostile, behave: Behaviour) -> str:
    place = bench.place()
    server.fresh(behave, lambda number: number == 3)
    command = asking(material, server, place / "run")
    first = trial.attempt(modgap(*command), place, environment=ENVIRONMENT)
    if fault := trial.against(first) or _kept(place) or _stolen(server):
        return f"first: {fault}"
    before = _rows(place / "run")
    finished = {key: line for key, (reason, line) in before.items() if reason != "error"}
    # Some errors end a run at once, since every other sample would fail with them, too.
    if first.status == 0 and (len(before) < 8 or len(finished) < 7):
        return f"{8 - len(finished)} samples were lost"
    server.fresh(behave, lambda number: False)
    second = trial.attempt(modgap(*command), place, environment=ENVIRONMENT)
    if fault := trial.against(second, statuses=(0,)) or _kept(place):
        return f"again: {fault}"
    after = _rows(place / "run")
    if len(after) != 8 or any(reason == "error" for reason, _ in after.values()):
        return f"the second run has {len(after)} samples, not 8"
    if lost := [key for key, line in finished.items() if after[key][1] != line]:
        return f"{len(lost)} finished samples changed"
    if server.asked.total() != 8 - len(finished):
        return f"{server.asked.total()} samples were asked for again, not {8 - len(finished)}"
    bench.clear(place)
    return ""


def _all_bad(bench: Bench, material: Material, server: Hostile, behave: Behaviour) -> str:
    place = bench.place()
    server.fresh(behave, lambda number: True)
    command = asking(material, server, place / "run")
    outcome = trial.attempt(modgap(*command), place, environment=ENVIRONMENT)
    if fault := trial.against(outcome) or _kept(place) or _stolen(server):
        return fault
    reasons = {reason for reason, _ in _rows(place / "run").values()}
    if reasons == {"error"} and outcome.status == 0:
        return "every sample failed, and the exit status is 0"
    bench.clear(place)
    return ""


def _rows(run: Path) -> dict[tuple[Any, ...], tuple[str, str]]:
    path = run / "responses.jsonl"
    found: dict[tuple[Any, ...], tuple[str, str]] = {}
    for line in path.read_text().split("\n")[:-1] if path.exists() else ():
        row = json.loads(line)
        key = row["problem_id"], row["view"], row["sample"]
        if key in found:
            raise AssertionError(f"{key} is there twice")
        found[key] = row["finish_reason"], line
    return found


def _kept(place: Path) -> str:
    """What is wrong with the files of a run."""
    if fault := trial.secrets_below(place) or trial.temporaries(place):
        return fault
    run = place / "run"
    for path in trial.files_below(run):
        for line in path.read_text().split("\n")[:-1] if path.suffix == ".jsonl" else ():
            row = json.loads(line, parse_constant=_constant)
            for name in ("prompt_tokens", "completion_tokens", "image_tokens"):
                count = row.get(name, 0)
                if not isinstance(count, int) or not 0 <= count < 2**53:
                    return f"{path.name} has {name} {count!r}"
    return ""


def _constant(name: str) -> Any:
    raise AssertionError(f"{name} in a file")


def _stolen(server: Hostile) -> str:
    for sent in server.stolen:
        if told := trial.secret_in(sent):
            return f"{told} was sent to another origin"
        return "a request followed a redirect to another origin"
    return ""


# ---- a hostile judge -----------------------------------------------------------------------------


def hostile_judge(bench: Bench, material: Material) -> Tried:
    """Each behaviour of a judge: a verdict is as with a sound judge, or an error, never a guess."""
    import judge_server

    server = Hostile()

    def sound(asked: dict[str, Any]) -> Any:
        prompt = asked["prompt"] if "prompt" in asked else asked["messages"][-1]["content"]
        said = judge_server.by_characters(prompt)
        choice = {"index": 0, "finish_reason": "stop", "text": said,
                  "message": {"role": "assistant", "content": said}}  # fmt: skip
        return body() | {"choices": [choice]}

    server.good = sound
    try:
        right = _judged(bench, material, server, lambda _: [])
        for name, behave in bench.some(list(behaviours().items())):
            yield f"judge: {name}", _judge(bench, material, server, behave, right)
    finally:
        server.close()


def _grading(material: Material, server: Hostile, place: Path) -> functools.partial[trial.Outcome]:
    shutil.copytree(material.judged, place / "run")
    command = ("grade", place / "run", "--judge", server.url, "--timeout", 0.7, "--max-retries", 0)
    return functools.partial(trial.attempt, modgap(*command), place, environment=ENVIRONMENT)


def _judged(
    bench: Bench, material: Material, server: Hostile, behave: Behaviour
) -> dict[Any, tuple[str, str]]:
    """The grades of a sound judge."""
    place = bench.place()
    server.fresh(behave, lambda number: False)
    outcome = _grading(material, server, place)()
    if outcome.status:
        raise RuntimeError(outcome.err)
    return _grades(place / "run")


def _judge(
    bench: Bench,
    material: Material,
    server: Hostile,
    behave: Behaviour,
    right: dict[Any, tuple[str, str]],
) -> str:
    place = bench.place()
    server.fresh(behave, lambda number: True)
    outcome = _grading(material, server, place)()
    if fault := trial.against(outcome) or _kept(place) or _stolen(server):
        return fault
    for key, (verdict, stage) in _grades(place / "run").items():
        if verdict not in ("error", right[key][0]) and not _is_verdict(stage):
            return f"{key} is {verdict} by {stage}, with a sound judge {right[key][0]}"
    bench.clear(place)
    return ""


def _is_verdict(stage: str) -> bool:
    """Whether the judge's own word decided: a hostile judge may say 0 or 1 as a sound one may."""
    return stage == "judge"


def _grades(run: Path) -> dict[Any, tuple[str, str]]:
    rows = [json.loads(line) for line in (run / "grades.jsonl").read_text().split("\n")[:-1]]
    return {
        (row["problem_id"], row["view"], row["sample"]): (row["outcome"], row["stage"])
        for row in rows
    }
