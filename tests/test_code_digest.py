"""On a small package in which each kind of import occurs once, and on our own."""

import pytest

from frostline.runtime.code_digest import DATA, NEUTRAL, PACKAGE, code_digest, code_of

FILES = {
    "__init__.py": '"""Nothing but words."""\n',
    "entry.py": (
        "import numpy.linalg, other.plain\n"
        "from frostline_like.rooms import walls\n"
        "from frostline_like.attribute import value\n"
        "from frostline_like import quiet\n"
        "def later():\n    import frostline_like.late\n"
    ),
    "attribute.py": "value = 1\n",
    "late.py": "",
    "plain.py": "",
    "value.py": "",
    "quiet.py": "from frostline_like import only_of_quiet\n",
    "only_of_quiet.py": "",
    "rooms/__init__.py": "",
    "rooms/walls.py": "from . import paper\nfrom .. import roof\nfrom ..cellar.wine import red\n",
    "rooms/paper.py": "from frostline_like.rooms import walls\n",
    "rooms/value.py": "",
    "roof.py": "",
    "cellar/__init__.py": "stairs = 1\n",
    "cellar/wine.py": "red = 1\n",
}


@pytest.fixture
def package(tmp_path):
    folder = tmp_path / "frostline_like"
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def test_the_code_of_a_module_is_all_that_it_imports_whichever_way(package):
    """Its own package's only, modules and not attributes, through circles, not through what is neutral."""
    inside = ["cellar/__init__.py", "cellar/wine.py", "rooms/paper.py", "rooms/walls.py"]
    assert code_of("frostline_like.entry", {"quiet"}, package) == sorted(
        ["attribute.py", "entry.py", "late.py", "roof.py", *inside]
    )
    assert code_of("frostline_like.rooms.walls", {"cellar"}, package) == ["roof.py", "rooms/paper.py", "rooms/walls.py"]
    assert "only_of_quiet.py" in code_of("frostline_like.entry", (), package)


def test_a_module_that_is_not_there_is_an_error(package):
    for name in ("frostline_like.nowhere", "frostline_like.rooms.attribute", "numpy.linalg"):
        with pytest.raises(ValueError, match=name):
            code_of(name, (), package)


def test_the_features_depend_on_little_and_the_report_on_its_templates():
    features, report = code_of("frostline.features.extract"), code_of("frostline.report.page")
    assert (
        {"features/extract.py", "models/graph.py", "models/inference.py"}
        <= set(features)
        < set(code_of("frostline.training.phases"))
    )
    assert len(features) < 8
    assert "report/templates/report.css" in report
    digest = code_digest("frostline.features.extract")
    assert digest == code_digest("frostline.features.extract") != code_digest("frostline.training.phases")


def test_what_is_listed_by_name_is_there():
    for name in NEUTRAL:
        assert (PACKAGE / f"{name}.py").is_file() or (PACKAGE / name).is_dir(), name
    for module, folder in DATA.items():
        assert (PACKAGE / f"{module}.py").is_file()
        assert (PACKAGE / folder).is_dir()
