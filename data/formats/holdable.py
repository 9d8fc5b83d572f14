"""Which names of images and classes a format can hold: what it cannot is refused before anything is written."""

from __future__ import annotations

import re
from collections.abc import Iterable

from data.formats.label_places import label_name
from utils.config import ConfigError
from utils.text import shown

_LINE = re.compile("[\n\r\\\\\ud800-\udfff]")
"""What no line of a list of images holds: line breaks, '\\', which is read as '/', and bytes that are not UTF-8."""
_XML = re.compile("[\x00-\x1f\ud800-\udfff\ufffe\uffff]")
"""What no text of XML 1.0 holds as it is."""


def check_names(form: str, files: Iterable[str], classes: Iterable[str]) -> None:
    """Refuse names that would not be read back from a data set of this format.

    Args:
        form: 'coco', which holds every name, 'yolo' or 'voc'.
        files: of the images, relative to their folder.
        classes: of a data.yaml, which holds every name, too.
    Raises:
        ConfigError: names the first one.
    """
    if form == "coco":
        return
    remedy = "rename the image, or use --to coco, which holds every name"
    for name in files:
        line = label_name(name, "") if form == "voc" else name
        if _LINE.search(name) or line != line.strip() or (form == "voc" and _XML.search(name)):
            raise ConfigError(f"--to {form}: its lists of images cannot hold the name {shown(name, 200)}; {remedy}")
    for name in classes if form == "voc" else ():
        if _XML.search(name) or name != name.strip():
            raise ConfigError(
                f"--to voc: XML cannot hold the class name {shown(name, 200)}; {remedy.replace('image', 'class')}"
            )
