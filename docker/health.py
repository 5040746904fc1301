"""Whether the container's camera is well: exit code 0 where /health says so. Without edgeface: it runs twice a minute.

EDGEFACE_TOKEN lets it in. Where there is none the camera made a token of its own, which only its log has: then an
answer of 401 says that the page is served, and no more is known.
"""

from __future__ import annotations

import os
import sys
import urllib.error
import urllib.request

ADDRESS = "http://127.0.0.1:8485/health"
TIMEOUT_S = 4.0
UNAUTHORISED = 401


def main(address: str = ADDRESS) -> int:
    """0 where the camera is well, 1 where not, which it says."""
    token = os.environ.get("EDGEFACE_TOKEN")
    request = urllib.request.Request(address, headers={"Authorization": f"Bearer {token}"} if token else {})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S):
            return 0
    except urllib.error.HTTPError as error:
        if error.code == UNAUTHORISED and not token:
            return 0
        said = error.read(1000).decode(errors="replace").strip() or str(error)
    except OSError as error:
        said = str(error)
    sys.stdout.write(f"{said}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
