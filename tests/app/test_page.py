"""The actions of the page, and the command, without a browser."""

import asyncio
import re
import socket
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pictures import TINY, scene
from processes import run

from scvae_fast import cli
from scvae_fast.app import views
from scvae_fast.app.hosts import KnownHosts
from scvae_fast.commands import app as server
from scvae_fast.data import save_picture
from scvae_fast.data.pictures import to_bytes
from scvae_fast.models import SCVAE

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what gradio imports


@pytest.fixture(scope="module")
def model() -> SCVAE:
    torch.manual_seed(0)
    return SCVAE(TINY).eval()


@pytest.fixture
def visit(model: SCVAE):
    from scvae_fast.app.page import Visit

    return Visit(model, views.Limits(megapixels=0.5))


def test_an_upload_shows_its_results(visit, model: SCVAE, tmp_path: Path) -> None:
    save_picture(tmp_path / "a.png", scene(20, 30))
    kept, message, shown, original, rebuilt, figures, density, clusters, legend, atoms = visit.upload(
        str(tmp_path / "a.png"), 3
    )
    expected = views.look(model, views.read_picture(tmp_path / "a.png", views.Limits()))
    assert message == ""
    assert shown["visible"] is True
    np.testing.assert_array_equal(original, to_bytes(expected.picture))
    np.testing.assert_array_equal(rebuilt, to_bytes(expected.x_hat))
    assert f"<b>{expected.psnr:.2f} dB</b>" in figures
    assert f"<b>{expected.bits_per_pixel:.2f} bits per pixel</b>" in figures
    assert "30 × 20 pixels" in figures
    assert density.shape == clusters.shape == (20, 30, 3)
    assert len(re.findall(r"\d+ %", legend)) == 3
    most = int(expected.codes.usage().argmax())
    assert atoms[0][1] == f"{most}: {100 * int(expected.codes.usage()[most]) / len(expected.codes.counts):.0f} %"
    again, legend = visit.clusters(kept, 5)
    assert (kept._fields, kept.grey.nbytes) == (("grey", "codes"), 600), "a byte for each pixel is kept with the codes"
    assert len(re.findall(r"\d+ %", legend)) == 5
    assert not np.array_equal(again, clusters)


def test_a_refused_upload_says_why_and_hides_results(visit, tmp_path: Path) -> None:
    path = tmp_path / "<b>.png"
    path.write_text("no picture")
    view, message, shown, *others = visit.upload(str(path), 3)
    assert view is None
    assert "&lt;b&gt;.png: not a picture of a known format" in message
    assert shown["visible"] is False
    assert not any(others)
    assert visit.clusters(None, 4) == [None, ""]
    assert "You will see" in visit.upload(None, 3)[1]


def test_a_code_without_entries_has_no_atoms_to_show(visit, model: SCVAE, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(model.bottleneck, "lmbda", 1e9)
    save_picture(tmp_path / "a.png", scene(20, 30))
    results = visit.upload(str(tmp_path / "a.png"), 4)
    assert results[-1] == []
    assert results[-2].count("<i") == 1  # all cells are alike


@pytest.mark.parametrize(
    ("host", "known"),
    [
        ("127.0.0.1:7860", True),
        ("localhost:7860", True),
        ("[::1]:7860", True),
        ("192.0.2.7", True),
        ("Page.Example.:80", True),
        (socket.gethostname(), True),
        ("rebound.example:7860", False),
        ("127.0.0.1.rebound.example", False),
        ("", False),
    ],
)
def test_requests_under_other_names_are_refused(host: str, known: bool) -> None:
    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200})

    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {"type": "http", "headers": [(b"host", host.encode())] if host else []}
    asyncio.run(KnownHosts(app, ["page.example"])(scope, None, send))
    assert sent[0]["status"] == (200 if known else 400)


def test_a_port_in_use_is_one_error(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert cli.main(["app", "--checkpoint", "nowhere", "--port", port]) == cli.FAILED
    assert capsys.readouterr().err == (
        f"scvae-fast app: can't listen on 127.0.0.1, port {port}: Address already in use; choose another one with "
        "--port\n"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--port", "70000"], "argument --port: must be 1 … 65535, got '70000'"),
        (["--max-megapixels", "0"], "argument --max-megapixels: must be a positive number, got '0'"),
    ],
)
def test_wrong_options(options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["app", "--checkpoint", "x", *options])
    assert message in capsys.readouterr().err


def test_a_missing_checkpoint_and_a_wrong_host(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    (tmp_path / "empty").mkdir()
    assert cli.main(["app", "--checkpoint", str(tmp_path / "empty"), "--port", port]) == cli.FAILED
    assert "can't be loaded" in capsys.readouterr().err
    assert cli.main(["app", "--checkpoint", "x", "--host", "203.0.113.1", "--port", port]) == cli.FAILED
    assert "scvae-fast app: can't listen on 203.0.113.1" in capsys.readouterr().err


def test_without_gradio_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("scvae_fast.cli.app.find_spec", lambda name: None)
    assert cli.main(["app", "--checkpoint", "x"]) == cli.FAILED
    assert capsys.readouterr().err == 'scvae-fast app: the page needs gradio: pip install "scvae_fast[app]"\n'


VISITORS = """
import sys
from contextlib import nullcontext
import gradio as gr
from gradio.state_holder import StateHolder
from scvae_fast import cli
from scvae_fast.commands import app

kept = StateHolder()

def launch(page, *, state_session_capacity, **options):  # what gradio's own does with it, without a server
    page.state_session_capacity = state_session_capacity
    kept.set_blocks(page)

class Visitors:  # come while the page is served, which ends then
    def wait(self):
        (state,) = (key for key, block in kept.blocks.blocks.items() if isinstance(block, gr.State))
        for number in range(100):
            kept[f"visitor {number}"][state] = number
        print("kept:", *(session[state] for session in kept.session_data.values()))

gr.Blocks.launch, gr.Blocks.close = launch, lambda page, verbose: None
app._until_stopped = lambda: nullcontext(Visitors())
sys.exit(cli.main(["app", "--checkpoint", sys.argv[1], "--port", sys.argv[2], "--device", "cpu"]))
"""


@pytest.mark.processes  # building a page leaves loops and sockets open
def test_the_server_keeps_the_codes_of_so_many_visitors(checkpoint: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    printed = run(sys.executable, "-W", "ignore", "-c", VISITORS, str(checkpoint), port)
    assert f"kept: {' '.join(map(str, range(100 - 32, 100)))}\n" in printed


def test_models_are_called_as_their_training(tmp_path: Path) -> None:
    for name in ("model", "last.ckpt"):
        assert server._called(str(tmp_path / "pictures64" / name)) == "pictures64"
    assert server._called(str(tmp_path / "mine") + "/") == "mine"
