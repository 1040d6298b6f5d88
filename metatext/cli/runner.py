"""Runs a command or a recipe: its options parsed, its logging set up, its errors one sentence each."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import logging
import os
import sys
from dataclasses import dataclass
from typing import Annotated, Any

import tyro
from tyro.conf import FlagCreatePairsOff, PositionalMetavarFromFieldName, Suppress
from tyro.constructors import ConstructorRegistry, StructConstructorSpec, StructTypeInfo

from metatext.errors import InputError
from metatext.learners.settings import LearnerSettings


def run_recipe(default: Any, description: str | None = None) -> None:
    """Runs a recipe with the options of the command line.

    Args:
        default: a `metatext.recipe.Recipe`, whose fields are the options and their defaults.
        description: what --help says of it.
    """
    run_command(type(default), sys.argv[1:], default=default, description=description)


def parse(command: Any, words: list[str], **how: Any) -> Any:
    """The command, an instance of the dataclass `command`, from the words of a command line."""
    return tyro.cli(command, args=words, config=STYLE, registry=_REGISTRY, **how)


STYLE = (FlagCreatePairsOff, PositionalMetavarFromFieldName)


def run_command(command: Any, words: list[str], **how: Any) -> None:
    """Parses the words of a command line and runs the command, with the library's errors as one sentence."""
    debug = "--debug" in words
    _set_up_logging(debug)
    try:
        _parsed(command, [word for word in words if word != "--debug"], **how).run()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # `| head` has read enough
    except (InputError, OSError, FloatingPointError) as error:
        if debug:
            raise
        print(f"metatext: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        what = "training goes on with --resume from its last checkpoint (see --save-every), if there is one"
        again = "a search or an evaluation when it is repeated; a pre-training starts anew"
        print(f"metatext: interrupted; {what}; {again}", file=sys.stderr)
        sys.exit(130)


def _parsed(command: Any, words: list[str], **how: Any) -> Any:
    """The command; contradictory settings are the InputError that they raised, not tyro's report of it."""
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            return parse(command, words, **how)
    except SystemExit as stop:
        cause = stop.__context__
        while cause:
            if isinstance(cause, InputError):
                raise cause from None
            cause = cause.__context__
        print(errors.getvalue(), end="", file=sys.stderr)
        raise


def _set_up_logging(debug: bool) -> None:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("metatext").setLevel(logging.DEBUG if debug else logging.INFO)


_REGISTRY = ConstructorRegistry()


@dataclass(frozen=True)
class _LearnerOptions(LearnerSettings):
    """The settings of a learner that are options."""

    classes: Annotated[tuple[str, ...], Suppress] = ()


@_REGISTRY.struct_rule
def _learner_options(info: StructTypeInfo) -> StructConstructorSpec | None:
    """Keeps the classes of a linear head, which training sets itself, from being an option."""
    if info.type is not LearnerSettings:
        return None
    spec = ConstructorRegistry.get_struct_spec(dataclasses.replace(info, type=_LearnerOptions))
    if not isinstance(spec, StructConstructorSpec):
        return None
    return dataclasses.replace(spec, instantiate=LearnerSettings)
