"""ranks.py with the positions of a Qwen3-VL, for test_qwen3_vl.py."""

from __future__ import annotations

import sys
from pathlib import Path

import ranks
from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLModel

if __name__ == "__main__":
    modeling_qwen2_5_vl.Qwen2_5_VLModel = Qwen3VLModel  # type: ignore[misc, assignment]
    ranks.main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
