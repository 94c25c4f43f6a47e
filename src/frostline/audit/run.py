"""`frostline audit`: what is probably wrong in the prepared pictures, as a table and a page."""

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from frostline.audit.findings import (
    ACROSS_CLASSES,
    ACROSS_SPLITS,
    IN_ONE_CLASS,
    KINDS,
    LOOK,
    OUTLIER,
    WRONG_LABEL,
    Finding,
    Labelled,
    labelled,
)
from frostline.audit.labels import STUDY, newest_file, read_probabilities, wrong_labels
from frostline.audit.outliers import outliers, pooled_features
from frostline.audit.page import write_page
from frostline.audit.quality import measure, poor_images
from frostline.common.files import check_writable, write_csv
from frostline.config.load import load_params
from frostline.config.paths import AUDIT, AUDIT_TABLE, BACKBONE_WEIGHTS, PARAMS, PROCESSED
from frostline.data.corrections import DROP
from frostline.data.dataset import SPLITS, load_dataset
from frostline.runtime.errors import FrostlineError
from frostline.training.near_duplicates import Pair, near_duplicates, thumbnails

_log = logging.getLogger(__name__)

COLUMNS = ("image", "class", "finding", "score", "suggestion", "other")


def audit(probabilities: Path | None, top: int) -> dict[str, int]:
    """Write reports/audit.csv, and reports/audit.html with the first `top` of each finding; return how many of each.

    `probabilities`: the out-of-fold table that labels are judged by; None: the newest of any study. Where there is
    none, or no backbone, a line says which findings are left out and what makes it.

    Raises FrostlineError where the data are missing or of another size than params.yaml says, or the table is of other
    data.
    """
    for path in (AUDIT, AUDIT_TABLE):
        check_writable(path)
    images = labelled(load_dataset(PROCESSED))
    config = load_params() if BACKBONE_WEIGHTS.is_file() else None
    size = images.data.images("train").shape[1]
    if config and size != config.preprocess.image_size:
        raise FrostlineError(
            f"the images were prepared with preprocess.image_size={size}, and {PARAMS} has "
            f"{config.preprocess.image_size}.\n`dvc repro` prepares them anew."
        )
    file = probabilities or newest_file()
    judged = read_probabilities(file, images) if file else None
    findings: list[Finding] = []
    left_out: dict[str, str] = {}
    if judged is None:
        left_out[WRONG_LABEL] = f"no study's probabilities yet: `{STUDY}` makes them"
    else:
        findings += wrong_labels(images, judged)
    data = images.data
    small = np.concatenate([thumbnails(data.images(name), data.fit) for name in SPLITS])
    findings += _duplicates(images, near_duplicates(small))
    if config:
        findings += outliers(pooled_features(data, config))
    else:
        left_out[OUTLIER] = f"{BACKBONE_WEIGHTS} not found: `dvc repro fetch-weights` makes it"
    findings += poor_images(np.concatenate([measure(data.images(name), data.fit) for name in SPLITS]))
    findings.sort(key=lambda found: (KINDS.index(found.kind), -found.score, found.row))
    for kind, reason in left_out.items():
        _log.info("left out: %ss (%s)", kind, reason)
    write_csv(AUDIT_TABLE, COLUMNS, _rows(images, findings))
    write_page(AUDIT, images, findings, left_out, top, judged_by=file)
    return {kind: sum(found.kind == kind for found in findings) for kind in KINDS if kind not in left_out}


def _duplicates(images: Labelled, pairs: list[Pair]) -> Iterator[Finding]:
    """Of each pair, drop the one that a split needs less: a training image rather than a test image; of one split, the
    later. So the first of a group stays if all suggestions are followed."""
    order = [SPLITS[::-1].index(split) for split in images.splits]
    for pair in pairs:
        kept, found = sorted((pair.first, pair.second), key=lambda row: (order[row], row))
        here, there = images.splits[found], images.splits[kept]
        if images.labels[kept] != images.labels[found]:
            kind, fact = ACROSS_CLASSES, f"{images.class_of(found)} and {images.class_of(kept)}"
        elif here != there:
            kind, fact = ACROSS_SPLITS, f"{images.class_of(found)}, {here} and {there}"
        else:
            kind, fact = IN_ONE_CLASS, f"{images.class_of(found)} ({here})"
        fact += f"{', mirrored' * pair.mirrored}; similarity {pair.similarity:.3f}"
        yield Finding(kind, found, pair.similarity, LOOK if kind == ACROSS_CLASSES else DROP, fact, other=kept)


def _rows(images: Labelled, findings: list[Finding]) -> Iterator[dict[str, str]]:
    for found in findings:
        yield {
            "image": images.names[found.row],
            "class": images.class_of(found.row),
            "finding": found.kind,
            "score": f"{found.score:.4f}",
            "suggestion": found.suggestion,
            "other": "" if found.other is None else images.names[found.other],
        }
