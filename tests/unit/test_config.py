"""Configuration: layers, origins, and errors that name the key."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import jsonschema
import pytest

from streamseg.config import Config, as_written, load, parse_assignment
from streamseg.config.template import render_schema, render_template
from streamseg.errors import ConfigError


def write(directory: Path, text: str) -> Path:
    path = directory / "streamseg.toml"
    path.write_text(text)
    return path


def test_flags_win_over_the_environment_that_over_the_file_that_over_defaults(tmp_path: Path) -> None:
    file = write(tmp_path, '[model]\nsegments = 2\nwarm_up = 10\nseed = 1\n[output]\nemit = "changes"\n')
    environ = {"STREAMSEG_MODEL__SEGMENTS": "3", "STREAMSEG_MODEL__WARM_UP": "20", "HOME": "x"}
    config, origins = load(file, {"model.segments": 4, "model.seed": None}, environ)
    assert (config.model.segments, config.model.warm_up, config.model.seed, config.output.emit) == (4, 20, 1, "changes")
    assert origins["model.segments"] == "flag"
    assert origins["model.warm_up"] == "environment"
    assert origins["model.seed"] == str(file)
    assert origins["model.stickiness"] == "default"


def test_every_key_is_an_environment_variable() -> None:
    features = '[{"name":"spend","aggregate":"sum","half_life":"30d"}]'
    environ = {"STREAMSEG_FEATURES": features, "STREAMSEG_APPLICATION": "shop", "STREAMSEG_EMBEDDED__PATH": "x.db"}
    config = load(None, {}, environ).config
    assert [feature.name for feature in config.features] == ["spend"]
    assert config.application == "shop"
    assert config.embedded.path == "x.db"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[model]\nsegmnets = 3\n", r"unknown key 'model.segmnets' .*streamseg.toml.*known there: .*segments"),
        ("modle = 3\n", r"unknown key 'modle'.*did you mean 'model'\? known there: application"),
        ("[modell]\nsegments = 3\n", r"unknown key 'modell' \(.*streamseg.toml\).*did you mean 'model'\?"),
        ("[model]\nsegments = true\n", r"model: segments is no matter of true or false"),
        ('[model]\nsegments = "four"\n', r"model.segments: .*'four'.*\"auto\": as many as there are natural gaps"),
        (
            '[[features]]\nname = "a"\nhalf_life = 90\n',
            r'half_life: a text is needed, in quotes \("90d"\) \(it is 90\)',
        ),
        ("[model]\nmax_gain = 2.0\n", r"model.max_gain is no key any more: a center is the mean of its customers"),
        ('features = "age"\n', r"features: a list is needed, such as .*what a customer is made of"),
        ('features = ["age"]\n', r"features.0: a table is needed, such as"),
        ('[[features]]\nnam = "a"\n', r"unknown key 'features.0.nam'.*did you mean 'name'\?"),
        ("[[features]]\nweight = 1.0\n", r"features.0.name: is missing .*its name in drivers"),
        ("\ufeff[model]\nsegmnets = 3\n", r"did you mean 'segments'"),
        ("[model]\nsegments = 0\n", r"model.segments: .*greater than or equal to 1"),
        ("[model]\nsegments = 65\n", r"model.segments"),
        ("[model]\nhalf_life = 300\n", r"model.half_life is no key any more: each customer counts once"),
        ('[model]\ncustomer_half_life = "90d"\n', r"model.customer_half_life is no key any more"),
        ("[model]\nclip_sigmas = 4\n", r"model.clip_sigmas is no key any more"),
        ('[model]\nretire_after = "30d"\n', r"model.retire_after is no key any more: .*model.active_within"),
        ('[model]\nactive_within = "30x"\n', r"model.active_within: '30x' is not a positive duration such as 90d"),
        ('[model]\nretag_every = "0d"\n', r"model.retag_every: '0d' is not a positive duration"),
        ('[output]\npath = "tags.csv"\n', r"output.path: tags are written as JSON lines, not as csv: end 'tags.csv' in"),
        ('[output]\nemit = "never"\n', r"output.emit: .*'every' or 'changes'.*it is 'never'"),
        ('[[features]]\nname = "a"\nhalf_life = "3d"\n', r"half_life makes no sense with aggregate 'last'"),
        ('[[features]]\nname = "a"\n[[features]]\nname = "a"\n', r"features: 'a' is there twice"),
        ('[[features]]\nname = "a"\nweight = 0.0\n', r"at least one feature must have a weight above 0"),
        ('[[features]]\nname = "a"\none_hot = ["x"]\n', r"at least two categories"),
        ('[[features]]\nname = "a"\nwieght = 1.0\n', r"unknown key 'features.0.wieght'.*known there: aggregate"),
        ('[[features]]\nname = "customer_id"\n', r"not a field for a feature"),
        ("[model]\nwarm_up = 2\n", r"model\.warm_up \(2\) must be at least model\.segments"),
        ('[input]\ntransport = "pigeon"\n', r"input.transport"),
        (
            '[[features]]\nname = "a"\nfield = "f"\n[[features]]\nname = "b"\nfield = "f"\none_hot = ["x", "y"]\n',
            "text for another",
        ),
        ('[[features]]\nname = "a"\nfield = "f"\n[[features]]\nname = "b"\nfield = "f.g"\n', r"'f' cannot be a value and"),
        ("[model\n", r"not TOML.*`streamseg init`"),
    ],
    ids=lambda value: value[:40],
)
def test_a_wrong_configuration_is_refused_with_its_key_and_what_to_do(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(write(tmp_path, text), {}, {})
    import re

    assert re.search(message, str(caught.value), re.DOTALL), str(caught.value)


def test_an_unknown_environment_variable_is_refused() -> None:
    with pytest.raises(ConfigError, match="STREAMSEG_MODLE__SEGMENTS"):
        load(None, {}, {"STREAMSEG_MODLE__SEGMENTS": "3"})


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no configuration file"):
        load(tmp_path / "none.toml", {}, {})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.b=3", ("a.b", 3)),
        ('a="x"', ("a", "x")),
        ("a=90d", ("a", "90d")),
        ("a=true", ("a", True)),
        ("a=x=y", ("a", "x=y")),
    ],
)
def test_set_takes_toml_values_and_plain_text(text: str, expected: tuple[str, object]) -> None:
    assert parse_assignment(text) == expected


def test_set_without_a_value_is_refused() -> None:
    with pytest.raises(ConfigError, match="key=value"):
        parse_assignment("model.segments")


def test_the_template_is_the_defaults_and_fits_its_schema(tmp_path: Path) -> None:
    text = render_template()
    assert load(write(tmp_path, text), {}, {}).config == Config()
    schema = json.loads(render_schema())
    jsonschema.validate(tomllib.loads(text), schema)
    for line in text.splitlines():
        assert len(line) < 200


def test_auto_says_what_it_means() -> None:
    spec = Config().job_settings().model
    assert spec.n_segments is None
    assert spec.refits
    pinned = Config.model_validate({"model": {"segments": 5, "refits": False}}).job_settings().model
    assert (pinned.n_segments, pinned.refits) == (5, False)


def test_numbers_in_the_environment_are_numbers() -> None:
    assert load(None, {}, {"STREAMSEG_MODEL__WARM_UP": "500"}).config.model_spec().warm_up == 500


def test_features_in_the_environment_that_are_no_json_are_refused() -> None:
    with pytest.raises(ConfigError, match="cannot read the environment"):
        load(None, {}, {"STREAMSEG_FEATURES": "age, income"})


def test_a_horizon_that_is_not_said_is_as_the_state_has_it() -> None:
    written = load(None, {"metrics.drift_horizon": "7d"}, {}).config.job_settings().config
    assert as_written(load(None, {}, {}), written).metrics.drift_horizon == "7d"
    assert as_written(load(None, {"metrics.drift_horizon": "9d"}, {}), written).metrics.drift_horizon == "9d"
