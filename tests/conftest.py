"""Fixtures that several test files share."""

import contextlib
import os
import signal
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

DATA = Path(__file__).parent / "data"
LONGEST = (
    "test_train_base.py",
    "test_train_backward.py",
    "test_train_backward_kills.py",
    "test_embedded.py",
    "test_notebooks.py",
)

# Most of the time of the tests is XLA compilation. These flags halve it: LLVM optimises less, and uses no extra threads, which
# other test processes need. They must be set before JAX starts; commands that tests run inherit them.
FAST_COMPILING = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true --xla_cpu_parallel_codegen_split_count=1"
)
if tuple(map(int, version("jaxlib").split(".")[:2])) < (0, 11):  # the emitters before today's; later versions lack them
    FAST_COMPILING += " --xla_cpu_use_fusion_emitters=false"
_GIVEN = os.environ.get("XLA_FLAGS", "")
os.environ["XLA_FLAGS"] = f"{_GIVEN} {FAST_COMPILING}"
os.environ["HF_HUB_OFFLINE"] = "1"  # a path such as a/b that isn't there could be a model's name on the hub

# A shell that starts tests in the background ignores SIGINT for them, and so would commands that tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items):
    """Run the files that take longest first: at the end, the test processes then finish together."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """Commands cache compiled programs in the user's folder; tests have their own folder, shared by all test processes."""
    base = tmp_path_factory.getbasetemp()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cache"))
        yield


@pytest.fixture(scope="session")
def optimised():
    """The environment of processes that sample so long that a slower compilation of faster programs is worth its time."""
    return os.environ | {"XLA_FLAGS": f"{_GIVEN} --xla_backend_optimization_level=1 --xla_llvm_disable_expensive_passes=true"}


@pytest.fixture(scope="session", autouse=True)
def freed_memory_is_given_back():
    """Training commands change the allocator of their process permanently; here many tests share one process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("svdjax.devices.malloc.keep_freed", lambda: False)
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
    """Build each small network once: loading and converting build them many times for their shapes."""
    import svd_folders  # imports PyTorch

    from svdjax.checkpoints import checkpoint
    from svdjax.diffusers_layout import name_table

    for module in (name_table, checkpoint):
        monkeypatch.setattr(module, "abstract", svd_folders.cached_abstract)


@pytest.fixture
def save_as_npz(monkeypatch):
    """Conversions write .npz files in place of Orbax trees, which takes much longer; such checkpoints can't be loaded."""
    import svd_folders

    from svdjax.diffusers_layout import importing

    monkeypatch.setattr(importing, "save_tree", svd_folders.save_npz)


@pytest.fixture(scope="session")
def source(tmp_path_factory) -> Path:
    """A small random SVD in diffusers layout, float32; tests must not change it."""
    import svd_folders

    return svd_folders.write(tmp_path_factory.mktemp("shared") / "svd")


@pytest.fixture(scope="session")
def tuned(source) -> Path:
    """The UNet of `source` with other temporal values and outputs, as after fine-tuning; tests must not change it."""
    import svd_folders

    folder = source.with_name("tuned")
    svd_folders.network("unet").save_pretrained(folder)
    svd_folders.edit(folder / "diffusion_pytorch_model.safetensors", svd_folders.move_values(1))
    return folder


@pytest.fixture(scope="session")
def model(source, tuned) -> Path:
    """`source` as a checkpoint, float32, with backward weights from `tuned`; tests must not change it."""
    from convert.svd_to_flax import main

    out = source.with_name("model")
    assert main([str(source), str(out), "--backward", str(tuned)]) == 0
    return out


@pytest.fixture(scope="session")
def base(model) -> dict[str, np.ndarray]:
    """The tensors of the temporal self-attentions of `model`'s UNet; tests must not change them."""
    from svdjax.checkpoints.delta import base_tensors
    from svdjax.models.backward import QUERIES, VALUES

    return {name: np.asarray(value) for name, value in base_tensors(model, VALUES + QUERIES).items()}


@pytest.fixture(scope="session")
def lively_model(tmp_path_factory) -> Path:
    """A small checkpoint without backward weights, with weights so large that its videos depend on images and seeds."""
    import svd_folders

    folder = tmp_path_factory.mktemp("lively")
    source = svd_folders.enliven(svd_folders.write(folder / "svd"))
    assert svd_folders.main([str(source), str(folder / "model")]) == 0
    return folder / "model"


@pytest.fixture(scope="session")
def training_source(tmp_path_factory) -> Path:
    """The source of `training_model` in diffusers layout; tests must not change it."""
    import training

    return training.write_source(tmp_path_factory.mktemp("training") / "svd")


@pytest.fixture(scope="session")
def training_model(training_source) -> Path:
    """A checkpoint with a UNet of one level, whose training step compiles fast; tests must not change it."""
    import svd_folders

    out = training_source.with_name("model")
    assert svd_folders.main([str(training_source), str(out)]) == 0
    return out


@pytest.fixture(scope="session")
def training_clips(tmp_path_factory) -> Path:
    """A data folder of four small animations; tests must not change it."""
    import training

    return training.write_clips(tmp_path_factory.mktemp("clips"))


@pytest.fixture(scope="session")
def training_run(training_model, training_clips, tmp_path_factory) -> Path:
    """A training run of six steps with its checkpoints of steps 2, 4 and 6; tests must not change it."""
    import training

    out = tmp_path_factory.mktemp("runs") / "undisturbed"
    with pytest.MonkeyPatch.context() as patch:
        training.compile_once(patch)
        assert training.train(training_model, training_clips, out, keep=9) == 0
    return out


@pytest.fixture
def out(tmp_path):
    """The folder of a training run, which doesn't exist yet."""
    return tmp_path / "run"


@pytest.fixture
def run(training_model, training_clips, out):
    """Calls `train.backward` with `training_model` into `out`; returns its exit status."""
    import training

    return lambda *others, data=training_clips, **options: training.train(training_model, data, out, *others, **options)


@pytest.fixture
def compile_once(monkeypatch):
    """Runs of `train.backward` in this process share the compiled step."""
    import training

    training.compile_once(monkeypatch)


@pytest.fixture
def compilations():
    """Gives a context: the names of events of XLA's compiler during the block, without programs of earlier tests."""
    import jax

    @contextlib.contextmanager
    def listening() -> Iterator[list[str]]:
        found: list[str] = []

        def listen(event: str, duration_secs: float, **kwargs: str | int) -> None:
            if event == "/jax/core/compile/backend_compile_duration":
                found.append(str(kwargs.get("fun_name", event)))

        jax.clear_caches()
        jax.monitoring.register_event_duration_secs_listener(listen)
        try:
            yield found
        finally:
            jax.monitoring.unregister_event_duration_listener(listen)

    return listening
