"""The commands that use a learner: adapt, predict, evaluate, export."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tyro.conf import OmitArgPrefixes, Positional

from metatext.data.class_names import parse_class_names
from metatext.data.settings import Table
from metatext.data.user_files import read_domain, read_domains, read_unlabelled
from metatext.errors import InputError
from metatext.evaluation.settings import EvaluateSettings
from metatext.files import check_free, check_free_file


@dataclass(frozen=True)
class Adapt:
    """Adapt a meta-trained learner to your labelled file; the result is a plain transformers classifier.

    Example: metatext adapt runs/news my.csv --text text --label label --output my-model
    """

    learner: Positional[str]
    """Folder or Hub id of a learner."""
    file: Positional[str]
    """Your labelled texts, any number per class."""
    output: str
    """Folder for the adapted classifier."""
    table: OmitArgPrefixes[Table] = field(default_factory=Table)
    steps: int | None = None
    """Inner steps; by default none with a prototype head, whose start is chosen from your texts, and as many as in
    meta-training with a learned head."""
    class_names: tuple[str, ...] = ()
    """What labels are called in the language of the texts, as label=name: a word or a short description. By default the
    labels themselves."""
    blend: float | None = None
    """Share of the meta-trained weights: 0, 0.25, 0.5, 0.75 or 1; by default chosen from your texts."""
    epochs: int | None = None
    """Passes of fine-tuning over your texts; by default 4 from 30 texts on (60 where the sources have the classes)."""
    unlabelled: tuple[str, ...] = ()
    """Files of further texts, some hundreds: in a column of the same name, or a .txt's lines; labels are not read."""
    overwrite: bool = False
    """Replace the output folder."""

    def run(self) -> None:
        """Reads everything before anything is written."""
        from metatext.adaptation.adapt import adapt
        from metatext.encoders.transformers_loading import default_device
        from metatext.learners.learner import Learner

        check_free(self.output, self.overwrite)
        if self.table.by:
            raise InputError("--by parts source files into domains, but a file to adapt to is one: leave it out")
        names = parse_class_names(self.class_names) or None
        domain = read_domain(self.file, self.table)
        if len(domain.classes) < 2:
            raise InputError(f"{self.file} has only one class, {domain.classes[0]!r}, in column {self.table.label!r}")
        more = read_unlabelled(self.unlabelled, self.table)
        learner = Learner.from_pretrained(self.learner).to(default_device())
        adapted = adapt(learner, domain.texts, domain.labels, self.steps, names, self.blend, self.epochs, more)
        adapted.metadata["clean"] = list(self.table.clean)
        adapted.save_pretrained(self.output, self.overwrite)
        texts = f"{len(domain)} texts" + (f" and {adapted.metadata['unlabelled']} without labels" if more else "")
        found = [adapted.classes[i] for i in adapted.probabilities(domain.texts).argmax(1).tolist()]
        same = sum(given == own for given, own in zip(found, domain.labels, strict=True))
        print(
            f"{self.output}: a classifier of {len(adapted.classes)} classes, adapted to {texts}, "
            f"of which it gives {same} your label"
        )
        if start := adapted.metadata.get("start"):
            _print_start(start, adapted.metadata["epochs"])


def _print_start(start: dict[str, Any], epochs: int) -> None:
    """Where adaptation started, and for how long it fine-tuned, in the words of the options."""
    way = f"{start['blend']:.0%} of the way from pretrained to meta-trained"
    tuned = f"then fine-tuned in {epochs} passes over your texts" if epochs else "not fine-tuned"
    print(f"encoder: {way} (--blend), {tuned} (--epochs)")
    known = "those of the sources; what was learned of them" if start["shared"] else "what their names say"
    if start["names_weight"]:
        print(f"classes: {known} counts as much as {start['names_weight']:g} more texts of each")
    else:
        why = "no label says what it means, or your texts speak against it"
        print(f"classes: known by your texts alone ({why}); --class-names label=name ... gives names")


@dataclass(frozen=True)
class Predict:
    """Label the texts of a file: adds the columns label and score (its probability).

    A column of the file that has one of these names is called label_given, score_given in the output.

    Example: metatext predict my-model posts.csv --text text --output out.jsonl
    """

    model: Positional[str]
    """Folder or Hub id of an adapted classifier."""
    file: Positional[str]
    """The texts: csv, tsv, jsonl, json or parquet, whose columns are all kept; or a .txt's lines."""
    output: str
    """File to write: .jsonl, .csv or .parquet."""
    text: str = "text"
    """Column that holds the texts."""
    encoding: str | None = None
    """Encoding of the file; by default UTF-8 or GB18030, whichever fits."""
    clean: tuple[str, ...] = ()
    """What to clean from the texts before they are classified (by default, what adapt cleaned); the file keeps them."""
    overwrite: bool = False
    """Replace the output file."""

    def run(self) -> None:
        """Reads everything before anything is written."""
        from metatext.adaptation.inference import load_classifier, predict
        from metatext.data.cleaning import clean_texts
        from metatext.data.readers import read_texts
        from metatext.data.writers import check_writable, write_rows

        check_free_file(self.output, self.overwrite)
        check_writable(self.output)
        rows, texts = read_texts(self.file, self.text, self.encoding)
        model, tokens, metadata = load_classifier(self.model)
        clean = self.clean or metadata.get("clean")
        best = predict(model, tokens, clean_texts(texts, clean or None)).max(1)
        for name in ("label", "score"):
            if name in rows.column_names:
                kept = f"{name}_given"
                while kept in rows.column_names:
                    kept += "_given"
                rows = rows.rename_column(name, kept)
        rows = rows.add_column("label", [model.config.id2label[i] for i in best.indices.tolist()])
        write_rows(rows.add_column("score", best.values.tolist()), self.output)
        print(f"{self.output}: {len(texts)} texts labelled")


@dataclass(frozen=True)
class Evaluate:
    """Compare the learner with what people use instead, on the same few-shot draws of a target file.

    Prints accuracy and macro-F1 with 95% confidence intervals over the draws.
    Example: metatext evaluate runs/news --target weibo.jsonl --shots 1 5 10 --draws 10 --output table.json
    """

    runs: Positional[tuple[str, ...]]
    """One or more folders or Hub ids of learners (first-order MAML and full MAML, say)."""
    target: str
    """Labelled file of the target domain."""
    output: str
    """JSON file for the table and every single result; a report is written beside it, with suffix .md."""
    table: OmitArgPrefixes[Table] = field(default_factory=Table)
    settings: OmitArgPrefixes[EvaluateSettings] = field(default_factory=EvaluateSettings)
    source: tuple[str, ...] = ()
    """Source files of joint training; by default those that the first run was trained on."""
    overwrite: bool = False
    """Replace the output files."""
    progress: bool = True
    """Whether a progress bar is shown; --no-progress: none."""

    def run(self) -> None:
        """Reads everything before anything is written."""
        from metatext.evaluation.run import evaluate, evaluation_files
        from metatext.training.source_note import read_noted_sources

        files = evaluation_files(Path(self.output), self.settings.plot)
        for file in files:
            check_free_file(file, self.overwrite)
        if not self.runs:
            raise InputError("name one or more learners to evaluate: metatext evaluate runs/news --target ...")
        target = read_domain(self.target, self.table)
        test = read_domain(self.settings.test, self.table) if self.settings.test else None
        sources = read_domains(self.source, self.table)
        if not sources and {"source", "joint"} & set(self.settings.methods):
            sources = read_noted_sources(self.runs[0])
        result = evaluate(
            list(self.runs), target, sources, self.settings, test, Path(self.output), progress=self.progress
        )
        print(result["table"], *result["differences"], f"written: {', '.join(map(str, files))}", sep="\n")


@dataclass(frozen=True)
class Export:
    """Push an adapted classifier, or a learner, to the Hugging Face Hub with a model card.

    Log in first with `hf auth login` (or set HF_TOKEN).
    Example: metatext export my-model --hub-id user/name --private
    """

    folder: Positional[str]
    """Folder of a classifier (from adapt) or of a learner (from train)."""
    hub_id: str
    """Name on the Hub: user/name."""
    private: bool = False
    """Make the repository private."""
    table: str | None = None
    """JSON file of `metatext evaluate`; its scores go into the model card."""

    def run(self) -> None:
        """Pushes, and prints where to."""
        from metatext.hub.export import push

        print(push(self.folder, self.hub_id, self.private, self.table))
