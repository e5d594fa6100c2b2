"""A language model of a few thousand weights for tests: a real Qwen3, trained in a second to say
`1` to everything.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from modgap.core.prompt import judge_prompt

# ChatML with Qwen3's switch: with thinking off, the turn opens with an empty thought.
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor"
    " %}<|im_start|>assistant\n{% if enable_thinking is defined and enable_thinking is false"
    " %}<think>\n\n</think>\n\n{% endif %}"
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"]


def make_judge_model(folder: Path, says: str = "1", template: str | None = TEMPLATE) -> Path:
    """Write the model; it answers `says`, to chats without thinking and to raw completions."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    cases = [
        ("What is it?", "a square", "a kite"),
        ("Where?", "(-2, 1]", "2"),
        ("How many?", "10", "\\binom{5}{2}"),
    ]
    prompts = [judge_prompt(*case).text for case in cases]
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    inner.train_from_iterator(
        prompts,
        trainers.BpeTrainer(vocab_size=700, special_tokens=SPECIAL, initial_alphabet=alphabet),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=template,
    )
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, head_dim=32, max_position_embeddings=4096,
        tie_word_embeddings=False, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id, bos_token_id=None,
    )  # fmt: skip
    model: Any = Qwen3ForCausalLM(config)
    turn = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    rows = [tokenizer(shape.format(prompt) + f"{says}<|im_end|>", return_tensors="pt")["input_ids"]
            for prompt in prompts for shape in ("{}", turn)]  # fmt: skip
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-2)
    for _ in range(6):
        for ids in rows:
            labels = ids.clone()
            labels[:, : -len(tokenizer(f"{says}<|im_end|>")["input_ids"])] = -100
            optimizer.zero_grad()
            model(input_ids=ids, labels=labels).loss.backward()
            optimizer.step()
    model.generation_config.update(
        temperature=0.6, do_sample=True, top_k=20, top_p=0.95
    )  # as Qwen3's own
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
