"""A post that names a record says whose it is, in a field or in its words; nobody reports another's as a result."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.errors import RefusedError
from cluster.names import CAMPAIGN
from forum_actor.posts import Post
from forum_actor.render import index_line, render
from tests.unit.forum_actor.desk import Desk


@pytest.fixture
def team(desk: Desk) -> Desk:
    own = desk.records["rec-1"]
    for number, fields in {
        1: {"researcher": "01-a"},
        2: {"researcher": "02-b"},
        3: {"researcher": CAMPAIGN, "method": "vanilla"},
        4: {"researcher": "02-b", "status": "disqualified"},
    }.items():
        name = f"rec-{number:06d}"
        desk.records[name] = {**own, "record_id": name, **fields}
    return desk


def whose(post: dict[str, Any]) -> dict[str, str]:
    return {record["record_id"]: record["whose"] for record in post["records"]}


def page(post: dict[str, Any]) -> str:
    kept = Post.from_dict({name: value for name, value in post.items() if name != "held"})
    return render(kept) + index_line(kept, "x.md")


@pytest.mark.parametrize("record", ["rec-000002", "rec-000003", "rec-000004"])
def test_a_result_of_anothers_record_is_refused(team: Desk, record: str) -> None:
    with pytest.raises(RefusedError, match=f"{record} is of") as refused:
        team.post("1", "01-a", kind="result", record_ids=[record])
    assert refused.value.reason == "not_yours"
    assert team.forum.posts() == []


def test_a_result_may_quote_others_beside_its_own_and_says_whose_each_is(team: Desk) -> None:
    names = ["rec-000001", "rec-000002", "rec-000003", "rec-000004"]
    post = team.post("1", "01-a", kind="result", record_ids=names)
    assert whose(post) == dict(zip(names, ("own", "02-b", CAMPAIGN, "02-b"), strict=True))
    shown = page(post)
    for words in (
        "## Record rec-000001 (figures by the evaluator)\n",
        "## Record rec-000002 (figures by the evaluator: of 02-b, not of 01-a)",
        "## Record rec-000003 (figures by the evaluator: a baseline of the campaign, not of 01-a)",
        "## Record rec-000004 (figures by the evaluator: of 02-b, not of 01-a, disqualified)",
        "rec-000002: of 02-b, not of 01-a; rec-000003",
    ):
        assert words in shown


@pytest.mark.parametrize("body", ["My rec-000002 wins.", "I reached rec_2!", "see record 000002", "REC-2 is mine"])
def test_a_record_that_the_words_mention_is_shown_with_its_owner(team: Desk, body: str) -> None:
    for key, draft in enumerate(({"body": body}, {"title": body, "body": ""})):
        post = team.post(str(key), "01-a", **draft)
        assert whose(post) == {"rec-000002": "02-b"}
        assert post["status"] == "unverified claim"
        assert "of 02-b, not of 01-a" in page(post)


def test_a_reply_and_a_claim_are_no_way_around(team: Desk) -> None:
    first = team.post("1", "02-b", body="look")
    reply = team.post("2", "01-a", kind="reply", reply_to=first["id"], record_ids=["rec-000002"])
    claim = team.post("3", "01-a", kind="claim", title="x", idea="mine: rec-000002")
    assert [whose(post) for post in (reply, claim)] == [{"rec-000002": "02-b"}] * 2


def test_words_that_name_no_record_say_so(team: Desk) -> None:
    post = team.post("1", "01-a", body="rec-000099 reached 1.0")
    assert whose(post) == {"rec-000099": "nobody"}
    assert "there is no such record" in page(post)


def test_code_of_another_that_is_attached_names_who_pushed_it_first(team: Desk) -> None:
    sha = team.code.push("1", "02-b", {"method.py": "x = 1\n"}, None, "")
    assert team.code.push("1", "01-a", {"method.py": "x = 1\n"}, None, "mine, rec-000002") == sha
    assert "pushed first by 02-b" in page(team.post("1", "01-a", snapshot=sha))
    assert "pushed first" not in page(team.post("1", "02-b", snapshot=sha))


def test_a_post_of_an_earlier_version_still_says_whose_its_record_is() -> None:
    record = {"record_id": "rec-000002", "researcher": "02-b", "pgr": 0.5}
    old = Post("p-000001", 1, 0, "01-a", "result", "t", "b", ("rec-000002",), (record,))
    assert "of 02-b, not of 01-a" in render(old)
