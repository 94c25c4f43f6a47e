"""The two READMEs say the same: headings of the same levels, the same commands and settings."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
ENGLISH, KOREAN = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README.ko.md"))


def without_code(text):
    return re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)


def commands(text):
    """The lines of the blocks of code, without their comments and what spaces them."""
    blocks = re.findall(r"^```.*?\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)
    lines = (re.sub(r"\s+#.*", "", line).split() for block in blocks for line in block.splitlines())
    return [" ".join(line) for line in lines if line]


def test_both_have_the_same_headings():
    levels = [
        [len(marks) for marks in re.findall(r"^(#+) ", without_code(text), re.MULTILINE)] for text in (ENGLISH, KOREAN)
    ]
    assert levels[0] == levels[1]
    assert len(levels[0]) > 10


def test_both_give_the_same_commands():
    english, korean = commands(ENGLISH), commands(KOREAN)
    plain = [line for line in english if line.isascii() and "Your Name" not in line]
    assert len(plain) > 20
    assert [line for line in plain if line not in korean] == []
    assert [line for line in korean if line.isascii() and line not in english] == []


def test_both_quote_the_same_settings():
    quoted = [set(re.findall(r"`([a-z_]+(?:\.[a-z_]+)+=?[\w|./-]*)`", text)) for text in (ENGLISH, KOREAN)]
    assert quoted[0] ^ quoted[1] == set()


def test_every_link_to_a_file_leads_somewhere():
    for text in (ENGLISH, KOREAN):
        links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
        assert links
        assert [link for link in links if not (ROOT / link).exists()] == []
