"""OpenAI's chat format: a request as messages and parameters, a reply as text.

Where this differs from reading `choices[0].message.content`:

* a server that sends the reasoning apart (`reasoning_content`, `reasoning`, `thinking`, or parts of
  the content) has it put in front, in `<think>...</think>`, so that grading sees what the model
  said; a truncated reasoning stays open;
* a refusal is something the model said, so it is the text (and graded `no_answer`);
* a filtered response is a failed one, and so is one with a part that is no text.

A server is also sent what else shapes a distribution, at the values that change nothing (`PLAIN`):
by itself it may apply the model's generation config (vLLM, SGLang) or values of its own (llama.cpp,
Ollama).

A raw completion (`/v1/completions`, which paper mode's judge is asked by) is read in the same way.
"""

from __future__ import annotations

import base64
import io
import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from modgap.core.engine import PLAIN, FinishReason, Request, Sampling
from modgap.core.prompt import Prompt
from modgap.core.thinking import UnknownPart, message_text, reasoning_of

if TYPE_CHECKING:
    from PIL.Image import Image

# Every other reason ("stop", "eos", none at all) is the model's own end.
_TRUNCATED = ("length", "max_tokens", "max_output_tokens", "model_length")  # the last is Mistral's
_FILTERED = "content_filter"
_BROKEN_OFF = ("abort", "error")
_LONGEST_REFUSAL = 5000


# How servers and chat templates say that they take no system turn: that it (or the role of that
# name) is not supported, that roles must alternate or begin with the user's, or which roles there
# are instead.
_TURN = r"(?:system|developer)[\W_]{0,3}(?:role|message|prompt|turn|instruction)s?\b|roles?\b[^.]{0,40}?\bsystem\b"
_REFUSED = (
    r"\b(?:not?|never|without|cannot|unsupported|incompatible|invalid|unknown|unexpected|unrecogni[sz]ed|forbidden|"
    r"disallowed|disabled|unavailable|reject(?:s|ed)?)\b|n't\b"
)
_NO_SYSTEM = re.compile(
    rf"(?:{_TURN})[^\n]{{0,60}}?(?:{_REFUSED})|(?:{_REFUSED})[^\n]{{0,60}}?(?:{_TURN})"
    r"|'?\bsystem\b'? (?:is|was) (?:not|neither)\b[^\n]{0,60}\b(?:roles?|user|assistant)\b"
    r"|\broles? (?:must|should|have to) alternate"
    r"|\bonly [^.]{0,40}\b(?:user|assistant|model)\b[^.]{0,40}\broles?\b|\bonly"
    r" [^.]{0,20}\broles?\b[^.]{0,20}\buser\b"
    r"|\b(?:must|should) (?:start|begin) with (?:an? |the )?\W?user|\bfirst"
    r" (?:message|role|turn)\b.{0,40}\buser\b"
    r"|\bshould be '(?:user|assistant)'",
    re.I,
)


def refuses_system(said: str) -> bool:
    """Whether a server's or a chat template's words say that it takes no system turn."""
    return bool(_NO_SYSTEM.search(said[:_LONGEST_REFUSAL]))


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
    from modgap.core.images import to_rgb

    buffer = io.BytesIO()
    to_rgb(image).save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def to_messages(request: Request) -> list[dict[str, Any]]:
    """The chat of a request: system turn, user turn (image, then text), and the prefill as a
    started assistant turn.
    """
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
        # By whether the prompt has an image: there are templates that take a system turn only
        # without one, and which prompts have it must not depend on which of them is asked first.
        self._takes_system = {True: True, False: True}

    def messages(self, messages: Sequence[Mapping[str, Any]]) -> list[Any]:
        """The chat of one sample, without a system turn where the server takes none."""
        takes = self._takes_system[_has_image(messages)]
        return [message for message in messages if takes or message["role"] != "system"]

    def parameters(self, prompt: Prompt, sampling: Sampling, seed: int) -> dict[str, Any]:
        """The parameters of one sample, as arguments of the client."""
        parameters: dict[str, Any] = {self._limit: sampling.max_tokens}
        if sampling.temperature is not None:
            parameters["temperature"] = sampling.temperature
        plain = {
            name: value
            for name, value in PLAIN.items()
            if sampling.plain and name not in self.refused
        }
        if "top_p" in plain:
            parameters["top_p"] = plain.pop("top_p")
        if self._takes_seed:
            parameters["seed"] = (
                seed % 2**31
            )  # servers differ in the range they take; this is in all of them
        extra = plain | self._extra  # these are not among OpenAI's
        if prompt.prefill and self._continues:
            extra |= {"continue_final_message": True, "add_generation_prompt": False}
        if extra:
            parameters["extra_body"] = extra
        return parameters

    def left_out(
        self, prompt: Prompt, messages: Sequence[Mapping[str, Any]], sent: Mapping[str, Any]
    ) -> list[str]:
        """What a sample was asked without, see `Completion`."""
        system = prompt.system is not None and not any(
            message["role"] == "system" for message in messages
        )
        turn = bool(prompt.prefill) and "continue_final_message" not in sent.get("extra_body", {})
        lost = {"system": system, "seed": "seed" not in sent, "continue_final_message": turn}
        return [name for name, is_lost in lost.items() if is_lost]

    def adapt(
        self,
        refused: str | None,
        parameters: Mapping[str, Any],
        messages: Sequence[Mapping[str, Any]] = (),
    ) -> bool:
        """Learn from a refusal.

        Args:
            refused: The parameter that the server did not take, or `system`, if it said so.
            parameters: What it was sent.
            messages: The chat that it was sent; none of a raw completion.

        Returns:
            Whether the request can be put in another way.
        """
        if refused == "max_tokens" and "max_tokens" in parameters:
            self._limit = "max_completion_tokens"
        elif refused == "continue_final_message" and refused in parameters.get("extra_body", {}):
            self._continues = False
        elif dropped := _plain_in(parameters, refused):
            if new := [name for name in dropped if name not in self.refused]:
                print(
                    f"modgap: this server takes no {', '.join(new)}: it applies its own value",
                    file=sys.stderr,
                )
            self.refused += new
        elif refused is not None and refused in parameters.get("extra_body", {}):
            self._extra.pop(refused, None)
        elif refused == "seed" and "seed" in parameters:
            if self._takes_seed:
                print(
                    "modgap: this server takes no seed: its samples cannot be repeated",
                    file=sys.stderr,
                )
            self._takes_seed = False
        elif refused == "system" and any(message["role"] == "system" for message in messages):
            image = _has_image(messages)
            if self._takes_system[image]:
                print(f"modgap: {system_words('this server', image)}", file=sys.stderr)
            self._takes_system[image] = False
        else:
            return False
        return True


def _has_image(messages: Sequence[Mapping[str, Any]]) -> bool:
    return any(not isinstance(message["content"], str) for message in messages)


def system_words(who: str, image: bool) -> str:
    """The line that says that system turns are left out."""
    return (
        f"{who} takes no system turn: prompts with{'' if image else 'out'} an image are asked"
        " without it"
    )


def _plain_in(parameters: Mapping[str, Any], refused: str | None) -> list[str]:
    """The names of `PLAIN` that were sent and are what was refused."""
    sent = [
        name for name in PLAIN if name in parameters or name in parameters.get("extra_body", {})
    ]
    return [
        name
        for name in sent
        if refused == name or (refused == UNKNOWN_FIELD and name not in parameters)
    ]


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
        if error := reply.get(
            "error"
        ):  # some routers put an error of theirs into a reply with status 200
            said = error.get("message") if isinstance(error, dict) else error
            raise UnreadableReply(f"the reply is an error: {said}")
        choice, usage = reply["choices"][0], reply.get("usage") or {}
        message, reason = choice.get("message"), choice.get("finish_reason")
        reason = reason.lower() if isinstance(reason, str) else reason
        if message is None:
            message = {"content": choice["text"]}
        if reason in _BROKEN_OFF:
            raise UnreadableReply(f"the server broke the response off (finish_reason {reason!r})")
        truncated, failure = reason in _TRUNCATED, None
        try:
            text = _whole(message, prefill, truncated=truncated)
        except UnknownPart as unknown:
            text, failure = "", f"the reply has {unknown}"
        if reason == _FILTERED:
            failure = "the server's content filter withheld the response"
        details = usage.get("prompt_tokens_details") or {}
        return Reply(
            text=text,
            finish_reason="error" if failure else "length" if truncated else "stop",
            prompt_tokens=int(usage.get("prompt_tokens") or 0),
            completion_tokens=int(usage.get("completion_tokens") or 0),
            image_tokens=int(details.get("image_tokens") or 0),
            error=failure,
        )
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise UnreadableReply(
            f"the reply is no chat completion ({type(error).__name__}: {error})"
        ) from None


def _whole(message: Mapping[str, Any], prefill: str, *, truncated: bool) -> str:
    """What the model said, with its reasoning and the prefill in front, neither of them twice."""
    said = message_text(
        message.get("content") or message.get("refusal"), reasoning_of(message), cut=truncated
    )
    # A server that does not continue the started turn begins a new one, often with the same words.
    return said if said.lstrip().startswith(prefill.strip()) else prefill + said
