"""`scvae-fast convert`."""

import argparse
from pathlib import Path

from scvae_fast.cli._types import Commands, count, positive


def add(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "convert",
        help="convert a checkpoint from the authors' released code, or back",
        description="Convert a checkpoint of the authors' released code (a file) into a folder for from_pretrained, or "
        "such a folder into a file that the authors' code loads, depending on what SOURCE is.",
        epilog="A checkpoint of the authors' code does not contain the number of iterations, β or the attention "
        "network. Pass them as --n-iter, --beta and --attention; --config and --preset provide some of them.",
    )
    parser.add_argument("source", metavar="SOURCE", help="a file such as best.pt; or a folder, or hf:user/name")
    parser.add_argument("out", type=Path, metavar="OUT", help="a folder; or a file such as official.pt")
    parser.add_argument("--n-iter", type=count, metavar="T", help="iterations of LISTA (the authors' num_soft_thresh)")
    parser.add_argument("--beta", type=positive, help="β, the weight of sparsity")
    parser.add_argument("--attention", choices=("constant", "eq", "GAT", "SSGC"), help="the authors' --attention")
    parser.add_argument("--preset", metavar="NAME", help="preset for iterations and architecture, e.g. ffhq256-16x16")
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="the authors' configuration (YAML), or its ddconfig alone (YAML or JSON): architecture and iterations",
    )
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from scvae_fast.commands.convert import OfficialOptions, convert

    given = OfficialOptions(
        n_iter=options.n_iter,
        beta=options.beta,
        attention=options.attention,
        preset=options.preset,
        config=options.config,
    )
    print(convert(options.source, options.out, given))
    return 0
