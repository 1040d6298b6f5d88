"""Atomic writes: a file or folder is written under a temporary name in the same folder, then renamed."""

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
    """Context manager that yields a temporary folder and renames it to `path` at the end of the block.

    If the block raises, the temporary folder is deleted and `path` is unchanged.

    Args:
        path: the folder to create; its parents are created too.
        overwrite: replace a folder that metatext wrote.

    Raises:
        FileExistsError: `check_free` refuses `path`.
    """
    path = Path(path).resolve()
    check_free(path, overwrite)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        for file in temporary.iterdir():
            file.chmod(0o666 & ~umask)  # safetensors creates files that only their owner can read
        if path.exists():
            old = path.with_name(f".{path.name}.{os.getpid()}.old")
            path.rename(old)
            try:
                temporary.rename(path)
            except OSError:
                old.rename(path)
                raise
            shutil.rmtree(old)
        else:
            temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_free(
    path: str | Path, overwrite: bool = False, options: str = "--overwrite (in Python overwrite=True)"
) -> None:
    """Checks that a folder can be written to `path`.

    This is so if nothing is there, if the folder is empty, or if `overwrite` is set and metatext wrote the folder.

    Args:
        path: the folder to be written.
        overwrite: whether a folder that metatext wrote may be replaced.
        options: the options that allow replacement, for the message; empty for none.

    Raises:
        FileExistsError: `path` cannot be used; the message names `path` and `options`.
    """
    path = Path(path)
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    if not overwrite:
        alternative = f", or pass {options}" if options else ""
        raise FileExistsError(f"{path} already exists and is kept: choose another output{alternative}")
    # In this order: a saved learner or classifier, a run with checkpoints, one checkpoint.
    marks = ("metatext.json", "checkpoints/step-*/state.json", "weights.safetensors")
    if not path.is_dir() or not any(any(path.glob(mark)) for mark in marks):
        raise FileExistsError(f"{path} holds what metatext did not write, so it is not replaced: choose another output")


def check_free_file(path: str | Path, overwrite: bool = False) -> None:
    """Checks that a file can be written to `path`.

    Raises:
        FileExistsError: `path` is a folder, or it is a file and `overwrite` is not set.
    """
    path = Path(path)
    if path.is_dir():
        raise FileExistsError(f"{path} is a folder: name a file to write")
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} already exists and is kept: choose another output, or pass --overwrite")


@contextmanager
def new_file(path: str | Path) -> Iterator[Path]:
    """Context manager that yields a temporary path and moves the file written there to `path` at the end of the block.

    If the block raises, the temporary file is deleted and `path` is unchanged. Parent folders are created.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Writes `text` as UTF-8 to the file at `path`, atomically."""
    with new_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Writes `value` as indented JSON to the file at `path`, atomically."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def absolute(path: str) -> str:
    """Returns the absolute path if `path` exists; any other string, such as a Hub id, is returned unchanged."""
    return str(Path(path).resolve()) if Path(path).exists() else path
