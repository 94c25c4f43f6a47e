import numpy as np

from frostline.training.augmentation import build_augmentation


def test_saturated_colours_stay_colours():
    """Pixels below 0 or above 255 are of no image; training would learn of them."""
    colours = np.array([[255, 0, 0], [255, 255, 0], [0, 0, 255], [200, 20, 90]], np.float32)
    batch = np.repeat(colours, 16, axis=0)[:, None, None] * np.ones((1, 8, 8, 1), np.float32)
    for seed in (1, 2, 3):
        changed = np.asarray(build_augmentation(seed)(batch, training=True))
        assert changed.min() >= -1e-3
        assert changed.max() <= 255 + 1e-3


def test_each_image_changes_in_its_own_way_and_stays_a_image():
    image = np.linspace(0, 255, 32 * 32 * 3, dtype=np.float32).reshape(1, 32, 32, 3)
    batch = np.repeat(image, 6, axis=0)
    changed = np.asarray(build_augmentation(1)(batch, training=True))
    assert changed.shape == batch.shape
    assert changed.min() >= 0
    assert changed.max() <= 255
    assert len({one.tobytes() for one in changed}) == 6
    np.testing.assert_array_equal(changed, build_augmentation(1)(batch, training=True))
    assert not np.array_equal(changed, build_augmentation(2)(batch, training=True))
