"""The README of the index page: its relative links start at the address of the source."""

import re
import tomllib
from pathlib import Path

from setuptools import setup

HERE = Path(__file__).parent
SOURCE = tomllib.loads((HERE / "pyproject.toml").read_text())["project"]["urls"]["Source"]


def absolute_links(text: str) -> str:
    """Markdown whose relative links and images start at `SOURCE`."""
    return re.sub(r"\]\((?!https?://|#)([^)]+)\)", rf"]({SOURCE}/\1)", text)


setup(
    long_description=absolute_links((HERE / "README.md").read_text(encoding="utf-8")),
    long_description_content_type="text/markdown",
)
