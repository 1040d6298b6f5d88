"""The commands that use a learner: adapt, predict, evaluate, export."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tyro.conf import OmitArgPrefixes, Positional

from metatext.data.class_names import class_names_for, parse_class_names
from metatext.data.settings import Table
from metatext.data.user_files import read_domain, read_domains, read_unlabelled
from metatext.errors import InputError
from metatext.evaluation.settings import EvaluateSettings
from metatext.files import check_free, check_free_file


@dataclass(frozen=True)
class Adapt:
    """Adapt a meta-trained learner to your labelled texts. The result is a plain transformers classifier.

    Example: metatext adapt runs/news my.csv --text text --label label --output my-model
    """

    learner: Positional[str]
    """Meta-trained learner: a folder, a Hub id, or one in the package: general-english or general-chinese."""
    file: Positional[str]
    """File of your labelled texts: at least two classes, any number of texts per class."""
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
    """What the labels mean, written label=name.
    A name is a word or a short description in the language of the texts. By default the labels are the names."""
    blend: float | None = None
    """Share of the meta-trained weights in the encoder: 0 (only pretrained), 0.25, 0.5, 0.75 or 1 (only meta-trained).
    By default it is chosen from your texts."""
    epochs: int | None = None
    """Passes of fine-tuning over your texts.
    By default 4 if there are at least 30 texts (60 if the sources have the same classes), and 0 otherwise.
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
        if self.table.by:
            raise InputError("--by parts source files into domains, but a file to adapt to is one: leave it out")
        class_names = parse_class_names(self.class_names) or None
        if class_names and not self.names:
            raise InputError("--no-names and --class-names contradict each other: choose one")
        domain = read_domain(self.file, self.table)
        if len(domain.classes) < 2:
            raise InputError(f"{self.file} has only one class, {domain.classes[0]!r}, in column {self.table.label!r}")
        unlabelled = read_unlabelled(self.unlabelled, self.table)
        learner = Learner.from_pretrained(self.learner, encoder=self.encoder).to(default_device())
        if not self.names:
            if isinstance(learner.head, LinearHead):
                raise InputError("--no-names is for learners with a prototype head; this one's head uses no names")
            class_names = dict.fromkeys(domain.classes, "")
        adapted = adapt(
            learner,
            domain.texts,
            domain.labels,
            self.steps,
            class_names,
            self.blend,
            self.epochs,
            unlabelled,
            self.max_length,
        )
        adapted.metadata["clean"] = list(self.table.clean)
        adapted.save_pretrained(self.output, self.overwrite)
        texts = f"{len(domain)} texts" + (f" and {adapted.metadata['unlabelled']} without labels" if unlabelled else "")
        predicted = [adapted.classes[i] for i in adapted.probabilities(domain.texts).argmax(1).tolist()]
        correct = sum(label == true for label, true in zip(predicted, domain.labels, strict=True))
        print(
            f"{self.output}: a classifier of {len(adapted.classes)} classes, adapted to {texts}, "
            f"of which it gives {correct} your label"
        )
        if start := adapted.metadata.get("start"):
            names = class_names_for(adapted.classes, class_names)
            if not self.names:
                reason = "--no-names"
            elif any(name and learner.tokens.reads(name) for name in names):
                reason = "your texts speak against the names; --class-names label=name ... gives others"
            elif any(names):
                reason = "the encoder cannot read the names; --class-names label=name ... gives others"
            else:
                reason = "the labels do not say what they mean; --class-names label=name ... does"
            _print_start(start, adapted.metadata["epochs"], learner.meta_trained, reason)
        all_texts = [*domain.texts, *unlabelled]
        _print_length(adapted.tokens.max_length, adapted.tokens.count_cut(all_texts), len(all_texts))


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


@dataclass(frozen=True)
class Predict:
    """Classify the texts of a file. The output has all its columns, and the new columns label and score.

    The score is the probability of the label. If the file already has a column label or score, the output calls it
    label_given or score_given.

    Example: metatext predict my-model posts.csv --text text --output out.jsonl
    """

    model: Positional[str]
    """Adapted classifier: a folder or a Hub id."""
    file: Positional[str]
    """File of the texts: csv, tsv, jsonl, json or parquet, or a .txt file with one text per line."""
    output: str
    """File to write; the suffix decides the format: .jsonl, .json, .csv or .parquet."""
    text: str = "text"
    """Column that holds the texts."""
    encoding: str | None = None
    """Encoding of the file. By default the byte order mark decides, then UTF-8, then GB18030."""
    clean: tuple[str, ...] = ()
    """What to clean from the texts before they are classified; by default the same as in adapt.
    The output has the texts as they were."""
    overwrite: bool = False
    """Replace the output file if it exists."""

    def run(self) -> None:
        """Runs the command; all input is read before anything is written."""
        from metatext.adaptation.inference import load_classifier, predict
        from metatext.data.cleaning import clean_texts
        from metatext.data.readers import read_texts
        from metatext.data.writers import check_writable, write_rows

        check_free_file(self.output, self.overwrite)
        check_writable(self.output)
        rows, texts = read_texts(self.file, self.text, self.encoding)
        model, tokens, metadata = load_classifier(self.model)
        clean = self.clean or metadata.get("clean")
        best = predict(model, tokens, clean_texts(texts, clean or None)).max(1)  # values and indices, (texts,)
        for name in ("label", "score"):
            if name in rows.column_names:
                new_name = f"{name}_given"
                while new_name in rows.column_names:
                    new_name += "_given"
                rows = rows.rename_column(name, new_name)
        rows = rows.add_column("label", [model.config.id2label[i] for i in best.indices.tolist()])
        write_rows(rows.add_column("score", best.values.tolist()), self.output)
        print(f"{self.output}: {len(texts)} texts labelled")


@dataclass(frozen=True)
class Evaluate:
    """Compare learners with baselines on the same few-shot draws from a target file.

    Prints accuracy and macro-F1 with 95% confidence intervals over draws and test texts.

    Example: metatext evaluate runs/news --target weibo.jsonl --shots 1 5 10 --draws 10 --output table.json
    """

    runs: Positional[tuple[str, ...]]
    """Learners to compare, such as first-order and full MAML: one or more folders, Hub ids, or learners in the package.
    """
    target: str
    """Labelled file of the target domain."""
    output: str
    """JSON file for the table and every single result. A report of the same name with suffix .md is written too."""
    table: OmitArgPrefixes[Table] = field(default_factory=Table)
    settings: OmitArgPrefixes[EvaluateSettings] = field(default_factory=EvaluateSettings)
    source: tuple[str, ...] = ()
    """Source files for joint training, a baseline. By default those on which the first learner was trained."""
    encoder: str | None = None
    """Folder with the encoder of the learners, if they were saved without it. By default it comes from the Hub."""
    overwrite: bool = False
    """Replace the output files if they exist."""
    progress: bool = True
    """--no-progress hides the progress bar."""

    def run(self) -> None:
        """Runs the command; all input is read before anything is written."""
        from metatext.evaluation.evaluate import evaluate, evaluation_files
        from metatext.training.source_list import read_listed_sources

        files = evaluation_files(Path(self.output), self.settings.plot)
        for file in files:
            check_free_file(file, self.overwrite)
        if not self.runs:
            raise InputError("name one or more learners to evaluate: metatext evaluate runs/news --target ...")
        target = read_domain(self.target, self.table)
        test = read_domain(self.settings.test, self.table) if self.settings.test else None
        sources = read_domains(self.source, self.table)
        if not sources and {"source", "joint"} & set(self.settings.methods):
            sources = read_listed_sources(self.runs[0])
        runs, output, progress = list(self.runs), Path(self.output), self.progress
        result = evaluate(runs, target, sources, self.settings, test, output, progress=progress, encoder=self.encoder)
        print(result["table"], *result["differences"], f"written: {', '.join(map(str, files))}", sep="\n")


@dataclass(frozen=True)
class Export:
    """Upload an adapted classifier or a learner to the Hugging Face Hub, with a model card.

    Log in first with `hf auth login`, or set HF_TOKEN.

    Example: metatext export my-model --hub-id user/name --private
    """

    folder: Positional[str]
    """Folder of a classifier (written by adapt) or of a learner (written by train), or a learner in the package."""
    hub_id: str
    """Name of the repository on the Hub: user/name. It is created if it does not exist."""
    private: bool = False
    """Make the repository private. An existing public repository is refused."""
    table: str | None = None
    """JSON file written by evaluate; its scores go into the model card."""

    def run(self) -> None:
        """Uploads the folder and prints its address on the Hub."""
        from metatext.hub.export import push

        print(push(self.folder, self.hub_id, self.private, self.table))
