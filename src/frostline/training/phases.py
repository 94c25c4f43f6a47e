"""The two-phase recipe: transfer trains a new head on the frozen backbone, finetune thaws the top of the backbone."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from frostline.common.files import digest_of, read_json, write_json
from frostline.common.phase_names import PhaseName
from frostline.common.seeds import derive_seed
from frostline.config.paths import CHECKPOINTS, PROCESSED
from frostline.config.settings import AUTO, Config, Phase, settings_of
from frostline.data.dataset import Dataset, load_dataset
from frostline.features.extract import Extractor
from frostline.models import backbone, frost_line, graph, hub
from frostline.models.head import add_head
from frostline.models.inference import inference_copy, predictor
from frostline.runtime.code_digest import code_digest
from frostline.runtime.process_pool import threads
from frostline.runtime.quiet_tensorflow import keras, on_gpu, tf
from frostline.training import distribution, folds, loop, precision, rate_test
from frostline.training.augmentation import build_augmentation
from frostline.training.class_weights import class_weights, first_bias
from frostline.training.loop import ALONE, Epoch, Examples, Session, Task
from frostline.training.resolved import Found, Resolved, batch_size_of, resolved


def load_images(settings: Config) -> Dataset:
    """The prepared images, split as `settings` say (see `choose_images`); raises FrostlineError as `load_dataset`."""
    return folds.images_for(load_dataset(PROCESSED), settings)


def build_classifier(data: Dataset, weights: Path, settings: Config) -> keras.Model:
    """The classifier that `transfer` trains: a new head for the classes of `data` on the frozen backbone.

    `weights`: the backbone's pretrained ones. It takes images (N, size, size, 3) from 0 to 255; see `add_head`.

    Raises FrostlineError where `weights` do not fit, model.cut_layer or finetune.thaw_from names no layer that can be
    used, model.pooling is token and there is no class token, or a class weight is for no class.
    """
    base = backbone.build_backbone(settings.preprocess.image_size, weights, settings.model.backbone)
    if settings.model.pooling == "token":
        hub.check_first_token(base)
    _frost_line(base, settings)  # what is wrong there is said at once, and names layers above the cut, too
    _class_weights(data, "finetune", settings)  # likewise
    model = _with_head(base, data, settings)
    frost_line.freeze(model, backbone=base)
    return model


def renew_head(model: keras.Model, data: Dataset, settings: Config) -> None:
    """Give the head of `model` the values that `build_classifier` would give it, and freeze all below it again.

    For another training of the same classifier, whose seed may be another one: to build it anew takes seconds.
    """
    cut = settings.model.cut_layer
    stub = keras.Input(model.get_layer(cut).output.shape[1:], name=cut)
    head = _with_head(keras.Model(stub, stub), data, settings)
    names = {layer.name for layer in head.layers[1:]}
    for layer in head.layers[1:]:
        old = model.get_layer(layer.name)
        for variable, value in zip(old.variables, layer.variables, strict=True):
            variable.assign(value.value.read_value())
        if hasattr(layer, "seed"):  # a file holds this one, not the variable
            old.seed = layer.seed
    for layer in model.layers:
        layer.trainable = layer.name in names


def _with_head(base: keras.Model, data: Dataset, settings: Config) -> keras.Model:
    model = add_head(
        base,
        settings.model.cut_layer,
        dense_units=settings.model.dense_units,
        dropout=settings.model.dropout,
        pooling=settings.model.pooling,
        seed=derive_seed(_seed(settings), "head"),
        classes=len(data.classes),
    )
    weights = _class_weights(data, "transfer", settings)
    if weights is not None:
        model.layers[-1].bias.assign(first_bias(weights))
    return model


def _class_weights(data: Dataset, phase: PhaseName, settings: Config) -> np.ndarray | None:
    """Those of the training images, as `phase` takes them; see `class_weights`."""
    return class_weights(
        _options(phase, settings).class_weight, data.labels("train"), data.classes, f"{phase}.class_weight"
    )


def transfer(model: keras.Model, data: Dataset, settings: Config, session: Session = ALONE) -> list[Epoch]:
    """Train the head of the new classifier `model`, in place; return each epoch's figures; errors as `loop.train`."""
    choose_determinism(settings)
    # The second phase's features come from the same pass over the images.
    also = frost_line.frontier(model, _frost_line(model, settings))
    layers = [settings.model.cut_layer]
    return _train(model, layers, data, "transfer", settings, session, also)


def settings_that_matter(phase: PhaseName, settings: Config) -> dict[str, Any]:
    """Those that the result of `phase` depends on, by their keys, with the precision that this machine computes in."""
    return settings_of(replace(settings, precision=precision.resolve(settings.precision)), phase)


def checkpoint_path(
    phase: PhaseName, settings: Config, data: Dataset, start: str, strategy: tf.distribute.Strategy | None = None
) -> Path:
    """Where `phase` keeps its checkpoint; `start`: a digest of the weights that it starts from.

    The name holds a digest of all that the result depends on, so that a checkpoint is never taken for another phase's,
    nor for one of other devices: how what is trained lies in its variables depends on them.
    """
    facts = [
        *hub.release_for(settings.model.backbone),
        settings_that_matter(phase, settings),
        data.digest,
        start,
        code_digest(__name__),
        tf.__version__,
        keras.__version__,
        threads(),
        distribution.devices_of(strategy),
    ]
    return CHECKPOINTS / f"{phase}-{digest_of(facts)}.npy"


def finetune(model: keras.Model, data: Dataset, settings: Config, session: Session = ALONE) -> list[Epoch]:
    """Thaw the classifier `model` from the frost line on and train it on, in place; as `transfer` otherwise."""
    choose_determinism(settings)
    thaw_from = _frost_line(model, settings)
    frost_line.thaw(model, thaw_from, settings.finetune.batch_norm)
    layers = frost_line.frontier(model, thaw_from)
    return _train(model, layers, data, "finetune", settings, session)


def _seed(settings: Config) -> int:
    """Of a training: folds of one seed are trained apart, as the luck of one must not be that of all."""
    return settings.seed if settings.fold is None else derive_seed(settings.seed, "fold", settings.fold)


def _frost_line(model: keras.Model, settings: Config) -> str:
    return frost_line.resolve_thaw_from(model, settings.model.cut_layer, settings.finetune.thaw_from)


def choose_determinism(settings: Config) -> None:
    """Let TensorFlow take only kernels that give the same bits each time; on a CPU all do, as far as was seen."""
    if settings.deterministic:
        tf.config.experimental.enable_op_determinism()


@dataclass(frozen=True)
class _Work:
    """What a phase trains, but for its settings, and how."""

    model: keras.Model
    layers: Sequence[str]
    """The part above them is trained."""
    task: Task
    weights: np.ndarray | None
    """Of classes (see `class_weights`)."""
    computed_in: str
    """A precision."""
    session: Session

    def part(self) -> keras.Model:
        """What is trained."""
        return graph.part(self.model, self.layers)


def _train(
    model: keras.Model,
    layers: Sequence[str],
    data: Dataset,
    phase: PhaseName,
    settings: Config,
    session: Session,
    also: Sequence[str] = (),
) -> list[Epoch]:
    """Train the part of `model` above `layers`, whose features (and those of the layers `also`) are computed once."""
    computed_in = precision.resolve(settings.precision)
    extractor = extractor_of(model, list(dict.fromkeys([*layers, *also])), settings, computed_in)

    def features_of(split: str, mirrored: bool = False) -> list[np.ndarray]:
        return split_features(extractor, data, split, mirrored)[: len(layers)]

    validation, prepare = Examples(features_of("validation"), data.labels("validation")), None
    if settings.augment == "full":
        training, prepare = (
            Examples([data.images("train")], data.labels("train")),
            _augmented_features(model, layers, computed_in),
        )
    else:
        mirrored = features_of("train", mirrored=True) if settings.augment == "flip" else ()
        training = Examples(features_of("train"), data.labels("train"), mirrored)
    on_device = settings.feeding == "device" or (settings.feeding == "auto" and on_gpu())
    task = Task(phase, _seed(settings), training, validation, prepare)
    work = _Work(model, layers, task, _class_weights(data, phase, settings), computed_in, session)
    options = _resolved(work, _options(phase, settings))
    with _trainer(work, options) as trainer:
        return loop.train(trainer, task, options, session, on_device=on_device and session.parts == 1)


def _resolved(work: _Work, options: Phase) -> Resolved:
    """`options` with numbers where they say auto; `on_found` gets these."""
    batch_size, rate = batch_size_of(options, len(work.task.training.labels)), options.learning_rate
    found = Found(batch_size=batch_size if options.batch_size == AUTO else None)
    if rate == AUTO:
        curve = _rate_test(work, resolved(options, batch_size, math.nan))
        rate = rate_test.read_off(curve, work.task.phase)
        found = replace(found, learning_rate=rate, rate_test=curve)
    work.session.on_found(found)
    return resolved(options, batch_size, rate)


def _rate_test(work: _Work, options: Resolved) -> rate_test.Curve:
    """The curve of the phase's range test: the one that is kept beside its checkpoint, or that of a test now.

    In whatever parts it is trained: what the phase finds does not change when the memory turns out to be short.
    """
    checkpoint = work.session.checkpoint
    kept = checkpoint.with_suffix(rate_test.SUFFIX) if checkpoint else None
    if kept and kept.is_file():
        return cast(rate_test.Curve, read_json(kept))
    part = work.part()
    with precision.computing_in(part, work.computed_in):
        curve = rate_test.range_test(part, work.task, options, work.session, work.weights)
    if kept:
        write_json(kept, curve)
    return curve


@contextmanager
def _trainer(work: _Work, options: Resolved) -> Iterator[loop.Trainer]:
    """What does `work` as `options` say: kept from an earlier training, where one is.

    Not on several devices or a GPU, whose optimizer is Keras' own.
    """
    session, phase, weights = work.session, work.task.phase, work.weights
    kept = {} if session.trainers is None or session.strategy or on_gpu() else session.trainers
    count, said = len(work.task.training.labels), None if weights is None else weights.tolist()
    of_schedule = options.schedule == "constant" or count
    learns = [variable.path for variable in work.model.trainable_variables]
    made_of = digest_of(
        [list(work.layers), learns, asdict(options), of_schedule, work.computed_in, said, session.parts]
    )
    before, trainer = kept.pop(phase, ("", None))
    trainer = trainer if before == made_of else None
    part = trainer.model if trainer else work.part()
    with precision.computing_in(part, work.computed_in):
        if trainer:
            trainer.begin_again()
        else:
            trainer = loop.trainer_of(part, options, count, session.strategy, weights, session.parts)
        kept[phase] = made_of, trainer
        yield trainer


def _options(phase: PhaseName, settings: Config) -> Phase:
    return settings.finetune if phase == "finetune" else settings.transfer


def _augmented_features(model: keras.Model, layers: Sequence[str], computed_in: str) -> Callable[[int], loop.Prepare]:
    """Changed images cannot be cached: their features are computed anew, in inference mode and without gradients."""
    frozen = inference_copy(model, layers, computed_in)

    def outputs_of(images: tf.Tensor) -> Any:
        outputs = keras.tree.flatten(frozen([images], training=False))
        return graph.as_model_inputs([tf.cast(output, tf.float32) for output in outputs])

    features_of = tf.function(outputs_of, reduce_retracing=True)

    def prepare(seed: int) -> loop.Prepare:
        augment = build_augmentation(seed)
        change = tf.function(lambda images: augment(images, training=True), reduce_retracing=True)

        def prepared(images: Any) -> Callable[[slice], Any]:
            changed = change(images)
            return lambda rows: features_of(changed[rows])

        return prepared

    return prepare


def predictor_of(model: keras.Model, settings: Config, computed_in: str = "float32") -> Callable[..., np.ndarray]:
    """Return what predicts a split through the feature cache: (data, split, mirrored=False) → (N, classes) float64.

    Both phases' models are the same below the frost line, so the second one finds its features computed. In float32,
    unless asked otherwise, whatever the phases were trained in, as the saved model computes. `mirrored`: of the mirror
    images.
    """
    choose_determinism(settings)
    layers = frost_line.frontier(model, _frost_line(model, settings))
    extractor, forward = extractor_of(model, layers, settings, computed_in), predictor(graph.part(model, layers))

    def predict_split(data: Dataset, split: str, mirrored: bool = False) -> np.ndarray:
        return forward(split_features(extractor, data, split, mirrored))

    return predict_split


def extractor_of(model: keras.Model, layers: Sequence[str], settings: Config, computed_in: str) -> Extractor:
    """What computes, as `settings` say, what `layers` of `model` give, in the precision `computed_in`."""
    return Extractor(model, layers, computed_in, workers=settings.workers, deterministic=settings.deterministic)


def split_features(extractor: Extractor, data: Dataset, split: str, mirrored: bool = False) -> list[np.ndarray]:
    """The features of the images of `split`, or of their mirror images: one array (N, …) per layer."""
    stored = [_stored_features(extractor, data, part, mirrored) for part in data.stored_in(split)]
    return [data.pick(split, arrays) for arrays in zip(*stored, strict=True)]


def _stored_features(extractor: Extractor, data: Dataset, split: str, mirrored: bool) -> list[np.ndarray]:
    images, digest = data.stored_images(split), f"{data.stored_digest}/{split}"
    if mirrored:
        images, digest = images[:, :, ::-1], f"{digest}/mirrored"
    return extractor(images, digest)
