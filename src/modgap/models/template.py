"""A prompt through a model's own chat template, checked to show all of the prompt.

Templates differ in what they take: content as parts or as one string, a system turn of either form
or none. A template given the wrong form may drop a turn without an error. So each form is tried
until one shows the prompt's words and exactly its image; a system turn that no form shows is left
out, which is reported and recorded. The other rules are those of the `vllm` engine: see
`core.turns.complete`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from modgap.core.errors import UserError, part
from modgap.core.progress import show
from modgap.core.prompt import Prompt
from modgap.core.thinking import CLOSE, OPEN, opened_by
from modgap.core.turns import complete, refuses_system, system_words

_FORMS = (("parts", "parts"), ("string", "parts"), ("string", "string"))
"""Of the content of the system turn and of the user's turn."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """A prompt as the tokenizer gets it.

    Attributes:
        text: With the image's placeholder once, and with the prefill.
        opened: The `<think>` with which the template opened the assistant's turn.
        left_out: `system` where the template takes no system turn; see `Completion`.
    """

    text: str
    opened: str = ""
    left_out: tuple[str, ...] = ()


class ChatTemplate:
    """The chat template of a processor.

    Args:
        processor: Of transformers.
        name: The model, for messages.

    Raises:
        UserError: There is none.
    """

    def __init__(self, processor: Any, name: str) -> None:
        self._tokenizer: Any = processor.tokenizer
        template = getattr(processor, "chat_template", None) or self._tokenizer.chat_template
        if isinstance(template, dict):
            template = template.get("default")
        if not template:
            raise UserError(
                f"{name} has no chat template: give an instruction-tuned model, or copy"
                " chat_template.jinja from the base model's folder."
            )
        self._template, self._name = template, name
        self._image = str(getattr(processor, "image_token", None) or "")
        self._said = {True: False, False: False}
        known = self._tokenizer.added_tokens_decoder.values()
        special = {token.content for token in known if token.special}
        # Words that the prompts use, which some models have as tokens.
        self._special = (special | {self._image}) - {OPEN, CLOSE, ""}

    def __call__(self, prompt: Prompt) -> Rendered:
        """A prompt through the template.

        Raises:
            ValueError: The prompt's text spells one of the model's special tokens.
            UserError: The template does not show the prompt's words.
        """
        if spelt := [t for t in self._special if t in prompt.text or t in (prompt.system or "")]:
            raise ValueError(f"the text spells {min(spelt)!r}, a special token of this model")
        text = self._shown(prompt)
        left_out: tuple[str, ...] = ()
        if text is None and prompt.system is not None:
            prompt, left_out = replace(prompt, system=None), ("system",)
            text = self._shown(prompt)
            if text is not None and not self._said[prompt.has_image]:
                self._said[prompt.has_image] = True
                show(f"modgap: {system_words('the chat template', prompt.has_image)}", error=True)
        if text is None:
            raise UserError(
                f"the chat template of {self._name} does not show the words and the image of a"
                " prompt: copy chat_template.jinja from the base model's folder, or measure the"
                " model with --engine vllm, or served with --engine openai."
            )
        text = complete(text, prompt)
        return Rendered(text, "" if prompt.prefill else opened_by(text), left_out)

    def _shown(self, prompt: Prompt) -> str | None:
        """The first form of the prompt that the template shows whole; `None` if it shows none."""
        wanted = [prompt.text.strip(), (prompt.system or "").strip()]
        for of_system, of_user in _FORMS:
            try:
                text = self._rendered(prompt, of_system, of_user)
                blind = self._rendered(replace(prompt, has_image=False), of_system, of_user)
            except Exception as error:  # jinja2's own, which the template raises as it likes
                if prompt.system is None and of_user == "string":
                    raise UserError(
                        f"the chat template of {self._name} fails ({part(error)[:200]}): copy it"
                        " from the base model's folder."
                    ) from error
                if prompt.system is not None and refuses_system(str(error)):
                    return None
                continue
            # A list of parts that is printed as one holds the words, too.
            whole = all(words in text for words in wanted) and "'type': 'text'" not in text
            if whole and (text != blind or not prompt.has_image):
                return text
        return None

    def _rendered(self, prompt: Prompt, of_system: str, of_user: str) -> str:
        messages: list[dict[str, Any]] = []
        if prompt.system is not None:
            parts = [{"type": "text", "text": prompt.system}]
            content = prompt.system if of_system == "string" else parts
            messages.append({"role": "system", "content": content})
        messages.append({"role": "user", "content": self._content(prompt, of_user)})
        return self._tokenizer.apply_chat_template(
            messages, chat_template=self._template, tokenize=False, add_generation_prompt=True
        )

    def _content(self, prompt: Prompt, form: str) -> Any:
        if form == "string":
            return f"{self._image}\n{prompt.text}" if prompt.has_image else prompt.text
        image = [{"type": "image"}] if prompt.has_image else []
        return [*image, {"type": "text", "text": prompt.text}]
