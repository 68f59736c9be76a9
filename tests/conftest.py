"""One torch thread everywhere: results depend on the number, and two busy pools of threads on two cores crawl."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")
