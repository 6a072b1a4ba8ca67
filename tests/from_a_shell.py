"""The command line as a shell starts it, for calls whose environment speaks to the Hub's client."""

import importlib

from huggingface_hub import constants

from kdstudy.cli import main

if __name__ == "__main__":
    importlib.reload(constants)  # read before this process was forked and had its environment
    main()
