"""Data sets of the Hugging Face hub: the files of one, fetched or found in the hub's cache."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from modgap.core.errors import UserError
from modgap.core.installation import is_installed, not_installed

_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")


def is_hub_id(name: str) -> bool:
    """Whether a name has the form ORG/NAME."""
    return bool(_ID.fullmatch(name))


def fetch_data_set(name: str, patterns: Sequence[str], what: str, extra: str = "hf") -> Path:
    """The folder of a data set's files.

    Args:
        name: ORG/NAME.
        patterns: Which files.
        what: What may be given instead, for messages: `a parquet file, or a folder`.
        extra: The extra that brings huggingface-hub for this use.

    Raises:
        UserError: There is no such name, it cannot be fetched, or huggingface-hub is not installed.
    """
    if not is_hub_id(name):
        raise UserError(f"{name} does not exist: give {what}.")
    if not is_installed("huggingface-hub"):
        raise UserError(
            f"{not_installed('huggingface-hub', (extra, f'{name} of the Hugging Face hub'))},"
            " or give the folder of its files as --data."
        )
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, repo_type="dataset", allow_patterns=list(patterns)))
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise UserError(
            f"{name} is not a local path and could not be fetched from the Hugging Face hub"
            f" ({reason}): check the name and the network, or copy its files here and give their"
            " folder as --data."
        ) from error
