"""Whether a version is whole, found out without TensorFlow, which would take seconds to import.

A server finds out by loading it. Whoever builds on a version and does not load it checks its files
here: the graph as the server does, the variables by their checksums, the assets by the list that
the graph has of them.
"""

from __future__ import annotations

import json
from pathlib import Path

from pipeline.tensor_bundle import check_bundle
from serving.graph_file import GRAPH_FILE, check_graph
from serving.wire_format import Malformed
from sid_tfx.servable_set_file import SERVABLE_SET_FILE, read_servable_set

MANIFEST_FILE = Path("assets.extra", "sid_tfx.json")
ADS_FILE = Path("assets", "ads.txt")


def check_whole(version: Path) -> None:
    """Checks that a version of a servable lacks nothing that a server needs to load it.

    Args:
        version: its directory.

    Raises:
        Malformed: a file is missing, truncated or damaged; says which.
    """
    graph = version / GRAPH_FILE
    if not graph.is_file():
        raise Malformed(f"{graph} is missing")
    assets = {asset.filename for meta in check_graph(graph) for asset in meta.asset_file_def}
    for asset in sorted({ADS_FILE, *(Path("assets", name) for name in assets)}):
        if not (version / asset).is_file():
            raise Malformed(f"{version / asset} is missing")
    check_bundle(version / "variables" / "variables")
    _check_ads(version)


def _check_ads(version: Path) -> None:
    """The list of ads has a checksum nowhere, but its length is written down; so is the set's."""
    lines = (version / ADS_FILE).read_bytes().count(b"\n")
    try:
        manifest = json.loads((version / MANIFEST_FILE).read_text(encoding="utf-8"))
        ads, catalog = manifest["ads"], manifest["fingerprints"]["catalog"]
    except (OSError, ValueError, KeyError) as error:
        raise Malformed(f"{version / MANIFEST_FILE} cannot be read: {error}") from error
    if lines != ads:
        raise Malformed(f"{version / ADS_FILE} has {lines} ads of {ads}")
    servable_set = version / SERVABLE_SET_FILE
    if not servable_set.is_file():
        return
    try:
        _, written_for = read_servable_set(str(servable_set), ads)
    except ValueError as error:
        raise Malformed(str(error)) from error
    if written_for != catalog:
        raise Malformed(f"{servable_set} is of another catalogue")
