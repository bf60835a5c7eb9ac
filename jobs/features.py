"""spark-submit jobs/features.py ...: the same as `sparkml features`."""

import sys

from sparkml.cli import main

sys.argv[1:1] = ["features"]
main()
