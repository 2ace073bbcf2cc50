"""A room of learners on one JupyterHub, for real: `make hub-test`, as root on Linux.

    python workshop/hub/hub_test.py --learners 30

starts the hub of jupyterhub_config.py on free ports of this machine, makes that many Unix accounts
(and removes them at the end), logs each in through the login page, pulls the course with
nbgitpuller, and runs every cell of lesson 01 in all of them at once, through each server's own API.
Then it reports memory and time per learner, and tries what must not work: to read a neighbour's
files, to use a neighbour's server, to take more memory than allowed, to disturb the others by
killing one's own kernel. The exit code is 0 if all of it is as it should be.
"""

import argparse
import contextlib
import json
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlencode

import psutil
import requests
import websocket

from sizing.course import classroom

HERE = Path(__file__).resolve().parent
COURSE = HERE.parents[1]
LESSON = "notebooks/01-counting-parameters.ipynb"
PREFIX = "sizinglearner"
PYTHON = os.environ.get("SIZING_HUB_PYTHON", sys.executable)
GB = 10**9
REMEDY = """Learners need an interpreter and a course that all accounts can read; nothing below
/root or another closed home is.
In a clone such as /opt/course, without the old .venv:
    make hub-test PYTHON=/usr/bin/python3"""
RELOADS = 10  # more than anybody would do: beyond them the test fails


class NoAnswer(RuntimeError):
    """A page that came, but not with what was asked for."""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Learner:
    """A Unix account, and a browser's session at the hub."""

    def __init__(self, number: int, address: str):
        self.name, self.password = f"{PREFIX}{number:02d}", secrets.token_urlsafe(12)
        self.address, self.session = address, requests.Session()
        self.base = f"{address}/user/{self.name}"
        self.reloads = 0

    def create(self) -> None:
        command = ["useradd", "--create-home", "--shell", "/bin/bash", self.name]
        subprocess.run(command, check=True, capture_output=True)
        pair = f"{self.name}:{self.password}\n"
        subprocess.run(["chpasswd"], input=pair, text=True, check=True, capture_output=True)
        self.home = Path(pwd.getpwnam(self.name).pw_dir)
        self.home.chmod(0o700)

    def remove(self) -> None:
        uid = pwd.getpwnam(self.name).pw_uid
        for process in psutil.process_iter(["uids"]):
            if process.info["uids"] and process.info["uids"].real == uid:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
        subprocess.run(["userdel", "--remove", self.name], capture_output=True)

    def patiently(self, ask):
        """ask(), as often as a learner loads a page again whose answer timed out; counted."""
        for _ in range(RELOADS):
            try:
                return ask()
            except (requests.HTTPError, websocket.WebSocketBadStatusException, NoAnswer):
                self.reloads += 1
                time.sleep(2)
        return ask()

    def _xsrf(self) -> dict[str, str]:
        """The token of the learner's own server, which differs from the hub's."""
        path = f"/user/{self.name}/"
        return {"X-XSRFToken": self.session.cookies.get("_xsrf", path=path)}

    def log_in(self) -> None:
        page = self.session.get(f"{self.address}/hub/login", timeout=60)
        page.raise_for_status()
        token = self.session.cookies.get("_xsrf", path="/hub/")
        form = {"username": self.name, "password": self.password, "_xsrf": token}
        answer = self.session.post(f"{self.address}/hub/login", data=form, timeout=300)
        answer.raise_for_status()
        if "/login" in answer.url:
            raise RuntimeError(f"{self.name} could not log in")

    def start(self, seconds: float = 600) -> None:
        """Open the server's address as a browser does, until it answers."""
        end = time.monotonic() + seconds
        self.session.get(f"{self.address}/hub/spawn", timeout=300)
        while time.monotonic() < end:
            page = self.session.get(f"{self.base}/lab", timeout=300)
            if page.ok and page.url.startswith(self.base):
                return
            time.sleep(0.5)
        raise TimeoutError(f"{self.name}: no server after {seconds} s, last: {page.url}")

    def pull(self, repository: str, branch: str) -> None:
        query = urlencode({"repo": repository, "branch": branch, "targetpath": "course"})
        answer = self.session.get(f"{self.base}/git-pull/api?{query}", timeout=300, stream=True)
        answer.raise_for_status()
        events = [json.loads(line[6:]) for line in answer.iter_lines() if line[:6] == b"data: "]
        phases = [event.get("phase") for event in events]
        if "finished" not in phases:
            raise NoAnswer(f"{self.name}: nbgitpuller says {events[-3:]} at {answer.url}")

    def kernel(self) -> "Kernel":
        body = {"name": "python3", "path": f"course/{LESSON}"}

        def started() -> str:
            answer = self.session.post(
                f"{self.base}/api/kernels", json=body, headers=self._xsrf(), timeout=300
            )
            answer.raise_for_status()
            return answer.json()["id"]

        name = self.patiently(started)
        return self.patiently(lambda: Kernel(self, name))

    def processes(self) -> list[psutil.Process]:
        uid = pwd.getpwnam(self.name).pw_uid
        return [
            process
            for process in psutil.process_iter(["uids"])
            if process.info["uids"] and process.info["uids"].real == uid
        ]

    def memory(self) -> int:
        """Bytes that the learner's processes hold, pages that they share counted in part (PSS)."""
        total = 0
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                total += process.memory_full_info().pss
        return total


class Kernel:
    """A kernel behind a learner's server, spoken to through its websocket."""

    def __init__(self, learner: Learner, name: str):
        self.learner, self.name = learner, name
        cookies = "; ".join(f"{c.name}={c.value}" for c in learner.session.cookies)
        url = f"{learner.base}/api/kernels/{name}/channels".replace("http", "ws", 1)
        self.socket = websocket.create_connection(
            url, cookie=cookies, timeout=600, origin=learner.address
        )

    def run(self, code: str) -> tuple[str, str]:
        """What a cell prints and its error, if any."""
        header = {"msg_id": uuid.uuid4().hex, "msg_type": "execute_request", "version": "5.3"}
        header |= {"username": "", "session": uuid.uuid4().hex, "date": ""}
        content = {"code": code, "silent": False, "store_history": True, "allow_stdin": False}
        message = {"header": header, "parent_header": {}, "metadata": {}, "content": content}
        self.socket.send(json.dumps(message | {"channel": "shell", "buffers": []}))
        text, error = "", ""
        while True:
            received = self.socket.recv()
            if isinstance(received, bytes):  # a widget's picture; what ends a cell is text
                continue
            answer = json.loads(received)
            if answer["parent_header"].get("msg_id") != header["msg_id"]:
                continue
            kind, content = answer["msg_type"], answer["content"]
            if kind == "stream":
                text += content["text"]
            elif kind == "error":
                error = f"{content['ename']}: {content['evalue']}"
            elif kind == "status" and content["execution_state"] == "idle":
                return text, error


def run_lesson(learner: Learner) -> tuple[Kernel, float, int]:
    """Every cell of the lesson as it was pulled; seconds, and bytes at the end."""
    notebook = json.loads((learner.home / "course" / LESSON).read_text(encoding="utf-8"))
    started = time.monotonic()
    kernel = learner.kernel()
    for number, cell in enumerate(notebook["cells"]):
        if cell["cell_type"] == "code":
            _, error = kernel.run("".join(cell["source"]))
            if error:
                raise RuntimeError(f"{learner.name}, cell {number}: {error}")
    return kernel, time.monotonic() - started, learner.memory()


@contextlib.contextmanager
def hub(state: Path, learners: list[str], memory: float, ports: tuple[int, int, int], box: Path):
    """A JupyterHub of our configuration; ended, with all that it started, on exit."""
    outer, inner, proxy = (f"http://127.0.0.1:{port}" for port in ports)
    env = os.environ | {
        "SIZING_HUB_ADDRESS": outer,
        "SIZING_HUB_INNER": inner,
        "SIZING_HUB_PROXY": proxy,
        "SIZING_HUB_STATE": str(state),
        "SIZING_HUB_LEARNERS": " ".join(learners),
        "SIZING_HUB_MEMORY": str(memory),
        "SIZING_HUB_CLASS": str(box),
    }
    command = [sys.executable, "-m", "jupyterhub", "-f", str(HERE / "jupyterhub_config.py")]
    with (state / "log.txt").open("w") as log:
        process = subprocess.Popen(
            command, env=env, cwd=state, stdout=log, stderr=log, start_new_session=True
        )
    try:
        end = time.monotonic() + 120
        while True:
            with contextlib.suppress(requests.ConnectionError):
                if requests.get(f"{outer}/hub/health", timeout=10).ok:
                    break
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError("the hub does not start:\n" + (state / "log.txt").read_text())
            time.sleep(0.5)
        yield outer
    except BaseException:
        print((state / "log.txt").read_text()[-3000:], file=sys.stderr)
        raise
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(30)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


@contextlib.contextmanager
def course_repository(folder: Path):
    """The course as it is committed, served by git on this machine; its address and branch."""
    target, branch, port = folder / "course.git", "workshop", free_port()
    git = ["git", "-c", f"safe.directory={COURSE}"]
    subprocess.run([*git, "clone", "--quiet", "--bare", COURSE, target], check=True)
    subprocess.run([*git, "-C", target, "branch", "-f", branch, "HEAD"], check=True)
    daemon = ["git", "daemon", "--export-all", "--reuseaddr", "--listen=127.0.0.1"]
    server = subprocess.Popen(
        [*daemon, f"--port={port}", f"--base-path={folder}"],
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield f"git://127.0.0.1:{port}/course.git", branch
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)


def unreachable(name: str) -> str:
    """Why an account cannot use the Python of the course: it may stand in a closed home."""
    command = ["runuser", "-u", name, "--", PYTHON, "-c", "import sizing, jupyterhub, nbgitpuller"]
    done = subprocess.run(command, cwd="/", capture_output=True, text=True)
    return done.stderr.strip()[-300:] if done.returncode else ""


def judge(learners: list[Learner], kernels: list[Kernel], limit: float) -> list[tuple[str, bool]]:
    """What must not work, tried."""
    (mine, other), kernel = learners[:2], kernels[0]
    secret = other.home / "course" / "README.md"
    _, read = kernel.run(f"open({str(secret)!r}).read()")
    url = f"{other.base}/api/contents/course/README.md"
    answer = mine.session.get(url, timeout=60, allow_redirects=False)
    _, memory = kernel.run(f"x = bytearray({int(2 * limit)})")
    alive, _ = kernel.run("print(6 * 7)")
    mine_before = {process.pid for process in mine.processes()}
    kernel.socket.close()
    found = (mine.home / ".jupyter-run").glob("kernel-*.json")
    files = [json.loads(path.read_text())["transport"] for path in found]
    for process in mine.processes():
        with contextlib.suppress(psutil.NoSuchProcess):
            if "ipykernel_launcher" in " ".join(process.cmdline()):
                process.kill()
    answers = [other_kernel.run("print(6 * 7)")[0] for other_kernel in kernels[1:]]
    status = mine.session.get(f"{mine.base}/api/status", timeout=60)
    return [
        ("a learner cannot read a neighbour's file", read.startswith("PermissionError")),
        ("a learner cannot use a neighbour's server", answer.status_code in (302, 403, 404)),
        ("a kernel over its memory gets a MemoryError", memory.startswith("MemoryError")),
        ("and goes on afterwards", alive.strip() == "42"),
        ("kernels draw no port of the machine", bool(files) and set(files) == {"ipc"}),
        ("a killed kernel takes no other with it", all(a.strip() == "42" for a in answers)),
        ("nor its own server", bool(mine_before) and status.ok),
    ]


GUESS = """
from sizing.course import classroom, predict
widget = predict("hub.test", "How many?", "GB")
widget.box.value = "{value}"
widget.button.click()
print(widget.status.value)
print(classroom.shown("hub.test", "GB", 3.0))
"""


def guess(kernels: list[Kernel], box: Path) -> list[tuple[str, bool]]:
    """Every learner commits a guess; what the learners and what the instructor then sees."""
    told = [kernel.run(GUESS.format(value=n + 1))[0] for n, kernel in enumerate(kernels)]
    seen = classroom.pooled(box).get(("hub.test", "GB"), [])
    values = sorted(entry["guess"] for entry in seen)
    return [
        ("guesses of all reach the class", values == [n + 1 for n in range(len(kernels))]),
        ("and only the instructor sees them", all("instructor" in text for text in told)),
    ]


def listeners(uids: set[int]) -> list[str]:
    """Addresses, other than this machine's own, on which processes of these users listen."""
    found = []
    for connection in psutil.net_connections("inet"):
        if connection.status != psutil.CONN_LISTEN or connection.pid is None:
            continue
        with contextlib.suppress(psutil.NoSuchProcess):
            if psutil.Process(connection.pid).uids().real in uids:
                host = connection.laddr.ip
                found += [host] if host not in ("127.0.0.1", "::1") else []
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--learners", type=int, default=30)
    parser.add_argument("--memory", type=float, default=4e9, help="bytes for one process")
    options = parser.parse_args()
    if os.geteuid() or not shutil.which("useradd"):
        print("[SKIP] hub-test makes Unix accounts: run it as root on Linux, in a container.")
        return 2
    if there := [entry.pw_name for entry in pwd.getpwall() if entry.pw_name.startswith(PREFIX)]:
        print(
            f"[FAIL] the account {there[0]} exists: another hub-test runs, or one was cut short; "
            f"then: for name in {' '.join(there)}; do userdel --remove $name; done",
            file=sys.stderr,
        )
        return 1
    ports = tuple(free_port() for _ in range(3))
    address = f"http://127.0.0.1:{ports[0]}"
    learners = [Learner(number, address) for number in range(1, options.learners + 1)]
    names = [learner.name for learner in learners]
    everyone = ThreadPoolExecutor(max_workers=len(learners))
    with contextlib.ExitStack() as stack:
        state = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hub-")))
        for learner in learners:
            learner.create()
            stack.callback(learner.remove)
        if words := unreachable(names[0]):
            print(f"[FAIL] learners cannot use {PYTHON}: {words}\n{REMEDY}", file=sys.stderr)
            return 1
        shared = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="repository-")))
        repository, branch = stack.enter_context(course_repository(shared))
        box = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="class-")))
        box.chmod(0o1733)  # all put in, the owner alone lists
        stack.enter_context(hub(state, names, options.memory, ports, box))
        times = {}
        for step, work in (
            ("log in", Learner.log_in),
            ("server up", Learner.start),
            (
                "course pulled",
                lambda one: one.patiently(lambda: one.pull(repository, branch)),
            ),
        ):
            started = time.monotonic()
            list(everyone.map(work, learners))
            times[step] = time.monotonic() - started
        started = time.monotonic()
        lessons = list(everyone.map(run_lesson, learners))
        times["lesson 01 run by all at once"] = time.monotonic() - started
        kernels = [kernel for kernel, _, _ in lessons]
        seconds = sorted(seconds for _, seconds, _ in lessons)
        held = sorted(learner.memory() for learner in learners)
        verdicts = guess(kernels, box)
        verdicts += judge(learners, kernels, options.memory)
        outside = listeners({pwd.getpwnam(name).pw_uid for name in names})
        verdicts.append(("nothing of theirs listens beyond localhost", not outside))
    print(f"{len(learners)} learners, {psutil.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    for step, took in times.items():
        print(f"  {step:32s}{took:8.1f} s")
    print(f"  {'pages loaded again':32s}{sum(one.reloads for one in learners):8d}")
    middle = len(seconds) // 2
    print(
        f"  lesson 01, per learner          {seconds[middle]:8.1f} s, at most {seconds[-1]:.1f} s"
    )
    print(
        f"  {'memory per learner':32s}{held[middle] / GB:8.2f} GB, at most "
        f"{held[-1] / GB:.2f}, together {sum(held) / GB:.1f} GB"
    )
    for text, good in verdicts:
        print(f"{'[OK]' if good else '[FAIL]':7s}{text}")
    return int(not all(good for _, good in verdicts))


if __name__ == "__main__":
    sys.exit(main())
