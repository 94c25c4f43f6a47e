import base64
from urllib.parse import quote

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from frostline.common.data_urls import data_url, from_text


@given(st.binary())
def test_what_is_made_here_is_read_here(content):
    assert from_text(data_url("png", content)) == content
    assert from_text(base64.encodebytes(content).decode()) == content  # in lines, as e-mail has it


@given(st.binary())
def test_other_base64_is_the_same(content):
    url_safe = base64.urlsafe_b64encode(content).decode()
    standard = base64.b64encode(content).decode()
    lines = base64.encodebytes(content).decode()
    for text in (
        url_safe,
        url_safe.rstrip("="),
        standard.rstrip("="),
        quote(standard, safe=""),
        quote(lines),
        lines.replace("\n", " "),  # echo $(base64 FILE)
        lines.replace("\n", "\r\n\t"),
    ):
        assert from_text(text) == content
        assert from_text(f" data:image/png;base64,{text}\n") == content


@given(st.binary(min_size=1))
def test_bytes_may_be_percent_encoded(content):
    url = f"data:image/png,{quote(content, safe='')}"
    assume("%" in url)
    assert from_text(url) == content


@given(st.binary(min_size=100, max_size=100))
def test_a_plus_that_a_form_made_a_space_is_no_line_break(content):
    text = base64.b64encode(content).decode()
    assume(0 < text.count("+") < 4)
    with pytest.raises(ValueError, match=r"a \+ may have been"):
        from_text(text.replace("+", " "))


@pytest.mark.parametrize(
    "head",
    [
        "data:;base64,",
        "data:image/jpeg;charset=utf-8;base64,",
        "DATA:image/jpeg;BASE64,",
        "data:image/jpeg; base64,",
        "data:base64;base64,",
    ],
)
def test_other_ways_to_write_it(head):
    assert from_text(f"{head}AAEC") == b"\0\1\2"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("A", "not base64"),
        ("A===", "not base64"),
        ("AA=A", "not base64"),
        ("%", "not base64"),
        ("data:image/jpeg;base64,AAE%2A", "not base64"),
        ("data:base64,AAEC", "without base64"),
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
def test_anything_else_is_refused(text, words):
    with pytest.raises(ValueError, match=words):
        from_text(text)
