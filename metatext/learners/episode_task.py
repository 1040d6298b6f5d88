"""Turns a learner and an episode into a `metatext.core` task: tensors for the inner loop, support and query losses.

Some tensors of the task are not meta-parameters but are computed from them when the task is made:

- the linear layer of the task, from the class centroids (prototype head) or from the rows of its classes (linear head);
- a copy of the word embeddings that the texts of the episode use, so that the inner loop updates no others;
- with scope `head` or `top:L`, the outputs of the layers below the scope for the support. The inner loop does not
  change these layers, so their outputs are computed once.

`EpisodeTask.pull_back` applies the vector-Jacobian products of these computations to the gradient of the task.
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
from metatext.encoders.packing import Batch, LabelledBatches
from metatext.errors import InputError
from metatext.learners.heads import LinearLayer
from metatext.learners.learner import Learner

_TABLE, _WEIGHT, _BIAS, _BELOW = "table", "layer.weight", "layer.bias", "below."


class EpisodeTask:
    """The task of a learner on a support set and, optionally, a query set.

    Args:
        learner: its parameters are the initialisation theta_0.
        support: labelled texts for the inner loop.
        classes: names of the classes that the labels index.
        query: labelled texts for the query loss.
        layer: initial linear layer; by default the head makes it.
        second_order_steps: number of last inner steps that the meta-gradient differentiates through. None if no
            meta-gradient will be taken.

    Attributes:
        task: losses and tensors at theta_0.
        layer: linear layer of the task. The inner loop updates its tensors in place.
        centroids: class centroids of the support, (ways, hidden); None if the initial layer does not need them.
        correct: number of correct predictions (0-d int64) for each query batch, appended whenever its loss is computed.
    """

    @torch.no_grad()
    def __init__(
        self,
        learner: Learner,
        support: Examples,
        classes: Sequence[str],
        query: Examples | None = None,
        layer: LinearLayer | None = None,
        second_order_steps: int | None = None,
    ) -> None:
        self.learner, self.classes, self.correct = learner, classes, list[Tensor]()
        self.support = learner.batches(support)
        queries = learner.batches(query) if query else LabelledBatches([], 0)
        self.rows, self.table = learner.used_rows([batch for batch, _ in self.support.batches + queries.batches])
        if self.table is not None:
            self.support, queries = self._with_row_numbers(self.support, queries)
        settings, self.below_outputs = learner.settings, list[Tensor]()
        self.recorded_steps = recorded_steps(second_order_steps or 0, settings.hvp, settings.kept_graphs)
        with torch.set_grad_enabled(self.recorded_steps > 0 and learner.trained_below):
            below = [learner.below(batch, self.table) for batch, _ in self.support.batches] if learner.cached else []
        self.below_leaves = [hidden.detach() for hidden in below]
        needs_gradient = second_order_steps is not None and (second_order_steps or settings.algorithm == "imaml")
        if needs_gradient and learner.trained_below:
            self.below_leaves = [hidden.requires_grad_() for hidden in self.below_leaves]
            self.below_outputs = [hidden for hidden in below if hidden.requires_grad]
        first_features = self._first_features() if layer is None else {}
        needs_centroids = layer is None and learner.head.needs_centroids
        self.centroids = self._centroids(first_features) if needs_centroids else None
        initial = learner.head.start(classes, self.centroids) if layer is None else layer
        self.layer = LinearLayer(*(t.to(learner.log_inner_lr).clone().requires_grad_() for t in initial))
        updated, constant = self._tensors()
        self.names = [*updated, *constant]
        self.task = Task(
            [self._support_loss(i, first_features) for i in range(len(self.support.batches))],
            [self._query_loss(batch, labels, queries.size) for batch, labels in queries.batches],
            list(updated.values()),
            list(constant.values()),
            learner.loss_scale,
        )

    @property
    def updated_rows(self) -> Tensor | None:
        """Ids of the word embeddings that the inner loop updates, int64 (rows,); None if it updates all or none."""
        return self.rows if self.table is not None and _TABLE in self.names[: len(self.task.moving)] else None

    @contextmanager
    def table_in_place(self) -> Iterator[None]:
        """Copies the updated word embeddings into the encoder within the block."""
        if self.table is None:
            yield
            return
        table = self.learner.table.data
        original = table[self.rows]
        table[self.rows] = self.table.data
        try:
            yield
        finally:
            table[self.rows] = original

    def close(self) -> None:
        """Breaks the reference cycle between this object and its losses, so that memory is freed at once."""
        self.task.support.clear()
        self.task.query.clear()
        self.below_outputs.clear()

    def pull_back(self, v: Gradient) -> dict[str, Tensor]:
        """Maps the gradient of the task to the gradient of the meta-parameters (vector-Jacobian product).

        Args:
            v: gradient with respect to `task.everything`.

        Returns:
            Name -> gradient for the parameters of encoder and head that require one.
        """
        learner = self.learner
        parts = dict(zip(self.names, v, strict=True))
        v_layer = parts.pop(_WEIGHT), parts.pop(_BIAS)
        if learner.settings.algorithm == "reptile" and learner.head.needs_centroids:
            v_layer = None, None  # Reptile moves towards adapted weights, but every task has a layer of its own
        gradients = {f"head.{name}": g for name, g in self._pull_back_layer(*v_layer).items()}
        v_below = [parts.pop(f"{_BELOW}{i}", None) for i in range(len(self.below_leaves))]
        v_centroids = gradients.pop("head.centroids", None)
        if v_centroids is not None and learner.settings.prototype_gradient:
            v_features = v_centroids / self.support.class_counts(len(self.classes)).unsqueeze(1)
            self._pull_back_support(parts, v_features, v_below)
        elif any(g is not None for g in v_below):
            self._pull_back_support(parts, None, v_below)
        if (rows := parts.pop(_TABLE, None)) is not None:
            table = torch.zeros_like(learner.table)
            parts[f"encoder.{learner.table_name}"] = table.index_copy_(0, self.rows, rows)
        for name, parameter in learner.named_parameters():
            if parameter.requires_grad and name.startswith("encoder."):
                part = parts.get(name)
                gradients[name] = torch.zeros_like(parameter) if part is None else part
        return gradients

    def _tensors(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Returns the tensors that the inner loop updates, and the others that need a meta-gradient, by name."""
        learner = self.learner
        named: dict[str, Tensor] = {n: p for n, p in learner.encoder.named_parameters() if p.requires_grad}
        frozen = [name for name in learner.inner_names if name not in named]
        if frozen:
            what = f"{frozen[0]} was frozen after the learner was made"
            raise InputError(f"{what}; freeze an encoder's parameters before")
        key = {name: f"encoder.{name}" for name in named}
        if self.table is not None:
            named[learner.table_name], key[learner.table_name] = self.table, _TABLE
        updated = {key[name]: named[name] for name in learner.inner_names}
        constant = {key[name]: tensor for name, tensor in named.items() if key[name] not in updated}
        layer = {_WEIGHT: self.layer.weight, _BIAS: self.layer.bias}
        (updated if learner.head_moves else constant).update(layer)
        constant |= {f"{_BELOW}{i}": hidden for i, hidden in enumerate(self.below_leaves) if hidden.requires_grad}
        return updated, constant

    def _support_loss(self, i: int, first_features: dict[int, Tensor]) -> Callable[[], Tensor]:
        labels, size = self.support.batches[i][1], self.support.size

        def loss() -> Tensor:
            features = first_features.pop(i) if i in first_features else self._features(i)
            return cross_entropy(self.layer.logits(features), labels, reduction="sum") / size

        return loss

    def _query_loss(self, batch: Batch, labels: Tensor, size: int) -> Callable[[], Tensor]:
        def loss() -> Tensor:
            logits = self.layer.logits(self.learner.features(batch, self.table))
            self.correct.append((logits.detach().argmax(1) == labels).sum())
            return cross_entropy(logits, labels, reduction="sum") / size

        return loss

    def _features(self, i: int) -> Tensor:
        """Returns the features of the i-th support batch, (n, hidden)."""
        batch, _ = self.support.batches[i]
        if self.below_leaves:
            return self.learner.above(self.below_leaves[i], batch)
        return self.learner.features(batch, self.table)

    def _below_output(self, i: int) -> Tensor:
        """Returns the output below the scope for the i-th support batch, with its kept or recomputed graph."""
        if self.below_outputs:
            return self.below_outputs[i]
        return self.learner.below(self.support.batches[i][0], self.table)

    def _first_features(self) -> dict[int, Tensor]:
        """Returns the support features at theta_0 by batch index, for the centroids; empty if the head needs none.

        They have a graph if the first inner step can reuse them.
        """
        learner, count = self.learner, len(self.support.batches)
        if not learner.head.needs_centroids:
            return {}
        # A step with a recorded graph needs a double backward, which the fused attention used here does not have.
        reusable = learner.settings.inner_steps > self.recorded_steps
        with torch.set_grad_enabled(reusable and count <= 2):  # bounds memory: all batches hold their graphs at once
            return {i: self._features(i) for i in range(count)}

    def _centroids(self, first_features: dict[int, Tensor]) -> Tensor:
        """Returns the class centroids, (ways, hidden), and drops the features that have no graph to reuse."""
        learner, ways = self.learner, len(self.classes)
        total = learner.log_inner_lr.new_zeros(ways, learner.encoder.config.hidden_size)
        for i, (_, labels) in enumerate(self.support.batches):
            total.index_add_(0, labels, first_features[i].detach())
            if not first_features[i].requires_grad:
                del first_features[i]
        return total / self.support.class_counts(ways).unsqueeze(1)

    def _with_row_numbers(self, *sets: LabelledBatches) -> Iterator[LabelledBatches]:
        """Replaces the token ids by row numbers in the copied word embeddings of the task."""
        row_of = torch.zeros(len(self.learner.table), dtype=torch.long, device=self.rows.device)
        row_of[self.rows] = torch.arange(len(self.rows), device=self.rows.device)
        for examples in sets:
            pairs = [(batch._replace(input_ids=row_of[batch.input_ids]), labels) for batch, labels in examples.batches]
            yield LabelledBatches(pairs, examples.size)

    def _pull_back_layer(self, v_weight: Tensor | None, v_bias: Tensor | None) -> dict[str, Tensor]:
        """Returns the gradient of the head's parameters and, as "centroids", of the class centroids if it uses them."""
        inputs: dict[str, Tensor] = dict(self.learner.head.named_parameters())
        if v_weight is None and v_bias is None:
            return {name: torch.zeros_like(tensor) for name, tensor in inputs.items()}
        v = [torch.zeros_like(t) if g is None else g for g, t in zip((v_weight, v_bias), self.layer, strict=True)]
        with torch.enable_grad():
            if self.centroids is not None:
                inputs["centroids"] = self.centroids.requires_grad_()
            layer = self.learner.head.start(self.classes, self.centroids)
        return dict(zip(inputs, torch.autograd.grad(layer, list(inputs.values()), v), strict=True))

    def _pull_back_support(self, parts: dict[str, Tensor | None], v_features: Tensor | None, v_below: Gradient) -> None:
        """Adds to `parts` the vector-Jacobian product of the support features and the outputs below the scope.

        Args:
            parts: name -> gradient of the tensors of the task, at theta_0. Changed in place.
            v_features: gradient of the features of a text by its class, (ways, hidden); None for zero.
            v_below: gradient of the output below the scope for each support batch; empty if there is none.
        """
        learner = self.learner
        named = dict(zip(self.names, self.task.everything, strict=True))
        wanted = [named[name] for name in parts]
        for i, (batch, labels) in enumerate(self.support.batches):
            with torch.enable_grad():
                hidden = self._below_output(i) if self.below_leaves else None
                features = learner.features(batch, self.table) if hidden is None else learner.above(hidden, batch)
            pairs = [] if v_features is None else [(features, v_features[labels] * learner.loss_scale)]
            if hidden is not None and (v := v_below[i]) is not None:
                pairs.append((hidden, v * learner.loss_scale))
            pairs = [(output, vector) for output, vector in pairs if output.requires_grad]
            if not pairs:
                continue
            outputs, vectors = zip(*pairs, strict=True)
            products = torch.autograd.grad(outputs, wanted, vectors, allow_unused=True)
            sums = list(parts.values())
            add(sums, distinct(products), 1 / learner.loss_scale)
            parts.update(zip(parts, sums, strict=True))
