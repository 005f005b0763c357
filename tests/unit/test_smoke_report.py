"""What a smoke test's report keeps to itself, and how it is laid out."""

import pytest

from infra.checks.lines import failed, not_checked, ok
from infra.smoke.report import Mask, markdown, summary

LINES = [ok("a", "fine"), failed("b", "it is\nbroken", "mend it"), not_checked("c", "nobody said")]


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("key s3cr3t-value!", "key ***"),
        ("arn:aws:iam::111122223333:role/x", "arn:aws:iam::********3333:role/x"),
        ("bucket kratix-documents-444455556666", "bucket kratix-documents-********6666"),
        ("https://sqs.us-east-1.amazonaws.com/111122223333/q", "https://sqs.us-east-1.amazonaws.com/********3333/q"),
        ("token k8s-aws-v1.aHR0cHM6Ly9zdHM", "token ***"),
        ("Authorization: Bearer abc.def", "Authorization: ***"),
        ("?X-Amz-Signature=0123abcd&x=1", "?X-Amz-Signature=***&x=1"),
        ("--uuid dcd5d6c7-3539-4fea-9c4b-283432032651", "--uuid dcd5d6c7-3539-4fea-9c4b-283432032651"),
        ("landfall-smoke-landfall-20261125T041120Z", "landfall-smoke-landfall-20261125T041120Z"),
    ],
)
def test_secrets_tokens_and_account_ids_are_masked(text: str, masked: str) -> None:
    mask = Mask()
    mask.hide("s3cr3t-value!", "x")  # too short to be anything but a letter of any word
    mask.account("444455556666")
    assert mask(text) == masked


def test_the_report_counts_and_puts_what_to_do_first() -> None:
    mask = Mask()
    mask.hide("broken")
    report = markdown("Title", {"stack": "s | t"}, {"Part": LINES}, mask)
    assert summary(LINES) == "1 failed, 1 ok, 1 not checked"
    assert report.splitlines() == [
        "# Title",
        "",
        "**1 failed, 1 ok, 1 not checked**",
        "",
        "| | |",
        "|---|---|",
        "| stack | s / t |",
        "",
        "## What to do",
        "",
        "1. **b**: mend it.",
        "",
        "## Part",
        "",
        "- ok: **a**: fine",
        "- **failed**: **b**: it is ***. Do: mend it",
        "- not checked: **c**: nobody said",
    ]
