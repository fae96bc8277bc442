"""Runs the pipelines of the installed package: ``python -m mst_distill --pipeline=distill``.

The working folder must have the project's ``conf``, and takes the place of its root.
"""

from __future__ import annotations

import sys
from pathlib import Path

from kedro.framework.cli.utils import find_run_command
from kedro.framework.project import configure_project


def main() -> None:
    """Run ``kedro run`` of this package with the arguments of the command line."""
    if not Path("conf").is_dir() and not any("--conf-source" in word for word in sys.argv):
        sys.exit(
            f"{Path.cwd()} has no folder conf: run this where the archive of the "
            f"configuration was unpacked, or name the archive with --conf-source"
        )
    configure_project("mst_distill")
    find_run_command("mst_distill")()


if __name__ == "__main__":
    main()
