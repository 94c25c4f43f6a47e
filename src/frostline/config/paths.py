"""Where the stages leave what they make, relative to the project's root (see dvc.yaml)."""

import os
from pathlib import Path

PARAMS = Path("params.yaml")
SWEPT = Path("conf/experiment/swept.yaml")
"""The best trial of the last sweep, where `experiment=swept` finds it."""
WINNER = "winner.json"
"""In a sweep's folder: the swept values of the setting to take, by key."""

ARCHIVE = Path("data/raw/archive.zip")
PROCESSED = Path("data/processed")
BACKBONE_WEIGHTS = Path("models/backbone.h5")
MODELS = {"transfer": Path("models/transfer.keras"), "finetune": Path("models/finetune.keras")}
CLASSIFIER = Path("models/classifier.keras")
"""The model of the phase that was chosen on the validation images, with its threshold and temperature: what predict,
serve and export take."""

DATA_SUMMARY = Path("reports/data.json")
CONTACT_SHEET = Path("reports/contact_sheet.png")
CURVES = {"transfer": Path("reports/curves/transfer.csv"), "finetune": Path("reports/curves/finetune.csv")}
TRAINING = {"transfer": Path("reports/transfer.json"), "finetune": Path("reports/finetune.json")}
METRICS = Path("reports/metrics.json")
"""The few figures that people compare between runs, as wide as a terminal where DVC lists them."""
FIGURES = Path("reports/figures.json")
"""All figures of the last evaluation."""
EVALUATION = Path("reports/evaluation")
VERDICT = EVALUATION / "verdict.md"
REPORT = Path("reports/report.html")
STUDIES = Path("reports/studies")
"""A folder per study."""
AUDIT, AUDIT_TABLE = Path("reports/audit.html"), Path("reports/audit.csv")
CORRECTIONS = Path("corrections.csv")

ROOT = Path(os.environ.get("DVC_ROOT", ""))
"""The project's folder, to which DVC sets this variable. A queued experiment runs in a copy that is deleted afterwards;
what outlives a run (caches, the MLflow store) is kept in the project all the same."""
WORK = ROOT / ".frostline"
"""Caches and unfinished downloads: safe to delete, never tracked, never part of a result."""
DOWNLOADS = WORK / "downloads"
FEATURES = WORK / "features"
CHECKPOINTS = WORK / "checkpoints"
NEAR_DUPLICATES = WORK / "near_duplicates"
