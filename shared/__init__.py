"""The core that every Landfall function shares; ARCHITECTURE.md says what each module is for."""

import os
from pathlib import Path

# In artifacts alone (infra/artifacts.py). Libraries that were compiled for another processor are not found, and Python
# would name a module that is there for all to see.
_BUILT_FOR = Path(__file__).with_name("architecture.txt")

if _BUILT_FOR.exists() and (_built_for := _BUILT_FOR.read_text()) != os.uname().machine:
    raise ImportError(
        f"this artifact was built for {_built_for}, and the function runs on {os.uname().machine}: build and deploy for"
        " the same one (environment variable ARCHITECTURE of `sam build`, parameter Architecture of `sam deploy`)"
    )
