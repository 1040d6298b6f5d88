"""Fine-tuning by the held-out loss: its gradient, what it changes and what not, and when it is done."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import central_difference, make_rows
from transformers import AutoModel, AutoTokenizer

from metatext import FewShotClassifier, Learner
from metatext.adaptation import adapt as adapt_module
from metatext.adaptation.adapt import adapt, fine_tuning_epochs
from metatext.adaptation.fine_tuning import EPOCHS, LARGE, LARGE_EPOCHS, fine_tuned
from metatext.adaptation.held_out import held_out_cosines
from metatext.adaptation.prototypes import CentredFeatures
from metatext.adaptation.start import Start
from metatext.adaptation.start_selection import choose_start
from metatext.adaptation.top_layers import TopLayers
from metatext.data.episodes import Examples
from metatext.errors import InputError
from metatext.learners.settings import LearnerSettings
from metatext.training.schedules import shuffled_batches


def support_of(per_class: int, seed: int = 0) -> tuple[Examples, list[str]]:
    rows = make_rows(seed, per_class)
    classes = sorted({row["label"] for row in rows})
    return adapt_module.support_of([row["text"] for row in rows], [row["label"] for row in rows], classes), classes


def start_of(learner: Learner, support: Examples, classes: list[str]) -> Start:
    start = choose_start(learner, support, classes, [""] * len(classes), blend=1.0)
    assert start
    return start


@pytest.fixture
def learner(tiny_bert: Path) -> Learner:
    return Learner.from_pretrained(tiny_bert, inner_steps=2)


def log_likelihood(features: np.ndarray, labels: list[int], known: np.ndarray, scale: float) -> float:
    """Of each text under the prototypes of the other folds, on average, written out."""
    ways, y = len(known), np.array(labels)
    folds = np.array([labels[:i].count(label) for i, label in enumerate(labels)])
    total = 0.0
    for i in range(len(y)):
        rest = folds != folds[i]
        z = features - np.stack([features[rest & (y == c)].mean(0) for c in range(ways)]).mean(0)
        z /= np.linalg.norm(z, axis=1, keepdims=True)
        sums = np.stack([known[c] + z[rest & (y == c)].sum(0) for c in range(ways)])
        logits = scale * (sums / np.linalg.norm(sums, axis=1, keepdims=True)) @ z[i]
        total += logits[y[i]] - np.log(np.exp(logits).sum())
    return total / len(y)


# ---------------------------------------------------------------- the gradient
def test_the_first_step_goes_up_the_held_out_likelihood(tiny_bert: Path) -> None:
    """Adam's first step has the sign of the gradient, which finite differences in float64 give too."""
    exact = Learner.from_pretrained(tiny_bert).double()
    learner = Learner.from_pretrained(tiny_bert)
    texts, classes = support_of(2)
    support = Examples(texts.texts[:12], texts.labels[:12])
    start = start_of(learner, support, classes)
    before = {name: p.detach().clone() for name, p in learner.encoder.named_parameters()}
    with fine_tuned(learner, support, start, 1):
        moved = {name: p.detach() - before[name] for name, p in learner.encoder.named_parameters()}

    def likelihood() -> float:
        features = exact.encode(support.texts).numpy()
        return log_likelihood(features, support.labels, start.class_priors.double().numpy(), start.scale)

    checked = 0
    for name, p in exact.encoder.named_parameters():
        if "layer.1" not in name or p.dim() < 2:
            continue
        for place in (0, 101):
            slope = central_difference(likelihood, p, place, 1e-4)
            if abs(slope) > 1e-4:
                step = float(moved[name].view(-1)[place])
                assert np.sign(step) == np.sign(slope) and abs(step) == pytest.approx(5e-5, rel=0.02)
                checked += 1
    assert checked >= 6


# ---------------------------------------------------------------- what it changes
def test_new_texts_are_told_apart_better(learner: Learner) -> None:
    texts, classes = support_of(8)
    new, _ = support_of(20, seed=1)
    start = start_of(learner, texts, classes)

    def accuracy(epochs: int) -> float:
        with fine_tuned(learner, texts, start, epochs) as layer:
            answers = layer.logits(learner.encode(new.texts)).argmax(1)
        return float((answers == torch.tensor(new.labels)).float().mean())

    assert accuracy(60) > accuracy(0) + 0.05


def test_of_many_texts_the_top_layers_learn(learner: Learner, monkeypatch: pytest.MonkeyPatch) -> None:
    def moved(texts: int) -> set[str]:
        support, classes = support_of(26)
        support = Examples(support.texts[:texts], support.labels[:texts])
        before = {name: p.detach().clone() for name, p in learner.encoder.named_parameters()}
        with fine_tuned(learner, support, start_of(learner, support, classes), 1):
            return {name for name, p in learner.encoder.named_parameters() if not torch.equal(p, before[name])}

    assert {name[:15] for name in moved(LARGE)} == {"embeddings.Laye", "embeddings.posi", "embeddings.toke"} | {
        "encoder.layer.0", "encoder.layer.1",
    }  # fmt: skip
    assert {name[:15] for name in moved(LARGE + 1)} == {"encoder.layer.1"}


def test_the_learner_is_as_it_was_also_after_an_exception(learner: Learner) -> None:
    support, classes = support_of(3)
    start = start_of(learner, support, classes)
    before = {name: p.detach().clone() for name, p in learner.named_parameters()}
    with pytest.raises(RuntimeError, match="stop"), fine_tuned(learner, support, start, 2):
        moved = [name for name, p in learner.named_parameters() if not torch.equal(p, before[name])]
        raise RuntimeError("stop")
    assert moved and learner.table_name not in {name.removeprefix("encoder.") for name in moved}
    for name, p in learner.named_parameters():
        assert torch.equal(p, before[name]) and p.grad is None


def test_the_calibrated_scale_is_the_classifiers_and_the_likeliest_the_losss(learner: Learner) -> None:
    support, classes = support_of(3)
    start = start_of(learner, support, classes)._replace(scale=8.0, calibrated_scale=3.0)
    moved = []
    for other in (start, start._replace(calibrated_scale=5.0), start._replace(scale=2.0)):
        with fine_tuned(learner, support, other, 1) as layer:
            radius = CentredFeatures(learner.encode(support.texts), torch.tensor(support.labels), len(classes)).radius
            torch.testing.assert_close(layer.weight.norm(dim=1) * radius, torch.full((6,), other.calibrated_scale))
            moved.append(torch.cat([p.detach().flatten() for p in learner.encoder.parameters()]))
    assert torch.equal(moved[0], moved[1]) and not torch.equal(moved[0], moved[2])


def test_no_epochs_leave_the_start(learner: Learner) -> None:
    support, classes = support_of(3)
    start = start_of(learner, support, classes)
    with fine_tuned(learner, support, start, 0) as layer:
        assert layer is start.layer


def test_a_text_that_is_alone_in_its_class_is_not_judged(learner: Learner, monkeypatch: pytest.MonkeyPatch) -> None:
    texts, classes = support_of(2)
    lonely = classes.index("car")
    rows = [texts.labels.index(lonely), *(row for row, label in enumerate(texts.labels) if label != lonely)]
    names = sorted({texts.labels[row] for row in rows})
    support = Examples([texts.texts[row] for row in rows], [names.index(texts.labels[row]) for row in rows])
    start, judged = start_of(learner, support, [classes[name] for name in names]), []

    def spy(logits: torch.Tensor, labels: torch.Tensor, **how: str) -> torch.Tensor:
        judged.extend(labels.tolist())
        return torch.nn.functional.cross_entropy(logits, labels, **how)

    monkeypatch.setattr("metatext.adaptation.fine_tuning.cross_entropy", spy)
    with fine_tuned(learner, support, start, 2):
        pass
    assert len(judged) == 2 * 10 and names.index(lonely) not in judged


@pytest.mark.parametrize("per_class", [1, 2, 10])
def test_epochs_are_passes_over_the_texts(learner: Learner, per_class: int, monkeypatch: pytest.MonkeyPatch) -> None:
    support, classes = support_of(per_class)
    seen: Counter[int] = Counter()

    features = TopLayers.features

    def spy(layers: TopLayers, rows: torch.Tensor) -> torch.Tensor:
        if torch.is_grad_enabled():  # not what is only encoded
            seen.update(rows.tolist())
        return features(layers, rows)

    monkeypatch.setattr(TopLayers, "features", spy)
    with fine_tuned(learner, support, start_of(learner, support, classes), 4):
        pass
    assert np.mean(list(seen.values())) == pytest.approx(4, abs=0.2) and len(seen) == len(support)


def test_texts_outside_the_batch_are_as_they_were_last_seen(learner: Learner, monkeypatch: pytest.MonkeyPatch) -> None:
    support, classes = support_of(10)
    first, spaces = learner.encode(support.texts), []

    def spy(features: torch.Tensor, *how: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        spaces.append(features.detach().clone())
        return held_out_cosines(features, *how)

    start = start_of(learner, support, classes)
    monkeypatch.setattr("metatext.adaptation.fine_tuning.held_out_cosines", spy)
    with fine_tuned(learner, support, start, 1):
        pass
    moved = [int(((features - first).abs().amax(1) > 1e-4).sum()) for features in spaces[:4]]
    assert moved[0] == 0 and moved[1] <= 16 < moved[2] <= 32 < moved[3] <= 48


def test_an_encoder_that_is_frozen_is_left_as_it_is(tiny_bert: Path) -> None:
    support, classes = support_of(5)
    encoder = AutoModel.from_pretrained(tiny_bert).requires_grad_(False)
    learner = Learner(encoder, AutoTokenizer.from_pretrained(tiny_bert), LearnerSettings(inner_steps=0), "tiny")
    adapted = adapt(learner, support.texts, [classes[i] for i in support.labels])
    assert adapted.probabilities(support.texts).isfinite().all()


@pytest.mark.parametrize("options", [{"steps": 1}, {"epochs": 1}, {"steps": 1, "epochs": 1}])
def test_learners_in_double_precision_adapt(tiny_bert: Path, options: dict[str, int]) -> None:
    learner = Learner.from_pretrained(tiny_bert, inner_steps=2).double()
    support, classes = support_of(5)
    adapted = adapt(learner, support.texts, [classes[i] for i in support.labels], **options)
    assert adapted.probabilities(support.texts).isfinite().all()


def test_gradients_of_ones_own_are_back_also_after_an_interruption(
    learner: Learner, monkeypatch: pytest.MonkeyPatch
) -> None:
    support, classes = support_of(5)
    start, own = start_of(learner, support, classes), {}
    for name, p in learner.encoder.named_parameters():
        p.grad = own[name] = torch.ones_like(p)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("torch.nn.utils.clip_grad_norm_", interrupted)
    with pytest.raises(KeyboardInterrupt), fine_tuned(learner, support, start, 1):
        pass
    assert all(p.grad is own[name] for name, p in learner.encoder.named_parameters())


def test_the_weights_under_the_adapters_are_tuned(tiny_bert: Path) -> None:
    learner = Learner.from_pretrained(tiny_bert, scope="lora", inner_steps=1)
    support, classes = support_of(3)
    start = start_of(learner, support, classes)
    before = {name: p.detach().clone() for name, p in learner.named_parameters()}
    trainable = {name for name, p in learner.named_parameters() if p.requires_grad}
    with fine_tuned(learner, support, start, 2):
        moved = [name for name, p in learner.named_parameters() if not torch.equal(p, before[name])]
    assert any("query.base_layer.weight" in name for name in moved) and not any("lora" in name for name in moved)
    assert all(torch.equal(p, before[name]) for name, p in learner.named_parameters())
    assert trainable == {name for name, p in learner.named_parameters() if p.requires_grad}


def test_batches_are_shuffled_epochs() -> None:
    rows = [row for batch in shuffled_batches(10, 4, 5) for row in batch]
    assert Counter(rows) == dict.fromkeys(range(10), 2)
    assert sorted(next(shuffled_batches(3, 16, 1))) == [0, 1, 2]


# ---------------------------------------------------------------- as a user meets it
@pytest.mark.parametrize(
    ("per_class", "options", "epochs"),
    [
        (5, {}, EPOCHS), (4, {}, 0), (5, {"steps": 1}, 0), (4, {"epochs": 2}, 2), (5, {"epochs": 0}, 0),
        (26, {}, LARGE_EPOCHS),
    ],
)  # fmt: skip
def test_fine_tuning_is_for_thirty_texts_or_where_asked_for(
    learner: Learner, per_class: int, options: dict[str, int], epochs: int
) -> None:
    support, classes = support_of(per_class)
    adapted = adapt(learner, support.texts, [classes[i] for i in support.labels], **options)
    assert adapted.metadata["epochs"] == epochs


def test_the_exported_classifier_computes_the_tuned_layer(learner: Learner) -> None:
    support, classes = support_of(3)
    labels = [classes[i] for i in support.labels]
    nameless = dict.fromkeys(classes, "")
    fitted = FewShotClassifier(learner, class_names=nameless, blend=1.0, epochs=3).fit(support.texts, labels)
    with fine_tuned(learner, support, start_of(learner, support, classes), 3) as layer:
        expected = layer.logits(learner.encode(support.texts)).softmax(1)
    np.testing.assert_allclose(fitted.predict_proba(support.texts), expected.numpy(), atol=1e-4)


@pytest.mark.parametrize("options", [{}, {"steps": 2}, {"epochs": 0}])
def test_a_caller_in_inference_mode_has_the_same_classifier(learner: Learner, options: dict[str, int]) -> None:
    support, classes = support_of(5)
    labels = [classes[i] for i in support.labels]
    expected = adapt(learner, support.texts, labels, **options).probabilities(support.texts)
    with torch.inference_mode():
        found = adapt(learner, support.texts, labels, **options).probabilities(support.texts)
    assert torch.equal(found, expected)


def test_impossible_epochs_are_refused(learner: Learner, tiny_bert: Path) -> None:
    support, classes = support_of(2)
    labels = [classes[i] for i in support.labels]
    with pytest.raises(InputError, match="epochs must be 0 or more, got -1"):
        adapt(learner, support.texts, labels, epochs=-1)
    linear = Learner.from_pretrained(tiny_bert, head="linear", classes=classes)
    with pytest.raises(InputError, match="epochs is for learners with a prototype head"):
        adapt(linear, support.texts, labels, epochs=1)


@pytest.mark.parametrize(
    ("shared", "texts", "expected"), [(False, 29, 0), (False, 30, 4), (True, 59, 0), (True, 60, 4)]
)
def test_the_texts_from_which_on_the_encoder_is_fine_tuned(
    learner: Learner, shared: bool, texts: int, expected: int
) -> None:
    support, classes = support_of(10)
    start = start_of(learner, support, classes)._replace(shared=shared)
    some = Examples(support.texts[:texts], support.labels[:texts])
    assert fine_tuning_epochs(some, start, None, None) == expected
    assert (
        fine_tuning_epochs(some, start, 3, None),
        fine_tuning_epochs(some, start, None, 7),
        fine_tuning_epochs(some, None, None, None),
    ) == (0, 7, 0)
