"""The command that makes a classifier of a learner: adapt."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tyro.conf import OmitArgPrefixes, Positional

from metatext.data.class_names import class_names_for, parse_class_names, without_negations
from metatext.data.settings import Table
from metatext.data.user_files import read_domain, read_unlabelled
from metatext.errors import InputError
from metatext.files import check_free
from metatext.hub.model_folder import CENTRES, METADATA, read_metadata, resolve_folder

if TYPE_CHECKING:
    from metatext.adaptation.adapted import Adapted
    from metatext.learners.learner import Learner

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Adapt:
    """Adapt a meta-trained learner to your labelled texts. The result is a plain transformers classifier.

    Example: metatext adapt general-english my.csv --text text --label label --output my-model

    Of an adapted classifier it makes one with further classes: metatext adapt my-model new.csv --output my-model-2
    """

    learner: Positional[str]
    """Meta-trained learner: a folder, a Hub id, or one in the package: general-english or general-chinese.
    Or an adapted classifier, a folder or a Hub id, that is to get the classes of the file, all of them new."""
    file: Positional[str | None] = None
    """File of your labelled texts, any number of texts per class.
    Without it, --classes or --class-names name the classes."""
    output: str
    """Folder to write the adapted classifier to."""
    table: OmitArgPrefixes[Table] = field(default_factory=Table)
    steps: int | None = None
    """Number of inner steps.
    The default for a prototype head is none: its start is chosen from your texts.
    The default for a learned (linear) head is the number in meta-training."""
    names: bool = True
    """--no-names ignores class names, and what the learner knows of source classes with the same name."""
    class_names: tuple[str, ...] = ()
    """What the labels mean, written label=name, or a file with the columns label and name.
    A name is a word or a short description in the language of the texts. In a file, a label may have several rows:
    the mean of these descriptions counts. By default the labels are the names."""
    classes: tuple[str, ...] = ()
    """Classes of which you have no text, written label or label=name. They are known by their names alone."""
    blend: float | None = None
    """Share of the meta-trained weights in the encoder: 0 (only pretrained), 0.25, 0.5, 0.75 or 1 (only meta-trained).
    By default it is chosen from your texts."""
    epochs: int | None = None
    """Passes of fine-tuning over your texts.
    By default 4 if there are at least 30 texts (60 if the sources have the same classes), 3 if more than 150, else 0.
    With --steps the default is 0."""
    unlabelled: tuple[str, ...] = ()
    """Files of further texts of the same kind, some hundreds. Labels are not read.
    They are tables with the same text column, or .txt files with one text per line."""
    max_length: int | None = None
    """Maximum length of a text in tokens, also in predict. Longer texts are cut.
    By default that of the encoder, up to 256, or that of meta-training if it is longer."""
    encoder: str | None = None
    """Folder with the encoder of a learner that was saved without it. By default the encoder comes from the Hub."""
    overwrite: bool = False
    """Replace the output folder if metatext wrote it."""

    def run(self) -> None:
        """Runs the command; all input is read before anything is written."""
        from metatext.adaptation.adapt import adapt
        from metatext.encoders.transformers_loading import default_device
        from metatext.learners.heads import LinearHead
        from metatext.learners.learner import Learner

        check_free(self.output, self.overwrite)
        class_names, further_classes = self._names()
        folder = resolve_folder(self.learner)
        metadata = read_metadata(folder)
        if metadata.get("kind") == "classifier" or (folder / CENTRES).exists():
            self._add_classes(metadata, class_names, further_classes)
            return
        if self.file is None and not further_classes:
            further_classes = list(class_names)
        texts, labels = self._read(further_classes)
        unlabelled = read_unlabelled(self.unlabelled, self.table)
        learner = Learner.from_pretrained(self.learner, encoder=self.encoder).to(default_device())
        if not self.names:
            if isinstance(learner.head, LinearHead):
                raise InputError("--no-names is for learners with a prototype head; this one's head uses no names")
            class_names = dict.fromkeys(labels, "")
        adapted = adapt(
            learner,
            texts,
            labels,
            self.steps,
            class_names or None,
            self.blend,
            self.epochs,
            unlabelled,
            self.max_length,
            further_classes,
        )
        adapted.metadata["clean"] = list(self.table.clean)
        adapted.save_pretrained(self.output, self.overwrite)
        print(f"{self.output}: a classifier of {len(adapted.classes)} classes, {_learned_from(adapted, texts, labels)}")
        if texts and (start := adapted.metadata.get("start")):
            reason = self._reason(learner, class_names_for(adapted.classes, class_names))
            _print_start(start, adapted.metadata["epochs"], learner.meta_trained, reason)
        if all_texts := [*texts, *unlabelled]:
            _print_length(adapted.tokens.max_length, adapted.tokens.count_cut(all_texts), len(all_texts))

    def _add_classes(
        self, metadata: Mapping[str, Any], class_names: Mapping[str, str], further_classes: Sequence[str]
    ) -> None:
        """Adds the classes of the file, and those that are named, to a classifier with this metadata."""
        from metatext.adaptation.further_classes import add_classes

        if not metadata:
            raise InputError(f"{self.learner} is an adapted classifier without its {METADATA}: adapt the learner anew")
        of_learners = ("steps", "blend", "epochs", "unlabelled", "max_length", "encoder", "names")
        if given := [name for name in of_learners if getattr(self, name) != getattr(type(self), name)]:
            raise InputError(
                f"{self.learner} is an adapted classifier, to which classes are only added: leave out "
                f"--{'no-names' if given == ['names'] else given[0].replace('_', '-')}, or name the learner"
            )
        clean = tuple(metadata.get("clean") or ())
        if self.table.clean not in ((), clean):
            raise InputError(f"{self.learner} cleans texts as it did when it was made: leave out --clean")
        texts, labels = list[str](), list[str]()
        if self.file is not None:
            texts, labels = replace(self, table=replace(self.table, clean=clean))._read(further_classes, least=1)
        elif not further_classes and not class_names:
            raise InputError(f"name a file with texts of classes that {self.learner} lacks, or --classes without texts")
        adapted = add_classes(self.learner, texts, labels, class_names, further_classes)
        adapted.metadata["clean"] = list(clean)
        adapted.save_pretrained(self.output, self.overwrite)
        new = len(adapted.classes) - len(metadata["classes"])
        print(f"{self.output}: a classifier of {len(adapted.classes)} classes, {new} of them new")
        if texts:
            print(f"of your {len(texts)} texts it gives {_correct(adapted, texts, labels)} your label")

    def _names(self) -> tuple[dict[str, str], list[str]]:
        """Returns label -> name, of --class-names and --classes together, and the labels of --classes.

        Raises:
            InputError: options contradict each other, or --classes has the name of a file or a label twice.
        """
        further = [pair.partition("=")[0] for pair in self.classes]
        for word in further:
            if Path(word).is_file():
                raise InputError(f"--classes takes all words after it, also {word!r}: name the file before --classes")
            if further.count(word) > 1:
                raise InputError(f"--classes has {word!r} twice: name each class once")
        of_classes = parse_class_names([pair for pair in self.classes if "=" in pair], "classes")
        class_names = parse_class_names(self.class_names)
        if (class_names or further) and not self.names:
            option = "--class-names" if class_names else "--classes"
            raise InputError(f"--no-names and {option} contradict each other: choose one")
        for label in class_names.keys() & of_classes.keys():
            raise InputError(f"--classes and --class-names both name {label!r}: name it once")
        return of_classes | class_names, further

    def _read(self, further_classes: Sequence[str], least: int = 2) -> tuple[list[str], list[str]]:
        """Returns the texts and labels of the file; none without a file.

        Raises:
            InputError: fewer than `least` classes, of the file and `further_classes` together; options that contradict
                each other or the file; or a malformed file.
        """
        if self.table.by:
            raise InputError("--by parts source files into domains, but a file to adapt to is one: leave it out")
        if self.file is None:
            if self.table.label != Table().label:
                raise InputError(
                    f"--label {self.table.label} is a column of your labelled texts, but their file is not named: name "
                    "it right after the learner"
                )
            if len(further_classes) < least:
                raise InputError(
                    "name the file of your labelled texts, or without any at least two classes: --classes sports tech, "
                    "or --class-names with a file of labels and names"
                )
            return [], []
        domain = read_domain(self.file, self.table)
        for label in further_classes:
            if label in domain.classes:
                raise InputError(f"{self.file} has texts of {label!r}: --classes is for classes without texts")
            if close := get_close_matches(label, domain.classes, 1, 0.8):
                logger.warning("--classes adds a class %r, and the file has texts of %r", label, close[0])
        if len({*domain.classes, *further_classes}) < least:
            raise InputError(f"{self.file} has only one class, {domain.classes[0]!r}, in column {self.table.label!r}")
        return domain.texts, domain.labels

    def _reason(self, learner: Learner, names: Sequence[str]) -> str:
        """Says why names count for nothing, if they do."""
        if not self.names:
            return "--no-names"
        readable = learner.tokens.readable(names)
        if any(readable) and not any(without_negations(readable)):
            return "the names differ by a negation only; --class-names label=name ... gives others"
        if sum(map(bool, readable)) == 1:
            return "one name alone says nothing; --class-names label=name ... gives others"
        if any(readable):
            return "your texts speak against the names; --class-names label=name ... gives others"
        if any(names):
            return "the encoder cannot read the names; --class-names label=name ... gives others"
        return "the labels do not say what they mean; --class-names label=name ... does"


def _learned_from(adapted: Adapted, texts: Sequence[str], labels: Sequence[str]) -> str:
    """Says what a classifier was adapted to, and how many of the texts it gives their label."""
    others = adapted.metadata.get("unlabelled")
    more = f" and {others} texts without labels" if others else ""
    if not texts:
        return f"adapted to the names of its classes{more}"
    return f"adapted to {len(texts)} texts{more}, of which it gives {_correct(adapted, texts, labels)} your label"


def _correct(adapted: Adapted, texts: Sequence[str], labels: Sequence[str]) -> int:
    """Counts the texts to which a classifier gives their label."""
    predicted = [adapted.classes[i] for i in adapted.probabilities(texts).argmax(1).tolist()]
    return sum(label == true for label, true in zip(predicted, labels, strict=True))


def _print_length(max_length: int, cut: int, texts: int) -> None:
    """Prints the maximum length of a text in tokens, and how many of the texts were longer and so were cut."""
    print(f"length: {cut or 'none'} of the {texts} texts were cut at {max_length} tokens (--max-length)")


def _print_start(start: dict[str, Any], epochs: int, meta_trained: bool, reason: str) -> None:
    """Prints the start that adaptation chose and the passes of fine-tuning, with the options that change them.

    Args:
        start: the entry of the classifier's metadata.
        epochs: passes of fine-tuning.
        meta_trained: whether the learner was meta-trained, and so has weights to blend.
        reason: why names count for nothing, if they do.
    """
    blend = f"{start['blend']:.0%} of the way from pretrained to meta-trained (--blend)"
    if not meta_trained:
        blend = "as pretrained"
    tuning = f"then fine-tuned in {epochs} passes over your texts" if epochs else "not fine-tuned"
    print(f"encoder: {blend}, {tuning} (--epochs)")
    prior = "those of the sources; what was learned of them" if start["shared"] else "what their names say"
    if start["names_weight"]:
        print(f"classes: {prior} counts as much as {start['names_weight']:g} more texts of each")
    else:
        print(f"classes: known by your texts alone ({reason})")
