"""How a run's responses were sampled, from its manifest alone.

In words, as a table, and where runs differ.

Runs from before the sampling was recorded (`sampling` in manifest.json) say temperature, token
limit, samples and seed; the engines `hf` and `vllm` applied nothing else then, while a server
applied its own values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from modgap.core.engine import PLAIN
from modgap.core.registry import INFERENCE_ENGINES
from modgap.reporting import tables as t

if TYPE_CHECKING:
    from modgap.reporting.collect import EvalRun

NEAR_GREEDY = 0.05
"""At temperatures below this one the samples of a prompt are nearly always the same."""
SERVERS = "the server's"
MODELS = "the model's"
_ASKED = ("temperature", "max_tokens", "samples", "seed")
NAMES = {"max_tokens": "max tokens", "repetition_penalty": "repetition penalty"}
"""Parts of the sampling whose name is not what a reader sees."""
_MOST_NAMED = 4


def sampling_of(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The sampling of a run by name.

    A value is `None` where it is not recorded, and absent where it is not known.
    """
    resolved: Mapping[str, Any] = manifest.get("resolved", {})
    engine, recorded = resolved.get("engine"), manifest.get("sampling")
    if manifest.get("kind") not in ("eval", "import"):
        return {}
    found: dict[str, Any] = {name: resolved.get(name) for name in ("temperature", "max_tokens")}
    # Of an engine from outside the package only what was recorded is known.
    entry = INFERENCE_ENGINES.get(engine) if isinstance(engine, str) else None
    served = entry is not None and entry.served
    if entry is not None:
        found |= dict.fromkeys(PLAIN, SERVERS) if served else PLAIN
    found |= recorded if isinstance(recorded, dict) else {}
    found |= {name: resolved[name] for name in _ASKED if name in resolved}
    if found["temperature"] == "model":
        found["temperature"] = SERVERS
    if served:
        found["pixels"] = SERVERS
    return found | dict.fromkeys(found.pop("left_to_server", ()), SERVERS)


def sampling_words(sampling: Mapping[str, Any]) -> str:
    """The sampling on one line: `temperature 0.6, top_p 1, top_k off, ...`."""
    return ", ".join(
        f"{NAMES.get(name, name)} {value_words(name, value)}" for name, value in sampling.items()
    )


def greedy_words(manifest: Mapping[str, Any], name: str = "") -> list[str]:
    """A warning where several samples were drawn at a temperature that makes them all the same.

    Args:
        manifest: The run's.
        name: The run's, where a reader sees several.
    """
    sampling = sampling_of(manifest)
    values, samples = sampling.get("temperature"), sampling.get("samples")
    values = [
        v for v in (values if isinstance(values, list) else [values]) if isinstance(v, int | float)
    ]
    if not isinstance(samples, int) or samples < 2 or not values or min(values) >= NEAR_GREEDY:
        return []
    return [
        f"{f'{name}: ' if name else ''}{samples} samples at temperature {min(values):g} are nearly"
        " always the same answer: they count as one, and the interval and pass@k are too"
        " favourable; give --samples 1, or a higher --temperature."
    ]


def unequal_words(runs: Sequence[EvalRun]) -> list[str]:
    """A warning where runs that are shown together were sampled differently; at most one."""
    every = {run.name: sampling_of(run.manifest.whole) for run in runs}
    differences: list[str] = []
    for name in dict.fromkeys(name for sampling in every.values() for name in sampling):
        by_value: dict[str, list[str]] = {}
        for run, sampling in every.items():
            if name in sampling:
                by_value.setdefault(value_words(name, sampling[name]), []).append(run)
        if len(by_value) > 1:
            values = ", ".join(f"{value} ({_some(names)})" for value, names in by_value.items())
            differences.append(f"{NAMES.get(name, name)} {values}")
    if not differences:
        return []
    return [
        f"Sampled differently: {'; '.join(differences)}. A part of what differs between these"
        " runs may come from that."
    ]


def sampling_table(runs: Sequence[EvalRun]) -> t.Table:
    """The sampling beside each run."""
    every = {run.name: sampling_of(run.manifest.whole) for run in runs}
    names = list(dict.fromkeys(name for sampling in every.values() for name in sampling))
    rows: list[tuple[str, ...]] = []
    for run, sampling in every.items():
        if sampling:
            values = [
                value_words(name, sampling[name]) if name in sampling else "–" for name in names
            ]
            rows.append((run, *values))
    return t.Table(
        "How the responses were sampled", ("run", *(NAMES.get(n, n) for n in names)), tuple(rows)
    )


def value_words(name: str, value: Any) -> str:
    """A value of the sampling in words."""
    if value is None:
        return "not recorded"
    if name == "top_k" and value == PLAIN["top_k"]:
        return "off"
    if isinstance(value, list):
        return (" to " if name == "pixels" else " and ").join(
            value_words("", part) for part in value
        )
    return f"{value:g}" if isinstance(value, float) else str(value)


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(names[:_MOST_NAMED]) + more
