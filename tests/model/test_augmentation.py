"""Images that differ from epoch to epoch, and are the same whenever an epoch comes again."""

import numpy as np
import pytest

from systola.model.data.augmentation import Augmentation

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("shape", [(40, 9, 7), (40, 3, 9, 7)])
def test_every_image_is_itself_mirrored_or_moved(shape):
    images = RNG.random(shape, np.float32) + 0.5  # black is nowhere in them
    augmentation, seen = Augmentation(images, mirror=True, shift=2, seed=3), set()
    for epoch in range(3):
        for index, changed in enumerate(augmentation.at(epoch, np.arange(40))):
            found = [(mirrored, down, right) for mirrored in (False, True)
                     for down in range(-2, 3) for right in range(-2, 3)
                     if np.array_equal(moved(images[index], mirrored, down, right), changed)]
            assert len(found) == 1
            seen.add(found[0])
    assert len(seen) > 30  # of 50
    assert sum(mirrored for mirrored, _, _ in seen) not in (0, len(seen))


def moved(image, mirrored, down, right):
    """Return an image with black around it, by definition."""
    image = image[..., ::-1] if mirrored else image
    height, width = image.shape[-2:]
    wide = np.pad(image, [(0, 0)] * (image.ndim - 2) + [(2, 2), (2, 2)])
    return wide[..., 2 - down:2 - down + height, 2 - right:2 - right + width]


def test_an_epoch_comes_again_whatever_was_before_and_another_seed_is_another():
    images = RNG.random((30, 8, 8), np.float32)
    some = np.array([3, 7, 29])
    whole = Augmentation(images, mirror=True, shift=1, seed=1)
    first = [whole.at(epoch, some) for epoch in range(3)]
    assert np.array_equal(Augmentation(images, mirror=True, shift=1, seed=1).at(2, some), first[2])
    assert np.array_equal(whole.at(0, np.arange(30))[some], first[0])
    assert not np.array_equal(first[0], first[1])
    assert not np.array_equal(Augmentation(images, mirror=True, shift=1, seed=2).at(0, some),
                              first[0])


def test_without_a_change_images_are_as_they_are_and_stay_so():
    images = RNG.random((5, 4, 4), np.float32)
    before = images.copy()
    assert np.array_equal(Augmentation(images, mirror=False, shift=0).at(4, [1, 2]), images[1:3])
    Augmentation(images, mirror=True, shift=9).at(0, np.arange(5))
    assert np.array_equal(images, before)
