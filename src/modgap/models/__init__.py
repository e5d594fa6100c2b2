"""Models as policies.

Load any Qwen2.5-VL, build the tiny testbed one, sample from it and score with it.
"""
