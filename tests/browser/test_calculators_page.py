"""`make calculators`: the page that Voila serves, read as text and seen in Chromium."""

import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from importlib.util import find_spec

import pytest
from audit import axe_source, violations
from lab import browser_page, control
from nbclient import NotebookClient
from test_lab import need_chromium, shoot

from sizing.calculators import __main__ as served

TITLES = [calculator.title for calculator in served.listed().values()]


def test_every_calculator_is_on_the_page_and_runs():
    book = served.page()
    NotebookClient(book, timeout=120).execute()
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    assert len(code) == len(TITLES) == len(set(TITLES)) >= 13
    for cell, title in zip(code, TITLES, strict=True):
        (output,) = cell.outputs  # no error, nothing printed
        assert "application/vnd.jupyter.widget-view+json" in output.data
        assert output.data["text/plain"].startswith(title)
    assert set(served.ORDER) == set(served.listed())  # a new calculator has its place


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """Where the real server answers, until the tests are over."""
    if find_spec("voila") is None:
        pytest.skip("voila is not installed (requirements.txt)")
    log = tmp_path_factory.mktemp("voila") / "log"
    with socket.socket() as free:
        free.bind((served.HOST, 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "sizing.calculators", "--no-browser", f"--port={port}"]
    with log.open("w") as sink:
        server = subprocess.Popen(command, stdout=sink, stderr=sink, start_new_session=True)
    try:
        give_up = time.monotonic() + 120
        while not (found := re.search(r"(http://\S+:\d+)/", log.read_text())):
            assert time.monotonic() < give_up and server.poll() is None, log.read_text()[-3000:]
            time.sleep(0.2)
        yield found[1]
    finally:
        server.send_signal(signal.SIGINT)
        try:
            server.wait(15)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


@pytest.mark.slow
def test_the_server_answers_on_this_machine_alone(address):
    assert address.startswith(f"http://{served.HOST}:")
    html = urllib.request.urlopen(address, timeout=180).read().decode()
    assert served.TITLE in html and "Traceback" not in html
    for title in TITLES:
        assert f">{title}<" in html
    assert "sizing.calculators import" not in html  # no code is shown


@pytest.mark.browser
@pytest.mark.slow
def test_the_page_in_a_browser(address):
    need_chromium()
    with browser_page(width=1280, height=800) as page:
        page.goto(address, timeout=180_000)
        page.wait_for_function(
            f"document.querySelectorAll('.sizing img').length >= {len(TITLES)}", timeout=180_000
        )
        assert page.locator(".sizing").count() == len(TITLES)
        page.locator("h2", has_text="Planner").last.scroll_into_view_if_needed()
        handle = control(page, "deadline")  # no other calculator has one
        box = page.locator(".sizing-wide", has=handle)
        before = box.locator("img").get_attribute("src")
        handle.focus()
        page.keyboard.press("ArrowLeft")
        box.locator(".sizing-changed", has_text="deadline 30 days").wait_for()
        assert box.locator("img").get_attribute("src") != before
        shoot(page, "calculators-page")
        if axe_source() is not None:  # requirements.txt; test_lessons fails where CI is set
            assert not (found := violations(page, (".sizing",))), "\n".join(found)
