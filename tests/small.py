"""What keeps the tests small."""

SIZE = 75
"""InceptionV3's smallest image: a quarter of the work of the default 150."""
