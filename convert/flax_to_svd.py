"""Write the backward UNet of a checkpoint, or the whole model, as a diffusers folder for PyTorch.

python -m convert.flax_to_svd MODEL OUT [--whole | --only-trained] [--backward DIR] [--dtype DTYPE] [--overwrite]
"""

from __future__ import annotations

if __name__ == "__main__":  # first: it prepares the process for Ctrl-C during the imports
    from svdjax.runtime import startup

    startup.begin()

from svdjax.diffusers_layout.exporting import Export, export
from svdjax.runtime import cli, paths
from svdjax.runtime.dtypes import DTYPES


def command(argv: list[str] | None) -> None:
    parser = cli.Parser(
        prog="python -m convert.flax_to_svd",
        description="Write the backward UNet of a checkpoint, or the whole model, as a diffusers folder for PyTorch.",
    )
    parser.add_argument("model", type=paths.path, metavar="MODEL", help="a checkpoint of convert.svd_to_flax or train.base")
    parser.add_argument("out", type=paths.path, metavar="OUT", help="the folder to write, for the UNet or the whole model")
    parts = parser.add_mutually_exclusive_group()
    parts.add_argument(
        "--whole", action="store_true", help="write unet/, vae/, image_encoder/, scheduler/ and, if fine-tuned, unet_backward/"
    )
    parts.add_argument(
        "--only-trained",
        action="store_true",
        help="write only the trained tensors: a small UNet folder for convert.svd_to_flax --backward",
    )
    parser.add_argument(
        "--backward", type=paths.path, metavar="DIR", help="backward weights of train.backward, used instead of MODEL's own"
    )
    parser.add_argument("--dtype", choices=DTYPES, help="dtype to write (default: the dtype that MODEL is stored in)")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if this command wrote it")
    export(Export(**vars(parser.parse_args(argv))))


def main(argv: list[str] | None = None) -> int:
    return cli.run(command, argv)


if __name__ == "__main__":
    cli.leave(main())
