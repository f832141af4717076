"""Which tests failed, from pytest's own note in its cache folder; prints them loudly. Exit code 0: run them once more.

A loaded machine can fail a test that is right, and a second run tells the two apart: what fails twice has failed. Not
when many have failed: that is no noise.
"""

import json
import sys
from pathlib import Path

TESTS_MAX = 20


def main(cache: Path) -> int:
    note = cache / "v" / "cache" / "lastfailed"
    failed = sorted(json.loads(note.read_text())) if note.exists() else []
    if not failed:
        print("the tests did not run to their end, so there is nothing to run again")
        return 1
    print(f"!!!! {len(failed)} FAILED IN THE FIRST RUN:")
    for name in failed:
        print(f"!!!!   {name}")
    if len(failed) > TESTS_MAX:
        print(f"!!!! more than {TESTS_MAX}: no second run")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
