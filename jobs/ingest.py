"""spark-submit jobs/ingest.py ...: the same as `sparkml ingest`."""

import sys

from sparkml.cli import main

sys.argv[1:1] = ["ingest"]
main()
