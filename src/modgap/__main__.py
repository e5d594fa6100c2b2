"""`python -m modgap`."""

from modgap.cli.main import run

run()
