"""An episode on a learner, as a task of `metatext.inner`: which tensors the inner loop moves, and by which losses.

Some of a task's tensors are made from the meta-parameters when it starts, and its gradient is pulled back through them:

- the head's linear layer, from the class centroids (prototype head) or the rows of the task's classes (linear head);
- the rows of the word embeddings that the episode's texts use: no step touches the rest of the table;
- with scope `head` or `top:L`, the output of the layers below the scope for the support, which no step changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from metatext.core.gradients import Gradient, add, distinct
from metatext.core.inner_loop import recorded_steps
from metatext.core.task import Task
from metatext.data.episodes import Examples
from metatext.encoders.packing import Batch
from metatext.errors import InputError
from metatext.learners.heads import LinearLayer
from metatext.learners.learner import LabelledBatches, Learner

_TABLE, _WEIGHT, _BIAS, _BELOW = "table", "layer.weight", "layer.bias", "below."


class EpisodeTask:
    """A support set, and the query set if there is one, bound to the learner's parameters.

    `order` is how many of the last inner steps the meta-gradient goes through; None: there will be none.

    Attributes:
        task: the losses and tensors, at theta_0.
        layer: the task's head; its tensors are moved in place.
        hits: correct predictions (0-d int64) of each part of the query loss, in the order in which they were computed.
    """

    @torch.no_grad()
    def __init__(
        self,
        learner: Learner,
        support: Examples,
        classes: Sequence[str],
        query: Examples | None = None,
        layer: LinearLayer | None = None,
        order: int | None = None,
    ) -> None:
        self.learner, self.classes, self.hits = learner, classes, list[Tensor]()
        self.support = learner.batches(support)
        queries = learner.batches(query) if query else LabelledBatches([], 0)
        self.rows, self.table = learner.used_rows([batch for batch, _ in self.support.batches + queries.batches])
        if self.table is not None:
            self.support, queries = self._renumbered(self.support, queries)
        settings, self.lower = learner.settings, list[Tensor]()
        self.recorded = recorded_steps(order or 0, settings.hvp, settings.kept_graphs)
        with torch.set_grad_enabled(self.recorded > 0 and learner.trained_below):
            below = [learner.below(batch, self.table) for batch, _ in self.support.batches] if learner.cached else []
        self.below = [hidden.detach() for hidden in below]
        if order is not None and (order or settings.algorithm == "imaml") and learner.trained_below:
            self.below = [hidden.requires_grad_() for hidden in self.below]
            self.lower = [hidden for hidden in below if hidden.requires_grad]
        first = self._first_features() if layer is None else {}
        self.centroids = self._centroids(first) if layer is None and learner.head.needs_centroids else None
        start = learner.head.start(classes, self.centroids) if layer is None else layer
        self.layer = LinearLayer(*(t.to(learner.log_inner_lr).clone().requires_grad_() for t in start))
        moving, still = self._tensors()
        self.names = [*moving, *still]
        self.task = Task(
            [self._support_part(i, first) for i in range(len(self.support.batches))],
            [self._query_part(batch, labels, queries.size) for batch, labels in queries.batches],
            list(moving.values()),
            list(still.values()),
            learner.loss_scale,
        )

    @property
    def moved_rows(self) -> Tensor | None:
        """The rows of the word embeddings that the inner loop moves, int64; None for all of them, or none."""
        return self.rows if self.table is not None and _TABLE in self.names[: len(self.task.moving)] else None

    @contextmanager
    def table_in_place(self) -> Iterator[None]:
        """Within the block the encoder's own table has the rows that the inner loop moved."""
        if self.table is None:
            yield
            return
        table = self.learner.table.data
        before = table[self.rows]
        table[self.rows] = self.table.data
        try:
            yield
        finally:
            table[self.rows] = before

    def close(self) -> None:
        """Lets go of the task's losses, which hold this object, so that its memory is free at once."""
        self.task.support.clear()
        self.task.query.clear()
        self.lower.clear()

    def pull_back(self, v: Gradient) -> dict[str, Tensor]:
        """From the gradient of the task's tensors to that of the meta-parameters that they were made from, by name."""
        learner = self.learner
        parts = dict(zip(self.names, v, strict=True))
        v_layer = parts.pop(_WEIGHT), parts.pop(_BIAS)
        if learner.settings.algorithm == "reptile" and learner.head.needs_centroids:
            v_layer = None, None  # where a task's own head went says nothing of the initialisation
        gradients = {f"head.{name}": g for name, g in self._pull_back_head(*v_layer).items()}
        below = [parts.pop(f"{_BELOW}{i}", None) for i in range(len(self.below))]
        per_text = gradients.pop("head.centroids", None)
        if per_text is not None and learner.settings.prototype_gradient:
            per_text = per_text / learner.class_counts(self.support, len(self.classes)).unsqueeze(1)
            self._pull_back_support(parts, per_text, below)
        elif any(g is not None for g in below):
            self._pull_back_support(parts, None, below)
        if (rows := parts.pop(_TABLE, None)) is not None:
            table = torch.zeros_like(learner.table)
            parts[f"encoder.{learner.table_name}"] = table.index_copy_(0, self.rows, rows)
        for name, parameter in learner.named_parameters():
            if parameter.requires_grad and name.startswith("encoder."):
                part = parts.get(name)
                gradients[name] = torch.zeros_like(parameter) if part is None else part
        return gradients

    def _tensors(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        learner = self.learner
        named: dict[str, Tensor] = {n: p for n, p in learner.encoder.named_parameters() if p.requires_grad}
        frozen = [name for name in learner.inner_names if name not in named]
        if frozen:
            what = f"{frozen[0]} was frozen after the learner was made"
            raise InputError(f"{what}; freeze an encoder's parameters before")
        key = {name: f"encoder.{name}" for name in named}
        if self.table is not None:
            named[learner.table_name], key[learner.table_name] = self.table, _TABLE
        moving = {key[name]: named[name] for name in learner.inner_names}
        still = {key[name]: tensor for name, tensor in named.items() if key[name] not in moving}
        layer = {_WEIGHT: self.layer.weight, _BIAS: self.layer.bias}
        (moving if learner.head_moves else still).update(layer)
        still |= {f"{_BELOW}{i}": hidden for i, hidden in enumerate(self.below) if hidden.requires_grad}
        return moving, still

    # ------------------------------------------------------------------ losses
    def _support_part(self, i: int, first: dict[int, Tensor]) -> Callable[[], Tensor]:
        labels, size = self.support.batches[i][1], self.support.size

        def loss() -> Tensor:
            features = first.pop(i) if i in first else self._features(i)
            return cross_entropy(self.layer.logits(features), labels, reduction="sum") / size

        return loss

    def _query_part(self, batch: Batch, labels: Tensor, size: int) -> Callable[[], Tensor]:
        def loss() -> Tensor:
            logits = self.layer.logits(self.learner.features(batch, self.table))
            self.hits.append((logits.detach().argmax(1) == labels).sum())
            return cross_entropy(logits, labels, reduction="sum") / size

        return loss

    def _features(self, i: int) -> Tensor:
        """Of the i-th batch of the support, (n, hidden)."""
        batch, _ = self.support.batches[i]
        return self.learner.above(self.below[i], batch) if self.below else self.learner.features(batch, self.table)

    def _lower(self, i: int) -> Tensor:
        """The output below the scope for the i-th batch of the support, with its graph: kept, or made anew."""
        return self.lower[i] if self.lower else self.learner.below(self.support.batches[i][0], self.table)

    def _first_features(self) -> dict[int, Tensor]:
        """At theta_0, for the centroids; with their graph, where the first inner step can use it too."""
        learner, count = self.learner, len(self.support.batches)
        if not learner.head.needs_centroids:
            return {}
        # Not where the first step's graph is one to differentiate again.
        shared = learner.settings.inner_steps > self.recorded
        with torch.set_grad_enabled(shared and count <= 2):  # more batches' graphs at once could be too much
            return {i: self._features(i) for i in range(count)}

    def _centroids(self, first: dict[int, Tensor]) -> Tensor:
        learner, ways = self.learner, len(self.classes)
        total = learner.log_inner_lr.new_zeros(ways, learner.encoder.config.hidden_size)
        for i, (_, labels) in enumerate(self.support.batches):
            total.index_add_(0, labels, first[i].detach())
            if not first[i].requires_grad:
                del first[i]
        return total / learner.class_counts(self.support, ways).unsqueeze(1)

    def _renumbered(self, *sets: LabelledBatches) -> Iterator[LabelledBatches]:
        """With token ids that count the rows of the task's own table."""
        number = torch.zeros(len(self.learner.table), dtype=torch.long, device=self.rows.device)
        number[self.rows] = torch.arange(len(self.rows), device=self.rows.device)
        for examples in sets:
            pairs = [(batch._replace(input_ids=number[batch.input_ids]), labels) for batch, labels in examples.batches]
            yield LabelledBatches(pairs, examples.size)

    # ------------------------------------------------------------------ from theta_0 back to what it was made from
    def _pull_back_head(self, weight: Tensor | None, bias: Tensor | None) -> dict[str, Tensor]:
        sources: dict[str, Tensor] = dict(self.learner.head.named_parameters())
        if weight is None and bias is None:
            return {name: torch.zeros_like(source) for name, source in sources.items()}
        v = [torch.zeros_like(t) if g is None else g for g, t in zip((weight, bias), self.layer, strict=True)]
        with torch.enable_grad():
            if self.centroids is not None:
                sources["centroids"] = self.centroids.requires_grad_()
            start = self.learner.head.start(self.classes, self.centroids)
        return dict(zip(sources, torch.autograd.grad(start, list(sources.values()), v), strict=True))

    def _pull_back_support(self, parts: dict[str, Tensor | None], per_text: Tensor | None, below: Gradient) -> None:
        """Adds to `parts` the vector-Jacobian product of the support's features and lower outputs at theta_0."""
        learner = self.learner
        named = dict(zip(self.names, self.task.everything, strict=True))
        wanted = [named[name] for name in parts]
        for i, (batch, labels) in enumerate(self.support.batches):
            with torch.enable_grad():
                hidden = self._lower(i) if self.below else None
                features = learner.features(batch, self.table) if hidden is None else learner.above(hidden, batch)
            pairs = [] if per_text is None else [(features, per_text[labels] * learner.loss_scale)]
            if hidden is not None and (v := below[i]) is not None:
                pairs.append((hidden, v * learner.loss_scale))
            pairs = [(output, vector) for output, vector in pairs if output.requires_grad]
            if not pairs:
                continue
            outputs, vectors = zip(*pairs, strict=True)
            part = torch.autograd.grad(outputs, wanted, vectors, allow_unused=True)
            sums = list(parts.values())
            add(sums, distinct(part), 1 / learner.loss_scale)
            parts.update(zip(parts, sums, strict=True))
