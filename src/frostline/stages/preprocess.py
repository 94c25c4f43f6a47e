"""Stage preprocess: the archive becomes images of one size in three splits, with a summary."""

import sys
from dataclasses import asdict

import numpy as np

from frostline.common.files import write_json
from frostline.common.seeds import generator
from frostline.config import paths
from frostline.config.settings import Config, FolderData
from frostline.data.dataset import SPLITS, Dataset, load_dataset
from frostline.data.images import contact_sheet
from frostline.data.layout import Reading
from frostline.data.preprocess import Summary, preprocess

_SHOWN = 40  # images on the contact sheet, about: as many of each class, at least one


def main(config: Config) -> None:
    settings = config.preprocess
    summary = preprocess(
        paths.ARCHIVE,
        paths.PROCESSED,
        size=settings.image_size,
        seed=settings.seed,
        shares={"train": settings.train, "validation": settings.validation, "test": settings.test},
        max_rejected=settings.max_rejected,
        reading=Reading(
            settings.top_folders,
            settings.splits,
            settings.name_encoding,
            shown_as=config.data.path if isinstance(config.data, FolderData) else "",
            group=settings.group,
            corrections=paths.CORRECTIONS,
            fit=settings.fit,
        ),
        processes="ray" if config.workers == "ray" else None,
    )
    write_json(paths.DATA_SUMMARY, asdict(summary))
    _write_contact_sheet(load_dataset(paths.PROCESSED), settings.seed)
    sys.stdout.write(_line(summary) + "\n")


def _write_contact_sheet(dataset: Dataset, seed: int) -> None:
    """Show some training images of every class, mixed: a wrong label or a broken decoder meets the eye."""
    labels, rng = dataset.labels("train"), generator(seed, "contact-sheet")
    count = len(dataset.classes)
    rows = [rng.permutation(np.flatnonzero(labels == index))[: max(1, _SHOWN // count)] for index in range(count)]
    chosen = rng.permutation(np.concatenate(rows))
    captions = [dataset.classes[label] for label in labels[chosen]]
    contact_sheet(dataset.images("train")[chosen], captions, paths.CONTACT_SHEET)


def _line(summary: Summary) -> str:
    counts = [f"{split} {sum(summary.counts[split].values()):,}" for split in SPLITS]
    counts += [f"unlabelled {summary.unlabelled:,}", f"rejected {sum(summary.rejected.values()):,}"]
    names = " and ".join(summary.classes) if len(summary.classes) == 2 else f"{len(summary.classes)} classes"
    return f"{names}: {', '.join(counts)}"
