"""The decoding benchmark at toy sizes: what it reports and refuses. Never how fast anything is."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks import decoding, generated
from benchmarks.decoding_subjects import PEERS, Subject
from benchmarks.peers import generation
from sid_tfx.decoding import PrefixTrie

pytestmark = pytest.mark.unit

SHAPE = ("--beam", 4, "--batch", 2, "--k", 3, "--codebook-size", 16, "--history-length", 5)
ONE = ("--threads", 1)


def run(file, *arguments):
    arguments = [*SHAPE, *arguments, "--json", file]
    done = CliRunner().invoke(decoding.main, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
    return done.output, json.loads(file.read_text())


@pytest.mark.slow
def test_a_growing_catalogue(tmp_path):
    sizes = ("--catalogue-size", 300, "--catalogue-size", 100, "--repeats", 1, *ONE)
    output, records = run(tmp_path / "d.json", *sizes, "--peer-python", tmp_path / "python")
    assert "Hugging Face skipped: its environment is absent" in output
    small, large, *ids = records
    assert [small["catalogue_size"], large["catalogue_size"]] == [100, 300]
    assert small["ratio_to_smallest_catalogue"] == 1
    for record in (small, large):
        assert (record["subject"], record["beam"], record["batch"]) == ("sid_decoder", 4, 2)
        assert record["median_ms"] > 0
        assert record["threads"] == 1
        sids = generated.sids(record["catalogue_size"], codebook_size=16)
        trie = PrefixTrie.build(sids.codes, sids.sizes)
        assert record["bytes_per_ad"] == pytest.approx(trie.nbytes / len(sids.codes), abs=0.01)
        assert record["share_of_byte_limit"] == pytest.approx(record["bytes_per_ad"] / 40, abs=1e-3)
        # Codes and prefixes int32 of four levels and content float32 of 16, a row of padding beside
        # the ads; a bit a code for every prefix that there can be.
        ads = record["catalogue_size"]
        possible = np.cumprod([1, *sids.sizes[:-1]])
        bits = sum(np.minimum(ads, possible) * -(-np.array(sids.sizes) // 8))
        wanted = (96 * (ads + 1) + bits) / ads
        assert record["model_table_bytes_per_ad"] == pytest.approx(wanted, abs=0.01)
        assert "ratio_to_hf" not in record
    assert [record["catalogue_size"] for record in ids] == [100, 300]
    # A line of the asset file: "ad", eight digits, a line break.
    assert all(record["id_file_bytes_per_ad"] == 11 for record in ids)


@pytest.mark.slow
@pytest.mark.skipif(
    not decoding.PEER_PYTHON.is_file(), reason="Hugging Face's environment: make bench-torch"
)
def test_the_peers_decode_the_same_catalogue(tmp_path):
    once = ("--catalogue-size", 100, "--repeats", 1, "--peer-repeats", 1)
    output, records = run(tmp_path / "d.json", *once, "--threads", 1, "--threads", 2)
    assert "against Hugging Face" in output
    compared = {record["subject"]: record for record in records[:3]}
    assert list(compared) == [decoding.SUBJECT, *PEERS]
    ours, tiger, equal = compared.values()
    assert tiger["ratio_to_hf"] == equal["ratio_to_hf_equal"] == 1
    assert ours["ratio_to_hf"] == pytest.approx(tiger["median_ms"] / ours["median_ms"], rel=0.05)
    assert tiger["parameters"] == generation.TIGER.parameters(1 + 3 * 16 + generated.DEDUP_SIZE)
    assert equal["parameters"] == pytest.approx(ours["parameters"], rel=0.01)
    assert "transformers" in tiger["library"]
    assert "tensorflow" in ours["library"]
    assert {record["threads"] for record in compared.values()} <= {1, 2}


def test_a_subject_takes_the_threads_that_are_faster():
    class Worker:
        def __init__(self, threads):
            self.calls, self.milliseconds = 0, {1: [5.0], 2: [3.0], 4: [4.0]}[threads]

        def run(self, task):
            self.calls += 1
            # What the first call takes says nothing.
            return {"milliseconds": self.milliseconds if self.calls > 1 else [0.0]}

    assert Subject(Worker).fastest("20 1 10", (1, 2, 4)) == 2


def test_sids_are_those_of_the_catalogue_and_distinct():
    sids = generated.sids(2000, levels=2, codebook_size=16, seed=3)
    catalog = generated.catalog(2000, levels=2, codebook_size=16, seed=3)
    # Few have other codes there: those past the catalogue's bound of de-dup tokens.
    assert (sids.codes[:, :2] == catalog.codes).all(axis=1).mean() > 0.95
    assert len(np.unique(sids.codes, axis=0)) == 2000
    first = np.unique(sids.codes[:, :2], axis=0, return_index=True)[1]
    assert (sids.codes[first, 2] == 0).all()
    with pytest.raises(ValueError, match="draw more levels or codes"):
        generated.sids(2000, levels=1, codebook_size=4)


def test_a_job_survives_its_file(tmp_path):
    job = generation.Job(tmp_path, (4, 4, 2), generation.TIGER, 100, 2, 0)
    job.save()
    np.save(tmp_path / "codes.npy", np.array([[3, 0, 1], [0, 3, 0]], np.int32))
    assert generation.Job.load(tmp_path) == job
    assert job.tokens == 11
    # Every level has tokens of its own, after that of padding.
    assert job.item_tokens().tolist() == [[4, 5, 10], [1, 8, 9]]
    request = generation.Request(beam=20, batch=64, k=10)
    assert generation.Request.from_task(request.to_task()) == request


@pytest.mark.parametrize("parameters", [1_000_000, 1_551_760, 5_000_000])
def test_a_t5_of_as_many_parameters(parameters):
    found = generation.of_parameters(parameters, tokens=897).parameters(897)
    assert found == pytest.approx(parameters, rel=1e-3)
    with pytest.raises(ValueError, match="take a larger recommender"):
        generation.of_parameters(100_000, tokens=897)
