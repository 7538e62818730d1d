"""Curves of errors over the epochs of adaptation: their ends, their tasks, and what is kept of them."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from piaa_sdk.errors import ModelFormatError, RatingError
from piaa_sdk.finetune.adam import AdamSettings
from piaa_sdk.finetune.full import FineTuning
from piaa_sdk.finetune.network import AestheticHead, AestheticNetwork, HeadConfig, params_of
from piaa_sdk.metrics import srocc
from piaa_sdk.rating_scale import RatingScale
from training import __main__ as program
from training.adaptation_trace import AdaptationTrace, trace_adaptation
from training.data.datasets import read_dataset
from training.data.splits import split as split_dataset
from training.evaluation import draw_tasks, evaluate
from training.experiment import Backbone, Workshop, load_personalizer, train
from training.learner_personalizer import LearnerPersonalizer
from training.learners.closed_form import ClosedForm, ClosedFormConfig
from training.learners.generic import Generic, GenericConfig
from training.meta_config import MetaConfig
from training.sources import EmbeddingSource

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from training.data.ratings import RatingTable

SCALE = RatingScale(1, 7)
DIM = 6


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def table(table_folder: Path) -> RatingTable:
    """Return the ratings of generated people; of their pictures only the number is used."""
    return read_dataset("table", table_folder, groups=["c"]).table


@pytest.fixture(scope="module")
def planted(table: RatingTable) -> tuple[RatingTable, torch.Tensor]:
    """Return ratings that are linear in embeddings, by a taste that every person has for themselves."""
    rng = np.random.default_rng(3)
    embeddings = rng.normal(size=(len(table.images), DIM))
    tastes = rng.normal(size=(len(table.users), DIM))
    liking = (embeddings[table.image_index] * tastes[table.user_index]).sum(1) / DIM**0.5
    rated = replace(table, ratings=np.clip(4 + 1.5 * liking, 1, 7))
    return rated, torch.from_numpy(embeddings.astype(np.float32))


def _personalizer(
    embeddings: torch.Tensor, *, rate: float = 0.01, closed: bool = False
) -> LearnerPersonalizer:
    torch.manual_seed(0)
    network = AestheticNetwork(AestheticHead(DIM, HeadConfig((16,), dropout=0.3)))
    fine_tuning = FineTuning(rate, 20, AdamSettings(bias_correction=True))
    learner = (
        ClosedForm(network, fine_tuning, ClosedFormConfig(noise=0.01))
        if closed
        else Generic(network, fine_tuning, GenericConfig())
    )
    prior = learner.first_prior(params_of(network))
    return LearnerPersonalizer("planted", learner, prior, EmbeddingSource(embeddings), SCALE)


def test_curves_begin_at_the_prior_and_end_at_what_is_judged(
    planted: tuple[RatingTable, torch.Tensor],
) -> None:
    """Epoch 0 and the last are recomputed from the prior and from personalize, to the last bit."""
    table, embeddings = planted
    personalizer = _personalizer(embeddings)
    trace = trace_adaptation(personalizer, table, SCALE, shots=20, users=3, seed=5)
    assert (trace.epochs, trace.shots) == (20, 20)
    tasks = draw_tasks(table, SCALE, shots=20, users=3, seed=5)
    for task, user in zip(tasks, trace.users, strict=True):
        assert (user.person, user.group, user.query_pictures) == (task.person, task.group, len(task.query))
        adapted = personalizer.personalize(task.support)
        for name, images, ratings in (
            ("support", task.support.images, task.support.ratings),
            ("query", task.query, task.ratings),
        ):
            ends = {0: personalizer.generic(images), -1: adapted.predict(images)[0]}
            for epoch, scores in ends.items():
                assert getattr(user, f"{name}_error")[epoch] == np.square(scores - ratings).mean()
                assert getattr(user, f"{name}_srocc")[epoch] == srocc(ratings, scores)


def test_tasks_are_those_of_an_evaluation(planted: tuple[RatingTable, torch.Tensor]) -> None:
    """The rank correlations at both ends are those that evaluation finds of the same users."""
    table, embeddings = planted
    personalizer = _personalizer(embeddings)
    trace = trace_adaptation(personalizer, table, SCALE, shots=15, users=4, seed=2)
    judged = evaluate(personalizer, table, SCALE, shots=[15], repeats=1, seed=2, users=4).results[0].judged
    assert tuple(user.person for user in trace.users) == judged.people
    ends = {"prior": 0, "personal": -1}
    for method, epoch in ends.items():
        found = [user.query_srocc[epoch] for user in trace.users]
        np.testing.assert_array_equal(found, judged.correlations[method][0])


def test_errors_fall_on_people_with_a_taste(planted: tuple[RatingTable, torch.Tensor]) -> None:
    """A taste that is planted is learned: both errors fall, the support's to less than a half."""
    table, embeddings = planted
    trace = trace_adaptation(_personalizer(embeddings, rate=0.03), table, SCALE, shots=25, users=6)
    for user in trace.users:
        assert user.support_error[-1] < 0.5 * user.support_error[0]
        assert user.query_error[-1] < user.query_error[0]
    before, after = (np.mean([user.query_srocc[epoch] for user in trace.users]) for epoch in (0, -1))
    assert after > before + 0.3


def test_on_shuffled_ratings_only_the_order_of_the_support_is_learned(
    planted: tuple[RatingTable, torch.Tensor],
) -> None:
    """Nothing is to be known of the query pictures: their order stays at chance."""
    table, embeddings = planted
    ratings = table.ratings.copy()
    rng = np.random.default_rng(0)
    for user in range(len(table.users)):
        own = table.user_index == user
        ratings[own] = rng.permutation(ratings[own])
    shuffled = replace(table, ratings=ratings)
    found = [
        trace_adaptation(_personalizer(embeddings, rate=0.03), shuffled, SCALE, shots=25, users=6, seed=seed)
        for seed in range(4)
    ]
    users = [user for trace in found for user in trace.users]
    assert np.mean([user.support_srocc[-1] - user.support_srocc[0] for user in users]) > 0.2
    # 24 correlations over 15 pictures have a mean within 0.055 of 0 (one standard deviation).
    assert abs(np.mean([user.query_srocc[-1] for user in users])) < 0.17


def test_without_a_rate_nothing_moves(planted: tuple[RatingTable, torch.Tensor]) -> None:
    table, embeddings = planted
    (user,) = trace_adaptation(_personalizer(embeddings, rate=0.0), table, SCALE, shots=10, users=1).users
    for name in ("support_error", "query_error", "support_srocc", "query_srocc"):
        assert len(set(getattr(user, name).tolist())) == 1


def test_what_solves_at_once_has_one_epoch(planted: tuple[RatingTable, torch.Tensor]) -> None:
    table, embeddings = planted
    trace = trace_adaptation(_personalizer(embeddings, closed=True), table, SCALE, shots=20, users=2)
    assert trace.epochs == 1
    assert all(user.query_error[1] < user.query_error[0] for user in trace.users)


def test_a_diverged_user_has_no_numbers_from_there_on(
    planted: tuple[RatingTable, torch.Tensor], tmp_path: Path
) -> None:
    """At a rate of 1e30 the scores leave the finite numbers; the prior's are known, and are kept as such."""
    table, embeddings = planted
    trace = trace_adaptation(_personalizer(embeddings, rate=1e30), table, SCALE, shots=10, users=2)
    for user in trace.users:
        assert np.isfinite(user.query_error[0])
        assert np.isnan(user.query_error[-1])
    path = tmp_path / "trace.json"
    path.write_text(json.dumps(trace.to_json(), allow_nan=False))
    assert np.isnan(AdaptationTrace.load(path).users[0].query_error[-1])


def test_a_record_is_read_back(
    planted: tuple[RatingTable, torch.Tensor], table: RatingTable, tmp_path: Path
) -> None:
    """All of it, and no person's name."""
    rated, embeddings = planted
    trace = trace_adaptation(
        _personalizer(embeddings), rated, SCALE, shots=10, users=3, facts={"mode": "head"}
    )
    path = tmp_path / "trace.json"
    text = json.dumps(trace.to_json(), allow_nan=False)
    path.write_text(text)
    read = AdaptationTrace.load(path)
    assert (read.method, read.conditions, read.facts) == (trace.method, trace.conditions, trace.facts)
    assert json.dumps(read.to_json()) == text
    assert not [user for user in table.users if user in text]


def test_what_is_no_trace_is_refused(planted: tuple[RatingTable, torch.Tensor], tmp_path: Path) -> None:
    table, embeddings = planted
    trace = trace_adaptation(_personalizer(embeddings), table, SCALE, shots=10, users=1)
    record = trace.to_json()
    for odd, said in (
        (
            {**record, "format_version": 2},
            "holds no adaptation trace of format 1, but adaptation trace of format 2",
        ),
        ({**record, "kind": "else"}, "but else of format 1"),
        ({**record, "users": []}, "no complete adaptation trace"),
        ({**record, "users": [{**record["users"][0], "query_error": [0.1]}]}, r"curves of \[1, 21\] epochs"),
        ({name: value for name, value in record.items() if name != "method"}, "KeyError"),
    ):
        with pytest.raises(ModelFormatError, match=said):
            AdaptationTrace.from_json(odd)
    path = tmp_path / "trace.json"
    path.write_text("[1]")
    with pytest.raises(ModelFormatError, match="it holds no object"):
        AdaptationTrace.load(path)
    path.write_text("{")
    with pytest.raises(ModelFormatError, match="cannot be read"):
        AdaptationTrace.load(path)
    with pytest.raises(RatingError, match="7 people cannot be drawn"):
        trace_adaptation(_personalizer(embeddings), table, SCALE, shots=10, users=7)
    with pytest.raises(RatingError, match="shots is 0"):
        draw_tasks(table, SCALE, shots=0)


def test_the_command(table_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run on a small random backbone, traced for more than its epochs; nobody it was trained on is."""
    small = ["network.backbone=timm/test_resnet", "network.size=32", "network.head.hidden=[8]"]
    small += ["schedule.iterations=2", "fine_tuning.epochs=2", "network.head.standardize=false"]
    workshop = Workshop("head", tmp_path / "cache", Backbone(untrained=True))
    split = split_dataset(read_dataset("table", table_folder), train_groups=["a", "b"], test_groups=["c"])
    config = MetaConfig.load("ba", small)
    run = train(config, split, tmp_path / "run", workshop)
    output = tmp_path / "trace.json"
    given = ["--shots", "10", "--users", "3", "--epochs", "4", "--cache", str(tmp_path / "cache")]
    given += ["--untrained", "--threads", "1"]
    folders = (str(run.folder), str(table_folder), str(output))
    assert _run(monkeypatch, "trace", *folders, *given) == 1  # with the groups trained on
    assert not output.exists()
    assert _run(monkeypatch, "trace", *folders, *given, "--groups", "c") == 0
    trace = AdaptationTrace.load(output)
    assert (trace.method, trace.epochs, len(trace.users)) == (config.title, 4, 3)
    assert trace.facts["fine_tuning_epochs"] == 4
    table = read_dataset("table", table_folder, groups=["c"]).table
    longer = replace(config, fine_tuning=replace(config.fine_tuning, epochs=4))
    personalizer = load_personalizer(run, table, SCALE, workshop, config=longer)
    again = trace_adaptation(personalizer, table, SCALE, shots=10, users=3)
    assert [one["query_error"] for one in again.to_json()["users"]] == [
        one["query_error"] for one in trace.to_json()["users"]
    ]


def _run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["training", *arguments])
    with pytest.raises(SystemExit) as stop:
        program.main()
    return int(stop.value.code or 0)
