"""The benchmarks at toy sizes: what they report and refuse. Never how fast anything is."""

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click import BadParameter
from click.testing import CliRunner

from benchmarks import __main__ as every
from benchmarks import common, generated, retrieval, tokenizers
from benchmarks.indices import harness
from benchmarks.peers import harness as peers

pytestmark = pytest.mark.unit

MACHINE = {"cores", "load_average", "tensorflow_version"}


def run(command, *arguments) -> str:
    done = CliRunner().invoke(command, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
    return done.output


def read(path: Path) -> list[dict]:
    records = json.loads(path.read_text())
    flat = (str, int, float, bool)
    assert all(isinstance(value, flat) for record in records for value in record.values())
    assert all(record.keys() >= MACHINE for record in records)
    return records


class Prefix(harness.Subject):
    """Exact over the first `effort` vectors, so that every effort has a known recall."""

    name = "prefix"

    def build(self, vectors):
        self.vectors = vectors
        self.efforts = harness.geometric(len(vectors))

    def search(self, queries, k, effort):
        order = np.argsort(-(queries @ self.vectors[:effort].T), axis=1)[:, :k]
        return np.pad(order, [(0, 0), (0, k - order.shape[1])], constant_values=-1)

    def index_bytes(self):
        return self.vectors.nbytes


@pytest.fixture
def job(tmp_path):
    data = retrieval.generate(300, 40, 16, seed=3)
    made = harness.Job(tmp_path, 5, (1, 8), (0.5, 1.0), 0.0, 1)
    made.save()
    np.save(tmp_path / "vectors.npy", data.vectors)
    np.save(tmp_path / "queries.npy", data.queries)
    np.save(tmp_path / "kth_scores.npy", harness.kth_scores(data.vectors, data.queries, 5))
    return made


class TestHarness:
    def test_a_job_survives_its_file(self, job):
        assert harness.Job.load(job.folder) == job

    def test_the_kth_score_is_that_of_a_full_sort(self, job):
        vectors, queries = (np.load(job.folder / f"{n}.npy") for n in ("vectors", "queries"))
        expected = -np.sort(-(queries @ vectors.T), axis=1)[:, 4]
        np.testing.assert_allclose(np.load(job.folder / "kth_scores.npy"), expected, rtol=1e-6)

    def test_recall_counts_neighbours_once_and_padding_never(self, job):
        vectors, queries = (np.load(job.folder / f"{n}.npy") for n in ("vectors", "queries"))
        kth = np.load(job.folder / "kth_scores.npy")
        true = np.argsort(-(queries @ vectors.T), axis=1)[:, :5]
        assert harness.recall(true, vectors, queries, kth, 5) == 1
        assert harness.recall(np.full_like(true, -1), vectors, queries, kth, 5) == 0
        assert harness.recall(true[:, [0] * 5], vectors, queries, kth, 5) == pytest.approx(0.2)
        worst = np.argsort(queries @ vectors.T, axis=1)[:, :5]
        assert harness.recall(worst, vectors, queries, kth, 5) == 0

    def test_it_takes_the_cheapest_effort_that_reaches_the_recall(self, job):
        records = harness.run(job, Prefix())
        half, full = records[0], records[2]
        vectors, queries = (np.load(job.folder / f"{n}.npy") for n in ("vectors", "queries"))
        kth = np.load(job.folder / "kth_scores.npy")
        subject = Prefix()
        subject.build(vectors)
        reached = {
            effort: harness.recall(subject.search(queries, 5, effort), vectors, queries, kth, 5)
            for effort in subject.efforts
        }
        assert half["effort"] == min(e for e, found in reached.items() if found >= 0.5)
        assert half["recall@5"] == pytest.approx(reached[half["effort"]], abs=1e-4)
        assert full["recall@5"] == 1
        assert [record["batch"] for record in records] == [1, 8, 1, 8]
        assert all(record["queries_per_second"] > 0 for record in records)

    def test_efforts_rise_to_the_most(self):
        assert harness.geometric(1) == (1,)
        efforts = harness.geometric(1000)
        assert efforts[:4] == (1, 2, 3, 4)
        assert efforts[-1] == 1000
        assert list(efforts) == sorted(set(efforts))


class TestData:
    def test_vectors_are_unit_clustered_and_of_their_seed(self):
        vectors = generated.clustered_vectors(400, 32, seed=1)
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
        np.testing.assert_array_equal(vectors, generated.clustered_vectors(400, 32, seed=1))
        assert not np.allclose(vectors, generated.clustered_vectors(400, 32, seed=2))
        unclustered = generated.unit(np.random.default_rng(0).normal(size=(400, 32)))
        assert np.median(_nearest(vectors)) > np.median(_nearest(unclustered)) + 0.2

    def test_a_catalogue_has_distinct_full_codes(self):
        catalog = generated.catalog(500, levels=2, codebook_size=16)
        assert len(np.unique(catalog.full_codes, axis=0)) == 500

    def test_real_embeddings_lose_what_has_no_direction(self, tmp_path):
        vectors = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
        vectors[3], vectors[7, 0] = 0, np.nan
        file = tmp_path / "catalog.parquet"
        columns = {"embedding": [*vectors.tolist(), None], "price": [1.0] * 51}
        ragged = [[1.0], *[[1.0, 2.0]] * 50]
        pq.write_table(pa.table({**columns, "ragged": ragged}), file)
        data = retrieval.read_embeddings(str(file), queries=20, seed=0, dimensions=64)
        assert data.name == f"{tmp_path.name}/catalog:embedding"
        assert (len(data.vectors), len(data.queries)) == (44, 4)
        everything = np.concatenate([data.vectors, data.queries])
        assert len(np.unique(everything.round(5), axis=0)) == 48
        with pytest.raises(BadParameter, match="has no column 'title'"):
            retrieval.read_embeddings(f"{file}:title", 20, 0, 64)
        for column in ("price", "ragged"):
            with pytest.raises(BadParameter, match="no vectors of one length"):
                retrieval.read_embeddings(f"{file}:{column}", 20, 0, 64)
        with pytest.raises(BadParameter, match="there is no file"):
            retrieval.read_embeddings(str(tmp_path / "none.parquet"), 20, 0, 64)


def _nearest(vectors: np.ndarray) -> np.ndarray:
    scores = vectors @ vectors.T
    np.fill_diagonal(scores, -1)
    return scores.max(axis=1)


def test_calls_alternate_and_warm_up():
    seen: list[str] = []
    timings = common.alternate(
        {"a": lambda: seen.append("a"), "b": lambda: seen.append("b")}, repeats=2, warm_up=1
    )
    assert "".join(seen) == "ab" + "abab"
    assert {name: len(found) for name, found in timings.items()} == {"a": 2, "b": 2}


def test_ratios_compare_equal_recall_only():
    def record(subject, speed, recall, batch=1):
        case = {"data": "d", "vectors": 9, "recall_target": 0.9, "batch": batch}
        return {"subject": subject, "recall@10": recall, "queries_per_second": speed, **case}

    records = [
        record("brute_force", 10.0, 1.0),
        record("scann", 40.0, 0.95),
        record("faiss_hnsw", 20.0, 0.92),
        record("faiss_ivf_pq", 900.0, 0.4),
        record("brute_force", 1.0, 1.0, batch=64),
    ]
    retrieval.add_ratios(records)
    exact, scann, hnsw, missed, _ = records
    assert exact["ratio_to_brute_force"] == 1
    assert (scann["ratio_to_brute_force"], scann["ratio_to_best_faiss"]) == (4, 2)
    assert hnsw["ratio_to_brute_force"] == 2
    assert "ratio_to_best_faiss" not in hnsw
    assert "ratio_to_brute_force" not in missed


@pytest.mark.slow
def test_retrieval(tmp_path):
    file = tmp_path / "out" / "r.json"
    sizes = ("--vectors", 300, "--queries", 30, "--dimensions", 16, "--seconds", 0)
    absent = tmp_path / "python"
    once = ("--batch", 4, "--recall", 0.9)
    output = run(retrieval.main, *sizes, *once, "--peer-python", absent, "--json", file)
    assert "faiss-cpu skipped: its environment is absent" in output
    exact, partitioned, scann = read(file)
    assert [found["subject"] for found in (exact, partitioned, scann)] == list(retrieval.OWN)
    assert [found["portable"] for found in (exact, partitioned, scann)] == [True, True, False]
    assert exact["vectors"] == 300
    assert exact["recall@10"] == 1
    for record in (exact, partitioned, scann):
        assert record["recall@10"] >= 0.9
        assert record.keys() >= {"queries_per_second", "build_seconds", "memory_mb", "index_mb"}
        assert record["ratio_to_brute_force"] > 0


@pytest.mark.skipif(
    not retrieval.PEER_PYTHON.is_file(), reason="the peers' environment is made by make bench"
)
@pytest.mark.parametrize("subject", retrieval.FAISS)
def test_faiss_reaches_the_recall_asked_for(job, subject):
    data = retrieval.Data("d", np.zeros([0, 0]), np.zeros([0, 0]))
    module = "benchmarks.indices.faiss_peers"
    found = retrieval.measure(data, subject, job, retrieval.PEER_PYTHON, module)
    assert [record["recall@5"] >= record["recall_target"] for record in found[:2]] == [True, True]


class TestTokenizers:
    def test_a_job_survives_its_file(self, tmp_path):
        made = tokenizers.job(tmp_path, 32, 8, 2, 4, 16, 1, 1, 0)
        assert peers.Job.load(tmp_path) == made
        assert made.vectors().shape == (32, 8)

    def test_it_trains_encodes_and_streams(self, tmp_path):
        file = tmp_path / "t.json"
        sizes = ("--ads", 64, "--dimensions", 8, "--codebook-size", 4, "--batch-rows", 16)
        few = ("--rounds", 1, "--epochs", 1, "--encode-rows", 3000)
        absent = ("--peer-python", tmp_path / "python")
        output = run(tokenizers.main, *sizes, *few, *absent, "--json", file)
        assert "PyTorch skipped: its environment is absent" in output
        train, encode, stream = read(file)
        assert [train["task"], encode["task"], stream["task"]] == ["train", "encode", "stream"]
        assert (train["rows"], encode["rows"], stream["rows"]) == (128, 64, 3000)
        assert "ratio" not in train
        assert stream["memory_ratio"] == 1
        for record in (train, encode, stream):
            assert record["subject"] == "sid_tfx"
            assert record["ads_per_second"] > 0

    @pytest.mark.skipif(
        not tokenizers.PEER_PYTHON.is_file(), reason="PyTorch's environment: make bench-torch"
    )
    def test_the_peer_is_the_same_model_and_learns(self, tmp_path):
        made = tokenizers.job(tmp_path, 256, 16, 3, 8, 32, 1, 1, 0)
        records = tokenizers.compare(
            made,
            256,
            {tokenizers.OWN: Path(sys.executable), tokenizers.PEER: tokenizers.PEER_PYTHON},
            rounds=1,
        )
        own, torch = (record for record in records if record["task"] == "train")
        assert own["parameters"] == torch["parameters"]
        assert own["ratio"] > 0
        assert torch["ratio"] == 1
        worker = peers.Worker(tokenizers.PEER_PYTHON, tokenizers.MODULES[tokenizers.PEER], made)
        losses = [worker.run("train")["loss"] for _ in range(6)]
        assert losses[-1] < losses[0]
        assert worker.run("encode")["distinct_sids"] > 8
        worker.close()

    def test_a_subject_that_fails_says_why(self, tmp_path):
        made = tokenizers.job(tmp_path, 32, 8, 2, 4, 16, 1, 1, 0)
        absent = "benchmarks.peers.no_such_subject"
        with pytest.raises(RuntimeError, match=f"{absent} failed:(.|\n)*No module named"):
            peers.Worker(Path(sys.executable), absent, made)


class TestAll:
    def test_arguments_need_one_benchmark(self):
        done = CliRunner().invoke(every.main, ["--", "--vectors", "9"])
        assert done.exit_code == 2
        assert "name it with --only" in done.output

    def test_every_script_is_among_them_and_takes_its_arguments(self):
        folder = Path(every.__file__).parent
        scripts = {
            path.stem
            for path in folder.glob("*.py")
            if path.stem != "__main__" and "main(prog_name=" in path.read_text()
        }
        assert set(every.BENCHMARKS) == scripts
        for name, arguments in every.BENCHMARKS.items():
            command = importlib.import_module(f"benchmarks.{name}").main
            command.make_context(name, list(arguments))

    def test_an_unknown_benchmark_names_the_known(self):
        done = CliRunner().invoke(every.main, ["--only", "speed"])
        assert done.exit_code == 2
        assert all(name in done.output for name in every.BENCHMARKS)

    def test_each_writes_its_own_file(self, tmp_path):
        small = ("--catalogue-size", 50, "--beam", 2, "--batch", 1, "--repeats", 1)
        absent = ("--peer-python", tmp_path / "python")
        run(every.main, "--only", "decoding", "--json", tmp_path, "--", *small, *absent)
        assert len(read(tmp_path / "decoding.json")) == 2

    def test_a_skip_is_no_failure_and_a_failure_is_one(self, tmp_path):
        run(every.main, "--only", "serving", "--", "--servable", tmp_path)
        done = CliRunner().invoke(every.main, ["--only", "serving", "--", "--requests", "none"])
        assert done.exit_code == 1
        assert "failed: serving" in done.output
