"""The meta-gradient against independent truths: finite differences, an unrolled graph, closed forms."""

from __future__ import annotations

import copy
import dataclasses
import gc
import math
import re
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ARCHITECTURES, TOPICS
from torch import Tensor
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy
from transformers import AutoConfig, AutoModel

from metatext import Episode, Learner
from metatext.core import gradients as core_gradients
from metatext.core.hessian_products import gradient_graph
from metatext.data.episodes import Examples
from metatext.encoders.tokenization import load_tokenizer
from metatext.learners.episode_task import EpisodeTask
from metatext.learners.meta_gradient import adapted, evaluate_episode, meta_gradient, outer_loss, run_episode
from metatext.learners.settings import LearnerSettings

MakeLearner = Callable[..., Learner]


@pytest.fixture
def make(make_learner: MakeLearner) -> MakeLearner:
    """Full MAML in float64; each group and step has a rate of its own, a linear head random rows."""

    def build(architecture: str = "bert", **settings: Any) -> Learner:
        classes = {"classes": list(TOPICS)} if settings.get("head") == "linear" else {}
        return spread(make_learner(architecture, **{"second_order_steps": 3} | classes | settings))

    return build


def spread(learner: Learner) -> Learner:
    generator = torch.Generator().manual_seed(5)

    def noise(tensor: Tensor) -> Tensor:
        return torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)

    learner.log_inner_lr.data += 0.3 * noise(learner.log_inner_lr)
    if learner.settings.head == "linear":
        for parameter in learner.head.parameters():
            parameter.data = 0.3 * noise(parameter)
    else:
        learner.head.log_scale.data.fill_(math.log(5.0))
    return learner


def group_of(name: str) -> str:
    layer = re.search(r"layers?\.(\d)", name)
    return f"layer {layer.group(1)}" if layer else "embeddings" if name.startswith("encoder.") else name


def slope_error(learner: Learner, episode: Episode, exact: dict[str, Tensor]) -> float:
    """Relative error of `exact` along a random direction in its parameters, against Richardson extrapolations."""
    generator = torch.Generator().manual_seed(7)
    parameters = {name: p for name, p in learner.named_parameters() if name in exact}
    direction = {n: torch.randn(p.shape, generator=generator, dtype=p.dtype) for n, p in parameters.items()}
    norm = math.sqrt(sum(float(d.square().sum()) for d in direction.values()))
    start = {name: p.detach().clone() for name, p in parameters.items()}

    def loss(step: float) -> float:
        for name, p in parameters.items():
            p.data = start[name] + step / norm * direction[name]
        value = outer_loss(learner, episode).item()
        for name, p in parameters.items():
            p.data = start[name]
        return value

    expected = sum(float((exact[name] * direction[name]).sum()) for name in exact) / norm
    errors = []
    for step in (3e-3, 1e-2):  # the smaller one nearly always does
        wide, narrow = ((loss(h) - loss(-h)) / (2 * h) for h in (2 * step, step))
        errors.append(abs((4 * narrow - wide) / 3 - expected) / abs(expected))
        if errors[-1] < 1e-7:
            break
    return min(errors)


def relative_error(got: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Largest error of any tensor, each relative to the norm of all (some are zero)."""
    assert got.keys() == expected.keys()
    norm = math.sqrt(sum(float(x.square().sum()) for x in expected.values()))
    return max(float((got[name] - expected[name]).norm()) for name in expected) / norm


# ---------------------------------------------------------------------------------------------- finite differences
@pytest.mark.parametrize(
    ("settings", "batch_size", "tolerance"),
    [
        ({"head": "prototype", "scope": "all"}, 64, 1e-6),
        ({"head": "linear", "scope": "all", "pooling": "cls"}, 2, 1e-6),
        ({"head": "prototype", "scope": "head", "pooling": "cls"}, 2, 1e-6),
        ({"head": "linear", "scope": "head"}, 64, 1e-6),
        ({"head": "prototype", "scope": "body"}, 2, 1e-6),
        ({"head": "linear", "scope": "body"}, 64, 1e-6),
        ({"head": "prototype", "scope": "top:1"}, 2, 1e-6),
        ({"head": "linear", "scope": "top:1", "pooling": "cls"}, 64, 1e-6),
        ({"head": "prototype", "scope": "all", "hvp": "finite-difference"}, 2, 1e-4),
        ({"head": "linear", "scope": "top:1", "hvp": "finite-difference"}, 64, 1e-4),
        ({"head": "prototype", "scope": "all", "hvp": "one-sided"}, 2, 1e-3),
        ({"head": "linear", "scope": "top:1", "hvp": "one-sided"}, 64, 1e-3),
        ({"head": "prototype", "scope": "all", "kept_graphs": 3}, 2, 1e-6),
        ({"head": "linear", "scope": "body", "kept_graphs": 1}, 64, 1e-6),
        ({"head": "prototype", "scope": "top:1", "kept_graphs": "auto"}, 2, 1e-6),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else None,
)
def test_every_group_agrees_with_finite_differences(
    make: MakeLearner, episode: Episode, settings: dict[str, Any], batch_size: int, tolerance: float
) -> None:
    learner = make(**settings, batch_size=batch_size)
    loss, gradients = meta_gradient(learner, episode)
    assert loss.item() == pytest.approx(outer_loss(learner, episode).item(), rel=1e-12)
    assert gradients.keys() == dict(learner.named_parameters()).keys()
    groups: dict[str, dict[str, Tensor]] = {}
    for name, gradient in gradients.items():
        groups.setdefault(group_of(name), {})[name] = gradient
    head = ["head.log_scale"] if settings["head"] == "prototype" else ["head.bias", "head.weight"]
    assert sorted(groups) == ["embeddings", *head, "layer 0", "layer 1", "log_inner_lr"]
    errors = {name: slope_error(learner, episode, group) for name, group in groups.items()}
    assert max(errors.values()) < tolerance, errors


@pytest.mark.parametrize("architecture", ARCHITECTURES[1:])
def test_every_architecture_agrees_with_finite_differences(
    make: MakeLearner, episode: Episode, architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if architecture == "modernbert":  # rotates queries and keys in float32 always, too coarse for differences
        monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    learner = make(architecture, inner_steps=2, second_order_steps=2, batch_size=4)
    _, gradients = meta_gradient(learner, episode)
    assert gradients.keys() == dict(learner.named_parameters()).keys()
    assert slope_error(learner, episode, gradients) < 1e-6


@pytest.mark.parametrize("head", ["prototype", "linear"])
def test_frozen_embeddings_have_no_gradient_and_do_not_move(tiny_bert: Path, episode: Episode, head: Any) -> None:
    encoder = AutoModel.from_pretrained(tiny_bert)
    encoder.embeddings.requires_grad_(False)
    classes = tuple(TOPICS) if head == "linear" else ()
    settings = LearnerSettings(head=head, classes=classes, inner_steps=2, inner_lr=0.05, second_order_steps=2)
    learner = spread(Learner(encoder, load_tokenizer(tiny_bert), settings, "tiny").double())
    assert learner.inner_groups == ["layer 0", "layer 1", "head"]
    _, gradients = meta_gradient(learner, episode)
    wanted = {name for name, p in learner.named_parameters() if p.requires_grad}
    assert gradients.keys() == wanted
    assert not any(name.startswith("encoder.embeddings") for name in wanted)
    assert slope_error(learner, episode, gradients) < 1e-6
    table = encoder.embeddings.word_embeddings.weight.clone()
    with adapted(learner, episode.support, episode.classes):
        assert torch.equal(encoder.embeddings.word_embeddings.weight, table)


@pytest.mark.parametrize("scope", ["all", "head"])
def test_tied_parameters_get_the_gradient_of_all_their_uses(tiny_bert: Path, episode: Episode, scope: str) -> None:
    encoder = AutoModel.from_pretrained(tiny_bert)
    encoder.embeddings.position_embeddings.weight = encoder.embeddings.word_embeddings.weight
    encoder.encoder.layer[1].attention.self.key.weight = encoder.encoder.layer[0].attention.self.query.weight
    settings = LearnerSettings(inner_steps=2, inner_lr=0.05, second_order_steps=2, scope=scope)
    learner = spread(Learner(encoder, load_tokenizer(tiny_bert), settings, "tiny").double())
    _, gradients = meta_gradient(learner, episode)
    assert "encoder.embeddings.position_embeddings.weight" not in gradients
    groups = ("encoder.embeddings.word_embeddings.weight", "encoder.encoder.layer.0.attention.self.query.weight")
    for name in groups:
        assert slope_error(learner, episode, {name: gradients[name]}) < 1e-6
    assert slope_error(learner, episode, gradients) < 1e-6


# ------------------------------------------------------------------------------------------------- an unrolled graph
def unrolled_gradient(learner: Learner, episode: Episode, constant_start: bool = False) -> dict[str, Tensor]:
    """Algorithm 1 of Finn 2017 as one autograd graph over all inner steps (mean pooling, scope all).

    Steps before the second-order ones take their gradient as a constant.
    """
    settings, hidden = learner.settings, learner.encoder.config.hidden_size
    leaves = {name: p.detach().clone().requires_grad_() for name, p in learner.named_parameters()}
    theta: dict[str, Tensor] = {name: p.clone() for name, p in leaves.items() if name.startswith("encoder.")}

    def features(theta: dict[str, Tensor], texts: list[str]) -> Tensor:
        tokens = learner.tokenizer(texts, padding=True, return_tensors="pt")
        weights = {name.removeprefix("encoder."): p for name, p in theta.items() if name.startswith("encoder.")}
        states = functional_call(learner.encoder, weights, kwargs=dict(tokens)).last_hidden_state
        mask = tokens["attention_mask"].unsqueeze(-1)
        pooled = (states * mask).sum(1) / mask.sum(1)
        centred = pooled - pooled.mean(1, keepdim=True)
        return centred / (centred.square().mean(1, keepdim=True) + 1e-12).sqrt()

    def loss(theta: dict[str, Tensor], texts: list[str], labels: list[int]) -> Tensor:
        logits = features(theta, texts) @ theta["weight"].T + theta["bias"]
        return cross_entropy(logits, torch.tensor(labels))

    with sdpa_kernel(SDPBackend.MATH):
        if settings.head == "linear":
            rows = [settings.classes.index(name) for name in episode.classes]
            theta |= {"weight": leaves["head.weight"][rows], "bias": leaves["head.bias"][rows]}
        else:
            points, labels = features(leaves, episode.support.texts), torch.tensor(episode.support.labels)
            centroids = torch.stack([points[labels == c].mean(0) for c in range(len(episode.classes))])
            if constant_start:
                centroids = centroids.detach()
            scale = leaves["head.log_scale"].exp() / hidden
            theta |= {"weight": 2 * scale * centroids, "bias": -scale * (centroids**2).sum(1)}
        for k in range(settings.inner_steps):
            inner = loss(theta, episode.support.texts, episode.support.labels)
            gradient = torch.autograd.grad(inner, list(theta.values()), create_graph=True)
            if k < settings.inner_steps - settings.second_order_steps:
                gradient = tuple(g.detach() for g in gradient)
            moved = {}
            for (name, p), g in zip(theta.items(), gradient, strict=True):
                group = "head" if name in ("weight", "bias") else group_of(name)
                moved[name] = p - leaves["log_inner_lr"][learner.inner_groups.index(group), k].exp() * g
            theta = moved
        outer = loss(theta, episode.query.texts, episode.query.labels)
        return dict(zip(leaves, torch.autograd.grad(outer, list(leaves.values())), strict=True))


@pytest.mark.parametrize("head", ["prototype", "linear"])
@pytest.mark.parametrize("second_order_steps", [0, 1, 3])
def test_sweep_equals_the_unrolled_graph(
    make: MakeLearner, episode: Episode, head: str, second_order_steps: int
) -> None:
    learner = make(head=head, second_order_steps=second_order_steps)
    _, gradients = meta_gradient(learner, episode)
    assert relative_error(gradients, unrolled_gradient(learner, episode)) < 1e-12


@pytest.mark.parametrize("kept_graphs", [1, 2, 3, "auto"])
def test_kept_graphs_change_nothing_but_the_cost(make: MakeLearner, episode: Episode, kept_graphs: Any) -> None:
    learner = make(kept_graphs=kept_graphs)
    before = copy.deepcopy(learner.state_dict())
    _, gradients = meta_gradient(learner, episode)
    assert relative_error(gradients, unrolled_gradient(learner, episode)) < 1e-12
    assert all(torch.equal(value, before[name]) for name, value in learner.state_dict().items())


def test_graphs_are_kept_while_they_fit_and_only_of_second_order_steps(
    make: MakeLearner, episode: Episode, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded, before_query = [], []

    def counted(part: Any, task: Any) -> Any:
        recorded.append(part)
        return gradient_graph(part, task)

    def noted(*arguments: Any) -> Any:
        before_query.append(len(recorded))
        return core_gradients.gradient(*arguments)

    for module in ("inner_loop", "hessian_products"):
        monkeypatch.setattr(f"metatext.core.{module}.gradient_graph", counted)
    monkeypatch.setattr("metatext.core.maml.gradient", noted)
    learner = make(inner_steps=3, second_order_steps=2, kept_graphs="auto", head="linear")
    for free, kept in (
        (10**12, 2),
        (1, 1),
    ):  # with nearly none, one is kept to learn its size, and the other recomputed
        recorded.clear(), before_query.clear()
        monkeypatch.setattr("metatext.core.inner_loop._free_memory", lambda device, free=free: free)
        _, gradients = meta_gradient(learner, episode)
        assert before_query == [kept]
        assert len(recorded) == 2  # a graph for each second-order step, none twice, none of the first step
        assert relative_error(gradients, unrolled_gradient(learner, episode)) < 1e-12


@pytest.mark.parametrize(("hvp", "tolerance"), [("finite-difference", 1e-6), ("one-sided", 1e-4)])
def test_differences_come_close_to_the_unrolled_graph(
    make: MakeLearner, episode: Episode, hvp: str, tolerance: float
) -> None:
    learner = make(hvp=hvp)
    _, gradients = meta_gradient(learner, episode)
    assert relative_error(gradients, unrolled_gradient(learner, episode)) < tolerance


@pytest.mark.parametrize(("hvp", "tolerance"), [("finite-difference", 1e-3), ("one-sided", 5e-2)])
@pytest.mark.parametrize("rates", ["layer", "parameter"])
def test_differences_come_close_in_float32(
    make: MakeLearner, episode: Episode, hvp: str, tolerance: float, rates: str
) -> None:
    learner = make(hvp=hvp, inner_rates=rates).float()
    _, gradients = meta_gradient(learner, episode)
    exact = make(inner_rates=rates)
    first_order = run_episode(exact, episode, second_order_steps=0).gradients
    reference = meta_gradient(exact, episode)[1]
    assert relative_error({n: g.double() for n, g in gradients.items()}, reference) < tolerance
    assert relative_error(first_order, reference) > 5 * tolerance  # so that the product is what agrees


@pytest.mark.parametrize("head", ["linear", "prototype"])
@pytest.mark.parametrize("scope", ["top:1", "head"])
def test_an_episode_may_have_another_order_than_its_learner(
    make: MakeLearner, episode: Episode, scope: str, head: str
) -> None:
    first, full = (make(scope=scope, head=head, second_order_steps=n, kept_graphs=n) for n in (0, 3))
    expected = {0: meta_gradient(first, episode)[1], 3: meta_gradient(full, episode)[1]}
    for order in (0, 3):
        for learner in (first, full):
            gradients = run_episode(learner, episode, second_order_steps=order).gradients
            assert relative_error(gradients, expected[order]) < 1e-12
    assert relative_error(expected[0], expected[3]) > 1e-3


def test_the_graph_below_the_scope_is_kept_only_for_a_meta_gradient(make: MakeLearner, episode: Episode) -> None:
    learner = make(scope="top:1", second_order_steps=3, kept_graphs=3)
    for order, kept in ((3, True), (0, False), (None, False)):
        with closing(EpisodeTask(learner, episode.support, episode.classes, episode.query, None, order)) as task:
            assert bool(task.below_outputs) == kept


def test_query_weights_of_a_wrong_length_are_refused(make: MakeLearner, episode: Episode) -> None:
    with pytest.raises(ValueError, match="5 query_weights for 3 inner steps"):
        run_episode(make(), episode, [0.2] * 5)


# ------------------------------------------------------------------------------------- what is computed once an episode
@pytest.mark.parametrize("architecture", ["bert", "roberta", "electra", "distilbert"])
@pytest.mark.parametrize("scope", ["top:1", "head"])
@pytest.mark.parametrize(
    "settings",
    [
        {"second_order_steps": 0},
        {"second_order_steps": 3},
        {"second_order_steps": 3, "kept_graphs": 3, "head": "linear"},
    ],
    ids=str,
)
def test_layers_below_the_scope_may_be_computed_once(
    make: MakeLearner, episode: Episode, architecture: str, scope: str, settings: dict[str, Any]
) -> None:
    learner = make(architecture, scope=scope, **settings)
    assert learner.cached and (learner.parts is not None) == (scope == "top:1")
    loss, once = meta_gradient(learner, episode)
    learner.cached, learner.parts = False, None
    other_loss, anew = meta_gradient(learner, episode)
    torch.testing.assert_close(loss, other_loss, rtol=1e-12, atol=0.0)
    assert relative_error(once, anew) < 1e-12


@pytest.mark.parametrize("settings", [{}, {"head": "linear", "pooling": "cls"}, {"scope": "top:1"}], ids=str)
def test_texts_that_share_a_line_have_the_gradients_of_texts_that_do_not(
    make: MakeLearner, episode: Episode, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = make("roberta", second_order_steps=3, **settings)
    texts = [text * (1 + 3 * (i % 3 == 0)) for i, text in enumerate(episode.support.texts)]
    uneven = dataclasses.replace(episode, support=Examples(texts, episode.support.labels))
    assert learner.batches(uneven.support).batches[0][0].shared
    loss, together = meta_gradient(learner, uneven)
    monkeypatch.setattr(Learner, "packs", False)
    other_loss, apart = meta_gradient(learner, uneven)
    torch.testing.assert_close(loss, other_loss, rtol=1e-12, atol=0.0)
    assert relative_error(together, apart) < 1e-12


def test_no_layer_is_below_a_scope_of_all_layers(make: MakeLearner, episode: Episode) -> None:
    whole, top = make(scope="top:2"), make(scope="top:5")
    assert whole.parts is None and not whole.cached
    some, other = (meta_gradient(learner, episode)[1] for learner in (whole, top))
    assert relative_error(some, other) == 0.0


def test_a_padding_token_beyond_the_used_rows_needs_the_whole_table(tiny_bert: Path, episode: Episode) -> None:
    config = AutoConfig.from_pretrained(tiny_bert)
    config.vocab_size += 1
    config.pad_token_id = config.vocab_size - 1  # far beyond the rows that an episode uses, as in ModernBERT
    tokenizer = load_tokenizer(tiny_bert)
    settings = LearnerSettings(inner_steps=2, inner_lr=0.05, second_order_steps=2)
    learner = spread(Learner(AutoModel.from_config(config), tokenizer, settings, "tiny").double())
    assert learner.used_rows([batch for batch, _ in learner.batches(episode.support).batches])[1] is None
    _, gradients = meta_gradient(learner, episode)
    assert slope_error(learner, episode, gradients) < 1e-6


@pytest.mark.parametrize("architecture", ["bert", "roberta", "albert"])
def test_only_the_embeddings_of_the_episode_are_touched(make: MakeLearner, episode: Episode, architecture: str) -> None:
    learner = make(architecture)
    _, few = meta_gradient(learner, episode)
    batches = learner.batches(Examples(episode.support.texts + episode.query.texts, [0] * 18)).batches
    used = torch.cat([batch.input_ids.flatten() for batch, _ in batches]).unique()
    table = few[f"encoder.{learner.table_name}"]
    unused = torch.ones(len(table), dtype=torch.bool).index_fill(0, used, False)
    assert unused.sum() > 10 and not table[unused].any()
    learner._table_is_tied = True  # every row takes part
    _, all_rows = meta_gradient(learner, episode)
    assert relative_error(few, all_rows) < 1e-12


def test_classes_may_have_unequal_numbers_of_texts(make: MakeLearner, episode: Episode) -> None:
    rows = [0, 1, 2, 3, 5]  # two, two and one of the six
    texts, labels = ([values[i] for i in rows] for values in (episode.support.texts, episode.support.labels))
    episode = dataclasses.replace(episode, support=Examples(texts, labels))
    learner = make(batch_size=2)
    _, gradients = meta_gradient(learner, episode)
    assert relative_error(gradients, unrolled_gradient(learner, episode)) < 1e-12


@pytest.mark.parametrize("second_order_steps", [0, 3])
def test_without_prototype_gradient_the_heads_start_is_a_constant(
    make: MakeLearner, episode: Episode, second_order_steps: int
) -> None:
    learner = make(second_order_steps=second_order_steps, prototype_gradient=False)
    _, gradients = meta_gradient(learner, episode)
    assert relative_error(gradients, unrolled_gradient(learner, episode, constant_start=True)) < 1e-12
    assert relative_error(gradients, unrolled_gradient(learner, episode)) > 0.01


# ------------------------------------------------------------------------------------------------------- first order
def test_first_order_is_the_query_gradient_at_the_adapted_weights(make: MakeLearner, episode: Episode) -> None:
    learner = make(head="linear", second_order_steps=0)
    _, gradients = meta_gradient(learner, episode)
    rows = [list(TOPICS).index(name) for name in episode.classes]
    states: list[dict[str, Tensor]] = []  # theta_0 .. theta_3
    for steps in range(4):
        with adapted(learner, episode.support, episode.classes, steps) as layer:
            moved = copy.deepcopy(learner)
            moved.head.weight.data[rows], moved.head.bias.data[rows] = layer.weight, layer.bias
        states.append({name: p.detach() for name, p in moved.named_parameters() if name != "log_inner_lr"})
    for text, label in zip(episode.query.texts, episode.query.labels, strict=True):
        ((batch, _),) = moved.batches(Examples([text], [label])).batches
        logits = moved.features(batch)[0] @ moved.head.weight[rows].T + moved.head.bias[rows]
        (-logits.log_softmax(0)[label] / len(episode.query)).backward()
    expected = {name: p.grad for name, p in moved.named_parameters() if name != "log_inner_lr"}
    rates = torch.zeros(4, 3, dtype=torch.float64)
    for k in range(3):  # d L_Q / d log a_k = -<v_K, a_k g_k>, where a_k g_k = theta_k - theta_{k+1}
        for name, v in expected.items():
            group = "head" if name.startswith("head.") else group_of(name)
            row = ["embeddings", "layer 0", "layer 1", "head"].index(group)
            rates[row, k] -= (v * (states[k][name] - states[k + 1][name])).sum()
    assert rates.abs().min() > 1e-6
    torch.testing.assert_close(gradients["log_inner_lr"], rates, rtol=1e-9, atol=1e-13)
    assert relative_error(gradients, expected | {"log_inner_lr": rates}) < 1e-11


def test_second_order_differs_from_first(make: MakeLearner, episode: Episode) -> None:
    _, first = meta_gradient(make(second_order_steps=0), episode)
    _, truncated = meta_gradient(make(second_order_steps=1), episode)
    _, full = meta_gradient(make(), episode)
    for some, other in ((first, full), (truncated, full), (first, truncated)):
        assert relative_error(some, other) > 0.01


def test_rates_that_are_not_learned_have_no_gradient(make: MakeLearner, episode: Episode) -> None:
    _, learned = meta_gradient(make(), episode)
    _, fixed = meta_gradient(make(learn_inner_lr=False), episode)
    assert learned.keys() - fixed.keys() == {"log_inner_lr"}
    assert all(torch.equal(fixed[name], learned[name]) for name in fixed)


# ------------------------------------------------------------------------------------------------------- closed form
def test_one_step_of_a_head_is_softmax_regression(make: MakeLearner, episode: Episode) -> None:
    learner = make(head="linear", scope="head", inner_steps=1, second_order_steps=1)
    rows = [list(TOPICS).index(name) for name in episode.classes]
    x = learner.encode(episode.support.texts).numpy()
    targets = np.eye(3)[episode.support.labels]
    weight, bias = (p.detach().numpy()[rows] for p in (learner.head.weight, learner.head.bias))
    powers = np.exp(x @ weight.T + bias)
    residual = (powers / powers.sum(1, keepdims=True) - targets) / len(x)
    rate = np.exp(learner.log_inner_lr.item())
    with adapted(learner, episode.support, episode.classes) as layer:
        np.testing.assert_allclose(layer.weight.numpy(), weight - rate * residual.T @ x, rtol=1e-11)
        np.testing.assert_allclose(layer.bias.numpy(), bias - rate * residual.sum(0), rtol=1e-11)


# -------------------------------------------------------------------------------------------------- adapted, evaluate
def test_evaluation_gives_the_loss_and_hits_of_the_sweep(make: MakeLearner, episode: Episode) -> None:
    learner = make(batch_size=3)
    loss, correct = evaluate_episode(learner, episode)
    result = run_episode(learner, episode)
    torch.testing.assert_close(result.loss, loss, rtol=1e-13, atol=0.0)
    assert result.correct == correct
    with adapted(learner, episode.support, episode.classes) as layer:
        logits = learner.encode(episode.query.texts) @ layer.weight.T + layer.bias
    labels = torch.tensor(episode.query.labels)
    torch.testing.assert_close(loss, cross_entropy(logits, labels), rtol=1e-12, atol=0.0)
    assert correct == (logits.argmax(1) == labels).sum()
    assert 0 < correct <= 12


def test_inner_loop_lowers_the_support_loss(make: MakeLearner, episode: Episode) -> None:
    learner, losses = make(), []
    labels = torch.tensor(episode.support.labels)
    for steps in range(4):
        with adapted(learner, episode.support, episode.classes, steps) as layer:
            losses.append(cross_entropy(layer.logits(learner.encode(episode.support.texts)), labels).item())
    assert losses == sorted(losses, reverse=True)


def test_no_steps_only_build_the_head(make: MakeLearner, episode: Episode) -> None:
    learner = make()
    before = copy.deepcopy(learner.state_dict())
    with adapted(learner, episode.support, episode.classes, steps=0) as layer:
        assert all(torch.equal(value, before[name]) for name, value in learner.state_dict().items())
    x, labels = learner.encode(episode.support.texts).numpy(), np.array(episode.support.labels)
    centroids = np.stack([x[labels == c].mean(0) for c in range(3)])
    np.testing.assert_allclose(layer.weight.numpy(), 2 * 5 / 32 * centroids, rtol=1e-11)
    np.testing.assert_allclose(layer.bias.numpy(), -5 / 32 * (centroids**2).sum(1), rtol=1e-11)


def test_further_steps_use_the_last_rates(make: MakeLearner, episode: Episode) -> None:
    short, long = make(inner_steps=2, second_order_steps=0), make(inner_steps=4, second_order_steps=0)
    long.log_inner_lr.data = short.log_inner_lr.data[:, [0, 1, 1, 1]]
    with adapted(short, episode.support, episode.classes, steps=4) as got:
        vectors, weight, bias = short.encode(episode.query.texts), got.weight.clone(), got.bias.clone()
    with adapted(long, episode.support, episode.classes) as expected:
        assert torch.equal(vectors, long.encode(episode.query.texts))
        assert torch.equal(weight, expected.weight)
        assert torch.equal(bias, expected.bias)


# ------------------------------------------------------------------------------------------- the learner is left alone
@pytest.mark.parametrize("hvp", ["exact", "finite-difference"])
def test_learner_is_bit_equal_afterwards(make: MakeLearner, episode: Episode, hvp: str) -> None:
    learner = make(hvp=hvp)
    before = copy.deepcopy(learner.state_dict())
    first, second = run_episode(learner, episode), run_episode(learner, episode)
    assert all(torch.equal(value, before[name]) for name, value in learner.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in learner.parameters())
    assert torch.equal(first.loss, second.loss)
    assert all(torch.equal(first.gradients[name], second.gradients[name]) for name in first.gradients)


@pytest.mark.parametrize("hvp", ["exact", "finite-difference"])
@pytest.mark.parametrize("nth", [1, 3, 4, 6, 8])  # the first step, the last, the query's pass, the sweep, the head
def test_learner_is_bit_equal_after_an_exception(
    make: MakeLearner, episode: Episode, monkeypatch: pytest.MonkeyPatch, nth: int, hvp: str
) -> None:
    learner = make(hvp=hvp)
    before = copy.deepcopy(learner.state_dict())
    features, calls = learner.features, 0

    def failing(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == nth:
            raise RuntimeError("out of memory")
        return features(*arguments)

    monkeypatch.setattr(learner, "features", failing)
    with pytest.raises(RuntimeError, match="out of memory"):
        run_episode(learner, episode)
    assert calls == nth
    assert all(torch.equal(value, before[name]) for name, value in learner.state_dict().items())
    with pytest.raises(RuntimeError, match="in the block"), adapted(learner, episode.support, episode.classes):
        raise RuntimeError("in the block")
    assert all(torch.equal(value, before[name]) for name, value in learner.state_dict().items())


@pytest.mark.parametrize(
    "settings",
    [{}, {"head": "linear", "kept_graphs": 1}, {"scope": "top:1", "kept_graphs": 1}, {"hvp": "one-sided"}],
    ids=str,
)
def test_no_tensors_stay_alive(make: MakeLearner, episode: Episode, settings: dict[str, Any]) -> None:
    learner = make(inner_steps=1, second_order_steps=1, **settings)
    gc.collect()
    gc.disable()  # what an episode made is gone when it ends, not at some later collection
    try:
        counts = []
        for _ in range(12):
            run_episode(learner, episode)
            evaluate_episode(learner, episode)
            with adapted(learner, episode.support, episode.classes, steps=0):
                pass
            counts.append(sum(issubclass(type(thing), Tensor) for thing in gc.get_objects()))
    finally:
        gc.enable()
    assert counts[5] > 0
    assert counts[11] == counts[5]


# ------------------------------------------------------------------------------------------------------- precision
@pytest.mark.parametrize("hvp", ["exact", "finite-difference"])
def test_loss_scale_leaves_the_gradients_as_they_are(make: MakeLearner, episode: Episode, hvp: str) -> None:
    learner = make(hvp=hvp)
    loss, plain = meta_gradient(learner, episode)
    learner.loss_scale = 1024.0
    scaled_loss, scaled = meta_gradient(learner, episode)
    assert torch.equal(scaled_loss, loss)
    assert relative_error(scaled, plain) < 1e-12


def test_bf16_gradient_points_the_same_way(make: MakeLearner, episode: Episode) -> None:
    learner = make(second_order_steps=0).float()
    _, full = meta_gradient(learner, episode)
    learner.autocast_dtype = torch.bfloat16
    _, half = meta_gradient(learner, episode)
    assert all(gradient.dtype == torch.float32 for gradient in half.values())
    some, other = (torch.cat([g[name].flatten() for name in full]) for g in (full, half))
    assert not torch.equal(some, other)
    assert torch.cosine_similarity(some, other, dim=0) > 0.98
