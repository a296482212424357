"""Entry point for tools that still look for it; every setting is in pyproject.toml."""

from setuptools import setup

setup()
