"""Names of any script in pictures: drawn in full, without a warning, and with no font of the machine's."""

import unicodedata
import warnings
from xml.etree import ElementTree

import numpy as np
import pytest
from fontTools.ttLib import TTFont
from matplotlib import font_manager
from PIL import Image

from frostline.data.images import contact_sheet
from frostline.fonts import lettering
from frostline.report import charts, style
from results import chosen, epochs, predictions, predictions_of_many

pytestmark = pytest.mark.slow

NAMES = {
    "Korean": ("고양이", "강아지"),
    "Korean of macOS": tuple(unicodedata.normalize("NFD", name) for name in ("고양이", "강아지")),
    "Japanese": ("ネコ", "いぬ犬"),
    "Chinese": ("猫们", "狗漢語"),
    "Arabic": ("قطة", "كلب"),
    "Persian": ("می\u200cخواهم", "سگ"),
    "Hebrew": ("חתול", "כלב"),
    "Thai": ("แมว", "ผู้ใหญ่"),
    "Hindi": ("बिल्ली", "कुत्ता"),
    "Bengali": ("বিড়াল", "কুকুর"),
    "Tamil": ("பூனை", "நாய்"),
    "Burmese": ("ကြောင်", "ခွေး"),
    "Khmer": ("ឆ្មា", "ឆ្កែ"),
    "Amharic": ("ድመት", "ውሻ"),
    "Georgian": ("კატა", "ძაღლი"),
    "Russian": ("кошка", "собака"),
    "emoji": ("🐱", "🐶"),
    "sequences of emoji": ("👨\u200d👩\u200d👧", "🇰🇷"),
    "mixed": ("cat 고양이 🐱", "قطة dog"),
}


@pytest.fixture
def strict():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def missing(text):
    """The characters of `text` that none of the fonts has, but for those that are not seen."""
    fonts = [TTFont(font_manager.findfont("DejaVu Sans")), *map(TTFont, lettering._FILES)]
    known = set().union(*(font.getBestCmap() for font in fonts))
    return {c for c in unicodedata.normalize("NFC", text) if ord(c) not in known and unicodedata.category(c) != "Cf"}


@pytest.mark.parametrize("names", NAMES.values(), ids=NAMES)
def test_there_is_a_font(names):
    assert not missing("".join(names))


def test_hangul_and_everyday_han_and_kana_are_there_in_full():
    assert not missing("".join(map(chr, range(0xAC00, 0xD7A4))))
    assert not missing("".join(map(chr, [*range(0x3041, 0x3097), *range(0x30A1, 0x3100)])))
    for codec in ("euc_jp", "gb2312", "euc_kr"):
        rows = (bytes((lead, trail)) for lead in range(0xB0, 0xFF) for trail in range(0xA1, 0xFF))
        assert not missing("".join(row.decode(codec, "ignore") for row in rows)), codec


@pytest.mark.usefixtures("strict")
@pytest.mark.parametrize("names", NAMES.values(), ids=NAMES)
def test_names_are_drawn_in_charts_and_in_the_contact_sheet(names, tmp_path):
    charts.confusion_matrices(tmp_path / "confusion.png", predictions(20), threshold=0.5, classes=names)
    contact_sheet(np.full((3, 8, 8, 3), 255, np.uint8), [*names, "cat"], tmp_path / "sheet.png")
    inks = [ink(tmp_path / "sheet.png", column) for column in range(3)]
    assert all(each.any() for each in inks)
    assert (inks[0] != inks[1]).any()


@pytest.mark.parametrize("names", [("고양이", "강아지"), ("猫", "狗"), ("ድመት", "ፈረስ"), ("🦊", "🦁")], ids=" ".join)
def test_names_in_a_chart_are_no_boxes(names, tmp_path):
    """Boxes of names of one length would not differ."""
    drawn = []
    for order in (names, names[::-1]):
        charts.confusion_matrices(tmp_path / "confusion.png", predictions(20), threshold=0.5, classes=order)
        drawn.append((tmp_path / "confusion.png").read_bytes())
    assert drawn[0] != drawn[1]


@pytest.mark.long
@pytest.mark.usefixtures("strict")
def test_names_of_many_scripts_are_drawn_in_one_chart(tmp_path):
    classes = [names[0] for names in NAMES.values()]
    pair = predictions_of_many(20 * len(classes), len(classes))
    curves = {"transfer": epochs(1), "finetune": epochs(1)}
    charts.write_figures(tmp_path, pair, curves=curves, choice=chosen(), bins=5, classes=classes)
    text = "".join(ElementTree.parse(tmp_path / "confusion.svg").getroot().itertext())
    assert [name for name in classes if unicodedata.normalize("NFC", name) not in text] == []


def ink(sheet, column):
    """Where the caption below the first row's tile has ink."""
    return np.asarray(Image.open(sheet).convert("L"))[112:128, 112 * column : 112 * (column + 1)] < 128


@pytest.mark.usefixtures("strict")
def test_what_no_font_has_is_a_box_without_a_warning(tmp_path):
    old_persian = "\U000103a0\U000103a1"
    assert missing(old_persian)
    charts.reliability_diagram(tmp_path / "chart.png", predictions(20), bins=5, classes=("cat", old_persian))
    contact_sheet(np.zeros((1, 8, 8, 3), np.uint8), [old_persian], tmp_path / "sheet.png")
    assert ink(tmp_path / "sheet.png", 0).any()


def test_fonts_of_the_machine_are_not_used(tmp_path, monkeypatch):
    """Nor is one that calls itself as ours do, or has what ours lack."""
    own = {str(path) for path in lettering._FILES} | {font_manager.findfont("DejaVu Sans").path}
    before = list(font_manager.fontManager.ttflist)
    for name in ("Noto Sans CJK KR", "Malgun Gothic"):
        font_manager.fontManager.ttflist.append(
            font_manager.FontEntry(str(tmp_path / "no.ttf"), 0, name, "normal", "normal", 400, "normal", "scalable")
        )
    try:
        assert {font_manager.findfont(name).path for name in lettering.families()} == own
    finally:
        font_manager.fontManager.ttflist[:] = before


@pytest.mark.parametrize(
    ("text", "ems", "expected"),
    [
        ("short", 5, "short"),
        ("longer name", 4, "longe…"),
        ("WWWWWWWWWWW", 4, "WWW…"),
        ("iiiiiiiiiii", 4, "iiiiiiiiiii"),
        ("고양이", 3, "고양이"),
        ("고양이", 2.7, "고…"),
        (unicodedata.normalize("NFD", "고양이"), 3, "고양이"),
        ("บ้าบ้าบ้า", 1.9, "บ้…"),
        ("👨\u200d👩\u200d👧 👨\u200d👩\u200d👧", 2.5, "👨\u200d👩\u200d👧…"),
        ("", 3, ""),
        ("name", 0.5, "…"),
    ],
)
def test_a_long_name_is_cut_to_the_room_there_is(text, ems, expected):
    assert lettering.shortened(text, ems) == expected
    assert lettering.width(lettering.shortened(text, ems)) <= max(ems, 1)


@pytest.mark.usefixtures("strict")
@pytest.mark.parametrize("name", ["W" * 300, "i" * 300, "긴 이름 " * 50, "قطة" * 99, "\U000103a0" * 99])
def test_a_long_caption_stays_below_its_picture(name, tmp_path):
    contact_sheet(np.full((3, 8, 8, 3), 255, np.uint8), ["", name, ""], tmp_path / "sheet.png")
    assert not ink(tmp_path / "sheet.png", 0).any()
    assert not ink(tmp_path / "sheet.png", 2).any()
    assert ink(tmp_path / "sheet.png", 1).sum(axis=1).any()


def test_numbers_beside_a_name_from_right_to_left_keep_their_order():
    """The isolates of UAX #9; else "(0.9 → 0.8)" would read "(0.8 → 0.9)"."""
    assert style.plain("قطة", 9) == "\u2068قطة\u2069"
    assert style.plain("חתול 2", 9) == "\u2068חתול 2\u2069"
    assert style.plain("고양이", 9) == "고양이"
    assert style.plain("cat", 9) == "cat"
