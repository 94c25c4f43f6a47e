"""Which code a result depends on, by what its module imports: for the test of dvc.yaml, and to name what is kept."""

import ast
import functools
from collections.abc import Collection, Iterator
from pathlib import Path

import frostline
from frostline.common.files import digest_of, sha256_of

PACKAGE = Path(frostline.__file__).parent

NEUTRAL = frozenset(
    {
        "__init__",  # the version
        "config",  # the values are in params.yaml, the places in dvc.yaml
        "runtime",
        "sources/weights_file",  # lets a file through as it is, or not at all
        "stages/__main__",
        "stages/run",
        "tracking",
    }
)
"""Modules, or folders of them, that no output's bytes depend on; nor do they on what only these import."""
DATA = {"fonts/lettering": "fonts/files", "report/page": "report/templates"}
"""Files that are no code, by the module that reads them."""


@functools.cache
def code_digest(module: str) -> str:
    """A name for the code that what `module` ("frostline.features.extract") makes depends on.

    Once per process: code that is edited later is not what this process runs.
    """
    return digest_of([[name, sha256_of(PACKAGE / name)] for name in code_of(module)])


def code_of(module: str, neutral: Collection[str] = NEUTRAL, package: Path = PACKAGE) -> list[str]:
    """The files that what `module` ("frostline.features.extract") makes depends on, relative to
    the folder `package`, sorted.

    They are its own, and all that it imports from the package, at its top or later, but for `neutral` ones; a
    package's `__init__.py` only where it holds more than a docstring. Raises ValueError where there is no such module.
    """
    todo = [path for path in _files_of(module, package) if path.with_suffix("") == _place(module, package)]
    if not todo:
        raise ValueError(f"there is no module {module} in {package}")
    found: set[str] = set()
    while todo:
        path = todo.pop()
        name = path.relative_to(package).with_suffix("").as_posix()
        if f"{name}.py" in found or _is_among(name, neutral):
            continue
        tree = ast.parse(path.read_bytes())
        if _is_empty(path, tree):
            continue
        found.add(f"{name}.py")
        if name in DATA:
            files = (file for file in (package / DATA[name]).rglob("*") if file.is_file())
            found |= {file.relative_to(package).as_posix() for file in files}
        for imported in _imported(path, tree, package):
            todo += _files_of(imported, package)
    return sorted(found)


def _is_among(name: str, neutral: Collection[str]) -> bool:
    return any(name == other or name.startswith(f"{other}/") for other in neutral)


def _is_empty(path: Path, tree: ast.Module) -> bool:
    rest = tree.body[1:] if ast.get_docstring(tree) is not None else tree.body
    return path.name == "__init__.py" and not rest


def _imported(path: Path, tree: ast.Module, package: Path) -> Iterator[str]:
    """Dotted names of all that the module imports: `from a import b` gives a and a.b, which may be no module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = path.parents[node.level - 1].relative_to(package.parent).parts if node.level else ()
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _place(module: str, package: Path) -> Path:
    return package.parent.joinpath(*module.split("."))


def _files_of(module: str, package: Path) -> list[Path]:
    """The files that importing the dotted name runs: those of the packages on the way, and of the module."""
    parts = module.split(".")
    if parts[0] != package.name:
        return []
    places = [package.parent.joinpath(*parts[:count]) for count in range(1, len(parts) + 1)]
    candidates = [path for place in places for path in (place.with_suffix(".py"), place / "__init__.py")]
    return [path for path in candidates if path.is_file()]
