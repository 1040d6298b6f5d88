"""The `metatext` command: pretrain, train, search, adapt, predict, evaluate, export."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

from tyro.conf import subcommand

from metatext.cli.adapt_command import Adapt
from metatext.cli.runner import run_command
from metatext.cli.train import Pretrain, Search, Train
from metatext.cli.use import Evaluate, Export, Predict

Command = (
    Annotated[Pretrain, subcommand("pretrain")]
    | Annotated[Train, subcommand("train")]
    | Annotated[Search, subcommand("search")]
    | Annotated[Adapt, subcommand("adapt")]
    | Annotated[Predict, subcommand("predict")]
    | Annotated[Evaluate, subcommand("evaluate")]
    | Annotated[Export, subcommand("export")]
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line; see `run_command` for errors and exit codes.

    Args:
        arguments: the words after `metatext`; by default those of the process.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    run_command(Command, words, prog="metatext", description=_ABOUT)


_ABOUT = (
    "Meta-learn an initialisation for a transformer text classifier over labelled source domains, then adapt it to "
    "your own data with a handful of labels. Every command has its own --help; --debug shows tracebacks."
)
