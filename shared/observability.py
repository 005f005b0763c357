"""Logs, metrics and traces, through Powertools.

Log records are JSON lines. Third-party loggers stay at WARNING whatever our own level is: kubernetes_asyncio and
botocore log whole bodies at DEBUG, Secrets included.
"""

import logging

from aws_lambda_powertools import Logger, Metrics, Tracer

SERVICE = "landfall"

logger = Logger(service=SERVICE)
metrics = Metrics(namespace="Landfall", service=SERVICE)
tracer = Tracer(service=SERVICE, auto_patch=False)

for _name in ("kubernetes_asyncio", "aiobotocore", "botocore", "aiohttp", "dulwich", "paramiko", "urllib3", "asyncio"):
    logging.getLogger(_name).setLevel(logging.WARNING)
