"""`scvae-fast app`."""

import argparse
from importlib.util import find_spec

from scvae_fast.cli._types import Commands, add_checkpoint, add_device, positive


def add(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "app",
        help="serve a web page to try a trained model on pictures",
        description="Serve a page to drop pictures into. It shows reconstructions and PSNR, where codes are dense, "
        "which atoms are used, and K-means clusters of the cells. It listens on this machine only, unless --host says "
        "otherwise, and sends nothing to other machines.",
    )
    add_checkpoint(parser)
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="address to listen on; 0.0.0.0 admits everyone who can reach this machine (default: %(default)s)",
    )
    parser.add_argument(
        "--allow-host",
        nargs="+",
        default=[],
        metavar="NAME",
        help="host names to answer to, in addition to addresses, localhost and this machine's own name",
    )
    parser.add_argument("--port", type=_port, default=7860, metavar="N", help="default: %(default)s")
    parser.add_argument(
        "--max-mebibytes",
        type=positive,
        default=16.0,
        metavar="MIB",
        help="refuse larger files (default: %(default)g)",
    )
    parser.add_argument(
        "--max-megapixels",
        type=positive,
        default=4.0,
        metavar="N",
        help="refuse larger pictures, before they are decoded (default: %(default)g)",
    )
    add_device(parser)
    parser.set_defaults(run=_run)


def _port(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"must be 1 … 65535, got {text!r}")
    return int(text)


def _run(options: argparse.Namespace) -> int:
    # Checked first because it is imported later; its extra installs everything else too.
    if find_spec("gradio") is None:
        raise ImportError('the page needs gradio: pip install "scvae_fast[app]"')
    print("starting …", flush=True)  # the imports take seconds
    from scvae_fast.app.views import Limits
    from scvae_fast.commands.app import serve

    serve(
        options.checkpoint,
        host=options.host,
        names=options.allow_host,
        port=options.port,
        limits=Limits(options.max_mebibytes, options.max_megapixels),
        device=options.device,
    )
    return 0
