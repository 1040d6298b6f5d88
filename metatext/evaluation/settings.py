"""Settings of an evaluation. Each field is an option of the command line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from metatext.data.class_names import parse_class_names
from metatext.errors import InputError
from metatext.options import check_at_least, check_finite, check_positive

MethodName = Literal[
    "majority",
    "names",
    "tfidf",
    "centroid",
    "frozen",
    "frozen+names",
    "setfit",
    "finetune",
    "probe",
    "source",
    "joint",
    "no-meta-training",
    "maml",
    "unlabelled",
    "ablations",
]
_NOT_BY_DEFAULT = ("setfit", "unlabelled", "ablations")


@dataclass(frozen=True)
class EvaluateSettings:
    """Settings of an evaluation."""

    shots: tuple[int, ...] = (1, 5, 10)
    """Labelled texts per class. At 0 there are rows of methods that need no label only."""
    draws: int = 10
    """Random supports per number of shots, at least 2."""
    methods: tuple[MethodName, ...] = tuple(name for name in get_args(MethodName) if name not in _NOT_BY_DEFAULT)
    """Rows of the table. Baselines: majority class; names: frozen encoder, class names but no label; tfidf: TF-IDF +
    logistic regression; centroid, frozen: frozen encoder + nearest centroid or logistic regression; frozen+names:
    frozen encoder + nearest centroid with names; setfit (minutes per fit on a CPU); finetune: fine-tuning;
    probe: linear probing, then fine-tuning; source: classifier of the sources; joint: joint training, then fine-tuning;
    no-meta-training: the pretrained encoder, adapted as the learners are.
    maml: the given learners, adapted; unlabelled: with unlabelled target texts; ablations: with one part changed.
    By default all but setfit, unlabelled and ablations."""
    names: bool = True
    """--no-names lets the given learners ignore class names, and what they know of source classes of the same name.
    The rows names and frozen+names are left out."""
    class_names: tuple[str, ...] = ()
    """Names of labels in the language of the texts, as label=name, or a file with the columns label and name.
    All methods that read names use them."""
    test: str | None = None
    """Labelled file with the test texts. Default: target rows outside the support."""
    ways: int | None = None
    """Classes per draw, drawn at random. Default: all."""
    test_size: int = 1000
    """Maximum number of test texts of a draw."""
    max_length: int | None = None
    """Maximum length of a text in tokens, for all methods.
    By default that of the encoder, up to 256; a learner takes that of its meta-training if it is longer."""
    draw_seed: int = 0
    """Random seed of the draws."""
    fine_tune_steps: int = 40
    """Minimum number of fine-tuning steps, with batches of 16 texts."""
    fine_tune_epochs: float = 10.0
    """Minimum number of fine-tuning passes over the labelled texts."""
    fine_tune_lr: float = 1e-4
    """Peak learning rate of fine-tuning and joint training."""
    setfit_steps: int = 250
    """Maximum number of SetFit steps, with batches of 16 random pairs of labelled texts."""
    joint: str | None = None
    """Folder of the jointly trained classifier. It is loaded if it exists, else trained and saved there."""
    joint_epochs: float = 1.0
    """Joint-training passes over the source texts."""
    precision: Literal["no", "bf16"] = "no"
    """Mixed precision of the encoder, for all methods. bf16 is bfloat16 autocast; no is float32."""
    plot: bool = False
    """Also plot accuracy against shots, in an SVG file beside the output. Needs metatext[plot]."""

    def __post_init__(self) -> None:
        names = parse_class_names(self.class_names)  # a file may change before the evaluation is resumed
        object.__setattr__(self, "class_names", tuple(f"{label}={name}" for label, name in names.items()))
        if names and not self.names:
            raise InputError("names=False and class_names contradict each other: choose one")
        if "ablations" in self.methods and not self.names:
            raise InputError("the ablations leave out names themselves: take methods without ablations, or names=True")
        check_at_least(self, 0, "draw_seed")
        check_at_least(self, 1, "test_size", "fine_tune_steps", "setfit_steps")
        check_at_least(self, 0, "fine_tune_epochs")
        check_positive(self, "fine_tune_lr", "joint_epochs")
        check_finite(self, "fine_tune_epochs", "joint_epochs")
        for name, least in (("ways", 2), ("max_length", 1)):
            if getattr(self, name) is not None:
                check_at_least(self, least, name)
