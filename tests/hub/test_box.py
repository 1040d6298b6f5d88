"""The learners in the package: what their folders hold, and that they load and adapt on an encoder of their shape."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from conftest import SHARED
from safetensors.torch import load_file

from metatext import FewShotClassifier, InputError, Learner
from metatext.hub.model_folder import BOX, local_folder
from metatext.learners.weight_blending import BLENDS, blended

BASE_MODELS = {
    "general-english": "sentence-transformers/all-MiniLM-L6-v2",
    "general-chinese": "intfloat/multilingual-e5-small",
}
# What the tables of the project judge on; a learner that has seen it would look better than it is.
TARGETS = re.compile(r"tweets|weibo_(topics|hashtags|emotion|covid|senti|rumor)|ag_news|\.test")
TEXTS = ["a b", "c d", "e f", "g h", "i j", "k l"]

pytestmark = pytest.mark.parametrize("name", sorted(BASE_MODELS))


def metadata_of(name: str) -> dict[str, object]:
    content: dict[str, object] = json.loads((BOX / name / "metatext.json").read_text(encoding="utf-8"))
    return content


@pytest.fixture
def encoder(name: str, tmp_path: Path) -> Path:
    """A random encoder of the shape and with the sample of tokens that the learner asks for."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    base = metadata_of(name)["base_encoder"]
    assert isinstance(base, dict) and base["model_type"] == "bert"
    vocabulary = {token: i for i, token in enumerate(["[PAD]", "[UNK]", *base["tokens"]])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    folder = tmp_path / "encoder"
    PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)
    torch.manual_seed(0)
    shape = {key: base[key] for key in ("num_hidden_layers", "hidden_size")}
    config = BertConfig(vocab_size=len(vocabulary), intermediate_size=16, initializer_range=0.1, **shape)
    BertModel(config).save_pretrained(folder)
    return folder


def test_the_folder_is_small_and_holds_nothing_else(name: str) -> None:
    files = sorted(path.name for path in (BOX / name).iterdir())
    assert files == ["README.md", "learner.safetensors", "metatext.json"]
    assert sum((BOX / name / file).stat().st_size for file in files) <= 6 * 2**20
    assert not re.search(r'"/|/work|/tmp|/home', (BOX / name / "metatext.json").read_text(encoding="utf-8"))
    tensors = load_file(BOX / name / "learner.safetensors")
    assert all(value.dtype == torch.float16 for value in tensors.values() if value.ndim > 1 and value.numel())
    assert all(value.isfinite().all() for value in tensors.values())


def test_the_wheel_has_the_folder(name: str) -> None:
    project = BOX.parents[1] / "pyproject.toml"
    patterns = json.loads(re.findall(r"^metatext = (\[.*\])$", project.read_text(encoding="utf-8"), re.MULTILINE)[0])
    packed = {path for pattern in patterns for path in BOX.parent.glob(pattern)}
    assert set((BOX / name).iterdir()) <= packed


def test_the_card_names_encoder_sources_and_licences(name: str) -> None:
    card, metadata = (BOX / name / "README.md").read_text(encoding="utf-8"), metadata_of(name)
    assert metadata["base_model"] == BASE_MODELS[name] and f"base_model: {BASE_MODELS[name]}" in card
    sources = metadata["sources"]
    assert isinstance(sources, list) and len(sources) >= 4
    for source in sources:
        assert re.search(rf"\| .*`{re.escape(source)}`.* \| .*(CC BY|MIT|none stated)", card), source
        assert not TARGETS.search(source.replace("weibo_clue_emotion", "")), source
    assert "recipes/box_learner.py" in card


def test_it_loads_by_its_name_and_adapts(name: str, encoder: Path, tmp_path: Path) -> None:
    from transformers import pipeline

    learner = Learner.from_pretrained(name, encoder=encoder)
    assert learner.meta_trained and learner.source_classes
    names, prototypes, centroids = learner.source_classes
    assert prototypes.shape == (len(BLENDS), len(names), 384) == (centroids is not None and centroids.shape)
    torch.testing.assert_close(prototypes.norm(dim=2), torch.ones(prototypes.shape[:2]), rtol=0, atol=1e-2)
    features = []
    for share in BLENDS:
        with blended(learner, share):
            features.append(learner.encode(TEXTS))
    assert all((one - other).abs().max() > 1e-3 for one, other in pairwise(features))
    classifier = FewShotClassifier(name, encoder=encoder).fit(TEXTS, ["x", "y"] * 3)
    classifier.save_pretrained(tmp_path / "model")
    answers = pipeline("text-classification", str(tmp_path / "model"))(TEXTS)
    assert [answer["label"] for answer in answers] == classifier.predict(TEXTS).tolist()


def test_it_names_the_encoder_that_it_lacks(name: str, tiny_bert: Path) -> None:
    with pytest.raises(InputError, match=rf"{name} needs the encoder {BASE_MODELS[name]}, .*--encoder FOLDER"):
        Learner.from_pretrained(name)
    with pytest.raises(InputError, match=rf"{name} was trained on {BASE_MODELS[name]} \(bert, \d+ layers, 384 wide\)"):
        Learner.from_pretrained(name, encoder=tiny_bert)


def test_a_folder_of_the_user_comes_first(
    name: str, tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert local_folder(name) == BOX / name
    Learner.from_pretrained(tiny_bert).save_pretrained(name)
    assert local_folder(name) == Path(name)
    assert Learner.from_pretrained(name).base_model == str(tiny_bert)
    assert local_folder("../box/" + name) is None


def test_a_slip_in_the_name_is_pointed_out(name: str) -> None:
    slip = name.replace("-", "_")
    with pytest.raises(InputError, match=f"'{slip}' was not found, but the package has a learner '{name}'"):
        Learner.from_pretrained(slip)


@pytest.mark.shared
def test_the_chinese_learner_fits_the_encoder_with_fewer_tokens(name: str) -> None:
    if name == "general-chinese":
        learner = Learner.from_pretrained(name, encoder=SHARED / "models" / "zh-e5-small")
        assert learner.encode(["今天又下暴雨了"]).isfinite().all()
