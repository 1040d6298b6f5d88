"""Classes that an adapted classifier gets later, from its folder alone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import TOPICS, make_domain
from safetensors.torch import load_file, save_file

from metatext import InputError, Learner
from metatext.adaptation.adapt import adapt
from metatext.adaptation.further_classes import add_classes
from metatext.adaptation.inference import head_features, load_classifier
from metatext.encoders.architectures import ARCHITECTURES
from metatext.encoders.sequence_classifier import head_of

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


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
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


@pytest.mark.parametrize(("weight", "expected"), [(0.0, 0.0), (0.5, 0.5), (4.0, 4.0)])
def test_names_count_as_in_the_classifier(folder: Path, tmp_path: Path, weight: float, expected: float) -> None:
    """Written out: two texts and the name, each a unit direction from its centre."""
    edited = shutil.copytree(folder, tmp_path / "edited")
    metadata = json.loads((edited / "metatext.json").read_text(encoding="utf-8"))
    metadata["start"]["names_weight"] = weight
    (edited / "metatext.json").write_text(json.dumps(metadata), encoding="utf-8")
    texts, name = rows_of(NEW[:1])[0][:2], NAMES[NEW[0]]
    adapted = add_classes(edited, [*texts, texts[0]], [NEW[0]] * 3, {NEW[0]: name})  # the third text is the first again
    centres = load_file(edited / "centres.safetensors")
    unit = torch.nn.functional.normalize
    features = head_features(adapted.model, adapted.tokens, [*texts, name])
    direction = unit(features[:2] - centres["texts"], dim=1).sum(0) + expected * unit(
        features[2] - centres["names"], dim=0
    )
    row = head_of(adapted.model)[0][-1]
    torch.testing.assert_close(unit(row, dim=0), unit(direction, dim=0), atol=1e-4, rtol=1e-3)


def test_labels_are_judged_beside_the_old_ones(learner: Learner, tmp_path: Path) -> None:
    texts, labels = rows_of(OLD[:2])
    numbered = {OLD[0]: "体育_1", OLD[1]: "体育_2"}
    adapt(learner, texts, [numbered[label] for label in labels]).save_pretrained(tmp_path / "numbered")
    with pytest.raises(InputError, match="nothing is known of class '体育_9'"):
        add_classes(tmp_path / "numbered", [], [], None, ["体育_9"])
    adapt(learner, texts, labels, class_names={OLD[0]: "球队", OLD[1]: "股票"}).save_pretrained(tmp_path / "named")
    with pytest.raises(InputError, match="nothing is known of class 'x'"):
        add_classes(tmp_path / "named", [], [], {"x": "非球队"}, ["x"])


@pytest.mark.parametrize(
    "damage",
    [{"classes": OLD[::-1]}, {"classes": "abc"}, {"start": None}, {"start": {"names_weight": "x"}}, {"class_names": []},
     {"support": None}],
)  # fmt: skip
def test_metadata_that_do_not_fit_the_model_are_refused(
    folder: Path, tmp_path: Path, damage: dict[str, object]
) -> None:
    edited = shutil.copytree(folder, tmp_path / "edited")
    metadata = json.loads((edited / "metatext.json").read_text(encoding="utf-8")) | damage
    (edited / "metatext.json").write_text(json.dumps(metadata), encoding="utf-8")
    with pytest.raises(InputError, match=r"metatext\.json of .* is damaged or does not belong to its model"):
        add_classes(edited, ["a"], ["x"])


def test_names_that_count_for_nothing_are_pointed_out(
    learner: Learner, folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    add_classes(folder, ["a"], ["x"], {"x": "ქართული"})
    assert "are not used, because the encoder cannot read them or they are negations: 'x'" in caplog.text
    adapt(learner, *rows_of(OLD), class_names=dict.fromkeys(OLD, "")).save_pretrained(tmp_path / "nameless")
    add_classes(tmp_path / "nameless", ["a"], ["x"], {"x": "球队"})
    assert "are not used, because the classifier was made without names: 'x'" in caplog.text


def test_damaged_centres_are_refused(folder: Path, tmp_path: Path) -> None:
    edited = shutil.copytree(folder, tmp_path / "edited")
    for content, message in [
        ({"texts": torch.zeros(3)}, "must hold vectors of 32 numbers"),
        ({"names": torch.zeros(32)}, "must hold vectors of 32 numbers"),
        ({"texts": torch.full((32,), torch.nan)}, "must hold vectors of 32 numbers"),
        ({"texts": torch.zeros(32, dtype=torch.int64)}, "must hold vectors of 32 numbers"),
    ]:
        save_file(content, edited / "centres.safetensors")
        with pytest.raises(InputError, match=message):
            add_classes(edited, ["a"], ["x"])
    (edited / "centres.safetensors").write_bytes(b"{}")
    with pytest.raises(InputError, match=r"centres\.safetensors is damaged"):
        add_classes(edited, ["a"], ["x"])


def test_the_folder_holds_centres_and_no_texts(folder: Path) -> None:
    centres = load_file(folder / "centres.safetensors")
    assert {name: tuple(centre.shape) for name, centre in centres.items()} == {"texts": (32,), "names": (32,)}
    kept = (folder / "metatext.json").read_text(encoding="utf-8")
    assert not any(text in json.loads(kept).values() or text in kept for text in DOMAIN.texts)


def test_what_cannot_be_added_is_refused(learner: Learner, folder: Path, tmp_path: Path, learner_folder: str) -> None:
    names = {label: NAMES[label] for label in OLD} | {"x": "球队教练"}  # one file of names for all
    assert add_classes(folder, ["a"], ["x"], names).classes == add_classes(folder, [], [], names).classes == [*OLD, "x"]
    for arguments, message in [
        ((*rows_of(OLD[:1]),), f"has these classes already: '{OLD[0]}'"),
        (([], []), "there is no class to add"),
        (([], [], None, ["7"]), r"nothing is known of class '7': give a labelled text of it, or a name"),
        ((["a"], ["x"], {"y": "b"}), "class_names has a name for label 'y'"),
        ((["a"], [" "]), "the new classes, row 1, column 'label'"),
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
