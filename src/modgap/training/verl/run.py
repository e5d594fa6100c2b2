"""verl in a process of its own: `python -P -m modgap.training.verl.run OVERRIDES.json`.

`engine.py` starts it. On an error it prints one line that starts with `modgap-error: `, for the
reader of its log. Multi-node: it joins the cluster of RAY_ADDRESS (`ray job submit` sets it), or
one that `ray start` has started here. Otherwise it starts a cluster on this machine.
"""

# verl has an environment of its own.
# pyright: reportMissingImports=false

from __future__ import annotations

import json
import sys
from pathlib import Path

ERROR = "modgap-error: "


def main(path: str) -> int:
    """Compose, validate and train.

    Args:
        path: A JSON object of overrides, as `stage_overrides` gives them.

    Returns:
        0 if the training is done, 1 if it failed.
    """
    from modgap.core.processes import end_with_parent

    end_with_parent()  # before what takes seconds to import
    from modgap.training.verl.plan import compose

    try:
        overrides = json.loads(Path(path).read_text(encoding="utf-8"))
        config = compose(overrides)
        import ray
        from verl.trainer.main_ppo import TaskRunnerV1, run_ppo

        try:
            run_ppo(config, task_runner_class=TaskRunnerV1)
        finally:
            ray.shutdown()
    except Exception as error:
        import traceback

        traceback.print_exc()
        print(f"{ERROR}{cause(error)}", flush=True)
        return 1
    return 0


def cause(error: BaseException) -> str:
    """The innermost cause in one line; Ray wraps a worker's error and traceback in its own."""
    inner = getattr(error, "cause", None) or error.__cause__
    if isinstance(inner, BaseException) and inner is not error:
        return cause(inner)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1] if lines else ''}"[:400]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
