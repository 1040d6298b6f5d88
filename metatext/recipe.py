"""A recipe: meta-trains learners on source domains, compares all methods on target domains, prints a table each."""

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
    """Meta-train learners on source domains, then evaluate all methods on target domains.

    Each learner gets a folder of its own inside the output folder. Learners that are already finished there are used
    again. After an interruption, repeat the command with --resume.
    """

    source: tuple[str, ...]
    """Labelled source data: paths, names in the data folder, or data sets on the Hub as hub:ID[:CONFIG[:SPLIT]]."""
    target: tuple[str, ...]
    """Labelled target data, named as in --source. Each target gets a table of its own."""
    encoder: str
    """Pretrained encoder: a Hub id or a folder."""
    data_dir: str
    """Folder in which names are looked up.
    NAME stands for NAME.jsonl, or for the pair NAME.train.jsonl and NAME.test.jsonl.
    An official few-shot split has NAME.train_0.jsonl, NAME.train_1.jsonl, ... (one draw each) and
    NAME.test_public.jsonl."""
    orders: tuple[Literal["first-order", "full"], ...] = ("first-order", "full")
    """Learners to train: first-order MAML, full (second-order) MAML, or both."""
    target_classes: tuple[str, ...] = ()
    """Classes of the target to evaluate on; by default all.
    If a source is the same file as a target, these classes are left out of the source."""
    target_labels: tuple[str, ...] = ()
    """New names for labels of the target, written label=name. Rows with any other label are left out."""
    held_out: str | None = None
    """Value of column --by that selects the target domain in the target file.
    Source domains of this value are left out."""
    unlabelled: tuple[str, ...] = ()
    """Files of unlabelled texts of the target, for --adversarial: paths, or names in the data folder.
    NAME stands for NAME.jsonl or NAME.train.jsonl."""
    table: OmitArgPrefixes[Table] = field(default_factory=lambda: Table(clean=("weibo",)))
    """How to read the files. --clean does not apply to the sources. --by splits the source files into domains."""
    episodes: OmitArgPrefixes[EpisodeSettings] = field(default_factory=EpisodeSettings)
    learner: OmitArgPrefixes[LearnerSettings] = field(default_factory=LearnerSettings)
    config: OmitArgPrefixes[TrainConfig] = field(default_factory=TrainConfig)
    evaluate: EvaluateSettings = field(default_factory=EvaluateSettings)

    def run(self) -> None:
        """Trains the missing learners, evaluates, writes OUTPUT/TARGET.json and .md, and prints the tables."""
        from accelerate import PartialState

        data = self.read()
        runs = self.train(data)
        if PartialState().is_main_process:
            self.evaluate_all(runs, data)

    def read(self) -> Data:
        """Reads all files. This is done before any training, so that a bad file is reported at once.

        Raises:
            InputError: options contradict each other, or a file is malformed.
            FileNotFoundError: a file does not exist.
        """
        if not self.config.output:
            raise InputError("name a folder for the recipe: --output runs/name")
        if len({self.table_of(name) for name in self.target}) < len(self.target):
            raise InputError("two targets have the same name, and so would their tables: evaluate one at a time")
        if self.held_out is not None and not self.table.by:
            raise InputError(f"held_out={self.held_out!r} is a value of a column: name the column, --by domain")
        sources = [domain for name in self.source for domain in self._read_source(name)]
        for name in self.unlabelled:
            if name.startswith("hub:"):
                raise InputError(f"unlabelled={name!r} must be a file: unlabelled texts are not read from the Hub")
        texts = read_unlabelled([self._find_file(name, "train") for name in self.unlabelled], self.table)
        return Data(sources, {name: self._read_target(name) for name in self.target}, texts)

    def train(self, data: Data) -> list[str]:
        """Trains the learners that are missing and returns the folders of all, in the order of `orders`.

        Raises:
            FileExistsError: a folder holds a learner that was trained with other options.
        """
        output = Path(self.config.output or "")
        second_order_steps = {"first-order": 0, "full": self.learner.inner_steps}
        return [self._train(output / order, data, second_order_steps[order]) for order in self.orders]

    def evaluate_all(self, runs: Sequence[str], data: Data) -> None:
        """Evaluates the learners in the folders `runs` on each target; writes and prints the tables.

        Raises:
            FileExistsError: a table exists that was made with other options; nothing is evaluated in this case.
        """
        from metatext.evaluation.evaluate import evaluate

        for name in self.target:
            self.table_is_there(name)
        settings = self._evaluate_settings()
        for name, (target, test, supports) in data.targets.items():
            path = self.table_of(name)
            progress = self.config.progress
            result = evaluate(runs, target, data.sources, settings, test, path, supports, progress)
            write_json(path, result | {"recipe": self._target_options()})
            draws = len(supports) or settings.draws
            print(f"\n{target.name}: {len(target.classes)} classes, {draws} draws, accuracy / macro-F1 in %\n")
            print("\n\n".join([result["table"], *result["differences"], f"All of it: {path}"]), flush=True)

    def table_of(self, target: str) -> Path:
        """Returns the path of the JSON table of `target`, a name from the field `target`."""
        return Path(self.config.output or "") / f"{_stem(target)}.json"

    def table_is_there(self, target: str) -> bool:
        """Returns whether the table of `target` exists.

        Raises:
            FileExistsError: it exists, but was made with other options.
        """
        path = self.table_of(target)
        if not path.exists():
            return False
        table = json.loads(path.read_text(encoding="utf-8"))
        now = dataclasses.asdict(self._evaluate_settings()) | self._target_options()
        before = defaults_of(Table, EvaluateSettings)  # for options that the table predates
        if changed := _changed_options(before | table["settings"] | table.get("recipe", {}), now):
            raise FileExistsError(f"{path} was made with other options ({changed}): move it away first")
        return True

    def _target_options(self) -> dict[str, Any]:
        """Returns the options that decide which rows of a target are evaluated and how they are labelled."""
        options = {name: getattr(self, name) for name in ("target_classes", "target_labels", "held_out")}
        return options | dataclasses.asdict(self.table)

    def _evaluate_settings(self) -> EvaluateSettings:
        """Returns the settings of the evaluation; the jointly trained classifier is kept in OUTPUT/joint by default."""
        joint = self.evaluate.joint or str(Path(self.config.output or "") / "joint")
        return dataclasses.replace(self.evaluate, joint=joint)

    def _train(self, folder: Path, data: Data, second_order_steps: int) -> str:
        """Trains one learner, unless `folder` already holds it; returns `folder`.

        Raises:
            FileExistsError: `folder` holds a learner that was trained with other options.
        """
        from metatext.data.fingerprints import describe_domains, fingerprint
        from metatext.training.meta_training import train

        learner = dataclasses.replace(self.learner, second_order_steps=second_order_steps)
        not_begun = self.config.resume and not has_checkpoint(folder)
        config = dataclasses.replace(self.config, output=str(folder), resume=self.config.resume and not not_begun)
        options: dict[str, Any] = {"encoder": self.encoder, "sources": describe_domains(data.sources)}
        options["unlabelled"] = fingerprint(data.unlabelled) if data.unlabelled else None
        options |= {k: v for part in (learner, self.episodes, config) for k, v in dataclasses.asdict(part).items()}
        for name in ("resume", "overwrite", "progress", "output"):  # these do not change the learner
            options.pop(name)
        note = folder / "recipe.json"
        if (folder / METADATA).exists() and not config.overwrite:
            before = defaults_of(EpisodeSettings, LearnerSettings, TrainConfig)  # for options that the note predates
            if note.exists():
                before |= json.loads(note.read_text(encoding="utf-8"))
            changed = _changed_options(before, options)
            if not changed:
                return str(folder)
            raise FileExistsError(
                f"{folder} holds a learner trained with other options ({changed}): pass --overwrite, or another "
                "--output"
            )
        logger.info("%s: %s", folder, learner.method)
        train(data.sources, self.encoder, learner, self.episodes, config, target_texts=data.unlabelled)
        write_json(note, options)
        return str(folder)

    def _find_file(self, name: str, *splits: str) -> str:
        """Returns the first file that exists of NAME, NAME.jsonl and NAME.SPLIT.jsonl; a Hub name is unchanged.

        Raises:
            FileNotFoundError: none of these files exists.
        """
        if name.startswith("hub:"):
            return name
        folder = Path(self.data_dir)
        paths = [Path(name), folder / f"{name}.jsonl", *(folder / f"{name}.{split}.jsonl" for split in splits)]
        for path in paths:
            if path.is_file():
                return str(path)
        raise FileNotFoundError(f"no file for {name!r}: looked for {', '.join(map(str, paths))}")

    def source_domains(self, name: str) -> list[Domain]:
        """Returns all domains of the source `name`, with no domain or class left out."""
        return read_domains([self._find_file(name, "train")], dataclasses.replace(self.table, clean=()))

    def _read_source(self, name: str) -> list[Domain]:
        """Returns the domains of a source, without the held-out domain and without classes of the targets."""
        path, domains = self._find_file(name, "train"), self.source_domains(name)
        if self.held_out is not None:
            domains = [domain for domain in domains if value_of(domain) != self.held_out]
        targets = [self._find_file(target, "train", "train_0") for target in self.target]
        if self.target_classes and any(_same_data(path, target) for target in targets):
            new_labels = parse_class_names(self.target_labels, "target_labels")
            domains = [
                domain.restrict(c for c in domain.classes if new_labels.get(c, c) not in self.target_classes)
                for domain in domains
            ]
        return domains

    def _read_target(self, name: str) -> Target:
        """Reads a target, its test split if there is one, and the supports if it is an official few-shot split.

        Raises:
            InputError: --evaluate.test names one test file for several targets.
            FileNotFoundError: a file does not exist.
        """
        folder = Path(self.data_dir)
        parts = itertools.takewhile(Path.is_file, (folder / f"{name}.train_{i}.jsonl" for i in itertools.count()))
        supports = [self._read_target_file(str(part)) for part in parts]
        path = folder / f"{name}.test{'_public' if supports else ''}.jsonl"
        if supports and not self.evaluate.test and not path.is_file():
            raise FileNotFoundError(f"{name!r} has the supports of an official split, but no test texts: {path}")
        if self.evaluate.test and len(self.target) > 1:
            raise InputError("--evaluate.test is the test file of one target, but --target names several")
        test_path = self.evaluate.test or (str(path) if path.is_file() else None)
        test = self._read_target_file(test_path) if test_path else None
        domain = self._read_target_file(self._find_file(name, "train", "train_0"))
        return Target(dataclasses.replace(domain, name=_stem(name)), test, supports)

    def _read_target_file(self, path: str) -> Domain:
        """Reads a file of a target and applies `held_out`, `target_labels` and `target_classes` to its rows."""
        if self.held_out is not None:
            domains = {value_of(domain): domain for domain in read_domains([path], self.table)}
            if self.held_out not in domains:
                known = suggest(self.held_out, sorted(domains))
                raise InputError(f"{path} has no {self.held_out!r} in column {self.table.by!r}; {known}")
            domain = domains[self.held_out]
        else:
            domain = read_domain(path, self.table)
        if self.target_labels:
            domain = domain.relabel(parse_class_names(self.target_labels, "target_labels"))
        return domain.restrict(self.target_classes) if self.target_classes else domain


class Target(NamedTuple):
    """A target domain; its test split, or None; the supports of an official few-shot split, one per draw, or none."""

    domain: Domain
    test: Domain | None
    supports: list[Domain]


class Data(NamedTuple):
    """The data of a recipe: source domains, targets by the name that the user gave, unlabelled texts of the target."""

    sources: list[Domain]
    targets: dict[str, Target]
    unlabelled: Sequence[str] = ()


def _stem(name: str) -> str:
    """Returns the short name of a target: the file's name without its suffix, or ID-CONFIG of a data set on the Hub.

    A name in the data folder keeps its dots, as in NAME.train_classes.
    """
    if name.startswith("hub:"):
        path, config = [*name.split(":"), ""][1:3]
        return Path(path).name + (f"-{config}" if config else "")
    return Path(name).stem if Path(name).is_file() else Path(name).name


def value_of(domain: Domain) -> str:
    """Returns the value of column --by in a domain from `Domain.each_from_file`, whose name is FILE/VALUE."""
    return domain.name.partition("/")[2]


def _same_data(path: str, other: str) -> bool:
    """Returns whether both name one file, or one data set and configuration on the Hub, whatever the split."""
    if path.startswith("hub:") or other.startswith("hub:"):
        return [*path.split(":"), ""][:3] == [*other.split(":"), ""][:3]
    return Path(path).samefile(other)


def _changed_options(before: dict[str, Any], now: dict[str, Any]) -> str:
    """Returns the names of the options whose value, in its JSON form, differs from the one in `before`."""
    return ", ".join(name for name, value in json.loads(json.dumps(now)).items() if before.get(name) != value)
