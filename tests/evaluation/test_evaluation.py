"""Draws, baselines and the comparison of methods."""

from __future__ import annotations

import dataclasses
import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TOPICS, make_domain
from sklearn.linear_model import LogisticRegression

from metatext import Domain, FewShotClassifier, InputError, Learner
from metatext.adaptation.fine_tuning import fine_tuned
from metatext.adaptation.start_selection import choose_start
from metatext.data.episodes import Examples
from metatext.evaluation import baselines
from metatext.evaluation.baselines import (
    FrozenEncoder,
    Prediction,
    centroid,
    fine_tuning,
    frozen,
    majority,
    tfidf,
    with_linear_head,
)
from metatext.evaluation.evaluate import evaluate, evaluation_files
from metatext.evaluation.intervals import score_interval
from metatext.evaluation.joint_training import joint_training, source_classifier
from metatext.evaluation.methods import METHODS, Adaptation, make_methods
from metatext.evaluation.report import summary_table
from metatext.evaluation.scoring import Answer, Method, run_methods, timed, timed_zero_shot
from metatext.evaluation.settings import EvaluateSettings
from metatext.evaluation.support_draws import make_draws, official_draws
from metatext.training.source_list import read_listed_sources


# ---------------------------------------------------------------- draws
def test_draws_are_a_function_of_the_seed() -> None:
    one, two, other = (make_draws(make_domain(), [1, 3], 4, seed) for seed in (5, 5, 6))
    assert one == two
    assert [d.support for d in one] != [d.support for d in other]
    assert [(d.number, d.shots) for d in one] == [(n, k) for n in range(4) for k in (1, 3)]
    assert one[0].support != one[2].support


@pytest.mark.parametrize("test_size", [1000, 30], ids=["rest", "fixed"])
def test_supports_are_balanced_nested_and_apart_from_the_test_texts(test_size: int) -> None:
    target = make_domain()
    label_of = dict(zip(target.texts, target.labels, strict=True))
    for number in range(3):
        few, more = (d for d in make_draws(target, [2, 5], 3, 1, test_size=test_size) if d.number == number)
        assert Counter(label for _, label in few.support) == dict.fromkeys(TOPICS, 2)
        assert Counter(label for _, label in more.support) == dict.fromkeys(TOPICS, 5)
        assert set(few.support) < set(more.support) and few.test == more.test
        assert not {text for text, _ in more.support} & {text for text, _ in more.test}
        assert all(label_of[text] == label for text, label in more.support + more.test)
        assert len({text for text, _ in more.test}) == len(more.test)


def test_a_large_target_has_one_test_set_and_a_small_one_is_judged_on_the_rest() -> None:
    large = make_draws(make_domain(), [2], 3, test_size=30)
    assert all(draw.test == large[0].test for draw in large) and len(large[0].test) == 30
    small = make_draws(make_domain(), [2], 3)
    assert [len(draw.test) for draw in small] == [108, 108, 108]  # 120 rows less 6 classes of 2 shots
    assert set(small[0].test) != set(small[1].test)


def test_another_test_file_is_used_as_it_is() -> None:
    test = make_domain(9, per_class=3)
    draws = make_draws(make_domain(), [2], 2, test=test)
    assert all(sorted(draw.test) == sorted(zip(test.texts, test.labels, strict=True)) for draw in draws)
    fewer = make_draws(make_domain(), [2], 2, test=test, test_size=7)
    assert len(fewer[0].test) == 7 and fewer[0].test == fewer[1].test and set(fewer[0].test) < set(draws[0].test)


def test_ways_takes_some_classes_for_support_and_test() -> None:
    draws = make_draws(make_domain(), [1, 2], 6, ways=3)
    chosen = []
    for draw in draws:
        classes = {label for _, label in draw.support}
        assert len(classes) == 3 and {label for _, label in draw.test} == classes
        chosen.append(tuple(sorted(classes)))
    assert len(set(chosen)) > 1 and chosen[::2] == chosen[1::2]


def test_copies_and_texts_of_two_classes_are_not_drawn() -> None:
    texts = ["一", "一", "二", "三", "四", "四", "五", "六"]
    target = Domain.from_records(texts, ["a", "a", "a", "a", "a", "b", "b", "b"], name="posts")
    for draw in make_draws(target, [1], 4):
        assert sorted(draw.support + draw.test) == [("一", "a"), ("三", "a"), ("二", "a"), ("五", "b"), ("六", "b")]


def test_bad_draws_are_refused_by_name() -> None:
    with pytest.raises(InputError, match="draws must be at least 2 for a confidence interval, got 1"):
        make_draws(make_domain(), [1], 1)
    with pytest.raises(
        InputError, match=r"shots must be numbers of labelled texts per class, 0 or more, got \[-1, 5\]"
    ):
        make_draws(make_domain(), [-1, 5])
    with pytest.raises(InputError, match=r"shots must be .* got \[\]"):
        make_draws(make_domain(), [])
    few = Domain.from_records(["一", "二", "三", "四", "五"], ["good", "good", "good", "bad", "bad"], name="posts")
    with pytest.raises(
        InputError, match=r"class 'bad' of 'posts' has too few distinct texts, 2: 2 shots need 3 to draw from; lower"
    ):
        make_draws(few, [1, 2])


def test_official_supports_are_a_draw_each() -> None:
    supports = [make_domain(seed, per_class) for seed, per_class in ((1, 2), (2, 3))]
    test = make_domain(3, 10)
    draws = official_draws(supports, test, test_size=25)
    found = [(draw.number, draw.shots, len(draw.support), len(draw.test)) for draw in draws]
    assert found == [(0, 2, 12, 25), (1, 2, 18, 25)]
    assert draws[0].test == draws[1].test
    assert draws[1].support == list(zip(supports[1].texts, supports[1].labels, strict=True))
    assert len(official_draws(supports, test)[0].test) == 60
    fewer = supports[0].restrict(["sport", "car"])
    with pytest.raises(InputError, match="'news' has texts of class 'finance', which 'news' has not"):
        official_draws([supports[1], fewer], test)
    with pytest.raises(InputError, match="draws must be at least 2"):
        official_draws(supports[:1], test)


def test_unlabelled_rows_are_those_of_the_target_that_a_draw_does_not_use(
    run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def spy(learner: Any, support: Any, start: Any, epochs: int, unlabelled: Any = ()) -> Any:
        seen.append((set(support.texts), set(unlabelled)))
        return fine_tuned(learner, support, start, epochs, unlabelled)

    monkeypatch.setattr("metatext.adaptation.adapt.fine_tuned", spy)
    settings = EvaluateSettings(shots=(2,), draws=2, ways=3, test_size=20, methods=("maml", "unlabelled"))
    result = evaluate([run], make_domain(2), [], settings)
    draws = make_draws(make_domain(2), [2], 2, ways=3, test_size=20)
    label = dict(zip(make_domain(2).texts, make_domain(2).labels, strict=True))
    for draw, (support, more) in zip([*draws, *draws], seen, strict=True):
        assert support == {text for text, _ in draw.support}
        classes = {name for _, name in draw.support}
        free = {text for text, name in label.items() if name in classes} - set(draw.texts)
        assert more in (set(), free)
    assert [bool(more) for _, more in seen] == [False, False, True, True]
    assert len({row["method"] for row in result["rows"]}) == 2


def test_unlabelled_rows_that_are_not_there_are_refused_before_any_fit(run: str) -> None:
    settings = EvaluateSettings(shots=(1, 19), draws=2, methods=("tfidf", "unlabelled"))
    with pytest.raises(InputError, match="'news' has no rows left to be given unlabelled"):
        evaluate([run], make_domain(2), [], settings)
    supports = [make_domain(1), make_domain(2)]
    for test, methods in ((None, ("tfidf",)), (make_domain(3), ("unlabelled",))):
        with pytest.raises(InputError, match="an official split needs test texts, and has no unlabelled rows"):
            evaluate([run], supports[0], [], EvaluateSettings(methods=methods), test, supports=supports)
    settings = EvaluateSettings(methods=("majority",))
    result = evaluate([run], supports[0], [], settings, make_domain(3), supports=supports)
    assert [(r["shots"], r["draw"]) for r in result["records"]] == [(20, 0), (20, 1)]
    assert result["official_supports"] == 2


def test_a_test_file_of_other_classes_is_refused() -> None:
    target = Domain.from_records(["一", "二", "三", "四"], ["good", "good", "bad", "bad"], name="posts")
    test = Domain.from_records(["五", "六"], ["good", "mad"], name="more")
    with pytest.raises(
        InputError, match=r"'more' has texts of class 'mad', which 'posts' has not; .*did you mean 'bad'"
    ):
        make_draws(target, [1], 2, test=test)


@pytest.mark.parametrize(
    "option",
    [{"ways": 0}, {"fine_tune_lr": -1.0}, {"joint_epochs": 0}, {"fine_tune_epochs": math.inf}, {"max_length": 0}],
    ids=str,
)
def test_impossible_settings_are_refused(option: dict[str, Any]) -> None:
    (name,) = option
    with pytest.raises(InputError, match=f"^{name} must be "):
        EvaluateSettings(**option)


# ---------------------------------------------------------------- running
def test_scores_are_those_of_the_answers() -> None:
    target = Domain.from_records(["一", "二", "三", "四", "五", "六"], ["a", "a", "a", "a", "b", "b"], name="posts")
    always_a = {"always a": Method(lambda support, classes, queries: Answer(["a"] * len(queries), 0.12345))}
    first, second = run_methods(always_a, make_draws(target, [1], 2), progress=False)
    assert (first["method"], first["shots"], first["draw"], second["draw"]) == ("always a", 1, 0, 1)
    assert (first["test_rows"], first["accuracy"], first["fit_seconds"]) == (4, 0.75, 0.123)
    assert first["macro_f1"] == pytest.approx(0.4285714)  # (6/7 + 0) / 2
    assert first["confusion"] == {"a": {"a": 3}, "b": {"a": 1}} and first["calibration_error"] is None


def test_f1_is_over_the_classes_of_the_test_texts() -> None:
    target = Domain.from_records(["一", "二", "三", "四", "五", "六"], ["a", "a", "a", "b", "b", "c"], name="posts")
    test = Domain.from_records(["七", "八"], ["a", "b"], name="test")
    always_c = {"c": Method(lambda support, classes, queries: Answer(["a", "c"], 0.0))}
    first, _ = run_methods(always_c, make_draws(target, [1], 2, test=test), progress=False)
    assert first["macro_f1"] == 0.5  # of a and b


def test_probabilities_give_the_calibration_error() -> None:
    target = Domain.from_records(["一", "二", "三", "四", "五", "六"], ["a", "a", "a", "a", "b", "b"], name="posts")
    sure = Method(lambda support, classes, queries: Answer(["a"] * len(queries), 0.0, np.full(len(queries), 0.9)))
    first, _ = run_methods({"sure": sure}, make_draws(target, [1], 2), progress=False)
    assert first["calibration_error"] == pytest.approx(0.15)  # 0.9 - 3 / 4


def test_an_interrupted_evaluation_goes_on_where_it_was(tmp_path: Path) -> None:
    draws, log, calls = make_draws(make_domain(), [1, 2], 3), tmp_path / "log.jsonl", []

    def answer(support: Examples, classes: Sequence[str], queries: Sequence[str]) -> Answer:
        if len(calls) == 4:
            calls.append("interrupted")
            raise KeyboardInterrupt
        calls.append(support)
        return Answer([classes[0]] * len(queries), 0.5)

    method = Method(answer)
    with pytest.raises(KeyboardInterrupt):
        run_methods({"one": method}, draws, False, log)
    assert len(log.read_text(encoding="utf-8").splitlines()) == 4
    records = run_methods({"one": method}, draws, False, log)
    assert len(calls) == 4 + 1 + 2
    assert [(r["shots"], r["draw"]) for r in records] == [(d.shots, d.number) for d in draws]
    assert records == [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    assert run_methods({"one": method}, draws, False, log) == records and len(calls) == 7
    log.write_text(log.read_text(encoding="utf-8")[:-9], encoding="utf-8")  # the last line was cut by a kill
    assert run_methods({"one": method}, draws, False, log) == records and len(calls) == 8
    assert run_methods({"one": method}, draws, False, log) == records and len(calls) == 8


def test_methods_are_chosen_by_key(tiny_bert: Path) -> None:
    def never() -> Learner:
        raise AssertionError("no method asked for it")

    settings = EvaluateSettings(methods=("tfidf", "majority", "maml"))
    learners = {"full MAML": Learner.from_pretrained(tiny_bert)}
    methods = make_methods(settings, make_domain(), never, never, learners)
    assert list(methods) == ["majority class", "TF-IDF + logistic regression", "full MAML"]
    with pytest.raises(InputError, match="unknown method 'svm': choose from majority, names, tfidf, centroid, frozen"):
        make_methods(EvaluateSettings(methods=("svm",)), make_domain(), never, never, {})  # type: ignore[arg-type]


# ---------------------------------------------------------------- baselines
def accuracy(method: Any, shots: int = 5) -> float:
    draws = make_draws(make_domain(2), [shots], 2, test_size=60)
    return sum(record["accuracy"] for record in run_methods({"m": method}, draws, progress=False)) / 2


def test_majority_answers_the_targets_most_frequent_label_of_the_support() -> None:
    target = Domain.from_records(list("一二三四五六"), ["b", "a", "b", "b", "a", "c"], name="posts")
    fit = majority(target)
    assert fit(["一", "二", "六"], ["c", "b", "a"])(["三", "四"]).labels == ["b", "b"]
    assert fit(["一", "六"], ["c", "a"])(["三", "四", "五"]).labels == ["a", "a", "a"]


def test_tfidf_learns() -> None:
    assert accuracy(timed(tfidf)) > 0.9


def test_frozen_encoders_learn_and_encode_each_test_text_once(tiny_bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = Learner.from_pretrained(tiny_bert)
    encoded: list[str] = []
    encode = encoder.encode
    monkeypatch.setattr(encoder, "encode", lambda texts: (encoded.extend(texts), encode(texts))[1])
    shared = FrozenEncoder(encoder)
    assert accuracy(timed(frozen(shared))) > 0.5
    assert accuracy(timed(centroid(shared))) > 0.5
    held = [text for text, _ in make_draws(make_domain(2), [5], 2, test_size=60)[0].test]
    assert len(held) == 60 and all(encoded.count(text) == 1 for text in held)
    assert len(encoded) == 60 + 2 * 2 * 6 * 5


def test_the_nearest_centroid_is_a_prototypical_network_without_meta_training(tiny_bert: Path) -> None:
    learner = Learner.from_pretrained(tiny_bert, inner_steps=0)
    for draw in make_draws(make_domain(2), [1, 4], 2):
        texts, labels = zip(*draw.support, strict=True)
        queries = [text for text, _ in draw.test]
        found = centroid(FrozenEncoder(learner))(texts, labels)(queries)
        assert found.labels == Adaptation(learner)(alone=True).on(draw).labels and len(set(found.labels)) > 3


@pytest.mark.parametrize("ways", [2, 4])
def test_linear_probing_starts_at_logistic_regression(tiny_bert: Path, ways: int) -> None:
    encoder = Learner.from_pretrained(tiny_bert)
    (draw, _) = make_draws(make_domain(2), [3], 2, ways=ways)
    texts, labels = zip(*draw.support, strict=True)
    queries = [text for text, _ in draw.test]
    vectors = [encoder.encode(some).numpy() for some in (texts, queries)]
    expected = LogisticRegression(max_iter=1000).fit(vectors[0], labels)
    for fit in (
        fine_tuning(encoder, steps=0, probe=True),
        frozen(FrozenEncoder(encoder)),
    ):
        found = fit(texts, labels)(queries)
        assert found.labels == expected.predict(vectors[1]).tolist() and len(set(found.labels)) == ways
        assert found.probabilities == pytest.approx(expected.predict_proba(vectors[1]).max(1), abs=1e-5)
    fine_tuned = fine_tuning(encoder, steps=4, lr=2e-3, probe=True)(texts, labels)(queries)
    assert fine_tuned.probabilities != pytest.approx(found.probabilities, abs=1e-3)


def test_fine_tuning_learns_and_leaves_its_start_alone(tiny_bert: Path) -> None:
    start = Learner.from_pretrained(tiny_bert)
    before = {name: p.detach().clone() for name, p in start.named_parameters()}
    untrained = accuracy(timed(fine_tuning(start, steps=0)))
    assert untrained == pytest.approx(1 / 6, abs=0.08)
    assert accuracy(timed(fine_tuning(start, steps=30, lr=2e-3))) > 0.6
    assert all(torch.equal(p, before[name]) for name, p in start.named_parameters())


def test_fine_tuning_twice_gives_the_same_answers(tiny_bert: Path) -> None:
    (draw, _) = make_draws(make_domain(2), [2], 2)
    texts, labels = zip(*draw.support, strict=True)
    fit = fine_tuning(Learner.from_pretrained(tiny_bert), steps=4, lr=2e-3)
    queries = [text for text, _ in draw.test]
    answers = fit(texts, labels)(queries)
    assert answers.labels == fit(texts, labels)(queries).labels and len(set(answers.labels)) > 1


def test_many_texts_take_more_steps_of_fine_tuning(tiny_bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    monkeypatch.setattr(baselines, "train_classifier", lambda model, texts, labels, steps, *_: taken.append(steps))
    fit = fine_tuning(Learner.from_pretrained(tiny_bert), steps=40, epochs=10.0)
    for count in (10, 64, 65):
        fit(["一"] * count, ["a", *["b"] * (count - 1)])
    assert taken == [40, 40, 41]


@pytest.fixture(scope="module")
def joint(tiny_bert: Path) -> Learner:
    sources = [make_domain(0, name="news"), make_domain(1, name="b")]
    return joint_training(Learner.from_pretrained(tiny_bert), sources, epochs=6, lr=2e-3)


def test_joint_training_carries_over_to_the_target(joint: Learner) -> None:
    assert joint.head.classes == sorted(TOPICS) and joint.sources == ["b", "news"]
    assert accuracy(timed_zero_shot(source_classifier(joint)), shots=0) > 0.7
    assert accuracy(timed(fine_tuning(joint, steps=4, lr=1e-4)), shots=1) > 0.7


def test_the_source_classifier_chooses_among_the_targets_classes(joint: Learner) -> None:
    texts = make_domain(2).texts[:40]
    answers = source_classifier(joint)(["car", "food"])(texts)
    assert set(answers.labels) == {"car", "food"}
    layer = joint.head.start(["car", "food"], None)
    assert answers.labels == [["car", "food"][i] for i in layer.logits(joint.encode(texts)).argmax(1).tolist()]


def test_a_linear_head_keeps_the_rows_of_known_classes(joint: Learner) -> None:
    model = with_linear_head(joint, ["food", "music", "car"])
    assert torch.equal(model.head.weight[0], joint.head.weight[joint.head.classes.index("food")])
    assert torch.equal(model.head.bias[2], joint.head.bias[joint.head.classes.index("car")])
    assert not model.head.weight[1].any() and not model.head.bias[1]
    assert model.settings.classes == ("food", "music", "car") and joint.head.classes == sorted(TOPICS)


def test_an_evaluation_without_names_gives_the_learners_none(tiny_bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target, seen = make_domain(2), []

    def spy(learner: Any, support: Any, classes: Any, names: list[str], *rest: Any, **how: Any) -> Any:
        seen.append(dict(zip(classes, names, strict=True)))
        return choose_start(learner, support, classes, names, *rest, **how)

    monkeypatch.setattr("metatext.evaluation.methods.choose_start", spy)
    learner = Learner.from_pretrained(tiny_bert, inner_steps=0)
    draw = make_draws(target, [2], 2)[0]
    for names in (True, False):
        settings = EvaluateSettings(methods=("maml",), names=names)
        make_methods(settings, target, pytest.fail, pytest.fail, {"x": learner})["x"].on(draw)
    assert list(seen[0].values()) == target.classes and set(seen[1].values()) == {""}


def test_maml_answers_what_its_classifier_predicts(tiny_bert: Path) -> None:
    learner = Learner.from_pretrained(tiny_bert, inner_steps=3, inner_lr=0.003)
    (draw, _) = make_draws(make_domain(2), [3], 2)
    texts, labels = zip(*draw.support, strict=True)
    queries = [text for text, _ in draw.test]
    answer = Adaptation(learner)().on(draw)
    classifier = FewShotClassifier(learner).fit(texts, labels)
    assert answer.labels == classifier.predict(queries).tolist()
    assert answer.probabilities == pytest.approx(classifier.predict_proba(queries).max(1), abs=1e-5)
    assert len(set(answer.labels)) > 3 and answer.fit_seconds > 0


# ---------------------------------------------------------------- the whole job
@pytest.fixture(scope="module")
def run(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("run") / "learner"
    learner = Learner.from_pretrained(tiny_bert, inner_steps=2, second_order_steps=2)
    learner.sources, learner.meta_trained = ["news"], True
    learner.save_pretrained(folder)
    return str(folder)


def test_evaluate_writes_every_result(run: str, tmp_path: Path) -> None:
    settings = EvaluateSettings(
        shots=(1, 2), draws=2, methods=("majority", "tfidf", "source", "maml"), joint=str(tmp_path / "joint")
    )
    result = evaluate([run], make_domain(2), [make_domain(0)], settings, None, tmp_path / "out" / "table.json")
    names = [*(METHODS[key] for key in ("majority", "tfidf", "source")), "full MAML"]
    assert list(dict.fromkeys(row["method"] for row in result["rows"])) == names
    assert len(result["records"]) == 4 * 2 * 2 and result["table"] == summary_table(result["rows"])
    assert [c["other"] for c in result["comparisons"]] == 2 * names[:3]
    assert all((row["calibration_error"] is None) == (row["method"] == "majority class") for row in result["rows"])
    assert sum(map(sum, (answers.values() for answers in result["rows"][0]["confusion"].values()))) == 2 * 108
    assert not any({"confusion", "truth", "predicted"} & record.keys() for record in result["records"])
    own = [r for r in result["records"] if (r["method"], r["shots"]) == (result["rows"][0]["method"], 1)]
    assert score_interval(own, "accuracy", result["test_texts"])[1] == result["rows"][0]["accuracy_ci95"] > 0
    assert len(result["test_texts"]) == 2 and len(set(result["test_texts"][0])) == 108
    assert (result["target"], result["target_rows"], result["encoder"]) == ("news", 120, "bert0")
    assert result["settings"]["draws"] == 2 and result["learners"]["full MAML"]["inner_steps"] == 2
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["table.json", "table.md"]
    report = (tmp_path / "out" / "table.md").read_text(encoding="utf-8")
    assert report.startswith(result["table"]) and result["differences"][0] in report
    assert "full MAML, 2 shots, all 2 draws together, in %:" in report and "| car |" in report
    assert json.loads((tmp_path / "out" / "table.json").read_text(encoding="utf-8"))["rows"] == result["rows"]
    with pytest.raises(FileExistsError, match="joint holds another joint training: name another folder"):
        evaluate([run], make_domain(2), [make_domain(1)], settings)


def test_the_source_classifier_is_left_out_where_the_classes_differ(run: str, caplog: pytest.LogCaptureFixture) -> None:
    other = Domain.from_records([f"第{i}条" for i in range(8)], ["x", "y"] * 4, name="other")
    settings = EvaluateSettings(shots=(1,), draws=2, methods=("majority", "source"))
    result = evaluate([run], make_domain(2), [other], settings)
    assert [row["method"] for row in result["rows"]] == ["majority class"]
    assert "no row for the source classifier: the sources have no class 'car', 'finance'" in caplog.text
    assert result["settings"]["methods"] == ("majority", "source")
    with pytest.raises(InputError, match="no method is left to evaluate"):
        evaluate([run], make_domain(2), [other], EvaluateSettings(draws=2, methods=("source",)))


def test_learners_are_named_for_what_they_are(run: str, tiny_bert: Path, tmp_path: Path) -> None:
    settings = EvaluateSettings(shots=(1,), draws=2, methods=("maml", "ablations"))
    result = evaluate([run, str(tiny_bert)], make_domain(2), [], settings)
    rows = [row["method"] for row in result["rows"]]
    assert {"full MAML", "no meta-training", "no meta-training, pretrained weights"} <= set(rows)
    assert "full MAML, without class names" in rows and "full MAML, without fine-tuning" in rows
    older = Learner.from_pretrained(run)
    older.pretrained = None
    older.save_pretrained(tmp_path / "older")
    result = evaluate([str(tmp_path / "older")], make_domain(2), [], settings)
    assert not [row for row in result["rows"] if row["method"].endswith("weights")]


def test_learners_and_baselines_read_as_much_as_the_encoder_does(
    tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, settings in (("short", {"max_length": 16}), ("long", {"max_length": 66, "second_order_steps": 2})):
        learner = Learner.from_pretrained(tiny_bert, inner_steps=2, **settings)
        learner.meta_trained = True
        learner.save_pretrained(tmp_path / name)
    runs, target = [str(tmp_path / "short"), str(tmp_path / "long")], make_domain(2)
    lengths = set[int]()
    encode = Learner.encode

    def noted(learner: Learner, texts: Sequence[str], batch_size: int = 64) -> torch.Tensor:
        lengths.add(learner.tokens.max_length)
        return encode(learner, texts, batch_size)

    monkeypatch.setattr(Learner, "encode", noted)
    settings = EvaluateSettings(shots=(1,), draws=2, methods=("frozen", "maml"), test_size=10)
    result = evaluate(runs, target, [], settings)
    # 64 is what the tokenizer states
    assert [result["learners"][name]["max_length"] for name in ("first-order MAML", "full MAML")] == [64, 66]
    assert result["baselines"]["max_length"] == 64 and lengths == {64, 66}
    lengths.clear()
    result = evaluate(runs, target, [], dataclasses.replace(settings, max_length=12))
    assert {learner["max_length"] for learner in result["learners"].values()} == lengths == {12}
    assert result["baselines"]["max_length"] == 12
    with pytest.raises(InputError, match="max_length must be at most 66, the positions of the encoder, got 80"):
        evaluate(runs, target, [], dataclasses.replace(settings, max_length=80))


def test_results_of_another_length_are_not_taken_over(
    run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "unlink", lambda *a, **k: None)  # the log stays, as after an interruption
    settings = EvaluateSettings(shots=(1,), draws=2, methods=("tfidf", "maml"), test_size=10)
    digests = []
    for max_length in (None, 12, None):
        now = dataclasses.replace(settings, max_length=max_length)
        records = evaluate([run], make_domain(2), [], now, None, tmp_path / "table.json")["records"]
        digests.append({r["method"]: r["weights"] for r in records}["full MAML"])
    assert digests[0] == digests[2] != digests[1]
    assert len(list(tmp_path.glob(".table.json.*.jsonl"))) == 2


def test_learners_of_other_encoders_are_evaluated_apart(run: str, encoder_of: Any) -> None:
    with pytest.raises(InputError, match="have other encoders, or read texts in other ways"):
        evaluate([run, str(encoder_of("electra"))], make_domain(2), [], EvaluateSettings(draws=2))


def test_test_texts_that_the_sources_hold_are_counted(run: str, caplog: pytest.LogCaptureFixture) -> None:
    settings = EvaluateSettings(shots=(1,), draws=2, methods=("majority",), test_size=30)
    evaluate([run], make_domain(2), [make_domain(2)], settings)
    assert "30 of the 30 test texts are source texts too" in caplog.text


def test_a_name_for_no_class_of_the_target_is_refused(run: str) -> None:
    settings = EvaluateSettings(draws=2, methods=("maml", "ablations"), class_names=("sprot=体育",))
    with pytest.raises(InputError, match=r"class_names has a name for label 'sprot'; .*did you mean 'sport'"):
        evaluate([run], make_domain(2), [], settings)


def test_parts_of_another_learner_are_judged_anew(run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = EvaluateSettings(shots=(1,), draws=2, methods=("maml", "ablations"))
    monkeypatch.setattr(Path, "unlink", lambda *a, **k: None)  # the log stays, as after an interruption
    first = evaluate([run], make_domain(2), [], settings, None, tmp_path / "table.json")
    other = Learner.from_pretrained(run)
    for p in other.encoder.parameters():
        p.data += 0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1))
    other.save_pretrained(tmp_path / "other")
    second = evaluate([str(tmp_path / "other")], make_domain(2), [], settings, None, tmp_path / "table.json")
    digests = [{r["method"]: r["weights"] for r in result["records"]} for result in (first, second)]
    assert digests[0].keys() == digests[1].keys()
    assert all(digests[0][row] and digests[0][row] != digests[1][row] for row in digests[0])


def test_an_interrupted_evaluate_reuses_its_records_but_not_another_jobs(
    run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def tfidf(texts: Sequence[str], labels: Sequence[str]) -> Any:
        calls.append(len(texts))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return lambda queries: Prediction([labels[0]] * len(queries))

    monkeypatch.setattr(baselines, "tfidf", tfidf)
    settings = EvaluateSettings(shots=(1,), draws=4, methods=("tfidf",))
    output = tmp_path / "table.json"
    with pytest.raises(KeyboardInterrupt):
        evaluate([run], make_domain(2), [], settings, None, output)
    assert not output.exists() and len(list(tmp_path.glob(".table.json.*.jsonl"))) == 1
    evaluate([run], make_domain(3), [], settings, None, output)  # another target: nothing is taken over
    assert len(calls) == 3 + 4
    evaluate([run], make_domain(2), [], settings, None, output)
    assert len(calls) == 7 + 2 and sorted(path.name for path in tmp_path.iterdir()) == ["table.json", "table.md"]


def test_a_figure_is_drawn_where_it_is_asked_for(run: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    settings = EvaluateSettings(shots=(1, 2), draws=2, methods=("majority",), plot=True)
    evaluate([run], make_domain(2), [], settings, None, tmp_path / "table.json")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["table.json", "table.md", "table.svg"]
    with pytest.raises(InputError, match=r"table.md is to be a JSON file"):
        evaluation_files(tmp_path / "table.md")


def test_a_run_without_a_note_of_its_sources_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not say what it was trained on: name the files, --source"):
        read_listed_sources(str(tmp_path))
