"""Configuration from one TOML file and the environment, with all errors told at once."""

from __future__ import annotations

from settings.loader import ConfigError, Problem, load_toml, read_secret

__all__ = ["ConfigError", "Problem", "load_toml", "read_secret"]
