"""The lowest versions that the tests run with are the bounds that the package states."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]
TOOLS = {"mypy", "ruff"}  # they check the project and do not run it
REQUIREMENT = re.compile(r"([\w-]+)(?:\[[\w,]+\])?>=([\d.]+)")


def release(version: str) -> tuple[int, int, int]:
    """The three numbers of a version, of which the last may be left out where they are 0."""
    numbers = [int(number) for number in version.split(".")]
    major, minor, patch = numbers + [0] * (3 - len(numbers))
    return major, minor, patch


@pytest.mark.skipif(sys.version_info < (3, 11), reason="tomllib is in the standard library from 3.11 on")
def test_the_lowest_versions_are_the_bounds() -> None:
    import tomllib

    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    stated = [
        *project["dependencies"],
        *(text for extra in project["optional-dependencies"].values() for text in extra),
    ]
    matches = [REQUIREMENT.fullmatch(text) for text in stated if not text.startswith("metatext[")]
    assert all(matches)
    bounds = {match[1]: release(match[2]) for match in matches if match and match[1] not in TOOLS}
    lines = (PROJECT / "constraints-lowest.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    assert {name: release(version) for name, version in pins.items()} == bounds
