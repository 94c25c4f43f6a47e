"""Imports among the packages run one way: a package imports only from those that stand before it here."""

import ast
from pathlib import Path

import frostline

PACKAGE = Path(frostline.__file__).parent
ORDER = (
    ("common",),
    ("runtime",),
    ("fonts",),
    ("models", "data", "metrics", "explain", "verify"),
    ("config",),
    ("features", "sources", "serving", "report"),
    ("training",),
    ("evaluation", "studies"),
    ("tracking",),
    ("audit", "project", "sweep", "stages"),
    ("api", "cli"),
)
"""Packages of one line do not import each other."""
LEVEL = {name: level for level, names in enumerate(ORDER) for name in names}


def imported(path):
    """The packages (or the module cli) of frostline that the module at `path` imports, at its top or later."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: imports are written in full"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for parts in (name.split(".") for name in names):
            if parts[0] == "frostline" and len(parts) > 1:
                yield parts[1]


def test_every_package_has_its_place():
    packages = {path.name for path in PACKAGE.iterdir() if path.is_dir() and any(path.glob("*.py"))}
    modules = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
    assert packages | modules == set(LEVEL)


def test_imports_run_one_way():
    against = []
    for path in sorted(PACKAGE.rglob("*.py")):
        own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if own != "__init__":
            against += [
                f"{path.relative_to(PACKAGE)} imports {name}"
                for name in imported(path)
                if name != own and LEVEL[name] >= LEVEL[own]
            ]
    assert not against, "\n".join(against)
