"""What the client returns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ScoredAd:
    """One ad of an answer.

    Args:
        ad_id: the catalogue's id.
        score: higher is better; comparable within one answer only.
        sid: the ad's semantic ID, one code a level, without the de-dup token; empty where the
            signature returns none.
    """

    ad_id: str
    score: float
    sid: tuple[int, ...] = ()


@dataclass(frozen=True)
class AdList:
    """Ads, best first, for one history, ad or embedding.

    Args:
        ads: the ads; fewer than asked for when fewer may be returned.
        model_version: the version that answered.
    """

    ads: tuple[ScoredAd, ...]
    model_version: int

    @property
    def ad_ids(self) -> list[str]:
        """The ids, best first."""
        return [ad.ad_id for ad in self.ads]

    @property
    def scores(self) -> list[float]:
        """The scores, best first."""
        return [ad.score for ad in self.ads]

    def __len__(self) -> int:
        return len(self.ads)


@dataclass(frozen=True)
class EncodedAd:
    """What the tokenizer makes of one ad.

    Args:
        sid: its semantic ID, one code a level.
        embedding: its joint embedding, float32 [D].
        model_version: the version that answered.
    """

    sid: tuple[int, ...]
    embedding: np.ndarray
    model_version: int


@dataclass(frozen=True)
class VersionState:
    """The server's word on one version.

    Args:
        version: its number.
        state: `UNKNOWN`, `START`, `LOADING`, `AVAILABLE`, `UNLOADING` or `END`.
        error: why it failed; empty when it did not.
    """

    version: int
    state: str
    error: str = ""


@dataclass(frozen=True)
class PortSpec:
    """Dtype name and shape of one input or output; -1 where any size fits."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class SignatureSpec:
    """Inputs and outputs of one signature, by alias."""

    inputs: dict[str, PortSpec]
    outputs: dict[str, PortSpec]


@dataclass(frozen=True)
class ModelMetadata:
    """The signatures of one version, by key."""

    version: int
    signatures: dict[str, SignatureSpec]
