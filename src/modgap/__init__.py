"""Measure, explain and close the modality gap of multimodal LLMs (arXiv:2510.22836)."""

from modgap.core.version import __version__ as __version__
