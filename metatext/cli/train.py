"""The commands that train a model: pretrain, train, search."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from tyro.conf import OmitArgPrefixes, Positional

from metatext.data.settings import Table
from metatext.data.user_files import read_domains, read_unlabelled
from metatext.errors import InputError
from metatext.search.settings import SearchSettings
from metatext.training.job import Job
from metatext.training.settings import PretrainSettings


@dataclass(frozen=True)
class Pretrain:
    """Continue the masked language modelling of an encoder on unlabelled texts of your domain, before meta-training.

    Example: metatext pretrain BAAI/bge-base-zh-v1.5 --texts posts.csv --output encoders/posts
    """

    encoder: Positional[str]
    """Pretrained encoder with a masked-language-modelling head, such as BERT: a Hub id or a folder."""
    texts: tuple[str, ...]
    """One or more files of texts: tables, or .txt files with one text per line. Labels are not read."""
    output: str
    """Folder to write the encoder to."""
    table: OmitArgPrefixes[Table] = field(default_factory=Table)
    settings: OmitArgPrefixes[PretrainSettings] = field(default_factory=PretrainSettings)

    def run(self) -> None:
        """Runs the command; all input is read before anything is written."""
        from metatext.training.pretrain import pretrain

        if self.table.by:
            raise InputError("--by parts labelled files into domains, but these are texts without labels: leave it out")
        texts = read_unlabelled(self.texts, self.table)
        loss = pretrain(self.encoder, texts, self.output, self.settings)
        print(
            f"{self.output}: pre-trained on {len(texts)} texts, loss {loss:.2f} nats a masked token in the last epoch"
        )
        if prefix := self.settings.text_prefix:
            print(f"its tokenizer adds no prefix: meta-train it with --text-prefix {prefix!r} too")


@dataclass(frozen=True)
class Train(Job):
    """Meta-train a learner (its initialisation and inner learning rates) on episodes drawn from labelled source files.

    Example: metatext train --source news.jsonl reviews.csv --encoder BAAI/bge-base-zh-v1.5 --output runs/news
    """

    def run(self) -> None:
        """Runs the command; all input is read before anything is written."""
        from accelerate import PartialState

        from metatext.training.meta_training import train
        from metatext.training.source_list import write_source_list

        if not self.config.output:
            raise InputError("name a folder for the run: --output runs/name")
        domains, texts = read_domains(self.source, self.table), read_unlabelled(self.unlabelled, self.table)
        summary = train(domains, self.encoder, self.learner, self.episodes, self.config, target_texts=texts)
        if not PartialState().is_main_process:
            return
        write_source_list(Path(self.config.output), self.source, self.table)
        chosen = summary["validation"] and not self.config.adversarial
        found = f", best validation accuracy {summary['best_accuracy']:.3f}" if chosen else ""
        print(f"{self.config.output}: {summary['step']} meta-steps in {summary['seconds']:.0f} s{found}")


@dataclass(frozen=True)
class Search(Job):
    """Search for the best settings of meta-training, measured on held-out source classes.

    The search varies the learning rates, the inner steps, the scope and the method (prototypical network, first-order
    or full MAML). It needs pip install 'metatext[search]'. To continue after an interruption, repeat the command. The
    output folder gets trials.csv, importances.svg and best.py. The script best.py trains the best configuration and
    evaluates it on a target.

    Example: metatext search --source news.jsonl reviews.csv --encoder BAAI/bge-base-zh-v1.5 --output runs/search
    """

    encoder: str
    """Pretrained encoder: a Hub id or a folder."""
    settings: OmitArgPrefixes[SearchSettings] = field(default_factory=SearchSettings)

    def run(self) -> None:
        """Runs the trials that are missing and prints the best configuration."""
        from metatext.search.search import search
        from metatext.search.search_space import combination_in_words
        from metatext.search.study_files import best_of, finished, objective_of

        study = search(self, self.settings)
        best, trials = best_of(study), finished(study)
        found = "none of which completed: search smaller learning rates"
        if best:
            found = f"best validation {objective_of(study)} {best.value:.3f} with {combination_in_words(best.params)}"
        print(f"{self.config.output}: {len(trials)} trials, {found}")
