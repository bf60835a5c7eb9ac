import os
import subprocess
import sys


def test_a_quick_import_leaves_later_imports_and_the_collector_as_they_were():
    code = """
import gc, sys
from sparkml.learners.framework import quick_import
quick_import("keras")
assert gc.isenabled() and gc.get_freeze_count() > 0
assert "keras" in sys.modules and "tensorflow" in sys.modules
assert "sklearn" not in sys.modules and "matplotlib" not in sys.modules  # neither imported nor in the way
import matplotlib, sklearn
frozen = gc.get_freeze_count()
quick_import("keras")
assert gc.get_freeze_count() == frozen  # what was made since can be collected
quick_import("wave")
assert sys.modules["sklearn"] is sklearn and sys.modules["matplotlib"] is matplotlib
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120, env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"})
