r"""A tiny but genuine Qwen2.5-VL or Qwen3-VL in Hugging Face format.

It consists of a config, random weights, a tokenizer and an image processor. It has every part of
the real one (a vision tower with merged patches, M-RoPE, ChatML, Qwen's special tokens) at about
5 M parameters (Qwen3-VL: 9 M), so that whatever works on it works on the large ones. Differences:
its own byte-level BPE tokenizer in which every digit and every capital letter is one token (labels
of points are read letter by letter); full attention in every vision layer (its images are 64 merged
tokens, or 49); images are brought to about 224 x 224 pixels.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modgap.models.folder import quiet

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
# Words and LaTeX commands with the space after them (labels and numbers then need no space token),
# single capitals and digits, runs of punctuation with the spaces around them.
_PRE_TOKENS = r"\\?[a-z]+ ?|[A-Z]|[0-9]| ?[^\sA-Za-z0-9\\]+ ?|\s|\\"

CHAT_TEMPLATE = """\
{%- set ns = namespace(images=0, videos=0) -%}
{%- for message in messages -%}
{%- if loop.first and message['role'] != 'system' -%}
{{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' -}}
{%- endif -%}
{{- '<|im_start|>' + message['role'] + '\\n' -}}
{%- if message['content'] is string -%}
{{- message['content'] -}}
{%- else -%}
{%- for part in message['content'] -%}
{%- if part['type'] == 'image' or 'image' in part or 'image_url' in part -%}
{%- set ns.images = ns.images + 1 -%}
{%- if add_vision_id is defined and add_vision_id -%}\
{{- 'Picture ' ~ ns.images ~ ': ' -}}{%- endif -%}
{{- '<|vision_start|><|image_pad|><|vision_end|>' -}}
{%- elif part['type'] == 'video' or 'video' in part -%}
{%- set ns.videos = ns.videos + 1 -%}
{%- if add_vision_id is defined and add_vision_id -%}\
{{- 'Video ' ~ ns.videos ~ ': ' -}}{%- endif -%}
{{- '<|vision_start|><|video_pad|><|vision_end|>' -}}
{%- elif 'text' in part -%}
{{- part['text'] -}}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""


@dataclass(frozen=True)
class Size:
    """Sizes of the model. Heads have 64 channels, which vLLM's kernels need.

    Attributes:
        vocabulary: Most tokens of the tokenizer, special ones included.
        text_width: Channels of the language model.
        text_layers: Its layers.
        text_mlp: Channels inside its MLPs.
        vision_width: Channels of the vision tower.
        vision_layers: Its layers.
        vision_mlp: Channels inside its MLPs.
        side: Images are brought to about side x side pixels; a whole number of merged tokens.
        max_new_tokens: Longest response by default.
        kv_heads: Key and value heads of the language model; 0 for as many as query heads.
    """

    vocabulary: int = 640
    text_width: int = 256
    text_layers: int = 4
    text_mlp: int = 768
    vision_width: int = 192
    vision_layers: int = 4
    vision_mlp: int = 512
    side: int = 224
    max_new_tokens: int = 256
    kv_heads: int = 0

    @property
    def heads(self) -> int:
        """Query heads of the language model."""
        return self.text_width // 64


SIZES = {
    "qwen2.5-vl": Size(),
    "qwen3-vl": Size(text_layers=6, vision_layers=6, vision_mlp=768, kv_heads=2),
}
"""Architecture -> its sizes."""


def train_tokenizer(corpus: Iterable[str], vocabulary: int) -> Any:
    """A byte-level BPE tokenizer with Qwen's special tokens, trained on a corpus.

    The same corpus gives the same tokenizer.

    Returns:
        A `transformers.PreTrainedTokenizerFast`.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PRE_TOKENS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        min_frequency=2,
        show_progress=False,
    )
    chat = [
        "system\n",
        "user\n",
        "assistant\n",
        "You are a helpful assistant.",
        "<think>",
        "</think>",
        "\\boxed{",
    ] * 10
    tokenizer.train_from_iterator(itertools.chain(chat, corpus), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=[
            t for t in SPECIAL_TOKENS if t not in {"<|im_end|>", "<|endoftext|>"}
        ],
        clean_up_tokenization_spaces=False,
        model_max_length=4096,
        chat_template=CHAT_TEMPLATE,
    )


def _ends(ids: dict[str, int]) -> dict[str, Any]:
    """What both levels of a config say of the tokens that end a text."""
    return {
        "bos_token_id": None,
        "eos_token_id": ids["<|im_end|>"],
        "pad_token_id": ids["<|endoftext|>"],
        "tie_word_embeddings": True,
    }


def _text(ids: dict[str, int], vocabulary: int, size: Size) -> dict[str, Any]:
    """The language model's part of a config, of either architecture."""
    return {
        "vocab_size": vocabulary,
        "hidden_size": size.text_width,
        "intermediate_size": size.text_mlp,
        "num_hidden_layers": size.text_layers,
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.kv_heads or size.heads,
        "max_position_embeddings": 4096,
        **_ends(ids),
    }


def _vision(size: Size) -> dict[str, Any]:
    """The vision tower's part of a config, of either architecture."""
    return {
        "depth": size.vision_layers,
        "hidden_size": size.vision_width,
        "intermediate_size": size.vision_mlp,
        "num_heads": size.vision_width // 64,
        "out_hidden_size": size.text_width,
    }


def _tokens(ids: dict[str, int]) -> dict[str, Any]:
    """The tokens that a config of either architecture names."""
    return {
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
        **_ends(ids),
    }


def tiny_config(ids: dict[str, int], vocabulary: int, size: Size) -> Any:
    """The `Qwen2_5_VLConfig` of these sizes; `ids` are the special tokens' ids."""
    from transformers import Qwen2_5_VLConfig

    assert size.side % 28 == 0, "a side is a whole number of merged tokens"
    return Qwen2_5_VLConfig(
        text_config={
            **_text(ids, vocabulary, size),
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10_000.0,
                "mrope_section": [8, 12, 12],
            },
        },
        vision_config={
            **_vision(size),
            "fullatt_block_indexes": list(range(size.vision_layers)),
        },
        **_tokens(ids),
    )


def deep_config(ids: dict[str, int], vocabulary: int, size: Size) -> Any:
    """The `Qwen3VLConfig` of these sizes: features of one inner block reach the language model."""
    from transformers import Qwen3VLConfig

    assert size.side % 32 == 0, "a side is a whole number of merged tokens"
    return Qwen3VLConfig(
        text_config={
            **_text(ids, vocabulary, size),
            "head_dim": 64,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10_000.0,
                "mrope_interleaved": True,
                "mrope_section": [12, 10, 10],
            },
        },
        vision_config={
            **_vision(size),
            "num_position_embeddings": (size.side // 16) ** 2,
            "deepstack_visual_indexes": [max(0, size.vision_layers // 2 - 1)],
        },
        **_tokens(ids),
    )


def build_tiny(
    folder: str | Path,
    corpus: Iterable[str],
    seed: int = 0,
    size: Size | None = None,
    arch: str = "qwen2.5-vl",
) -> Path:
    """Write a tiny model with random weights.

    Args:
        folder: Where.
        corpus: Texts like those that it will read and write, for its tokenizer.
        seed: Of the weights.
        size: Its sizes; those of `SIZES` by default.
        arch: Its architecture: `qwen2.5-vl` or `qwen3-vl`.

    Returns:
        The folder.
    """
    import torch
    from transformers import AutoModelForImageTextToText, GenerationConfig
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    size = size or SIZES[arch]
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer(corpus, size.vocabulary)
    ids: dict[str, int] = {name: tokenizer.convert_tokens_to_ids(name) for name in SPECIAL_TOKENS}
    deep = arch == "qwen3-vl"
    config = (deep_config if deep else tiny_config)(ids, len(tokenizer), size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: Any = AutoModelForImageTextToText.from_config(config, dtype=torch.float32)
    model.generation_config = GenerationConfig(
        do_sample=True,
        temperature=0.6,
        max_new_tokens=size.max_new_tokens,
        eos_token_id=[ids["<|im_end|>"], ids["<|endoftext|>"]],
        pad_token_id=ids["<|endoftext|>"],
    )
    with quiet():
        model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    # A quarter less and a quarter more than side^2: a square of that side keeps its size.
    pixels = {"shortest_edge": size.side**2 * 3 // 4, "longest_edge": size.side**2 * 5 // 4}
    half = {"patch_size": 16, "image_mean": [0.5] * 3, "image_std": [0.5] * 3} if deep else {}
    Qwen2VLImageProcessorPil(size=pixels, **half).save_pretrained(folder)
    _complete_processor(folder, pixels, "Qwen3VL" if deep else "Qwen2_5_VL")
    return folder


def _complete_processor(folder: Path, pixels: dict[str, int], kind: str) -> None:
    """Add what `AutoProcessor` wants if torchvision is installed.

    These are class names without a backend, and the video processor.
    """
    path = folder / "preprocessor_config.json"
    image = json.loads(path.read_text(encoding="utf-8"))
    image["image_processor_type"] = "Qwen2VLImageProcessor"
    image["processor_class"] = f"{kind}Processor"
    path.write_text(json.dumps(image, indent=2) + "\n", encoding="utf-8")
    video = {
        **{k: v for k, v in image.items() if k not in {"image_processor_type", "data_format"}},
        "video_processor_type": f"{'Qwen3VL' if kind == 'Qwen3VL' else 'Qwen2VL'}VideoProcessor",
        "size": pixels,
    }
    (folder / "video_preprocessor_config.json").write_text(
        json.dumps(video, indent=2) + "\n", encoding="utf-8"
    )
