"""Answers from a sweep over folds and seeds: was fine-tuning worth it, how deep, would more images help?"""
