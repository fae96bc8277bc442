"""A name for the user of the process, which a container may not have."""

from __future__ import annotations

import getpass
import os


def ensure_user_name() -> None:
    """Set ``LOGNAME`` if the system knows no name for the user.

    Containers that run under an arbitrary user id have no entry in the password database. PyTorch
    asks for the name when the first optimiser is built, and MLflow when a run starts.
    """
    try:
        getpass.getuser()
    except (KeyError, OSError):  # OSError from Python 3.13 on
        os.environ["LOGNAME"] = f"uid-{os.getuid()}"
