"""A model's shape: parameters and FLOPs from its sizes alone.

Needs no torch, no network and no GPU. Parameter counts are exact. FLOPs are 2 for each parameter
and token plus attention.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

GIB = 2**30


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a Qwen2.5-VL, as in its config.json.

    Attributes:
        hidden: Width of the language model.
        layers: Its layers.
        heads: Attention heads.
        kv_heads: Heads of keys and values.
        intermediate: Width of its MLP.
        vocab: Tokens.
        tied: Whether the head is the embedding.
        vision_hidden: Width of the vision tower.
        vision_layers: Its layers.
        vision_intermediate: Width of its MLP.
        patch: Side of a patch, in pixels.
        merge: Side of a merged token, in patches.
        shared: Whether the samples of a prompt share its computation and its image's: not on the
            plain path (`models/plain.py`), whose rows are computed one by one, padded.
    """

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int
    vocab: int
    tied: bool
    vision_hidden: int = 1280
    vision_layers: int = 32
    vision_intermediate: int = 3420
    patch: int = 14
    merge: int = 2
    shared: bool = True

    @property
    def image_tokens(self) -> int:
        """Tokens of any image; 0 where they depend on its size."""
        return 0

    @property
    def head(self) -> int:
        """Channels of an attention head."""
        return self.hidden // self.heads

    @property
    def wide(self) -> int:
        """Channels of all attention heads."""
        return self.heads * self.head

    @property
    def layer(self) -> int:
        """Parameters of one layer of the language model."""
        attention = 2 * self.hidden * (self.wide + self.head * self.kv_heads)
        mlp, norms = 3 * self.hidden * self.intermediate, 2 * self.hidden
        return attention + self.beside_attention + mlp + norms

    @property
    def beside_attention(self) -> int:
        """Parameters of a layer's attention that are no matrix: biases of query, key and value."""
        return self.wide + 2 * self.head * self.kv_heads

    @property
    def language(self) -> int:
        """Parameters that every token passes: the layers, the last norm and the head."""
        return self.layers * self.layer + self.hidden + self.vocab * self.hidden

    @property
    def vision(self) -> int:
        """Parameters of the vision tower, merger included."""
        wide = self.vision_hidden
        block = (
            4 * wide**2
            + 4 * wide
            + 3 * wide * self.vision_intermediate
            + 2 * self.vision_intermediate
            + 3 * wide
        )
        merged = wide * self.merge**2
        merger = wide + merged**2 + merged + merged * self.hidden + self.hidden
        return 3 * 2 * self.patch**2 * wide + self.vision_layers * block + merger

    @property
    def parameters(self) -> int:
        """Parameters of the whole model."""
        return self.language + self.vision + (0 if self.tied else self.vocab * self.hidden)

    def forward(self, tokens: int) -> float:
        """FLOPs of one sequence through the language model (causal attention)."""
        return 2.0 * self.language * tokens + 2.0 * self.layers * self.wide * tokens**2

    def see(self, image_tokens: int) -> float:
        """FLOPs of one image through the vision tower, without its small windowed attention."""
        return 2.0 * self.vision * image_tokens * self.merge**2


@dataclass(frozen=True, slots=True)
class DeepShape(Shape):
    """The sizes of a Qwen3-VL: heads of a size of their own, normed, and DeepStack features.

    Attributes:
        head_dim: Channels of an attention head.
        positions: Learned positions of the vision tower.
        levels: Blocks whose features are merged, too.
    """

    vision_hidden: int = 1024
    vision_layers: int = 24
    vision_intermediate: int = 4096
    patch: int = 16
    head_dim: int = 128
    positions: int = 2304
    levels: int = 3

    @property
    def head(self) -> int:
        """Channels of an attention head."""
        return self.head_dim

    @property
    def beside_attention(self) -> int:
        """Parameters of a layer's attention that are no matrix: norms of query and key."""
        return 2 * self.head

    @property
    def vision(self) -> int:
        """Parameters of the vision tower, its mergers included."""
        wide, inner = self.vision_hidden, self.vision_intermediate
        block = 4 * wide**2 + 4 * wide + 2 * wide * inner + inner + wide + 4 * wide
        merged = wide * self.merge**2
        merger = merged**2 + merged + merged * self.hidden + self.hidden
        norms = 2 * wide + self.levels * 2 * merged
        ends = (3 * 2 * self.patch**2 + 1 + self.positions) * wide
        return ends + self.vision_layers * block + (1 + self.levels) * merger + norms


@dataclass(frozen=True, slots=True)
class PlainShape(Shape):
    """The sizes of a Qwen2-VL, LLaVA or LLaVA-OneVision, which the plain path trains.

    Attributes:
        kind: Its `model_type`.
        head_dim: Channels of an attention head.
        biased: Whether queries, keys and values have a bias.
        side: Pixels of the side of what the vision tower sees; 0 for any size.
        tiles: Tiles of that side that an image of 448 x 448 pixels is cut into, beside the whole.
        left_out: Vision tokens that the language model does not get (the class token).
    """

    kind: str = ""
    head_dim: int = 128
    biased: bool = True
    side: int = 0
    tiles: int = 0
    left_out: int = 0

    @property
    def head(self) -> int:
        """Channels of an attention head."""
        return self.head_dim

    @property
    def layer(self) -> int:
        """Parameters of one layer of the language model."""
        kv = self.head * self.kv_heads
        attention = 2 * self.hidden * (self.wide + kv) + self.biased * (self.wide + 2 * kv)
        return attention + 3 * self.hidden * self.intermediate + 2 * self.hidden

    @property
    def image_tokens(self) -> int:
        """Tokens of any image; of a LLaVA-OneVision one of 448 x 448 pixels, with line ends."""
        grid = self.side // self.patch if self.side else 0
        lines = round(self.tiles**0.5) * grid
        whole = grid**2 + (1 - self.left_out) * (self.kind == "llava")
        return whole + self.tiles * grid**2 + lines

    @property
    def vision(self) -> int:
        """Parameters of the vision tower, what joins it to the language model included."""
        wide, inner = self.vision_hidden, self.vision_intermediate
        block = 4 * wide**2 + 4 * wide + 2 * wide * inner + inner + wide + 4 * wide
        tower = self.vision_layers * block + 3 * self.patch**2 * wide
        if self.kind == "qwen2_vl":
            merged = wide * self.merge**2
            merger = 2 * wide + merged**2 + merged + merged * self.hidden + self.hidden
            return tower + 3 * self.patch**2 * wide + merger  # two frames
        grid = (self.side // self.patch) ** 2
        joined = (wide + 1) * self.hidden + (self.hidden + 1) * self.hidden
        if self.kind == "llava":  # class token and its position, two norms
            return tower + (grid + 2) * wide + 4 * wide + joined
        return tower + (grid + 1) * wide + 2 * wide + joined + self.hidden


SHAPES: dict[str, Shape] = {
    "Qwen/Qwen2.5-VL-3B-Instruct": Shape(2048, 36, 16, 2, 11008, 151936, tied=True),
    "Qwen/Qwen2.5-VL-7B-Instruct": Shape(3584, 28, 28, 4, 18944, 152064, tied=False),
    "Qwen/Qwen3-VL-2B-Instruct": DeepShape(2048, 28, 16, 8, 6144, 151936, tied=True),
    "Qwen/Qwen3-VL-4B-Instruct": DeepShape(2560, 36, 32, 8, 9728, 151936, tied=True),
    "Qwen/Qwen3-VL-8B-Instruct": DeepShape(
        4096, 36, 32, 8, 12288, 151936, tied=False,
        vision_hidden=1152, vision_layers=27, vision_intermediate=4304,
    ),
}  # fmt: skip
"""Shapes of models that are on a hub, so that an estimate needs no network."""
SHAPES["yaogy/qwen2_5_vl_3b_kl_curriculum"] = SHAPES["Qwen/Qwen2.5-VL-3B-Instruct"]
SHAPES["yaogy/qwen2_5_vl_7b_kl_curriculum"] = SHAPES["Qwen/Qwen2.5-VL-7B-Instruct"]


PLAIN = ("qwen2_vl", "llava", "llava_onevision")
SHAPED = ("qwen2_5_vl", "qwen3_vl", *PLAIN)
"""The `model_type`s whose shape is known; verl trains only the first two."""


def shape_of(config: Mapping[str, Any]) -> Shape:
    """The shape in a model folder's config.json.

    The hub's own files have the language model's sizes at the top level.
    """
    text, vision = config.get("text_config") or config, config["vision_config"]
    tied = bool(config.get("tie_word_embeddings", False))
    if config.get("model_type") in PLAIN:
        return _plain_shape(config, text, vision, tied=tied)
    sizes: dict[str, Any] = {
        "hidden": text["hidden_size"],
        "layers": text["num_hidden_layers"],
        "heads": text["num_attention_heads"],
        "kv_heads": text["num_key_value_heads"],
        "intermediate": text["intermediate_size"],
        "vocab": text["vocab_size"],
        "vision_hidden": vision["hidden_size"],
        "vision_layers": vision["depth"],
        "vision_intermediate": vision["intermediate_size"],
        "merge": vision.get("spatial_merge_size", 2),
    }
    if config.get("model_type") == "qwen3_vl":
        return DeepShape(
            **sizes,
            tied=tied or bool(text.get("tie_word_embeddings", False)),
            patch=vision.get("patch_size", 16),
            head_dim=text.get("head_dim", 128),
            positions=vision["num_position_embeddings"],
            levels=len(vision["deepstack_visual_indexes"]),
        )
    return Shape(**sizes, tied=tied, patch=vision.get("patch_size", 14))


def _plain_shape(
    config: Mapping[str, Any], text: Mapping[str, Any], vision: Mapping[str, Any], *, tied: bool
) -> PlainShape:
    """The shape of one of `PLAIN`. Raises `KeyError` for a size that is not there."""
    kind = config["model_type"]
    dynamic = kind == "qwen2_vl"
    wide = vision["embed_dim" if dynamic else "hidden_size"]
    side = 0 if dynamic else vision["image_size"]
    sliced = kind == "llava" and config.get("vision_feature_select_strategy") != "full"
    return PlainShape(
        hidden=text["hidden_size"],
        layers=text["num_hidden_layers"],
        heads=text["num_attention_heads"],
        kv_heads=text["num_key_value_heads"],
        intermediate=text["intermediate_size"],
        vocab=text["vocab_size"],
        tied=tied,
        vision_hidden=wide,
        vision_layers=vision["depth" if dynamic else "num_hidden_layers"],
        vision_intermediate=int(wide * vision["mlp_ratio"])
        if dynamic
        else vision["intermediate_size"],
        patch=vision["patch_size"],
        merge=vision.get("spatial_merge_size", 2) if dynamic else 1,
        shared=False,
        kind=kind,
        head_dim=text.get("head_dim") or text["hidden_size"] // text["num_attention_heads"],
        biased=text.get("model_type") != "llama" or bool(text.get("attention_bias")),
        side=side,
        tiles=_tiles(config.get("image_grid_pinpoints") or (), side),
        left_out=int(sliced),
    )


def _tiles(sizes: Sequence[Sequence[int]], side: int, shown: int = 448) -> int:
    """Tiles of the size that a LLaVA-OneVision takes for a square image, as transformers does."""
    best, least, tiles = -1, 0, 0
    for height, width in sizes:
        kept = min(min(height, width) ** 2, shown**2)
        wasted = height * width - kept
        if kept > best or (kept == best and wasted < least):
            best, least, tiles = kept, wasted, (height // side) * (width // side)
    return tiles
