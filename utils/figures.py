"""matplotlib, imported without leaving files in the user's home.

Its import makes a folder for settings there, and one for a list of the installed fonts. Where the user has both,
they are used; else they are made in a temporary folder, which is gone after the import.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_FOLDER = "MPLCONFIGDIR"


def _has_folders() -> bool:
    """Whether matplotlib has been at home here before, or has been told where to go."""
    homes = (("XDG_CONFIG_HOME", ".config"), ("XDG_CACHE_HOME", ".cache"))
    folders = [Path(os.environ.get(name) or Path.home() / usual, "matplotlib") for name, usual in homes]
    return _FOLDER in os.environ or all(folder.is_dir() for folder in folders)


@contextmanager
def _without_traces() -> Iterator[None]:
    if _has_folders():
        yield
        return
    with tempfile.TemporaryDirectory(prefix="matplotlib-") as folder:
        os.environ[_FOLDER] = folder
        try:
            yield
        finally:
            del os.environ[_FOLDER]


with _without_traces():
    from matplotlib import font_manager as font_manager
    from matplotlib.axes import Axes as Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg as FigureCanvasAgg
    from matplotlib.backends.backend_svg import FigureCanvasSVG as FigureCanvasSVG
    from matplotlib.figure import Figure as Figure
    from matplotlib.font_manager import FontProperties as FontProperties
    from matplotlib.ft2font import FT2Font as FT2Font
    from matplotlib.text import Text as Text
    from matplotlib.ticker import MaxNLocator as MaxNLocator
