"""OpenAI's chat format: a request as messages and parameters, a reply as text.

Where this differs from reading `choices[0].message.content`:

* reasoning that a server sends separately (`reasoning_content`, `reasoning`, `thinking`, or parts
  of the content) is put in front, in `<think>...</think>`, so that grading sees everything that the
  model said; a truncated reasoning stays open;
* a refusal is something the model said, so it is the text (and graded `no_answer`);
* a filtered response counts as failed, and so does one with a part that is not text.

A server is also sent the other parameters that shape a distribution, at the values that change
nothing (`PLAIN`): otherwise it may apply the model's generation config (vLLM, SGLang) or its own
values (llama.cpp, Ollama).

A raw completion (`/v1/completions`, which paper mode's judge uses) is read in the same way.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from modgap.core.engine import PLAIN, FinishReason, Request, Sampling
from modgap.core.progress import show
from modgap.core.prompt import Prompt
from modgap.core.thinking import UnknownPart, message_text, reasoning_of
from modgap.core.turns import system_words

if TYPE_CHECKING:
    from PIL.Image import Image

# Every other reason ("stop", "eos", none at all) means that the model ended by itself.
_TRUNCATED = ("length", "max_tokens", "max_output_tokens", "model_length")  # the last is Mistral's
_FILTERED = "content_filter"
_BROKEN_OFF = ("abort", "error")
_MOST_TOKENS = 10**9
_MOST_DIGITS = 20

UNKNOWN_FIELD = "a field that is not OpenAI's"
"""What a server refused, if it does not name the field."""


class UnreadableReply(ValueError):
    """A reply with status 200 that is not a completion."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What a server answered.

    Attributes:
        text: What the model said, with the prefill.
        finish_reason: `stop`, `length` or `error`.
        prompt_tokens: As the server counts them; 0 if it does not report them.
        completion_tokens: As the server counts them, reasoning included; 0 if not reported.
        image_tokens: 0 if not reported, as with most servers.
        error: Why there is no text.
    """

    text: str
    finish_reason: FinishReason
    prompt_tokens: int = 0
    completion_tokens: int = 0
    image_tokens: int = 0
    error: str | None = None


def png_data_uri(image: Image) -> str:
    """An image as a PNG in a data URI, which keeps every pixel."""
    from modgap.core.images import to_rgb

    buffer = io.BytesIO()
    to_rgb(image).save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def to_messages(request: Request) -> list[dict[str, Any]]:
    """The chat of a request.

    It has a system turn, a user turn (image, then text), and the prefill as a started assistant
    turn.
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
    """How one server takes its parameters: the common way first, then adapted to its refusals.

    Attributes:
        refused: Names of `PLAIN` that it does not take: it applies its own values of these.
    """

    def __init__(self, extra_body: Mapping[str, Any] | None = None) -> None:
        self.refused: list[str] = []
        self._extra = dict(extra_body or {})
        self._limit = "max_tokens"  # OpenAI's reasoning models want max_completion_tokens
        self._continues = True  # vLLM and SGLang continue a started turn if asked to
        self._takes_seed = True
        # Keyed by whether the prompt has an image: some templates take a system turn only without
        # one, and which prompts keep it must not depend on the order of the requests.
        self._takes_system = {True: True, False: True}

    def shown(self, prompt: Prompt) -> Prompt:
        """The prompt as it is sent: in the user turn alone where the server continues none."""
        moved = bool(prompt.without_prefill) and not self._continues
        return prompt.in_user_turn() if moved else prompt

    def messages(self, messages: Sequence[Mapping[str, Any]], prompt: Prompt) -> list[Any]:
        """The chat of one sample, without the turns that the server does not take.

        Args:
            messages: As `to_messages` gives them.
            prompt: What they were made of.
        """
        takes = self._takes_system[_has_image(messages)]
        turns = [message for message in messages if takes or message["role"] != "system"]
        shown = self.shown(prompt)
        if shown is prompt:
            return turns
        return [
            {**message, "content": _with_text(message["content"], shown.text)}
            if message["role"] == "user"
            else message
            for message in turns
            if message["role"] != "assistant"
        ]

    def parameters(self, prompt: Prompt, sampling: Sampling, seed: int) -> dict[str, Any]:
        """The parameters of one sample, as arguments of the client."""
        parameters: dict[str, Any] = {self._limit: sampling.max_tokens}
        if sampling.temperature is not None:
            parameters["temperature"] = sampling.temperature
        plain: dict[str, Any] = {}
        if sampling.plain:
            plain = {name: value for name, value in PLAIN.items() if name not in self.refused}
        if "top_p" in plain:
            parameters["top_p"] = plain.pop("top_p")
        if self._takes_seed:
            # Servers accept different ranges; this one is accepted by all.
            parameters["seed"] = seed % 2**31
        extra = plain | self._extra  # parameters that OpenAI's API does not have
        if prompt.prefill and self._continues:
            extra |= {"continue_final_message": True, "add_generation_prompt": False}
        if extra:
            parameters["extra_body"] = extra
        return parameters

    def left_out(
        self, prompt: Prompt, messages: Sequence[Mapping[str, Any]], sent: Mapping[str, Any]
    ) -> list[str]:
        """The parts that were left out of a sample's request, see `Completion`."""
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
            messages: The chat that it was sent; empty for a raw completion.

        Returns:
            Whether the request can be sent in another form.
        """
        if refused == "max_tokens" and "max_tokens" in parameters:
            self._limit = "max_completion_tokens"
        elif refused == "continue_final_message" and refused in parameters.get("extra_body", {}):
            self._continues = False
        elif dropped := _plain_in(parameters, refused):
            if new := [name for name in dropped if name not in self.refused]:
                show(
                    f"modgap: this server takes no {', '.join(new)}: it applies its own value",
                    error=True,
                )
            self.refused += new
        elif refused is not None and refused in parameters.get("extra_body", {}):
            self._extra.pop(refused, None)
        elif refused == "seed" and "seed" in parameters:
            if self._takes_seed:
                show(
                    "modgap: this server takes no seed: its samples cannot be repeated",
                    error=True,
                )
            self._takes_seed = False
        elif refused == "system" and any(message["role"] == "system" for message in messages):
            image = _has_image(messages)
            if self._takes_system[image]:
                show(f"modgap: {system_words('this server', image)}", error=True)
            self._takes_system[image] = False
        else:
            return False
        return True


def _with_text(content: str | Sequence[Mapping[str, Any]], text: str) -> Any:
    """The content of a turn with other words; its image stays."""
    if isinstance(content, str):
        return text
    return [{**part, "text": text} if part["type"] == "text" else part for part in content]


def _has_image(messages: Sequence[Mapping[str, Any]]) -> bool:
    return any(not isinstance(message["content"], str) for message in messages)


def _plain_in(parameters: Mapping[str, Any], refused: str | None) -> list[str]:
    """The names of `PLAIN` that were sent and are what was refused."""
    extra = parameters.get("extra_body", {})
    names: list[str] = []
    for name in PLAIN:
        sent = name in parameters or name in extra
        # An unnamed field that is not OpenAI's cannot be one of OpenAI's own parameters.
        is_refused = refused == name or (refused == UNKNOWN_FIELD and name not in parameters)
        if sent and is_refused:
            names.append(name)
    return names


def read_reply(body: bytes | str, prefill: str = "") -> Reply:
    """Read the body of a chat completion.

    A count of tokens that cannot be one counts as not reported: the text is good without it.

    Raises:
        UnreadableReply: It is truncated, not JSON, or not a completion; the message says which.
    """
    try:
        # Numbers that Python cannot hold (4,300 digits and more) are not read: none is needed.
        reply = json.loads(body, parse_int=_short_int)
    except (ValueError, RecursionError):
        raise UnreadableReply(f"the reply is not JSON ({len(body)} bytes)") from None
    try:
        # Some routers send their own errors in a reply with status 200.
        if error := reply.get("error"):
            said = error.get("message") if isinstance(error, dict) else error
            raise UnreadableReply(f"the reply is an error: {said}")
        choice, usage = reply["choices"][0], _mapping(reply.get("usage"))
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
        details = _mapping(usage.get("prompt_tokens_details"))
        return Reply(
            text=text,
            finish_reason="error" if failure else "length" if truncated else "stop",
            prompt_tokens=_count(usage.get("prompt_tokens")),
            completion_tokens=_count(usage.get("completion_tokens")),
            image_tokens=_count(details.get("image_tokens")),
            error=failure,
        )
    except RecursionError:
        raise UnreadableReply("the parts of the reply's content are nested too deep") from None
    except (AttributeError, IndexError, KeyError, TypeError):
        begin = json.dumps(reply)[:100]
        raise UnreadableReply(f"the reply is not a chat completion: it begins {begin}") from None


def _short_int(digits: str) -> int:
    return int(digits) if len(digits) <= _MOST_DIGITS else 0


def _mapping(value: Any) -> Mapping[str, Any]:
    return cast("Mapping[str, Any]", value) if isinstance(value, Mapping) else {}


def _count(value: Any) -> int:
    """A number of tokens as a server reports it; 0 for what cannot be one."""
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    return int(value) if whole and 0 <= value <= _MOST_TOKENS else 0


def _whole(message: Mapping[str, Any], prefill: str, *, truncated: bool) -> str:
    """What the model said, with its reasoning and the prefill in front, each of them once."""
    said = message_text(
        message.get("content") or message.get("refusal"), reasoning_of(message), cut=truncated
    )
    # A server that does not continue the started turn begins a new one, often with the same words.
    return said if said.lstrip().startswith(prefill.strip()) else prefill + said
