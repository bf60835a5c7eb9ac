"""spark-submit jobs/evaluate.py ...: the same as `sparkml evaluate`."""

import sys

from sparkml.cli import main

sys.argv[1:1] = ["evaluate"]
main()
