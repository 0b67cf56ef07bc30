"""Mutation tests: put each known mistake into a copy of the project, and require that the test listed with it fails.

    python tests/mutations.py [NAME ...]

Exits 0 only if the tests pass on the unchanged copy and fail on every mutant.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
GOLDEN = "tests/sampling/test_sampler.py::test_latents_after_every_evaluation_golden"
AVERAGE, LINEAR = (f"{GOLDEN}[{mode}]" for mode in ("avg", "weighted"))
PLAIN = "tests/methods/test_against_references.py::test_latents"
VIBID, MPD, MPD_TRF, LCM, TRF = (f"{PLAIN}[{case}]" for case in ("vibid", "mpd+vibid", "mpd+trf", "lcm trf", "trf-shipped"))
RATE = "tests/frame_rate/test_frame_rate.py::test_latents_against_the_plain_form[together]"


@dataclass(frozen=True)
class Mutation:
    """Texts to replace in a file, each occurring exactly once, and the test that must then fail."""

    file: str
    changes: tuple[tuple[str, str], ...]
    test: str = AVERAGE


VALUES = "jnp.stack([v_f, jnp.flip(v_b, 1)])"
RESULT = 'self._project("to_out", jnp.flip(out[1], 1), backward.params)'
UNFLIPPED_VALUES = (VALUES, "jnp.stack([v_f, v_b])")
UNFLIPPED_RESULT = (RESULT, RESULT.replace("jnp.flip(out[1], 1)", "out[1]"))
APPLIED = f"_apply_by_frame(weights, {VALUES})"
TRANSPOSED = (
    "jnp.concatenate([_apply_by_frame(weights, v_f[None]), _apply_by_frame(weights.swapaxes(1, 2), jnp.flip(v_b, 1)[None])])"
)
MUTATIONS = {
    "no rotation": Mutation("svdjax/models/temporal_attention.py", (UNFLIPPED_VALUES, UNFLIPPED_RESULT)),
    "rows only": Mutation("svdjax/models/temporal_attention.py", (UNFLIPPED_VALUES,)),
    "columns only": Mutation("svdjax/models/temporal_attention.py", (UNFLIPPED_RESULT,)),
    "transpose": Mutation("svdjax/models/temporal_attention.py", ((APPLIED, TRANSPOSED),)),
    "own maps": Mutation("svdjax/models/backward.py", (("return any(path", "return False and any(path"),)),
    "fps not -1": Mutation("svdjax/sampling/conditioning.py", (("[fps - 1,", "[fps,"),)),
    "no augmentation": Mutation(
        "svdjax/sampling/conditioning.py", (("noised = images + noise_aug_strength * augmentation", "noised = images"),)
    ),
    "scaled image latents": Mutation(
        "svdjax/sampling/conditioning.py",
        (("image_latents.reshape(", "(image_latents * vae.config.scaling_factor).reshape("),),
    ),
    "recurrence count from frames": Mutation(
        "svdjax/sampling/updates.py",
        (
            (
                "early = int(settings.steps * settings.recurrence_ratio)",
                "early = int(settings.num_frames * settings.recurrence_ratio)",
            ),
        ),
        "tests/sampling/test_settings.py",
    ),
    "no bias in the delta": Mutation(
        "svdjax/diffusers_layout/backward_weights.py",
        (
            (
                "        value = array.astype(",
                "        array = before if kind == 'to_out.bias' else array\n        value = array.astype(",
            ),
        ),
        "tests/diffusers_layout/test_backward_weights.py",
    ),
    "wrong blend direction": Mutation(
        "svdjax/sampling/settings.py", (("np.linspace(1.0, 0.0,", "np.linspace(0.0, 1.0,"),), LINEAR
    ),
    "vibid: noise reversed": Mutation(
        "svdjax/sampling/updates.py",
        (("predicted.latents - predicted.unconditional()", "predicted.unconditional() - predicted.latents"),),
        VIBID,
    ),
    "vibid: noise from the conditional prediction": Mutation(
        "svdjax/sampling/updates.py", (("predicted.latents - predicted.unconditional()", "predicted.latents - clean"),), VIBID
    ),
    "vibid: noise of the level before": Mutation(
        "svdjax/sampling/updates.py", (("clean + predicted.sigma_next * noise", "clean + predicted.sigma * noise"),), VIBID
    ),
    "vibid: another frame replaced": Mutation(
        "svdjax/sampling/updates.py", (("clean.at[:, -1].set(last)", "clean.at[:, -2].set(last)"),), VIBID
    ),
    "vibid: backward half first": Mutation(
        "svdjax/sampling/updates.py", (("for direction in (FORWARD, BACKWARD)", "for direction in (BACKWARD, FORWARD)"),), VIBID
    ),
    "vibid: time not reversed": Mutation(
        "svdjax/sampling/passes.py", (('jnp.where(at["direction"] == FORWARD, ', 'jnp.where(at["direction"] < 9, '),), VIBID
    ),
    "mpd: shift reversed": Mutation("svdjax/sampling/updates.py", (("(last - clean[:, -1])", "(clean[:, -1] - last)"),), MPD),
    "mpd: first frame not replaced": Mutation("svdjax/sampling/updates.py", ((".at[:, 0].set(first)", ""),), MPD),
    "mpd: a fifth of the steps, rounded down": Mutation(
        "svdjax/sampling/updates.py", (("-(-settings.steps // 5)", "settings.steps // 5"),), MPD_TRF
    ),
    "mpd: two updates": Mutation("svdjax/sampling/settings.py", (("prefix_repeats: int = 3", "prefix_repeats: int = 2"),), MPD),
    "ays: linear in sigma": Mutation(
        "svdjax/sampling/edm.py",
        (
            (
                "np.exp(np.interp(np.linspace(0, len(AYS) - 1, steps + 1), np.arange(len(AYS)), table))",
                "np.interp(np.linspace(0, len(AYS) - 1, steps + 1), np.arange(len(AYS)), np.exp(table))",
            ),
        ),
        MPD_TRF,
    ),
    "lcm: Euler steps": Mutation("svdjax/sampling/methods.py", (("    if levels.to_clean:", "    if False:"),), LCM),
    "lcm: levels of its own number of steps": Mutation(
        "svdjax/sampling/edm.py",
        (("np.arange(steps) * (LCM_STEPS // steps) / (LCM_STEPS - 1)", "np.linspace(0, 1, steps)"),),
        LCM,
    ),
    "draws in another order": Mutation(
        "svdjax/sampling/draws.py", (("return self.recurrence[k]", "return self.recurrence[k ^ 1]"),), LCM
    ),
    "trf: jump to step 6": Mutation(
        "svdjax/sampling/updates.py", (("JUMP_FROM, JUMP_TO = 9, 5", "JUMP_FROM, JUMP_TO = 9, 6"),), TRF
    ),
    "rate: sum of the windows": Mutation(
        "svdjax/frame_rate/sampling.py", (("total / count[:, None, None, None]", "total"),), RATE
    ),
    "rate: original frames not kept": Mutation(
        "svdjax/frame_rate/sampling.py", (("denoised.at[:, ::rate].set(latents)", "denoised"),), RATE
    ),
    "rate: other levels": Mutation(
        "svdjax/frame_rate/sampling.py", (("LEVELS, FIRST = 25, 17", "LEVELS, FIRST = 25, 16"),), RATE
    ),
    "rate: weights exchanged": Mutation(
        "svdjax/frame_rate/sampling.py",
        (("weight(1 - share) * first + weight(share) * second", "weight(share) * first + weight(1 - share) * second"),),
        RATE.replace("latents_against_the_plain_form[together]", "interpolated_latents"),
    ),
}


def passes(copy: Path, tests: list[str]) -> bool:
    """Whether the tests pass in `copy`. Any other result than pass or fail, such as a collection error, ends the program."""
    code = f"import sys; sys.path.insert(0, {str(copy)!r}); import svdjax; assert svdjax.__file__.startswith({str(copy)!r})"
    subprocess.run([sys.executable, "-c", code], check=True)
    # a shared cache: functions that a mutation does not change are compiled only once
    environment = os.environ | {"PYTHONPATH": str(copy), "JAX_COMPILATION_CACHE_DIR": str(copy.parent / "compiled")}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-n", "0", "-p", "no:cacheprovider", *tests]
    result = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, check=False)
    if result.returncode not in (0, 1):
        sys.exit(f"pytest ended with {result.returncode}:\n{result.stdout}{result.stderr}")
    return result.returncode == 0


def mutate(copy: Path, mutation: Mutation) -> None:
    path = copy / mutation.file
    text = path.read_text()
    for old, new in mutation.changes:
        if text.count(old) != 1:
            sys.exit(f"{mutation.file}: {old!r} occurs {text.count(old)} times, expected once")
        text = text.replace(old, new)
    path.write_text(text)


def main(names: list[str]) -> int:
    unknown = set(names) - set(MUTATIONS)
    if unknown:
        sys.exit(f"{', '.join(sorted(unknown))}: unknown mutation, expected some of {', '.join(MUTATIONS)}")
    chosen = {name: MUTATIONS[name] for name in names or MUTATIONS}
    survivors = []
    with tempfile.TemporaryDirectory() as temporary:

        def copy_of_project(name: str) -> Path:
            copy = Path(temporary).resolve() / name.replace(" ", "-")
            shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".git", ".venv", "__pycache__", "build", "*.egg-info"))
            return copy

        if not passes(copy_of_project("unchanged"), sorted({m.test for m in chosen.values()})):
            sys.exit("the tests fail on the unchanged copy, expected them to pass")
        print("unchanged: the tests pass", flush=True)
        for name, mutation in chosen.items():
            copy = copy_of_project(name)
            mutate(copy, mutation)
            survived = passes(copy, [mutation.test])
            survivors += [name] * survived
            print(f"{name}: {'NOT NOTICED' if survived else 'noticed'}", flush=True)
            shutil.rmtree(copy)
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
