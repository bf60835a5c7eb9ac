"""spark-submit jobs/register.py ...: the same as `sparkml register`."""

import sys

from sparkml.cli import main

sys.argv[1:1] = ["register"]
main()
