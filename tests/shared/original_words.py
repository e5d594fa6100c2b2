"""The instruction at the end of the original's prompts, to the letter."""

from __future__ import annotations

INSTRUCTION = (
    r"You should FIRST think about the reasoning process as an internal monologue and then provide"
    r" the final answer. "
    r"The reasoning process MUST BE enclosed within <think> </think> tags. The final answer MUST BE"
    r" put in \boxed{}."
)
