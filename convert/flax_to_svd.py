"""Write the backward UNet of a checkpoint, or the whole model, for PyTorch: a diffusers folder or one file.

python -m convert.flax_to_svd MODEL OUT [--whole | --only-trained | --single-file] [--backward PATH] [--dtype DTYPE]
    [--overwrite]
"""

from __future__ import annotations

if __name__ == "__main__":  # first: it prepares the process for Ctrl-C during the imports
    from svdjax.runtime import startup

    startup.begin()

from svdjax.checkpoints.backward_file import ENDING
from svdjax.diffusers_layout.exporting import Export, export, export_backward_file
from svdjax.errors import InputError
from svdjax.original_layout.exporting import export_file
from svdjax.runtime import cli, paths
from svdjax.runtime.dtypes import DTYPES


def command(argv: list[str] | None) -> None:
    parser = cli.Parser(
        prog="python -m convert.flax_to_svd",
        description="Write the backward UNet of a checkpoint, or the whole model, for PyTorch: a diffusers folder or one file.",
    )
    parser.add_argument("model", type=paths.path, metavar="MODEL", help="a checkpoint of convert.svd_to_flax or train.base")
    parser.add_argument("out", type=paths.path, metavar="OUT", help="the folder or .safetensors file to write")
    parts = parser.add_mutually_exclusive_group()
    parts.add_argument(
        "--whole", action="store_true", help="write unet/, vae/, image_encoder/, scheduler/ and, if fine-tuned, unet_backward/"
    )
    parts.add_argument(
        "--only-trained",
        action="store_true",
        help="write only the trained tensors: a small UNet folder for convert.svd_to_flax --backward; if OUT ends in "
        ".safetensors, one file of their differences from the UNet's, for --backward of all commands",
    )
    parts.add_argument(
        "--single-file",
        action="store_true",
        help="write the whole model, without backward weights, as one .safetensors file in Stability's layout, as for ComfyUI",
    )
    parser.add_argument(
        "--backward", type=paths.path, metavar="PATH", help="backward weights of train.backward, used instead of MODEL's own"
    )
    parser.add_argument("--dtype", choices=DTYPES, help="dtype to write (default: the dtype that MODEL is stored in)")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if this command wrote it")
    job = Export(**vars(parser.parse_args(argv)))
    if job.single_file:
        if job.backward is not None:
            raise InputError("--backward: is given with --single-file, which holds no backward weights: use --only-trained")
        export_file(job)
    elif job.only_trained and job.out.suffix == ENDING:
        export_backward_file(job)
    else:
        export(job)


def main(argv: list[str] | None = None) -> int:
    return cli.run(command, argv)


if __name__ == "__main__":
    cli.leave(main())
