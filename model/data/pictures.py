"""Files of pictures, decoded by Pillow."""

import io
import struct
import warnings
from pathlib import Path

from systola.files.bounded import check_file, shorten
from systola.files.tensors import ModelError

__all__ = ["SUFFIXES", "decoded"]

SUFFIXES = ".jpg", ".jpeg", ".png", ".ppm", ".pgm", ".bmp", ".tif", ".tiff", ".webp"
"""How names of pictures end, in lower case."""

_FORMATS = "JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP"
"""What is decoded, whatever a name says: some of Pillow's other readers start programs."""

_MODES = "1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "La", "RGBa"
"""Pixels of at most 8 bits a colour, which convert to grey and RGB without being cut off."""

_ORIENTATION = 0x112
_PIXELS, _FILE_BYTES = 2**26, 2**30
"""Most pixels of a picture, 200 MB of RGB, and most bytes of its file."""


def decoded(source, name):
    """Return a picture of Pillow, and whether it says that it is to be turned.

    Parameters
    ----------
    source : Path or bytes
        The file, or its content.
    name : str
        For messages.

    Raises
    ------
    ModelError
        If it is missing, damaged, too large, or no picture of 8 bits a colour.
    """
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of damaged notes beside the pixels
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            if isinstance(source, Path):
                check_file(source, _FILE_BYTES)
            file = source if isinstance(source, Path) else io.BytesIO(source)
            with Image.open(file, formats=_FORMATS) as picture:
                if picture.width * picture.height > _PIXELS:
                    raise ValueError(f"it must have at most {_PIXELS:,} pixels, not "
                                     f"{picture.width} x {picture.height}")
                if picture.mode not in _MODES:
                    raise ValueError(f"it must have at most 8 bits a colour, not mode "
                                     f"{picture.mode}")
                picture.load()
                return picture, picture.getexif().get(_ORIENTATION, 1) != 1
    except FileNotFoundError:
        raise ModelError(f"image {name!r} does not exist") from None
    except (OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, AttributeError,
            ArithmeticError, MemoryError, struct.error, RuntimeError, Warning,
            Image.DecompressionBombError) as error:
        reason = getattr(error, "strerror", None) or shorten(error) or type(error).__name__
        raise ModelError(f"image {name!r} must be a complete picture: {reason}") from None
