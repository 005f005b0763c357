"""Sizes and numbers that AWS refuses or silently cuts, and that neither moto, cfn-lint nor checkov looks at.

The template is read as SAM transforms it, with its parameters put in: the defaults, and everything at its longest. Each
rule names its source. tests/infra/test_aws_rules.py and test_aws_parameters.py have the rest.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from infra.artifacts import functions
from tests.infra.resolved import ACCOUNT, Resolver

Resources = dict[str, dict[str, Any]]

# What stands before a function's name takes the rest of Lambda's 64 characters (docs/deployment.md, "What you need").
LONGEST_STACK = "s" * (64 - 1 - max(map(len, functions())))
MANY = 30  # clusters, roles, secrets, buckets, keys: what the policies have to hold at least
KEY = f"arn:aws:kms:ap-southeast-1:{ACCOUNT}:key/12345678-1234-1234-1234-1234567890"


def listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def many(arn: str) -> str:
    return ",".join(arn.format(function="{function}", number=number) for number in range(10, 10 + MANY))


def longest(template: Mapping[str, Any]) -> dict[str, str]:
    """Return parameters with which everything is there, and as long as it can be."""
    lists = {
        "EksClusterArns": many(
            f"arn:aws:eks:ap-southeast-1:{ACCOUNT}:cluster/a-production-cluster-of-this-team-{{number}}"
        ),
        "ClusterRoleArns": many("arn:aws:iam::1111222233{number}:role/platform/landfall-{function}"),
        "ClusterSecretArns": many(
            f"arn:aws:secretsmanager:ap-southeast-1:{ACCOUNT}:secret:landfall/{{function}}/edge-location-{{number}}-??????"
        ),
        "IamBucketArns": many("arn:aws:s3:::the-documents-of-a-team-in-ap-southeast-1-{number}"),
        "IamObjectArns": many("arn:aws:s3:::the-documents-of-a-team-in-ap-southeast-1-{number}/destinations/*"),
        "KmsKeyArns": many(f"{KEY}{{number}}"),
        "VpcSubnetIds": many("subnet-0123456789abcde{number}"),
        "VpcSecurityGroupIds": "sg-0123456789abcdef0,sg-0123456789abcdef1",
    }
    clusters = ", ".join(f'"edge-{n}": {{"kubeconfigSecret": "landfall/{{function}}/edge-{n}"}}' for n in range(200))
    texts = {
        "Clusters": f"{{{clusters}",
        "ClusterName": "c" * 128,
        "AllowedNetworks": "10.20.30.0/24, " * 400,
    }
    # A parameter's value has 4,096 bytes where it says nothing else.
    # https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/cloudformation-limits.html
    cut = {name: text[: template["Parameters"][name].get("MaxLength", 4096)] for name, text in texts.items()}
    options = {
        "EksClusterName": "e" * 100,
        "EncryptionKey": "create",
        "PermissionsBoundaryArn": f"arn:aws:iam::{ACCOUNT}:policy/boundary",
        "AlarmTopicArn": f"arn:aws:sns:ap-southeast-1:{ACCOUNT}:pager",
        "Tracing": "Active",
    }
    return {name: value for name, value in {**lists, **cut, **options}.items() if name in template["Parameters"]}


@pytest.fixture(scope="module", params=["defaults", "longest"])
def resources(request: pytest.FixtureRequest, transformed: dict[str, Any]) -> Resources:
    given = longest(transformed) if request.param == "longest" else {}
    return Resolver(transformed, LONGEST_STACK, given, region="ap-southeast-1").resources()


def of_type(resources: Resources, type_: str) -> dict[str, dict[str, Any]]:
    found = {id_: resource["Properties"] for id_, resource in resources.items() if resource["Type"] == type_}
    assert found, f"there is no {type_}"
    return found


def compact(document: Any) -> int:
    """Return the characters of a policy as IAM counts them, without white space."""
    return len(json.dumps(document, separators=(",", ":")))


def test_a_queues_policy_is_of_one_queue_and_each_statement_names_that_queue_alone(resources: Resources) -> None:
    # "Each policy must cover only a single queue": a policy with another queue's ARN is refused when it is set.
    # https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-creating-custom-policies.html
    # http://docs.amazonwebservices.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/AccessPolicyLanguage_SpecialInfo.html
    queues = of_type(resources, "AWS::SQS::Queue").values()
    urls = {f"https://sqs.ap-southeast-1.amazonaws.com/{ACCOUNT}/{queue['QueueName']}" for queue in queues}
    with_policy = []
    for policy in of_type(resources, "AWS::SQS::QueuePolicy").values():
        assert len(policy["Queues"]) == 1
        arn = f"arn:aws:sqs:ap-southeast-1:{ACCOUNT}:{policy['Queues'][0].rpartition('/')[2]}"
        assert [s["Resource"] for s in policy["PolicyDocument"]["Statement"]] == [arn] * len(
            policy["PolicyDocument"]["Statement"]
        )
        with_policy += policy["Queues"]
    # A second policy of one queue would replace the first.
    assert sorted(with_policy) == sorted(urls)


def test_a_queues_policy_keeps_to_sqss_quotas(resources: Resources) -> None:
    # https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-policies.html
    for policy in of_type(resources, "AWS::SQS::QueuePolicy").values():
        statements = policy["PolicyDocument"]["Statement"]
        assert len(json.dumps(policy["PolicyDocument"]).encode()) <= 8192
        assert len(statements) <= 20
        assert sum(len(keys) for s in statements for keys in s.get("Condition", {}).values()) <= 10
        principals = [list(s["Principal"].values()) if isinstance(s["Principal"], dict) else ["*"] for s in statements]
        assert sum(len(listed(each)) for several in principals for each in several) <= 50
        assert all(len(listed(s["Action"])) <= 7 for s in statements)
        sids = [s["Sid"] for s in statements]
        assert len(set(sids)) == len(sids)


def test_iam_policies_fit_with_many_clusters_buckets_and_keys(resources: Resources) -> None:
    # https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_iam-quotas.html
    for id_, policy in of_type(resources, "AWS::IAM::ManagedPolicy").items():
        assert compact(policy["PolicyDocument"]) <= 6144, id_
    for id_, role in of_type(resources, "AWS::IAM::Role").items():
        assert sum(compact(policy["PolicyDocument"]) for policy in role.get("Policies", [])) <= 10_240, id_
        assert compact(role["AssumeRolePolicyDocument"]) <= 2048, id_
        assert len(role.get("ManagedPolicyArns", [])) <= 10, id_


def test_iam_policies_have_statements_and_sids_that_iam_takes(resources: Resources) -> None:
    # https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_elements_sid.html: letters and digits alone.
    documents = [policy["PolicyDocument"] for policy in of_type(resources, "AWS::IAM::ManagedPolicy").values()]
    for role in of_type(resources, "AWS::IAM::Role").values():
        documents += [policy["PolicyDocument"] for policy in role.get("Policies", [])]
    for document in documents:
        assert document["Statement"]
        sids = [s["Sid"] for s in document["Statement"] if "Sid" in s]
        assert [sid for sid in sids if not re.fullmatch("[A-Za-z0-9]+", sid)] == []
        assert len(set(sids)) == len(sids)
        assert all(resource for s in document["Statement"] for resource in listed(s["Resource"])), "an empty resource"


# The longest name, or description, of each: the service's API reference, at the operation that creates it.
LENGTHS = {
    # https://docs.aws.amazon.com/lambda/latest/api/API_CreateFunction.html
    ("AWS::Lambda::Function", "FunctionName"): (64, r"[A-Za-z0-9_-]+"),
    ("AWS::Lambda::Function", "Description"): (256, r".*"),
    # https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_CreateQueue.html (no FIFO queues here)
    ("AWS::SQS::Queue", "QueueName"): (80, r"[A-Za-z0-9_-]+"),
    # https://docs.aws.amazon.com/sns/latest/api/API_CreateTopic.html
    ("AWS::SNS::Topic", "TopicName"): (256, r"[A-Za-z0-9_-]+"),
    # https://docs.aws.amazon.com/eventbridge/latest/APIReference/API_CreateEventBus.html
    ("AWS::Events::EventBus", "Name"): (256, r"[/._A-Za-z0-9-]+"),
    # https://docs.aws.amazon.com/eventbridge/latest/APIReference/API_PutRule.html
    ("AWS::Events::Rule", "Description"): (512, r".*"),
    # https://docs.aws.amazon.com/scheduler/latest/APIReference/API_CreateSchedule.html
    ("AWS::Scheduler::Schedule", "Name"): (64, r"[0-9A-Za-z_.-]+"),
    # https://docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/API_CreateLogGroup.html
    ("AWS::Logs::LogGroup", "LogGroupName"): (512, r"[._/#A-Za-z0-9-]+"),
    # https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/API_PutMetricAlarm.html
    ("AWS::CloudWatch::Alarm", "AlarmName"): (255, r".+"),
    ("AWS::CloudWatch::Alarm", "AlarmDescription"): (1024, r".+"),
    # https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/API_PutDashboard.html
    ("AWS::CloudWatch::Dashboard", "DashboardName"): (255, r"[A-Za-z0-9_-]+"),
    # https://docs.aws.amazon.com/IAM/latest/APIReference/API_CreatePolicy.html
    ("AWS::IAM::ManagedPolicy", "Description"): (1000, r".*"),
    # https://docs.aws.amazon.com/kms/latest/APIReference/API_CreateAlias.html
    ("AWS::KMS::Alias", "AliasName"): (256, r"alias/[a-zA-Z0-9/_-]+"),
}


@pytest.mark.parametrize(("type_", "name"), LENGTHS, ids=[" ".join(key) for key in LENGTHS])
def test_names_and_descriptions_fit_with_the_longest_name_of_a_stack(
    transformed: dict[str, Any], type_: str, name: str
) -> None:
    resources = Resolver(transformed, LONGEST_STACK, longest(transformed)).resources()
    most, pattern = LENGTHS[type_, name]
    for id_, properties in of_type(resources, type_).items():
        assert len(properties[name]) <= most, id_
        assert re.fullmatch(pattern, properties[name]), id_


def test_a_functions_environment_fits_with_the_longest_parameters(resources: Resources) -> None:
    # 4 KB in all, and what is measured is the map as JSON.
    # https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html
    for id_, function in of_type(resources, "AWS::Lambda::Function").items():
        assert len(json.dumps(function["Environment"]["Variables"]).encode()) <= 4096, id_


def test_a_functions_settings_are_in_lambdas_bounds(resources: Resources) -> None:
    # https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html
    for function in of_type(resources, "AWS::Lambda::Function").values():
        assert 1 <= function["Timeout"] <= 900
        assert 128 <= function["MemorySize"] <= 10_240
        # An account's last 100 cannot be reserved, and one with a quota of 10 can reserve none.
        # https://docs.aws.amazon.com/lambda/latest/dg/configuration-concurrency.html
        assert "ReservedConcurrentExecutions" not in function


def mappings(resources: Resources) -> Iterator[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]]:
    """Yield each event source mapping with its function and its queue."""
    functions_ = {f["FunctionName"]: f for f in of_type(resources, "AWS::Lambda::Function").values()}
    queues = {queue["QueueName"]: queue for queue in of_type(resources, "AWS::SQS::Queue").values()}
    for mapping in of_type(resources, "AWS::Lambda::EventSourceMapping").values():
        queue = queues[mapping["EventSourceArn"].rpartition(":")[2]]
        yield mapping, functions_[mapping["FunctionName"]], queue


def test_a_queue_hides_messages_six_times_as_long_as_its_function_may_take(resources: Resources) -> None:
    # Less than the function's timeout is refused; AWS recommends six times.
    # https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-configure.html
    for mapping, function, queue in mappings(resources):
        window = mapping.get("MaximumBatchingWindowInSeconds", 0)
        assert queue["VisibilityTimeout"] >= 6 * function["Timeout"] + window
        # https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SetQueueAttributes.html
        assert queue["VisibilityTimeout"] <= 43_200
        # A batch of more than ten needs a window.
        # https://docs.aws.amazon.com/lambda/latest/api/API_CreateEventSourceMapping.html
        assert mapping["BatchSize"] <= (10_000 if window else 10)


def test_the_template_keeps_to_cloudformations_quotas(transformed: dict[str, Any]) -> None:
    # https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/cloudformation-limits.html
    assert len(transformed["Resources"]) <= 500
    assert len(transformed["Parameters"]) <= 200
    assert len(transformed["Outputs"]) <= 200
    assert len(transformed["Description"].encode()) <= 1024
    assert len(json.dumps(transformed).encode()) <= 1_000_000  # from S3, where SAM puts it
    for parameter in transformed["Parameters"].values():
        assert len(parameter["Description"]) <= 4000
    # Fn::And and Fn::Or take two to ten conditions.
    # https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/intrinsic-function-reference-conditions.html
    several = [len(each) for each in found(transformed, {"Fn::And", "Fn::Or"})]
    assert several
    assert all(2 <= number <= 10 for number in several)


def found(node: Any, keys: set[str]) -> Iterator[Any]:
    """Yield what stands under keys, at any depth."""
    for key, value in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        if key in keys:
            yield value
        yield from found(value, keys)


def test_a_keys_policy_fits(transformed: dict[str, Any]) -> None:
    # https://docs.aws.amazon.com/kms/latest/developerguide/resource-limits.html
    resources = Resolver(transformed, LONGEST_STACK, {"EncryptionKey": "create"}).resources()
    for key in of_type(resources, "AWS::KMS::Key").values():
        assert len(json.dumps(key["KeyPolicy"]).encode()) <= 32_768


def test_queues_keep_messages_as_long_as_sqs_can_and_are_retried_before_they_are_put_aside(
    resources: Resources,
) -> None:
    # https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SetQueueAttributes.html
    queues = {queue["QueueName"]: queue for queue in of_type(resources, "AWS::SQS::Queue").values()}
    for queue in queues.values():
        kept = queue.get("MessageRetentionPeriod", 345_600)
        assert 60 <= kept <= 1_209_600
        assert queue.get("DelaySeconds", 0) <= 900
        if redrive := queue.get("RedrivePolicy"):
            # Five at least, so that throttling alone puts nothing aside.
            # https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-configure.html
            assert 5 <= redrive["maxReceiveCount"] <= 1000
            dead = queues[redrive["deadLetterTargetArn"].rpartition(":")[2]]
            # A message's time goes on in the dead-letter queue.
            # https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-dead-letter-queues.html
            assert dead["MessageRetentionPeriod"] > kept
            assert len(dead["RedriveAllowPolicy"]["sourceQueueArns"]) <= 10
