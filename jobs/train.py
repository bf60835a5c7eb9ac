"""spark-submit jobs/train.py ...: the same as `sparkml train`."""

import sys

from sparkml.cli import main

sys.argv[1:1] = ["train"]
main()
