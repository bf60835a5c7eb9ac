"""spark-submit jobs/pipeline.py PIPELINE [--env E] [--from STAGE] ...: the same as `sparkml run`."""

import sys

from sparkml.cli import main

sys.argv[1:1] = ["run"]
main()
