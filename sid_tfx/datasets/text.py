"""Text to words, as core TensorFlow operations.

There is one implementation, so that a word means the same in TF Transform's graph, in a served
request and in a research script. Core operations only: the graph must load in a stock TensorFlow
Serving, which has no TF Text.
"""

import tensorflow as tf

MAX_BYTES = 16_384
"""Longer text is cut before it is split: a 1 MB title must not cost 1 MB of work."""


def clean(strings: tf.Tensor) -> tf.Tensor:
    """Makes strings safe to compare and to write into a vocabulary file.

    Invalid UTF-8 and control characters (line breaks too: a vocabulary file has one value a line)
    become spaces; space at both ends goes.

    Args:
        strings: String tensor of any shape.

    Returns:
        String tensor of the same shape.
    """
    strings = tf.strings.substr(strings, 0, MAX_BYTES)
    strings = tf.strings.unicode_transcode(
        strings,
        "UTF-8",
        "UTF-8",
        errors="replace",
        replacement_char=ord(" "),
        replace_control_characters=True,
    )
    return tf.strings.strip(strings)


def split_words(strings: tf.Tensor) -> tf.RaggedTensor:
    """Splits text into lower-case words.

    Letters, marks and digits make words; everything else separates them, but for a decimal point
    (`13.5`), a thousands comma (`1,299` is `1299`) and an apostrophe (`women's` is `womens`).
    Han, Hiragana and Katakana, written without spaces, give one word a character. Text is not
    normalized further: TensorFlow has no core operation for NFKC.

    Args:
        strings: String tensor, shape `[B]`.

    Returns:
        Ragged string tensor of words, shape `[B, None]`; a row without words is empty.

    Example:

    >>> split_words(tf.constant(["Women's Shampoo, 13.5 Fl Oz!"])).to_list()
    [[b'womens', b'shampoo', b'13.5', b'fl', b'oz']]
    """
    strings = tf.strings.lower(clean(strings), encoding="utf-8")
    strings = tf.strings.regex_replace(strings, r"(\p{Han}|\p{Hiragana}|\p{Katakana})", r" \1 ")
    strings = tf.strings.regex_replace(strings, r"['\x{2019}]", "")
    strings = tf.strings.regex_replace(strings, r"(\pN),(\pN)", r"\1\2")
    strings = tf.strings.regex_replace(strings, r"[^\pL\pM\pN.]+", " ")
    # A point stays only between two digits; RE2 has no look-around, so each side takes a pass.
    strings = tf.strings.regex_replace(strings, r"\.(\PN|$)", r" \1")
    strings = tf.strings.regex_replace(strings, r"(^|\PN)\.", r"\1 ")
    return tf.strings.split(strings)


def pad_words(words: tf.RaggedTensor, length: int) -> tf.Tensor:
    """Cuts or pads each row to `length` words.

    Args:
        words: Ragged string tensor, shape `[B, None]`.
        length: Words kept, the first ones.

    Returns:
        String tensor, shape `[B, length]`, padded with `""` at the end.
    """
    # Cut first: to_tensor would build the full width of the longest row.
    return words[:, :length].to_tensor(default_value="", shape=[None, length])


def summarize(category_path: tf.RaggedTensor, advertiser: tf.Tensor) -> tf.Tensor:
    """Writes one short sentence about each ad: "LEAF in ROOT MIDDLE by ADVERTISER".

    It stands in for the sentence that UniSID (arXiv 2602.10445) has a language model write from
    industry and category path, where an ad brings no `summary` of its own.

    Args:
        category_path: Ragged string tensor, shape `[B, None]`, root first.
        advertiser: String tensor, shape `[B]`, `""` where unknown.

    Returns:
        String tensor, shape `[B]`; `""` where neither is known.

    Example:

    >>> path = tf.ragged.constant([["Hair Care", "Shampoos"], []])
    >>> summarize(path, tf.constant(["Aveda", "Aveda"])).numpy().tolist()
    [b'Shampoos in Hair Care by Aveda', b'by Aveda']
    """
    leaf = tf.strings.reduce_join(category_path[:, -1:], axis=1)
    parents = tf.strings.reduce_join(category_path[:, :-1], axis=1, separator=" ")
    parts = tf.stack([leaf, _prefixed("in ", parents), _prefixed("by ", advertiser)], axis=1)
    return tf.strings.strip(tf.strings.reduce_join(parts, axis=1, separator=" "))


def _prefixed(prefix: str, strings: tf.Tensor) -> tf.Tensor:
    return tf.where(strings == "", "", tf.strings.join([prefix, strings]))
