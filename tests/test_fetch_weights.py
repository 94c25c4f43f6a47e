"""The stage, from a server on loopback."""

import hashlib

import pytest

from frostline.config.load import compose_conf
from frostline.config.paths import BACKBONE_WEIGHTS
from frostline.runtime.errors import FrostlineError
from frostline.stages.fetch_weights import main
from servers import FileServer, running


def test_weights_of_another_sha256_or_layout_are_not_kept(project):
    body = b"not weights"
    with running(FileServer(body)) as server:
        options = ["model=convnext", "weights=imagenet", f"weights.url={server.url}", "weights.size=null"]
        with pytest.raises(FrostlineError, match="SHA-256"):
            main(compose_conf(options))
        with pytest.raises(FrostlineError, match="not an HDF5 file"):
            main(compose_conf([*options, f"weights.sha256='{hashlib.sha256(body).hexdigest()}'"]))
    assert not BACKBONE_WEIGHTS.exists()
    assert not list(BACKBONE_WEIGHTS.parent.glob("*"))


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["weights=hub"], "weights.source is 'hub'; valid with model.backbone=inception_v3: imagenet, random, file"),
        (["model=hub"], "weights.source is 'random'; valid with model.backbone=hub: hub, file"),
        (["model=hub", "weights=hub"], "model.preset is null; name one of KerasHub's"),
    ],
)
def test_a_preset_goes_with_its_weights_alone(project, overrides, said):
    with pytest.raises(FrostlineError) as raised:
        main(compose_conf(overrides))
    assert said in str(raised.value)
    assert len(str(raised.value).splitlines()) <= 2
    assert not BACKBONE_WEIGHTS.exists()
