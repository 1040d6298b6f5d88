"""A recipe: meta-train on some domains, compare all methods on a target, print the table."""

from __future__ import annotations

import dataclasses
import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro
from tyro.conf import OmitArgPrefixes

from metatext.checkpoints import has_checkpoint
from metatext.cli import STYLE, run_command
from metatext.errors import InputError
from metatext.files import write_json
from metatext.hub import METADATA
from metatext.settings import EpisodeSettings, EvaluateSettings, LearnerSettings, TrainConfig

if TYPE_CHECKING:
    from metatext.domains import Domain

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recipe:
    """The configuration of one domain pair; every field is an option of the recipe's command line.

    Trains learners, each in a folder of its own in the output, then evaluates all methods. Learners that are finished
    in the output folder are used again; after an interruption, repeat the command with --resume.
    """

    source: tuple[str, ...]
    """Labelled source files: paths, or names in the data folder."""
    target: tuple[str, ...]
    """Labelled target files: paths, or names in the data folder; one table each."""
    encoder: str
    """Pretrained encoder: a Hub id or a folder."""
    data_dir: str
    """Folder where names are looked up: NAME.jsonl, or NAME.train.jsonl with NAME.test.jsonl beside it."""
    orders: tuple[Literal["first-order", "full"], ...] = ("first-order", "full")
    """Learners to train: first-order MAML, full MAML, or both."""
    target_classes: tuple[str, ...] = ()
    """Classes of the target to evaluate on, by default all; a source of the same file is trained on its others."""
    clean: tuple[str, ...] = ("weibo",)
    """What to clean from the target's texts (see metatext adapt --help)."""
    episodes: OmitArgPrefixes[EpisodeSettings] = field(default_factory=EpisodeSettings)
    learner: OmitArgPrefixes[LearnerSettings] = field(default_factory=LearnerSettings)
    config: OmitArgPrefixes[TrainConfig] = field(default_factory=TrainConfig)
    evaluate: EvaluateSettings = field(default_factory=EvaluateSettings)

    def run(self) -> None:
        """Trains what is missing, evaluates, writes OUTPUT/TARGET.json and .md, and prints the tables."""
        from accelerate import PartialState

        from metatext import pipeline

        if not self.config.output:
            raise InputError("name a folder for the recipe: --output runs/name")
        output = Path(self.config.output)
        places = {name: output / f"{_stem(name)}.json" for name in self.target}
        if len(set(places.values())) < len(places):
            raise InputError("two targets have the same name, and so would their tables: evaluate one at a time")
        sources = [self._source(name) for name in self.source]
        targets = {name: self._target(name) for name in self.target}
        second_order_steps = {"first-order": 0, "full": self.learner.inner_steps}
        runs = [self._train(output / order, sources, second_order_steps[order]) for order in self.orders]
        if not PartialState().is_main_process:
            return
        settings = dataclasses.replace(self.evaluate, joint=self.evaluate.joint or str(output / "joint"))
        for place in places.values():
            _check_table(place, settings)
        for name, (target, test) in targets.items():
            result = pipeline.evaluate(runs, target, sources, settings, test, places[name])
            print(f"\n{target.name}: {len(target.classes)} classes, {settings.draws} draws, accuracy / macro-F1 in %\n")
            print("\n\n".join([result["table"], *result["differences"], f"All of it: {places[name]}"]), flush=True)

    def _train(self, folder: Path, sources: Sequence[Domain], second_order_steps: int) -> str:
        """Trains one learner, unless the folder holds it already."""
        from metatext.pipeline import train
        from metatext.trainer import describe

        learner = dataclasses.replace(self.learner, second_order_steps=second_order_steps)
        again = self.config.resume and not has_checkpoint(folder)
        config = dataclasses.replace(self.config, output=str(folder), resume=self.config.resume and not again)
        asked = {"encoder": self.encoder, "sources": describe(sources)}
        asked |= {k: v for part in (learner, self.episodes, config) for k, v in dataclasses.asdict(part).items()}
        for how in ("resume", "overwrite", "progress", "output"):
            asked.pop(how)
        note = folder / "recipe.json"
        if (folder / METADATA).exists() and not config.overwrite:
            other = _other(json.loads(note.read_text(encoding="utf-8")) if note.exists() else {}, asked)
            if not other:
                return str(folder)
            raise FileExistsError(
                f"{folder} holds a learner of other options ({other}): pass --overwrite, or another --output"
            )
        logger.info("%s: %s", folder, learner.method)
        train(sources, self.encoder, learner, self.episodes, config)
        write_json(note, asked)
        return str(folder)

    def _file(self, name: str, split: str) -> Path:
        folder = Path(self.data_dir)
        places = [Path(name), folder / f"{name}.jsonl", folder / f"{name}.{split}.jsonl"]
        for place in places:
            if place.is_file():
                return place
        raise FileNotFoundError(f"no file for {name!r}: looked for {', '.join(map(str, places))}")

    def _source(self, name: str) -> Domain:
        """A source, without the classes that are a target's."""
        from metatext.domains import Domain

        file = self._file(name, "train")
        domain = Domain.from_file(file)
        if not self.target_classes or not any(file.samefile(self._file(target, "train")) for target in self.target):
            return domain
        return domain.restrict(c for c in domain.classes if c not in self.target_classes)

    def _target(self, name: str) -> tuple[Domain, Domain | None]:
        """The target and, where its folder has one, its test split."""
        from metatext.domains import Domain

        def read(file: Path, name: str | None = None) -> Domain:
            domain = Domain.from_file(file, name=name, clean=self.clean or None)
            return domain.restrict(self.target_classes) if self.target_classes else domain

        place = Path(self.data_dir) / f"{name}.test.jsonl"
        if self.evaluate.test:
            if len(self.target) > 1:
                raise InputError("--evaluate.test is the test file of one target, but --target names several")
            place = Path(self.evaluate.test)
        test = read(place) if self.evaluate.test or place.is_file() else None
        return read(self._file(name, "train"), Path(name).name), test


def _stem(name: str) -> str:
    """A file's name without its type; the dots of NAME.train_classes stay."""
    return Path(name).stem if Path(name).is_file() else Path(name).name


def _check_table(place: Path, settings: EvaluateSettings) -> None:
    """Refuses to replace a table of other settings.

    Raises:
        FileExistsError: naming the table.
    """
    if place.exists():
        before = json.loads(place.read_text(encoding="utf-8"))["settings"]
        if other := _other(before, dataclasses.asdict(settings)):
            raise FileExistsError(f"{place} is a table of other options ({other}): move it away first")


def _other(before: dict[str, Any], now: dict[str, Any]) -> str:
    """Names of the options that are not what they were when `before` was written, as JSON."""
    return ", ".join(name for name, value in json.loads(json.dumps(now)).items() if before.get(name) != value)


def main(default: Recipe, description: str | None = None) -> None:
    """Runs a recipe with the options of the command line."""

    def parse(words: list[str]) -> Any:
        return tyro.cli(Recipe, default=default, description=description, args=words, config=STYLE)

    run_command(parse, sys.argv[1:])
