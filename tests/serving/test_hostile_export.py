"""Generated bad requests to a servable that Composer made: beams, indices, Transform's graph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sid_tfx.context import EventContext
from tests.components.test_composer import ADS, Generation, compose_indexed
from tests.serving.attack import TIMEOUT_SECONDS, bombard
from tests.serving.hostile import MAX_MESSAGE
from tests.serving.hostile_grpc import grpc_case
from tests.serving.hostile_rest import rest_case
from tests.serving.hostile_signatures import SIGNATURE_KINDS, signature_case
from tests.serving.processes import Process
from tests.serving.toy_servable import DIM

pytestmark = pytest.mark.slow

CASES = {grpc_case: 500, rest_case: 250, signature_case: 250}
# A real graph's buffers are given back after large requests and taken again later.
MAX_GROWTH_MB = 256


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both flavours, with the ads and wire shapes of the toy, which the generators know."""
    folder = tmp_path_factory.mktemp("exported")
    context = EventContext(time=True, events=("click",), weight=True)
    ad_ids = [f"ad{row:02d}" for row in range(ADS)]
    generation = Generation(folder, ad_ids, embedding_dim=DIM, context=context)
    for flavour, model in compose_indexed(generation, folder / "indexed").items():
        (folder / flavour).mkdir()
        Path(model.uri, "Format-Serving").rename(folder / flavour / "1")
    return folder


@pytest.mark.parametrize(("flavour", "batching"), [("portable", False), ("scann", True)])
def test_bad_requests_get_their_code_and_harm_nobody(
    exported: Path, flavour: str, batching: bool
) -> None:
    rng = np.random.default_rng(0)
    makes = [make for make, count in CASES.items() for _ in range(count)]
    cases = (makes[place](rng) for place in rng.permutation(len(makes)))
    server = Process(
        exported / flavour,
        "--pick_rest_api_port",
        "--enable_batching=true" if batching else "--max_rows=1000",
        f"--max_message_bytes={MAX_MESSAGE}",
        f"--rest_api_timeout_in_ms={1000 * TIMEOUT_SECONDS}",
    )
    try:
        kinds = bombard(server, cases, rng, MAX_GROWTH_MB)
    finally:
        server.end()
    assert kinds >= SIGNATURE_KINDS
