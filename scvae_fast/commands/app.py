"""`scvae-fast app`: serves the page until it is stopped."""

from __future__ import annotations

import os
import signal
import socket
import tempfile
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from scvae_fast.app.views import MEBI, Limits
from scvae_fast.commands._inputs import InferenceOptions
from scvae_fast.errors import UsageError
from scvae_fast.models.loading import MODEL_FOLDER, STATE_FILE

# Number of visitors whose last codes are kept.
_SESSIONS = 32
# Gradio refuses uploads above this multiple of the largest file that the page accepts.
_TAKEN_TO_BE_REFUSED = 4


def serve(
    checkpoint: str,
    *,
    host: str,
    port: int,
    limits: Limits,
    names: Sequence[str] = (),
    device: str | None = None,
) -> None:
    """Serve the page until Ctrl-C or SIGTERM. Nothing is sent to other machines; uploads are deleted at the end.

    Args:
        checkpoint: see `load_model`.
        host: the address to listen on; "127.0.0.1" admits only this machine.
        port: 1 … 65535.
        limits: on the pictures that are accepted.
        names: additional host names that the page answers to, see `KnownHosts`.
        device: where the model runs; None takes a GPU if there is one.

    Raises:
        UsageError: the checkpoint can't be loaded, or the server can't listen on the address.
    """
    _check_free(host, port)
    model, _ = InferenceOptions(device=device).load(checkpoint)
    with tempfile.TemporaryDirectory(prefix="scvae-fast-app-") as folder, _quiet_gradio(folder):
        from starlette.middleware import Middleware

        from scvae_fast.app import page
        from scvae_fast.app.hosts import KnownHosts

        built = page.build(model, limits, _called(checkpoint))
        with _until_stopped() as stopped:
            try:
                built.launch(
                    server_name=host,
                    server_port=port,
                    share=False,
                    ssr_mode=False,
                    quiet=True,
                    show_error=False,
                    enable_monitoring=False,
                    footer_links=[],
                    # Files that are only somewhat too large reach the page, which refuses them with a lasting message.
                    max_file_size=int(_TAKEN_TO_BE_REFUSED * limits.mebibytes * MEBI),
                    state_session_capacity=_SESSIONS,
                    app_kwargs={"middleware": [Middleware(KnownHosts, names=(host, *names))]},
                    prevent_thread_lock=True,
                    theme=page.THEME,
                    css=page.STYLE,
                )
            except OSError as error:
                raise UsageError(f"can't listen on {host}, port {port}: {error}") from error
            try:
                print(f"the page is at http://{_shown(host)}:{port} (Ctrl-C stops it)", flush=True)
                stopped.wait()
                print("stopped")
            finally:
                built.close(verbose=False)


def _called(checkpoint: str) -> str:
    """A name for the checkpoint; within the folder of a training run, the name of that folder."""
    path = Path(checkpoint).resolve()
    return path.parent.name if path.name in (MODEL_FOLDER, STATE_FILE) else path.name


def _check_free(host: str, port: int) -> None:
    """Check that a server can listen on the address; raise UsageError otherwise."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            # As in servers: a connection that has just ended then does not block the port.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        raise UsageError(
            f"can't listen on {host}, port {port}: {error.strerror}; choose another one with --port"
        ) from error


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host


@contextmanager
def _quiet_gradio(folder: str) -> Iterator[None]:
    """Make gradio keep its files in the folder and report nothing; it reads both from the environment."""
    ours = {"GRADIO_TEMP_DIR": folder, "GRADIO_ANALYTICS_ENABLED": "False"}
    before = {name: os.environ.get(name) for name in ours}
    os.environ.update(ours)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # from gradio's own imports
            yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _until_stopped() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set."""
    stopped = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        stopped.set()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
