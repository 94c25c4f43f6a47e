"""Every source of randomness takes its seed from the run's one seed and a name of its own."""

import hashlib

import numpy as np


def derive_seed(seed: int, *names: str | int) -> int:
    """Return a 128-bit seed for the stream `names`, e.g. ``derive_seed(42, "shuffle", "transfer", epoch)``.

    Streams with different names are independent: SHA-256 mixes the seed and the names. Of 32 bits two of 25,000
    images would share theirs with a chance of 7%, and be the same image.
    """
    return int.from_bytes(_digest(seed, names)[:16], "big")


def seed32(seed: int, *names: str | int) -> int:
    """Return a 32-bit seed for the stream `names`, for what takes no more; see `generator` for all else.

    That is Keras, whose seeds TensorFlow folds to 31 bits, and NumPy's old RandomState, which Optuna and
    `keras.utils.set_random_seed` seed. One name per layer, phase, epoch or trial: among 100 such streams two meet with
    a chance of about one in a million, and even then they draw different things.
    """
    return int.from_bytes(_digest(seed, names)[:4], "big")


def generator(seed: int, *names: str | int) -> np.random.Generator:
    """Return NumPy's PCG64 generator for the stream `names`."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(derive_seed(seed, *names))))


def _digest(seed: int, names: tuple[str | int, ...]) -> bytes:
    return hashlib.sha256("/".join(str(part) for part in (seed, *names)).encode()).digest()
