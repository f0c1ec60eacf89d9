"""What the README shows: the example for research runs as it stands, and links lead somewhere."""

import re
from pathlib import Path

import pytest

from sid_tfx.datasets.market import write_sample
from sid_tfx.presets import PRESETS

REPOSITORY = Path(__file__).parents[1]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]


@pytest.mark.e2e
def test_the_research_example_gives_every_ad_a_semantic_id(tmp_path, monkeypatch):
    section = README.split("### 3. `model.fit`, for research")[1]
    code = re.search(r"```python\n(.*?)```", section, re.DOTALL).group(1)
    epochs = f"epochs={PRESETS['joint'].epochs}"
    assert epochs in code, "the example trains as long as the preset"
    short = code.replace(epochs, "epochs=1").replace(
        "tokenizer.encode", "encoded = tokenizer.encode"
    )
    assert "encoded = " in short
    write_sample(tmp_path, ads=120, users=150)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(short, "README.md", "exec"), names)
    assert len(names["pairs"]) == len(names["found"].score) > 0
    assert names["encoded"].shape == (120, 3)


@pytest.mark.unit
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_of_the_repository(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", text)
    missing = [t for t in targets if "://" not in t and not (page.parent / t).exists()]
    assert not missing
