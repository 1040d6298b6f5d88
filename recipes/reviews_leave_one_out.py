"""Meta-trains on the reviews of all domains but one, then adapts to that domain; each domain is held out in turn.

    python recipes/reviews_leave_one_out.py --data-dir DATA --encoder sentence-transformers/all-MiniLM-L6-v2

DATA is a folder of JSON lines files with the fields text, label (positive or negative) and domain:
    en/reviews_fdu_mtl.train, .test   reviews of 14 kinds of goods (FDU-MTL: pfliu.com/paper/adv-mtl.html)
    zh/reviews                        reviews of nine kinds of goods (github.com/SophonPlus/ChineseNlpCorpus);
                                      add --source zh/reviews --target zh/reviews --text-prefix "query: "
                                      --encoder intfloat/multilingual-e5-small

Each domain gets a folder in the output folder, with its learner and its table. mean.json and mean.md hold the mean
over the domains and its 95% confidence interval. A second run continues after the domains that are finished.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metatext.cli.runner import run_recipe
from metatext.errors import InputError
from metatext.evaluation.report import summarise, summary_table
from metatext.files import write_json, write_text
from metatext.recipe import Recipe, value_of
from metatext.settings import EpisodeSettings, EvaluateSettings, LearnerSettings, Table, TrainConfig


@dataclass(frozen=True)
class LeaveOneOut(Recipe):
    """Meta-train on all domains of a file but one, then evaluate on that one; each domain in turn.

    --source and --target name the same file, and --by names its column of domains.
    """

    def run(self) -> None:
        """Runs the recipe with each domain held out in turn, then writes and prints the mean of their tables.

        Raises:
            InputError: there are several targets, --held-out is given, or --by is not.
        """
        from accelerate import PartialState

        if len(self.target) != 1 or self.held_out is not None or not self.table.by:
            raise InputError(
                "each domain of one --target is held out in turn: name its column, --by, but no --held-out"
            )
        output, target, rows = Path(self.config.output or "runs"), self.target[0], list[Any]()
        names = [value_of(domain) for name in self.source for domain in self.source_domains(name)]
        for name in names:
            config = dataclasses.replace(self.config, output=str(output / name))
            recipe = dataclasses.replace(self, held_out=name, config=config)
            print(f"\n--- {name} is held out", flush=True)
            data = recipe.read()
            runs = recipe.train(data)
            if not PartialState().is_main_process:
                continue
            if not recipe.table_is_there(target):
                recipe.evaluate_all(runs, data)
            rows += json.loads(recipe.table_of(target).read_text(encoding="utf-8"))["rows"]
        if not PartialState().is_main_process:
            return
        means = [{"domains": row.pop("draws"), **row} for row in summarise(rows)]  # each domain counts as one draw
        write_json(output / "mean.json", {"domains": names, "rows": means})
        write_text(output / "mean.md", summary_table(means) + "\n")
        print(f"\nmean over {len(names)} domains, each held out in turn\n\n{summary_table(means)}")


LEAVE_ONE_OUT = LeaveOneOut(
    source=("en/reviews_fdu_mtl",),
    target=("en/reviews_fdu_mtl",),
    encoder="sentence-transformers/all-MiniLM-L6-v2",
    data_dir="data",
    orders=("first-order",),
    table=Table(by="domain"),
    episodes=EpisodeSettings(ways=2, shots=5, queries=5, valid_fraction=0),
    learner=LearnerSettings(inner_steps=0, max_length=96),
    config=TrainConfig(
        output="runs/reviews_leave_one_out", meta_steps=100, meta_batch_size=2, outer_lr=1e-4, save_every=100,
        mixed_precision="bf16",
    ),
    evaluate=EvaluateSettings(
        shots=(1, 2, 5, 10, 20), test_size=250, precision="bf16",
        methods=("majority", "names", "tfidf", "centroid", "frozen", "frozen+names", "no-meta-training", "maml"),
    ),
)  # fmt: skip

if __name__ == "__main__":
    run_recipe(LEAVE_ONE_OUT, __doc__)
