"""Configurations of meta-training: the shipped ones, what is put on top of them, and what is refused."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from piaa_sdk.errors import ModelFormatError
from training import grid, published
from training.baselines.config import shipped_names as system_names
from training.config import CONFIG_FOLDER
from training.learners import blg
from training.meta_commands import load_config
from training.meta_config import MetaConfig, shipped_config, shipped_names

if TYPE_CHECKING:
    from pathlib import Path

FOLDER = CONFIG_FOLDER / "learners"
SMALL = """
extends = "base.toml"
title = "small"

[reptile]
steps = 3
"""


@pytest.mark.parametrize("name", shipped_names())
def test_every_shipped_configuration_loads_and_survives_json(name: str) -> None:
    """A run's record must give back the very settings that the run was made by."""
    config = MetaConfig.load(name)
    record = json.loads(json.dumps(config.to_dict(), allow_nan=False))
    assert MetaConfig.from_dict(record, "run.json") == config


def test_what_is_shipped() -> None:
    """Every method of Table I is there, under a title of its own."""
    names = shipped_names()
    assert set(published.TABLE_METHODS) <= {*names, *system_names()}
    titles = {config.title for config in published.load_methods(published.TABLE_METHODS)}
    assert len(titles) == len(published.TABLE_METHODS)
    assert len({MetaConfig.load(name).title for name in names}) == len(names)
    assert published.BASELINE in titles


def test_a_part_of_configurations_is_none() -> None:
    """``_common.toml`` has no learner: it is neither listed nor taken by its name."""
    assert (FOLDER / "_common.toml").is_file()
    assert "_common" not in shipped_names()
    with pytest.raises(
        ModelFormatError, match=r"there is no configuration '_common'; there are ba, blg_as_p"
    ):
        shipped_config("_common")
    with pytest.raises(ModelFormatError, match=r"_common\.toml: needs one section named after a learner"):
        MetaConfig.load(FOLDER / "_common.toml")


@pytest.mark.parametrize("name", ["nothing", "../kernel_prior", "", "blg_as_paper.toml/"])
def test_a_name_that_is_not_shipped_is_refused_with_those_that_are(name: str) -> None:
    with pytest.raises(
        ModelFormatError, match=r"there is no configuration .*; there are .*closed_form, maml"
    ):
        load_config(name, None)


def test_as_paper_holds_what_the_paper_prints() -> None:
    """Section IV-A of Zhu et al. 2020: every constant exactly."""
    config = MetaConfig.load("blg_as_paper")
    settings = config.settings
    assert isinstance(settings, blg.BlgConfig)
    assert (config.tasks.support, config.tasks.query, config.tasks.pool) == ((80,), 20, 100)
    assert (config.tasks.tasks, settings.steps, config.schedule.iterations) == (4, 5, 1000)
    assert (settings.backbone_rate, settings.head_rate, settings.outer_rate) == (1e-4, 1e-3, 1e-2)
    assert (settings.decay.factor, settings.decay.every, settings.decay.rule) == (0.9, 100, "power")
    assert (settings.levels, settings.moments, settings.outer_rule, settings.result) == (
        *(2, "reset", "mean"),
        "prior",
    )
    for adam in (settings.adam, config.fine_tuning.adam):
        assert (adam.first_decay, adam.second_decay) == (0.9, 0.99)
        assert (adam.epsilon, adam.weight_decay, adam.bias_correction) == (1e-8, 1e-5, False)
    assert (config.fine_tuning.learning_rate, config.fine_tuning.epochs) == (1e-5, 20)
    assert (config.network.backbone, config.network.classifier) == ("resnet18", False)
    assert len(config.network.head.hidden) == 1  # two fully connected layers


@pytest.mark.parametrize("name", sorted(set(published.TABLE_METHODS) - set(system_names())))
def test_methods_of_table_1_differ_in_the_learner_alone(name: str) -> None:
    config, paper = MetaConfig.load(name), MetaConfig.load("blg_as_paper")
    assert config.network == paper.network
    assert config.seed == paper.seed
    if "as_released" not in name:
        assert config.fine_tuning == paper.fine_tuning
        assert config.tasks.target == paper.tasks.target


def test_the_table_of_differences_tells_what_the_files_do() -> None:
    """One row in the docstring of the learner for each setting that differs, and the values of the files."""
    paper, released = (_flat(MetaConfig.load(f"blg_as_{name}").to_dict()) for name in ("paper", "released"))
    differing = {name for name in paper if paper[name] != released[name]} - {"title"}
    rows = {row[0]: row[1:] for row in _rows(blg.__doc__ or "")}
    assert set(rows) == differing
    for name, cells in rows.items():
        for cell, value in zip(cells, (paper[name], released[name]), strict=True):
            assert _starts_with(cell, value), f"{name}: {cell!r} does not begin with {value!r}"


def test_the_check_of_the_table_can_fail() -> None:
    assert not _starts_with("100: all ratings", 0)
    assert not _starts_with("true", False)
    assert not _starts_with("resets", "reset")
    assert not _starts_with("1024, 512", [128])


def test_a_file_extends_another_setting_by_setting(tmp_path: Path) -> None:
    (tmp_path / "base.toml").write_text((FOLDER / "_common.toml").read_text(encoding="utf-8"))
    (tmp_path / "small.toml").write_text(SMALL)
    (tmp_path / "smaller.toml").write_text('extends = "small.toml"\n[schedule]\niterations = 7\n')
    config = MetaConfig.load(tmp_path / "smaller.toml")
    assert (config.title, config.learner, config.schedule.iterations) == ("small", "reptile", 7)
    assert config.settings == MetaConfig.load(tmp_path / "small.toml").settings
    assert config.fine_tuning == MetaConfig.load("reptile").fine_tuning


def test_files_that_extend_each_other_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('extends = "b.toml"\n')
    (tmp_path / "b.toml").write_text('extends = "a.toml"\n')
    (tmp_path / "own.toml").write_text('extends = "own.toml"\n')
    (tmp_path / "lost.toml").write_text('extends = "nowhere.toml"\n')
    for name, message in [
        ("a", r"b\.toml: extends must name another file that does not extend this one, found 'a\.toml'"),
        ("own", r"own\.toml: extends must name another file"),
        ("lost", r"nowhere\.toml: not a configuration"),
    ]:
        with pytest.raises(ModelFormatError, match=message):
            MetaConfig.load(tmp_path / f"{name}.toml")


def test_settings_put_on_top() -> None:
    config = MetaConfig.load(
        "blg_as_released",
        [
            *("blg.steps=2", "network.head.hidden=[8, 4]", "blg.adam.weight_decay=0", "seed=5"),
            *("network.backbone = tf_efficientnet_lite0", "title=my = own", "network.head.standardize=true"),
        ],
    )
    settings = config.settings
    assert isinstance(settings, blg.BlgConfig)
    assert (settings.steps, config.network.head.hidden, config.seed) == (2, (8, 4), 5)
    assert (settings.adam.weight_decay, type(settings.adam.weight_decay)) == (0.0, float)
    assert (config.network.backbone, config.title) == ("tf_efficientnet_lite0", "my = own")
    assert config.network.head.standardize is True
    assert settings.moments == "carried"  # what was not named stays


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("blg.stepps=2", r"blg_as_paper\.toml: blg: missing or not known: stepps;"),
        ("blg.adam.beta=2", r"blg_as_paper\.toml: blg\.adam: missing or not known: beta;"),
        ("outer.rate=2", r"blg_as_paper\.toml: missing or not known: outer;"),
        ("maml.steps=2", r"blg_as_paper\.toml: needs one section .*, has blg, maml$"),
        ("blg.steps=2.5", r"blg_as_paper\.toml: blg\.steps is 2\.5, must be of the type int$"),
        ("blg.steps=true", r"blg_as_paper\.toml: blg\.steps is True, must be of the type int$"),
        ("blg.outer_rate=fast", r"blg_as_paper\.toml: blg\.outer_rate is 'fast', must be of the type float$"),
        ("blg.outer_rate=nan", r"blg_as_paper\.toml: blg\.outer_rate is nan, must be finite$"),
        ("network.head.hidden=8", r"blg_as_paper\.toml: network\.head\.hidden is 8, must be of the type"),
        ("network.head.hidden=['8']", r"network\.head\.hidden is '8', must be of the type int$"),
        ("blg.adam=1", r"blg_as_paper\.toml: blg\.adam: expected a section of settings, found 1$"),
        ("blg.moments=kept", r"blg_as_paper\.toml: blg: moments is 'kept', must be one of reset, carried$"),
        ("blg.levels=3", r"blg_as_paper\.toml: blg: levels is 3, must be one of 1, 2$"),
        ("blg.decay.rule=linear", r"blg\.decay: rule is 'linear', must be one of power, compounding$"),
        ("tasks.tasks=0", r"blg_as_paper\.toml: tasks: tasks is 0, "),
        ("schedule.checkpoint_every=0", r"schedule: checkpoint_every is 0, must be at least 1$"),
        ("seed=-1", r"blg_as_paper\.toml: title must be text and seed a whole number from 0, found -1$"),
        ("seed=true", r"blg_as_paper\.toml: title must be text and seed a whole number from 0, found True$"),
        ("blg.steps", r"'blg\.steps' is not a setting; write section\.name=value$"),
        ("=3", r"'=3' is not a setting"),
    ],
)
def test_a_setting_that_is_none_is_refused_with_file_and_section(override: str, message: str) -> None:
    with pytest.raises(ModelFormatError, match=message):
        MetaConfig.load("blg_as_paper", [override])


@pytest.mark.parametrize(
    ("name", "override", "message"),
    [
        ("blg_as_paper", "blg.steps=-3", "blg: steps is -3, must be at least 0"),
        ("blg_as_paper", "blg.outer_rate=-1", r"outer_rate is -1\.0, must be at least 0"),
        ("blg_as_paper", "blg.decay.every=-1", r"blg\.decay: every is -1, must be at least 0"),
        ("blg_as_paper", "blg.decay.factor=0", r"factor is 0\.0, must be above 0 and at most 1"),
        ("blg_as_paper", "blg.decay.factor=1.5", r"factor is 1\.5, must be above 0 and at most 1"),
        ("blg_as_paper", "blg.adam.first_decay=1", r"blg\.adam: first_decay is 1\.0, must be .* below 1"),
        ("blg_as_paper", "fine_tuning.epochs=-1", "fine_tuning: epochs is -1, must be at least 0"),
        ("blg_as_paper", "schedule.validate_every=0", "validate_every is 0, must be at least 1"),
        ("blg_as_paper", "schedule.iterations=-1", "iterations is -1, must be at least 0"),
        ("blg_as_paper", "network.size=-5", "network: size is -5, must be at least 16"),
        ("blg_as_paper", "network.size=15", "network: size is 15, must be at least 16"),
        ("maml", "maml.outer_head_rate=-1", r"outer_head_rate is -1\.0, must be at least 0"),
        ("maml", "maml.outer_optimizer=lbfgs", "outer_optimizer is 'lbfgs', must be one of sgd, adam"),
        ("maml", "maml.batch_norm=batch", "batch_norm is 'batch', must be one of frozen, support"),
        ("reptile", "reptile.steps=-1", "steps is -1, must be at least 0"),
        ("reptile", "reptile.outer_rate=-1", r"outer_rate is -1\.0"),
        ("ba", "generic.head_rate=-1e-3", r"head_rate is -0\.001, must be at least 0"),
        ("closed_form", "closed_form.noise=0", r"noise is 0\.0, must be above 0"),
        ("closed_form", "closed_form.linear=0", r"linear is 0\.0, must be above 0"),
        (
            "closed_form",
            "closed_form.input_dropout=1.5",
            r"input_dropout is 1\.5, must be at least 0 and below",
        ),
        ("closed_form", "closed_form.offset_variance=-1", r"offset_variance is -1\.0, must be at least 0"),
        ("closed_form", "closed_form.ranking_weight=-1", r"ranking_weight is -1\.0, must be at least 0"),
        ("closed_form", "closed_form.backbone_rate=-1", r"backbone_rate is -1\.0, must be at least 0"),
    ],
)
def test_numbers_that_mean_nothing_are_refused(name: str, override: str, message: str) -> None:
    with pytest.raises(ModelFormatError, match=message):
        MetaConfig.load(name, [override])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("\ntitle =", "\n# title =", r"mine\.toml: missing or not known: title;"),
        ("\n[schedule]", "\n[plan]", r"mine\.toml: missing or not known: plan, schedule;"),
        ("\n[blg]", "\n[blog]", r"mine\.toml: needs one section named after a learner .*, has none$"),
        ("\n[network]", "\n[network]]", r"mine\.toml: not a configuration"),
    ],
)
def test_a_file_without_a_section_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    text = (FOLDER / "blg_as_paper.toml").read_text(encoding="utf-8")
    assert old in text
    text = text.replace(old, new, 1)
    if new == "\n[blog]":
        text = text.replace("[blg.", "[blog.")
    (tmp_path / "mine.toml").write_text(text, encoding="utf-8")
    with pytest.raises(ModelFormatError, match=message):
        MetaConfig.load(tmp_path / "mine.toml")


def test_fig_5_has_all_its_places() -> None:
    """Six pairs of levels, m = 100 each; at 100/0 there is no second level, and support stays 100."""
    points = grid.GRID.over(None, None, None)
    assert len({point.name for point in points}) == len(points) == 6 * 5 * 5
    assert {point.support + point.query for point in points} == {100}
    alone = MetaConfig.load("blg_as_paper", next(p for p in points if p.query == 0).overrides)
    assert (alone.tasks.support, alone.tasks.query, alone.tasks.pool) == ((100,), 1, 101)
    assert isinstance(alone.settings, blg.BlgConfig)
    assert alone.settings.levels == 1
    default = next(p for p in points if (p.support, p.tasks, p.steps) == (80, 4, 5))
    paper = MetaConfig.load("blg_as_paper")
    assert MetaConfig.load("blg_as_paper", default.overrides) == paper


def _flat(record: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in record.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def _rows(text: str) -> list[list[str]]:
    lines = text.splitlines()
    rules = [number for number, line in enumerate(lines) if line.startswith("====")]
    return [re.split(r" {2,}", line) for line in lines[rules[1] + 1 : rules[2]]]


def _starts_with(cell: str, value: Any) -> bool:
    """Say whether a cell begins with a value of a file, as a whole word."""
    if isinstance(value, list):
        return cell == ", ".join(map(str, value))
    word = re.split(r"[ :]", cell)[0]
    if isinstance(value, bool):
        return word == str(value).lower()
    return word == value if isinstance(value, str) else float(word) == value
