"""What a sweep chose, rebuilt by the command that it prints, whatever settings the user keeps."""

import shlex
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from frostline.config.load import compose_conf
from frostline.config.local import set_local
from frostline.config.overrides import parse_overrides, text_of
from frostline.config.paths import SWEPT
from frostline.sweep.swept import rebuild_command, write_swept


def rebuilt(command):
    """What the command gives to DVC to compose, composed."""
    words = shlex.split(command)
    assert words[:3] == ["dvc", "exp", "run"]
    assert set(words[3::2]) == {"-S"}
    return compose_conf(words[4::2])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("asked", "kept", "said"),
    [
        ([], {}, []),
        (
            ["finetune.learning_rate=1e-3", "transfer.epochs=2"],
            {"finetune.learning_rate": "1e-4", "transfer.epochs": "8"},
            ["transfer.epochs=2", "finetune.learning_rate=0.001"],
        ),
        (
            ["evaluate.threshold='{cat: {dog: 5}}'"],
            {"evaluate.threshold": "{dog: {cat: 3}}"},
            ['evaluate.threshold=\'{"cat": {"dog": 5.0}}\''],
        ),
        *(
            pytest.param(*case, marks=pytest.mark.long)
            for case in (
                (["transfer.patience=null"], {"transfer.patience": "2", "name": "mine"}, ["transfer.patience=null"]),
                (["preprocess.group='(a|b), \\\\d'"], {"preprocess.group": "c"}, ["preprocess.group='(a|b), \\\\d'"]),
                (["model=resnet50"], {"model": "xception"}, []),
                (["weights=imagenet", "seed=3"], {"weights": "random", "seed": "1"}, ["weights=imagenet", "seed=3"]),
                (["model=ensemble", "weights=imagenet"], {}, []),
                (
                    ["model=ensemble", "model.members=[resnet50,xception]"],
                    {"model.image_size": "200"},
                    ["model.image_size=299"],
                ),
                (["model=hub", "model.preset=dinov2_small", "weights=hub"], {}, []),
            )
        ),
    ],
)
def test_the_command_rebuilds_the_winner_whatever_settings_stay(project, asked, kept, said):
    config = compose_conf(asked)
    write_swept(config, "why", project / "best.yaml")
    set_local(kept)
    write_swept(config, "why", project / "best.yaml")
    command = rebuild_command()
    found = rebuilt(command)
    assert replace(found, name="swept") == replace(config, name="swept")
    assert [text for text in shlex.split(command)[6::2] if not text.startswith("data=")] == said
    assert f"# Rebuild it: {command}\n" in (project / SWEPT).read_text()
    assert (project / "best.yaml").read_bytes() == (project / SWEPT).read_bytes()


@given(
    st.one_of(
        st.text(st.characters(exclude_characters="$\n\r", exclude_categories=["Cs", "Cc"])),
        st.integers(),
        st.floats(allow_nan=False),
        st.booleans(),
        st.none(),
        st.lists(st.sampled_from(["a", "1", "b c", "null"])),
    )
)
def test_a_value_is_read_as_it_was_written(value):
    (parsed,) = parse_overrides([f"key={text_of(value)}"])
    read = parsed.value()
    read = [str(item) for item in read] if isinstance(read, list) else read
    assert (str(read) if isinstance(value, str) else read) == value
