"""Settings of files, learner, training, evaluation, search: each is a field here and an option of the command line."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from tyro.conf import OmitArgPrefixes

from metatext.errors import InputError


@dataclass(frozen=True)
class Table:
    """How to read the user's files (csv, tsv, jsonl, json, parquet)."""

    text: str = "text"
    """Column that holds the texts."""
    label: str = "label"
    """Column that holds the labels."""
    encoding: str | None = None
    """Encoding of the files; by default UTF-8 or GB18030, whichever fits."""
    clean: tuple[str, ...] = ()
    """What to clean from the texts: weibo (everything), or any of mentions urls reposts topics emoticons fullwidth."""
    by: str | None = None
    """Column that parts a source file into domains, one for each of its values."""


def _check_least(settings: Any, least: int, *names: str) -> None:
    for name in names:
        if not getattr(settings, name) >= least:  # nor is it NaN
            raise InputError(f"{name} must be at least {least}, got {getattr(settings, name)}")


def _check_passes(settings: Any, *names: str) -> None:
    for name in names:
        if getattr(settings, name) == math.inf:
            raise InputError(f"{name} must be a number of passes over the texts, got inf")


def _check_above_0(settings: Any, *names: str) -> None:
    for name in names:
        if getattr(settings, name) <= 0:
            raise InputError(f"{name} must be above 0, got {getattr(settings, name)}")


def names_by_label(pairs: Sequence[str], option: str = "class_names") -> dict[str, str]:
    """The names of `--class-names` or another option, each written label=name.

    Raises:
        InputError: a pair without "=" or without a name; a label that has two.
    """
    names: dict[str, str] = {}
    for pair in pairs:
        label, _, name = pair.partition("=")
        if not label or not name:
            raise InputError(f"{option} must be label=name, such as sports=体育, got {pair!r}")
        if label in names:
            raise InputError(f"{option} gives label {label!r} two names, {names[label]!r} and {name!r}")
        names[label] = name
    return names


@dataclass(frozen=True)
class LearnerSettings:
    """What is stored with a learner beside its weights."""

    head: Literal["prototype", "linear"] = "prototype"
    """prototype: built from each task's support, any classes. linear: learned, for classes that all domains share."""
    scope: str = "all"
    """What the inner loop moves: all, head, body, top:L (the upper L layers and the head), or lora (low-rank adapters
    and the head; the rest of the encoder is frozen)."""
    lora_rank: int = 8
    """Rank of the adapters of scope lora."""
    algorithm: Literal["maml", "imaml", "reptile"] = "maml"
    """maml: the gradient of the query loss through the inner loop. imaml: the implicit gradient at its end (Rajeswaran
    2019). reptile: the sum of the inner gradients (Nichol 2018)."""
    inner_steps: int = 5
    """Gradient steps of the inner loop; 0 with a prototype head is a prototypical network (Snell 2017)."""
    inner_lr: float = 0.01
    """Inner learning rate at the start of meta-training, for every layer and step."""
    inner_optimizer: Literal["sgd", "adam"] = "sgd"
    """adam: Adam's steps in the inner loop, for first-order training and adaptation (inner_lr of about 1e-4)."""
    learn_inner_lr: bool = True
    """Meta-learn the inner learning rates (with maml); the option turns it off."""
    inner_rates: Literal["layer", "parameter"] = "layer"
    """A rate per layer and step (Antoniou 2019), or one per parameter (Meta-SGD, Li 2017; a copy of what moves)."""
    second_order_steps: int = 0
    """Differentiate through this many of the last inner steps: 0 is first-order MAML, inner_steps is full MAML."""
    hvp: Literal["exact", "finite-difference", "one-sided"] = "exact"
    """Hessian-vector products by double backward, or by a difference of gradients (less memory): central, or one-sided
    (one pass less a step, less exact). Differences need full precision."""
    kept_graphs: int | Literal["auto"] = 0
    """With exact products, keep the graphs of this many of the last inner steps: faster, in more memory. auto: as many
    as half of the free memory holds."""
    proximal: float = 1.0
    """iMAML's pull towards the initialisation, lambda: smaller adapts more, and asks for more inner steps."""
    prototype_gradient: bool = True
    """Let the meta-gradient flow through the prototype head into the encoder; off: the head's start is a constant."""
    pooling: Literal["mean", "cls"] = "mean"
    """Text vector: mean over the tokens, or the first token."""
    text_prefix: str = ""
    """Put before every text, for encoders that were trained with one, such as "query: " for the E5 family."""
    max_length: int = 128
    """Longest text, in tokens; longer ones are cut."""
    batch_size: int = 64
    """Most texts in one pass of the encoder: fewer need less memory, also for recomputed second-order steps."""
    classes: tuple[str, ...] = ()
    """Class names of a linear head."""

    def __post_init__(self) -> None:
        for name, allowed in (
            ("head", ("prototype", "linear")),
            ("algorithm", ("maml", "imaml", "reptile")),
            ("inner_optimizer", ("sgd", "adam")),
            ("inner_rates", ("layer", "parameter")),
            ("hvp", ("exact", "finite-difference", "one-sided")),
            ("pooling", ("mean", "cls")),
        ):
            if getattr(self, name) not in allowed:
                raise InputError(f"{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}")
        if not re.fullmatch(r"all|head|body|lora|top:[1-9]\d*", self.scope):
            raise InputError(f"scope must be all, head, body, lora or top:L such as top:2, got {self.scope!r}")
        fewest = 0 if self.head == "prototype" and self.algorithm == "maml" else 1
        for name, least in (("inner_steps", fewest), ("max_length", 8), ("lora_rank", 1), ("batch_size", 1)):
            _check_least(self, least, name)
        _check_above_0(self, "inner_lr", "proximal")
        if not 0 <= self.second_order_steps <= self.inner_steps:
            raise InputError(
                f"second_order_steps must be from 0 to inner_steps ({self.inner_steps}), got {self.second_order_steps}"
            )
        if self.second_order_steps and (self.algorithm != "maml" or self.inner_optimizer == "adam"):
            what = "inner_optimizer='adam'" if self.algorithm == "maml" else f"algorithm={self.algorithm!r}"
            raise InputError(f"{what} is first-order: leave second_order_steps at 0")
        if self.algorithm == "imaml" and self.inner_optimizer == "adam":
            raise InputError("algorithm='imaml' takes plain gradient steps: leave inner_optimizer at 'sgd'")
        if self.algorithm == "reptile" and self.scope == "head" and self.head == "prototype":
            raise InputError("algorithm='reptile' with scope='head' and a prototype head has nothing to learn")
        if self.inner_rates == "parameter" and (self.algorithm != "maml" or self.inner_steps == 0):
            raise InputError("inner_rates='parameter' needs algorithm='maml' and inner steps, which learn the rates")
        if self.kept_graphs != "auto" and (isinstance(self.kept_graphs, str) or self.kept_graphs < 0):
            raise InputError(f"kept_graphs must be 'auto' or 0 or more, got {self.kept_graphs!r}")
        object.__setattr__(self, "classes", tuple(self.classes))

    @property
    def method(self) -> str:
        """The method's name in tables."""
        if self.inner_steps == 0:
            return "prototypical network"
        if self.algorithm != "maml":
            return {"imaml": "iMAML", "reptile": "Reptile"}[self.algorithm]
        name = {"head": "ANIL", "body": "BOIL"}.get(self.scope, "MAML")
        if self.inner_rates == "parameter":
            name += " with Meta-SGD"
        name += {"lora": " with LoRA"}.get(self.scope, "") + (", Adam inside" if self.inner_optimizer == "adam" else "")
        order = {0: "first-order", self.inner_steps: "full"}.get(self.second_order_steps, "truncated")
        return f"{order} {name}"

    @property
    def rates_learned(self) -> bool:
        """Whether meta-training changes the inner learning rates."""
        return self.learn_inner_lr and self.algorithm == "maml" and self.inner_steps > 0


@dataclass(frozen=True)
class TrainConfig:
    """Settings of the outer loop."""

    meta_steps: int = 150
    """Outer steps (updates of the initialisation)."""
    meta_batch_size: int = 4
    """Episodes per outer step, shared between the processes."""
    outer_lr: float = 3e-5
    """Peak learning rate of the encoder (AdamW)."""
    head_lr: float = 1e-3
    """Peak learning rate of a learned (linear) head, and of the adversary."""
    rate_lr: float = 1e-2
    """Peak learning rate of the logarithms of the inner learning rates and of the prototype head's scale."""
    weight_decay: float = 0.01
    """Decoupled weight decay of the encoder's matrices."""
    warmup_fraction: float = 0.1
    """Share of the outer steps during which the learning rates rise to their peak; they fall to 0 linearly after."""
    max_grad_norm: float = 1.0
    """The encoder's meta-gradient is scaled down to this norm where it is larger."""
    multi_step_fraction: float = 0.0
    """Share of the outer steps with a query loss after each inner step, whose weights move to the last one's (MAML++,
    Antoniou 2019)."""
    first_order_fraction: float = 0.0
    """Share of the outer steps, from the first, that are first-order whatever second_order_steps says (MAML++)."""
    names: bool = True
    """Let what a class is called, its label in words, stand among its support texts, so that the encoder learns where
    names lie. So it is in episodes whose classes all have one: a label that says nothing, such as a number, or that the
    encoder cannot read, is none, nor are those of a domain of two classes. Not with a learned (linear) head."""
    adversarial: float = 0.0
    """Weight of domain-adversarial training: with unlabelled texts of the target, the encoder learns to give no sign of
    whether a text is the target's or a source's (DANN, Ganin 2016). Validation then stops and chooses nothing: it is of
    source classes, and the last weights are kept."""
    eval_every: int = 25
    """Outer steps between two validations."""
    eval_episodes: int = 24
    """Validation episodes, the same at each validation."""
    patience: int = 4
    """Stop after this many validations without a better one; 0: never."""
    save_every: int = 25
    """Outer steps between two checkpoints."""
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    """Precision of the encoder's passes (weights and updates stay float32); fp16 is meant for GPUs."""
    output: str | None = None
    """Folder for the learner and the checkpoints (in Python, without one nothing is written)."""
    resume: bool = False
    """Go on from the last checkpoint in the output folder."""
    overwrite: bool = False
    """Replace a run that is in the output folder."""
    tracker: str | None = None
    """Experiment tracker, any that Accelerate knows: tensorboard, wandb, ..."""
    progress: bool = True
    """Whether a progress bar is shown; --no-progress: none."""

    def __post_init__(self) -> None:
        _check_least(self, 1, "meta_steps", "meta_batch_size", "eval_every", "eval_episodes", "save_every")
        _check_least(self, 0, "patience", "weight_decay", "adversarial")
        _check_above_0(self, "outer_lr", "head_lr", "rate_lr", "max_grad_norm")
        for name in ("multi_step_fraction", "first_order_fraction", "warmup_fraction"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} must be from 0 to 1, got {getattr(self, name)}")
        if self.resume and self.overwrite:
            raise InputError("--resume and --overwrite contradict each other: choose one")


_ONCE = {"names": False, "setfit_steps": None, "fine_tune_epochs": 0.0}
"""What was done before there was an option for it, where this is not its default."""


def defaults_of(*kinds: type) -> dict[str, Any]:
    """The value of every option of these settings, by its name, as JSON has it, that a note which lacks it meant."""
    found = {k: v for kind in kinds for k, v in json.loads(json.dumps(dataclasses.asdict(kind()))).items()}
    return found | {name: value for name, value in _ONCE.items() if name in found}


@dataclass(frozen=True)
class PretrainSettings:
    """How an encoder is pre-trained further."""

    epochs: float = 1.0
    """Passes over the texts."""
    lr: float = 5e-5
    """Peak learning rate (AdamW, 10% warm-up, linear decay)."""
    batch_size: int = 32
    """Texts a step, on each GPU."""
    max_length: int = 128
    """Longest text, in tokens; longer ones are cut."""
    text_prefix: str = ""
    """Put before every text, for encoders that were trained with one; give it to train as well."""
    mixed_precision: Literal["no", "bf16"] = "no"
    """Precision of the passes; the weights stay float32."""
    seed: int = 0
    """Seed of the order of the texts, of what is masked, and of a new head."""
    progress: bool = True
    """Whether a progress bar is shown; --no-progress: none."""

    def __post_init__(self) -> None:
        _check_least(self, 1, "batch_size")
        _check_least(self, 8, "max_length")
        _check_above_0(self, "epochs", "lr")
        if not 0 <= self.seed < 2**32:
            raise InputError(f"seed must be from 0 to 2**32 - 1, got {self.seed}")
        _check_passes(self, "epochs")


@dataclass(frozen=True)
class EpisodeSettings:
    """What the episodes of meta-training look like."""

    ways: int = 5
    """Classes per episode."""
    shots: int = 5
    """Support texts per class, which the inner loop sees."""
    queries: int = 15
    """Query texts per class, which the meta-gradient is taken of."""
    varied: bool = False
    """Let --ways and --shots be the most: episodes have 2 to so many classes, and 1 to so many support texts of each.
    Sources with few classes, such as polarity, can then join those with many."""
    temperature: float | None = None
    """T: a source is drawn with probability proportional to its rows to the power 1/T, 1 is by size; by default all are
    equally likely."""
    hard: float = 0.0
    """Share of the episodes whose classes are hard to tell apart: one at random, and those most like it in words."""
    seed: int = 0
    """Seed of everything random."""
    valid_fraction: float = 0.2
    """Share of the sources' classes held out for validation and early stopping; 0: no validation."""
    valid_classes: tuple[str, ...] = ()
    """Class names to hold out for validation instead of a random share."""

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise InputError(f"seed must be 0 or more, got {self.seed}")
        if not 0 <= self.hard <= 1:
            raise InputError(f"hard must be from 0 to 1, got {self.hard}")
        if not 0 <= self.valid_fraction < 1:
            raise InputError(f"valid_fraction must be from 0 to below 1, got {self.valid_fraction}")


@dataclass(frozen=True)
class Job:
    """What is meta-trained, on what, and how; a search trains it with other values in each trial."""

    source: tuple[str, ...]
    """One or more labelled files, each a source domain; or data sets on the Hub, as hub:ID[:CONFIG[:SPLIT]]."""
    encoder: str
    """Pretrained encoder: a Hub id or a folder; or a saved learner to go on from."""
    unlabelled: tuple[str, ...] = ()
    """Files of unlabelled texts of the target, for --adversarial: tables, or a .txt's lines; labels are not read."""
    table: OmitArgPrefixes[Table] = field(default_factory=Table)
    episodes: OmitArgPrefixes[EpisodeSettings] = field(default_factory=EpisodeSettings)
    learner: OmitArgPrefixes[LearnerSettings] = field(default_factory=LearnerSettings)
    config: OmitArgPrefixes[TrainConfig] = field(default_factory=TrainConfig)


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
        names_by_label(self.class_names)
        _check_least(self, 0, "draw_seed")
        _check_least(self, 1, "test_size", "fine_tune_steps", "setfit_steps")
        _check_least(self, 0, "fine_tune_epochs")
        _check_above_0(self, "fine_tune_lr", "joint_epochs")
        _check_passes(self, "fine_tune_epochs", "joint_epochs")
        for name, least in (("ways", 2), ("max_length", 1)):
            if getattr(self, name) is not None:
                _check_least(self, least, name)


@dataclass(frozen=True)
class SearchSettings:
    """How hyper-parameters are searched."""

    space: tuple[str, ...] = (
        *("inner-lr=0.001..0.1", "outer-lr=3e-6..3e-4", "inner-steps=1..8", "scope=all,head,top:2"),
        "order=prototypical,first-order,full",
    )
    """What is searched: some of these names, each alone, as name=low..high or as name=a,b,c. All else stays as given. A
    prototypical network has no inner rate, steps or scope."""
    trials: int = 20
    """Trials of the study, on all machines together; pruned ones count, interrupted ones do not."""
    objective: Literal["accuracy", "loss"] = "accuracy"
    """What trials are judged by: the best validation accuracy; or the loss there, which tells more trials apart where
    few classes are held out."""
    sampler: Literal["tpe", "random", "grid"] = "tpe"
    """tpe: near what did well (Bergstra 2011). grid: up to all combinations, in random order; a range of learning rates
    gives its ends and one value a decade."""
    pruner: Literal["median", "halving", "none"] = "median"
    """Trials to stop at a validation: from the sixth on, those below the median of the others; or, by successive
    halving, all but the best quarter after eval_every steps, four times as many, and so on."""
    storage: str | None = None
    """Database that machines share, such as postgresql://user@host/name, any URL that Optuna takes; by default study.db
    in the output folder."""
    study: str = "metatext"
    """Name of the study in the database."""

    def __post_init__(self) -> None:
        if self.trials < 1:
            raise InputError(f"trials must be at least 1, got {self.trials}")
        for name, allowed in (
            ("objective", ("accuracy", "loss")),
            ("sampler", ("tpe", "random", "grid")),
            ("pruner", ("median", "halving", "none")),
        ):
            if getattr(self, name) not in allowed:
                raise InputError(f"{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}")
