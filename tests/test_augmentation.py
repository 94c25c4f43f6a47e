import numpy as np

from frostline.training.augmentation import build_augmentation


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
