"""How pictures lie in a folder or an archive: what is expected, in words, and which names are no pictures of anybody."""

EXPECTED = (
    "Expected: one folder per class with its pictures inside (cats/1.jpg, dogs/1.jpg), "
    "or Kaggle's train.zip of train/cat.0.jpg."
)
_CLUTTER = {"thumbs.db", "desktop.ini", "__macosx"}


def is_clutter(name: str) -> bool:
    """Whether systems leave files or folders of this name (without what is above it): hidden ones, previews, settings."""
    return name.startswith(".") or name.lower() in _CLUTTER
