"""Log lines as Lambda and CloudWatch read them, each in a process of its own because loggers are made at import."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = """
import logging, os, sys
# As Lambda's runtime client does, before it imports a handler.
root = logging.StreamHandler(sys.stdout)
root.setFormatter(logging.Formatter('{"message": "%(message)s"}'))
logging.getLogger().addHandler(root)
logging.getLogger().setLevel(os.environ.get("AWS_LAMBDA_LOG_LEVEL", "INFO"))
from shared.observability import count_in_cluster, flush_measured, logger
for level in ("debug", "info", "warning", "error"):
    getattr(logger, level)(level)
    getattr(logging.getLogger("a.library"), level)("library " + level)
count_in_cluster("production", {"Destinations": 3})
flush_measured()
"""


def lines(**environment: str) -> list[dict[str, Any]]:
    """Return what a function writes to its log, with these variables and nothing else."""
    known = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "POWERTOOLS_SERVICE_NAME": "landfall"}
    command = [sys.executable, "-W", "error", "-c", PROGRAM]
    done = subprocess.run(command, env={**known, **environment}, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


LEVELS = {
    "DEBUG": ["debug", "info", "warning", "error"],
    "INFO": ["info", "warning", "error"],
    "WARN": ["warning", "error"],
    "WARNING": ["warning", "error"],
    "ERROR": ["error"],
}


@pytest.mark.parametrize("level", LEVELS)
def test_a_level_filters_our_records_and_no_metrics(level: str) -> None:
    # As the template sets both: Lambda's own level is never above INFO.
    written = lines(POWERTOOLS_LOG_LEVEL=level, AWS_LAMBDA_LOG_LEVEL="DEBUG" if level == "DEBUG" else "INFO")
    messages = [line["message"] for line in written if "_aws" not in line]
    assert [message for message in messages if not message.startswith("library")] == LEVELS[level]
    assert [message for message in messages if message.startswith("library")] == ["library warning", "library error"]
    metrics = [line for line in written if "_aws" in line]
    assert [(line.get("cluster"), line["Destinations"]) for line in metrics] == [("production", [3.0]), (None, [3.0])]


def test_records_have_the_timestamps_and_levels_that_lambda_reads() -> None:
    # https://docs.aws.amazon.com/lambda/latest/dg/monitoring-cloudwatchlogs-log-level.html
    records = [line for line in lines() if "timestamp" in line]
    assert [record["level"] for record in records] == ["INFO", "WARNING", "ERROR"]
    for record in records:
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d", record["timestamp"])
