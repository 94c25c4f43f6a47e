"""Frostline: two-phase fine-tuning of a pretrained image classifier as a reproducible, tracked pipeline."""

__version__ = "0.1.0"
