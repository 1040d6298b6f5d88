"""The methods to measure: the floor and the variants of metatext; and their random encoders and episodes."""

from __future__ import annotations

import copy
import math
import random
from dataclasses import dataclass
from typing import Any

import torch
from timing import Gradients
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, layer_norm

from metatext import Episode, Learner
from metatext.data.episodes import Examples
from metatext.learners.heads import LinearHead
from metatext.learners.meta_gradient import run_episode
from metatext.learners.settings import LearnerSettings

WAYS, SHOTS, QUERIES = 5, 5, 5
INNER_LR = 0.01
CLASSES = tuple(f"class {i}" for i in range(WAYS))


@dataclass(frozen=True)
class Shape:
    """A BERT encoder with random weights."""

    title: str
    layers: int
    hidden: int
    heads: int
    intermediate: int
    vocabulary: int
    upper: int
    """Number of layers L that the scope "top:L" moves."""

    def encoder(self, vocabulary: int | None = None) -> Any:
        """Returns the encoder, without a pooler; the random weights are the same in each call."""
        from transformers import BertConfig, BertModel

        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=vocabulary or self.vocabulary, hidden_size=self.hidden, num_hidden_layers=self.layers,
            num_attention_heads=self.heads, intermediate_size=self.intermediate,
        )  # fmt: skip
        return BertModel(config, add_pooling_layer=False)


SHAPES = {
    "tiny": Shape("tiny (2 x 128)", 2, 128, 2, 512, 8_000, upper=1),
    "minilm": Shape("MiniLM-L6 (6 x 384)", 6, 384, 12, 1_536, 30_522, upper=2),
    "base": Shape("BERT-base (12 x 768)", 12, 768, 12, 3_072, 30_522, upper=2),
}


def make_tokenizer(vocabulary: int) -> Any:
    """Returns a tokenizer whose vocabulary is the words w0, w1, ...; it puts texts between [CLS] and [SEP]."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = special + [f"w{i}" for i in range(vocabulary - len(special))]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {f"{token.strip('[]').lower()}_token": token for token in special}
    return PreTrainedTokenizerFast(tokenizer_object=backend, padding_side="right", **names)


def make_episode(vocabulary: int, length: int, seed: int = 0) -> Episode:
    """Returns an episode of random words, in which each text is `length` tokens long."""
    rng = random.Random(seed)

    def examples(per_class: int) -> Examples:
        labels = [label for label in range(WAYS) for _ in range(per_class)]
        texts = [" ".join(f"w{rng.randrange(vocabulary - 5)}" for _ in range(length - 2)) for _ in labels]
        return Examples(texts, labels)

    return Episode("random words", list(CLASSES), examples(SHOTS), examples(QUERIES))


def make_learner(shape: Shape, tokenizer: Any = None, **settings: Any) -> Learner:
    """Returns a learner with random weights, by default with a linear head and constant inner rates.

    Learners of equal shape have equal encoders.
    """
    values: dict[str, Any] = {"head": "linear", "classes": CLASSES, "learn_inner_lr": False, "inner_lr": INNER_LR}
    tokenizer = tokenizer or make_tokenizer(shape.vocabulary)
    learner = Learner(shape.encoder(), tokenizer, LearnerSettings(**(values | settings)), shape.title)
    if learner.settings.head == "linear":
        # With zeros, the first inner step would not move the encoder.
        nn.init.normal_(learner.head.get_parameter("weight"), std=0.1)
    return learner


def tokenised(tokenizer: Any, examples: Examples, **padding: Any) -> dict[str, Tensor]:
    """Returns all examples as one batch with labels, padded to its longest text unless `padding` says otherwise."""
    options: dict[str, Any] = {"padding": True, "truncation": True} | padding
    batch = tokenizer(examples.texts, return_tensors="pt", **options)
    names = ("input_ids", "attention_mask")
    return {name: batch[name] for name in names} | {"labels": torch.tensor(examples.labels)}


class Classifier(nn.Module):
    """A copy of the learner as a plain module with the same parameter names, for libraries that need one."""

    def __init__(self, learner: Learner) -> None:
        super().__init__()
        assert isinstance(learner.head, LinearHead)
        self.encoder, self.head = copy.deepcopy(learner.encoder), copy.deepcopy(learner.head)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> Tensor:
        """Returns the mean cross-entropy of the batch, 0-d."""
        states = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask.unsqueeze(-1).to(states.dtype)
        pooled = (states * mask).sum(1) / mask.sum(1)  # (n, hidden)
        features = layer_norm(pooled, pooled.shape[-1:], eps=1e-12)
        return cross_entropy(torch.nn.functional.linear(features, self.head.weight, self.head.bias), labels)


class Metatext:
    """metatext, from texts to the meta-gradient. Its cache keeps the token ids of texts from earlier rounds.

    Args:
        shape: the encoder.
        cached: whether the layers below the scope run once per episode; otherwise they run at every inner step.
        settings: fields of `LearnerSettings`.
    """

    def __init__(self, shape: Shape, cached: bool = True, **settings: Any) -> None:
        self.learner = make_learner(shape, **settings)
        if not cached:
            self.learner.cached, self.learner.parts = False, None

    def prepare(self, episode: Episode) -> None:
        self.episode = episode

    def run(self) -> Gradients:
        return run_episode(self.learner, self.episode).gradients

    def restore(self) -> None: ...

    def to(self, dtype: torch.dtype) -> None:
        self.learner.to(dtype)
        # The converted value would keep float32's rounding error.
        self.learner.log_inner_lr.data.fill_(math.log(INNER_LR))


class Floor:
    """The forward and backward passes alone: inner steps of in-place SGD on ready batches, then the query gradient.

    Tokenising and putting the initial weights back are not timed.
    """

    def __init__(self, learner: Learner, steps: int) -> None:
        self.model, self.steps, self.tokenizer = Classifier(learner), steps, learner.tokenizer
        self.names = [name for name, _ in self.model.named_parameters()]
        self.parameters = list(self.model.parameters())
        self.values = [p.detach().clone() for p in self.parameters]

    def prepare(self, episode: Episode) -> None:
        self.support, self.query = (tokenised(self.tokenizer, e) for e in (episode.support, episode.query))

    def batch(self, number: int) -> dict[str, Tensor]:
        """Returns the batch of pass `number`: the support in the inner steps, the query after them."""
        return self.query if number == self.steps else self.support

    def run(self) -> Gradients:
        for k in range(self.steps):
            gradients = torch.autograd.grad(self.model(**self.batch(k)), self.parameters)
            with torch.no_grad():
                for p, g in zip(self.parameters, gradients, strict=True):
                    p.add_(g, alpha=-INNER_LR)
        gradients = torch.autograd.grad(self.model(**self.batch(self.steps)), self.parameters)
        return dict(zip(self.names, gradients, strict=True))

    @torch.no_grad()
    def restore(self) -> None:
        for p, value in zip(self.parameters, self.values, strict=True):
            p.copy_(value)

    def to(self, dtype: torch.dtype) -> None:
        self.model.to(dtype)


class TokenisedEachStep(Floor):
    """The floor, with texts that are tokenised and padded to a fixed length in every pass."""

    def __init__(self, learner: Learner, steps: int, length: int) -> None:
        super().__init__(learner, steps)
        self.padding = {"padding": "max_length", "max_length": length}

    def prepare(self, episode: Episode) -> None:
        self.episode = episode

    def batch(self, number: int) -> dict[str, Tensor]:
        """Tokenises the texts of pass `number` and returns the batch."""
        part = self.episode.query if number == self.steps else self.episode.support
        return tokenised(self.tokenizer, part, **self.padding)


def variants(steps: int) -> dict[str, dict[str, Any]]:
    """Returns settings of metatext by row name: first-order and full MAML."""
    base: dict[str, Any] = {"inner_steps": steps}
    full = base | {"second_order_steps": steps}
    return {
        "first order": base,
        "first order, learned rates": base | {"learn_inner_lr": True},
        "first order, prototype head": base | {"head": "prototype"},
        "full MAML, graphs kept": full | {"kept_graphs": steps},
        "full MAML, recomputed": full,
        "full MAML, central difference": full | {"hvp": "finite-difference"},
        "full MAML, one-sided difference": full | {"hvp": "one-sided"},
    }


def batched_variants(steps: int) -> dict[str, dict[str, Any]]:
    """Returns settings of metatext by row name, in which each pass takes 5 texts in place of all 25."""
    names = ("first order", "full MAML, recomputed", "full MAML, one-sided difference")
    return {f"{name}, batches of 5": variants(steps)[name] | {"batch_size": 5} for name in names}


def scope_variants(shape: Shape, steps: int) -> dict[str, dict[str, Any]]:
    """Returns settings of metatext by row name: smaller scopes of the inner loop, and LoRA.

    In the rows "nothing cached", the layers below the scope run at every inner step.
    """
    result: dict[str, dict[str, Any]] = {}
    for scope in (f"top:{shape.upper}", "head"):
        for order, second in (("first order", 0), ("full MAML", steps)):
            settings = {"inner_steps": steps, "second_order_steps": second, "kept_graphs": second, "scope": scope}
            result[f"{order}, {scope}"] = settings
            if second and scope != "head":
                result[f"{order}, {scope}, one-sided difference"] = settings | {"hvp": "one-sided"}
            result[f"{order}, {scope}, nothing cached"] = settings | {"cached": False}
    result["first order"] = {"inner_steps": steps}
    result["first order, LoRA"] = {"inner_steps": steps, "scope": "lora"}
    return result
