"""What the image of `serving/deploy/Dockerfile.scann` costs: packages, memory, seconds to serve."""

from __future__ import annotations

import re
import time
from importlib import metadata
from pathlib import Path

import click
import psutil
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from benchmarks import common
from benchmarks.serving_load import DEFAULT_SERVABLE, ServerProcess, newest_version

_DOCKERFILE = common.ROOT / "serving" / "deploy" / "Dockerfile.scann"


def image_packages(dockerfile: Path) -> list[str]:
    """What the image installs by name."""
    text = dockerfile.read_text().replace("\\\n", " ")
    [installed] = re.findall(r"pip install (.*)", text)
    words = [word for word in installed.split() if not word.startswith("--")]
    return [word for word in words if not word.endswith(".txt")]


def installed_sizes(names: list[str]) -> dict[str, int]:
    """Bytes of these packages and all they need, as installed in this environment."""
    sizes: dict[str, int] = {}
    left = list(names)
    while left:
        name = canonicalize_name(left.pop())
        if name in sizes:
            continue
        found = metadata.distribution(name)
        paths = [Path(str(found.locate_file(file))) for file in found.files or []]
        sizes[name] = sum(path.stat().st_size for path in paths if path.is_file())
        for line in found.requires or []:
            needed = Requirement(line)
            if needed.marker is None or needed.marker.evaluate({"extra": ""}):
                left.append(needed.name)
    return sizes


@click.command(context_settings={"show_default": True})
@click.option(
    "--servable",
    "base_path",
    type=click.Path(file_okay=False, path_type=Path),
    default=DEFAULT_SERVABLE.parents[1] / "scann" / DEFAULT_SERVABLE.name,
    help="Folder of numbered versions; the newest is served.",
)
@common.json_option
def main(base_path: Path, json_path: Path | None) -> None:
    """Sizes of the locked packages as installed here, and one start of the server."""
    console, found = common.console(), common.machine()
    common.print_machine(console, found)
    version = newest_version(base_path)
    sizes = installed_sizes(image_packages(_DOCKERFILE))
    server = ServerProcess(base_path, "--pick_rest_api_port", "--enable_batching=true")
    begin = time.perf_counter()
    with server:
        seconds = time.perf_counter() - begin
        memory = psutil.Process(server.pid).memory_info().rss
    record: common.Record = {
        "subject": "scann image",
        "packages": len(sizes),
        "packages_gb": round(sum(sizes.values()) / 1e9, 2),
        "tensorflow_gb": round(sizes["tensorflow"] / 1e9, 2),
        "servable_mb": round(_folder_bytes(version) / 1e6, 1),
        "memory_mb": round(memory / 1e6),
        "seconds_to_serve": round(seconds, 1),
    }
    common.print_table(console, "What the ScaNN image costs", [record], list(record))
    common.write_records([record], found, json_path)


def _folder_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.serving_image")
