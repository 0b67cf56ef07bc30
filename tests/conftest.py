"""Data that several files of tests read."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest

DATA = Path(__file__).parent / "data"

# Most of the time is XLA's compiling, which this shortens by a third: LLVM optimises less, and doesn't divide its work between
# threads that other workers need. To be set before JAX starts; commands that tests run inherit it.
FAST_COMPILING = (
    "--xla_backend_optimization_level=1 --xla_llvm_disable_expensive_passes=true --xla_cpu_parallel_codegen_split_count=1"
)
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FAST_COMPILING}"

# A shell that starts tests in the background ignores SIGINT for them, and so would commands that tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """Commands keep compiled programs in the user's cache folder; tests have one of their own, parallel workers together."""
    base = tmp_path_factory.getbasetemp()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cache"))
        yield


@pytest.fixture(scope="session", autouse=True)
def freed_memory_is_given_back():
    """Commands of training change the heap of their process for good; here many tests share one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("svdjax.runtime.malloc.keep_freed", lambda: False)
        yield


@pytest.fixture(scope="session")
def pipeline_data():
    """Arrays of the official sampler: draws, sigmas, latents after every step, frames."""
    return np.load(DATA / "pipeline.npz")


@pytest.fixture(scope="session")
def unet_data():
    """Arrays of the official UNet: inputs, outputs, every temporal map."""
    return np.load(DATA / "unet.npz")


@pytest.fixture
def quick_shapes(monkeypatch):
    """Loading and converting build the same small networks again and again, for their shapes: here once each."""
    import svd_folders  # which imports PyTorch

    from svdjax.checkpoints import checkpoint
    from svdjax.diffusers_layout import exporting, importing

    for module in (exporting, importing, checkpoint):
        monkeypatch.setattr(module, "abstract", svd_folders.cached_abstract)


@pytest.fixture
def save_as_npz(monkeypatch):
    """Conversions that write .npz files instead of Orbax's trees, in a fraction of the time; nothing loads them."""
    import svd_folders

    from svdjax.diffusers_layout import importing

    monkeypatch.setattr(importing, "save_tree", svd_folders.save_npz)


@pytest.fixture(scope="session")
def source(tmp_path_factory) -> Path:
    """A small random SVD in diffusers' layout, float32; not to be changed."""
    import svd_folders

    return svd_folders.write(tmp_path_factory.mktemp("shared") / "svd")


@pytest.fixture(scope="session")
def tuned(source) -> Path:
    """The UNet of `source` with other temporal values and outputs, as fine-tuning leaves it; not to be changed."""
    import svd_folders

    folder = source.with_name("tuned")
    svd_folders.network("unet").save_pretrained(folder)
    svd_folders.edit(folder / "diffusion_pytorch_model.safetensors", svd_folders.move_values(1))
    return folder


@pytest.fixture(scope="session")
def model(source, tuned) -> Path:
    """`source` converted, float32, with `tuned` for backward weights; not to be changed."""
    from convert.svd_to_flax import main

    out = source.with_name("model")
    assert main([str(source), str(out), "--backward", str(tuned)]) == 0
    return out


@pytest.fixture(scope="session")
def base(model) -> dict[str, np.ndarray]:
    """The tensors of the temporal self-attentions of `model`'s UNet; not to be changed."""
    from svdjax.checkpoints.delta import base_tensors
    from svdjax.models.backward import QUERIES, VALUES

    return {name: np.asarray(value) for name, value in base_tensors(model, VALUES + QUERIES).items()}


@pytest.fixture(scope="session")
def lively_model(tmp_path_factory) -> Path:
    """A checkpoint as small as `model` whose videos depend on their images and seeds, without backward weights."""
    import svd_folders

    folder = tmp_path_factory.mktemp("lively")
    source = svd_folders.enliven(svd_folders.write(folder / "svd"))
    assert svd_folders.main([str(source), str(folder / "model")]) == 0
    return folder / "model"


@pytest.fixture(scope="session")
def training_source(tmp_path_factory) -> Path:
    """What `training_model` was converted from, in diffusers' layout; not to be changed."""
    import training

    return training.write_source(tmp_path_factory.mktemp("training") / "svd")


@pytest.fixture(scope="session")
def training_model(training_source) -> Path:
    """A checkpoint whose training step compiles fast: a UNet of one level; not to be changed."""
    import svd_folders

    out = training_source.with_name("model")
    assert svd_folders.main([str(training_source), str(out)]) == 0
    return out


@pytest.fixture(scope="session")
def training_clips(tmp_path_factory) -> Path:
    """A data folder of four small animations; not to be changed."""
    import training

    return training.write_clips(tmp_path_factory.mktemp("clips"))


@pytest.fixture(scope="session")
def training_run(training_model, training_clips, tmp_path_factory) -> Path:
    """A run of six undisturbed steps, a checkpoint after every second, all kept; not to be changed."""
    import training

    out = tmp_path_factory.mktemp("runs") / "undisturbed"
    with pytest.MonkeyPatch.context() as patch:
        training.compile_once(patch)
        assert training.train(training_model, training_clips, out, keep=9) == 0
    return out


@pytest.fixture
def compile_once(monkeypatch):
    """Runs of `train.backward` in this process share the compiled step."""
    import training

    training.compile_once(monkeypatch)
