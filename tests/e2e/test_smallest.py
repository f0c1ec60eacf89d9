"""The smallest input that makes sense goes through every stage: three ads, titles only."""

import json

import pytest

from tests.e2e.conftest import options, pipeline

pytestmark = pytest.mark.e2e


def _write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _market(folder, events_per_user):
    """Three ads and six users, and a seventh with one event."""
    ads, events = folder / "ads.jsonl", folder / "events.jsonl"
    titles = ("Red running shoes", "Blue running shoes", "Garden hose, 20 m")
    _write(ads, [{"ad_id": f"ad{i}", "title": title} for i, title in enumerate(titles)])
    seen = [
        (f"u{user}", f"ad{(user + i) % 3}", 100 + i)
        for user in range(6)
        for i in range(events_per_user)
    ]
    seen.append(("only-once", "ad0", 50))
    _write(events, [{"user_id": u, "ad_id": a, "timestamp": t} for u, a, t in seen])
    return options(folder / "runs", ads, events)


@pytest.mark.slow
def test_three_ads_without_category_are_served(tmp_path):
    summary = tmp_path / "summary.json"
    pipeline("run", *_market(tmp_path, events_per_user=4), "--json", str(summary))
    found = json.loads(summary.read_text())
    assert set(found["servables"]) == {"portable", "scann"}
    # The user with one event is trained on and not evaluated.
    assert found["metrics"]["example_count"] == 6
    # Three ads, twenty places: whatever the history, every ad is among the results.
    assert found["metrics"]["recall@5"] == 1.0


@pytest.mark.slow
def test_a_log_with_nothing_to_learn_from_is_refused(tmp_path):
    result = pipeline("run", *_market(tmp_path, events_per_user=3), check=False)
    assert result.returncode == 3
    last = result.stdout.strip().splitlines()[-1]
    assert "RecommenderTrainer: none of the 7 training histories has 2 ads" in last
