"""Fifteen images of a face, at equal intervals over 3.6 s of video."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mst_distill.import_path import resolve
from mst_distill.media.faces import CentreCrop, FaceFinder, Square
from mst_distill.media.images import is_plain
from mst_distill.media.readers import VIDEOS, Reader

if TYPE_CHECKING:
    from av import Packet, VideoFrame, VideoStream

FRAMES = 15
SIDE = 224
"""Rows and columns of an image."""

SECONDS = Fraction(36, 10)

_MAX_PIXELS = 7680 * 4320
"""Of a frame; fifteen frames of this size fill 1.5 GB."""

INSTANTS = tuple(Fraction(3 + 36 * i // 5, 30) for i in range(FRAMES))
"""Seconds from the window's start: the frames 3, 10, 17, 24, … 103 of 108 at 30 frames a second."""


@dataclass
class FaceVideo(Reader):
    """The face in fifteen frames of a video file, ``(3, 15, 224, 224)``.

    The notes are the numbers of frames that show no face, and that are after the end of the clip.

    Attributes:
        face_finder: Import path of a `FaceFinder`.

    Raises:
        ValueError, TypeError: `face_finder` does not exist or is not a `FaceFinder`.
    """

    takes = "path"
    suffixes = VIDEOS
    notes = ("frames_without_face", "frames_missing")
    import_paths = ("face_finder",)
    face_finder: str

    def __post_init__(self) -> None:
        self._finder: FaceFinder = resolve(self.face_finder, FaceFinder)()

    def read_one(self, value: Any) -> tuple[np.ndarray, dict[str, float]]:
        """Read one video as ``(3, 15, 224, 224)`` float32 in [0, 1], in RGB."""
        faces, without_face, missing = crop_faces(read_frames(Path(value)), self._finder)
        return faces, {"frames_without_face": without_face, "frames_missing": missing}


def read_frames(path: Path) -> list[np.ndarray | None]:
    """Decode the frames nearest to `INSTANTS`, at any frame rate.

    In a clip longer than 3.6 s the window lies in the middle, like the window of its audio; in a
    shorter clip it lies at the start.

    Frames are rotated and flipped as the file requires for display: a phone that is held upright
    stores its frames on their sides.

    Returns:
        `FRAMES` RGB frames ``(H, W, 3)`` of bytes; None for instants after the end of the clip.

    Raises:
        ValueError: There is no video stream, its frames are larger than 8K or are to be displayed
            at an angle that is not a multiple of 90 degrees, the file is cut short, the clip ends
            before the first instant, a frame cannot be decoded, or every frame has one colour in
            all its pixels; the message names the file.
    """
    import av

    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise ValueError(f"{path}: has no video stream")
            stream = container.streams.video[0]
            if stream.width * stream.height > _MAX_PIXELS:
                raise ValueError(
                    f"{path}: has frames of {stream.width} x {stream.height} pixels; at most "
                    f"{_MAX_PIXELS} pixels are supported"
                )
            # Compressed packets are small. All their time stamps are read first, so that only the
            # required frames have to be held in memory after decoding.
            packets = list(container.demux(stream))
            if (count := sum(packet.size > 0 for packet in packets)) < stream.frames:
                raise ValueError(
                    f"{path}: is cut short, {count} of {stream.frames} frames are left"
                )
            stamps = _nearest_stamps(path, packets)
            required = {stamp for stamp in stamps if stamp is not None}
            frames: dict[int, np.ndarray] = {}
            for packet in packets:
                for frame in stream.decode(packet):
                    if frame.pts in required and not frame.is_corrupt:
                        frames[frame.pts] = _upright(path, frame)
                if len(frames) == len(required):
                    break
    except av.FFmpegError as error:
        raise ValueError(
            f"{path}: contains no video that can be decoded ({error.strerror})"
        ) from error
    if missing := required - set(frames):
        raise ValueError(
            f"{path}: {len(missing)} of the {FRAMES} required frames cannot be decoded"
        )
    if all(map(is_plain, frames.values())):
        raise ValueError(f"{path}: is blank, every frame has one colour in all its pixels")
    return [None if stamp is None else frames[stamp] for stamp in stamps]


def crop_faces(
    frames: Sequence[np.ndarray | None], finder: FaceFinder
) -> tuple[np.ndarray, int, int]:
    """Crop every frame to the face, and resize the crop to `SIDE` x `SIDE` pixels.

    If no face is found in a frame, the square of the nearest earlier frame with a face is used,
    else that of the first later one. If no frame shows a face, the middle of the frame is used.

    Red, green and blue are each divided by 255, the largest value of 8 bits. Over any subset of the
    data the minimum and maximum of a channel are 0 and 255, so this equals min-max scaling of each
    channel, and nothing has to be fitted.

    Args:
        frames: RGB ``(H, W, 3)`` of bytes, or None, which becomes 0.
        finder: Locates the face in a frame.

    Returns:
        ``(3, n, SIDE, SIDE)`` float32 in [0, 1], the number of frames in which no face was found,
        and the number of frames that are None.
    """
    from PIL import Image

    cropped = np.zeros((len(frames), SIDE, SIDE, 3), np.float32)
    present = {index: frame for index, frame in enumerate(frames) if frame is not None}
    found = {index: finder.find(frame) for index, frame in present.items()}
    square: Square | None = next(filter(None, found.values()), None)
    for index, frame in present.items():
        square = found[index] or square or CentreCrop().find(frame)
        left, top, side = square
        face = Image.fromarray(frame).resize(
            (SIDE, SIDE), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side)
        )
        cropped[index] = np.asarray(face) / np.float32(255)
    without_face = sum(detected is None for detected in found.values())
    channels_first = np.ascontiguousarray(cropped.transpose(3, 0, 1, 2))
    return channels_first, without_face, len(frames) - len(present)


def _upright(path: Path, frame: VideoFrame) -> np.ndarray:
    """Return a frame's RGB pixels, rotated and flipped by its display matrix.

    The matrix ((a, b, u), (c, d, v), (x, y, w)) of the MP4 format moves a point p to the right and
    q down to the point a p + c q to the right and b p + d q down.
    """
    pixels = frame.to_ndarray(format="rgb24")
    matrix: Any = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return pixels
    (a, b), (c, d) = np.frombuffer(bytes(matrix), np.int32).reshape(3, 3)[:2, :2].tolist()
    if (b, c) == (0, 0):
        x_factor, y_factor = a, d
    elif (a, d) == (0, 0):
        pixels, x_factor, y_factor = pixels.swapaxes(0, 1), c, b
    else:
        raise ValueError(
            f"{path}: is to be displayed rotated by {frame.rotation} degrees; only multiples of 90 "
            f"degrees are supported"
        )
    # A negative factor reverses its axis.
    return np.ascontiguousarray(pixels[:: -1 if y_factor < 0 else 1, :: -1 if x_factor < 0 else 1])


def _nearest_stamps(path: Path, packets: Sequence[Packet[VideoStream]]) -> list[int | None]:
    """Return the time stamp of the frame nearest to each of `INSTANTS`; None after the clip's end.

    Raises:
        ValueError: There are no frames, or the clip ends before the first instant.
    """
    durations = {
        packet.pts: packet.duration or 0
        for packet in packets
        if packet.pts is not None and not packet.is_discard
    }
    if not durations:
        raise ValueError(f"{path}: has no frames")
    unit = packets[0].time_base
    times = {stamp: (stamp - min(durations)) * unit for stamp in sorted(durations)}
    last = max(durations)
    end = times[last] + durations[last] * unit
    if end <= INSTANTS[0]:
        raise ValueError(
            f"{path}: lasts {float(end):.3f} s and ends before the first required frame, at "
            f"{float(INSTANTS[0]):.1f} s"
        )
    start = max(Fraction(0), (end - SECONDS) / 2)
    return [
        min(times, key=lambda stamp: abs(times[stamp] - instant)) if instant < end else None
        for instant in (start + offset for offset in INSTANTS)
    ]
