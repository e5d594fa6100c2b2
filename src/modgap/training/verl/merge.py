"""verl's FSDP checkpoint -> a Hugging Face folder (bf16), by verl's own merger.

The folder has weights, tokenizer and processor. After a LoRA training, verl's merger writes the
model that the training started from, with the adapter in a subfolder. An evaluation of that folder
would measure the untrained model, so the adapter is merged, in fp32.

verl's merger unpickles the shards, and a pickle can run any code: shards that need more than
tensors and their distribution are refused before.

Checkpoints of verl 0.5 without `fsdp_config.json` also work: the file is made from the names of the
shards.
"""

from __future__ import annotations

import glob
import json
import os
import re
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from modgap.core.disk import writing
from modgap.core.errors import UserError
from modgap.core.files import open_regular
from modgap.core.places import check_writable
from modgap.core.processes import watched
from modgap.models.folder import ADAPTER
from modgap.training.verl.plan import require

LATEST = "latest_checkpointed_iteration.txt"
"""The file in which verl writes the number of the last step that it saved."""
_ADAPTER = "lora_adapter"
_SHARD = re.compile(r"model_world_size_(\d+)_rank_(\d+)\.pt")
# What the shards of FSDP and FSDP2 need (torch 2.5 to 2.13) beyond what `weights_only` allows. None
# of them calls what a pickle gives it; `getattr`, which a `ShardedTensor` needs, would.
_OF_SHARDS = frozenset(
    f"torch.distributed.{name}"
    for name in (
        "device_mesh.DeviceMesh", "tensor.DTensor", "tensor.api.DTensor", "_tensor.api.DTensor",
        "tensor._dtensor_spec.DTensorSpec", "tensor._dtensor_spec.TensorMeta",
        "tensor._dtensor_spec.ShardOrderEntry", "tensor.placement_types.Shard",
        "tensor.placement_types.Replicate", "tensor.placement_types.Partial",
        "tensor.placement_types._StridedShard", "_mesh_layout._FlatLayout",
        "_mesh_layout._MeshLayout",
    )
)  # fmt: skip


def actor_folder(checkpoint: Path) -> Path:
    """The folder with a checkpoint's shards.

    `checkpoint` may be `global_step_N/actor`, `global_step_N` or verl's folder of all steps.

    Raises:
        UserError: There are no shards, or some are missing.
    """
    last = saved_step(checkpoint) or max(_steps(checkpoint), default=0)
    for folder in (checkpoint, checkpoint / "actor", checkpoint / f"global_step_{last}" / "actor"):
        if world := _world(folder):
            shards = {rank: f"model_world_size_{world}_rank_{rank}.pt" for rank in range(world)}
            if missing := [rank for rank, name in shards.items() if not (folder / name).exists()]:
                raise UserError(
                    f"{folder} lacks the shards of ranks {missing} of {world}: copy them there."
                )
            if not (folder / "huggingface" / "config.json").is_file():
                raise UserError(
                    f"{folder} has no huggingface/config.json: copy that folder of the checkpoint,"
                    " too."
                )
            return folder
    if not checkpoint.is_dir():
        raise UserError(
            f"{checkpoint} {'is a file' if checkpoint.exists() else 'does not exist'}: give"
            " global_step_N/actor, with its model_world_size_*.pt."
        )
    raise UserError(
        f"{checkpoint} holds no FSDP checkpoint of verl: give global_step_N/actor, with its"
        " model_world_size_*.pt."
    )


def saved_step(checkpoints: Path) -> int:
    """The last step that verl saved completely; 0 before the first.

    verl writes its number last, into a file that a kill or a full disk may leave empty. Then it is
    the newest step that is whole.
    """
    try:
        named = int((checkpoints / LATEST).read_text())
    except (OSError, ValueError):
        named = 0
    if named > 0 and has_shards(checkpoints / f"global_step_{named}" / "actor"):
        return named
    return max(whole_steps(checkpoints), default=0)


def has_shards(actor: Path) -> bool:
    """Whether a checkpoint holds the model; verl leaves the folder of one that it removed."""
    return _world(actor) > 0


def whole_steps(checkpoints: Path) -> list[int]:
    """The steps whose checkpoint is complete, in order."""
    steps = _steps(checkpoints).items()
    return sorted(step for step, path in steps if _is_whole(path / "actor"))


def drop_older(checkpoints: Path, keep: int) -> None:
    """Keep the newest checkpoints up to the last one that verl has named.

    The next one, which it is writing, looks whole as soon as the shards of the model are there.
    """
    named = saved_step(checkpoints)
    for step in [step for step in whole_steps(checkpoints) if step <= named][:-keep]:
        shutil.rmtree(checkpoints / f"global_step_{step}", ignore_errors=True)


def drop_optimizer(checkpoints: Path) -> None:
    """Remove the optimizer's state, two thirds of a checkpoint, which only resuming needs."""
    for step in _steps(checkpoints):
        for path in (checkpoints / f"global_step_{step}" / "actor").glob("optim_world_size_*.pt"):
            path.unlink()


def _steps(checkpoints: Path) -> dict[int, Path]:
    steps: dict[int, Path] = {}
    for path in checkpoints.glob("global_step_*"):
        number = path.name.removeprefix("global_step_")
        if number.isdecimal():
            steps[int(number)] = path
    return steps


def _world(actor: Path) -> int:
    """The number of ranks that the shards in a folder are of; 0 without any."""
    named = (_SHARD.fullmatch(path.name) for path in actor.glob("model_world_size_*.pt"))
    return next((int(match[1]) for match in named if match), 0)


def _is_whole(actor: Path) -> bool:
    """Whether every rank's shard of each kind that was saved is there to its end."""
    world = _world(actor)
    for kind in ("model", "optim", "extra_state"):
        shards = [actor / f"{kind}_world_size_{world}_rank_{rank}.pt" for rank in range(world)]
        if any(shard.exists() for shard in shards) and not all(map(zipfile.is_zipfile, shards)):
            return False
    return world > 0


MergeAdapter = Callable[[Path, Path, Path], None]
"""(model, adapter, folder): writes the model with the adapter merged, as
`modgap.models.lora.merge_adapter` does. It is passed in.
"""


def merge(
    checkpoint: Path,
    out: Path,
    source: Path | None = None,
    *,
    merge_adapter: MergeAdapter | None = None,
) -> Path:
    """Write the Hugging Face folder of a checkpoint; it is moved into place when complete.

    Args:
        checkpoint: See `actor_folder`.
        out: The folder; must not hold another model.
        source: The model that training started from; its tokenizer's and processor's files replace
            those that the merger leaves out (the processor, if torchvision is missing).
        merge_adapter: Merges the adapter of a LoRA training.

    Raises:
        UserError: No checkpoint, no verl, or the merger failed (the message names its log); or
            there is an adapter that cannot be merged, or a shard is more than tensors.
    """
    check_writable(out)
    if (out / "config.json").exists():
        raise UserError(f"{out} holds a model already: give another folder as --out.")
    if out.exists() and any(out.iterdir()):
        raise UserError(f"--out {out} is not empty: give another folder.")
    actor = actor_folder(checkpoint)
    require()
    _check_shards(actor)
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.partial")
    log = out.with_name(f".{out.name}.merge.log")
    shutil.rmtree(partial, ignore_errors=True)
    for stale in out.parent.glob(f".{glob.escape(out.name)}.shards*"):  # of a killed process
        shutil.rmtree(stale, ignore_errors=True)
    try:
        with writing(out):
            _run_merger(actor, partial, log)
            _complete(partial, actor, source, merge_adapter)
            card = f"# {out.name}\n\nMerged by modgap from the verl checkpoint `{actor}` "
            kind = "fp32, LoRA merged" if (partial / ADAPTER).is_dir() else "bf16"
            (partial / "README.md").write_text(f"{card}({kind}).\n", encoding="utf-8")
        if out.exists():
            out.rmdir()  # fails if it is not empty
        log.unlink()
        os.replace(partial, out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return out


def _run_merger(actor: Path, partial: Path, log: Path) -> None:
    """Let verl's merger write the model.

    Raises:
        UserError: It failed; its log stays.
    """
    links = log.name.removesuffix(".merge.log") + ".shards"
    with tempfile.TemporaryDirectory(dir=log.parent, prefix=links) as name:
        local = Path(name)
        for path in actor.iterdir():
            (local / path.name).symlink_to(path.absolute())
        if not (local / "fsdp_config.json").exists():
            named = (_SHARD.fullmatch(path.name) for path in sorted(actor.iterdir()))
            shard = next(match for match in named if match)
            fsdp = {"FSDP_version": 1, "world_size": int(shard[1])}
            (local / "fsdp_config.json").write_text(json.dumps(fsdp))
        command = [
            sys.executable, "-P", "-m", "verl.model_merger", "merge", "--backend", "fsdp",
        ]  # fmt: skip
        try:
            status = watched(
                [*command, "--local_dir", str(local), "--target_dir", str(partial)], log, {}
            )
        except BaseException:
            log.unlink(missing_ok=True)
            raise
    if status:
        last = [line for line in log.read_text(errors="replace").splitlines() if line.strip()][-1:]
        raise UserError(
            f"verl's merger failed on {actor}: {' '.join(last)[:300]}; its log is {log}."
        )


def _complete(
    partial: Path, actor: Path, source: Path | None, merge_adapter: MergeAdapter | None
) -> None:
    """Merge the adapter if there is one, and add the files that the merger leaves out."""
    if (partial / _ADAPTER).is_dir():
        _merge_adapter(partial, merge_adapter)
    for folder in (actor / "huggingface", source):
        for file in sorted(folder.iterdir()) if folder and folder.is_dir() else ():
            # These describe the source model's weights and results, not the merged ones.
            own = file.name == "figures.json" or file.name.endswith(".index.json")
            wanted = file.suffix in (".json", ".jinja", ".txt") and not own
            if wanted and not (partial / file.name).exists():
                shutil.copyfile(file, partial / file.name)


def _check_shards(actor: Path) -> None:
    """Refuse shards that need more than tensors to be unpickled; nothing is unpickled here.

    Raises:
        UserError: One does, or is not a file that `torch.save` wrote.
    """
    from torch.serialization import get_unsafe_globals_in_checkpoint

    for shard in sorted(path for path in actor.iterdir() if _SHARD.fullmatch(path.name)):
        with open_regular(shard) as file:
            try:
                needed = set(get_unsafe_globals_in_checkpoint(file)) - _OF_SHARDS
            # Its reader raises a dozen kinds on a broken file.
            except Exception as error:
                why = " ".join(str(error).split()) or type(error).__name__
                raise UserError(
                    f"{shard} is not a shard that torch.save wrote ({why}): copy it again."
                ) from None
        if needed:
            names = ", ".join(sorted(needed)[:3])
            raise UserError(
                f"{shard} holds more than tensors ({names}), which could run code when it is"
                " unpickled: do not convert it unless you made it; then save it again as tensors."
            )


def _merge_adapter(partial: Path, merge_adapter: MergeAdapter | None) -> None:
    """Merge the adapter that verl's merger wrote into a subfolder of the model."""
    if merge_adapter is None:
        raise UserError(
            f"{partial / _ADAPTER} is the adapter of a LoRA training, which is not merged here:"
            " modgap convert"
        )
    merged = partial.with_name(f"{partial.name}.merged")
    shutil.rmtree(merged, ignore_errors=True)
    merge_adapter(partial, partial / _ADAPTER, merged)
    shutil.rmtree(partial)
    os.replace(merged, partial)
