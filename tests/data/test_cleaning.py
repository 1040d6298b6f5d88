from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from metatext.data.cleaning import WEIBO, clean_text, clean_texts, resolve_steps
from metatext.errors import InputError

SHARED = Path(__file__).resolve().parents[3] / "shared"


@pytest.mark.parametrize(
    ("part", "text", "cleaned"),
    [
        ("mentions", "感谢@小明 的支持", "感谢 的支持"),
        ("mentions", "@新京报 @a_b-c @用户@用户 19日获悉", "19日获悉"),
        ("mentions", "＠小明 你好", "你好"),
        ("mentions", "@·FEIFEI· 你好", "你好"),
        ("mentions", "回复@小明:好的", "好的"),
        ("mentions", "回复 @小明 ： 好的", "好的"),
        ("mentions", "@小明：好的", "：好的"),
        ("mentions", "邮箱abc@qq.com，快来", "邮箱abc@qq.com，快来"),
        ("mentions", "lol@小明 hi", "lol hi"),
        ("mentions", "我永远都@ 不到你", "我永远都@ 不到你"),
        ("mentions", "（@￣︶￣@）", "（@￣︶￣@）"),
        ("urls", "看http://t.cn/A6vO2n1Z这里", "看 这里"),
        ("urls", "看 https://example.com/a?b=1&c=2#d, 好", "看 , 好"),
        ("urls", "t.cn/A6vO，好", "，好"),
        ("urls", "WWW.sktv.com.cn，就从", "，就从"),
        ("urls", "网址http://t.cn/abc#话题#", "网址 #话题#"),
        ("urls", "http://t.cn/abc//@小明:好", "//@小明:好"),
        ("urls", "about.cn/a 和 awww.b", "about.cn/a 和 awww.b"),
        ("reposts", "说得好//@小明:转//@小红:原文", "说得好"),
        ("reposts", "//@小明:转发//@小红：原文", "原文"),
        ("reposts", "//@小明:转发//@小红:", "转发"),
        ("reposts", "好// @小明 转发", "好"),
        ("reposts", "//@小明:", "//@小明:"),
        ("reposts", "http://@host 和 a//b", "http://@host 和 a//b"),
        ("topics", "2020年的这个#冠状病毒#来势汹汹", "2020年的这个冠状病毒来势汹汹"),
        ("topics", "#病例##钟南山# ＃早安＃", "病例 钟南山 早安"),
        ("topics", "#iPhone 15# 发布", "iPhone 15 发布"),
        ("topics", "C# and F#, a##b, # x #", "C# and F#, a##b, # x #"),
        ("emoticons", "好[doge][笑cry]呀 [给你小心心]", "好 呀"),
        ("emoticons", "[2020] [one two] [九个字符以上的方括号]", "[2020] [one two] [九个字符以上的方括号]"),
        ("fullwidth", "ＡＢＣ，１２３…", "ABC,123..."),
    ],
)
def test_each_part(part: str, text: str, cleaned: str) -> None:
    assert clean_text(text, [part]) == cleaned


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("回复@小明:好的[doge] http://t.cn/A6vO2n1Z", "好的"),
        ("[doge]//@小明:[泪]//@小红:今天下雨了", "今天下雨了"),
        ("@用户://@·FEIFEI·:他真的很好", "他真的很好"),
        ("看http://t.cn/A6vO，好！", "看 ,好!"),
        ("Keep CASE and 繁體", "Keep CASE and 繁體"),
        ("第一行\n第二行", "第一行\n第二行"),
    ],
)
def test_all_parts_together(text: str, cleaned: str) -> None:
    assert clean_text(text, "weibo") == cleaned


@pytest.mark.parametrize("text", [" [泪][泪] ", "@小明", "//@小明:[泪]//@小红:", "http://t.cn/A6vO"])
def test_a_text_that_would_become_empty_stays_as_it_was(text: str) -> None:
    assert clean_text(text, WEIBO) == text


def test_only_spaces_beside_what_goes_collapse() -> None:
    assert clean_text("a   b  [doge]  [doge]　c", "emoticons") == "a   b c"


@pytest.mark.parametrize("text", [" " * 100_000 + "x", "#" * 100_000, "//@" * 50_000 + "x", "@a " * 50_000 + "x"])
def test_hostile_texts_take_no_time(text: str) -> None:
    started = time.perf_counter()
    clean_text(text, "weibo")
    assert time.perf_counter() - started < 5  # quadratic: minutes


def test_no_parts_change_nothing() -> None:
    assert clean_text(" @小明  [doge]", ()) == " @小明  [doge]"
    assert clean_texts([" @小明 好", "[泪]"], None) == [" @小明 好", "[泪]"]


def test_clean_texts_keeps_number_and_order() -> None:
    assert clean_texts(iter(["好[泪]", "[泪]", "坏"]), "weibo") == ["好", "[泪]", "坏"]


def test_resolve() -> None:
    assert resolve_steps(None) == ()
    assert resolve_steps("weibo") == ("mentions", "urls", "reposts", "topics", "emoticons", "fullwidth")
    assert resolve_steps("urls") == ("urls",)
    assert resolve_steps(["topics", "mentions", "topics"]) == ("mentions", "topics")
    assert resolve_steps(["urls", "weibo"]) == WEIBO


def test_an_unknown_part_is_refused_with_the_nearest() -> None:
    with pytest.raises(InputError, match=r"unknown cleaning 'mention': choose from 'weibo'.*did you mean 'mentions'\?"):
        resolve_steps(["urls", "mention"])
    with pytest.raises(InputError, match=r"unknown cleaning 'xyz'.*fullwidth$"):
        clean_text("a", ["xyz"])


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.exists(), reason="needs the shared data")
def test_real_posts_keep_their_rows_and_lose_their_marks() -> None:
    lines = (SHARED / "data/zh/weibo_covid7.jsonl").read_text(encoding="utf-8").split("\n")
    texts = [json.loads(line)["text"] for line in lines if line]
    cleaned = clean_texts(texts, "weibo")
    assert len(cleaned) == 10601 and all(text.strip() for text in cleaned)
    changed = [after for before, after in zip(texts, cleaned, strict=True) if before != after]
    assert not [text for text in changed if "//@用户" in text or "[泪]" in text or "@用户" in text]
