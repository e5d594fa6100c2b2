"""Small random models of many families, with the files that their hub checkpoints have.

Config, tokenizer (trained here), image processor, processor and chat template are of the real
classes, with the hub's names, special tokens and layouts of files; only the sizes are small. The
templates are the hub's own without tools, audio and video.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CORPUS = [
    f"In this problem, AB = {n}, m \\angle CAB = {n + 20}, B is on line AC. Find the length of AC."
    f" You should FIRST think, then answer in \\boxed{{{n}}}. <think> user assistant system {n}"
    for n in range(60)
]
_HALF = [0.5, 0.5, 0.5]
_CLIP = {
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
_COMMON = {"do_resize": True, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True}

CHATML = """\
{%- for message in messages -%}
{{- '<|im_start|>' + message.role + '\\n' -}}
{%- if message.content is string -%}{{- message.content -}}
{%- else -%}
{%- for part in message.content -%}
{%- if part.type == 'image' or 'image' in part -%}IMAGE
{%- elif 'text' in part -%}{{- part.text -}}{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\nOPEN' -}}{%- endif -%}
"""
DEFAULT_SYSTEM = """\
{%- if messages[0].role != 'system' -%}\
{{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' -}}{%- endif -%}
"""
QWEN_IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
ONEVISION = """\
{% for message in messages %}{{'<|im_start|>' + message['role'] + ' '}}\
{# Render all images first #}\
{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>' }}\
{% endfor %}\
{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}\
{{ '\\n' + content['text'] }}{% endfor %}{{'<|im_end|>'}}{% endfor %}\
{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""
LLAVA = """\
{% for message in messages %}{% if message['role'] != 'system' %}\
{{ message['role'].upper() + ': '}}\
{% endif %}{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}\
{{ '<image>\\n' }}{% endfor %}{% if message['role'] != 'assistant' %}\
{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}\
{{ content['text'] + ' '}}{% endfor %}{% endif %}{% endfor %}\
{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"""
GEMMA3 = """\
{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
{%- if messages[0]['content'] is string -%}
{%- set first_user_prefix = messages[0]['content'] + '\\n\\n' -%}
{%- else -%}
{%- set first_user_prefix = messages[0]['content'][0]['text'] + '\\n\\n' -%}
{%- endif -%}
{%- set loop_messages = messages[1:] -%}
{%- else -%}
{%- set first_user_prefix = "" -%}{%- set loop_messages = messages -%}
{%- endif -%}
{%- for message in loop_messages -%}
{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
{{ raise_exception("Conversation roles must alternate user/assistant/user/assistant/...") }}
{%- endif -%}
{%- set role = 'model' if message['role'] == 'assistant' else message['role'] -%}
{{ '<start_of_turn>' + role + '\\n' + (first_user_prefix if loop.first else "") }}
{%- if message['content'] is string -%}{{ message['content'] | trim }}
{%- else -%}
{%- for item in message['content'] -%}
{%- if item['type'] == 'image' -%}{{ '<start_of_image>' }}
{%- elif item['type'] == 'text' -%}{{ item['text'] | trim }}{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{ '<end_of_turn>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{'<start_of_turn>model\\n'}}{%- endif -%}
"""
GEMMA4 = """\
{{- bos_token -}}
{%- for message in messages -%}
{%- set role = 'model' if message['role'] == 'assistant' else message['role'] -%}
{{- '<|turn>' + role + '\\n' -}}
{%- if message['content'] is string -%}{{- message['content'] | trim -}}
{%- else -%}
{%- for item in message['content'] -%}
{%- if item['type'] == 'text' -%}{{- item['text'] | trim -}}
{%- elif item['type'] == 'image' -%}{{- '<|image|>' -}}{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{- '<turn|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|turn>model\\n' -}}{%- endif -%}
"""
GLM = """\
[gMASK]<sop>
{%- for msg in messages %}
{%- if msg.role == 'system' %}
<|system|>
{{ msg.content if msg.content is string else msg.content[0].text }}
{%- elif msg.role == 'user' %}<|user|>{{ '\\n' }}
{%- if msg.content is string %}{{ msg.content }}
{%- else %}
{%- for item in msg.content %}
{%- if item.type == 'image' or 'image' in item %}<|begin_of_image|><|image|><|end_of_image|>
{%- elif item.type == 'text' %}{{ item.text }}{%- endif %}
{%- endfor %}
{%- endif %}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}<|assistant|>
<think>{%- endif %}"""
SMOL = """\
<|im_start|>{% for message in messages %}{{message['role'] | capitalize}}\
{% if message['content'][0]['type'] == 'image' %}{{':'}}{% else %}{{': '}}{% endif %}\
{% for line in message['content'] %}{% if line['type'] == 'text' %}{{line['text']}}\
{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>
{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"""
# Content as one string, and no system turn: as text-only templates have it.
MISTRAL = """\
{{- bos_token -}}
{%- for message in messages -%}
{%- if message['role'] == 'user' -%}
{%- if message['content'] is string -%}{{- '[INST]' + message['content'] + '[/INST]' -}}
{%- else -%}{{- '[INST]' -}}
{%- for block in message['content'] -%}
{%- if block['type'] == 'text' -%}{{- block['text'] -}}
{%- elif block['type'] in ['image', 'image_url'] -%}{{- '[IMG]' -}}{%- endif -%}
{%- endfor -%}{{- '[/INST]' -}}
{%- endif -%}
{%- elif message['role'] == 'system' -%}
{{- raise_exception('Only user and assistant roles are supported!') -}}
{%- endif -%}
{%- endfor -%}"""
STRINGS = """\
{%- for message in messages -%}\
{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' -}}\
{%- endfor -%}\
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"""


@dataclass(frozen=True)
class Sizes:
    """Sizes of a model.

    Attributes:
        width: Channels of the language model.
        layers: Its layers; a multiple of 2.
        vision_width: Channels of the vision tower, in heads of 32.
        vision_layers: Its layers.
        vocabulary: Most tokens of the tokenizer.
        seed: Of the weights.
        head: Channels of a head of the language model; a multiple of 32.
        heads: Its heads, of families whose heads need not add up to the width; by default they do.
        sharing: Query heads that share one head of keys and values.
        patch: Pixels of a side of a patch, of the Qwen families; by default their usual one.
        tied: Whether embedding and output share their weights. By default as the family has it.
    """

    width: int = 128
    layers: int = 2
    vision_width: int = 64
    vision_layers: int = 2
    vocabulary: int = 700
    seed: int = 0
    head: int = 32
    heads: int | None = None
    sharing: int = 2
    patch: int | None = None
    tied: bool | None = None

    def ties(self, usual: bool) -> bool:
        """Whether the embeddings are tied, of a family that usually does or does not."""
        return usual if self.tied is None else self.tied


@dataclass(frozen=True)
class Family:
    """How a family is built.

    Attributes:
        config: From the special tokens' ids, the vocabulary and the sizes to the config.
        tokens: Special tokens.
        roles: Which of them are `bos_token`, `eos_token`, `pad_token`.
        named: Special tokens that the tokenizer has as attributes.
        template: The chat template.
        files: Further files, by name.
        template_file: Where the template lies.
    """

    config: Callable[[Callable[[str], int], int, Sizes], Any]
    tokens: Sequence[str]
    template: str
    files: dict[str, Any]
    roles: dict[str, str] = field(default_factory=dict)
    named: dict[str, str] = field(default_factory=dict)
    template_file: str = "chat_template.jinja"


def _text(size: Sizes, vocabulary: int, **more: Any) -> dict[str, Any]:
    """A language model; `head_dim` among `more` says that its heads may differ from its width."""
    free = size.heads if "head_dim" in more else None
    heads = free or size.width // size.head
    return {
        "vocab_size": vocabulary, "hidden_size": size.width, "intermediate_size": 2 * size.width,
        "num_hidden_layers": size.layers, "num_attention_heads": heads,
        "num_key_value_heads": max(1, heads // size.sharing), "max_position_embeddings": 4096,
        **more,
    }  # fmt: skip


_QWEN = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>",
         "<|image_pad|>", "<|video_pad|>")  # fmt: skip
_QWEN_ROLES = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}


def _qwen_ids(ids: Callable[[str], int]) -> dict[str, int]:
    return {
        "image_token_id": ids("<|image_pad|>"), "video_token_id": ids("<|video_pad|>"),
        "vision_start_token_id": ids("<|vision_start|>"),
        "vision_end_token_id": ids("<|vision_end|>"),
    }  # fmt: skip


def _rope(sections: list[int], **more: Any) -> dict[str, Any]:
    return {
        "rope_parameters": {
            "rope_type": "default", "rope_theta": 10000.0, "mrope_section": sections, **more
        }
    }  # fmt: skip


def _sections(size: Sizes, *sections: int) -> list[int]:
    """Rotary sections that are given for heads of 32."""
    return [section * size.head // 32 for section in sections]


def _qwen2_vl(ids: Any, vocabulary: int, size: Sizes) -> Any:
    from transformers import Qwen2VLConfig

    return Qwen2VLConfig(
        text_config=_text(
            size, vocabulary, **_rope(_sections(size, 4, 6, 6)), tie_word_embeddings=size.ties(True)
        ),
        vision_config={
            "depth": size.vision_layers, "embed_dim": size.vision_width, "hidden_size": size.width,
            "num_heads": size.vision_width // 32, "mlp_ratio": 2, "patch_size": size.patch or 14,
        },
        tie_word_embeddings=size.ties(True), **_qwen_ids(ids),
    )  # fmt: skip


def _qwen2_5_vl(ids: Any, vocabulary: int, size: Sizes) -> Any:
    from transformers import Qwen2_5_VLConfig

    return Qwen2_5_VLConfig(
        text_config=_text(
            size, vocabulary, **_rope(_sections(size, 4, 6, 6)),
            tie_word_embeddings=size.ties(False),
        ),
        vision_config={
            "depth": size.vision_layers, "hidden_size": size.vision_width,
            "intermediate_size": 2 * size.vision_width, "num_heads": size.vision_width // 32,
            "out_hidden_size": size.width, "fullatt_block_indexes": [size.vision_layers - 1],
            "patch_size": size.patch or 14, "window_size": 8 * (size.patch or 14),
        },
        tie_word_embeddings=size.ties(False), **_qwen_ids(ids),
    )  # fmt: skip


def _qwen3_vision(size: Sizes) -> dict[str, Any]:
    return {
        "depth": size.vision_layers, "hidden_size": size.vision_width,
        "intermediate_size": 2 * size.vision_width, "num_heads": size.vision_width // 32,
        "out_hidden_size": size.width, "num_position_embeddings": 64,
        "patch_size": size.patch or 16,
    }  # fmt: skip


def _qwen3_vl(ids: Any, vocabulary: int, size: Sizes) -> Any:
    from transformers import Qwen3VLConfig

    return Qwen3VLConfig(
        text_config=_text(
            size, vocabulary, head_dim=size.head,
            **_rope(_sections(size, 6, 5, 5), mrope_interleaved=True),
            tie_word_embeddings=size.ties(True),
        ),
        vision_config={
            **_qwen3_vision(size), "deepstack_visual_indexes": [0, size.vision_layers - 1],
        },
        tie_word_embeddings=size.ties(True), **_qwen_ids(ids),
    )  # fmt: skip


def _qwen3_vl_moe(ids: Any, vocabulary: int, size: Sizes) -> Any:
    from transformers import Qwen3VLMoeConfig

    dense = _qwen3_vl(ids, vocabulary, size)
    text = {**dense.text_config.to_dict(), "num_experts": 4, "num_experts_per_tok": 2}
    text |= {"model_type": "qwen3_vl_moe_text", "moe_intermediate_size": size.width}
    vision = {**dense.vision_config.to_dict(), "model_type": "qwen3_vl_moe_vision"}
    return Qwen3VLMoeConfig(
        text_config=text,
        vision_config=vision,
        tie_word_embeddings=size.ties(True),
        **_qwen_ids(ids),
    )


def _qwen3_5(ids: Any, vocabulary: int, size: Sizes) -> Any:
    from transformers import Qwen3_5Config

    kinds = ["linear_attention", "full_attention"] * (size.layers // 2)
    return Qwen3_5Config(
        text_config=_text(
            size, vocabulary, head_dim=size.head, layer_types=kinds, linear_key_head_dim=16,
            linear_value_head_dim=16, linear_num_key_heads=2, linear_num_value_heads=4,
            **_rope(_sections(size, 2, 1, 1), mrope_interleaved=True, partial_rotary_factor=0.25),
        ),
        vision_config=_qwen3_vision(size), tie_word_embeddings=size.ties(False), **_qwen_ids(ids),
    )  # fmt: skip


def _internvl(ids: Any, vocabulary: int, size: Sizes) -> Any:
    from transformers import InternVLConfig

    return InternVLConfig(
        text_config={"model_type": "qwen3", **_text(size, vocabulary, head_dim=size.head)},
        vision_config={
            "hidden_size": size.vision_width, "num_hidden_layers": size.vision_layers,
            "num_attention_heads": size.vision_width // 32,
            "intermediate_size": 2 * size.vision_width, "image_size": [56, 56],
            "patch_size": [14, 14], "attention_bias": True,
        },
        image_token_id=ids("<IMG_CONTEXT>"), image_seq_length=4,
        tie_word_embeddings=size.ties(False),
    )  # fmt: skip


def _siglip(size: Sizes, side: int) -> dict[str, Any]:
    return {
        "model_type": "siglip_vision_model", "hidden_size": size.vision_width,
        "intermediate_size": 2 * size.vision_width, "num_hidden_layers": size.vision_layers,
        "num_attention_heads": size.vision_width // 32, "image_size": side, "patch_size": 14,
        "vision_use_head": False,
    }  # fmt: skip


def _gemma3(ids: Any, vocabulary: int, size: Sizes) -> Any:
    from transformers import Gemma3Config

    kinds = ["sliding_attention", "full_attention"] * (size.layers // 2)
    return Gemma3Config(
        text_config=_text(
            size, vocabulary, head_dim=size.head, query_pre_attn_scalar=32, sliding_window=16,
            layer_types=kinds,
        ),
        vision_config=_siglip(size, 56), mm_tokens_per_image=4,
        boi_token_index=ids("<start_of_image>"), eoi_token_index=ids("<end_of_image>"),
        image_token_index=ids("<image_soft_token>"),
    )  # fmt: skip


def _gemma4(ids: Any, vocabulary: int, size: Sizes) -> Any:
    from transformers import Gemma4Config

    kinds = ["sliding_attention", "full_attention"] * (size.layers // 2)
    return Gemma4Config(
        text_config=_text(
            size, vocabulary, head_dim=size.head, global_head_dim=2 * size.head,
            sliding_window=64, layer_types=kinds,
            hidden_size_per_layer_input=16, vocab_size_per_layer_input=vocabulary,
        ),
        vision_config={
            "hidden_size": size.vision_width, "intermediate_size": 2 * size.vision_width,
            "num_hidden_layers": size.vision_layers, "num_attention_heads": size.vision_width // 32,
            "num_key_value_heads": size.vision_width // 32, "head_dim": 32,
            "position_embedding_size": 128,
        },
        audio_config=None, boi_token_id=ids("<|image>"), eoi_token_id=ids("<image|>"),
        image_token_id=ids("<|image|>"), video_token_id=ids("<|video|>"),
        boa_token_id=ids("<|audio>"), eoa_token_index=ids("<audio|>"),
        audio_token_id=ids("<|audio|>"),
    )  # fmt: skip


def _llava_onevision(ids: Any, vocabulary: int, size: Sizes) -> Any:
    from transformers import LlavaOnevisionConfig

    return LlavaOnevisionConfig(
        text_config={"model_type": "qwen2", **_text(size, vocabulary)},
        vision_config=_siglip(size, 56), image_token_id=ids("<image>"),
        video_token_id=ids("<video>"), vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        image_grid_pinpoints=[[56, 56], [56, 112], [112, 56], [112, 112]],
        tie_word_embeddings=size.ties(False),
    )  # fmt: skip


def _llava(ids: Any, vocabulary: int, size: Sizes) -> Any:
    from transformers import LlavaConfig

    return LlavaConfig(
        text_config={"model_type": "llama", **_text(size, vocabulary)},
        vision_config={
            **_siglip(size, 56), "model_type": "clip_vision_model", "projection_dim": 32,
        },
        image_token_id=ids("<image>"), image_seq_length=16, vision_feature_layer=-2,
        tie_word_embeddings=size.ties(False),
    )  # fmt: skip


def _mistral3(ids: Any, vocabulary: int, size: Sizes) -> Any:
    from transformers import Mistral3Config

    return Mistral3Config(
        text_config={"model_type": "mistral", **_text(size, vocabulary, head_dim=size.head)},
        vision_config={
            "model_type": "pixtral", "hidden_size": size.vision_width, "head_dim": 32,
            "intermediate_size": 2 * size.vision_width, "num_hidden_layers": size.vision_layers,
            "num_attention_heads": size.vision_width // 32, "image_size": 112, "patch_size": 14,
        },
        image_token_id=ids("[IMG]"), spatial_merge_size=2,
        tie_word_embeddings=size.ties(False),
    )  # fmt: skip


def _glm4v(ids: Any, vocabulary: int, size: Sizes, kind: str = "Glm4vConfig") -> Any:
    import transformers

    return getattr(transformers, kind)(
        text_config=_text(
            size, vocabulary, **_rope(_sections(size, 4, 6, 6), partial_rotary_factor=1.0),
            pad_token_id=ids("<|endoftext|>"),
        ),
        vision_config={
            "depth": size.vision_layers, "hidden_size": size.vision_width,
            "num_heads": size.vision_width // 32, "out_hidden_size": size.width,
            "intermediate_size": 2 * size.vision_width, "image_size": 112,
        },
        image_token_id=ids("<|image|>"), video_token_id=ids("<|video|>"),
        image_start_token_id=ids("<|begin_of_image|>"),
        image_end_token_id=ids("<|end_of_image|>"), video_start_token_id=ids("<|begin_of_video|>"),
        video_end_token_id=ids("<|end_of_video|>"),
    )  # fmt: skip


def _glm46v(ids: Any, vocabulary: int, size: Sizes) -> Any:
    return _glm4v(ids, vocabulary, size, "Glm46VConfig")


def _smolvlm(ids: Any, vocabulary: int, size: Sizes) -> Any:
    from transformers import SmolVLMConfig

    return SmolVLMConfig(
        text_config={
            "model_type": "llama", **_text(size, vocabulary, pad_token_id=ids("<|im_end|>"))
        },
        vision_config={
            "hidden_size": size.vision_width, "intermediate_size": 2 * size.vision_width,
            "num_hidden_layers": size.vision_layers, "num_attention_heads": size.vision_width // 32,
            "image_size": 64, "patch_size": 16,
        },
        image_token_id=ids("<image>"), scale_factor=2, pad_token_id=ids("<|im_end|>"),
        tie_word_embeddings=size.ties(False),
    )  # fmt: skip


def _qwen_files(kind: str, image: dict[str, Any], *, suffix: str = "") -> dict[str, Any]:
    shared = {**_COMMON, "do_convert_rgb": True, "temporal_patch_size": 2, "merge_size": 2, **image}
    return {
        "preprocessor_config.json": {
            **shared, "image_processor_type": f"Qwen2VLImageProcessor{suffix}",
            "processor_class": kind,
        },
        "video_preprocessor_config.json": {
            **shared, "video_processor_type": f"{kind.removesuffix('Processor')}VideoProcessor"
            if kind == "Qwen3VLProcessor" else "Qwen2VLVideoProcessor", "processor_class": kind,
        },
    }  # fmt: skip


_QWEN2_IMAGE = {"min_pixels": 3136, "max_pixels": 20 * 784, "patch_size": 14, **_CLIP}
_QWEN3_IMAGE = {
    "size": {"longest_edge": 20 * 1024, "shortest_edge": 4096}, "patch_size": 16,
    "image_mean": _HALF, "image_std": _HALF,
}  # fmt: skip
_GLM_TOKENS = (
    "<|endoftext|>", "[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>",
    "<|observation|>", "<|begin_of_image|>", "<|image|>", "<|end_of_image|>", "<|begin_of_video|>",
    "<|video|>", "<|end_of_video|>",
)  # fmt: skip


def _glm_files(name: str) -> dict[str, Any]:
    shared = {
        **_COMMON, **_CLIP, "patch_size": 14, "temporal_patch_size": 2, "merge_size": 2,
        "size": {"shortest_edge": 12544, "longest_edge": 40 * 784},
        "processor_class": f"{name}Processor",
    }  # fmt: skip
    return {
        "preprocessor_config.json": {**shared, "image_processor_type": f"{name}ImageProcessor"},
        "video_preprocessor_config.json": {
            **shared, "video_processor_type": f"{name}VideoProcessor"
        },
    }  # fmt: skip


FAMILIES: dict[str, Family] = {
    "qwen2_vl": Family(
        _qwen2_vl, _QWEN, DEFAULT_SYSTEM + CHATML.replace("IMAGE", QWEN_IMAGE).replace("OPEN", ""),
        _qwen_files("Qwen2VLProcessor", _QWEN2_IMAGE), _QWEN_ROLES,
        template_file="chat_template.json",
    ),
    "qwen2_5_vl": Family(
        _qwen2_5_vl, _QWEN,
        DEFAULT_SYSTEM + CHATML.replace("IMAGE", QWEN_IMAGE).replace("OPEN", ""),
        _qwen_files("Qwen2_5_VLProcessor", _QWEN2_IMAGE, suffix="Fast"), _QWEN_ROLES,
    ),
    "qwen3_vl": Family(
        _qwen3_vl, _QWEN, CHATML.replace("IMAGE", QWEN_IMAGE).replace("OPEN", ""),
        _qwen_files("Qwen3VLProcessor", _QWEN3_IMAGE, suffix="Fast"), _QWEN_ROLES,
        template_file="chat_template.json",
    ),
    "qwen3_vl_moe": Family(
        _qwen3_vl_moe, _QWEN, CHATML.replace("IMAGE", QWEN_IMAGE).replace("OPEN", ""),
        _qwen_files("Qwen3VLProcessor", _QWEN3_IMAGE, suffix="Fast"), _QWEN_ROLES,
    ),
    "qwen3_5": Family(
        _qwen3_5, _QWEN, CHATML.replace("IMAGE", QWEN_IMAGE).replace("OPEN", "<think>\\n"),
        _qwen_files("Qwen3VLProcessor", _QWEN3_IMAGE, suffix="Fast"), _QWEN_ROLES,
    ),
    "internvl": Family(
        _internvl,
        ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<img>", "</img>", "<IMG_CONTEXT>",
         "<video>"),
        CHATML.replace("IMAGE", "<IMG_CONTEXT>\\n").replace("OPEN", ""),
        {
            "preprocessor_config.json": {
                **_COMMON, **_CLIP, "crop_to_patches": True, "min_patches": 1, "max_patches": 4,
                "size": {"height": 56, "width": 56}, "image_processor_type":
                "GotOcr2ImageProcessorFast", "processor_class": "InternVLProcessor",
            },
            "video_preprocessor_config.json": {
                **_COMMON, **_CLIP, "size": {"height": 56, "width": 56},
                "video_processor_type": "InternVLVideoProcessor",
            },
            "processor_config.json": {
                "image_seq_length": 4, "processor_class": "InternVLProcessor"
            },
        },
        _QWEN_ROLES,
        {
            "start_image_token": "<img>", "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>", "video_token": "<video>",
        },
    ),
    "gemma3": Family(
        _gemma3,
        ("<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>", "<start_of_image>",
         "<end_of_image>", "<image_soft_token>"),
        GEMMA3,
        {
            "preprocessor_config.json": {
                **_COMMON, "image_mean": _HALF, "image_std": _HALF, "do_convert_rgb": None,
                "do_pan_and_scan": None, "image_seq_length": 4,
                "size": {"height": 56, "width": 56}, "image_processor_type": "Gemma3ImageProcessor",
                "processor_class": "Gemma3Processor",
            },
            "processor_config.json": {"image_seq_length": 4, "processor_class": "Gemma3Processor"},
        },
        {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"},
        {
            "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>",
            "image_token": "<image_soft_token>",
        },
    ),
    "gemma4": Family(
        _gemma4,
        ("<pad>", "<eos>", "<bos>", "<|turn>", "<turn|>", "<|image>", "<image|>", "<|image|>",
         "<|video|>", "<|audio>", "<audio|>", "<|audio|>"),
        GEMMA4,
        {
            "processor_config.json": {
                "image_processor": {
                    **_COMMON, "do_normalize": False, "image_mean": [0.0] * 3,
                    "image_std": [1.0] * 3, "image_seq_length": 70, "max_soft_tokens": 70,
                    "patch_size": 16, "pooling_kernel_size": 3,
                    "image_processor_type": "Gemma4ImageProcessor",
                },
                "feature_extractor": {
                    "feature_extractor_type": "Gemma4AudioFeatureExtractor", "feature_size": 128,
                    "sampling_rate": 16000,
                },
                "video_processor": {
                    **_COMMON, "do_normalize": False, "max_soft_tokens": 70, "patch_size": 16,
                    "pooling_kernel_size": 3, "video_processor_type": "Gemma4VideoProcessor",
                },
                "image_seq_length": 70, "processor_class": "Gemma4Processor",
            },
        },
        {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"},
        {
            "boi_token": "<|image>", "eoi_token": "<image|>", "image_token": "<|image|>",
            "boa_token": "<|audio>", "eoa_token": "<audio|>", "audio_token": "<|audio|>",
        },
    ),
    "llava_onevision": Family(
        _llava_onevision,
        ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>", "<video>"), ONEVISION,
        {
            "preprocessor_config.json": {
                **_COMMON, "image_mean": _HALF, "image_std": _HALF, "do_pad": True,
                "image_grid_pinpoints": [[56, 56], [56, 112], [112, 56], [112, 112]],
                "size": {"height": 56, "width": 56},
                "image_processor_type": "LlavaOnevisionImageProcessor",
                "processor_class": "LlavaOnevisionProcessor",
            },
            "video_preprocessor_config.json": {
                **_COMMON, "size": {"height": 56, "width": 56},
                "video_processor_type": "LlavaOnevisionVideoProcessor",
            },
            "processor_config.json": {
                "num_image_tokens": 16, "processor_class": "LlavaOnevisionProcessor",
                "vision_feature_select_strategy": "full", "image_token": "<image>",
            },
        },
        _QWEN_ROLES, template_file="chat_template.json",
    ),
    "llava": Family(
        _llava, ("<unk>", "<s>", "</s>", "<image>", "<pad>"), LLAVA,
        {
            "preprocessor_config.json": {
                **_COMMON, **_CLIP, "do_center_crop": True, "do_convert_rgb": True,
                "crop_size": {"height": 56, "width": 56}, "size": {"shortest_edge": 56},
                "image_processor_type": "CLIPImageProcessor", "processor_class": "LlavaProcessor",
            },
            "processor_config.json": {
                "patch_size": 14, "image_token": "<image>", "processor_class": "LlavaProcessor",
                "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1,
            },
        },
        {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"},
    ),
    "mistral3": Family(
        _mistral3, ("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "<pad>", "[IMG]", "[IMG_BREAK]",
                    "[IMG_END]"), MISTRAL,
        {
            "preprocessor_config.json": {
                **_COMMON, **_CLIP, "do_convert_rgb": True, "patch_size": 14,
                "size": {"longest_edge": 112}, "image_processor_type": "PixtralImageProcessorFast",
                "processor_class": "PixtralProcessor",
            },
            "processor_config.json": {
                "patch_size": 14, "spatial_merge_size": 2, "image_token": "[IMG]",
                "image_break_token": "[IMG_BREAK]", "image_end_token": "[IMG_END]",
                "processor_class": "PixtralProcessor",
            },
        },
        {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"},
    ),
    "glm4v": Family(
        _glm4v, _GLM_TOKENS, GLM, _glm_files("Glm4v"),
        {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"},
    ),
    "glm46v": Family(
        _glm46v, _GLM_TOKENS, GLM, _glm_files("Glm46V"),
        {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"},
    ),
    "smolvlm": Family(
        _smolvlm,
        ("<|im_start|>", "<|im_end|>", "<end_of_utterance>", "<fake_token_around_image>", "<image>",
         "<global-img>", *(f"<row_{r}_col_{c}>" for r in range(1, 5) for c in range(1, 5))),
        SMOL,
        {
            "preprocessor_config.json": {
                **_COMMON, "image_mean": _HALF, "image_std": _HALF, "do_convert_rgb": True,
                "do_image_splitting": True, "do_pad": True, "size": {"longest_edge": 192},
                "max_image_size": {"longest_edge": 64}, "image_processor_type":
                "SmolVLMImageProcessor", "processor_class": "SmolVLMProcessor",
                "video_sampling": {
                    "fps": 1, "max_frames": 8, "video_size": {"longest_edge": 64}
                },
            },
            "processor_config.json": {"image_seq_len": 4, "processor_class": "SmolVLMProcessor"},
        },
        {"bos_token": "<|im_start|>", "eos_token": "<end_of_utterance>", "pad_token": "<|im_end|>"},
        {
            "fake_image_token": "<fake_token_around_image>", "image_token": "<image>",
            "global_image_token": "<global-img>", "end_of_utterance_token": "<end_of_utterance>",
        },
    ),
}  # fmt: skip
"""By name, which is the config's `model_type`."""


def train_tokenizer(family: Family, vocabulary: int) -> Any:
    """A byte-level BPE tokenizer with a family's special tokens and roles."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=list(family.tokens), min_frequency=2,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False,
    )  # fmt: skip
    tokenizer.train_from_iterator(CORPUS, trainer)
    if bos := family.roles.get("bos_token"):  # as Llama's and Gemma's add it
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, tokenizer.token_to_id(bos))]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, model_max_length=4096,
        extra_special_tokens=dict(family.named), **family.roles,
    )  # fmt: skip


def build_family(name: str, folder: Path, size: Sizes | None = None) -> Path:
    """Write a small random model of a family as its hub checkpoints are laid out.

    Args:
        name: Of `FAMILIES`.
        folder: Where; it is created.
        size: Its sizes.

    Returns:
        The folder.
    """
    import torch
    from transformers import AutoModelForImageTextToText, GenerationConfig

    family, size = FAMILIES[name], size or Sizes()
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer(family, size.vocabulary)
    config = family.config(tokenizer.convert_tokens_to_ids, len(tokenizer), size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(size.seed)
        model: Any = AutoModelForImageTextToText.from_config(config, dtype=torch.float32)
        with torch.no_grad():  # larger, so that answers depend on what is asked
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.mul_(2)
    model.generation_config = GenerationConfig(
        do_sample=True, temperature=0.7, top_k=20, max_new_tokens=12, repetition_penalty=1.05,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    for file, content in family.files.items():
        if size.patch and name.startswith("qwen"):
            content = {**content, "patch_size": size.patch}
        (folder / file).write_text(json.dumps(content, indent=2), encoding="utf-8")
    template = family.template
    if family.template_file.endswith(".json"):
        template = json.dumps({"chat_template": template})
    (folder / family.template_file).write_text(template, encoding="utf-8")
    return folder
