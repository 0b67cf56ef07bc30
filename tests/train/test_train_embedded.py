"""`--model embedded` in both training commands."""

import pytest

from svdjax.loading import find_model
from train import backward, base
from train.run import session


@pytest.mark.parametrize(("main", "stage"), [(backward.main, []), (base.main, ["unet"])], ids=["backward", "base"])
def test_the_embedded_model_is_found(main, stage, tmp_path, monkeypatch):
    """It is converted into the user's cache, as far as to the run's setup."""

    class Captured(Exception):
        pass

    def capture(options, config):
        raise Captured(config)

    monkeypatch.setattr(session, "set_up", capture)
    words = ["--model", "embedded", "--data", "world", "--clips", "8", "--out", str(tmp_path / "run")]
    with pytest.raises(Captured) as captured:
        main([*stage, *words])
    assert captured.value.args == (find_model("embedded").config,)
