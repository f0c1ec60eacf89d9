"""Which signatures TF Serving's calls may run: the checks and words of its C++ sources.

By number and names of inputs and outputs, for TensorFlow 2 gives every signature the method name
of Predict. The method name itself is checked where `--enable_signature_method_name_check` asks
for it.
"""

from __future__ import annotations

import grpc
from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef

from serving.errors import ServingError, invalid_argument

PREDICT = "tensorflow/serving/predict"
CLASSIFY = "tensorflow/serving/classify"
REGRESS = "tensorflow/serving/regress"
WORDS = {CLASSIFY: "classification", REGRESS: "regression"}

_INPUTS, _CLASSES, _SCORES, _OUTPUTS = "inputs", "classes", "scores", "outputs"


def check_predict(method_name: str) -> None:
    """Checks the method name of a signature that Predict is to run.

    Raises:
        ServingError: INTERNAL.
    """
    if method_name not in (PREDICT, CLASSIFY, REGRESS):
        raise ServingError(
            grpc.StatusCode.INTERNAL,
            "Expected prediction signature method_name to be one of "
            f"{{{PREDICT}, {CLASSIFY}, {REGRESS}}}. Was: {method_name}",
        )


def check_inference(method_name: str, definition: SignatureDef, by_method_name: bool) -> None:
    """Checks that Classify or Regress could run a signature.

    Args:
        method_name: `CLASSIFY` or `REGRESS`.
        definition: the signature.
        by_method_name: whether its own method name has to be that one.

    Raises:
        ServingError: INVALID_ARGUMENT.
    """
    word = WORDS[method_name]
    if by_method_name and definition.method_name != method_name:
        raise invalid_argument(
            f"Expected {word} signature method_name to be {method_name}. "
            f"Was: {definition.method_name}"
        )
    outputs = set(definition.outputs)
    if len(definition.inputs) != 1:
        raise invalid_argument("Expected one input Tensor.")
    if method_name == CLASSIFY and len(outputs) not in (1, 2):
        raise invalid_argument(f"Expected one or two output Tensors, found {len(outputs)}")
    if method_name == REGRESS and len(outputs) != 1:
        raise invalid_argument("Expected one output Tensor.")
    if _INPUTS not in definition.inputs:
        raise invalid_argument(f"No {word} inputs found in SignatureDef: {definition}")
    if method_name == CLASSIFY and outputs.isdisjoint((_CLASSES, _SCORES)):
        raise invalid_argument(
            "Expected classification signature outputs to contain at least one of "
            f'"{_CLASSES}" or "{_SCORES}". Signature was: {definition}'
        )
    if method_name == REGRESS and _OUTPUTS not in outputs:
        raise invalid_argument(f"No {word} outputs found in SignatureDef: {definition}")
