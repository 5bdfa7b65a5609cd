"""`scvae-fast app`: the page, served until someone stops it."""

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

# Visitors whose last codes are kept, and how many times as large a file may be as one that is taken.
_SESSIONS = 32
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
    """Serve the page until Ctrl-C or SIGTERM. Nothing is sent to another machine, and uploads go when it ends.

    Args:
        checkpoint: what `load_model` takes.
        host: the address to listen on; "127.0.0.1" is for this machine alone.
        port: 1 … 65535.
        limits: of the pictures that are taken.
        names: by which browsers may ask for the page, see `KnownHosts`.
        device: where the model runs; a GPU where there is one if None.

    Raises:
        UsageError: the checkpoint can't be loaded, or the address can't be listened on.
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
                    # The page itself refuses what is somewhat larger, with a sentence that stays.
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
                print(f"the page is at http://{_shown(host)}:{port} (Ctrl-C ends it)", flush=True)
                stopped.wait()
                print("stopped")
            finally:
                built.close(verbose=False)


def _called(checkpoint: str) -> str:
    """A name for it: that of the training, where it is a part of one."""
    path = Path(checkpoint).resolve()
    return path.parent.name if path.name in (MODEL_FOLDER, STATE_FILE) else path.name


def _check_free(host: str, port: int) -> None:
    """Raises UsageError unless the address can be listened on."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            # As servers do it: a connection that has just ended does not keep the port.
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
    """Gradio reads its folder and whether to report its use from the environment."""
    ours = {"GRADIO_TEMP_DIR": folder, "GRADIO_ANALYTICS_ENABLED": "False"}
    before = {name: os.environ.get(name) for name in ours}
    os.environ.update(ours)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of what gradio itself imports
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
