"""spark-submit jobs/score.py ...: the same as `sparkml score`."""

import sys

from sparkml.cli import main

sys.argv[1:1] = ["score"]
main()
