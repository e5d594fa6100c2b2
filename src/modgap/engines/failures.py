"""What went wrong with a request to a served model: its cause in one line, and whether to retry."""

from __future__ import annotations

import re
import time
from email.utils import parsedate_to_datetime
from typing import Any

import openai

from modgap.core.engine import PLAIN
from modgap.core.turns import refuses_system
from modgap.engines.chat import UNKNOWN_FIELD, UnreadableReply

# Matches `Unknown name "seed"`, `loc: [body, seed], msg: Extra inputs are not permitted` and `top_k
# must be positive`, but not an echo of the request.
_REFUSALS = {
    name: re.compile(
        r"\b(unknown|unsupported|unrecognized|unexpected|invalid|extra|not supported)\b"
        rf".{{0,40}}\b{name}\b"
        rf"|\b{name}\b.{{0,40}}\b(unsupported|unknown|invalid|extra|not|cannot|must|should)\b",
        re.I,
    )
    for name in ("seed", *PLAIN)
}
# The same where no field is named.
_UNKNOWN_FIELD = re.compile(
    r"(unknown|unrecognized|unexpected|unsupported)"
    r" (request |keyword )?(field|argument|parameter|key)"
    r"|extra (inputs|fields) (are )?not (permitted|allowed)|additional properties are not allowed",
    re.I,
)
# llama.cpp answers 500 if a chat template refuses its messages.
_SYSTEM_STATUS = (400, 404, 422, 500, 501)
_TRANSIENT_STATUS = (408, 409, 425, 429)
_MOST_BYTES = 64 * 2**20
_MOST_SAID = 5000


async def read_bounded(response: Any) -> None:
    """Read the body of a response (of httpx, or httpx2) as the client's hook, up to 64 MB.

    The size is that of the decoded body. Beyond it the connection is dropped.

    Raises:
        UnreadableReply: The body is larger.
    """
    parts: list[bytes] = []
    size = 0
    async for part in response.aiter_bytes():
        size += len(part)
        if size > _MOST_BYTES:
            parts.clear()
            del part  # the error keeps this frame: many such replies at once would fill the memory
            raise UnreadableReply(f"the reply is larger than {_MOST_BYTES >> 20} MB")
        parts.append(part)
    # What `aread` would keep; the client does not read a body that is there.
    response._content = b"".join(parts)


def is_transient(error: Exception) -> bool:
    """Whether the same request may work later.

    This holds for 429, 5xx, a timeout, a dropped connection and an unreadable reply.
    """
    if isinstance(error, openai.APIStatusError):
        return error.status_code in _TRANSIENT_STATUS or error.status_code >= 500
    return isinstance(error, openai.APIConnectionError | TimeoutError | UnreadableReply)


def never_connected(error: Exception) -> bool:
    """Whether nothing listens at the address, or it has no such name.

    A connection that broke is another case.
    """
    # By name: the client's transport is httpx in one release and httpx2 in another.
    return (
        isinstance(error, openai.APIConnectionError)
        and type(error.__cause__).__name__ == "ConnectError"
    )


def no_credit(error: Exception) -> bool:
    """Whether the account's credit is used up, which looks like a rate limit but does not pass."""
    if not isinstance(error, openai.APIStatusError):
        return False
    return error.status_code == 402 or "insufficient_quota" in (error.code, error.type)


def refused_parameter(error: Exception) -> str | None:
    """The parameter of ours that a server says it does not take, `system` for the system turn.

    `None` if it says nothing of that kind.
    """
    if not isinstance(error, openai.APIStatusError):
        # Routers pass on the refusal of another server with status 200.
        refused = isinstance(error, UnreadableReply) and refuses_system(str(error))
        return "system" if refused else None
    said = _message(error)
    if error.status_code not in (400, 422):
        return "system" if error.status_code in _SYSTEM_STATUS and refuses_system(said) else None
    if "max_completion_tokens" in said:
        return "max_tokens"
    if "chat_template_kwargs" in said:
        return "chat_template_kwargs"
    if "continue_final_message" in said or "add_generation_prompt" in said:
        return "continue_final_message"
    if error.param in ("temperature", "seed", *PLAIN):
        return error.param
    if named := next((name for name, refusal in _REFUSALS.items() if refusal.search(said)), None):
        return named
    if refuses_system(said):
        return "system"
    return UNKNOWN_FIELD if _UNKNOWN_FIELD.search(said) else None


def cause(error: Exception) -> str:
    """What happened, in one line, in the server's own words if it sent any."""
    if isinstance(error, openai.APIStatusError):
        said = f"HTTP {error.status_code}: {_message(error)}"
    elif isinstance(error, TimeoutError | openai.APITimeoutError):
        said = "no reply in time"
    elif never_connected(error):
        said = f"no connection ({error.__cause__})"
    elif isinstance(error, openai.APIConnectionError):
        said = f"the connection broke ({type(error.__cause__).__name__}: {error.__cause__})"
    else:
        said = str(error)[:_MOST_SAID] or type(error).__name__
    return " ".join(said.split())


def retry_after(error: Exception) -> float:
    """Seconds that the server asks to wait, given as seconds or as an HTTP date.

    0 if it does not ask.
    """
    if not isinstance(error, openai.APIStatusError):
        return 0.0
    asked = error.response.headers.get("retry-after", "").strip()
    if re.fullmatch(r"\d+(\.\d+)?", asked):
        return float(asked)
    try:
        return max(0.0, parsedate_to_datetime(asked).timestamp() - time.time())
    except (TypeError, ValueError, IndexError, OverflowError):
        return 0.0


def _message(error: openai.APIStatusError) -> str:
    """The server's own words.

    They are `error.message`, `message` or `detail` of its JSON, or the body itself.
    """
    body: Any = error.body
    if isinstance(body, dict):
        body = body.get("message") or body.get("detail") or body
    said = body if isinstance(body, str) else str(body or "")
    return said[:_MOST_SAID].strip() or error.response.reason_phrase or "no message"
