"""Position embeddings for another image size: bicubic, as PyTorch's ``interpolate`` does it."""

import numpy as np

__all__ = ["resampled"]


def resampled(position, grid, target, *, antialias):
    """Return position embeddings of a grid of patches for another one.

    Parameters
    ----------
    position : float32 ndarray (rows * columns, C)
    grid, target : (int, int)
        Rows and columns of patches, before and after.
    antialias : bool
        timm's way (cubic of -0.5, widened where the grid shrinks) or Hugging Face's (-0.75).

    Returns
    -------
    float32 ndarray (target rows * target columns, C)
    """
    channels = position.shape[1]
    rows, columns = (_weights(old, new, antialias)
                     for old, new in zip(grid, target, strict=True))
    cube = position.reshape(*grid, channels).astype(np.float64)
    cube = np.einsum("ir,jc,rcd->ijd", rows, columns, cube, optimize=True)
    return cube.reshape(-1, channels).astype(np.float32)


def _weights(old, new, antialias):
    """Return the matrix (new, old) of one direction."""
    scale = old / new
    stretch = max(scale, 1.0) if antialias else 1.0
    matrix = np.zeros((new, old))
    for index in range(new):
        centre = (index + 0.5) * scale
        if antialias:
            first = max(int(centre - 2 * stretch + 0.5), 0)
            last = min(int(centre + 2 * stretch + 0.5), old)
            sources = np.arange(first, last)
        else:
            sources = np.floor(centre - 0.5) + np.arange(-1, 3)
        share = _cubic((sources + 0.5 - centre) / stretch, -0.5 if antialias else -0.75)
        if antialias:
            share = share / share.sum()
        # Beyond the border PyTorch repeats the last row (and cuts the filter if it is antialiased).
        np.add.at(matrix[index], np.clip(sources, 0, old - 1).astype(int), share)
    return matrix


def _cubic(x, a):
    """Return the cubic convolution kernel of parameter `a`."""
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))
