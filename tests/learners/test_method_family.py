"""The other methods of the family, each against an independent truth."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from conftest import TOPICS
from test_meta_gradient import group_of, slope_error, spread
from torch import Tensor

from metatext import Episode, Learner, TrainConfig
from metatext.adaptation.adapt import support_of
from metatext.adaptation.start_selection import choose_start
from metatext.core.imaml import implicit_gradient
from metatext.core.inner_loop import inner_loop
from metatext.core.maml import sweep
from metatext.core.reptile import reptile_gradient
from metatext.core.task import Task
from metatext.data.class_names import readable_names
from metatext.data.episodes import Examples
from metatext.errors import InputError
from metatext.learners.meta_gradient import adapted, evaluate_episode, meta_gradient, outer_loss, run_episode
from metatext.learners.settings import LearnerSettings
from metatext.learners.weight_blending import blended
from metatext.training.schedules import multi_step_weights

MakeLearner = Callable[..., Learner]


@pytest.fixture
def make(make_learner: MakeLearner) -> MakeLearner:
    def build(architecture: str = "bert", **settings: Any) -> Learner:
        classes = {"classes": list(TOPICS)} if settings.get("head") == "linear" else {}
        return spread(make_learner(architecture, **classes, **settings))

    return build


def quadratic(seed: int = 0, size: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """A positive definite matrix and two vectors, float64."""
    generator = torch.Generator().manual_seed(seed)
    root, b, c = (torch.randn(*s, generator=generator, dtype=torch.float64) for s in ((size, size), (size,), (size,)))
    return root @ root.T / size + torch.eye(size, dtype=torch.float64), b, c


def groups_of(gradients: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    groups: dict[str, dict[str, Tensor]] = {}
    for name, gradient in gradients.items():
        groups.setdefault(group_of(name), {})[name] = gradient
    return groups


# ----------------------------------------------------------------------------------------------------- any model
@pytest.mark.parametrize("kept_graphs", [0, 2, 5])
def test_full_maml_on_a_quadratic_is_its_closed_form(kept_graphs: int) -> None:
    matrix, b, c = quadratic()
    theta = b.clone().requires_grad_()
    support = [lambda: 0.5 * theta @ matrix @ theta, lambda: c @ theta]  # in two parts
    query = [lambda: 0.5 * (theta - b).square().sum()]
    swept = sweep(Task(support, query, [theta]), [0.1] * 5, 5, kept_graphs=kept_graphs, rate_gradients=True)
    path, shrink = [b], torch.eye(4, dtype=torch.float64) - 0.1 * matrix
    for _ in range(5):
        path.append(shrink @ path[-1] - 0.1 * c)
    v = path[5] - b
    torch.testing.assert_close(swept.loss, 0.5 * v.square().sum())
    for k in reversed(range(5)):
        torch.testing.assert_close(swept.rate_gradients[k][0], -0.1 * v @ (matrix @ path[k] + c))
        v = shrink @ v
    torch.testing.assert_close(swept.gradients[0], v)
    assert torch.equal(theta, b)


def test_a_tensor_that_no_loss_uses_has_no_gradient() -> None:
    theta, idle = torch.ones(2, requires_grad=True), torch.ones(3, requires_grad=True)
    task = Task([lambda: theta.square().sum()], [lambda: theta.sum()], [theta, idle])
    swept = sweep(task, [0.1, 0.1], 2)
    assert swept.gradients[1] is None
    torch.testing.assert_close(swept.gradients[0], torch.full((2,), 0.64))  # (1 - 2 * 0.1)^2, and sum's gradient
    assert torch.equal(idle, torch.ones(3))


# ------------------------------------------------------------------------------------------------------- MAML++
@pytest.mark.parametrize("head", ["prototype", "linear"])
@pytest.mark.parametrize("settings", [{}, {"scope": "top:1"}, {"kept_graphs": 3}], ids=str)
def test_multi_step_loss_agrees_with_finite_differences(
    make: MakeLearner, episode: Episode, head: str, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    learner, weights = make(head=head, second_order_steps=3, **settings), [0.2, 0.3, 0.5]
    result = run_episode(learner, episode, weights)
    monkeypatch.setattr("test_meta_gradient.outer_loss", lambda *arguments: outer_loss(*arguments, weights))
    assert result.loss.item() == pytest.approx(outer_loss(learner, episode, weights).item(), rel=1e-12)
    assert result.correct == evaluate_episode(learner, episode)[1]
    errors = {name: slope_error(learner, episode, group) for name, group in groups_of(result.gradients).items()}
    assert max(errors.values()) < 1e-6, errors


def test_annealing_of_weights_and_order() -> None:
    config = TrainConfig(meta_steps=10, multi_step_fraction=0.5, first_order_fraction=0.2)
    assert multi_step_weights(config, 4, 0) == (pytest.approx([0.25] * 4), 0)
    assert multi_step_weights(config, 4, 1) == (pytest.approx([0.2, 0.2, 0.2, 0.4]), 0)
    assert multi_step_weights(config, 4, 4) == (pytest.approx([0.05, 0.05, 0.05, 0.85]), None)
    assert multi_step_weights(config, 4, 5) == (None, None)
    assert multi_step_weights(TrainConfig(), 4, 0) == (None, None)


def test_first_order_steps_may_come_first(make: MakeLearner, episode: Episode) -> None:
    learner, first = make(second_order_steps=3), make(second_order_steps=0)
    some = run_episode(learner, episode, second_order_steps=0).gradients
    other = run_episode(first, episode).gradients
    assert all(torch.equal(some[name], other[name]) for name in other)


# ------------------------------------------------------------------------------------------------------ Meta-SGD
@pytest.mark.parametrize("head", ["prototype", "linear"])
@pytest.mark.parametrize("scope", ["all", "top:1", "head"])
def test_rates_of_every_parameter_agree_with_finite_differences(
    make: MakeLearner, episode: Episode, head: str, scope: str
) -> None:
    learner = make(head=head, scope=scope, second_order_steps=3, inner_rates="parameter")
    moved = sum(dict(learner.encoder.named_parameters())[name].numel() for name in learner.inner_names)
    assert learner.log_inner_lr.shape == (moved + 2,)
    assert learner.settings.method == ("full ANIL with Meta-SGD" if scope == "head" else "full MAML with Meta-SGD")
    _, gradients = meta_gradient(learner, episode)
    errors = {name: slope_error(learner, episode, group) for name, group in groups_of(gradients).items()}
    assert max(errors.values()) < 1e-5, errors


def test_meta_sgd_with_equal_rates_is_maml(make_learner: MakeLearner, episode: Episode) -> None:
    plain, fine = (make_learner(second_order_steps=3, inner_rates=kind) for kind in ("layer", "parameter"))
    some, other = (meta_gradient(learner, episode)[1] for learner in (plain, fine))
    for name in some.keys() - {"log_inner_lr"}:
        torch.testing.assert_close(some[name], other[name], rtol=1e-9, atol=1e-13)
    torch.testing.assert_close(some["log_inner_lr"].sum(), other["log_inner_lr"].sum(), rtol=1e-9, atol=0.0)


# ---------------------------------------------------------------------------------------------- prototypical networks
def test_no_inner_step_is_a_prototypical_network(make: MakeLearner, episode: Episode) -> None:
    learner = make(inner_steps=0)
    assert learner.settings.method == "prototypical network"
    loss, gradients = meta_gradient(learner, episode)
    points, labels = learner.encode(episode.support.texts), torch.tensor(episode.support.labels)
    centroids = torch.stack([points[labels == c].mean(0) for c in range(3)])
    distances = torch.cdist(learner.encode(episode.query.texts), centroids).square()
    logits = -distances * learner.head.log_scale.detach().exp() / 32  # Snell 2017, eq. 2, with a scale
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor(episode.query.labels))
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=0.0)
    assert slope_error(learner, episode, gradients) < 1e-6


# -------------------------------------------------------------------------------------------------------------- Adam
def test_adams_steps_are_torchs() -> None:
    matrix, b, c = quadratic()
    theta, other = b.clone().requires_grad_(), b.clone().requires_grad_()
    optimizer = torch.optim.Adam([other], lr=0.05)
    for _ in inner_loop(Task([lambda: 0.5 * theta @ matrix @ theta + c @ theta], [], [theta]), [[0.05]] * 6, adam=True):
        optimizer.zero_grad()
        (0.5 * other @ matrix @ other + c @ other).backward()
        optimizer.step()
        torch.testing.assert_close(theta, other, rtol=1e-12, atol=0.0)


def test_first_order_with_adam_is_the_query_gradient_at_the_end(make: MakeLearner, episode: Episode) -> None:
    learner = make(head="linear", inner_optimizer="adam", inner_lr=0.001)
    _, gradients = meta_gradient(learner, episode)
    rows = [list(TOPICS).index(name) for name in episode.classes]
    with adapted(learner, episode.support, episode.classes) as layer:
        ((batch, labels),) = learner.batches(episode.query).batches
        loss = learner.loss(batch, labels, layer._replace(weight=layer.weight.requires_grad_()))[0] / 12
        expected = torch.autograd.grad(loss, [layer.weight, learner.get_parameter(f"encoder.{learner.table_name}")])
    torch.testing.assert_close(gradients["head.weight"][rows], expected[0], rtol=1e-9, atol=1e-13)
    torch.testing.assert_close(gradients[f"encoder.{learner.table_name}"], expected[1], rtol=1e-9, atol=1e-13)


# ------------------------------------------------------------------------------------------------------------- iMAML
@pytest.mark.parametrize("hvp", ["exact", "finite-difference", "one-sided"])
def test_imaml_on_a_quadratic_is_its_closed_form(hvp: str) -> None:
    matrix, b, c = quadratic()
    theta, still = b.clone().requires_grad_(), c.clone().requires_grad_()
    support = [lambda: 0.5 * theta @ matrix @ theta + still @ theta]
    task = Task(support, [lambda: theta.square().sum() + still.sum()], [theta], [still])
    swept = implicit_gradient(task, [[0.2]] * 400, 2.0, hvp=hvp, cg_steps=8)
    eye = torch.eye(4, dtype=torch.float64)
    end = torch.linalg.solve(matrix + 2 * eye, 2 * b - c)  # where A x + c + 2 (x - b) = 0
    solved = torch.linalg.solve(eye + matrix / 2, 2 * end)
    tolerance = {"exact": 1e-10, "finite-difference": 1e-8, "one-sided": 1e-6}[hvp]
    torch.testing.assert_close(swept.loss, end.square().sum() + c.sum(), rtol=1e-10, atol=0.0)
    torch.testing.assert_close(swept.gradients[0], solved, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(swept.gradients[1], 1 - solved / 2, rtol=tolerance, atol=tolerance)
    assert torch.equal(theta, b)


def test_imamls_products_may_be_their_very_argument() -> None:
    class Half(torch.autograd.Function):  # x^2 / 2, whose second derivative hands on what it is given
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return 0.5 * x.square().sum()

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Tensor:
            return ctx.saved_tensors[0]

    theta, target = torch.zeros(3, dtype=torch.float64, requires_grad=True), torch.arange(1.0, 4.0).double()
    task = Task([lambda: Half.apply(theta)], [lambda: target @ theta], [theta])
    swept = implicit_gradient(task, [[0.1]], 1.0)
    torch.testing.assert_close(swept.gradients[0], target / 2)


def test_imaml_stops_where_there_is_no_minimum() -> None:
    theta = torch.tensor([0.3, 0.4], dtype=torch.float64, requires_grad=True)
    task = Task([lambda: -4.0 * theta.square().sum()], [lambda: theta.sum()], [theta])
    swept = implicit_gradient(task, [[0.01]], 1.0)
    torch.testing.assert_close(
        swept.gradients[0], torch.ones(2, dtype=torch.float64)
    )  # the first guess, no step from it


@pytest.mark.parametrize("head", ["prototype", "linear"])
def test_imaml_agrees_with_finite_differences_at_the_minimum(
    make_learner: MakeLearner, episode: Episode, head: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    classes = {"classes": list(TOPICS)} if head == "linear" else {}
    settings = {"algorithm": "imaml", "scope": "head", "inner_steps": 800, "inner_lr": 0.05, "proximal": 0.5}
    learner = make_learner(head=head, **settings, **classes)
    if head == "prototype":
        learner.head.log_scale.data.fill_(math.log(2.0))
    monkeypatch.setattr(
        implicit_gradient.__wrapped__, "__kwdefaults__", {"hvp": "exact", "cg_steps": 60, "tolerance": 0}
    )
    _, gradients = meta_gradient(learner, episode)
    assert gradients.keys() == {n for n, p in learner.named_parameters() if p.requires_grad}
    assert slope_error(learner, episode, gradients) < 1e-5


# ------------------------------------------------------------------------------------------------------------ Reptile
def test_reptile_by_hand() -> None:
    theta = torch.tensor([4.0], requires_grad=True)
    task = Task([lambda: 0.5 * theta.square().sum()], [lambda: theta.sum()], [theta])
    swept = reptile_gradient(task, [[0.5], [0.5]])
    assert swept.gradients[0].item() == 6.0  # 4, then 2
    assert swept.loss.item() == 1.0 and theta.item() == 4.0


def test_reptile_goes_where_the_inner_loop_ends(make: MakeLearner, episode: Episode) -> None:
    learner = make(head="linear", algorithm="reptile", inner_lr=0.05, learn_inner_lr=False)
    learner.log_inner_lr.data.fill_(math.log(0.05))
    _, gradients = meta_gradient(learner, episode)
    both = Examples(episode.support.texts + episode.query.texts, episode.support.labels + episode.query.labels)
    before = {name: p.detach().clone() for name, p in learner.encoder.named_parameters()}
    with adapted(learner, both, episode.classes):
        for name, p in learner.encoder.named_parameters():
            way = (before[name] - p.detach()) / 0.05
            torch.testing.assert_close(gradients[f"encoder.{name}"], way, rtol=1e-9, atol=1e-12)


# ----------------------------------------------------------------------------------------------------------- settings
@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"inner_steps": 0, "head": "linear"}, "inner_steps must be at least 1"),
        ({"algorithm": "reptile", "second_order_steps": 1}, "algorithm='reptile' is first-order"),
        ({"inner_optimizer": "adam", "second_order_steps": 1}, "inner_optimizer='adam' is first-order"),
        ({"algorithm": "imaml", "inner_optimizer": "adam"}, "algorithm='imaml' takes plain gradient steps"),
        ({"algorithm": "reptile", "scope": "head"}, "has nothing to learn"),
        ({"algorithm": "reptile", "inner_rates": "parameter"}, "inner_rates='parameter' needs algorithm='maml'"),
        ({"kept_graphs": -1}, "kept_graphs must be 'auto' or 0 or more, got -1"),
        ({"kept_graphs": "all"}, "kept_graphs must be 'auto' or 0 or more, got 'all'"),
    ],
)
def test_contradictions_are_refused(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        LearnerSettings(**settings)


@pytest.mark.parametrize(
    "settings",
    [{"inner_steps": 0}, {"inner_rates": "parameter"}, {"algorithm": "imaml"}, {"algorithm": "reptile"}],
    ids=str,
)
def test_every_method_is_saved_and_loaded(make: MakeLearner, episode: Episode, tmp_path: Any, settings: Any) -> None:
    learner = make(**settings)
    learner.save_pretrained(tmp_path / "learner")
    again = Learner.from_pretrained(tmp_path / "learner").double()
    assert again.settings == learner.settings
    torch.testing.assert_close(outer_loss(again, episode), outer_loss(learner, episode), rtol=1e-5, atol=1e-6)


# --------------------------------------------------------------------------------------------------------------- LoRA
@pytest.mark.parametrize(
    ("architecture", "head"), [("bert", "linear"), ("distilbert", "prototype"), ("deberta-v2", "prototype")]
)
def test_adapters_agree_with_finite_differences(
    make: MakeLearner, episode: Episode, architecture: str, head: str
) -> None:
    learner = make(architecture, head=head, scope="lora", lora_rank=2, second_order_steps=3)
    for name, p in learner.named_parameters():
        if "lora_B" in name:  # they start at zero
            p.data.normal_(std=0.1, generator=torch.Generator().manual_seed(3))
    _, gradients = meta_gradient(learner, episode)
    trained = [name for name in gradients if name.startswith("encoder.")]
    assert len(trained) == 8 and all("lora" in name for name in trained)  # A and B of two matrices in two layers
    assert slope_error(learner, episode, gradients) < 1e-6


def test_adapters_are_saved_and_merged_into_the_exported_classifier(make: MakeLearner, tmp_path: Any) -> None:
    from transformers import AutoModel, pipeline

    from metatext import FewShotClassifier

    learner = make(scope="lora", lora_rank=2).float()
    for name, p in learner.named_parameters():
        if "lora_B" in name:
            p.data.normal_(std=0.3, generator=torch.Generator().manual_seed(3))
    learner.save_pretrained(tmp_path / "learner")
    again = Learner.from_pretrained(tmp_path / "learner")
    texts, labels = ["球队比赛", "股票基金", "汽车轿车", "球迷主场", "银行利率", "试驾油耗"], ["a", "b", "c"] * 2
    assert torch.equal(again.encode(texts), learner.encode(texts))
    plain, info = AutoModel.from_pretrained(tmp_path / "learner", output_loading_info=True)
    assert not info["unexpected_keys"] and not any("pooler" not in key for key in info["missing_keys"])
    assert torch.equal(plain.get_input_embeddings().weight, learner.table)
    with pytest.raises(InputError, match="was trained with scope='lora'"):
        Learner.from_pretrained(tmp_path / "learner", scope="all")
    classifier = FewShotClassifier(again).fit(texts, labels)
    classifier.save_pretrained(tmp_path / "model")
    scores = pipeline("text-classification", str(tmp_path / "model"), top_k=None)(texts)
    for row, expected in zip(scores, classifier.predict_proba(texts), strict=True):
        assert [r["score"] for r in sorted(row, key=lambda r: r["label"])] == pytest.approx(list(expected), abs=1e-5)
    classes = ["a", "b", "c"]
    start = choose_start(again, support_of(texts, labels, classes), classes, readable_names(classes))
    assert start
    with blended(again, start.blend):
        layer = start.layer
        own = layer.logits(again.encode(texts)).softmax(1)
    torch.testing.assert_close(torch.tensor(classifier.predict_proba(texts)).float(), own, rtol=1e-3, atol=1e-4)


def test_adapters_start_the_same_in_every_process(make_learner: MakeLearner) -> None:
    some, other = make_learner(scope="lora"), make_learner(scope="lora")
    for (name, p), q in zip(some.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q), name
        assert "lora_A" not in name or 0.05 < p.std() < 0.2  # uniform below 1 / sqrt(32)


@pytest.mark.parametrize(
    "change", [{"inner_lr": 0.5}, {"inner_optimizer": "adam"}, {"inner_rates": "parameter"}], ids=str
)
def test_saved_rates_are_left_where_other_ones_are_asked(make: MakeLearner, tmp_path: Any, change: Any) -> None:
    make().save_pretrained(tmp_path / "learner")
    again = Learner.from_pretrained(tmp_path / "learner", **change)
    torch.testing.assert_close(again.log_inner_lr.exp(), torch.full_like(again.log_inner_lr, again.settings.inner_lr))


@pytest.mark.parametrize(
    "settings",
    [
        {"algorithm": "reptile", "second_order_steps": 0},
        {"algorithm": "imaml", "second_order_steps": 0},
        {"inner_steps": 0, "second_order_steps": 0},
        {"inner_optimizer": "adam", "second_order_steps": 0},
        {"inner_rates": "parameter"},
        {"scope": "lora"},
        {"scope": "top:1", "kept_graphs": 3},
    ],
    ids=str,
)
def test_the_loss_scale_of_float16_leaves_every_method_as_it_is(
    make: MakeLearner, episode: Episode, settings: dict[str, Any]
) -> None:
    learner = make(**settings)
    expected = run_episode(learner, episode).gradients
    learner.loss_scale = 1024.0
    scaled = run_episode(learner, episode).gradients
    assert max(float(g.abs().max()) for g in expected.values()) > 0
    for name, value in expected.items():
        torch.testing.assert_close(scaled[name], value, rtol=1e-9, atol=1e-12)
