"""The version, in one place: pyproject.toml, `modgap --version`, manifests and reports read it
here.
"""

__version__ = "0.1.0"
