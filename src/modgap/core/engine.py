"""The interface of engines: request, sampling settings, completion, and the engine's protocol."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from modgap.core.errors import UserError
from modgap.core.prompt import Prompt

if TYPE_CHECKING:
    from PIL.Image import Image

FinishReason = Literal["stop", "length", "error"]


PLAIN: dict[str, float] = {"top_p": 1.0, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
"""The other settings that shape a distribution, at values that change nothing.

Every engine samples with these.
"""


CONTINUED = "continue_final_message"
"""What `Completion.left_out` has where a started turn of the assistant's was not continued."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How responses are sampled; the defaults are the original's, for every model and engine.

    Attributes:
        temperature: 0 is greedy; `None` is the server's own, which only the `openai` engine takes.
        max_tokens: The most new tokens of a response.
        seed: The run's seed; each sample's own seed is derived from it, see `sample_seed`.
        plain: Whether a server is sent `PLAIN`. Without it a server may apply the model's own
            values. Older runs did not send it and resume without it.
    """

    temperature: float | None = 0.6
    max_tokens: int = 4096
    seed: int = 42
    plain: bool = True


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt and the samples wanted of it.

    Attributes:
        problem_id: The problem.
        view: The name of the view.
        prompt: The words.
        image: Gives the decoded image when the engine is ready for it (so that thousands are not
            held); `None` for a prompt without one.
        samples: The indices of the samples that are still to be made.
        image_name: What messages call the image, with its file.
    """

    problem_id: str
    view: str
    prompt: Prompt
    image: Callable[[], Image] | None
    samples: tuple[int, ...]
    image_name: str = ""

    def refusal(self, error: Exception) -> str:
        """One line on why this prompt cannot be asked, naming its problem and its image."""
        words = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, UserError):
            return words  # it names them already
        return f"problem {self.problem_id}{self.image_name and f', {self.image_name}'}: {words}"


@dataclass(frozen=True, slots=True)
class Completion:
    """One sampled response.

    Attributes:
        request: The request it answers.
        sample: Which of its samples.
        text: What the model wrote, without the prompt; with the prefill if there was one, or else
            with `opened`.
        finish_reason: `stop`, `length` (truncated) or `error`.
        prompt_tokens: Tokens of the prompt, image tokens included.
        completion_tokens: Tokens sampled.
        image_tokens: Tokens that the image took, after any resizing by the model's processor.
        seed: The seed of this sample.
        error: Why there is no text, where `finish_reason` is `error`.
        opened: What the model's chat template opened the assistant's turn with by itself, where
            that is `<think>`.
        left_out: Parts of the prompt or the sampling that the model was not given, because the
            server or the template refuses them: `system`, `seed`, `continue_final_message`.
    """

    request: Request
    sample: int
    text: str
    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    seed: int
    image_tokens: int = 0
    error: str | None = None
    opened: str = ""
    left_out: tuple[str, ...] = ()


class Engine(Protocol):
    """Answers prompts. Completions come in any order; each is yielded as soon as it is ready.

    An engine with a true attribute `continues` continues a turn that a prompt's `prefill` starts.
    Any other is asked `Prompt.in_user_turn` where a prompt has one.
    """

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Completion]:
        """Every wanted sample of every request, each exactly once."""
        ...


@dataclass(frozen=True, slots=True)
class Start:
    """How an engine starts, with what is known before it does: a run that is complete starts none.

    An engine's class may have these functions, all of which take the `EvalOptions` of
    `modgap.core.options`:

    * `start(model, options) -> Start`;
    * or `from_options(model, options) -> Engine`, where a `Start` would say nothing more. A class
      with neither is made without arguments;
    * `check_options(options)`, which raises `UserError` for a bad value;
    * `accelerators(options) -> int`, where one engine takes more than one.

    Attributes:
        make: Makes the engine (picklable, for other processes).
        folder: The model; `None` where it is not here.
        identity: What makes a run what it is, beside the engine's name.
        pixels: Least and most pixels of an image, where they are known.
    """

    make: Callable[[], Engine]
    folder: Path | None = None
    identity: dict[str, Any] = field(default_factory=dict[str, Any])
    pixels: tuple[int, int] | None = None


def sample_seed(seed: int, problem_id: str, view: str, sample: int) -> int:
    """The seed of one sample: 63 bits of SHA-256 over (seed, problem, view, sample).

    It depends on nothing else, so that a resumed run, another order or another batch size gives the
    same sample.
    """
    digest = hashlib.sha256(f"{seed}\x1f{problem_id}\x1f{view}\x1f{sample}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
