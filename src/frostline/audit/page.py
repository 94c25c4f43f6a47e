"""The page of an audit: thumbnails per finding, the likeliest first; one file that loads nothing else."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from frostline.audit.findings import (
    ACROSS_CLASSES,
    ACROSS_SPLITS,
    BLURRED,
    IN_ONE_CLASS,
    KINDS,
    LOOK,
    OUTLIER,
    TOO_BRIGHT,
    TOO_DARK,
    UNIFORM,
    WRONG_LABEL,
    Finding,
    Labelled,
)
from frostline.common.data_urls import data_url
from frostline.common.files import write_text
from frostline.fonts.lettering import isolated
from frostline.report.rendering import rendered

_THUMBNAIL = 160  # pixels a side, at most
_SECTIONS = {  # heading, what it means
    WRONG_LABEL: (
        "Labels that are probably wrong",
        "Models that had not seen the image, of all folds of a study, give another class more than its images' usual"
        " probability: confident learning (Northcutt, Jiang & Chuang 2021), by the library cleanlab. The models may be"
        " the ones that are wrong: look.",
    ),
    ACROSS_CLASSES: (
        "Duplicates across classes",
        "One picture under two classes: one of them is wrong. Near-duplicates are saved again, scaled, mirrored or"
        " cropped a little.",
    ),
    ACROSS_SPLITS: (
        "Duplicates across splits",
        "One picture to learn from and to be judged by: the test figures are too good. The second of each pair is the"
        " one to keep.",
    ),
    IN_ONE_CLASS: (
        "Duplicates in one class",
        "One picture several times in a split: it counts several times. The second of each pair is the one to keep.",
    ),
    OUTLIER: (
        "Outliers",
        "Images unlike all others, by the mean distance to the ten nearest in the backbone's features: of no class,"
        " broken, or rare and precious.",
    ),
    BLURRED: ("Blurred", "Little sharpness (variance of the Laplacian) beside the other images."),
    TOO_DARK: ("Too dark", "Nearly nothing in the image is bright."),
    TOO_BRIGHT: ("Too bright", "Nearly nothing in the image is dark."),
    UNIFORM: ("Nearly uniform", "The image is of one brightness."),
}


def write_page(
    path: Path,
    images: Labelled,
    findings: Sequence[Finding],
    left_out: Mapping[str, str],
    top: int,
    judged_by: Path | None,
) -> None:
    """Write the page to `path`; the same inputs give the same bytes.

    Args:
        path: the HTML file.
        images: of which the findings speak.
        findings: in order.
        left_out: why, by kind.
        top: shown of each kind, at most.
        judged_by: the table of probabilities, if any.
    """
    content = {
        "sections": [_section(kind, images, findings, left_out.get(kind, ""), top) for kind in KINDS],
        "classes": [isolated(name) for name in images.data.classes],
        "images": len(images.names),
        "concerned": len({found.row for found in findings}),
        "digest": images.data.digest,
        "judged_by": judged_by,
    }
    write_text(path, rendered("audit.html.jinja", content, "frostline.audit"))


def _section(kind: str, images: Labelled, findings: Sequence[Finding], left_out: str, top: int) -> dict[str, Any]:
    found = [finding for finding in findings if finding.kind == kind]
    title, meaning = _SECTIONS[kind]
    return {
        "id": kind.replace(" ", "-"),
        "title": title,
        "meaning": meaning,
        "left_out": left_out,
        "total": len(found),
        "shown": [_item(finding, images) for finding in found[:top]],
    }


def _item(found: Finding, images: Labelled) -> dict[str, Any]:
    rows = [found.row] if found.other is None else [found.row, found.other]
    facts = [isolated(found.fact)]
    if found.other is None:
        facts = [f"{isolated(images.class_of(found.row))} ({images.splits[found.row]})", *facts]
    return {
        "pictures": [{"name": images.names[row], "source": _jpeg(images.image(row))} for row in rows],
        "facts": facts,
        "suggestion": "" if found.suggestion == LOOK else isolated(found.suggestion),
    }


def _jpeg(pixels: np.ndarray) -> str:
    image, buffer = Image.fromarray(pixels), io.BytesIO()
    image.thumbnail((_THUMBNAIL, _THUMBNAIL))
    image.save(buffer, "JPEG", quality=85)
    return data_url("jpeg", buffer.getvalue())
