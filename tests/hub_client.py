"""A process that pins or fetches a model of the Hub: what `test_resolve.client` runs.

python hub_client.py REF PINS fetch|pin
"""

import importlib
import json
import sys
from pathlib import Path

from huggingface_hub import constants

from kdstudy.config.schema import ModelRef
from kdstudy.models.fetch import fetch
from kdstudy.models.resolve import resolve

if __name__ == "__main__":
    importlib.reload(constants)  # read before this process was forked and had its environment
    ref, pins = json.loads(sys.argv[1]), json.loads(sys.argv[2])
    found = resolve(ModelRef(**ref), Path(), pins)
    folder = fetch(found.local()) if sys.argv[3] == "fetch" else None
    print(json.dumps([found.name, found.fingerprint, str(folder), pins]))
