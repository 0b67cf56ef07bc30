"""Write the backward UNet of a checkpoint, or all of it, as a diffusers folder, for use in PyTorch.

python -m convert.flax_to_svd MODEL OUT [--whole | --only-trained] [--backward DIR] [--dtype DTYPE] [--overwrite]
"""

from __future__ import annotations

from pathlib import Path

from svdjax.diffusers_layout.exporting import DTYPES, Export, export
from svdjax.runtime import cli


def command(argv: list[str] | None) -> None:
    parser = cli.Parser(
        prog="python -m convert.flax_to_svd",
        description="Write the backward UNet of a checkpoint, or all of it, as a diffusers folder.",
    )
    parser.add_argument("model", type=Path, metavar="MODEL", help="a checkpoint made by python -m convert.svd_to_flax")
    parser.add_argument("out", type=Path, metavar="OUT", help="the UNet's folder to write, a new one, or that of all of them")
    parts = parser.add_mutually_exclusive_group()
    parts.add_argument(
        "--whole", action="store_true", help="write unet/, vae/, image_encoder/, scheduler/ and, tuned, unet_backward/"
    )
    parts.add_argument(
        "--only-trained",
        action="store_true",
        help="write the backward tensors alone: small, read by convert.svd_to_flax --backward",
    )
    parser.add_argument(
        "--backward", type=Path, metavar="DIR", help="backward weights of python -m train.backward instead of MODEL's own"
    )
    parser.add_argument("--dtype", choices=DTYPES, help="dtype to write (the one that MODEL is stored in)")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if this command wrote it")
    export(Export(**vars(parser.parse_args(argv))))


def main(argv: list[str] | None = None) -> int:
    return cli.run(command, argv)


if __name__ == "__main__":
    cli.leave(main())
