"""The groups of commands in `modgap --help`, by what they are for."""

from __future__ import annotations

from cyclopts import Group

MEASURE = Group.create_ordered("Measure")
TRAIN = Group.create_ordered("Train")
DATA = Group.create_ordered("Data")
RESULTS = Group.create_ordered("Results")
SETUP = Group.create_ordered("Set up")
