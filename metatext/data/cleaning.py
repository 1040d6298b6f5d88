"""Takes the marks of social media out of a text and leaves its words: part by part, nothing that was not asked for.

For example:

    clean_text("回复@小明:好的[doge] http://t.cn/A6vO2n1Z", WEIBO)  ->  "好的"
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence

from metatext.errors import InputError

WEIBO = ("mentions", "urls", "reposts", "topics", "emoticons", "fullwidth")
"""Every part that can be cleaned; `clean="weibo"` means all of them."""


_NAME = r"[\w·-]{1,30}"  # \w covers Chinese, Japanese and Korean characters too
_EMAIL = r"(?<=[A-Za-z0-9._%+-])@[A-Za-z0-9.-]+\.[A-Za-z]{2}"
_URL_CHARACTER = r"[A-Za-z0-9\-._~:/?#@!$&'()*+,;=%]"  # ASCII only, so an address ends where Chinese text begins
_URL_END = r"[A-Za-z0-9/=&_~%-]"  # a comma, full stop or # behind an address belongs to the text
_REPOST = re.compile(rf"(?<!http:)(?<!https:)[/／]{{2}}\s*[@＠](?:{_NAME})?\s*[:：]?")
_TOPIC = r"[#＃](?![\s,.;:!?)，。；：！？）])[^#＃\n]{1,64}(?<!\s)[#＃]"  # "C# and F#, or G#" holds no topic
_TOPICS = re.compile(rf"{_TOPIC}(?P<joined>(?={_TOPIC}))?")


def _removable(pattern: str) -> re.Pattern[str]:
    """Matches one or more of `pattern` in a row with the spaces around them, which one space then replaces."""
    space = r"[ \t\u3000]"
    # Without the look-behind, a long run of spaces would be tried from each of its places, in quadratic time.
    return re.compile(rf"(?<!{space}){space}*(?:(?:{pattern}){space}*)+", re.IGNORECASE)


_MENTIONS = _removable(rf"回[复覆]\s*[@＠]{_NAME}\s*[:：]|(?!{_EMAIL})[@＠]{_NAME}")
_URLS = _removable(
    r"(?:https?://|(?<![A-Za-z0-9./-]))t\.cn/[A-Za-z0-9]+"
    rf"|(?:https?://|(?<![A-Za-z0-9./-])www\.){_URL_CHARACTER}*{_URL_END}"
)
_EMOTICONS = _removable(r"\[(?!\d+\])[^\[\]\s]{1,8}\]")


def _without_topic_marks(text: str) -> str:
    """Two topics side by side, `#a##b#`, become `a b`: they must not grow into one word."""
    return _TOPICS.sub(lambda found: found[0][1:-1] + ("" if found["joined"] is None else " "), text)


# In the order in which they are applied. URLs go before topics, since an address may hold a #. Width is folded last:
# it would turn the Chinese comma behind an address into one that could belong to it.
_STEPS: tuple[tuple[str, Callable[[str], str]], ...] = (
    ("urls", lambda text: _URLS.sub(" ", text)),
    ("mentions", lambda text: _MENTIONS.sub(" ", text)),
    ("topics", _without_topic_marks),
    ("emoticons", lambda text: _EMOTICONS.sub(" ", text)),
    ("fullwidth", lambda text: unicodedata.normalize("NFKC", text)),
)


def resolve_steps(clean: str | Sequence[str] | None) -> tuple[str, ...]:
    """The parts that a `clean` option stands for, in the order of `WEIBO`.

    Args:
        clean: None for nothing, "weibo" for everything, the name of one part, or several names.

    Raises:
        InputError: if a name is unknown.
    """
    if clean is None:
        return ()
    names = [clean] if isinstance(clean, str) else list(clean)
    for name in names:
        if name not in (*WEIBO, "weibo"):
            close = difflib.get_close_matches(str(name), (*WEIBO, "weibo"), n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise InputError(f"unknown cleaning {name!r}: choose from 'weibo' (all), {', '.join(WEIBO)}{hint}")
    return WEIBO if "weibo" in names else tuple(part for part in WEIBO if part in names)


def clean_text(text: str, parts: str | Sequence[str] | None) -> str:
    """Cleans one text.

    - mentions: `@name` goes (but no e-mail address), and so does the whole of `回复@name:`.
    - urls: `http(s)://...`, `www....` and `t.cn/...` go, up to the first Chinese character.
    - reposts: everything from the first `//@` on goes. Where nothing of the writer's own is left, the last link of the
      chain (the first post) that has words stands for the text, without its `//@name:`.
    - topics: `#words#` loses its marks and keeps its words; they are often the subject of the post.
    - emoticons: `[doge]`, `[笑cry]` go: 1 to 8 characters in brackets, no space, not only digits.
    - fullwidth: Unicode NFKC, so full-width letters, digits and punctuation become plain ones (and `…` becomes `...`).

    What goes leaves one space where it stood, none at the ends. Nothing else changes: no lower-casing, no conversion
    to simplified characters. A text of which nothing would be left stays as it was, so that no row is lost.

    Args:
        text: The text.
        parts: What to clean, as in `resolve_steps`.

    Raises:
        InputError: if a part is unknown.
    """
    chosen = resolve_steps(parts)
    if not chosen:
        return text
    for candidate in _own_words_first(text) if "reposts" in chosen else [text]:
        for part, step in _STEPS:
            if part in chosen:
                candidate = step(candidate)
        candidate = candidate.strip()
        if candidate.strip(" :："):  # the colon of a bare "@name:" is nothing either
            return candidate
    return text


def _own_words_first(text: str) -> list[str]:
    """The writer's own words, then the links of a repost chain from the first post back to the latest."""
    own, *links = _REPOST.split(text)
    return [own, *reversed(links)]


def clean_texts(texts: Iterable[str], clean: str | Sequence[str] | None) -> list[str]:
    """Cleans texts one by one: as many come back, in the same order.

    Args:
        texts: The texts.
        clean: What to clean, as in `resolve_steps`; None changes nothing.

    Raises:
        InputError: if a part is unknown.
    """
    parts = resolve_steps(clean)
    return [clean_text(text, parts) for text in texts]
