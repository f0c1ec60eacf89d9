"""Runs a SavedModel's signatures in a new process that imports TensorFlow and nothing of ours.

What a test's own process has traced, registered or imported must not be what makes an export work.
"""

import pickle
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

Request = tuple[str, dict[str, np.ndarray]]


def run(
    model: str | Path, requests: list[Request], loader: str = "session", scann: bool = False
) -> list[dict[str, np.ndarray]]:
    """Returns what each signature answers, through the session loader or `tf.saved_model.load`."""
    with tempfile.TemporaryDirectory() as folder:
        asked, answered = Path(folder, "asked"), Path(folder, "answered")
        asked.write_bytes(pickle.dumps(requests))
        command = [sys.executable, __file__, str(model), str(asked), str(answered), loader]
        done = subprocess.run([*command, str(int(scann))], capture_output=True, text=True)
        # TensorFlow prints a line for an op whose shapes it cannot follow, at every log level.
        if done.returncode or "Error in PredictCost" in done.stderr:
            raise RuntimeError(done.stderr[-4000:])
        return pickle.loads(answered.read_bytes())


def _load_scann_ops() -> None:
    import importlib.util

    import tensorflow as tf

    spec = importlib.util.find_spec("scann")
    assert spec is not None
    assert spec.origin is not None
    package = Path(spec.origin).parent
    tf.load_op_library(str(package / "scann_ops" / "cc" / "_scann_ops.so"))


def _session(model: str, requests: list[Request]) -> list[dict[str, np.ndarray]]:
    import tensorflow as tf

    with tf.compat.v1.Session(graph=tf.Graph()) as session:
        meta = tf.compat.v1.saved_model.load(session, ["serve"], model)
        answers = []
        for signature, inputs in requests:
            spec = meta.signature_def[signature]
            fetches = {name: tensor.name for name, tensor in spec.outputs.items()}
            feeds = {spec.inputs[name].name: value for name, value in inputs.items()}
            answers.append(session.run(fetches, feeds))
        return answers


def _tf2(model: str, requests: list[Request]) -> list[dict[str, np.ndarray]]:
    import tensorflow as tf

    loaded = tf.saved_model.load(model)
    answers = []
    for signature, inputs in requests:
        tensors = {name: tf.constant(value) for name, value in inputs.items()}
        answer = loaded.signatures[signature](**tensors)
        answers.append({name: value.numpy() for name, value in answer.items()})
    return answers


if __name__ == "__main__":
    model, asked, answered, loader, scann = sys.argv[1:]
    if int(scann):
        _load_scann_ops()
    requests = pickle.loads(Path(asked).read_bytes())
    answers = {"session": _session, "tf2": _tf2}[loader](model, requests)
    Path(answered).write_bytes(pickle.dumps(answers))
