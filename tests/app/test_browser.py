"""The page in a browser: an upload, its results, refusals, and the destinations of requests."""

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import pytest
import torch
from pictures import TINY, scene

from scvae_fast.app import views
from scvae_fast.data import save_picture
from scvae_fast.data.pictures import load_picture
from scvae_fast.models import SCVAE
from scvae_fast.models.loading import load_model

pytestmark = pytest.mark.browser

_FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)
_PATIENCE = 60_000  # milliseconds


class Served(NamedTuple):
    address: str
    checkpoint: Path


@pytest.fixture(scope="module")
def served(browser_path: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("app")
    torch.manual_seed(0)
    SCVAE(TINY).save_pretrained(folder / "tiny")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "scvae_fast", "app", "--checkpoint", str(folder / "tiny"), "--port", str(port)]
    limits = ["--max-mebibytes", "0.1", "--max-megapixels", "0.01", "--device", "cpu"]
    with open(folder / "errors", "w+") as errors:
        server = subprocess.Popen([*command, *limits], stdout=subprocess.PIPE, stderr=errors, text=True)
        try:
            assert server.stdout is not None
            assert server.stdout.readline() == "starting …\n"
            line = server.stdout.readline()
            errors.seek(0)
            assert line == f"the page is at http://127.0.0.1:{port} (Ctrl-C stops it)\n", errors.read()
            yield Served(f"http://127.0.0.1:{port}", folder / "tiny")
            server.send_signal(signal.SIGTERM)
            rest, _ = server.communicate(timeout=60)
        finally:
            server.kill()
            server.wait()
        errors.seek(0)
        assert (server.returncode, rest, errors.read()) == (0, "stopped\n", "")


@pytest.fixture
def page(browser_path: str, served: Served):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=_FLAGS.split())
        page = browser.new_page()
        page.set_default_timeout(_PATIENCE)
        hosts: set[str | None] = set()
        page.on("request", lambda request: hosts.add(urlsplit(request.url).hostname))
        page.on("websocket", lambda opened: hosts.add(urlsplit(opened.url).hostname))
        page.goto(served.address)
        yield page
        browser.close()
    assert hosts - {None} == {"127.0.0.1"}  # blob: and data: addresses have no host


def test_an_upload_shows_the_figures_of_the_library(page, served: Served, tmp_path: Path) -> None:
    save_picture(tmp_path / "waves.png", scene(37, 50))
    page.locator("#message", has_text="You will see").wait_for()
    page.locator("input[type=file]").first.set_input_files(tmp_path / "waves.png")
    figures = page.locator("#figures")
    figures.get_by_text("bits per pixel").wait_for()
    view = views.look(load_model(served.checkpoint), load_picture(tmp_path / "waves.png"))
    text = figures.inner_text()
    assert f"{view.psnr:.2f} dB" in text
    assert f"{100 * view.codes.density:.1f} % of the entries" in text
    assert f"{view.bits_per_pixel:.2f} bits per pixel" in text
    for name in ("original", "rebuilt", "density", "clusters"):
        image = page.locator(f"#{name} img")
        image.wait_for()
        page.wait_for_function("image => image.complete && image.naturalWidth > 0", arg=image.element_handle())
        assert image.evaluate("image => [image.naturalWidth, image.naturalHeight]") == [50, 37]
    assert page.locator("#atoms img").count() == min(24, int((view.codes.usage() > 0).sum()))
    legend = page.locator(".legend > span")
    assert legend.count() == 5
    page.locator("#groups input[type=number]").fill("3")
    page.locator("#groups input[type=number]").press("Enter")
    page.wait_for_function("document.querySelectorAll('.legend > span').length == 3")


def test_too_large_uploads_are_refused_in_a_sentence(page, tmp_path: Path) -> None:
    save_picture(tmp_path / "wide.png", torch.zeros(3, 101, 100))
    page.locator("input[type=file]").first.set_input_files(tmp_path / "wide.png")
    alert = page.locator(".problem")
    alert.wait_for()
    assert alert.inner_text() == "wide.png: 100 x 101 = 10,100 pixels are too many, at most 10,000 are allowed"
    assert not page.locator("#figures").is_visible()


def test_too_heavy_files_are_refused_in_a_sentence(page, tmp_path: Path) -> None:
    (tmp_path / "heavy.png").write_bytes(bytes(150_000))
    page.locator("input[type=file]").first.set_input_files(tmp_path / "heavy.png")
    alert = page.locator(".problem")
    alert.wait_for()
    assert alert.inner_text() == "heavy.png: has 0.1 MiB; at most 0.1 MiB are allowed"
    assert not page.locator("#figures").is_visible()


def test_results_fit_a_telephone(page, tmp_path: Path) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    save_picture(tmp_path / "waves.png", scene(37, 50))
    page.locator("input[type=file]").first.set_input_files(tmp_path / "waves.png")
    page.locator("#figures").get_by_text("bits per pixel").wait_for()
    page.locator("#atoms img").first.wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_the_server_answers_to_its_own_names(served: Served) -> None:
    import httpx

    answers = [
        httpx.get(served.address, headers={"host": host}, trust_env=False).status_code
        for host in ("localhost", "rebound.example")
    ]
    assert answers == [200, 400]


def test_the_server_refuses_heavy_files_by_itself(served: Served) -> None:
    import httpx

    upload = f"{served.address}/gradio_api/upload"
    answers = [httpx.post(upload, files={"files": ("x.png", bytes(size))}, trust_env=False) for size in (100, 600_000)]
    assert [answer.status_code for answer in answers] == [200, 413]
