"""The smallest input that makes sense goes through every stage: three ads, titles only."""

import json

import pytest

from tests.e2e.conftest import options, pipeline

pytestmark = pytest.mark.e2e


def _write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_three_ads_without_category_are_served(tmp_path):
    ads, events = tmp_path / "ads.jsonl", tmp_path / "events.jsonl"
    titles = ("Red running shoes", "Blue running shoes", "Garden hose, 20 m")
    _write(ads, [{"ad_id": f"ad{i}", "title": title} for i, title in enumerate(titles)])
    seen = [(f"u{user}", f"ad{(user + i) % 3}", 100 + i) for user in range(6) for i in range(3)]
    seen.append(("only-once", "ad0", 50))
    _write(events, [{"user_id": u, "ad_id": a, "timestamp": t} for u, a, t in seen])

    summary = tmp_path / "summary.json"
    arguments = options(tmp_path / "runs", ads, events)
    pipeline("run", *arguments, "--json", str(summary))
    found = json.loads(summary.read_text())
    assert set(found["servables"]) == {"portable", "scann"}
    # The user with one event is trained on and not evaluated.
    assert found["metrics"]["example_count"] == 6
    # Three ads, twenty places: whatever the history, every ad is among the results.
    assert found["metrics"]["recall_at_5"] == 1.0
