"""The course in JupyterLab, on any system: what `make lab` does when all is installed.

    python -m sizing.course.lab [options of jupyter lab]

makes or updates the copies in work/, and opens lesson 00 in a JupyterLab that knows the course's
extension and settings. It listens to this machine alone, as JupyterLab does by default.
"""

import os
import sys

from . import copies

FIRST = "work/notebooks/00-start-here.ipynb"


def arguments(given: list[str]) -> list[str]:
    """JupyterLab's command line: the course's settings, then what was given, then lesson 00."""
    return [
        f"--ServerApp.root_dir={copies.COURSE}",
        f"--LabApp.app_settings_dir={copies.COURSE / 'jupyter'}",
        *given,
        str(copies.COURSE / FIRST),
    ]


def main(given: list[str]) -> None:
    """Bring the copies up to date and become JupyterLab, until it is ended."""
    copies.main([])
    paths = [str(copies.COURSE / "jupyter"), os.environ.get("JUPYTER_PATH", "")]
    os.environ["JUPYTER_PATH"] = os.pathsep.join(filter(None, paths))  # the extension is there
    from jupyterlab.labapp import LabApp

    LabApp.launch_instance(argv=arguments(given))


if __name__ == "__main__":
    main(sys.argv[1:])
