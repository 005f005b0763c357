"""The table of what each function may do in AWS, as the security page shows it."""

from pathlib import Path
from typing import Any

from infra.deployment.iam import Grant, grants, table
from infra.deployment.tables import table_in


def test_every_statement_of_the_deployment_is_in_the_table(transformed: dict[str, Any]) -> None:
    found = grants(transformed)
    assert (
        Grant("resync", "Logs", "Allow", ("logs:CreateLogStream", "logs:PutLogEvents"), ("ResyncLogs",), (), "")
        in found
    )
    network = [g for g in found if g.who == "cleanup" and g.only_if == ("InVpc",)]
    assert [(g.effect, g.only_when != "") for g in network] == [("Allow", False), ("Deny", True)]
    buckets = {g.who for g in found if "s3:PutObject" in g.actions}
    assert buckets == {"write-canary", "write-documents", "cleanup"}
    assert {g.who for g in found if g.actions == ("events:PutEvents",)} == {"ForwarderPolicy"}
    assert {g.who for g in found if g.actions == ("lambda:InvokeFunction",)} == {"ResyncFunctionScheduleRole"}


ROLES = {
    "Resources": {
        "F": {
            "Type": "AWS::Lambda::Function",
            "Properties": {"FunctionName": {"Fn::Sub": "${AWS::StackName}-f"}, "Role": {"Fn::GetAtt": ["R", "Arn"]}},
        },
        "R": {
            "Type": "AWS::IAM::Role",
            "Properties": {
                "ManagedPolicyArns": [
                    {"Fn::If": ["IsTraced", {"Ref": "P"}, {"Ref": "AWS::NoValue"}]},
                    "arn:aws:iam::aws:policy/ReadOnlyAccess",
                ],
                "Policies": [
                    {
                        "PolicyDocument": {
                            "Statement": [
                                {
                                    "Sid": "Logs",
                                    "Effect": "Allow",
                                    "Action": "logs:PutLogEvents",
                                    "Resource": {"Ref": "L"},
                                },
                                {
                                    "Fn::If": [
                                        "A",
                                        {
                                            "Fn::If": [
                                                "B",
                                                {"Ref": "AWS::NoValue"},
                                                {"Effect": "Deny", "Action": "a:*", "Resource": "*"},
                                            ]
                                        },
                                        {"Ref": "AWS::NoValue"},
                                    ]
                                },
                            ]
                        }
                    }
                ],
            },
        },
        "P": {
            "Type": "AWS::IAM::ManagedPolicy",
            "Properties": {
                "PolicyDocument": {"Statement": [{"Effect": "Allow", "Action": ["x:Put"], "Resource": ["*"]}]}
            },
        },
    }
}


def test_conditions_managed_policies_and_denials_are_told() -> None:
    assert table(grants(ROLES)).splitlines() == [
        "| who | may | on | only if |",
        "|---|---|---|---|",
        "| every function | `logs:PutLogEvents` | `L` |  |",
        "| every function | **never** `a:*` | `*` | A and not B |",
        "| every function | `x:Put` | `*` | IsTraced |",
        "| every function | `arn:aws:iam::aws:policy/ReadOnlyAccess` | `*` |  |",
    ]


def test_the_security_page_has_this_very_table(transformed: dict[str, Any]) -> None:
    page = Path("docs/security.md").read_text()
    assert table_in(page, "iam") == table(grants(transformed)), "run: make tables"
