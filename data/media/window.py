"""A window that shows pictures as they come, for detect.py --view."""

from __future__ import annotations

import cv2
import numpy as np

from utils.config import ConfigError


class Window:
    """A window of Python's own Tk: albumentations needs the OpenCV build that has no windows.

    Only the main thread may use it.

    Args:
        title: of the window.
    Raises:
        ConfigError: this Python has no Tk, or there is no display.
    """

    def __init__(self, title: str) -> None:
        try:
            import tkinter
        except ImportError:
            raise ConfigError(
                "--view: this Python has no Tk; install it (Debian, Ubuntu: apt install python3-tk), or leave --view "
                "out and open the files that detect.py writes"
            ) from None
        try:
            self._root = tkinter.Tk()
        except tkinter.TclError as error:
            raise ConfigError(f"--view: no window can be opened here ({error}); leave --view out") from None
        self._root.title(title)
        self._photo_type = tkinter.PhotoImage
        self._label = tkinter.Label(self._root, borderwidth=0)
        self._label.pack()
        self._limit = (int(self._root.winfo_screenheight() * 0.85), int(self._root.winfo_screenwidth() * 0.95))
        self.open = True
        """Whether the user has not closed the window (its button, Escape, q)."""
        self._root.protocol("WM_DELETE_WINDOW", self._shut)
        for key in ("<Escape>", "q"):
            self._root.bind(key, lambda _: self._shut())

    def show(self, image: np.ndarray) -> None:
        """Show an (H, W, 3) uint8 RGB image, made smaller where the screen is."""
        if not self.open:
            return
        height, width = image.shape[:2]
        scale = min(self._limit[0] / height, self._limit[1] / width, 1.0)
        if scale < 1:
            size = (max(round(width * scale), 1), max(round(height * scale), 1))
            image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        header = f"P6 {image.shape[1]} {image.shape[0]} 255\n".encode()
        self._photo = self._photo_type(data=header + np.ascontiguousarray(image).tobytes(), format="PPM")
        self._label.configure(image=self._photo)
        self._root.update()

    def close(self) -> None:
        """Remove the window."""
        self.open = False
        self._root.destroy()

    def _shut(self) -> None:
        self.open = False
