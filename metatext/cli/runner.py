"""Runs a command or a recipe: parses its options, sets up logging, and prints an error as one sentence."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import logging
import os
import sys
from collections import Counter
from dataclasses import dataclass
from typing import Annotated, Any

import tyro
from tyro.conf import FlagCreatePairsOff, PositionalMetavarFromFieldName, Suppress
from tyro.constructors import ConstructorRegistry, StructConstructorSpec, StructTypeInfo

from metatext.errors import InputError
from metatext.learners.settings import LearnerSettings


def run_recipe(default: Any, description: str | None = None) -> None:
    """Runs a recipe with the options in the command line of the process.

    Args:
        default: a `metatext.recipe.Recipe`; its fields are the options, and their values are the defaults.
        description: the description in --help; by default the docstring of the recipe's class.
    """
    run_command(type(default), sys.argv[1:], default=default, description=description)


def parse(command: Any, words: list[str], **how: Any) -> Any:
    """Parses the words of a command line into an instance of the dataclass `command`.

    Args:
        command: a dataclass with a method `run`, or a union of such dataclasses.
        words: the words after the name of the program.
        how: further arguments of `tyro.cli`.

    Raises:
        SystemExit: code 2 for words that cannot be parsed, code 0 after --help.
    """
    return tyro.cli(command, args=words, config=STYLE, registry=_REGISTRY, **how)


STYLE = (FlagCreatePairsOff, PositionalMetavarFromFieldName)


def run_command(command: Any, words: list[str], **how: Any) -> None:
    """Parses the words of a command line and runs the command.

    `InputError`, `OSError` and `FloatingPointError` are printed as one sentence on standard error. With --debug they
    are raised with their traceback.

    Args:
        command: a dataclass with a method `run`, or a union of such dataclasses.
        words: the words after the name of the program.
        how: further arguments of `tyro.cli`.

    Raises:
        SystemExit: code 2 after an error, code 130 after an interruption from the keyboard.
    """
    debug = "--debug" in words
    _set_up_logging(debug)
    try:
        words = [word for word in words if word != "--debug"]
        _check_repeats(words)
        _parse_or_raise(command, words, **how).run()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader, such as `head`, closed the pipe
    except (InputError, OSError, FloatingPointError) as error:
        if debug:
            raise
        print(f"metatext: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        training = "train continues from its last checkpoint with --resume (see --save-every)"
        others = "search and evaluate continue when they are repeated; pretrain starts again from the beginning"
        print(f"metatext: interrupted; {training}; {others}", file=sys.stderr)
        sys.exit(130)


def _check_repeats(words: list[str]) -> None:
    """Refuses an option that is given twice, of which the parser would drop the first without a word."""
    options = [word.partition("=")[0].replace("_", "-") for word in words if word.startswith("--")]
    for option, count in Counter(options).items():
        if count > 1:
            raise InputError(f"{option} is given {count} times: give it once, with all its values after it")


def _parse_or_raise(command: Any, words: list[str], **how: Any) -> Any:
    """Parses like `parse`, but raises the `InputError` of contradictory settings instead of tyro's report of it."""
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            return parse(command, words, **how)
    except SystemExit as system_exit:
        cause = system_exit.__context__
        while cause:
            if isinstance(cause, InputError):
                raise cause from None
            cause = cause.__context__
        print(errors.getvalue(), end="", file=sys.stderr)
        raise


def _set_up_logging(debug: bool) -> None:
    """Shows the log messages of metatext, and of other libraries only warnings; turns off their progress bars."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("metatext").setLevel(logging.DEBUG if debug else logging.INFO)


_REGISTRY = ConstructorRegistry()


@dataclass(frozen=True)
class _LearnerOptions(LearnerSettings):
    """`LearnerSettings` without the option --classes: training itself sets the classes of a linear head."""

    classes: Annotated[tuple[str, ...], Suppress] = ()


@_REGISTRY.struct_rule
def _learner_options(info: StructTypeInfo) -> StructConstructorSpec | None:
    """Makes tyro read the options of `LearnerSettings` from `_LearnerOptions`."""
    if info.type is not LearnerSettings:
        return None
    spec = ConstructorRegistry.get_struct_spec(dataclasses.replace(info, type=_LearnerOptions))
    if not isinstance(spec, StructConstructorSpec):
        return None
    return dataclasses.replace(spec, instantiate=LearnerSettings)
