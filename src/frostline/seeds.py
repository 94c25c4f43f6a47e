"""Every source of randomness takes its seed from the run's one seed and a name of its own."""

import hashlib

import numpy as np


def derive_seed(seed: int, *names: str | int) -> int:
    """Return a 32-bit seed for the stream `names`, e.g. ``derive_seed(42, "shuffle", "transfer", epoch)``.

    Streams with different names are independent: SHA-256 mixes the seed and the names.
    """
    text = "/".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")


def generator(seed: int, *names: str | int) -> np.random.Generator:
    """Return NumPy's PCG64 generator for the stream `names`."""
    return np.random.Generator(np.random.PCG64(derive_seed(seed, *names)))
