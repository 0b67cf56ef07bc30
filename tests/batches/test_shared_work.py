"""What the rows of a table share: an order with alike rows as neighbours, one choice of devices, plans. Nothing is sampled."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from sample import planned_model
from sample.batches import making
from sample.interpolate import main
from sample.sampling_options import find
from svdjax.config import SVDConfig
from svdjax.decoding.decode_steps import DecodePlan
from svdjax.memory.programs import Phase
from svdjax.model_sources import DiffusersFolder
from svdjax.sampling.clip_plan import ClipPlan

COLUMNS = "first,last,output"
TINY = ("--size", "32x16", "--num-frames", "3", "--steps", "2", "--recurrence", "0")
load_for_works = planned_model.load_for_works  # the fixture `made` replaces it


def pairs(folder, text, *words):
    (folder / "p.csv").write_text(text)
    return main(["--pairs", str(folder / "p.csv"), *TINY, *words])


def test_alike_rows_are_sampled_together_wherever_they_are(folder, made, monkeypatch, capsys):
    """Six rows of two kinds in turn, three clips at a time: two full batches. Those that are left are counted in this order."""
    asked, generate = [], making.generate_together

    def together(requests, count, *others):
        asked.append([request.settings.seed for request in requests])
        return [result for request in requests for result in generate([request], 1, *others)]

    monkeypatch.setattr(making, "generate_together", together)
    monkeypatch.setattr(making, "clips_together", lambda mesh, batch: 3)
    rows = "".join(f"1.png,2.png,{seed}.gif,{seed},{100 + seed % 2}\n" for seed in range(6))
    assert pairs(folder, f"{COLUMNS},seed,motion-bucket-id\n{rows}") == 0
    assert asked == [[0, 2, 4], [1, 3, 5]]
    written = [line for line in capsys.readouterr().out.splitlines() if line.startswith("wrote")]
    assert [line.partition("; ")[2].split(",")[0] for line in written] == [f"{left} left" for left in (5, 4, 3, 2, 1)] + [""]


def test_the_devices_are_chosen_once(folder, made, monkeypatch):
    """For clips of all shapes. To choose them for each row would build the shapes of all networks each time."""
    chosen = []
    monkeypatch.setattr(planned_model, "choose_mesh", lambda args, config, runs, *given: chosen.append(given))
    rows = "".join(f"1.png,2.png,{k}.gif,{frames}\n" for k, frames in enumerate((3, 100, 3)))
    assert pairs(folder, f"{COLUMNS},num-frames\n{rows}") == 0
    assert chosen == [([(32, 16, 3), (32, 16, 100)], 2)]
    assert len(made) == 3


def test_the_weights_of_a_configuration_are_counted_once(monkeypatch):
    built, abstract_model = [], planned_model.abstract_model
    monkeypatch.setattr(planned_model, "abstract_model", lambda *given: built.append(given) or abstract_model(*given))
    config = find(None, "dual")[0].config
    configs = config, SVDConfig.from_json(json.loads(json.dumps(config.to_json())))
    planned_model._network_bytes.cache_clear()
    first, again = (planned_model._network_bytes(config, "float32") for config in configs)
    assert [first == again, len(built)] == [True, 1]


@pytest.fixture
def planned(made, monkeypatch):
    """The clips that were planned; no program is compiled, and no model loaded."""
    works = []

    def plan_clips(work, budget, **options):
        works.append(work)
        phases = (Phase(name="sample", resident_bytes=1, scratch_bytes=1, program="scan"),)
        decode = DecodePlan(block_bytes=1)
        return ClipPlan(passes="together", offload=False, decode=decode, phases=phases, transfer_bytes=0, budget_bytes=budget)

    monkeypatch.setattr(planned_model, "load_for_works", load_for_works)
    monkeypatch.setattr(planned_model, "plan_clips", plan_clips)
    monkeypatch.setattr(planned_model, "abstract_model", lambda *given: None)
    monkeypatch.setattr(DiffusersFolder, "load", lambda self, **options: None)
    return works


@pytest.mark.parametrize(
    ("columns", "first", "second", "plans"),
    [
        ("guidance", "2 4", "1 3", 1),
        ("steps", "1", "20", 1),
        ("recurrence", "1", "4", 1),
        ("fusion", "average", "linear", 1),
        ("guidance,guidance-steps", "1 3,0 1", "1 3,1 2", 1),
        ("guidance", "1 1", "1 3", 2),  # no predictions without conditioning
        ("guidance,guidance-steps", "1 3,", "1 3,0 1", 2),  # another program in the second step
        ("recurrence", "0", "1", 2),  # without noise between the steps
        ("deep-every", "1", "2", 2),
        ("num-frames", "3", "4", 2),
        ("size", "32x16", "16x32", 2),
        ("decode-chunk", "", "1", 2),
        ("method", "trf", "no-finetune", 2),
        ("method,noise", "trf,", "trf,n0.npz", 2),
        ("method,noise,recurrence", "trf,n1.npz,1", "trf,n2.npz,2", 2),
        ("noise,rate", "n0.npz,1", "n0.npz,2", 2),  # its draws have those of the raised rate
    ],
)
def test_rows_with_the_same_programs_have_one_plan(folder, planned, columns, first, second, plans):
    shapes = {"augmentation": (16, 32, 3), "initial": (3, 4, 8, 6), "rate": (5, 4, 8, 6)}
    arrays: dict[str, Any] = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    for recurrences in range(3):
        np.savez(folder / f"n{recurrences}.npz", recurrence=np.zeros((recurrences, 3, 4, 8, 6), np.float32), **arrays)
    text = f"{COLUMNS},{columns}\n1.png,2.png,a.gif,{first}\n1.png,2.png,b.gif,{second}\n"
    assert pairs(folder, text, "--memory", "0.5") == 0
    assert len(planned) == plans
