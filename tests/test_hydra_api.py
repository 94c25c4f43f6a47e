"""What we use of Hydra beyond what it documents, each in one module; and what to do when a release breaks it."""

import ast
import inspect
from importlib.metadata import version
from pathlib import Path

import pytest
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, run_job, setup_globals
from hydra.plugins.launcher import Launcher

import frostline
from frostline.config.overrides import assigned, interval_in, parse_overrides

SOURCE = Path(frostline.__file__).parents[1]
PLACES = {
    "hydra.core.override_parser": {"frostline/config/overrides.py"},
    "hydra.core.singleton": {"hydra_plugins/frostline_launchers.py"},
    "hydra.core.utils": {"hydra_plugins/frostline_launchers.py"},
    "hydra._internal": set(),
}
"""By module of Hydra that it does not document, where it may be imported."""
WHAT_TO_DO = (
    f"hydra-core {version('hydra-core')} differs from 1.3, for which {{}} is written. Adapt that file and no other, or "
    "keep the older release in pyproject.toml until that is done."
)


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("private", PLACES)
def test_what_hydra_does_not_document_is_imported_in_one_place(private):
    found = set()
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            if any(f"{name}.".startswith(f"{private}.") for name in names):
                found.add(path.relative_to(SOURCE).as_posix())
    assert found == PLACES[private], f"use frostline.config.overrides, or hydra's documented API, instead of {private}"


def test_overrides_are_parsed_as_we_rely_on():
    what_to_do = WHAT_TO_DO.format("frostline/config/overrides.py")
    plain, choice, several, search, added = parse_overrides(
        ["a.b=1e-5", "group=x,y", "seed=range(1,4)", "rate=tag(log,interval(1e-5,1))", "+new='a b'"]
    )
    assert [each.key_or_group for each in (plain, choice, added)] == ["a.b", "group", "new"], what_to_do
    assert [each.get_key_element() for each in (plain, added)] == ["a.b", "+new"], what_to_do
    assert plain.input_line == "a.b=1e-5" and plain.value() == 1e-5, what_to_do
    values = [assigned(each) for each in (plain, choice, several)]
    assert values == [["1e-05"], ["x", "y"], ["1", "2", "3"]], what_to_do
    assert assigned(added) == ["'a b'"], what_to_do
    interval = interval_in(search)
    assert (interval.start, interval.end, interval.tags) == (1e-5, 1, {"log"}), what_to_do
    assert interval_in(choice) is None and search.is_sweep_override() and not plain.is_sweep_override(), what_to_do


def test_a_job_is_started_as_our_launchers_do():
    what_to_do = WHAT_TO_DO.format("hydra_plugins/frostline_launchers.py")
    needed = {"hydra_context", "task_function", "config", "job_dir_key", "job_subdir_key"}
    assert needed <= set(inspect.signature(run_job).parameters), what_to_do
    assert set(Singleton.get_state()) == {"instances", "omegaconf_resolvers"}, what_to_do
    assert not inspect.signature(setup_globals).parameters, what_to_do
    assert {"overrides", "status", "return_value"} <= set(dir(JobReturn)) | set(JobReturn.__annotations__), what_to_do
    assert {"job_overrides", "initial_job_idx"} <= set(inspect.signature(Launcher.launch).parameters), what_to_do
