"""Whether a version is whole, found out without TensorFlow, which would take seconds to import.

A server compares a version with the list that its export wrote down, and TensorFlow checks the
variables that it restores. Whoever builds on a version does not load it: all of it is read here.
"""

from __future__ import annotations

import json
from pathlib import Path

from serving.listed_files import Damaged, check_listed
from sid_tfx.file_list import MANIFEST_FILE
from sid_tfx.servable_set_file import SERVABLE_SET_FILE, read_servable_set

ADS_FILE = Path("assets", "ads.txt")


def check_whole(version: Path) -> None:
    """Checks that a version of a servable is what was exported and published.

    Args:
        version: its directory.

    Raises:
        Damaged: a file is missing, truncated or damaged; says which.
    """
    manifest_file = version / MANIFEST_FILE
    try:
        manifest = json.loads(manifest_file.read_text(encoding="utf-8"))
        ads, catalog = manifest["ads"], manifest["fingerprints"]["catalog"]
        # A server takes a version without a list, another tool's, as it is.
        _ = manifest["files"]
    except (OSError, ValueError, KeyError) as error:
        raise Damaged(f"{manifest_file} cannot be read: {error!r}") from error
    check_listed(version)
    servable_set = version / SERVABLE_SET_FILE
    if not servable_set.is_file():
        return
    try:
        _, written_for = read_servable_set(str(servable_set), ads)
    except ValueError as error:
        raise Damaged(str(error)) from error
    if written_for != catalog:
        raise Damaged(f"{servable_set} is of another catalogue")
