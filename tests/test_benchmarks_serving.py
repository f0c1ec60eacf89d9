"""The serving benchmarks on a toy servable: what they report and refuse, never how fast it is."""

from pathlib import Path

import numpy as np
import pytest
from click import ClickException
from click.testing import CliRunner

from benchmarks import (
    common,
    mixed_requests,
    servable_set,
    serving,
    serving_image,
    serving_load,
    serving_switches,
    version_answers,
)
from serving.results import AdList, ScoredAd
from serving.servable import Servable
from tests.serving.toy_servable import AD_IDS, HISTORY, save_toy
from tests.test_benchmarks import read, run

pytestmark = pytest.mark.unit


class TestServing:
    @pytest.fixture(scope="class")
    def base(self, tmp_path_factory) -> Path:
        root = tmp_path_factory.mktemp("toy")
        save_toy(root / "models" / "3", root / "scratch", 0.0)
        return root / "models"

    def test_the_catalogue_is_found_by_asking(self, base):
        servable = Servable(base / "3", "toy", 3)
        ads = serving_load.known_ads(servable, wanted=10)
        assert len(ads) == len(set(ads)) > 1
        assert set(ads) <= set(AD_IDS)
        servable.close()

    def test_histories_are_of_every_length(self):
        made = serving_load.draw_histories(["a", "b"], HISTORY, 200, seed=0)
        assert {len(history) for history in made} == set(range(1, HISTORY + 1))

    @pytest.mark.slow
    def test_it_reports_latency_and_throughput(self, base, tmp_path):
        file = tmp_path / "s.json"
        flags = ("--requests", 20, "--concurrency", 1, "--concurrency", 3)
        output = run(serving.main, "--servable", base, *flags, "--json", file)
        assert "of the limit of 1 ms" in output
        assert "3 in flight: " in output
        records = read(file)
        assert [(r["subject"].split(" ")[0], r["concurrency"]) for r in records] == [
            ("in_process", 1),
            ("grpc", 1),
            ("in_process,", 1),
            ("grpc,", 1),
            # Batches, at 1 in flight as at 3.
            ("in_process", 1),
            ("grpc,", 1),
            ("in_process", 3),
            ("grpc,", 3),
        ]
        for record in records:
            assert (record["requests"], record["failures"]) == (20, 0)
            assert record["requests_per_second"] > 0
        for record in (*records[:4], records[5], records[7]):
            assert record["p50_ms"] <= record["p95_ms"] <= record["p99_ms"]
        best = (records[0], records[4], records[6])
        assert [record["share_of_in_process"] for record in best] == [1, 1, 1]
        assert records[0]["added_ms"] == 0

    @pytest.mark.slow
    def test_it_makes_a_servable_of_any_size(self):
        output = run(serving.main, "--ads", 300, "--requests", 10, "--concurrency", 1)
        assert "of the limit of 1 ms" in output

    @pytest.fixture(scope="class")
    def other(self, tmp_path_factory) -> Path:
        root = tmp_path_factory.mktemp("other")
        return save_toy(root / "5", root / "scratch", 1.0)

    @pytest.fixture(scope="class")
    def known(self, base, other):
        found, asked = {}, []
        for name, path in (("own", base / "3"), ("other", other)):
            servable = Servable(path, "toy", 1)
            asked = asked or mixed_requests.draw_requests(servable, 16, seed=0)
            found[name] = mixed_requests.known_answers(servable, asked)
            servable.close()
        return asked, found

    def test_requests_are_of_every_signature_and_tell_the_servables_apart(self, known):
        asked, found = known
        assert {request.signature for request in asked} == {
            "recommend", "recommend_filtered", "similar_ads", "similar_to_embedding",
        }  # fmt: skip
        told = version_answers.distinguishable(asked, found["own"], found["other"])
        assert len(told) == len(asked)
        with pytest.raises(ClickException, match="both servables answer alike to recommend"):
            version_answers.distinguishable(asked, found["own"], found["own"])

    def test_an_answer_is_the_known_one_but_for_rounding_and_ties(self):
        def answer(ads, *scores):
            return mixed_requests.Answer(tuple(ad.encode() for ad in ads), np.array(scores))

        known = answer("abc", 3.0, 2.0, 1.0)
        assert answer("abc", 3.0001, 2.0, 1.0).is_like(known)
        assert not answer("abc", 3.1, 2.0, 1.0).is_like(known)
        assert not answer("bac", 3.0, 2.0, 1.0).is_like(known)
        assert not answer("ab", 3.0, 2.0).is_like(known)
        assert answer("abd", 3.0, 2.0, 1.0).is_like(known), "a tie at the end"
        assert not answer("dbc", 3.0, 2.0, 1.0).is_like(known)
        assert answer("bac", 2.0, 2.0, 1.0).is_like(answer("abc", 2.0, 2.0, 1.0))
        assert not answer("aac", 2.0, 2.0, 1.0).is_like(answer("abc", 2.0, 2.0, 1.0))

    def test_answers_of_another_version_mixed_early_and_late_ones_are_noticed(self, known):
        asked, found = known
        signatures = [request.signature for request in asked]
        assert version_answers.detects_wrong_answers(found, signatures, "own", "other")
        blind = {"own": found["own"], "other": found["own"]}
        assert not version_answers.detects_wrong_answers(blind, signatures, "own", "other")

    def test_an_answer_heard_before_the_server_was_seen_without_the_version_is_early(self, known):
        answers = version_answers.VersionAnswers(known[1], ["recommend"] * 16)
        answers.expect(7, "own", 0.0)
        answers.check(0, known[1]["own"][0][0], 0.5, 1.0, 7)
        answers.check(0, known[1]["own"][0][0], 0.5, 1.0, 8)
        assert answers.wrong == 1, "nobody has heard of version 8"
        answers.still_absent(7, 2.0)
        assert answers.wrong == 2
        assert answers.by_version == {7: 1, 8: 1}

    @pytest.mark.slow
    def test_no_answer_is_lost_or_wrong_over_switches_and_a_kill(self, base, other, tmp_path):
        file = tmp_path / "s.json"
        flags = ("--requests", 2000, "--switches", 3, "--concurrency", 8)
        both = ("--servable", base, "--other", other)
        run(serving_switches.main, *both, *flags, "--json", file)
        switched, damaged, killed = read(file)
        assert switched["requests"] >= 2000
        assert switched["requests"] > switched["rest_requests"] > 0
        assert (switched["failures"], switched["wrong_answers"]) == (0, 0)
        assert switched["versions_that_answered"] == 4
        assert damaged["refused"]
        assert killed["same_version"]
        assert killed["wrong_answers"] == 0
        assert killed["failures"] > 0, "the kill fell outside the load"

    @pytest.mark.slow
    def test_a_servable_set_goes_live(self, tmp_path):
        file = tmp_path / "s.json"
        output = run(servable_set.main, "--ads", 300, "--json", file)
        assert "300 ads: live" in output
        [record] = read(file)
        assert (record["subject"], record["ads"]) == ("servable_set", 300)
        assert 0 < record["publish_seconds"] <= record["live_seconds"]
        assert (record["failures"], record["wrong_answers"]) == (0, 0)
        assert 20 < record["off_ads"] < 100
        assert record["requests"] > 1

    def test_an_ad_that_is_off_is_noticed(self):
        class Client:
            def __init__(self, version, *ad_ids):
                self.answer = AdList(tuple(ScoredAd(ad, 0.0) for ad in ad_ids), version)

            def recommend(self, history):
                return self.answer

        switch = servable_set.Switch({"off"})
        assert not switch.ask(Client(1, "off"), [], old=1)
        assert switch.wrong == 0, "the old version may still show it"
        assert switch.ask(Client(2, "on"), [], old=1)
        assert switch.wrong == 0
        assert switch.ask(Client(2, "on", "off"), [], old=1)
        assert switch.ask(Client(2), [], old=1), "and it has to show something"
        assert (switch.asked, switch.failures, switch.wrong) == (4, 0, 2)

    def test_without_a_servable_it_is_skipped(self, tmp_path):
        done = CliRunner().invoke(serving.main, ["--servable", str(tmp_path)])
        assert done.exit_code == common.SKIPPED
        assert "push one with `make run`" in done.output

    def test_the_image_is_as_large_as_its_packages(self, tmp_path):
        dockerfile = tmp_path / "Dockerfile"
        dockerfile.write_text(
            "RUN pip install --constraint lock.txt \\\n  tenacity \\\n  click\nUSER x"
        )
        names = serving_image.image_packages(dockerfile)
        assert names == ["tenacity", "click"]
        sizes = serving_image.installed_sizes(names)
        assert sizes.keys() == {"tenacity", "click"}
        assert all(10**4 < size < 10**7 for size in sizes.values())
