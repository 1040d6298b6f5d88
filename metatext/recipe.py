"""A recipe: meta-train on some domains, compare all methods on a target, print the table."""

from __future__ import annotations

import dataclasses
import itertools
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from tyro.conf import OmitArgPrefixes

from metatext.data.class_names import parse_class_names
from metatext.data.settings import EpisodeSettings, Table
from metatext.data.user_files import read_domain, read_domains, read_unlabelled
from metatext.errors import InputError, suggest
from metatext.evaluation.settings import EvaluateSettings
from metatext.files import write_json
from metatext.hub.model_folder import METADATA
from metatext.learners.settings import LearnerSettings
from metatext.options import defaults_of
from metatext.training.checkpoints import has_checkpoint
from metatext.training.settings import TrainConfig

if TYPE_CHECKING:
    from metatext.data.domains import Domain


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recipe:
    """The configuration of one domain pair; every field is an option of the recipe's command line.

    Trains learners, each in a folder of its own in the output, then evaluates all methods. Learners that are finished
    in the output folder are used again; after an interruption, repeat the command with --resume.
    """

    source: tuple[str, ...]
    """Labelled source files: paths, names in the data folder, or data sets on the Hub as hub:ID[:CONFIG[:SPLIT]]."""
    target: tuple[str, ...]
    """Labelled target files, named likewise; one table each."""
    encoder: str
    """Pretrained encoder: a Hub id or a folder."""
    data_dir: str
    """Folder where names are looked up: NAME.jsonl, or NAME.train.jsonl with NAME.test.jsonl beside it, or, for an
    official few-shot split, NAME.train_0.jsonl, NAME.train_1.jsonl ... with NAME.test_public.jsonl: a draw each."""
    orders: tuple[Literal["first-order", "full"], ...] = ("first-order", "full")
    """Learners to train: first-order MAML, full MAML, or both."""
    target_classes: tuple[str, ...] = ()
    """Classes of the target to evaluate on, by default all; a source of the same file is trained on its others."""
    target_labels: tuple[str, ...] = ()
    """What labels of the target become, as label=name; rows with other labels are left out."""
    held_out: str | None = None
    """The domain, a value of column --by, that is the target of its file: left out of the sources."""
    unlabelled: tuple[str, ...] = ()
    """Unlabelled texts of the target, for --adversarial: paths, or names in the data folder (NAME.train)."""
    table: OmitArgPrefixes[Table] = field(default_factory=lambda: Table(clean=("weibo",)))
    """How to read the files; --clean is for the targets, --by for the sources."""
    episodes: OmitArgPrefixes[EpisodeSettings] = field(default_factory=EpisodeSettings)
    learner: OmitArgPrefixes[LearnerSettings] = field(default_factory=LearnerSettings)
    config: OmitArgPrefixes[TrainConfig] = field(default_factory=TrainConfig)
    evaluate: EvaluateSettings = field(default_factory=EvaluateSettings)

    def run(self) -> None:
        """Trains what is missing, evaluates, writes OUTPUT/TARGET.json and .md, and prints the tables."""
        from accelerate import PartialState

        data = self.read()
        runs = self.train(data)
        if PartialState().is_main_process:
            self.evaluate_all(runs, data)

    def read(self) -> Data:
        """All files, before anything is trained.

        Raises:
            InputError: options that do not go together; a bad file.
            FileNotFoundError: a file is not there.
        """
        if not self.config.output:
            raise InputError("name a folder for the recipe: --output runs/name")
        if len({self.table_of(name) for name in self.target}) < len(self.target):
            raise InputError("two targets have the same name, and so would their tables: evaluate one at a time")
        if self.held_out is not None and not self.table.by:
            raise InputError(f"held_out={self.held_out!r} is a value of a column: name the column, --by domain")
        sources = [domain for name in self.source for domain in self._source(name)]
        for name in self.unlabelled:
            if name.startswith("hub:"):
                raise InputError(f"unlabelled={name!r} is to be a file: its texts are not read from the Hub")
        texts = read_unlabelled([self._place(name, "train") for name in self.unlabelled], self.table)
        return Data(sources, {name: self._target(name) for name in self.target}, texts)

    def train(self, data: Data) -> list[str]:
        """Trains what is missing; returns the learners' folders.

        Raises:
            FileExistsError: a folder holds a learner of other options.
        """
        output = Path(self.config.output or "")
        second_order_steps = {"first-order": 0, "full": self.learner.inner_steps}
        return [self._train(output / order, data, second_order_steps[order]) for order in self.orders]

    def evaluate_all(self, runs: Sequence[str], data: Data) -> None:
        """Evaluates the learners on the targets; tables of other options are refused before any is made."""
        from metatext.evaluation import run

        for name in self.target:
            self.table_is_there(name)
        settings = self._settings()
        for name, (target, test, supports) in data.targets.items():
            place = self.table_of(name)
            show = self.config.progress
            result = run.evaluate(runs, target, data.sources, settings, test, place, supports, show)
            write_json(place, result | {"recipe": self._reading()})
            draws = len(supports) or settings.draws
            print(f"\n{target.name}: {len(target.classes)} classes, {draws} draws, accuracy / macro-F1 in %\n")
            print("\n\n".join([result["table"], *result["differences"], f"All of it: {place}"]), flush=True)

    def table_of(self, target: str) -> Path:
        """Where the table of a target is written."""
        return Path(self.config.output or "") / f"{_stem(target)}.json"

    def table_is_there(self, target: str) -> bool:
        """Whether the table of a target is there.

        Raises:
            FileExistsError: it is one of other settings.
        """
        place = self.table_of(target)
        if not place.exists():
            return False
        table = json.loads(place.read_text(encoding="utf-8"))
        now = dataclasses.asdict(self._settings()) | self._reading()
        before = defaults_of(Table, EvaluateSettings)  # for options that are newer
        if other := _other(before | table["settings"] | table.get("recipe", {}), now):
            raise FileExistsError(f"{place} is a table of other options ({other}): move it away first")
        return True

    def _reading(self) -> dict[str, Any]:
        """The options that say which rows of a target are judged, and under which labels."""
        how = {name: getattr(self, name) for name in ("target_classes", "target_labels", "held_out")}
        return how | dataclasses.asdict(self.table)

    def _settings(self) -> EvaluateSettings:
        joint = self.evaluate.joint or str(Path(self.config.output or "") / "joint")
        return dataclasses.replace(self.evaluate, joint=joint)

    def _train(self, folder: Path, data: Data, second_order_steps: int) -> str:
        """Trains one learner, unless the folder holds it already."""
        from metatext.data.fingerprints import describe_domains, fingerprint
        from metatext.training.run import train

        learner = dataclasses.replace(self.learner, second_order_steps=second_order_steps)
        again = self.config.resume and not has_checkpoint(folder)
        config = dataclasses.replace(self.config, output=str(folder), resume=self.config.resume and not again)
        asked: dict[str, Any] = {"encoder": self.encoder, "sources": describe_domains(data.sources)}
        asked["unlabelled"] = fingerprint(data.unlabelled) if data.unlabelled else None
        asked |= {k: v for part in (learner, self.episodes, config) for k, v in dataclasses.asdict(part).items()}
        for how in ("resume", "overwrite", "progress", "output"):
            asked.pop(how)
        note = folder / "recipe.json"
        if (folder / METADATA).exists() and not config.overwrite:
            before = defaults_of(EpisodeSettings, LearnerSettings, TrainConfig)  # for options that are newer
            if note.exists():
                before |= json.loads(note.read_text(encoding="utf-8"))
            other = _other(before, asked)
            if not other:
                return str(folder)
            raise FileExistsError(
                f"{folder} holds a learner of other options ({other}): pass --overwrite, or another --output"
            )
        logger.info("%s: %s", folder, learner.method)
        train(data.sources, self.encoder, learner, self.episodes, config, target_texts=data.unlabelled)
        write_json(note, asked)
        return str(folder)

    def _place(self, name: str, *splits: str) -> str:
        """The file of one of `splits`, or the data set on the Hub."""
        if name.startswith("hub:"):
            return name
        folder = Path(self.data_dir)
        places = [Path(name), folder / f"{name}.jsonl", *(folder / f"{name}.{split}.jsonl" for split in splits)]
        for place in places:
            if place.is_file():
                return str(place)
        raise FileNotFoundError(f"no file for {name!r}: looked for {', '.join(map(str, places))}")

    def source_domains(self, name: str) -> list[Domain]:
        """All domains of a source."""
        return read_domains([self._place(name, "train")], dataclasses.replace(self.table, clean=()))

    def _source(self, name: str) -> list[Domain]:
        """The domains of a source, without the one that is held out, and without the classes that are a target's."""
        place, domains = self._place(name, "train"), self.source_domains(name)
        if self.held_out is not None:
            domains = [domain for domain in domains if value_of(domain) != self.held_out]
        targets = [self._place(target, "train", "train_0") for target in self.target]
        if self.target_classes and any(_same(place, target) for target in targets):
            new = parse_class_names(self.target_labels, "target_labels")
            domains = [
                domain.restrict(c for c in domain.classes if new.get(c, c) not in self.target_classes)
                for domain in domains
            ]
        return domains

    def _target(self, name: str) -> Target:
        """The target and, where its folder has one, its test split and the supports of an official split."""
        folder = Path(self.data_dir)
        parts = itertools.takewhile(Path.is_file, (folder / f"{name}.train_{i}.jsonl" for i in itertools.count()))
        supports = [self._read(str(part)) for part in parts]
        place = folder / f"{name}.test{'_public' if supports else ''}.jsonl"
        if supports and not self.evaluate.test and not place.is_file():
            raise FileNotFoundError(f"{name!r} has the supports of an official split, but no test texts: {place}")
        if self.evaluate.test and len(self.target) > 1:
            raise InputError("--evaluate.test is the test file of one target, but --target names several")
        split = self.evaluate.test or (str(place) if place.is_file() else None)
        test = self._read(split) if split else None
        domain = self._read(self._place(name, "train", "train_0"))
        return Target(dataclasses.replace(domain, name=_stem(name)), test, supports)

    def _read(self, place: str) -> Domain:
        """The rows of a target's file that are judged, under their labels."""
        if self.held_out is not None:
            domains = {value_of(domain): domain for domain in read_domains([place], self.table)}
            if self.held_out not in domains:
                known = suggest(self.held_out, sorted(domains))
                raise InputError(f"{place} has no {self.held_out!r} in column {self.table.by!r}; {known}")
            domain = domains[self.held_out]
        else:
            domain = read_domain(place, self.table)
        if self.target_labels:
            domain = domain.relabel(parse_class_names(self.target_labels, "target_labels"))
        return domain.restrict(self.target_classes) if self.target_classes else domain


class Target(NamedTuple):
    """A target, its test split, and the supports of an official split, where there are such."""

    domain: Domain
    test: Domain | None
    supports: list[Domain]


class Data(NamedTuple):
    """What a recipe reads: its sources, its targets by the name that was given, and unlabelled texts of the target."""

    sources: list[Domain]
    targets: dict[str, Target]
    unlabelled: Sequence[str] = ()


def _stem(name: str) -> str:
    """A file's name without its type, or a data set's with its configuration; the dots of NAME.train_classes stay."""
    if name.startswith("hub:"):
        path, config = [*name.split(":"), ""][1:3]
        return Path(path).name + (f"-{config}" if config else "")
    return Path(name).stem if Path(name).is_file() else Path(name).name


def value_of(domain: Domain) -> str:
    """The value of column --by that a domain of a parted file is of."""
    return domain.name.partition("/")[2]


def _same(place: str, other: str) -> bool:
    """Whether two places are one file, or one data set on the Hub, of whatever split."""
    if place.startswith("hub:") or other.startswith("hub:"):
        return [*place.split(":"), ""][:3] == [*other.split(":"), ""][:3]
    return Path(place).samefile(other)


def _other(before: dict[str, Any], now: dict[str, Any]) -> str:
    """Names of the options that are not what they were when `before` was written, as JSON."""
    return ", ".join(name for name, value in json.loads(json.dumps(now)).items() if before.get(name) != value)
