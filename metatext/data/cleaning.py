"""Removes social-media markup from texts: mentions, URLs, repost chains, topic marks, emoticons, full-width forms.

Each kind of markup is one cleaning step. Only the steps that the user asks for are applied.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence

from metatext.errors import InputError

WEIBO = ("mentions", "urls", "reposts", "topics", "emoticons", "fullwidth")
"""The names of all cleaning steps; `clean="weibo"` stands for all of them."""

_NAME = r"[\w·-]{1,30}"  # \w covers Chinese, Japanese and Korean characters too
_EMAIL = r"(?<=[A-Za-z0-9._%+-])@[A-Za-z0-9.-]+\.[A-Za-z]{2}"
_URL_CHARACTER = r"[A-Za-z0-9\-._~:/?#@!$&'()*+,;=%]"  # ASCII only, so a URL ends where Chinese text begins
_URL_END = r"[A-Za-z0-9/=&_~%-]"  # a comma, full stop or # after a URL belongs to the text
_REPOST = re.compile(rf"(?<!http:)(?<!https:)[/／]{{2}}\s*[@＠](?:{_NAME})?\s*[:：]?")
_TOPIC = r"[#＃](?![\s,.;:!?)，。；：！？）])[^#＃\n]{1,64}(?<!\s)[#＃]"  # "C# and F#, or G#" has no topic
_TOPICS = re.compile(rf"{_TOPIC}(?P<joined>(?={_TOPIC}))?")


def _removable(pattern: str) -> re.Pattern[str]:
    """Compiles a pattern for one or more matches of `pattern` in a row, with the spaces around them."""
    space = r"[ \t\u3000]"
    # Without the look-behind, a match would be tried from each space of a long run of spaces: quadratic time.
    return re.compile(rf"(?<!{space}){space}*(?:(?:{pattern}){space}*)+", re.IGNORECASE)


_MENTIONS = _removable(rf"回[复覆]\s*[@＠]{_NAME}\s*[:：]|(?!{_EMAIL})[@＠]{_NAME}")
_URLS = _removable(
    r"(?:https?://|(?<![A-Za-z0-9./-]))t\.cn/[A-Za-z0-9]+"
    rf"|(?:https?://|(?<![A-Za-z0-9./-])www\.){_URL_CHARACTER}*{_URL_END}"
)
_EMOTICONS = _removable(r"\[(?!\d+\])[^\[\]\s]{1,8}\]")


def _without_topic_marks(text: str) -> str:
    """Removes the # marks of topics; adjacent topics, `#a##b#`, become two words, `a b`."""
    return _TOPICS.sub(lambda match: match[0][1:-1] + ("" if match["joined"] is None else " "), text)


# The steps are applied in this order. URLs come before topics, because a URL may contain a #. Full-width forms come
# last: they turn a Chinese comma after a URL into an ASCII comma, which could be part of the URL.
_STEPS: tuple[tuple[str, Callable[[str], str]], ...] = (
    ("urls", lambda text: _URLS.sub(" ", text)),
    ("mentions", lambda text: _MENTIONS.sub(" ", text)),
    ("topics", _without_topic_marks),
    ("emoticons", lambda text: _EMOTICONS.sub(" ", text)),
    ("fullwidth", lambda text: unicodedata.normalize("NFKC", text)),
)


def resolve_steps(clean: str | Sequence[str] | None) -> tuple[str, ...]:
    """Returns the names of the cleaning steps that a `clean` option stands for, in the order of `WEIBO`.

    Args:
        clean: None for no step, "weibo" for all steps, the name of one step, or several names.

    Raises:
        InputError: a name is unknown.
    """
    if clean is None:
        return ()
    names = [clean] if isinstance(clean, str) else list(clean)
    for name in names:
        if name not in (*WEIBO, "weibo"):
            close = difflib.get_close_matches(str(name), (*WEIBO, "weibo"), n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise InputError(f"unknown cleaning {name!r}: choose from 'weibo' (all), {', '.join(WEIBO)}{hint}")
    return WEIBO if "weibo" in names else tuple(step for step in WEIBO if step in names)


def clean_text(text: str, parts: str | Sequence[str] | None) -> str:
    """Cleans one text.

    The steps are:

    - mentions: removes `@name` and the whole of `回复@name:`, but no e-mail address.
    - urls: removes `http(s)://...`, `www....` and `t.cn/...`, up to the first Chinese character.
    - reposts: removes everything from the first `//@` on. If the writer added no words, the earliest post of the chain
      that has words is kept instead, without its `//@name:`.
    - topics: removes the marks of `#words#` and keeps the words; they are often the subject of the post.
    - emoticons: removes `[doge]`, `[笑cry]`: brackets around 1 to 8 characters without a space and not only digits.
    - fullwidth: applies Unicode NFKC. Full-width letters, digits and punctuation become ASCII; `…` becomes `...`.

    Removed parts leave one space, or none at the ends of the text. Nothing else is changed. If nothing would be left,
    the text is returned unchanged, so that no row is lost.

    Args:
        text: The text.
        parts: The steps, as in `resolve_steps`.

    Raises:
        InputError: a step is unknown.

    Example:
        >>> clean_text("回复@小明:好的[doge] http://t.cn/A6vO2n1Z", "weibo")
        '好的'
        >>> clean_text("#早安# 好的[doge]", ["emoticons"])
        '#早安# 好的'
    """
    chosen = resolve_steps(parts)
    if not chosen:
        return text
    for candidate in _split_repost_chain(text) if "reposts" in chosen else [text]:
        for name, apply_step in _STEPS:
            if name in chosen:
                candidate = apply_step(candidate)
        candidate = candidate.strip()
        if candidate.strip(" :："):  # a colon left over from "@name:" is no text
            return candidate
    return text


def _split_repost_chain(text: str) -> list[str]:
    """Returns the writer's own words, then the reposted posts from the earliest to the latest."""
    own_words, *posts = _REPOST.split(text)  # a chain cites the latest post first
    return [own_words, *reversed(posts)]


def clean_texts(texts: Iterable[str], clean: str | Sequence[str] | None) -> list[str]:
    """Cleans each text with `clean_text`; the number and order of the texts stay the same.

    Args:
        texts: The texts.
        clean: The steps, as in `resolve_steps`; None changes nothing.

    Raises:
        InputError: a step is unknown.
    """
    parts = resolve_steps(clean)
    return [clean_text(text, parts) for text in texts]
