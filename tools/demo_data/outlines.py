"""Outlines of simple figures as polygons ``(N, 2)`` in pixels."""

import cv2
import numpy as np
from numpy.typing import NDArray

_TURN = np.linspace(0, 2 * np.pi, 20, endpoint=False)
CIRCLE = np.stack([np.cos(_TURN), np.sin(_TURN)], axis=1)  # 20 2


def ellipse(centre: NDArray, rx: float, ry: float | None = None, angle: float = 0.0) -> NDArray:
    """Return an ellipse with half axes ``rx`` and ``ry``, turned clockwise by ``angle`` radians."""
    points = CIRCLE * (rx, rx if ry is None else ry)
    if angle:
        c, s = np.cos(angle), np.sin(angle)
        points = points @ np.array([[c, s], [-s, c]])
    return points + centre


def capsule(p: NDArray, q: NDArray, rp: float, rq: float) -> NDArray:
    """Return a limb: the convex hull of a disc of radius ``rp`` at p and one of ``rq`` at q."""
    return hull_of_discs([p, q], [rp, rq])


def hull_of_discs(centres: list[NDArray], radii: list[float]) -> NDArray:
    """Return the convex hull of discs; ``centres`` holds points ``(2,)``."""
    discs = CIRCLE * np.array(radii)[:, None, None] + np.array(centres)[:, None]  # discs 20 2
    return convex_hull(discs.reshape(-1, 2))


def convex_hull(points: NDArray) -> NDArray:
    """Return the corners of the convex hull of points ``(N, 2)``."""
    return cv2.convexHull(points.astype(np.float32))[:, 0].astype(np.float64)


def rectangle(x0: float, y0: float, x1: float, y1: float) -> NDArray:
    """Return an upright rectangle."""
    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], float)
