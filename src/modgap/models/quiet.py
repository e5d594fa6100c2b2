"""Switches off transformers' progress bars for work of about a second."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet(warnings: bool = False) -> Iterator[None]:
    """Inside, loading and saving show no bars; afterwards bars are as they were.

    Args:
        warnings: Suppress warnings, too, for problems that we report ourselves.
    """
    from transformers.utils import logging

    enabled, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    if warnings:
        logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if enabled:
            logging.enable_progress_bar()
