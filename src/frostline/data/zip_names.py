"""The names in a zip file, which need not say in which encoding they are."""

import re
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Sequence
from typing import Literal, get_args

from frostline.runtime.errors import FrostlineError

Encoding = Literal["auto", "utf-8", "cp949", "gbk", "cp932", "big5", "cp866", "cp437"]
"""Of names without the flag for UTF-8."""

_UTF8_FLAG = 0x800
_UNICODE_PATH = 0x7075  # the extra field of Info-ZIP and WinRAR (APPNOTE.TXT 4.6.9)
_TRIED: tuple[tuple[str, Encoding, tuple[str, ...]], ...] = (
    ("euc_kr", "cp949", ("HANGUL",)),  # the common syllables, in bytes that no text of the lines below but gbk has
    ("gb2312", "gbk", ("CJK",)),
    ("cp932", "cp932", ("CJK", "HIRAGANA", "KATAKANA", "IDEOGRAPHIC", "FULLWIDTH")),
    ("big5", "big5", ("CJK",)),
    ("cp949", "cp949", ("HANGUL",)),
    ("cp866", "cp866", ("CYRILLIC",)),
)
"""What `auto` tries after UTF-8: a codec, what it is called in the settings, and the scripts that all letters of the
names must be of. Where none fits it is cp437, as the zip format has it."""
_SAFE = ("euc_kr", "gb2312")
"""In the others a Western name can look right: there, no letter may stand beside one of A to Z."""
_BESIDE = re.compile(r"[A-Za-z][^\W\d_a-zA-Z]|[^\W\d_a-zA-Z][A-Za-z]")


def resolved_names(archive: zipfile.ZipFile, encoding: Encoding) -> tuple[list[str], Encoding | None]:
    """The names of the members of `archive`, in order, and the encoding that those were read in that do not say theirs.

    Without the flag for UTF-8, and without a second name in Unicode, names are in `encoding`; with "auto", in UTF-8
    where all are valid so, else in the first of `_TRIED` that fits all. None: each name says its encoding, or is ASCII.
    Raises FrostlineError where the names are not in `encoding`.
    """
    names = [info.filename for info in archive.infolist()]
    silent = {}
    for index, info in enumerate(archive.infolist()):
        # As it stands there: from Python 3.13 on, `filename` may be the second name.
        raw = b"" if info.flag_bits & _UTF8_FLAG else info.orig_filename.partition("\0")[0].encode("cp437")
        if not raw.isascii():
            said = _unicode_path(info, raw)
            names[index] = said or names[index]
            if not said:
                silent[index] = raw
    if not silent:
        return names, None
    codec, taken = (encoding, encoding) if encoding != "auto" else _fitting(list(silent.values()))
    for index, raw in silent.items():
        try:
            names[index] = raw.decode(codec)
        except UnicodeDecodeError as error:
            valid = ", ".join(get_args(Encoding))
            raise FrostlineError(
                f"{archive.filename}: the name {names[index]!r} is not in preprocess.name_encoding={encoding}.\n"
                f"Try another: {valid}."
            ) from error
    return names, taken


def _unicode_path(info: zipfile.ZipInfo, raw: bytes) -> str:
    """The name in Unicode that stands beside the name `raw`; "" if there is none, or it is one of another name."""
    extra = info.extra
    while len(extra) >= 4:
        kind, length = struct.unpack("<HH", extra[:4])
        field, extra = extra[4 : 4 + length], extra[4 + length :]
        if kind == _UNICODE_PATH and field[:5] == b"\x01" + struct.pack("<L", zlib.crc32(raw)):
            return field[5:].decode("utf-8", "ignore").partition("\0")[0]
    return ""


def _fitting(names: Sequence[bytes]) -> tuple[str, Encoding]:
    """The codec that `names` are in, and what it is called in the settings."""
    if _decoded(names, "utf-8"):
        return "utf-8", "utf-8"
    for codec, called, scripts in _TRIED:
        text = _decoded(names, codec)
        others = [letter for letter in text if not letter.isascii() and letter.isalpha()]
        of_script = others and all(unicodedata.name(letter, "").startswith(scripts) for letter in others)
        if of_script and (codec in _SAFE or not _BESIDE.search(text)):
            return called if codec == "gb2312" else codec, called
    return "cp437", "cp437"


def _decoded(names: Sequence[bytes], codec: str) -> str:
    """All `names` in lines; "" if they are not in `codec`."""
    try:
        return "\n".join(name.decode(codec) for name in names)
    except UnicodeDecodeError:
        return ""
