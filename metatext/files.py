"""Files that are whole or not there: written beside their place, then renamed."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def new_folder(path: str | Path, overwrite: bool = False) -> Iterator[Path]:
    """Yields a folder to fill, which becomes `path` when the block ends without an exception.

    Raises:
        FileExistsError: `path` is there and is not an empty folder, and `overwrite` is not set.
    """
    path = Path(path).resolve()
    check_free(path, overwrite)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir()
    try:
        yield beside
        umask = os.umask(0)
        os.umask(umask)
        for file in beside.iterdir():
            file.chmod(0o666 & ~umask)  # safetensors makes its files private to the user
        if path.exists():
            old = path.with_name(f".{path.name}.{os.getpid()}.old")
            path.rename(old)
            try:
                beside.rename(path)
            except OSError:
                old.rename(path)
                raise
            shutil.rmtree(old)
        else:
            beside.rename(path)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def check_free(
    path: str | Path, overwrite: bool = False, options: str = "--overwrite (in Python overwrite=True)"
) -> None:
    """Refuses a folder that holds something, unless `overwrite` is set and metatext wrote it.

    Raises:
        FileExistsError: naming the path and the `options`, if any, that allow to go on.
    """
    path = Path(path)
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    if not overwrite:
        ways_out = f", or pass {options}" if options else ""
        raise FileExistsError(f"{path} already exists and is kept: choose another output{ways_out}")
    marks = ("metatext.json", "checkpoints/step-*/state.json", "weights.safetensors")  # the last of a checkpoint
    if not path.is_dir() or not any(any(path.glob(mark)) for mark in marks):
        raise FileExistsError(f"{path} holds what metatext did not write, so it is not replaced: choose another output")


def check_free_file(path: str | Path, overwrite: bool = False) -> None:
    """Refuses a file that exists, unless `overwrite` is set, and a folder in any case.

    Raises:
        FileExistsError: naming the path.
    """
    path = Path(path)
    if path.is_dir():
        raise FileExistsError(f"{path} is a folder: name a file to write")
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} already exists and is kept: choose another output, or pass --overwrite")


@contextmanager
def new_file(path: str | Path) -> Iterator[Path]:
    """Yields a file to write, which replaces the one at `path` when the block ends without an exception."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield beside
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Replaces the file at `path` in one move."""
    with new_file(path) as beside:
        beside.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """`write_text` of indented JSON."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def absolute(path: str) -> str:
    """The path of what is there, found from any working directory; names on the Hub stay as they are."""
    return str(Path(path).resolve()) if Path(path).exists() else path
