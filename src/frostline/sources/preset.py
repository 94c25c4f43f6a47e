"""A preset of KerasHub: fetched by KerasHub itself, checked, and kept as one file of weights."""

import difflib
import re
from pathlib import Path
from typing import Any

import numpy as np

from frostline.models import hub
from frostline.models.backbone import build_backbone
from frostline.runtime.errors import FrostlineError, brief
from frostline.runtime.quiet_tensorflow import keras

_OFFLINE = (
    "Without network: weights=file weights.path=FOLDER, that of the preset, with config.json, model.weights.h5 and "
    "image_converter.json."
)


def fetch_preset(preset: str, path: Path, image_size: int) -> str:
    """Write the image network of `preset`, its weights and how it scales images, to `path`; return what its licence is.

    Args:
        preset: one of KerasHub's names, an address that it knows (kaggle://…, hf://…), or a preset's folder.
        path: of the file, which `models.hub` reads.
        image_size: side of the images that it is to take, in pixels.

    Raises:
        FrostlineError: there is no such preset, it cannot be fetched, takes other things than images or images of
            another size, or cannot be taken apart into layers that compute the same.
    """
    keras_hub = hub.keras_hub()
    known = keras_hub.models.Backbone.presets
    if preset not in known and "://" not in preset and not Path(preset, "config.json").is_file():
        raise FrostlineError(_no_such(preset, list(keras_hub.layers.ImageConverter.presets)))
    keras.utils.clear_session()  # the file has layers' names in it, which must not depend on what was built before
    keras.utils.set_random_seed(0)  # nor may seeds of dropout, which it has, too
    try:
        network: Any = keras_hub.models.Backbone.from_preset(preset)
        converter = keras_hub.layers.ImageConverter.from_preset(preset)
    except Exception as error:  # KerasHub, Kaggle's client and that of Hugging Face raise errors of many kinds
        if isinstance(error, OSError) and error.errno and not isinstance(error, FileNotFoundError):
            raise
        reason = brief(error)
        raise FrostlineError(f"KerasHub cannot load the preset {preset}: {reason}\n{_OFFLINE}") from error
    network = getattr(network, "vision_encoder", network)  # SigLIP and CLIP also have one for texts
    if len(network.inputs) != 1 or len(network.inputs[0].shape) != 4:
        raise FrostlineError(f"the preset {preset} ({type(network).__name__}) is no network of images alone.")
    config = keras.saving.serialize_keras_object(network)
    hub.write_weights(path, network, hub.Recipe(config, _plain(converter.scale), _plain(converter.offset)))
    _check_same(preset, path, image_size)
    return f"Licence of the weights of {preset}: {_licence(preset, known.get(preset, {}))}"


def _no_such(preset: str, known: list[str]) -> str:
    if "/" in preset or Path(preset).exists():
        return f"{preset} is no preset's folder: there is no config.json in it.\n{_OFFLINE}"
    near = difflib.get_close_matches(preset, known, n=3, cutoff=0.5)
    advice = f"Did you mean {' or '.join(near)}?" if near else "keras.io/keras_hub/presets lists them."
    return f"KerasHub has no preset {preset!r}.\n{advice}"


def _plain(value: Any) -> Any:
    """A converter's `value`, a number or one for each colour, as JSON has it."""
    return None if value is None else np.asarray(value, float).tolist()


def _check_same(preset: str, path: Path, image_size: int) -> None:
    """Raise FrostlineError where the backbone that is built from `path` is not what KerasHub computes."""
    image = np.random.default_rng(0).uniform(0, 255, (1, image_size, image_size, 3)).astype(np.float32)
    found = build_backbone(image_size, path, hub.HUB)(image).numpy()
    network, recipe = hub.own_network(path, image_size), hub.read_recipe(path)
    scale, offset = (np.asarray(given or usual, np.float32) for given, usual in ((recipe.scale, 1), (recipe.offset, 0)))
    scaled = image * scale + offset
    outputs = [tensor for layer in network.layers for tensor in keras.tree.flatten(layer.output)]
    alike = [tensor for tensor in outputs if len(tensor.shape) == found.ndim and tensor.shape[-1] == found.shape[-1]]
    for values in map(np.asarray, keras.tree.flatten(keras.Model(network.inputs, alike)([scaled]))):
        if values.shape == found.shape and np.allclose(values, found, rtol=1e-3, atol=1e-3 * np.abs(found).max()):
            return
    raise FrostlineError(f"the preset {preset} does not compute the same layer by layer.\nSeen to work: {hub.SEEN}.")


def _licence(preset: str, details: dict[str, Any]) -> str:
    """What the preset says of it, or where to read it."""
    if named := details.get("metadata", {}).get("license"):
        return str(named)
    readme = Path(preset, "README.md")
    if readme.is_file() and (found := re.search(r"^license: *(\S+)", readme.read_text(encoding="utf-8"), re.MULTILINE)):
        return found[1]
    handle = str(details.get("kaggle_handle", preset))
    scheme, _, rest = handle.partition("://")
    owner_and_model = "/".join(rest.split("/")[:2])
    pages = {
        "kaggle": f"https://www.kaggle.com/models/{owner_and_model}",
        "hf": f"https://huggingface.co/{owner_and_model}",
    }
    return f"see {pages[scheme]}" if scheme in pages else "not named in its folder; see where it comes from"
