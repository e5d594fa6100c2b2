"""The version; pyproject.toml, `modgap --version`, manifests and reports read it here."""

__version__ = "0.2.0"
