"""The catalogue: which semantic ID every ad has, and how ads that share one are told apart."""

from __future__ import annotations

import dataclasses
import functools
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from sid_tfx.catalog_arrays import checked_ads, content_hash, from_lists, id_order, to_lists
from sid_tfx.dedup import assign_tokens, assignment_quality

DEFAULT_MAX_DEDUP = 64

_CATALOG_FILE = "catalog.parquet"
_QUALITY_FILE = "quality.json"
_MANIFEST_FILE = "manifest.json"
_FORMAT_VERSION = 1


@dataclasses.dataclass(frozen=True, eq=False)
class SidCatalog:
    """Ad ids, their codes and their embeddings, in rows sorted by ad id.

    A *semantic ID* is the `L` codes of an ad; ads with equal codes are told apart by a de-dup
    token, so that `full_codes` (the codes, then the token) names exactly one ad. Make one with
    `SidCatalog.build`, not with the constructor: `build` sorts, checks and assigns the tokens.

    Args:
        ad_ids: `(N,)` array of `str`, sorted, unique.
        codes: `(N, L)` int32 in `[0, codebook_size)`.
        dedup: `(N,)` int32 in `[0, dedup_size)`.
        embeddings: `(N, D)` float32.
        codebook_size: Number of codes per level.
        dedup_size: Declared bound on ads that may share a semantic ID.
        fingerprints: Names of what this catalogue was made from (`"tokenizer"`, ...) and its
            own content hash under `"catalog"`.
        quality: Figures of the assignment, see `build`.

    Example:

    >>> catalog = SidCatalog.build(
    ...     ["b", "a", "c"], [[1, 2], [1, 2], [3, 0]], np.eye(3), codebook_size=4
    ... )
    >>> catalog.full_codes.tolist()
    [[1, 2, 0], [1, 2, 1], [3, 0, 0]]
    >>> catalog.rows(["c", "unknown"]).tolist()
    [2, -1]
    """

    ad_ids: np.ndarray
    codes: np.ndarray
    dedup: np.ndarray
    embeddings: np.ndarray
    codebook_size: int
    dedup_size: int
    fingerprints: dict[str, str]
    quality: dict[str, Any]

    def __len__(self) -> int:
        return len(self.ad_ids)

    @property
    def levels(self) -> int:
        """Number of codes of a semantic ID, the de-dup token not counted."""
        return int(self.codes.shape[1])

    @property
    def level_sizes(self) -> tuple[int, ...]:
        """Size of every decoding level: `L` codebooks, then the de-dup token."""
        return (self.codebook_size,) * self.levels + (self.dedup_size,)

    @property
    def full_codes(self) -> np.ndarray:
        """`(N, L + 1)` int32: the codes and the de-dup token, unique per ad."""
        return np.concatenate([self.codes, self.dedup[:, None]], axis=1)

    @property
    def fingerprint(self) -> str:
        """Content hash of ids, codes, tokens and embeddings."""
        return self.fingerprints["catalog"]

    @functools.cached_property
    def _index(self) -> pd.Index:
        return pd.Index(self.ad_ids)

    def rows(self, ad_ids: Sequence[str] | np.ndarray) -> np.ndarray:
        """Catalogue rows of `ad_ids` (any shape) as int32, -1 where an ad is unknown."""
        wanted = np.asarray(ad_ids, dtype=object)
        return self._index.get_indexer(wanted.ravel()).astype(np.int32).reshape(wanted.shape)

    @classmethod
    def build(
        cls,
        ad_ids: Sequence[str] | np.ndarray,
        codes: np.ndarray | Sequence[Sequence[int]],
        embeddings: np.ndarray,
        codebook_size: int,
        max_dedup: int = DEFAULT_MAX_DEDUP,
        alternatives: np.ndarray | None = None,
        fingerprints: Mapping[str, str] | None = None,
    ) -> SidCatalog:
        """Sorts the ads by id and tells ads with equal codes apart.

        Within a group of equal codes the de-dup token counts up in ad-id order, so the result
        doesn't depend on the order of the input. A group keeps its first `max_dedup` ads; every
        further ad takes the first of its `alternatives` that has a token left.

        Args:
            ad_ids: `(N,)` unique strings, any order.
            codes: `(N, L)` integers in `[0, codebook_size)`.
            embeddings: `(N, D)` finite floats.
            codebook_size: Number of codes per level.
            max_dedup: Bound on ads that share a semantic ID; becomes `dedup_size`.
            alternatives: Optional `(N, n, L)` next-best codes, best first.
            fingerprints: What the codes were made from, e.g. `{"tokenizer": "..."}`.

        Returns:
            The catalogue. Its `quality` holds, of the codes as given (before any ad moved to an
            alternative): `ads`, `distinct_sids`, `collision_share` (share of ads whose codes
            another ad has too), `entropy_nats` of the semantic IDs, `largest_group`,
            `used_codes` per level; and `reassigned_ads`, the ads that took an alternative.

        Raises:
            ValueError: On wrong shapes, duplicate or empty ids, codes out of range, embeddings
                that are not finite, or groups that stay larger than `max_dedup`.
        """
        ids, code_array, vectors, other = checked_ads(
            ad_ids, codes, embeddings, codebook_size, max_dedup, alternatives
        )
        order = id_order(ids)
        ids, code_array, vectors = ids[order], code_array[order], vectors[order]
        final, dedup = assign_tokens(
            np.zeros((0, code_array.shape[1]), np.int32),
            np.zeros(0, np.int32),
            code_array,
            None if other is None else other[order],
            max_dedup,
        )
        return cls._make(
            ids,
            final,
            dedup,
            vectors,
            codebook_size,
            max_dedup,
            dict(fingerprints or {}),
            assignment_quality(code_array, final, codebook_size),
        )

    def extend(
        self,
        ad_ids: Sequence[str] | np.ndarray,
        codes: np.ndarray | Sequence[Sequence[int]],
        embeddings: np.ndarray,
        alternatives: np.ndarray | None = None,
    ) -> SidCatalog:
        """Returns a catalogue with new ads; every existing ad keeps its codes and token.

        Rows move, because rows are sorted by ad id: hold ad ids across an extension, not rows.

        Args:
            ad_ids: `(M,)` ids, none of them in the catalogue yet.
            codes: `(M, L)` integers.
            embeddings: `(M, D)` floats.
            alternatives: Optional `(M, n, L)` next-best codes.

        Raises:
            ValueError: As `build`; also where an id is in the catalogue already, or `L` or `D`
                differ from the catalogue's.
        """
        ids, code_array, vectors, other = checked_ads(
            ad_ids, codes, embeddings, self.codebook_size, self.dedup_size, alternatives
        )
        if code_array.shape[1] != self.levels or vectors.shape[1] != self.embeddings.shape[1]:
            raise ValueError(
                f"extend: got codes {code_array.shape} and embeddings {vectors.shape}; this "
                f"catalogue has {self.levels} levels and embeddings of size "
                f"{self.embeddings.shape[1]}. Encode new ads with the catalogue's own tokenizer."
            )
        known = self.rows(ids) >= 0
        if known.any():
            raise ValueError(
                f"extend: {int(known.sum())} ads are in the catalogue already, e.g. "
                f"{ids[known][0]!r}. Pass new ads only; existing ads never change codes."
            )
        order = id_order(ids)
        ids, code_array, vectors = ids[order], code_array[order], vectors[order]
        new_codes, new_dedup = assign_tokens(
            self.codes,
            self.dedup,
            code_array,
            None if other is None else other[order],
            self.dedup_size,
        )
        all_ids = np.concatenate([self.ad_ids, ids])
        merged = id_order(all_ids)
        original = np.concatenate([self.codes, code_array])
        final = np.concatenate([self.codes, new_codes])
        quality = assignment_quality(original, final, self.codebook_size)
        quality["reassigned_ads"] += int(self.quality.get("reassigned_ads", 0))
        return self._make(
            all_ids[merged],
            final[merged],
            np.concatenate([self.dedup, new_dedup])[merged],
            np.concatenate([self.embeddings, vectors])[merged],
            self.codebook_size,
            self.dedup_size,
            {k: v for k, v in self.fingerprints.items() if k != "catalog"},
            quality,
        )

    def keep(self, ad_ids: Sequence[str] | np.ndarray) -> SidCatalog:
        """Returns the catalogue of these ads alone, each with its codes and token.

        `quality` is then that of the codes as they are, an alternative that an ad took included.

        Args:
            ad_ids: Ids in any order; those the catalogue doesn't have are passed over.

        Raises:
            ValueError: Where the catalogue has none of them.
        """
        rows = np.unique(self.rows(ad_ids))
        rows = rows[rows >= 0]
        if not len(rows):
            raise ValueError(
                f"keep: none of the {len(ad_ids)} ads given is among the {len(self)} of this "
                "catalogue. Build a new catalogue for them."
            )
        if len(rows) == len(self):
            return self
        codes = self.codes[rows]
        return self._make(
            self.ad_ids[rows],
            codes,
            self.dedup[rows],
            self.embeddings[rows],
            self.codebook_size,
            self.dedup_size,
            {k: v for k, v in self.fingerprints.items() if k != "catalog"},
            assignment_quality(codes, codes, self.codebook_size),
        )

    @classmethod
    def _make(
        cls,
        ad_ids: np.ndarray,
        codes: np.ndarray,
        dedup: np.ndarray,
        embeddings: np.ndarray,
        codebook_size: int,
        dedup_size: int,
        fingerprints: dict[str, str],
        quality: dict[str, Any],
    ) -> SidCatalog:
        fingerprints["catalog"] = content_hash(ad_ids, codes, dedup, embeddings)
        return cls(
            ad_ids, codes, dedup, embeddings, codebook_size, dedup_size, fingerprints, quality
        )

    def save(self, directory: str | pathlib.Path) -> None:
        """Writes `catalog.parquet`, `quality.json` and, last, `manifest.json`.

        A directory without a manifest is an interrupted write, which `load` refuses.
        """
        path = pathlib.Path(directory)
        path.mkdir(parents=True, exist_ok=True)
        (path / _MANIFEST_FILE).unlink(missing_ok=True)
        table = pa.table(
            {
                "ad_id": pa.array(self.ad_ids, pa.string()),
                "codes": to_lists(self.codes, pa.int32()),
                "dedup": pa.array(self.dedup, pa.int32()),
                "embedding": to_lists(self.embeddings, pa.float32()),
            }
        )
        pq.write_table(table, path / _CATALOG_FILE)
        (path / _QUALITY_FILE).write_text(json.dumps(self.quality, indent=2, sort_keys=True))
        manifest = {
            "format_version": _FORMAT_VERSION,
            "ads": len(self),
            "levels": self.levels,
            "codebook_size": self.codebook_size,
            "dedup_size": self.dedup_size,
            "embedding_size": int(self.embeddings.shape[1]),
            "fingerprints": self.fingerprints,
        }
        (path / _MANIFEST_FILE).write_text(json.dumps(manifest, indent=2, sort_keys=True))

    @classmethod
    def load(cls, directory: str | pathlib.Path) -> SidCatalog:
        """Reads what `save` wrote.

        Raises:
            FileNotFoundError: Where there is no manifest: no catalogue, or an interrupted write.
            ValueError: Where the table isn't the one that the manifest describes.
        """
        path = pathlib.Path(directory)
        if not (path / _MANIFEST_FILE).exists():
            raise FileNotFoundError(
                f"No {_MANIFEST_FILE} in {path}: this is no catalogue, or its writing was "
                "interrupted. Run the stage that assigns semantic IDs again."
            )
        manifest = json.loads((path / _MANIFEST_FILE).read_text())
        table = pq.read_table(path / _CATALOG_FILE)
        codes = from_lists(table["codes"], manifest["levels"], np.int32)
        embeddings = from_lists(table["embedding"], manifest["embedding_size"], np.float32)
        ad_ids = table["ad_id"].to_numpy()
        dedup = table["dedup"].to_numpy().astype(np.int32)
        found = content_hash(ad_ids, codes, dedup, embeddings)
        if found != manifest["fingerprints"]["catalog"]:
            raise ValueError(
                f"{path / _CATALOG_FILE} (fingerprint {found}) isn't the table that its manifest "
                f"names ({manifest['fingerprints']['catalog']}). Assign the semantic IDs again."
            )
        return cls(
            ad_ids,
            codes,
            dedup,
            embeddings,
            int(manifest["codebook_size"]),
            int(manifest["dedup_size"]),
            dict(manifest["fingerprints"]),
            json.loads((path / _QUALITY_FILE).read_text()),
        )
