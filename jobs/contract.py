"""spark-submit jobs/contract.py ...: the same as `sparkml contract`."""

import sys

from sparkml.cli import main

sys.argv[1:1] = ["contract"]
main()
