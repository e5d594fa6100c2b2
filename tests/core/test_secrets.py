"""Keys are found in every form that a text may hold them in, and what is no key is not repeated."""

from __future__ import annotations

import base64
import html
import json
import time
from urllib.parse import quote, quote_plus

import pytest

from modgap.core import secrets
from modgap.core.errors import UserError

KEY = "sk-a/b+c\"d\\e'f&g<h>=0123456789"


@pytest.fixture(autouse=True)
def no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "_known", {})


FORMS = {
    "plain": KEY,
    "json": json.dumps(KEY),
    "json in json": json.dumps(json.dumps(KEY)),
    "json with slashes": json.dumps(KEY).replace("/", "\\/"),
    "json for HTML": json.dumps(KEY).replace("&", "\\u0026").replace("<", "\\u003c"),
    "repr": repr(KEY),
    "repr of bytes": repr(KEY.encode()),
    "percent": quote(KEY, safe=""),
    "percent, lower case": quote(KEY, safe="").replace("%2F", "%2f").replace("%5C", "%5c"),
    "percent, but for slashes": quote(KEY),
    "form": quote_plus(KEY),
    "percent twice": quote(quote(KEY, safe=""), safe=""),
    "html": html.escape(KEY),
    "base64": base64.b64encode(KEY.encode()).decode(),
    "base64 of URLs": base64.urlsafe_b64encode(KEY.encode()).decode().rstrip("="),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_a_key_is_removed_in_every_form(form: str) -> None:
    secrets.keep_out(KEY)
    text = secrets.without_secrets(f"before {form} after")
    assert "[key]" in text and "0123456789" not in text and text.startswith("before ")
    assert form.strip("'\"b")[:12] not in text


def test_words_and_other_texts_stay_as_they_are() -> None:
    for word in ("EMPTY", "none", ""):
        secrets.keep_out(word)
    secrets.keep_out(KEY)
    text = "EMPTY none sk-a/b \\frac{1}{2} 100% http://me@host"
    assert secrets.without_secrets(text) == text


def test_the_name_and_password_of_an_address() -> None:
    text = "no proxy https://me:pass%20word@proxy.org:8080/x, http://tok3n-abc@h, me@mail.org"
    assert secrets.without_userinfo(text) == (
        "no proxy https://[key]@proxy.org:8080/x, http://[key]@h, me@mail.org"
    )
    secrets.keep_out_of_url("http://me:pass%20word@proxy.org:8080")
    basic = base64.b64encode(b"me:pass word").decode()
    assert secrets.without_secrets(f"Basic {basic}, pass word") == "Basic [key], [key]"


@pytest.mark.parametrize("name", ["sk-abc-0123456789", "gsk_abc0123456789", "A B", "", "hf_x\n"])
def test_what_is_no_name_of_a_variable_is_refused_unseen(name: str) -> None:
    with pytest.raises(UserError, match="not the name of an environment variable") as caught:
        secrets.check_name(name)
    assert not name or name not in str(caught.value)
    if len(name) > 8:
        assert secrets.without_secrets(f"{name}!") == "[key]!"


@pytest.mark.parametrize(
    "key", ["sk-one\nsk-two", "sk-\x00abcdefgh", "sk-ключ-0123", "sk-a\x7fbcdefg"]
)
def test_what_is_no_key_is_refused_unseen(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if "\x00" not in key:
        monkeypatch.setenv("some_key", key)
    else:
        monkeypatch.setattr(secrets.os, "environ", {"some_key": key})
    with pytest.raises(
        UserError, match="the key in some_key has a line break or another"
    ) as caught:
        secrets.read_key("some_key")
    assert key not in str(caught.value) and "sk-" not in str(caught.value)
    assert secrets.without_secrets(repr(key)) == "'[key]'"


def test_white_space_around_a_key_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY", " sk-abcdefgh\n")
    assert secrets.read_key("KEY") == "sk-abcdefgh" and secrets.read_key("NOT_SET") == ""


@pytest.mark.parametrize(
    "arguments",
    [["--api-key-env", "sk-abcdefgh"], ["--api-key-env=sk-abcdefgh"], ["--api-key", "sk-abcdefgh"]],
)
def test_a_key_on_the_command_line_is_not_recorded(arguments: list[str]) -> None:
    secrets.keep_out_of_arguments(["eval", *arguments, "--out", "x"])
    assert "sk-abcdefgh" not in " ".join(secrets.safe_arguments(arguments))
    secrets.keep_out_of_arguments(["--api-key-env", "OPENAI_API_KEY", "--base-url"])
    assert secrets.without_secrets("OPENAI_API_KEY") == "OPENAI_API_KEY"


@pytest.mark.parametrize(
    "key", ["sk-proj-Abcdefgh12345678", "$ecret-pass-12345", "back\\slash-12345"]
)
def test_a_reply_of_backslashes_is_searched_once(key: str) -> None:
    secrets.keep_out(key)
    text = f"Abcdefgh12345678 ecret slash {key} sk" + "\\" * 200_000 + " $"
    start = time.process_time()
    found = secrets.without_secrets(text)
    assert time.process_time() - start < 5
    assert key not in found and found.endswith("\\ $")
    assert key not in secrets.without_secrets(json.dumps({"a": json.dumps(key)}))
