"""Rows of MathVerse, with and without images, for the tests of its workflows."""

from __future__ import annotations

from typing import Any

from modgap.core.view import VERSION_VIEWS

FIVE = tuple(VERSION_VIEWS)
Rows = list[dict[str, Any]]


def with_images(rows: Rows) -> Rows:
    return [row for row in rows if row["problem_version"] != "Text Only"]


def text_only(rows: Rows) -> Rows:
    return [row for row in rows if row["problem_version"] == "Text Only"]
