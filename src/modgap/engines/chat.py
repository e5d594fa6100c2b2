"""OpenAI's chat format: a request as messages and parameters, a reply as text.

Where this differs from reading `choices[0].message.content`:

* a server that splits the reasoning off (`reasoning_content`, or `reasoning`) has it put back in front, in
  `<think>...</think>`, so that grading sees what the model said; a truncated reasoning stays open;
* a refusal is something the model said, so it is the text (and graded `no_answer`);
* a filtered response is a failed one.

A server is also sent what else shapes a distribution, at the values that change nothing (`PLAIN`): by itself it may
apply the model's generation config (vLLM, SGLang) or values of its own (llama.cpp, Ollama).

A raw completion (`/v1/completions`, which paper mode's judge is asked by) is read in the same way.
"""

from __future__ import annotations

import base64
import io
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from modgap.core.engine import PLAIN, FinishReason, Request, Sampling
from modgap.core.prompt import Prompt

if TYPE_CHECKING:
    from PIL.Image import Image

# Every other reason ("stop", "eos", none at all) is the model's own end.
_TRUNCATED = ("length", "max_tokens")
_FILTERED = "content_filter"
_BROKEN_OFF = ("abort", "error")


UNKNOWN_FIELD = "a field that is not OpenAI's"
"""What a server refused, where it does not name the field."""


class UnreadableReply(ValueError):
    """A reply with status 200 that is no completion."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What a server answered.

    Attributes:
        text: What the model said, with the prefill.
        finish_reason: `stop`, `length` or `error`.
        prompt_tokens: As the server counts them; 0 where it does not say.
        completion_tokens: As the server counts them, reasoning included; 0 where it does not say.
        image_tokens: 0 where the server does not say, which is the rule.
        error: Why there is no text.
    """

    text: str
    finish_reason: FinishReason
    prompt_tokens: int = 0
    completion_tokens: int = 0
    image_tokens: int = 0
    error: str | None = None


def png_data_uri(image: Image) -> str:
    """An image as a PNG in a data URI: no pixel changes on the way to the server."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def to_messages(request: Request) -> list[dict[str, Any]]:
    """The chat of a request: system turn, user turn (image, then text), and the prefill as a started assistant turn."""
    prompt = request.prompt
    messages: list[dict[str, Any]] = []
    if prompt.system is not None:
        messages.append({"role": "system", "content": prompt.system})
    if request.image is None:
        messages.append({"role": "user", "content": prompt.text})
    else:
        image = {"type": "image_url", "image_url": {"url": png_data_uri(request.image())}}
        messages.append({"role": "user", "content": [image, {"type": "text", "text": prompt.text}]})
    if prompt.prefill:
        messages.append({"role": "assistant", "content": prompt.prefill})
    return messages


class Dialect:
    """How one server wants its parameters: the common way first, then what its refusals teach.

    Attributes:
        refused: Names of `PLAIN` that it does not take: it applies its own values of these.
    """

    def __init__(self, extra_body: Mapping[str, Any] | None = None) -> None:
        self.refused: list[str] = []
        self._extra = dict(extra_body or {})
        self._limit = "max_tokens"  # OpenAI's reasoning models want max_completion_tokens
        self._continues = True  # vLLM and SGLang go on with a started turn when told to
        self._takes_seed = True

    def parameters(self, prompt: Prompt, sampling: Sampling, seed: int) -> dict[str, Any]:
        """The parameters of one sample, as arguments of the client."""
        parameters: dict[str, Any] = {self._limit: sampling.max_tokens}
        if sampling.temperature is not None:
            parameters["temperature"] = sampling.temperature
        plain = {name: value for name, value in PLAIN.items() if sampling.plain and name not in self.refused}
        if "top_p" in plain:
            parameters["top_p"] = plain.pop("top_p")
        if self._takes_seed:
            parameters["seed"] = seed % 2**31  # servers differ in the range they take; this is in all of them
        extra = plain | self._extra  # these are not among OpenAI's
        if prompt.prefill and self._continues:
            extra |= {"continue_final_message": True, "add_generation_prompt": False}
        if extra:
            parameters["extra_body"] = extra
        return parameters

    def adapt(self, refused: str | None, parameters: Mapping[str, Any]) -> bool:
        """Learn from a refusal.

        Args:
            refused: The parameter that the server did not take, if it said so.
            parameters: What it was sent.

        Returns:
            Whether the request can be put in another way.
        """
        if refused == "max_tokens" and "max_tokens" in parameters:
            self._limit = "max_completion_tokens"
        elif refused == "continue_final_message" and "extra_body" in parameters:
            self._continues = False
        elif dropped := _plain_in(parameters, refused):
            if new := [name for name in dropped if name not in self.refused]:
                print(f"modgap: this server takes no {', '.join(new)}: it applies its own value", file=sys.stderr)
            self.refused += new
        elif refused is not None and refused in parameters.get("extra_body", {}):
            self._extra.pop(refused, None)
        elif refused == "seed" and "seed" in parameters:
            if self._takes_seed:
                print("modgap: this server takes no seed: its samples cannot be repeated", file=sys.stderr)
            self._takes_seed = False
        else:
            return False
        return True


def _plain_in(parameters: Mapping[str, Any], refused: str | None) -> list[str]:
    """The names of `PLAIN` that were sent and are what was refused."""
    sent = [name for name in PLAIN if name in parameters or name in parameters.get("extra_body", {})]
    return [name for name in sent if refused == name or (refused == UNKNOWN_FIELD and name not in parameters)]


def read_reply(body: bytes | str, prefill: str = "") -> Reply:
    """Read the body of a chat completion.

    Raises:
        UnreadableReply: It is broken off, no JSON, or no completion; the message says which.
    """
    try:
        reply = json.loads(body)
    except ValueError:
        raise UnreadableReply(f"the reply is no JSON ({len(body)} bytes)") from None
    try:
        if error := reply.get("error"):  # some routers put an error of theirs into a reply with status 200
            said = error.get("message") if isinstance(error, dict) else error
            raise UnreadableReply(f"the reply is an error: {said}")
        choice, usage = reply["choices"][0], reply.get("usage") or {}
        message, reason = choice.get("message"), choice.get("finish_reason")
        if message is None:
            message = {"content": choice["text"]}
        said = message.get("content") or message.get("refusal") or ""
        reasoning = message.get("reasoning_content") or message.get("reasoning") or ""
        if reason in _BROKEN_OFF:
            raise UnreadableReply(f"the server broke the response off (finish_reason {reason!r})")
        if not isinstance(said, str) or not isinstance(reasoning, str):
            raise UnreadableReply("the content of the reply is no text")
        details = usage.get("prompt_tokens_details") or {}
        return Reply(
            text=_whole(said, reasoning, prefill, truncated=reason in _TRUNCATED),
            finish_reason="error" if reason == _FILTERED else "length" if reason in _TRUNCATED else "stop",
            prompt_tokens=int(usage.get("prompt_tokens") or 0),
            completion_tokens=int(usage.get("completion_tokens") or 0),
            image_tokens=int(details.get("image_tokens") or 0),
            error="the server's content filter withheld the response" if reason == _FILTERED else None,
        )
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise UnreadableReply(f"the reply is no chat completion ({type(error).__name__}: {error})") from None


def _whole(said: str, reasoning: str, prefill: str, *, truncated: bool) -> str:
    """What the model said, with its reasoning and the prefill in front, neither of them twice."""
    if reasoning and "</think>" not in said:
        opening = "" if reasoning.lstrip().startswith("<think>") else "<think>"
        closing = "" if truncated and not said else "</think>"
        said = f"{opening}{reasoning}{closing}{said}"
    # A server that does not continue the started turn begins a new one, often with the same words.
    return said if said.lstrip().startswith(prefill.strip()) else prefill + said
