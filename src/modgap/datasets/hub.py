"""Data sets of the Hugging Face hub: the files of one, fetched or found in the hub's cache."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from modgap.core.errors import UserError
from modgap.core.installation import is_installed, not_installed

_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")
_FILE = re.compile(r".*\.(parquet|jsonl?|csv|arrow)", re.IGNORECASE)


def is_hub_id(name: str) -> bool:
    """Whether a name has the form ORG/NAME, and is not that of a file in a folder."""
    return bool(_ID.fullmatch(name)) and not _FILE.fullmatch(name)


def fetch_data_set(
    name: str, patterns: Sequence[str], what: str, extra: str = "hf", *, how: str = "instead"
) -> Path:
    """The folder of a data set's files.

    Args:
        name: ORG/NAME.
        patterns: Which files.
        what: What may be given instead, for messages: `a parquet file, or a folder`.
        extra: The extra that brings huggingface-hub for this use.
        how: How the command takes a folder, for messages.

    Raises:
        UserError: There is no such name, it cannot be fetched, or huggingface-hub is not installed.
    """
    if not is_hub_id(name):
        raise UserError(f"{name} does not exist: give {what} {how}.")
    if not is_installed("huggingface-hub"):
        raise UserError(
            f"{not_installed('huggingface-hub', (extra, f'{name} of the Hugging Face hub'))},"
            f" or give the folder of its files {how}."
        )
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, repo_type="dataset", allow_patterns=list(patterns)))
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise UserError(
            f"{name} is not a local path and could not be fetched from the Hugging Face hub"
            f" ({reason}): check the name and the network, or copy its files here and give their"
            f" folder {how}."
        ) from error
