"""Open notebooks in a real JupyterLab in headless Chromium, for the browser tests and for looking.

    python tests/browser/lab.py notebooks/00-start-here.ipynb --out build/shots [--dark]

copies the notebook aside, runs every cell of the copy in JupyterLab, and saves a series of
screenshots from top to bottom. The committed notebook is never written to.
"""

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Locator, Page, sync_playwright

ROOT = Path(__file__).resolve().parents[2]
THEMES = {False: "JupyterLab Light", True: "JupyterLab Dark"}
LAB = (sys.executable, "-m", "jupyterlab", f"--LabApp.app_settings_dir={ROOT / 'jupyter'}")
NOTEBOOK = "window.jupyterapp.shell.currentWidget"


def find_chromium() -> str | None:
    """The path of an installed Chromium, or None."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next((path for name in names if (path := shutil.which(name))), None)


@contextmanager
def jupyter_lab(
    folder: Path,
    *,
    dark: bool = False,
    command: tuple[str, ...] = LAB,
    env: dict[str, str] | None = None,
) -> Iterator[str]:
    """A JupyterLab in `folder`; yields the address that it opens in the browser. Stopped on exit.

    Its configuration, settings, workspaces and guesses live in a folder of their own, so a user's
    own JupyterLab is neither read nor changed.

    Raises:
        RuntimeError: it does not start; the message ends with its log.
    """
    with tempfile.TemporaryDirectory(prefix="lab-") as name:
        home = Path(name)
        _write(
            home / "config/jupyter_server_config.json",
            {
                "ServerApp": {"ip": "127.0.0.1", "allow_root": True},
                "LabApp": {"expose_app_in_browser": True},  # window.jupyterapp
            },
        )
        _write(
            home / "settings/@jupyterlab/apputils-extension/themes.jupyterlab-settings",
            {"theme": THEMES[dark], "adaptive-theme": False},
        )
        _write(  # every cell stands in the page, not only those in view
            home / "settings/@jupyterlab/notebook-extension/tracker.jupyterlab-settings",
            {"windowingMode": "none"},
        )
        # The browser that it opens is a script that copies the page with the address.
        browser, opened = home / "browser", home / "opened.html"
        browser.write_text(
            f'#!/bin/sh\ncp "${{1#file://}}" {opened}.part && mv {opened}.part {opened}\n'
        )
        browser.chmod(0o755)
        environment = os.environ | {
            "BROWSER": str(browser),
            "JUPYTER_CONFIG_DIR": str(home / "config"),
            "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
            "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
            "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
            "JUPYTER_PATH": str(ROOT / "jupyter"),  # the course's own extension
            "IPYTHONDIR": str(home / "ipython"),
            "SIZING_LEARNER_DIR": str(home / "learner"),
            **(env or {}),
        }
        log = home / "log.txt"
        with log.open("w") as sink:
            server = subprocess.Popen(
                command,
                stdout=sink,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd=folder,
                start_new_session=True,
            )
        try:
            _wait_for(opened, server, log)
            yield re.search('href="([^"]+)"', opened.read_text())[1]
        finally:
            _stop(server)


def _write(path: Path, values: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values))


def _wait_for(path: Path, server: subprocess.Popen, log: Path, seconds: float = 60) -> None:
    give_up = time.monotonic() + seconds
    while not path.exists():
        if time.monotonic() > give_up or server.poll() is not None:
            raise RuntimeError(f"JupyterLab did not start:\n{log.read_text()[-3000:]}")
        time.sleep(0.1)


def _stop(server: subprocess.Popen) -> None:
    """End the server and what started it (its group); it ends its kernels."""
    if server.poll() is None:
        os.killpg(server.pid, signal.SIGTERM)
    try:
        server.wait(15)
    except subprocess.TimeoutExpired:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


@contextmanager
def browser_page(*, width: int = 1280, height: int = 1000, scale: float = 1) -> Iterator[Page]:
    """A page of a fresh headless Chromium (its profile is temporary).

    Raises:
        RuntimeError: no Chromium is installed.
    """
    chromium = find_chromium()
    if chromium is None:
        raise RuntimeError("no chromium on the PATH: install it (Debian: apt install chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium, args=["--headless=new", "--no-sandbox", "--disable-gpu"]
        )
        try:
            yield browser.new_page(
                viewport={"width": width, "height": height},
                device_scale_factor=scale,
                permissions=["clipboard-read", "clipboard-write"],
            )
        finally:
            browser.close()


def open_notebook(page: Page, address: str, name: str) -> None:
    """Open the notebook `name` (relative to the server's folder) alone, and wait for its kernel."""
    page.goto(address.replace("/lab?", f"/doc/tree/{name}?reset&"))
    wait_for_kernel(page)


def wait_for_kernel(page: Page, seconds: float = 60) -> None:
    page.wait_for_function(
        f"""() => window.jupyterapp && {NOTEBOOK}?.context?.sessionContext
              ?.session?.kernel?.connectionStatus === 'connected'""",
        timeout=1000 * seconds,
    )


def run_all(page: Page, seconds: float = 300) -> None:
    """Run every cell and let the widgets and pictures appear.

    Raises:
        RuntimeError: a cell ended in an error (the message quotes it), or the time is over.
    """
    finished = page.evaluate(
        """seconds => Promise.race([
            window.jupyterapp.commands.execute('notebook:run-all-cells').then(() => true),
            new Promise(resolve => setTimeout(resolve, 1000 * seconds, false)),
        ])""",
        seconds,
    )
    if not finished:
        raise RuntimeError(f"the cells did not end within {seconds} s")
    cells = page.evaluate(f"{NOTEBOOK}.content.model.toJSON().cells")
    for output in (output for cell in cells for output in cell.get("outputs", ())):
        if output["output_type"] == "error":
            raise RuntimeError(f"a cell failed: {output['ename']}: {output['evalue']}")
    page.wait_for_timeout(500)


def control(page: Page, label: str) -> Locator:
    """What takes the keyboard in the first control with this label: slider, drop-down or text."""
    name = page.locator(".widget-label", has_text=re.compile(f"^{re.escape(label)}$"))
    row = page.locator(".widget-inline-hbox", has=name).first
    return row.locator(".noUi-handle, select, textarea")


@contextmanager
def live_notebook(
    source: Path, *, dark: bool = False, env: dict[str, str] | None = None, **view
) -> Iterator[Page]:
    """A copy of the notebook at `source`, open in JupyterLab in Chromium; yields the page."""
    with tempfile.TemporaryDirectory(prefix="notebook-") as folder:
        shutil.copy(source, folder)
        with (
            jupyter_lab(Path(folder), dark=dark, env=env) as address,
            browser_page(**view) as page,
        ):
            open_notebook(page, address, source.name)
            yield page


def screenshots(page: Page, stem: Path) -> list[Path]:
    """Save the notebook from top to bottom as STEM-01.png, STEM-02.png, ...; their paths."""
    panel = page.locator(".jp-NotebookPanel:not(.lm-mod-hidden) .jp-WindowedPanel-outer")
    height, total = panel.evaluate("e => [e.clientHeight, e.scrollHeight]")
    paths = []
    for number, top in enumerate(range(0, max(total - 60, 1), height - 60), 1):
        panel.evaluate("(e, top) => e.scrollTo(0, top)", top)
        page.wait_for_timeout(120)
        paths.append(stem.with_name(f"{stem.name}-{number:02}.png"))
        panel.screenshot(path=paths[-1])
    return paths


def main() -> None:
    parser = argparse.ArgumentParser(description="Run a notebook in JupyterLab and look at it.")
    parser.add_argument("notebook", type=Path)
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "shots")
    parser.add_argument("--dark", action="store_true", help="JupyterLab's dark theme")
    parser.add_argument("--recorded", action="store_true", help="recordings, not measurements")
    parser.add_argument("--width", type=int, default=1280, help="of the window, in pixels")
    parser.add_argument("--height", type=int, default=1400, help="of the window, in pixels")
    parser.add_argument("--timeout", type=float, default=600, help="seconds for all cells")
    options = parser.parse_args()
    env = {"SIZING_RECORDED": "1"} if options.recorded else {}
    view = {"width": options.width, "height": options.height}
    with live_notebook(options.notebook, dark=options.dark, env=env, **view) as page:
        started = time.monotonic()
        run_all(page, options.timeout)
        print(f"ran in {time.monotonic() - started:.1f} s")
        stem = options.out / (options.notebook.stem + ("-dark" if options.dark else ""))
        for path in screenshots(page, stem):
            print(path)


if __name__ == "__main__":
    main()
