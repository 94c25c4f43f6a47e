"""What keeps the tests small."""

SIZE = 75
"""InceptionV3's smallest picture: a quarter of the work of the default 150."""
