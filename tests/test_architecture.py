"""What ARCHITECTURE.md and CONTRIBUTING.md say of files is so."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src/frostline"
ARCHITECTURE = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")


def rows(heading):
    """The table below the heading, as lists of cells, without its head."""
    section = ARCHITECTURE.split(f"## {heading}\n")[1].split("\n## ")[0]
    return [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|")][2:]


def test_the_table_of_packages_names_all_of_them():
    packages = {path.name for path in PACKAGE.iterdir() if path.is_dir() and any(path.glob("*.py"))}
    assert {cells[0].strip(" `") for cells in rows("Packages")} == packages


def test_where_to_change_what_names_files_that_are_there():
    named = [name for cells in rows("Where to change what") for name in re.findall(r"`([^`]+)`", cells[1])]
    paths = [name for name in named if not name.startswith("make ")]
    assert len(paths) > 15
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_the_files_of_the_package_that_are_named_in_prose_are_there():
    text = ARCHITECTURE + (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(?:src/frostline/)?(\w+/\w+\.py)`", text)) - {"tests/test_arrows.py"}
    assert len(named) > 10
    missing = [name for name in named if not (PACKAGE / name).exists() and not (ROOT / name).exists()]
    assert missing == []
