"""Tiny random encoders and small made-up domains, built in the tests; no network."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch

from metatext import Domain, Episode, EpisodeSampler, Learner

SHARED = Path(__file__).resolve().parents[2] / "shared"
TOPICS = {
    "sport": "球队 比赛 进球 冠军 教练 联赛 球迷 主场",
    "finance": "股票 基金 银行 利率 投资 市场 债券 上涨",
    "car": "汽车 发动机 轿车 新能源 试驾 油耗 车展 驾驶",
    "food": "美食 火锅 餐厅 味道 烹饪 甜点 早餐 辣椒",
    "travel": "旅游 景点 酒店 海滩 机票 古镇 行程 导游",
    "tech": "手机 芯片 软件 人工智能 屏幕 电池 系统 互联网",
}
ARCHITECTURES = ["bert", "roberta", "xlm-roberta", "electra", "albert", "distilbert", "deberta-v2", "modernbert"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not SHARED.is_dir():
        for item in items:
            if item.get_closest_marker("shared"):
                item.add_marker(pytest.mark.skip(reason="needs the real text and encoders beside the project"))


def make_rows(seed: int, per_class: int) -> list[dict[str, str]]:
    """Made-up rows, the same for a seed; all texts are distinct."""
    rng = random.Random(seed)
    rows = [
        {"text": "".join(rng.sample(words.split(), 4)) + f"{seed}{label}{i}", "label": label}
        for label, words in TOPICS.items()
        for i in range(per_class)
    ]
    rng.shuffle(rows)
    return rows


def central_difference(function: Callable[[], float], parameter: torch.Tensor, place: int, h: float) -> float:
    """Slope of `function` in one value of a parameter, which is put back."""
    values = parameter.data.view(-1)
    middle = float(values[place])
    values[place] = middle + h
    up = function()
    values[place] = middle - h
    down = function()
    values[place] = middle
    return (up - down) / (2 * h)


def make_domain(seed: int = 0, per_class: int = 20, name: str = "news") -> Domain:
    rows = make_rows(seed, per_class)
    return Domain.from_records([r["text"] for r in rows], [r["label"] for r in rows], name=name)


def make_encoder(folder: Path, architecture: str = "bert", layers: int = 2, positions: int = 66) -> Path:
    """A tiny random encoder (32 wide) with a character tokenizer, as a transformers folder."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast

    characters = sorted({c for row in make_rows(0, 40) + make_rows(1, 40) for c in row["text"] + "query: "})
    vocab = {token: i for i, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *characters])}
    backend = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", vocab["[CLS]"]), ("[SEP]", vocab["[SEP]"])]
    )
    names: dict[str, Any] = {f"{n}_token": f"[{n.upper()}]" for n in ("pad", "unk", "cls", "sep", "mask")}
    names |= {"model_max_length": positions - 2, "model_input_names": ["input_ids", "attention_mask"]}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **names)
    tokenizer.save_pretrained(folder)
    options: dict[str, Any] = {
        "vocab_size": len(vocab), "hidden_size": 32, "num_hidden_layers": layers, "num_attention_heads": 2,
        "intermediate_size": 64, "max_position_embeddings": positions, "initializer_range": 0.2, "pad_token_id": 0,
    }  # fmt: skip
    if architecture == "albert":
        options |= {"embedding_size": 16}
    if architecture == "distilbert":
        options |= {"dim": 32, "hidden_dim": 64, "n_layers": layers, "n_heads": 2}
    if architecture == "modernbert":
        options |= {"cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3}
    if architecture == "deberta-v2":
        options |= {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_biased_input": False}
    torch.manual_seed(0)
    AutoModel.from_config(AutoConfig.for_model(architecture, **options)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def encoder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """architecture -> folder of its tiny encoder, made once."""
    made: dict[str, Path] = {}

    def get(architecture: str) -> Path:
        if architecture not in made:
            made[architecture] = make_encoder(tmp_path_factory.mktemp(architecture), architecture)
        return made[architecture]

    return get


@pytest.fixture(scope="session")
def tiny_bert(encoder_of: Callable[[str], Path]) -> Path:
    return encoder_of("bert")


@pytest.fixture(scope="module")
def learner_folder(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a saved learner that counts as meta-trained, of two inner steps."""
    folder = tmp_path_factory.mktemp("run") / "learner"
    learner = Learner.from_pretrained(tiny_bert, inner_steps=2)
    learner.meta_trained = True
    learner.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def make_learner(encoder_of: Callable[[str], Path]) -> Callable[..., Learner]:
    """A learner in float64, three inner steps, unless told otherwise."""

    def make(architecture: str = "bert", **settings: Any) -> Learner:
        values = {"inner_steps": 3, "inner_lr": 0.05} | settings
        return Learner.from_pretrained(encoder_of(architecture), **values).double()

    return make


@pytest.fixture
def episode() -> Episode:
    return EpisodeSampler([make_domain()], ways=3, shots=2, queries=4, seed=1)[0]
