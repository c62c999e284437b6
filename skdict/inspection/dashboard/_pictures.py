"""Pictures whose positions are rows of codes."""

import base64
import struct
import zlib

import numpy as np

MAX_SIDE = 160  # pixels; larger pictures are thinned out


class Pictures:
    """Pictures to show beneath heat maps.

    Parameters
    ----------
    images : ndarray of shape (n_images, height, width) or (n_images, height, width, 1, 3 or 4)
        Of uint8, or of floats, which are scaled from their minimum and maximum to 0 to 255.
    tokens : dict
        With "document", the picture of each row, and "y" and "x" if rows are positions.
    """

    def __init__(self, images, tokens):
        images = np.asarray(images)
        if images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[3] not in (1, 3, 4)):
            raise ValueError(
                "images must have shape (n_images, height, width) or (n_images, height, width, "
                f"n_channels) with 1, 3 or 4 channels, but has shape {images.shape}."
            )
        document = tokens["document"]
        if document.min(initial=0) < 0 or document.max(initial=-1) >= len(images):
            raise ValueError(
                f"tokens['document'] has {document.max()}, but there are {len(images)} images."
            )
        self.images, self.grid = images, None
        if "y" in tokens:
            self.grid = [int(tokens[key].max(initial=0)) + 1 for key in ("y", "x")]
            n_places = self.grid[0] * self.grid[1]
            place = tokens["y"] * self.grid[1] + tokens["x"]
            if not (place.reshape(-1) == np.arange(len(place)) % n_places).all():
                raise ValueError(
                    "tokens['y'] and tokens['x'] must go through each image row by row. Sort the "
                    "rows by document, y and x."
                )
        self._low, self._high = None, None
        if images.dtype.kind == "f":
            self._low, self._high = float(np.nanmin(images)), float(np.nanmax(images))

    def of(self, documents):
        """The pictures of some documents, and the grid of their rows, as `_schema` has them."""
        return {
            "grid": self.grid,
            "pictures": {str(k): self._encoded(k) for k in np.unique(documents).tolist()},
        }

    def _encoded(self, k):
        image = self.images[k]
        step = max(1, -(-max(image.shape[:2]) // MAX_SIDE))
        image = image[::step, ::step]
        if self._low is not None:
            span = (self._high - self._low) or 1.0
            image = np.nan_to_num((image - self._low) / span) * 255
        image = np.clip(np.rint(image), 0, 255).astype(np.uint8)
        return base64.b64encode(png(image)).decode("ascii")


def png(image):
    """A picture as a PNG file.

    Parameters
    ----------
    image : ndarray of uint8 of shape (height, width) or (height, width, 1, 3 or 4)
    """
    height, width = image.shape[:2]
    pixels = image.reshape(height, width, -1)
    colour_type = {1: 0, 3: 2, 4: 6}[pixels.shape[2]]
    # each line begins with the number of its filter, 0 for none
    lines = np.pad(pixels.reshape(height, -1), ((0, 0), (1, 0)))
    header = struct.pack(">IIBBBBB", width, height, 8, colour_type, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(lines.tobytes(), 9)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts
    )
