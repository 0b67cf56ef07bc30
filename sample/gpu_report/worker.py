"""The process of a part: `python -m sample.gpu_report.worker MODULE`; a request on standard input, results as JSON lines."""

from __future__ import annotations

import sys
import traceback
from importlib import import_module

from sample.gpu_report import channel


def main() -> int:
    request, reporter = channel.begin()
    try:
        import_module(sys.argv[1]).measure(request, reporter)
    except Exception as e:
        traceback.print_exc()
        reporter.error(e)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
