"""Reads the settings of a home folder and the environment, once, where a process starts."""

import os
from pathlib import Path

import yaml

from salver.core.errors import InvalidSettings
from salver.core.settings import Settings, load_settings


def read_settings(home: Path) -> Settings:
    """Return the settings from ``HOME/salver.yaml`` and ``SALVER_SECTION__NAME`` variables.

    Raises ``InvalidSettings`` when the file is not YAML of sections or names unknown settings.
    """
    path = home / "salver.yaml"
    try:
        document = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        document = {}
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise InvalidSettings(f"{path} cannot be read: {error}") from error
    if not isinstance(document, dict | None):
        raise InvalidSettings(f"{path} must hold sections such as 'http:' with keys below them")
    return load_settings(document, os.environ)
