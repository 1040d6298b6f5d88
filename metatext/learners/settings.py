"""Settings of a learner: each is a field here and an option of the command line."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from metatext.errors import InputError
from metatext.options import check_at_least, check_positive


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
            check_at_least(self, least, name)
        check_positive(self, "inner_lr", "proximal")
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
