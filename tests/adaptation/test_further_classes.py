"""Classes that an adapted classifier gets later, from its folder alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import TOPICS, make_domain
from safetensors.torch import load_file

from metatext import InputError, Learner
from metatext.adaptation.adapt import adapt
from metatext.adaptation.further_classes import add_classes
from metatext.adaptation.inference import head_features, load_classifier
from metatext.encoders.architectures import ARCHITECTURES

CLASSES = sorted(TOPICS)
NAMES = {label: words.split()[0] for label, words in TOPICS.items()}
OLD, NEW = CLASSES[:4], CLASSES[4:]
DOMAIN, TEST = make_domain(0, 3), make_domain(2, 15)


def rows_of(classes: list[str], domain: object = DOMAIN) -> tuple[list[str], list[str]]:
    rows = [(text, label) for text, label in zip(domain.texts, domain.labels, strict=True) if label in classes]  # type: ignore[attr-defined]
    return [text for text, _ in rows], [label for _, label in rows]


@pytest.fixture(scope="module")
def learner(tiny_bert: Path) -> Learner:
    return Learner.from_pretrained(tiny_bert)


@pytest.fixture(scope="module")
def folder(learner: Learner, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of the old classes."""
    path = tmp_path_factory.mktemp("old") / "model"
    adapt(learner, *rows_of(OLD), class_names={label: NAMES[label] for label in OLD}).save_pretrained(path)
    return path


def accuracy(adapted: object) -> float:
    found = adapted.probabilities(TEST.texts).argmax(1).tolist()  # type: ignore[attr-defined]
    right = [adapted.classes[i] == label for i, label in zip(found, TEST.labels, strict=True)]  # type: ignore[attr-defined]
    return sum(right) / len(right)


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_the_head_reads_the_features_of_the_learner(
    encoder_of: Callable[[str], Path], architecture: str, pooling: str
) -> None:
    learner = Learner.from_pretrained(encoder_of(architecture), pooling=pooling)
    adapted = adapt(learner, *rows_of(OLD), class_names=dict.fromkeys(OLD, ""))
    found = head_features(adapted.model, adapted.tokens, TEST.texts[:9])
    torch.testing.assert_close(found, learner.encode(TEST.texts[:9]), atol=5e-3, rtol=1e-3)


@pytest.mark.parametrize("architecture", ["bert", "roberta", "electra", "modernbert"])
def test_the_logits_of_the_old_classes_stay(
    encoder_of: Callable[[str], Path], architecture: str, tmp_path: Path
) -> None:
    learner = Learner.from_pretrained(encoder_of(architecture))
    adapt(learner, *rows_of(OLD), class_names=dict.fromkeys(OLD, "")).save_pretrained(tmp_path / "old")
    add_classes(tmp_path / "old", *rows_of(NEW)).save_pretrained(tmp_path / "new")
    (old, tokens, _), (new, _, metadata) = load_classifier(tmp_path / "old"), load_classifier(tmp_path / "new")
    batch = tokens.batches(TEST.texts[:20], 64, old.device)[0]
    with torch.no_grad():
        before, after = (m(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits for m in (old, new))
    torch.testing.assert_close(after[:, :4], before, atol=1e-3, rtol=1e-4)
    assert metadata["classes"] == OLD + NEW == list(new.config.id2label.values())
    assert metadata["support"] == dict.fromkeys(CLASSES, 3)


def test_a_class_that_is_added_is_worth_about_one_that_was_there(learner: Learner, folder: Path) -> None:
    together = accuracy(adapt(learner, *rows_of(CLASSES), class_names=NAMES))
    later = accuracy(add_classes(folder, *rows_of(NEW), class_names={label: NAMES[label] for label in NEW}))
    assert together > 0.5 and later > together - 0.1


def test_a_class_may_be_known_by_its_name(learner: Learner, folder: Path) -> None:
    new = {label: NAMES[label] for label in NEW}
    alone = add_classes(folder, [], [], new, NEW)
    assert alone.classes == OLD + NEW and alone.metadata["support"][NEW[0]] == 0
    together = adapt(learner, *rows_of(OLD), class_names=NAMES, classes=NEW)
    assert accuracy(alone) > accuracy(together) - 0.1
    twice = add_classes(folder, [], [], {"x": f"{new[NEW[0]]}\n{new[NEW[0]]}"}, ["x"])
    once = add_classes(folder, [], [], {"x": new[NEW[0]]}, ["x"])
    torch.testing.assert_close(twice.probabilities(TEST.texts[:5]), once.probabilities(TEST.texts[:5]))


def test_classes_can_be_added_one_after_the_other_in_any_order(folder: Path, tmp_path: Path) -> None:
    first = add_classes(folder, *rows_of(NEW[:1]))
    first.save_pretrained(tmp_path / "first")
    second = add_classes(tmp_path / "first", *rows_of(NEW[1:]))
    at_once = add_classes(folder, *rows_of(NEW))
    assert second.classes == at_once.classes
    torch.testing.assert_close(
        second.probabilities(TEST.texts), at_once.probabilities(TEST.texts), atol=1e-4, rtol=1e-3
    )


def test_the_folder_holds_centres_and_no_texts(folder: Path) -> None:
    centres = load_file(folder / "centres.safetensors")
    assert {name: tuple(centre.shape) for name, centre in centres.items()} == {"texts": (32,), "names": (32,)}
    kept = (folder / "metatext.json").read_text(encoding="utf-8")
    assert not any(text in json.loads(kept).values() or text in kept for text in DOMAIN.texts)


def test_what_cannot_be_added_is_refused(learner: Learner, folder: Path, tmp_path: Path, learner_folder: str) -> None:
    for arguments, message in [
        ((*rows_of(OLD[:1]),), f"has these classes already: '{OLD[0]}'"),
        (([], []), "there is no class to add"),
        (([], [], None, ["7"]), r"nothing is known of class '7': give a labelled text of it, or a name"),
        ((["a"], ["x"], {"y": "b"}), "class_names has a name for label 'y'"),
    ]:
        with pytest.raises(InputError, match=message):
            add_classes(folder, *arguments)
    with pytest.raises(InputError, match="is a learner"):
        add_classes(learner_folder, ["a"], ["x"])
    adapt(learner, *rows_of(OLD), steps=1).save_pretrained(tmp_path / "steps")
    with pytest.raises(InputError, match=r"cannot get further classes: it has no centres\.safetensors"):
        add_classes(tmp_path / "steps", ["a"], ["x"])
    nameless = dict.fromkeys(OLD, "")
    adapt(learner, *rows_of(OLD), class_names=nameless).save_pretrained(tmp_path / "nameless")
    with pytest.raises(InputError, match=r"nothing is known of class 'x': give a labelled text of it$"):
        add_classes(tmp_path / "nameless", [], [], {"x": "球队"}, ["x"])
