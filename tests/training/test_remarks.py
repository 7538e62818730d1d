"""What stands under a table: on whom it was measured, and what flatters or weakens its figures."""

from __future__ import annotations

from evaluations import make_evaluation

from training.remarks import remarks_on


def test_a_table_says_on_whom_it_was_measured_and_that_few_users_say_little() -> None:
    judged = [make_evaluation("a", 0.5), make_evaluation("b", 0.4)]
    assert remarks_on(judged) == [
        "Judged on some-photographs: 3 users, 40 pictures; repeats 2, seed 0. Intervals over 3 users say "
        "little."
    ]


def test_people_who_were_drawn_are_said_to_be() -> None:
    [remark] = remarks_on([make_evaluation("a", 0.5, users=50, drawn_users=3)])
    assert remark.startswith("Judged on some-photographs: 3 users drawn from 50, 40 pictures")


def test_each_data_set_has_a_line() -> None:
    judged = [make_evaluation("a", 0.5), make_evaluation("a", 0.5, data="others", seed=4)]
    assert [remark.partition(":")[0] for remark in remarks_on(judged)] == [
        "Judged on some-photographs",
        "Judged on others",
    ]
    assert "seed 4" in remarks_on(judged)[1]


def test_where_attributes_and_personality_come_from_is_said() -> None:
    with_labels = {"system": "pa_iaa", "attributes": "hand-computed", "personality": "0123456789"}
    remarks = remarks_on([make_evaluation("PA_IAA", 0.5, facts=with_labels)])
    assert remarks[1:] == [
        "Attributes of the compared systems: hand-computed.",
        "Personality labels of PA_IAA: those with the digest 01234567.",
    ]
    without = remarks_on([make_evaluation("PA_IAA", 0.5, facts=with_labels | {"personality": None})])
    assert without[2].startswith("PA_IAA had no images with personality labels")


def test_what_flatters_figures_is_said() -> None:
    assert "too good" in remarks_on([make_evaluation("a", 0.5, facts={"leak_kept": True})])[1]
    assert "too good" in remarks_on([make_evaluation("a", 0.5, facts={"seen_people": 1})])[1]
    assert len(remarks_on([make_evaluation("a", 0.5, facts={"leak_kept": False, "seen_people": 0})])) == 1
