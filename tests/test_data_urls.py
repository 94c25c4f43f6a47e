import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from frostline.common.data_urls import data_url, from_text


@given(st.binary())
def test_what_is_made_here_is_read_here(content: bytes) -> None:
    assert from_text(data_url("png", content)) == content
    assert from_text(base64.encodebytes(content).decode()) == content  # in lines, as e-mail has it


@pytest.mark.parametrize("head", ["data:;base64,", "data:image/jpeg;charset=utf-8;base64,", "DATA:image/jpeg;BASE64,"])
def test_other_ways_to_write_it(head: str) -> None:
    assert from_text(f"{head}AAEC") == b"\0\1\2"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("A", "not base64"),
        ("AAE*", "not base64"),
        ("ÄÄÄÄ", "not base64"),
        ("\ud800AAA", "not base64"),
        ("data:image/jpeg,AAEC", "without base64"),
        ("data:image/jpeg;base64", "not base64"),
        ("http://example.org/a.jpg", "nothing is fetched"),
        ("FTP://example.org/a.jpg", "nothing is fetched"),
        ("file:///etc/hostname", "nothing is fetched"),
    ],
)
def test_anything_else_is_refused(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        from_text(text)
