"""The configuration names what is wrong with it."""

from pathlib import Path

import pytest

from pipeline.config import Config, ConfigError, load_config
from pipeline.config_reference import reference

pytestmark = pytest.mark.unit


def test_shipped_configs_are_valid():
    for name in ("default", "sample"):
        assert load_config(f"configs/{name}.yaml").tokenizer.levels == 3


def test_override_wins_over_file(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("tokenizer: {levels: 3, epochs: 2}\n")
    config = load_config(path, ["tokenizer.levels=4"])
    assert (config.tokenizer.levels, config.tokenizer.epochs) == (4, 2)


def test_override_reaches_a_section_the_file_lacks():
    config = load_config(None, ["data.ads.columns={title: headline}", "recommender.epochs=3"])
    assert config.data.ads.columns == {"title": "headline"}
    assert config.recommender.epochs == 3


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("tokenizer.level=4", ["tokenizer.level", "'levels'", "codebook_size"]),
        ("tokenizr.levels=4", ["tokenizr", "'tokenizer'"]),
        ("tokenizer.levels=0", ["tokenizer.levels", "0", "greater than or equal to 1"]),
        ("tokenizer.levels=many", ["tokenizer.levels", "'many'"]),
        ("data.split=random", ["data.split", "leave_one_out", "global_time", "all"]),
        ("servable.dense_index=scann", ["servable.dense_index", "auto", "exact", "index"]),
        ("name=My Run", ["name", "My Run"]),
        ("recommender.batch_positions=20", ["recommender:", "batch_positions=20", "=50"]),
        ("recommender.context=[time", ["recommender.context", "not YAML"]),
        ("data.test_share=0.95", ["data:", "test_share=0.95", "below 1"]),
        ("data.validation_share=0", ["data:", "validation_share=0", "above 0"]),
        ("data.max_text_bytes=2", ["data.max_text_bytes", "4"]),
        ("data.ads.category_separator=''", ["data.ads.category_separator"]),
        ("pairs.max_users_per_ad=1", ["pairs.max_users_per_ad", "2"]),
        ("servable.beam_size=10", ["servable:", "beam_size=10", "max_k=20"]),
        ("run.root=gs://b/runs", ["run.root", "'gs://b/runs' is no folder", "--pipeline-root"]),
        ("novalue", ["--set", "key.path=value"]),
        ("seed.deep=1", ["seed", "deep"]),
    ],
)
def test_wrong_key_or_value_names_itself_and_what_is_allowed(override, words):
    with pytest.raises(ConfigError) as error:
        load_config(None, [override])
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize("path", ["*.parquet", "a: b.csv", "day #1.csv", "[1].csv"])
def test_a_path_is_taken_as_it_is(path):
    assert load_config(None, [], {"data.ads.path": path}).data.ads.path == path


def test_file_that_is_absent_or_no_mapping(tmp_path):
    with pytest.raises(ConfigError, match="does not exist"):
        load_config(tmp_path / "none.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("- a\n- list\n")
    with pytest.raises(ConfigError, match="mapping"):
        load_config(broken)
    broken.write_text("a: [unclosed\n")
    with pytest.raises(ConfigError, match="not YAML"):
        load_config(broken)


def test_push_directory_defaults_below_the_run(tmp_path):
    config = load_config(None, [f"run.root={tmp_path}", "name=shop"])
    assert config.home == tmp_path / "shop"
    assert config.push_directory == tmp_path / "shop" / "serving"


def test_a_bucket_is_pushed_to_but_is_no_folder_to_serve_from():
    config = load_config(None, ["run.push_directory=gs://b/models"])
    assert config.run.push_directory == "gs://b/models"
    with pytest.raises(ConfigError, match=r"run\.push_directory = 'gs://b/models' is no folder"):
        _ = config.push_directory


def test_every_key_has_a_default():
    assert Config() == load_config()


def test_default_yaml_is_the_reference_and_the_defaults():
    assert Path("configs/default.yaml").read_text() == reference()
    assert load_config("configs/default.yaml") == Config()
