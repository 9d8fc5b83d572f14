"""The sizes of pictures, before any is decoded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from data.images import image_size
from data.media.find import Media, is_url
from data.media.sources import open_reader


def of_one_shape(media: Sequence[Media]) -> bool:
    """Whether all pictures of a source have the same size, by their headers; files that cannot be read do not count.

    One camera, stream or address is of one shape, and beside others of an unknown one: none is opened for this.
    """
    if len(media) < 2:
        return True
    first: tuple[int, int] | None = None
    for each in media:
        try:
            size = picture_size(each)
        except ValueError:  # it is told of when it is its turn
            continue
        if size is None or (first is not None and size != first):
            return False
        first = size
    return True


def picture_size(media: Media) -> tuple[int, int] | None:
    """(height, width) of the pictures of a file, by its header; None for a camera, a stream or an address.

    Raises:
        ValueError: it cannot be read.
    """
    if media.kind == "live" or is_url(str(media.location)):
        return None
    if media.kind == "image":
        return image_size(Path(str(media.location)))
    reader = open_reader(media)
    reader.close()
    return reader.size
