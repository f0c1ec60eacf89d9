"""Codes, rankings and losses of quantizers on the backend in use."""

import keras

from sid_tfx.losses.reconstruction import CodebookCommitment
from sid_tfx.quantizers import QUANTIZERS
from tests.quantizer_fixtures import JAX_CASES, VECTORS


class Trained(keras.Model):
    """A dense layer and a quantizer, trained to rebuild the input."""

    def __init__(self, quantizer):
        super().__init__()
        self.quantizer = quantizer
        self.dense = keras.layers.Dense(VECTORS.shape[1], kernel_initializer="identity")
        self.commitment = CodebookCommitment()

    def call(self, vectors, training=None):
        out = self.quantizer(self.dense(vectors), training=training)
        self.add_loss(self.commitment(out.inputs, out.vectors))
        return out.quantized


class Ranked(keras.layers.Layer):
    """A quantizer's four best code tuples."""

    def __init__(self, quantizer):
        super().__init__()
        self.quantizer = quantizer

    def call(self, vectors):
        return self.quantizer.ranked_codes(vectors, 4)


def values():
    """Returns, for each case, codes after fitting and after two steps of SGD, and the losses."""
    found = []
    for name, options in JAX_CASES:
        # Noise differs from backend to backend.
        options = options | ({"exploration": 0.0} if options.get("gradient") == "gumbel" else {})
        quantizer = QUANTIZERS[name](3, 8, VECTORS.shape[1], **options)
        quantizer.initialize(VECTORS)
        inputs = keras.Input((VECTORS.shape[1],))
        answers = keras.Model(inputs, [quantizer(inputs).codes, Ranked(quantizer)(inputs)])
        codes, ranked = answers.predict_on_batch(VECTORS)
        model = Trained(quantizer)
        # Compiled on JAX, where each operation alone would be compiled otherwise.
        jit = keras.backend.backend() == "jax"
        model.compile(keras.optimizers.SGD(1e-3), loss="mse", jit_compile=jit)
        losses = [float(model.train_on_batch(VECTORS, VECTORS)) for _ in range(2)]
        found.append(
            {
                "case": f"{name} {options}",
                "codes": codes.tolist(),
                "ranked": ranked[:5].tolist(),
                "losses": losses,
            }
        )
    return found
