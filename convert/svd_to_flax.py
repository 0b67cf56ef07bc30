"""Convert Stable Video Diffusion from PyTorch's files to a checkpoint that `svdjax.load` reads.

python -m convert.svd_to_flax SOURCE OUT [--unet FILE] [--backward DIR [--backward-base DIR]] [--num-frames N]
    [--dtype float32|bfloat16|float16]
"""

from __future__ import annotations

if __name__ == "__main__":  # first: it prepares the process for Ctrl-C during the imports
    from svdjax.runtime import startup

    startup.begin()

import functools

from svdjax import loading
from svdjax.diffusers_layout.importing import Conversion, convert
from svdjax.errors import InputError
from svdjax.runtime import cli, paths
from svdjax.runtime.dtypes import DTYPES


def command(argv: list[str] | None) -> None:
    parser = cli.Parser(
        prog="python -m convert.svd_to_flax", description="Convert Stable Video Diffusion to a svdjax checkpoint."
    )
    parser.add_argument(
        "source",
        type=paths.path,
        metavar="SOURCE",
        help="a diffusers folder (unet/, vae/, ...), one file (svd_xt.safetensors), or a name on the Hugging Face hub",
    )
    parser.add_argument("out", type=paths.path, metavar="OUT", help="the checkpoint to write, a new folder")
    parser.add_argument(
        "--unet",
        type=paths.path,
        metavar="FILE",
        help="weights of a UNet to use instead of SOURCE's, such as AnimateLCM-SVD's: a safetensors file, or its folder",
    )
    parser.add_argument(
        "--num-frames", type=int, metavar="N", help="frames per clip of a single file (default: 14 for SVD, 25 for SVD-XT)"
    )
    parser.add_argument(
        "--backward",
        type=paths.path,
        metavar="DIR",
        help="a fine-tuned UNet for the backward direction: its folder, or a folder that holds it as unet/",
    )
    parser.add_argument(
        "--backward-base",
        type=paths.path,
        metavar="DIR",
        help="the UNet that --backward was fine-tuned from, if not SOURCE's: their difference is added to SOURCE's UNet",
    )
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="dtype to store (default: %(default)s)")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it is a checkpoint")
    args = parser.parse_args(argv)
    if args.backward_base is not None and args.backward is None:
        raise InputError("--backward-base: is given without --backward, expected both")
    options = vars(args)
    open_source = functools.partial(loading.open_pytorch, num_frames=options.pop("num_frames"), unet=options.pop("unet"))
    convert(Conversion(open_source=open_source, **options))


def main(argv: list[str] | None = None) -> int:
    return cli.run(command, argv)


if __name__ == "__main__":
    cli.leave(main())
