"""A client of a Hub that does what a test says."""

import json
import os
from pathlib import Path

import forked

# huggingface_hub reads its endpoint when it is imported, so the client is a process of its own.
CLIENT = Path(__file__).parent / "hub_client.py"


def client(endpoint, cache, ref, pins=None, fetch=True):
    environment = os.environ | {"HF_ENDPOINT": endpoint, "HF_HOME": str(cache)}
    environment |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    call = (json.dumps(ref), json.dumps(pins or {}), "fetch" if fetch else "pin")
    done = forked.Running(call, None, environment, CLIENT).end()
    return json.loads(done.stdout) if done.returncode == 0 else done.stderr
