"""The model and the backward weights of each method: which are chosen, and what their hash covers."""

from sample.evaluation.method_models import choose_model
from svdjax import embedded_model


def test_hash_covers_the_embedded_backward_weights():
    dual, no_rotation = (choose_model(method, None, []) for method in ("dual", "no-rotation"))
    assert dual.fingerprint() == choose_model("dual", "embedded", []).fingerprint()
    assert dual.fingerprint() != no_rotation.fingerprint()


def test_each_method_takes_its_kind_of_backward_weights():
    """The backward weights are UNets in diffusers layout."""
    folders = [embedded_model.backward_folder(method) for method in ("dual", "no-rotation")]
    chosen = {method: choose_model(method, None, folders) for method in ("dual", "no-rotation", "trf", "reconstruction")}
    assert [model.backward for model in chosen.values()] == [*folders, None, None]
    assert chosen["dual"].fingerprint() == choose_model("dual", None, []).fingerprint()  # the same weights
