"""What the training loop needs of a model, and what it tells whoever watches.

`modgap.models.Policy` and `load_policy` have this shape; training does not import them, they are
passed in.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from torch import Tensor, device, nn

from modgap.core.problem import Problem
from modgap.core.prompt import Prompt, Style

if TYPE_CHECKING:
    from PIL.Image import Image


class Encoded(Protocol):
    """A prompt in tokens, image placeholders expanded.

    Rows that share the object may share its computation.
    """

    @property
    def input_ids(self) -> Tensor:
        """`[L]` int64."""
        ...

    @property
    def image_key(self) -> str | None:
        """Names the image: prompts with the same key show the same one."""
        ...


class Sampled(Protocol):
    """One sampled response."""

    @property
    def token_ids(self) -> Tensor:
        """`[T]` int64, with the token that ended it."""
        ...

    @property
    def text(self) -> str:
        """Its words."""
        ...

    @property
    def finish_reason(self) -> Literal["stop", "length"]:
        """Whether it ended by itself."""
        ...


class TrainablePolicy(Protocol):
    """A model that can be sampled from and trained."""

    @property
    def model(self) -> Any:
        """The `nn.Module`."""
        ...

    @property
    def device(self) -> device:
        """Where it computes."""
        ...

    def parameters(self) -> Iterator[nn.Parameter]:
        """What is trained."""
        ...

    def weights_cast(self) -> AbstractContextManager[None]:
        """Inside, where weights do not change, autocast need not cast them at each use; gradients
        reach them.
        """
        ...

    def let_go(self) -> bool:
        """Give back the memory that is kept from one rollout to the next; whether there was any."""
        ...

    def encode(self, prompt: Prompt, image: Image | None = None) -> Any:
        """A prompt in tokens (`Encoded`)."""
        ...

    def image_features(self, prompts: Sequence[Any]) -> list[Tensor | None]:
        """`[merged tokens, hidden]` for each prompt's image, differentiable."""
        ...

    def logprobs(
        self,
        prompts: Sequence[Any],
        responses: Sequence[Tensor],
        features: Sequence[Tensor | None],
        temperature: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probabilities, entropies and mask, each `[B, T]`, differentiable."""
        ...

    def distributions(
        self,
        prompts: Sequence[Any],
        responses: Sequence[Tensor],
        features: Sequence[Tensor | None],
        temperature: float,
    ) -> tuple[Tensor, Tensor]:
        """Log-probabilities of the whole vocabulary `[B, T, V]` and the mask `[B, T]`,
        differentiable.
        """
        ...

    def generate(
        self,
        prompts: Sequence[Any],
        seeds: Sequence[Sequence[int]],
        temperature: float,
        max_new_tokens: int,
        max_rows: int | None = None,
    ) -> Sequence[Sequence[Sampled]]:
        """For each prompt one response for each of its seeds."""
        ...

    def save(self, folder: Path) -> Any:
        """Write a Hugging Face folder, adapters merged."""
        ...


class LoadPolicy(Protocol):
    """Loads a model for training."""

    def __call__(
        self,
        ref: str | Path,
        *,
        dtype: str | None,
        lora: int | None,
        freeze_vision: bool,
        gradient_checkpointing: bool,
    ) -> TrainablePolicy:
        """The policy; `dtype` None leaves the type to the loader."""
        ...


EventKind = Literal["stage", "phase", "step", "note"]


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened while training.

    Attributes:
        kind: `stage` (one begins or goes on), `phase` (of a step), `step` (one is done), `note`
            (worth saying aloud).
        stage: Which stage, from 1, of how many.
        stages: How many.
        step: Steps done; a phase or a note belongs to the one after.
        steps: Steps of this stage.
        text: The stage's title, the note, or the phase's name (`rollout`, `reward`, `logprobs`,
            `update`, `validation`, `checkpoint`).
        metrics: With `step`: the line of train_log.jsonl.
    """

    kind: EventKind
    stage: int
    stages: int
    step: int
    steps: int
    text: str = ""
    metrics: Mapping[str, Any] = field(default_factory=dict[str, Any])


class Progress(Protocol):
    """Watches the training, to draw it."""

    def __call__(self, event: Event) -> None:
        """Told of everything, in order."""
        ...


@dataclass(frozen=True, slots=True)
class Job:
    """How a recipe is trained, the same for both engines.

    Attributes:
        style: Of the prompts.
        validation: Problems to validate on; by default `validation_problems` are held out of the
            problems.
        start_from: Which checkpoint of a stage the next one starts from.
        given: The arguments as the user gave them, for the manifests.
        fingerprint: Of the base model, for the manifests.
        device: Where the local engine trains; `None` takes the best there is.
    """

    style: Style = "aligned"
    validation: Sequence[Problem] | None = None
    start_from: Literal["last", "best"] = "last"
    given: Mapping[str, Any] | None = None
    fingerprint: str | None = None
    device: str | None = None


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What a training run ends with.

    Attributes:
        out: Its folder.
        stages: The stages' folders.
        final: The last checkpoint of the last stage, a Hugging Face folder.
        best: Its checkpoint with the highest validation accuracy.
    """

    out: Path
    stages: tuple[Path, ...]
    final: Path
    best: Path
