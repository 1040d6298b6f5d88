"""The commands that use what was trained or adapted: predict, evaluate, export."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from tyro.conf import OmitArgPrefixes, Positional

from metatext.data.domains import Domain
from metatext.data.settings import Table
from metatext.data.user_files import read_domain, read_domains
from metatext.errors import InputError
from metatext.evaluation.settings import EvaluateSettings
from metatext.files import check_free_file


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

        files = evaluation_files(Path(self.output), self.settings.plot)
        for file in files:
            check_free_file(file, self.overwrite)
        if not self.runs:
            raise InputError("name one or more learners to evaluate: metatext evaluate runs/news --target ...")
        target = read_domain(self.target, self.table)
        test = read_domain(self.settings.test, self.table) if self.settings.test else None
        sources = read_domains(self.source, self.table)
        if not sources and {"source", "joint"} & set(self.settings.methods):
            sources = self._listed_sources()
        runs, output, progress = list(self.runs), Path(self.output), self.progress
        result = evaluate(runs, target, sources, self.settings, test, output, progress=progress, encoder=self.encoder)
        print(result["table"], *result["differences"], f"written: {', '.join(map(str, files))}", sep="\n")

    def _listed_sources(self) -> list[Domain]:
        """Returns the source domains of the first learner; none if the learner does not say which.

        Raises:
            InputError: --methods asks for a row that needs the sources, which are unknown.
        """
        from metatext.training.source_list import read_listed_sources

        try:
            return read_listed_sources(self.runs[0])
        except InputError:
            if self.settings.methods != EvaluateSettings().methods:
                raise
        return []


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
