"""What the rows of a table share: an order with alike rows as neighbours, one choice of devices. Nothing is sampled."""

from __future__ import annotations

import json

from sample import planned_model
from sample.batches import making
from sample.interpolate import main
from sample.sampling_options import find
from svdjax.config import SVDConfig

COLUMNS = "first,last,output"
TINY = ("--size", "32x16", "--num-frames", "3", "--steps", "2", "--recurrence", "0")


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
