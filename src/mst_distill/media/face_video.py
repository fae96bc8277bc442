"""Fifteen pictures of a face, evenly out of 3.6 s of video."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mst_distill.media.faces import CentreCrop, FaceFinder, Square
from mst_distill.media.images import is_plain

if TYPE_CHECKING:
    from av import Packet, VideoFrame, VideoStream

FRAMES = 15
SIDE = 224
"""Rows and columns of a picture."""

SECONDS = Fraction(36, 10)

_MOST_PIXELS = 7680 * 4320
"""Of a frame; fifteen of them then fill 1.5 GB."""

INSTANTS = tuple(Fraction(3 + 36 * i // 5, 30) for i in range(FRAMES))
"""Seconds from the window's start: the frames 3, 10, 17, 24, … 103 of 108 at 30 frames a second."""


def read_frames(path: Path) -> list[np.ndarray | None]:
    """Decode the frames nearest to `INSTANTS`, whatever the frame rate.

    The window of 3.6 s stands in the middle of a clip that is longer, as that of its audio does,
    and at the start of a shorter one.

    Frames are turned as the file says that they are to be shown: a phone that is held upright
    stores them on their sides.

    Returns:
        `FRAMES` RGB frames ``(H, W, 3)`` of bytes; None for instants behind the clip's end.

    Raises:
        ValueError: There is no video stream, its frames are larger than 8K or to be shown turned by
            other than quarters, the file is cut short, the clip ends before the first instant, a
            frame cannot be decoded, or each has one colour in all its pixels; the message names the
            file.
    """
    import av

    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise ValueError(f"{path}: has no video stream")
            stream = container.streams.video[0]
            if stream.width * stream.height > _MOST_PIXELS:
                raise ValueError(
                    f"{path}: has frames of {stream.width} x {stream.height} pixels; at most "
                    f"{_MOST_PIXELS} are decoded"
                )
            # Compressed, a clip is small: knowing all times first, only few frames need be kept.
            packets = list(container.demux(stream))
            if (count := sum(packet.size > 0 for packet in packets)) < stream.frames:
                raise ValueError(
                    f"{path}: is cut short, {count} of {stream.frames} frames are left"
                )
            stamps = _nearest(path, packets)
            wanted = {stamp for stamp in stamps if stamp is not None}
            frames: dict[int, np.ndarray] = {}
            for packet in packets:
                for frame in stream.decode(packet):
                    if frame.pts in wanted and not frame.is_corrupt:
                        frames[frame.pts] = _upright(path, frame)
                if len(frames) == len(wanted):
                    break
    except av.FFmpegError as error:
        raise ValueError(f"{path}: no video that can be decoded ({error.strerror})") from error
    if lost := wanted - set(frames):
        raise ValueError(f"{path}: {len(lost)} of the {FRAMES} frames wanted cannot be decoded")
    if all(map(is_plain, frames.values())):
        raise ValueError(f"{path}: nothing is to be seen, every frame has one colour throughout")
    return [None if stamp is None else frames[stamp] for stamp in stamps]


def crop_faces(
    frames: Sequence[np.ndarray | None], finder: FaceFinder
) -> tuple[np.ndarray, int, int]:
    """Cut the face out of every frame, on `SIDE` x `SIDE` pixels.

    Where no face is found the square of the nearest frame before is taken, else that of the first
    one after; if no frame shows one, the middle of the frame. Red, green and blue are each divided
    by 255, their range in 8 bits: over any part of the set a channel's least and largest values are
    0 and 255, so this is scaling by channel, with nothing that has to be fitted.

    Args:
        frames: RGB ``(H, W, 3)`` of bytes, or None, which becomes 0.
        finder: Says where the face is.

    Returns:
        ``(3, n, SIDE, SIDE)`` float32 in [0, 1], the number of frames in which no face was found,
        and the number of those that are missing.
    """
    from PIL import Image

    cropped = np.zeros((len(frames), SIDE, SIDE, 3), np.float32)
    present = {place: frame for place, frame in enumerate(frames) if frame is not None}
    found = {place: finder.find(frame) for place, frame in present.items()}
    square: Square | None = next(filter(None, found.values()), None)
    for place, frame in present.items():
        square = found[place] or square or CentreCrop().find(frame)
        left, top, side = square
        picture = Image.fromarray(frame).resize(
            (SIDE, SIDE), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side)
        )
        cropped[place] = np.asarray(picture) / np.float32(255)
    without_face = sum(where is None for where in found.values())
    channels_first = np.ascontiguousarray(cropped.transpose(3, 0, 1, 2))
    return channels_first, without_face, len(frames) - len(present)


def _upright(path: Path, frame: VideoFrame) -> np.ndarray:
    """A frame's pixels in RGB, turned as its display matrix says.

    The matrix ((a, b, u), (c, d, v), (x, y, w)) of the MP4 format takes a point that is p to the
    right and q down to a p + c q to the right and b p + d q down.
    """
    pixels = frame.to_ndarray(format="rgb24")
    matrix: Any = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return pixels
    (a, b), (c, d) = np.frombuffer(bytes(matrix), np.int32).reshape(3, 3)[:2, :2].tolist()
    if (b, c) == (0, 0):
        right, down = a, d
    elif (a, d) == (0, 0):
        pixels, right, down = pixels.swapaxes(0, 1), c, b
    else:
        raise ValueError(
            f"{path}: is to be shown turned by {frame.rotation} degrees; only quarters are followed"
        )
    return np.ascontiguousarray(pixels[:: -1 if down < 0 else 1, :: -1 if right < 0 else 1])


def _nearest(path: Path, packets: Sequence[Packet[VideoStream]]) -> list[int | None]:
    """The time stamp of the frame nearest to each of `INSTANTS`, None behind the clip's end.

    Raises:
        ValueError: The clip ends before the first instant.
    """
    shown = {
        packet.pts: packet.duration or 0
        for packet in packets
        if packet.pts is not None and not packet.is_discard
    }
    if not shown:
        raise ValueError(f"{path}: has no frames")
    unit = packets[0].time_base
    times = {stamp: (stamp - min(shown)) * unit for stamp in sorted(shown)}
    last = max(shown)
    end = times[last] + shown[last] * unit
    if end <= INSTANTS[0]:
        raise ValueError(
            f"{path}: lasts {float(end):.3f} s and ends before the first frame wanted, at "
            f"{float(INSTANTS[0]):.1f} s"
        )
    start = max(Fraction(0), (end - SECONDS) / 2)
    return [
        min(times, key=lambda stamp: abs(times[stamp] - instant)) if instant < end else None
        for instant in (start + wanted for wanted in INSTANTS)
    ]
