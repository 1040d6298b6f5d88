"""The learner: settings, folders, batches of tokens."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ARCHITECTURES, TOPICS, make_rows
from safetensors.torch import load_file
from transformers import AutoModel

from metatext import Episode, FewShotClassifier, InputError, Learner
from metatext.data.episodes import Examples
from metatext.encoders.packing import pack_lines, split_batch
from metatext.encoders.tokenization import TokenCache, load_tokenizer
from metatext.learners.meta_gradient import adapted
from metatext.learners.settings import LearnerSettings

TEXTS = [row["text"][: 3 + i] for i, row in enumerate(make_rows(0, 2))]  # twelve, of twelve lengths


@pytest.fixture
def trained(tiny_bert: Path) -> Learner:
    """A learner whose parameters are not those that it started from."""
    learner = Learner.from_pretrained(tiny_bert, inner_steps=3, second_order_steps=1, max_length=16)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in learner.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    learner.sources = ["news", "posts"]
    learner.meta_trained = True
    return learner


# ----------------------------------------------------------------------------------------------------------- settings
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"head": "mlp"}, "head must be one of prototype, linear, got 'mlp'"),
        ({"hvp": "approximate"}, "hvp must be one of exact, finite-difference, one-sided, got 'approximate'"),
        ({"pooling": "max"}, "pooling must be one of mean, cls, got 'max'"),
        ({"scope": "top"}, "scope must be all, head, body, lora or top:L such as top:2, got 'top'"),
        ({"scope": "top:0"}, "scope must be all, head, body, lora or top:L such as top:2, got 'top:0'"),
        ({"inner_steps": -1}, "inner_steps must be at least 0, got -1"),
        ({"inner_steps": 0, "algorithm": "reptile"}, "inner_steps must be at least 1, got 0"),
        ({"inner_lr": 0.0}, "inner_lr must be above 0, got 0.0"),
        ({"max_length": 7}, "max_length must be at least 8, got 7"),
        ({"second_order_steps": 6}, "second_order_steps must be from 0 to inner_steps (5), got 6"),
        ({"second_order_steps": -1}, "second_order_steps must be from 0 to inner_steps (5), got -1"),
        ({"head": "linear"}, "head='linear' needs the class names: classes=[...], at least two"),
        ({"inner_step": 3}, "unknown setting 'inner_step': did you mean inner_steps?"),
        ({"secondorder_steps": 3}, "unknown setting 'secondorder_steps': did you mean second_order_steps?"),
    ],
    ids=lambda value: "-".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else "",
)
def test_contradictions_are_refused_in_one_sentence(tiny_bert: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as raised:
        Learner.from_pretrained(tiny_bert, **settings)
    assert str(raised.value) == message


def test_a_setting_like_no_other_lists_them_all(tiny_bert: Path) -> None:
    names = ", ".join(field.name for field in dataclasses.fields(LearnerSettings))
    with pytest.raises(InputError) as raised:
        Learner.from_pretrained(tiny_bert, xyz=1)
    assert str(raised.value) == f"unknown setting 'xyz': the settings are {names}"


@pytest.mark.parametrize(
    ("steps", "method"), [(0, "first-order MAML"), (1, "truncated MAML"), (2, "truncated MAML"), (3, "full MAML")]
)
def test_method_is_named_by_its_second_order_steps(steps: int, method: str) -> None:
    assert LearnerSettings(inner_steps=3, second_order_steps=steps).method == method


@pytest.mark.parametrize(
    ("scope", "groups"),
    [
        ("all", ["embeddings", "layer 0", "layer 1", "head"]),
        ("body", ["embeddings", "layer 0", "layer 1"]),
        ("head", ["head"]),
        ("top:1", ["layer 1", "head"]),
        ("top:2", ["layer 0", "layer 1", "head"]),
        ("top:9", ["layer 0", "layer 1", "head"]),
    ],
)
def test_scope_says_which_groups_move(tiny_bert: Path, scope: str, groups: list[str]) -> None:
    learner = Learner.from_pretrained(tiny_bert, scope=scope, inner_steps=2, inner_lr=0.25)
    assert learner.inner_groups == groups
    assert learner.log_inner_lr.shape == (len(groups), 2)
    torch.testing.assert_close(learner.log_inner_lr.exp(), torch.full((len(groups), 2), 0.25))
    before = {name: p.clone() for name, p in learner.encoder.named_parameters()}
    rows = make_rows(0, 2)
    support = Examples([r["text"] for r in rows], [list(TOPICS).index(r["label"]) for r in rows])
    with adapted(learner, support, list(TOPICS), 0) as layer:
        start = layer.weight.clone()
    with adapted(learner, support, list(TOPICS)) as layer:
        moved = {name for name, p in learner.encoder.named_parameters() if not torch.equal(p, before[name])}
        assert torch.equal(layer.weight, start) == (scope == "body")
    parts = {"layer 0": "encoder.layer.0.", "layer 1": "encoder.layer.1.", "embeddings": "embeddings."}
    expected = {name for name in before if any(name.startswith(parts[g]) for g in groups if g != "head")}
    assert moved == expected


# ------------------------------------------------------------------------------------------------- save and load again
def test_a_saved_learner_is_the_same_learner(trained: Learner, tmp_path: Path, tiny_bert: Path) -> None:
    trained.save_pretrained(tmp_path / "learner")
    again = Learner.from_pretrained(tmp_path / "learner")
    assert torch.equal(again.encode(TEXTS), trained.encode(TEXTS))
    assert again.state_dict().keys() == trained.state_dict().keys()
    assert all(torch.equal(value, trained.state_dict()[name]) for name, value in again.state_dict().items())
    assert again.settings == trained.settings
    assert (again.sources, again.base_model, again.meta_trained) == (["news", "posts"], str(tiny_bert), True)
    assert again.tokens.max_length == 16
    again.meta_trained = False
    again.save_pretrained(tmp_path / "untrained")
    assert not Learner.from_pretrained(tmp_path / "untrained").meta_trained


def test_a_saved_learner_is_an_encoder_for_transformers(trained: Learner, tmp_path: Path) -> None:
    trained.save_pretrained(tmp_path / "learner")
    encoder = AutoModel.from_pretrained(tmp_path / "learner").eval()
    tokens = trained.tokenizer(TEXTS, padding=True, truncation=True, max_length=16, return_tensors="pt")
    with torch.no_grad():
        hidden, mask = encoder(**tokens).last_hidden_state, tokens["attention_mask"].unsqueeze(-1)
        pooled = (hidden * mask).sum(1) / mask.sum(1)
    expected = (pooled - pooled.mean(1, keepdim=True)) / pooled.std(1, keepdim=True, correction=0)
    torch.testing.assert_close(trained.encode(TEXTS), expected, rtol=1e-4, atol=1e-4)


def test_saved_linear_head_keeps_its_rows(tiny_bert: Path, tmp_path: Path) -> None:
    learner = Learner.from_pretrained(tiny_bert, head="linear", classes=["car", "food", "tech"])
    learner.head.weight.data = torch.arange(96.0).reshape(3, 32)
    learner.head.bias.data = torch.tensor([1.0, 2.0, 3.0])
    learner.save_pretrained(tmp_path / "learner")
    again = Learner.from_pretrained(tmp_path / "learner", classes=["car", "food", "tech"])
    assert again.settings.classes == ("car", "food", "tech")
    layer = again.head.start(["tech", "car"])
    assert layer.bias.tolist() == [3.0, 1.0]
    assert layer.weight[:, 0].tolist() == [64.0, 0.0]


def test_folder_holds_no_pickle_and_says_what_it_is(trained: Learner, tmp_path: Path) -> None:
    trained.save_pretrained(tmp_path / "learner")
    files = {path.name for path in (tmp_path / "learner").iterdir()}
    assert {"config.json", "model.safetensors", "learner.safetensors", "metatext.json", "tokenizer.json"} <= files
    assert {Path(name).suffix for name in files} == {".json", ".safetensors"}
    assert sorted(load_file(tmp_path / "learner" / "learner.safetensors")) == ["head.log_scale", "log_inner_lr"]
    metadata = json.loads((tmp_path / "learner" / "metatext.json").read_text(encoding="utf-8"))
    assert metadata["kind"] == "learner"
    assert metadata["method"] == "truncated MAML"
    assert metadata["sources"] == ["news", "posts"]
    assert metadata["settings"]["max_length"] == 16


def test_more_steps_extend_the_last_rates_and_fewer_cut_them(trained: Learner, tmp_path: Path) -> None:
    trained.save_pretrained(tmp_path / "learner")
    rates = trained.log_inner_lr.detach()
    longer = Learner.from_pretrained(tmp_path / "learner", inner_steps=5)
    assert torch.equal(longer.log_inner_lr, rates[:, [0, 1, 2, 2, 2]])
    assert torch.equal(Learner.from_pretrained(tmp_path / "learner", inner_steps=1).log_inner_lr, rates[:, :1])
    with pytest.raises(InputError, match=r"second_order_steps must be from 0 to inner_steps \(2\), got 3"):
        Learner.from_pretrained(tmp_path / "learner", inner_steps=2, second_order_steps=3)


@pytest.mark.parametrize(("saved", "wanted"), [("all", "top:1"), ("body", "top:2"), ("top:2", "body")])
def test_another_scope_starts_from_inner_lr_anew(tiny_bert: Path, tmp_path: Path, saved: str, wanted: str) -> None:
    learner = Learner.from_pretrained(tiny_bert, scope=saved, inner_steps=2)
    learner.log_inner_lr.data += torch.arange(2 * len(learner.inner_groups)).reshape(-1, 2)
    learner.save_pretrained(tmp_path / "learner")
    again = Learner.from_pretrained(tmp_path / "learner", scope=wanted, inner_lr=0.5)
    torch.testing.assert_close(again.log_inner_lr.exp(), torch.full((len(again.inner_groups), 2), 0.5))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"head": "linear", "classes": ["a", "b"]}, "head='prototype', which cannot be changed to 'linear'"),
        ({"pooling": "cls"}, "pooling='mean', which cannot be changed to 'cls'"),
        ({"text_prefix": "query: "}, "text_prefix='', which cannot be changed to 'query: '"),
    ],
)
def test_what_was_trained_in_cannot_be_changed(
    trained: Learner, tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    folder = tmp_path / "learner"
    trained.save_pretrained(folder)
    Learner.from_pretrained(folder, head="prototype", pooling="mean", text_prefix="", classes=[])
    with pytest.raises(InputError) as raised:
        Learner.from_pretrained(folder, **settings)
    assert str(raised.value) == f"{folder} was trained with {message}"


def test_a_filled_folder_is_kept(trained: Learner, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(FileExistsError) as raised:
        trained.save_pretrained(tmp_path)
    assert str(raised.value).startswith(f"{tmp_path} already exists and is kept: choose another output, or pass --over")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    trained.save_pretrained(tmp_path / "empty" / "new")
    (tmp_path / "bare").mkdir()
    trained.save_pretrained(tmp_path / "bare")


def test_overwrite_replaces_the_whole_folder_or_nothing(
    trained: Learner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "learner"
    trained.save_pretrained(folder)
    (folder / "notes.txt").write_text("old", encoding="utf-8")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    trained.log_inner_lr.data += 1.0

    def fail(*_: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("metatext.learners.learner.write_json", fail)  # the last file
    with pytest.raises(OSError, match="no space left"):
        trained.save_pretrained(folder, overwrite=True)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    monkeypatch.undo()
    trained.save_pretrained(folder, overwrite=True)
    assert not (folder / "notes.txt").exists()
    assert torch.equal(Learner.from_pretrained(folder).log_inner_lr, trained.log_inner_lr)
    assert [path.name for path in tmp_path.iterdir()] == ["learner"]  # and nothing half-made beside it


# ----------------------------------------------------------------------------------------------- folders of other kinds
def test_a_folder_that_holds_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError) as raised:
        Learner.from_pretrained(tmp_path)
    expected = f"{tmp_path} holds no model: there is no config.json (expected a learner or an encoder)"
    assert str(raised.value) == expected


@pytest.mark.parametrize(("file", "kept"), [("config.json", 1), ("model.safetensors", 1000)])
def test_files_that_are_cut_off_are_refused(tiny_bert: Path, tmp_path: Path, file: str, kept: int) -> None:
    folder = shutil.copytree(tiny_bert, tmp_path / "encoder")
    (folder / file).write_bytes((folder / file).read_bytes()[:kept])
    with pytest.raises(InputError, match=f"^{folder} holds no encoder that transformers can load: "):
        Learner.from_pretrained(folder)


def test_an_encoder_with_pickled_weights_only_is_refused(tiny_bert: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_bert, tmp_path / "encoder")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError) as raised:
        Learner.from_pretrained(folder)
    expected = f"{folder} holds no weights in safetensors format; metatext loads no pickles such as *.bin"
    assert str(raised.value) == expected


def test_an_encoder_without_a_tokenizer_is_refused(tiny_bert: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_bert, tmp_path / "encoder")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    with pytest.raises(InputError) as raised:
        Learner.from_pretrained(folder)
    assert str(raised.value) == f"{folder} has no tokenizer: no tokenizer.json or vocabulary file is in it"


def test_an_adapted_classifier_is_no_learner(tiny_bert: Path, tmp_path: Path) -> None:
    folder = tmp_path / "classifier"
    FewShotClassifier(Learner.from_pretrained(tiny_bert)).fit(TEXTS[:4], ["a", "b"] * 2).save_pretrained(folder)
    with pytest.raises(InputError) as raised:
        Learner.from_pretrained(folder)
    assert str(raised.value) == f"{folder} holds a classifier, but what is needed is a meta-trained learner"


# --------------------------------------------------------------------------------------------------- what it computes
def test_class_ids_do_not_matter_to_a_prototype_head(make_learner: Callable[..., Learner], episode: Episode) -> None:
    learner = make_learner(inner_lr=0.01)
    order = [2, 0, 1]  # new id -> old id
    support = Examples(episode.support.texts, [order.index(label) for label in episode.support.labels])
    with adapted(learner, episode.support, episode.classes) as layer:
        logits = layer.logits(learner.encode(episode.query.texts))
    with adapted(learner, support, [episode.classes[i] for i in order]) as layer:
        permuted = layer.logits(learner.encode(episode.query.texts))
    torch.testing.assert_close(permuted, logits[:, order], rtol=1e-10, atol=1e-10)
    assert len(set(logits.argmax(1).tolist())) > 1


def test_encoding_does_not_depend_on_batches_or_order(trained: Learner) -> None:
    together = trained.encode(TEXTS)
    assert together.shape == (12, 32)
    torch.testing.assert_close(together.mean(1), torch.zeros(12), rtol=0.0, atol=1e-6)
    torch.testing.assert_close(together.norm(dim=1), torch.full((12,), 32**0.5))
    alone = torch.cat([trained.encode([text]) for text in TEXTS])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(trained.encode(TEXTS[::-1], batch_size=5), alone.flip(0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_texts_longer_than_the_positions_are_cut(encoder_of: Callable[[str], Path], architecture: str) -> None:
    learner = Learner.from_pretrained(encoder_of(architecture), max_length=512)
    assert learner.tokens.max_length == {"roberta": 65, "xlm-roberta": 65}.get(architecture, 66)
    assert learner.encode(["球" * 500]).isfinite().all()


# ------------------------------------------------------------------------------------------------- tokens and batches
def test_every_row_is_in_one_batch_with_its_own_tokens(tiny_bert: Path) -> None:
    cache = TokenCache(load_tokenizer(tiny_bert), 12)
    texts = [*TEXTS, TEXTS[0], TEXTS[5]]
    batches = cache.batches(texts, 4, torch.device("cpu"))
    assert sorted(torch.cat([batch.rows for batch in batches]).tolist()) == list(range(14))
    assert max(len(batch.rows) for batch in batches) == 4
    for batch in batches:
        assert batch.input_ids.dtype == batch.attention_mask.dtype == torch.int64
        assert batch.input_ids.shape == batch.attention_mask.shape
        assert batch.attention_mask.sum(1).max() == batch.input_ids.shape[1]  # as long as its longest text
        for row, ids, mask in zip(batch.rows, batch.input_ids, batch.attention_mask, strict=True):
            expected = cache.tokenizer(texts[row], truncation=True, max_length=12)["input_ids"]
            length = len(expected)
            assert ids.tolist() == expected + [0] * (len(ids) - length)
            assert mask.tolist() == [1] * length + [0] * (len(ids) - length)


def test_texts_are_tokenised_once_and_cut_at_max_length(tiny_bert: Path) -> None:
    tokenizer, seen = load_tokenizer(tiny_bert), []

    class Counting:
        pad_token_id = 0

        def __call__(self, texts: list[str], **options: Any) -> Any:
            seen.extend(texts)
            return tokenizer(texts, **options)

    cache = TokenCache(Counting(), 8)
    short, long = "球队", "球队比赛进球冠军教练"
    ids = cache.ids([long, short, long])
    assert [len(i) for i in ids] == [8, 4, 8]
    assert ids[0] == ids[2] == tokenizer(long[:6])["input_ids"]  # the end mark stays
    cache.ids([short, "进球"])
    assert seen == [long, short, "进球"]


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ([3, 3, 3, 10], 3),  # 40 padded tokens become 19
        ([9, 10], 0),  # 19 of 20 is no eighth saved
        ([7, 8], 0),  # 15 of 16 neither
        ([6, 8], 1),  # 14 of 16 is
        ([4], 0),
    ],
)
def test_batches_are_cut_where_that_saves_padding(lengths: list[int], expected: int) -> None:
    assert split_batch(lengths) == expected


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ([3, 3, 4, 10], [[3], [2, 1, 0]]),  # 20 tokens, none of them padding
        ([4, 6, 6, 10], [[3, 2, 1, 0]]),  # 26 tokens in one line, 30 in three
        ([8, 9, 10], [[0], [1], [2]]),  # 3 of 30 are padding: left as they are
        ([5, 5, 5], [[0], [1], [2]]),
        ([4], [[0]]),
    ],
)
def test_short_texts_share_a_line(lengths: list[int], expected: list[list[int]]) -> None:
    assert pack_lines(lengths) == expected


def test_every_text_is_in_one_line_whole(tiny_bert: Path) -> None:
    cache = TokenCache(load_tokenizer(tiny_bert), 30)
    texts = ["球" * n for n in (1, 2, 28, 3, 2, 9, 14, 1, 50)]
    batches = cache.batches(texts, 5, torch.device("cpu"), packed=True)
    assert sorted(torch.cat([batch.rows for batch in batches]).tolist()) == list(range(9))
    assert any(batch.shared for batch in batches)
    for batch in batches:
        if batch.shared:
            owner, positions = batch.shared
        else:
            owner = torch.arange(len(batch.rows)).unsqueeze(1).where(batch.attention_mask == 1, len(batch.rows))
        for i, row in enumerate(batch.rows.tolist()):
            of_text = owner == i
            assert batch.input_ids[of_text].tolist() == cache.ids([texts[row]])[0]
            assert of_text.any(1).sum() == 1
            if batch.shared:
                assert positions[of_text].tolist() == list(range(int(of_text.sum())))
        assert ((owner < len(batch.rows)) == batch.attention_mask.bool()).all()


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_texts_of_one_line_do_not_see_each_other(
    make_learner: Callable[..., Learner], architecture: str, pooling: str
) -> None:
    learner = make_learner(architecture, pooling=pooling)
    texts = ["球队比赛进球冠军教练联赛", "股票", "银行利率", "汽车", "美食火锅", "机票"]
    batches = learner.batches(Examples(texts, [0] * 6)).batches
    assert any(batch.shared is not None for batch, _ in batches) == (architecture not in ("deberta-v2", "modernbert"))
    alone = torch.cat([learner.encode([text]) for text in texts])
    torch.testing.assert_close(learner.encode(texts), alone, rtol=1e-10, atol=1e-10)
    learner.encoder.set_attn_implementation("eager")  # which knows no mask of truth values
    torch.testing.assert_close(learner.encode(texts), alone, rtol=1e-5, atol=1e-6)


def test_damaged_learners_are_named(tiny_bert: Path, tmp_path: Path) -> None:
    Learner.from_pretrained(tiny_bert).save_pretrained(tmp_path / "learner")
    (tmp_path / "learner" / "learner.safetensors").write_bytes(b"cut")
    with pytest.raises(InputError, match=r"learner in .* is damaged: learner.safetensors cannot be read"):
        Learner.from_pretrained(tmp_path / "learner")
    (tmp_path / "learner" / "metatext.json").write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match=r"metatext.json is damaged"):
        Learner.from_pretrained(tmp_path / "learner")


def test_training_mode_leaves_dropout_off(tiny_bert: Path) -> None:
    learner = Learner.from_pretrained(tiny_bert).train()
    assert learner.training and not learner.encoder.training
