"""`make update`: the newest course, for those without a hub. Nothing of a learner's is touched.

    python -m sizing.course.update

takes what changed by `git pull --ff-only`. A learner's notebooks stand in work/ and measurements
in .learner/, which git does not look at; the copies in work/ then follow cell by cell (`copies`).
Where files of the course itself were edited, nothing is pulled, and it says which and what to do.
"""

import subprocess
import sys
from pathlib import Path

COURSE = Path(__file__).resolve().parents[2]


def git(*arguments: str, course: Path = COURSE) -> subprocess.CompletedProcess:
    """git in the course's folder, without a question to the terminal."""
    command = ["git", "-c", "core.askPass=true", "-C", str(course), *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def edited(course: Path = COURSE) -> list[str]:
    """Files of the course that differ from the version that was fetched last."""
    return git("diff", "--name-only", "HEAD", course=course).stdout.splitlines()


def update(course: Path = COURSE) -> tuple[bool, str]:
    """Bring the course up to date; whether it is, and what to tell the learner."""
    if git("rev-parse", course=course).returncode:
        return False, "This folder is no clone of the course. Unpack the new version beside it."
    before = git("rev-parse", "HEAD", course=course).stdout.strip()
    pulled = git("pull", "--ff-only", "--quiet", course=course)
    if pulled.returncode == 0:
        after = git("rev-parse", "HEAD", course=course).stdout.strip()
        if before == after:
            return True, "The course is up to date."
        changed = git("diff", "--name-only", before, after, course=course).stdout.splitlines()
        return True, f"The course is up to date; {len(changed)} files changed."
    if files := edited(course):
        listed = ", ".join(files[:5]) + (", ..." if len(files) > 5 else "")
        return False, (
            f"Nothing was changed: you edited files of the course itself ({listed}). Copy what you "
            "want to keep into work/, then `git checkout -- .` and `make update` again."
        )
    reason = (pulled.stderr.strip().splitlines() or ["git pull failed"])[-1]
    return False, f"Nothing was changed: {reason}"


def main() -> int:
    good, words = update()
    print(words)
    return int(not good)


if __name__ == "__main__":
    sys.exit(main())
