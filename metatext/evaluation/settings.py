"""Settings of an evaluation: each is a field here and an option of the command line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from metatext.data.class_names import parse_class_names
from metatext.options import check_at_least, check_finite, check_positive


@dataclass(frozen=True)
class EvaluateSettings:
    """How methods are compared."""

    shots: tuple[int, ...] = (1, 5, 10)
    """Labelled texts per class."""
    draws: int = 10
    """Random supports per number of shots."""
    methods: tuple[
        Literal[
            "majority",
            "tfidf",
            "centroid",
            "frozen",
            "setfit",
            "finetune",
            "probe",
            "source",
            "joint",
            "maml",
            "unlabelled",
            "ablations",
        ],
        ...,
    ] = ("majority", "tfidf", "centroid", "frozen", "finetune", "probe", "source", "joint", "maml")
    """Rows of the table. By default all but setfit, which takes minutes a fit on a CPU, unlabelled, the
    learners given other texts of the target too, and ablations, the parts of the default adaptation."""
    class_names: tuple[str, ...] = ()
    """What labels are called in the language of the texts, as label=name, for the given learners (as in adapt)."""
    test: str | None = None
    """Another labelled file of the target to judge on; by default, target rows that are not in the support."""
    ways: int | None = None
    """Classes per draw, drawn at random; by default all."""
    test_size: int = 1000
    """Most rows that a draw is judged on."""
    max_length: int | None = None
    """Longest text in tokens, for all methods alike; by default the learner's."""
    draw_seed: int = 0
    """Seed of the draws."""
    fine_tune_steps: int = 40
    """Fewest steps of fine-tuning, batches of 16."""
    fine_tune_epochs: float = 10.0
    """Fewest passes of fine-tuning over the labelled texts: many of them take more steps."""
    fine_tune_lr: float = 1e-4
    """Learning rate of fine-tuning and joint training."""
    setfit_steps: int = 250
    """Most steps of SetFit, batches of 16 pairs, which it draws from all pairs of the labelled texts."""
    joint: str | None = None
    """Folder to keep the jointly trained classifier in; used if it is there already."""
    joint_epochs: float = 1.0
    """Passes over the source rows in joint training."""
    precision: Literal["no", "bf16"] = "no"
    """Precision of the encoder's passes, for all methods alike."""
    plot: bool = False
    """Draw accuracy against shots as well, in an SVG file beside the output (with metatext[plot])."""

    def __post_init__(self) -> None:
        parse_class_names(self.class_names)
        check_at_least(self, 0, "draw_seed")
        check_at_least(self, 1, "test_size", "fine_tune_steps", "setfit_steps")
        check_at_least(self, 0, "fine_tune_epochs")
        check_positive(self, "fine_tune_lr", "joint_epochs")
        check_finite(self, "fine_tune_epochs", "joint_epochs")
        for name, least in (("ways", 2), ("max_length", 1)):
            if getattr(self, name) is not None:
                check_at_least(self, least, name)
