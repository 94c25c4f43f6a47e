"""Make src/frostline/fonts/files: of Noto's fonts what matplotlib's DejaVu Sans lacks, in the scripts of today.

Needs Debian 12 (apt-get download) and PyPI. The same sources give the same bytes.
"""

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from fontTools.subset import Options, Subsetter
from fontTools.ttLib import TTCollection, TTFont
from fontTools.varLib.instancer import instantiateVariableFont
from matplotlib import font_manager

FILES = Path(__file__).parents[1] / "src/frostline/fonts/files"
DEBIAN = ("fonts-noto-core=20201225-1", "fonts-noto-cjk=1:20220127+repack1-1")
PYPI = "manimgx-fonts==2026.9.26.post1"  # has Noto Emoji, which Debian has in colour only
SCRIPTS = (
    "Bengali",
    "Devanagari",
    "Ethiopic",
    "Gujarati",
    "Gurmukhi",
    "Kannada",
    "Khmer",
    "Malayalam",
    "Myanmar",
    "Oriya",
    "Sinhala",
    "Tamil",
    "Telugu",
    "Thai",
)
SHAPING = {0x20, 0x200C, 0x200D, 0x25CC}  # a font needs its own to shape
HANGUL = {*range(0x1100, 0x1200), *range(0xAC00, 0xD7A4)}
KANA_AND_MARKS = {*range(0x3000, 0x3400), *range(0x31F0, 0x3200), *range(0xFF00, 0xFFF0)}
HAN_STANDARDS = ("euc_jp", "gb2312", "euc_kr", "big5")
"""Japan's, China's, Korea's and Taiwan's sets of characters."""


def han() -> set[int]:
    """The characters that all of HAN_STANDARDS' everyday rows hold."""
    everyday = set()
    for codec in HAN_STANDARDS:
        last = 0xC6 if codec == "big5" else 0xFE  # of Big5 the first level alone
        for lead in range(0xA1, last + 1):
            for trail in (*range(0x40, 0x7F), *range(0xA1, 0xFF)):
                text = bytes((lead, trail)).decode(codec, errors="replace")
                if len(text) == 1 and 0x4E00 <= ord(text) < 0xA000:
                    everyday.add(ord(text))
    return everyday


def write(font: TTFont, name: str, characters: set[int], features: list[str]) -> None:
    options = Options(hinting=False, layout_features=features, notdef_outline=True, name_IDs=[0, 1, 2, 13, 14])
    subsetter = Subsetter(options)
    subsetter.populate(unicodes=characters)
    subsetter.subset(font)
    for record in font["name"].names:
        if record.nameID == 1:
            record.string = f"Frostline {name}"  # not to be taken for the whole font
    font["head"].modified = font["head"].created
    font.recalcTimestamp = False
    path = FILES / f"{name}.{'otf' if 'CFF ' in font else 'ttf'}"
    font.save(path)
    print(f"{path.name}: {len(font.getBestCmap()):,} characters, {path.stat().st_size:,} bytes")


def fetch(folder: Path) -> None:
    subprocess.run(["apt-get", "download", "-qq", *DEBIAN], cwd=folder, check=True)
    for package in folder.glob("*.deb"):
        subprocess.run(["dpkg-deb", "-x", package, folder], check=True)
    subprocess.run([sys.executable, "-m", "pip", "download", "-qq", "--no-deps", "-d", folder, PYPI], check=True)
    (wheel,) = folder.glob("*.whl")
    zipfile.ZipFile(wheel).extract("manimgx_fonts/NotoEmoji[wght].ttf", folder)


def main() -> None:
    known = set(TTFont(font_manager.findfont("DejaVu Sans")).getBestCmap())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        fetch(folder)
        noto = folder / "usr/share/fonts"
        for script in SCRIPTS:
            font = TTFont(noto / f"truetype/noto/NotoSans{script}-Regular.ttf")
            write(font, script, set(font.getBestCmap()) - known | SHAPING, ["*"])
        emoji = instantiateVariableFont(TTFont(folder / "manimgx_fonts/NotoEmoji[wght].ttf"), {"wght": 400})
        write(emoji, "Emoji", set(emoji.getBestCmap()) - known | SHAPING, ["*"])
        japanese = TTCollection(noto / "opentype/noto/NotoSansCJK-Regular.ttc").fonts[0]
        write(japanese, "CJK", HANGUL | (KANA_AND_MARKS | han()) - known, ["ccmp", "ljmo", "vjmo", "tjmo"])


if __name__ == "__main__":
    main()
