"""Runs the pipelines of the installed package: ``python -m mst_distill --pipeline=distill``.

The working folder must have the project's ``conf``, and takes the place of its root.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from kedro.framework.cli.utils import find_run_command
from kedro.framework.project import configure_project


def main(*arguments: Any, **options: Any) -> Any:
    """Run ``kedro run`` of this package; the arguments are by default those of the command line."""
    words = " ".join(map(str, arguments or sys.argv))
    if not Path("conf").is_dir() and "--conf-source" not in words and "--help" not in words:
        sys.exit(
            f"{Path.cwd()} has no folder conf: run this where the archive of the "
            f"configuration was unpacked, or name the archive with --conf-source"
        )
    configure_project("mst_distill")
    return find_run_command("mst_distill")(*arguments, **options)


if __name__ == "__main__":
    main()
