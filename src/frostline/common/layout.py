"""How images lie in a folder or an archive: what is expected, in words, and which names nobody means."""

EXPECTED = (
    "Expected: one folder per class with its images inside (cats/1.jpg, dogs/1.jpg), "
    "or Kaggle's train.zip of train/cat.0.jpg."
)
_CLUTTER = {"thumbs.db", "desktop.ini", "__macosx"}


def is_clutter(name: str) -> bool:
    """Whether `name`, of a file or folder without what is above it, is hidden or one that systems leave behind."""
    return name.startswith(".") or name.lower() in _CLUTTER
