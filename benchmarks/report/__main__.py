"""`python -m benchmarks.report`."""

import sys

from benchmarks.report.writing import main

sys.exit(main())
