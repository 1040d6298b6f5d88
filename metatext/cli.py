"""The `metatext` command: pretrain, train, search, adapt, predict, evaluate, export."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import OmitArgPrefixes, Positional, subcommand

from metatext.errors import InputError
from metatext.files import absolute, check_free, check_free_file, write_json
from metatext.runner import run_command
from metatext.settings import EvaluateSettings, Job, PretrainSettings, SearchSettings, Table, names_by_label
from metatext.user_files import read_domain, read_domains, read_unlabelled

# What the library does is imported inside the commands, so that --help needs no torch.


@dataclass(frozen=True)
class Pretrain:
    """Pre-train an encoder further on unlabelled texts of your domain, before meta-training: masked language modelling.

    Example: metatext pretrain BAAI/bge-base-zh-v1.5 --texts posts.csv --output encoders/posts
    """

    encoder: Positional[str]
    """Pretrained encoder: a Hub id or a folder."""
    texts: tuple[str, ...]
    """One or more files of texts: tables, or .txt files of one a line. Labels are not read."""
    output: str
    """Folder for the encoder."""
    table: OmitArgPrefixes[Table] = field(default_factory=Table)
    settings: OmitArgPrefixes[PretrainSettings] = field(default_factory=PretrainSettings)

    def run(self) -> None:
        """Reads everything before anything is written."""
        from metatext.pretrain import pretrain

        if self.table.by:
            raise InputError("--by parts labelled files into domains, but these are texts without labels: leave it out")
        texts = read_unlabelled(self.texts, self.table)
        loss = pretrain(self.encoder, texts, self.output, self.settings)
        print(
            f"{self.output}: pre-trained on {len(texts)} texts, loss {loss:.2f} nats a masked token in the last epoch"
        )
        if prefix := self.settings.text_prefix:
            print(f"its tokenizer puts no prefix: train it with --text-prefix {prefix!r} too")


@dataclass(frozen=True)
class Train(Job):
    """Meta-train a learner: its initialisation and inner learning rates, over episodes of labelled source files.

    Example: metatext train --source news.jsonl reviews.csv --encoder BAAI/bge-base-zh-v1.5 --output runs/news
    """

    def run(self) -> None:
        """Reads everything before anything is written."""
        from accelerate import PartialState

        from metatext.pipeline import train

        if not self.config.output:
            raise InputError("name a folder for the run: --output runs/name")
        domains, texts = read_domains(self.source, self.table), read_unlabelled(self.unlabelled, self.table)
        summary = train(domains, self.encoder, self.learner, self.episodes, self.config, target_texts=texts)
        if not PartialState().is_main_process:
            return
        write_json(
            Path(self.config.output) / "sources.json",
            [{"path": absolute(path)} | dataclasses.asdict(self.table) for path in self.source],
        )
        chosen = summary["validation"] and not self.config.adversarial
        found = f", best validation accuracy {summary['best_accuracy']:.3f}" if chosen else ""
        print(f"{self.config.output}: {summary['step']} meta-steps in {summary['seconds']:.0f} s{found}")


@dataclass(frozen=True)
class Search(Job):
    """Search the learning rates, inner steps, scope and order of meta-training, judged on held-out source classes.

    Needs pip install 'metatext[search]'. Repeat the command to go on after an interruption. The output folder gets
    trials.csv, importances.svg and best.py, which trains the best configuration and evaluates it on a target.
    Example: metatext search --source news.jsonl reviews.csv --encoder BAAI/bge-base-zh-v1.5 --output runs/search
    """

    encoder: str
    """Pretrained encoder: a Hub id or a folder."""
    settings: OmitArgPrefixes[SearchSettings] = field(default_factory=SearchSettings)

    def run(self) -> None:
        """Runs the trials that are missing, and says which was the best."""
        from metatext.search import search
        from metatext.space import in_words
        from metatext.trials import best_of, finished, objective_of

        study = search(self, self.settings)
        best, trials = best_of(study), finished(study)
        found = "none of which completed: search smaller learning rates"
        if best:
            found = f"best validation {objective_of(study)} {best.value:.3f} with {in_words(best.params)}"
        print(f"{self.config.output}: {len(trials)} trials, {found}")


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
        from metatext.adapt import adapt
        from metatext.learner import Learner, default_device

        check_free(self.output, self.overwrite)
        if self.table.by:
            raise InputError("--by parts source files into domains, but a file to adapt to is one: leave it out")
        names = names_by_label(self.class_names) or None
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
        from metatext.adapt import load_classifier, predict
        from metatext.cleaning import clean_texts
        from metatext.tables import check_writable, read_texts, write_rows

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
        from metatext.pipeline import evaluate, evaluation_files, read_sources

        files = evaluation_files(Path(self.output), self.settings.plot)
        for file in files:
            check_free_file(file, self.overwrite)
        if not self.runs:
            raise InputError("name one or more learners to evaluate: metatext evaluate runs/news --target ...")
        target = read_domain(self.target, self.table)
        test = read_domain(self.settings.test, self.table) if self.settings.test else None
        sources = read_domains(self.source, self.table) or read_sources(self.runs[0], self.settings.methods)
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
        from metatext.export import push

        print(push(self.folder, self.hub_id, self.private, self.table))


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
    """Runs the command line; a user's mistake is one sentence on standard error and exit code 2."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    run_command(Command, words, prog="metatext", description=_ABOUT)


_ABOUT = (
    "Meta-learn an initialisation for a transformer text classifier over labelled source domains, then adapt it to "
    "your own data with a handful of labels. Every command has its own --help; --debug shows tracebacks."
)
